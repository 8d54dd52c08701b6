//! What the fuzz targets in `fuzz/` do with arbitrary bytes; a test replays their corpus through the same functions.
//!
//! Each panics where an invariant does not hold.

use std::fs::File;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};

use crate::admin::console::command::{self, Command};
use crate::admin::console_client;
use crate::admin::request::{self, Names};
use crate::auth::scram::Verifier;
use crate::auth::scram::client::{Binding, Client};
use crate::auth::scram::server::{Offered, Server};
use crate::auth::stored::userlist;
use crate::auth::{Credential, Password, pgpass};
use crate::config::{RawConfig, Settings, Upstream};
use crate::import::{self, ini::Ini};
use crate::net::InheritedListener;
use crate::track::lexis::Characters;
use crate::track::{Lexis, SqlEffects, message_target, prefilter, session_command, sql, sql_effects};
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
        assert!(frame.bytes.len() >= frame::HEADER_BYTES && frame.bytes.len() <= limit + 1);
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
    let _ = backend::values(body);
    let _ = message_target::target_of(field, body);
}

/// The analysis of SQL ends, a statement that is said again is still one, and the quick pass keeps back what matters.
///
/// # Panics
/// When it does not.
pub fn sql(bytes: &[u8]) {
    use Characters::{AsciiAlone, Pairs, ShiftJis};
    for (backslashes, characters) in [(false, AsciiAlone), (true, AsciiAlone), (false, Pairs), (true, ShiftJis)] {
        let lexis = Lexis { backslashes, characters };
        assert!(sql::Tokens::new(bytes, lexis).count() <= bytes.len());
        let effects = sql_effects::analyze_tokens(bytes, lexis);
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
    let mut written = RawConfig::default();
    match written.file_text("f", &text) {
        Ok(()) => {
            let _ = Settings::resolve(&written);
        }
        Err(error) => assert!(error.place.is_some(), "{error}"),
    }
}

/// SCRAM's halves with an attacker at the other end that does not know the password.
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
    let wanted = pgpass::PassfileKey { host: "db", port: 5432, database: b"shop", user: b"app" };
    let _ = pgpass::look_up(bytes, &wanted);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = userlist(text);
    if let Some(verifier) = Verifier::parse(text) {
        assert_eq!(Verifier::parse(&verifier.show()), Some(verifier));
    }
}

/// Requests to `admin_listen`: one that is answered is addressed to this machine, and nothing is changed by what a page of
/// another site could send. The input is a request's head.
///
/// # Panics
/// When it is not so.
pub fn http(bytes: &[u8]) {
    let mut lines = bytes.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    let mut words = lines.next().unwrap_or_default().split(|b| *b == b' ');
    let (Some(method), Some(uri)) = (words.next(), words.next()) else { return };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(uri)) else { return };
    let mut headers = HeaderMap::new();
    for line in lines.take(32) {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let names = Names::new(["pgferry.example".to_owned()]);
    let Ok(endpoint) = request::understand(&method, &uri, &headers, Some(&names)) else { return };
    for host in headers.get_all(HOST) {
        let host = host.to_str().expect("one that fits is text").to_ascii_lowercase();
        let known = ["localhost", "pgferry.example"].iter().any(|name| host.starts_with(name));
        assert!(known || host.starts_with(|c: char| c.is_ascii_hexdigit() || c == '[' || c == ':'), "{host}");
        assert!(!host.contains("evil") && !host.contains('@'), "{host}");
    }
    assert!(!endpoint.changes() || (method == Method::POST && headers.contains_key(request::ACTION.0)));
}

/// Checks what a process reads that takes over listeners: names that don't go with as many descriptors are refused, and rows
/// of a table are read within their bounds. The input is the number of descriptors, then names, one a line.
///
/// # Panics
/// When a listener without its descriptor is taken.
pub fn takeover(bytes: &[u8]) {
    let Some((&count, rest)) = bytes.split_first() else { return };
    let count = usize::from(count % 8);
    let descriptors = (0..count).map_while(|_| File::open("/dev/null").ok().map(OwnedFd::from)).collect::<Vec<_>>();
    let count = descriptors.len();
    let text = String::from_utf8_lossy(rest);
    let names: Vec<_> = text.lines().map(str::to_owned).collect();
    let wanted: usize = names.iter().map(|name| if name.starts_with('+') { 2 } else { 1 }).sum();
    if let Ok(all) = InheritedListener::from_process(&names, descriptors) {
        assert!(all.len() == names.len() && wanted == count);
        assert!(names.iter().all(|name| name.starts_with(['+', '-'])));
    }
    assert!(console_client::columns(rest).len() * 19 <= rest.len());
    assert!(console_client::row(rest).len() * 4 <= rest.len());
}

/// Password files: one gives a password only where a line of it can be for this server, and never more than the line.
///
/// # Panics
/// When it gives more.
pub fn pgpass(bytes: &[u8]) {
    for (host, user) in [("db", &b"app"[..]), ("::1", b"a:b"), ("/run/x", b"back\\slash"), ("", b"")] {
        let wanted = pgpass::PassfileKey { host, port: 5432, database: b"shop", user };
        if let Some(password) = pgpass::look_up(bytes, &wanted) {
            let password = password.expose();
            assert!(password.len() < bytes.len() && !password.contains(&b'\n'));
        }
    }
}

/// Files of users and secrets: they are read or refused with a line, and the complaint tells no secret.
///
/// # Panics
/// When it does.
pub fn users(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = userlist(&text) {
        assert!(error.len() < 300, "{error}");
    }
    let secret = "hunter2hunter2";
    if let Err(error) = userlist(&format!("\"user\" \"{secret}\"\n{text}\n\"other\" \"{secret}")) {
        assert!(!error.contains(secret) || text.contains(secret), "{error}");
    }
}

/// Host-based authentication files of PgBouncer: every line becomes a rule that pgferry understands, or is refused with a reason.
///
/// # Panics
/// When a rule is not understood.
pub fn hba(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for (_, line, outcome) in import::access::hba_rules(&text) {
        let Ok(rule) = outcome else { continue };
        assert!(rule.iter().all(|key| !key.contains('\n')), "{line}");
        let mut written = RawConfig::default();
        let toml = format!("upstream = \"postgres://h\"\n[[rule]]\n{}\n", rule.join("\n"));
        // An address may still be none, which is said with its place; anything else is a rule.
        if let Err(error) = written.file_text("f", &toml) {
            assert!(error.place.is_some(), "{line}: {error}");
        }
    }
}
