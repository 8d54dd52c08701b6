//! What the fuzz targets in `fuzz/` do with arbitrary bytes; a test replays their corpus through the same functions.
//!
//! Each panics where an invariant does not hold.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;

use crate::admin::console::command::{self, Command};
use crate::admin::console_client;
use crate::admin::request::{self, Names};
use crate::auth::scram::Verifier;
use crate::auth::scram::client::{Binding, Client};
use crate::auth::scram::server::{Offered, Server};
use crate::auth::stored::userlist;
use crate::auth::{Credential, Password, pgpass};
use crate::buffer::{Buffer, BufferPool};
use crate::config::{Mode, Pin, RawConfig, Settings, Upstream};
use crate::import::{self, ini::Ini};
use crate::machine::preparation::{Liveness, Preparation, ResetPolicy};
use crate::machine::{self, Buffers, Flush, Machine, Next};
use crate::net::InheritedListener;
use crate::net::tls::certificate::{self, Certificate};
use crate::track::lexis::{Backslashes, Characters};
use crate::track::parameter_cache::ParameterCache;
use crate::track::server_state::UsedBy;
use crate::track::session_code::Reach;
use crate::track::startup_settings::StartupSettings;
use crate::track::statements::{Limits, StatementCache};
use crate::track::stored_code::{self, Language, Leaving};
use crate::track::{
    ClientState, Lexis, RequestedParams, ServerParams, ServerState, SqlEffects, message_target, params, prefilter,
    session_command, sql, sql_effects,
};
use crate::upstream::dial::against::log_in_against;
use crate::wire::{Frames, Startup, backend, frame, frontend, startup};

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

/// Checks that what startup packets set is taken apart, whatever it is, and written again as what it was.
///
/// # Panics
/// When more comes of it than was there.
pub fn options(bytes: &[u8]) {
    let halves: Vec<_> = bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let pairs = halves.as_chunks().0.iter().map(|[name, value]: &[Vec<u8>; 2]| (name.clone(), value.clone()));
    let pairs: Vec<_> = pairs.collect();
    let startup = Startup {
        params: pairs.iter().map(|(name, value)| (name.clone().into(), value.clone().into())).collect(),
        ..Startup::default()
    };
    let (wanted, key) = RequestedParams::split(&startup);
    let (settings, key) = StartupSettings::split(key);
    let size = |pairs: &[(Vec<u8>, Vec<u8>)]| pairs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    assert!(size(&key) <= size(&pairs));
    let most = 64 * bytes.len() + 256;
    assert!(settings.trial().len() <= most, "{:?}", settings.trial());
    assert!(params::trial(&wanted, &ServerParams::default()).len() <= most);
    let _ = params::startup_time(&key, b"idle_session_timeout");
}

/// Checks a server's messages at a login, to a client that wants proof: it is never let in by what the server leaves out, repeats or makes up.
///
/// # Panics
/// When it is.
pub fn login(bytes: &[u8]) {
    // Servers that ask for much work are another matter, and slow.
    if bytes.windows(5).any(|window| window.starts_with(b"i=") && window[2..].iter().all(u8::is_ascii_digit)) {
        return;
    }
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    for parameters in ["require_auth=scram-sha-256", "channel_binding=require", "max_protocol_version=3.2"] {
        let outcome = runtime.block_on(log_in_against(parameters, bytes));
        assert!(outcome.is_err() || parameters.starts_with("max_"), "{parameters}");
    }
}

/// Certificates of servers and clients.
pub fn certificate(bytes: &[u8]) {
    let der = CertificateDer::from(bytes);
    let _ = certificate::end_point(&der);
    if let Some(certificate) = Certificate::read(&der) {
        let _ = (certificate.common_name(), certificate.names(), certificate.names_hosts(), certificate.is_version_1());
        let _ = certificate.is_valid_at(SystemTime::UNIX_EPOCH);
        let _ =
            certificate.is_signed_by(&certificate, &aws_lc_rs::default_provider().signature_verification_algorithms);
    }
}

/// The sources of functions in a database: one that holds what leaves something is never taken for harmless.
///
/// # Panics
/// When it is.
pub fn code(bytes: &[u8]) {
    let leaving =
        Leaving::from([(b"pg_advisory_lock".to_vec(), Reach::Anything), (b"nextval".to_vec(), Reach::Sequences)]);
    for language in [Language::Sql, Language::PlPgSql] {
        let _ = stored_code::reach(bytes, language, &leaving);
        let with = [bytes, b"\n;select pg_advisory_lock(1)"].concat();
        // What opens a text or a comment may hold the rest.
        let opens = bytes.iter().any(|byte| matches!(byte, b'\'' | b'"' | b'$' | b'/' | b'\\'));
        assert!(opens || stored_code::reach(&with, language, &leaving).is_some());
    }
}

/// A client and a server that send what they like. The first byte says how the client is served; then each portion begins with a
/// byte that says which side it is from and how long; one of no length is the end of that side.
///
/// # Panics
/// When more is kept than either has sent.
pub fn machine(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else { return };
    let (statements, parameters, pool) =
        (StatementCache::default(), ParameterCache::default(), BufferPool::new(4096, 4));
    let mut server = ServerState::new(ServerParams::default(), RequestedParams::default());
    let mut client = ClientState::new(RequestedParams::default(), ServerParams::default());
    if kind & 1 != 0 {
        server.used = UsedBy::One { client: 2, work: 1 };
    }
    let policy = if kind & 2 != 0 { ResetPolicy::All } else { ResetPolicy::Nothing };
    let liveness = if kind & 4 != 0 { Liveness::Unknown } else { Liveness::Known };
    let preparation = Preparation::new(&server, &client, 1, (&parameters, &statements), policy, liveness);
    let context = machine::Context {
        mode: if kind & 8 != 0 { Mode::Session } else { Mode::Transaction },
        pin: if kind & 16 != 0 { Pin::Refuse } else { Pin::Auto },
        limits: Limits { count: 10, bytes: 10_000, client_bytes: 100_000 },
        max_text_bytes: 4096,
        statements: &statements,
        parameters: &parameters,
        user: b"u",
        client: 1,
        given_pid: 1,
        backend_pid: 2,
    };
    let (mut from_client, mut from_server) = (Buffer::new(Arc::clone(&pool)), Buffer::new(pool));
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    let mut io = Buffers {
        from_client: &mut from_client,
        to_client: &mut to_client,
        from_server: &mut from_server,
        to_server: &mut to_server,
    };
    let mut machine = Machine::new(context, &mut client, &mut server, preparation);
    let end = converse(&mut machine, &mut io, rest).err();
    machine.finish(&mut io, end.as_ref(), Flush::Done);
}

fn converse(machine: &mut Machine<'_>, io: &mut Buffers<'_>, mut rest: &[u8]) -> Result<(), machine::End> {
    machine.open(io)?;
    let mut is_half_closed = false;
    while let Some((&portion, more)) = rest.split_first() {
        let (said, more) = more.split_at(usize::from(portion & 0x7f).min(more.len()));
        rest = more;
        let is_servers = portion & 0x80 != 0;
        if said.is_empty() && is_servers {
            return Err(machine.server_ended(io));
        } else if said.is_empty() {
            machine.client_ended();
        } else {
            let buffer = if is_servers { &mut *io.from_server } else { &mut *io.from_client };
            if !buffer.is_full() {
                let space = buffer.space();
                let fits = said.len().min(space.len());
                space[..fits].copy_from_slice(&said[..fits]);
                buffer.received(fits);
            }
        }
        // What either side is to be sent goes at once.
        for turn in 0.. {
            assert!(turn < 10_000, "it comes to rest");
            assert!(io.to_client.len() < 100_000 && io.to_server.len() < 100_000, "no more than a buffer makes of it");
            let (up, down) = (io.from_client.unsent().len(), io.from_server.unsent().len());
            let sent = up + io.to_server.len() > 0;
            io.from_client.sent(up);
            io.to_server.clear();
            if sent {
                machine.on_sent();
            }
            io.from_server.sent(down);
            io.to_client.clear();
            let up = !is_half_closed && !machine.holds_client() && machine.client_sent(io);
            if up {
                continue;
            }
            if machine.server_sent(io)? || !io.to_client.is_empty() || !io.to_server.is_empty() {
                continue;
            }
            match machine.boundary(io, Flush::Done) {
                Next::End(end) => return Err(end),
                Next::HalfClose => {
                    is_half_closed = true;
                    machine.server_takes_no_more();
                }
                Next::Idle(_) | Next::Wait if io.to_client.is_empty() && io.to_server.is_empty() => break,
                Next::Again | Next::Idle(_) | Next::Wait => {}
            }
        }
    }
    Ok(())
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
    backend::put_error_as_fatal(&mut out, body, None);
    let _ = backend::values(body);
    let _ = backend::shape(body);
    let _ = message_target::target_of(field, body);
}

/// The analysis of SQL ends, a statement that is said again is still one, and the quick pass keeps back what matters.
///
/// # Panics
/// When it does not.
pub fn sql(bytes: &[u8]) {
    use Backslashes::{Escape, Literal};
    use Characters::{AsciiAlone, Pairs, ShiftJis};
    for (backslashes, characters) in [(Literal, AsciiAlone), (Escape, AsciiAlone), (Literal, Pairs), (Escape, ShiftJis)]
    {
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
    if ini.text("fuzz.ini", &text, &mut |_, _, _| Ok(())).is_ok() {
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
    for (_, line, outcome) in import::access::hba_rules(&text, &[], import::access::Transports::All) {
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
