//! What the fuzz targets in `fuzz/` do with arbitrary bytes; a test replays their corpus through the same functions.
//!
//! Each panics where an invariant does not hold.

use bytes::Bytes;

use crate::admin::console::command::{self, Command};
use crate::auth::scram::Verifier;
use crate::auth::scram::client::{Binding, Client};
use crate::auth::scram::server::{Offered, Server};
use crate::auth::stored::userlist;
use crate::auth::{Credential, Password, pgpass};
use crate::config::{Settings, Upstream, Written};
use crate::import::{self, ini::Ini};
use crate::track::{SqlEffects, names, prefilter, session_command, sql, sql_effects};
use crate::wire::{Frames, backend, frame, frontend, startup};

/// Frames never overlap, never exceed the limit and never leave the input.
///
/// # Panics
/// When they do.
pub fn frames(bytes: &[u8]) {
    let limit = bytes.first().map_or(0, |&b| usize::from(b) * 8);
    let input = bytes.get(1..).unwrap_or_default();
    let mut walked = 0;
    let mut frames = Frames::new(input, limit);
    while let Some(Ok(frame)) = frames.next() {
        assert!(frame.bytes.len() >= frame::HEADER && frame.bytes.len() <= limit + 1);
        assert_eq!(frame.bytes, &input[walked..walked + frame.bytes.len()]);
        walked += frame.bytes.len();
    }
    assert_eq!(frames.rest(), &input[walked..]);
}

/// Opening packets are read or refused.
///
/// # Panics
/// When a packet that is taken says other than its bytes.
pub fn startup(bytes: &[u8]) {
    let Ok(Some(size)) = startup::size(bytes) else { return };
    let Some(packet) = bytes.get(..size) else { return };
    if let Ok(crate::wire::Opening::Startup(read)) = startup::parse(&Bytes::copy_from_slice(packet)) {
        let mut again = Vec::new();
        let params = read.params.iter().map(|(name, value)| (&**name, &**value));
        frontend::put_startup(&mut again, 0, params);
        let Ok(crate::wire::Opening::Startup(reread)) = startup::parse(&again.into()) else {
            panic!("written, not read")
        };
        assert_eq!(read.params, reread.params);
    }
}

/// Views of message bodies.
///
/// # Panics
/// When one claims more than there is.
pub fn messages(bytes: &[u8]) {
    let Some((&field, body)) = bytes.split_first() else { return };
    let _ = frontend::query(body);
    let _ = frontend::parse(body);
    let _ = frontend::password(body);
    let _ = frontend::sasl_initial(body);
    let _ = frontend::target(body);
    let _ = frontend::execute(body);
    if let Some(bind) = frontend::bind(body) {
        assert!(bind.formats.len() * 2 <= body.len(), "no more formats than there are bytes for");
    }
    let _ = backend::error_field(body, field);
    let _ = backend::is_fatal(body);
    let _ = backend::parameter_status(body);
    let _ = backend::command_tag(body);
    let _ = backend::key_data(body);
    let mut out = Vec::new();
    backend::put_error_as_fatal(&mut out, body);
    let _ = backend::columns(body);
    let _ = names::about(field, body);
}

/// The analysis of SQL ends, a statement that is said again is still one, and the quick pass keeps back what matters.
///
/// # Panics
/// When it does not.
pub fn sql(bytes: &[u8]) {
    for backslashes in [false, true] {
        assert!(sql::Tokens::new(bytes, backslashes).count() <= bytes.len());
        let effects = sql_effects::analyze_tokens(bytes, backslashes);
        assert!(!prefilter::is_stateless(bytes) || effects == SqlEffects::default());
        let mut end = 0;
        for placed in effects.commands.iter().flat_map(|commands| commands.iter()) {
            assert!(end <= placed.end && placed.end <= bytes.len());
            end = placed.end;
        }
    }
    if let Some(session_command::SessionCommand::Set { text, .. }) = session_command::of_sql(bytes) {
        // It is said again on other connections, with others behind it.
        let again = [&text, &b";reset x"[..]].concat();
        assert!(session_command::of_sql(&text).is_some() && session_command::of_sql(&again).is_none());
    }
}

/// Commands at the console are understood or refused.
///
/// # Panics
/// When one that only looks has the tag of one that acts.
pub fn console(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for statement in command::statements(&text) {
        if let Ok(command) = Command::parse(statement) {
            let looks = matches!(command.tag().as_str(), "SHOW" | "SET" | "");
            assert!(looks || !command.only_looks(), "{command:?}");
        }
    }
}

/// PgBouncer's files are read or refused.
pub fn ini(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut ini = Ini::default();
    if ini.text("fuzz.ini", &text, &mut |_, _| Ok(())).is_ok() {
        for entry in &ini.entries {
            let _ = import::ini::words(&entry.value);
        }
    }
}

/// Connection strings are read or refused, and never show their password.
///
/// # Panics
/// When one does.
pub fn url(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(mut upstream) = Upstream::parse(&text) {
        let shown = upstream.to_string();
        if upstream.password.is_some() {
            upstream.password = Some(Password::new(b"another".to_vec()));
            assert_eq!(upstream.to_string(), shown, "what is shown does not depend on the password");
        }
    }
}

/// Configuration files are understood or refused with a place.
///
/// # Panics
/// When a mistake has no place.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut written = Written::default();
    match written.file_text("f", &text) {
        Ok(()) => {
            let _ = Settings::resolve(&written);
        }
        Err(error) => assert!(error.place.is_some(), "{error}"),
    }
}

/// SCRAM's halves with an attacker at the other end, who does not know the password.
///
/// # Panics
/// When that is enough.
pub fn scram(bytes: &[u8]) {
    let parts: Vec<_> = bytes.splitn(3, |b| *b == 0).collect();
    let [first, last, server] = parts.as_slice() else { return };
    let verifier = Verifier::nobodys(vec![1; 16], 1, [9; 32]);
    for offered in [Offered::Plain, Offered::Plus(vec![5; 32], false), Offered::Plus(vec![5; 32], true)] {
        if let Ok(exchange) = Server::new(first, &offered, verifier.clone(), [2; 18]) {
            assert!(exchange.finish(last).is_err());
        }
    }
    // A server that asks for little work, so that many can be tried.
    if server.windows(4).any(|window| matches!(window, [b'i', b'=', b'0'..=b'9', b'0'..=b'9'])) {
        return;
    }
    let client = Client::new(Binding::None, [1; 18]);
    if let Ok((_, answered)) = client.answer(server, &Credential::Password(Password::new(b"secret".to_vec()))) {
        assert!(answered.finish(last).is_err());
    }
}

/// Stored secrets and the files they are in: what is read as a verifier is written as it was.
///
/// # Panics
/// When it is not.
pub fn secrets(bytes: &[u8]) {
    let wanted = pgpass::Wanted { host: "db", port: 5432, database: b"shop", user: b"app" };
    let _ = pgpass::look_up(bytes, &wanted);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = userlist(text);
    if let Some(verifier) = Verifier::parse(text) {
        assert_eq!(Verifier::parse(&verifier.show()), Some(verifier));
    }
}
