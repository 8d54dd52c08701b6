//! The same script direct and through pgferry must give the same messages.

mod pins;
mod protocol;
mod settings;
mod statements;

use crate::harness::raw::{bind, execute, parse, startup, sync};
use crate::harness::{Ferry, Message, Postgres, Raw};
use protocol::Script;
use protocol::Step::{self, Drip, End, Ready, Send, Until};

/// All scripts.
fn scripts() -> Vec<Script> {
    let mut scripts = protocol::protocol();
    scripts.extend(statements::statements());
    scripts.extend(settings::settings());
    scripts.extend(pins::pins());
    scripts
}

/// Somebody else on the same connections, who does what would show.
struct Intruder(Raw);

impl Intruder {
    fn enter(ferry: &Ferry) -> Self {
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "trust_user"), ("database", "postgres"), ("application_name", "intruder")]));
        raw.until_ready();
        let mut intruder = Self(raw);
        intruder.0.send(&[parse("s", "select 'intruder'"), parse("p", "select $1::text"), sync()].concat());
        intruder.0.until_ready();
        intruder
    }

    /// Does its work, if there is a connection for it.
    fn intrude(&mut self) {
        for sql in [
            "set timezone = 'Asia/Tokyo'",
            "set search_path = nowhere",
            "set a.b = 'intruder'",
            "select nextval('public.shared_sequence')",
            "begin; set local statement_timeout = '77s'",
            "rollback",
        ] {
            let answer = self.0.query(sql);
            if answer.iter().any(|message| message.tag == b'E' && message.field(b'C') == "53300") {
                // The client under test keeps the connection.
                return;
            }
        }
        self.0.send(&[bind("", "s", &[]), execute("", 0), sync()].concat());
        self.0.until_ready();
        self.0.send(&[parse("", "select 'intruder'"), sync()].concat());
        self.0.until_ready();
    }
}

/// What a client sees, with what differs from session to session taken out. Between its steps `meanwhile` is called.
fn transcript(mut raw: Raw, script: &[Step], mut meanwhile: impl FnMut()) -> Vec<String> {
    let mut seen = Vec::new();
    // Before 14 a server reports settings that were set to what they were, at other times than when they were.
    let untimely = Postgres::shared().version() < 14;
    let mut note = |message: Message| {
        if untimely && message.tag == b'S' {
            return;
        }
        let shown = shown(&message);
        seen.push(if shown.len() > 300 { format!("{}… {}", &shown[..200], message.body.len()) } else { shown });
    };
    for step in script {
        match step {
            Send(bytes) => {
                // A script may go on sending to a connection that the server has ended.
                let _ = raw.try_send(bytes);
            }
            Drip(bytes) => bytes.iter().for_each(|byte| raw.send(&[*byte])),
            Ready(n) => {
                for _ in 0..*n {
                    let mut messages = raw.until_ready();
                    // In which order several settings are reported is the server's own affair.
                    for reports in messages.chunk_by_mut(|a, b| a.tag == b'S' && b.tag == b'S') {
                        reports.sort_by(|a, b| a.body.cmp(&b.body));
                    }
                    messages.into_iter().for_each(&mut note);
                }
                meanwhile();
            }
            Until(tag) => {
                raw.until(*tag).into_iter().for_each(&mut note);
                meanwhile();
            }
            End => raw.read_to_end().into_iter().for_each(&mut note),
        }
    }
    seen
}

/// A message, with what differs from session to session taken out.
pub fn shown(message: &Message) -> String {
    match message.tag {
        // The table's OID, which a table that is made anew has not got again.
        b'T' => format!("T {:?}", without_table_oids(&message.body)),
        b'A' => format!("A {:?}", String::from_utf8_lossy(&message.body[4..])),
        // pgferry says the same of a protocol violation, but not in which line of PostgreSQL's source.
        b'E' if message.field(b'C') == "08P01" => format!("E {}: {}", message.field(b'S'), message.field(b'M')),
        _ => format!("{message:?}"),
    }
}

/// A RowDescription's columns: name, and all but the table's OID.
fn without_table_oids(body: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while let Some(end) = rest.iter().position(|&b| b == 0) {
        columns.push((String::from_utf8_lossy(&rest[..end]).into_owned(), rest[end + 5..end + 19].to_vec()));
        rest = &rest[end + 19..];
    }
    columns
}

fn compare(args: &[&str]) {
    // Of its own: what one script notifies another one hears.
    let postgres = &Postgres::start_with(&[]);
    let ferry = Ferry::start(postgres, args);
    let scripts = scripts();
    assert!(scripts.len() >= 40);
    for (name, script) in &scripts {
        // Somebody else has been there before, so that what is handed on is used.
        assert_eq!(ferry.session().value("select 'x' from set_config('a.b', 'c', false)"), "x");
        let direct = transcript(Raw::logged_in(Raw::tcp(postgres.port), "trust_user", "postgres"), script, || {});
        let ferried = transcript(ferry.session(), script, || {});
        assert_same(&format!("{name} {args:?}"), &ferried, &direct);
    }
}

#[test]
fn session_mode() {
    compare(&["--pool-size", "1"]);
}

#[test]
fn session_mode_without_reset() {
    compare(&["--pool-size", "3", "--reset", "on_change"]);
}

#[test]
fn transaction_mode() {
    compare(&["--pool-mode", "transaction", "--pool-size", "1"]);
}

#[test]
fn transaction_mode_with_small_buffers() {
    let postgres = &Postgres::start_with(&[]);
    let settings =
        [("PGFERRY_BUFFER_SIZE", "4kB"), ("PGFERRY_MAX_PREPARED_STATEMENTS", "3"), ("PGFERRY_RESET", "on_change")];
    let ferry = Ferry::start_with(&postgres.url(), &["--pool-mode", "transaction"], &settings);
    for (name, script) in scripts().into_iter().filter(|(name, _)| *name != "sequences in a transaction") {
        let direct = transcript(Raw::logged_in(Raw::tcp(postgres.port), "trust_user", "postgres"), &script, || {});
        assert_same(name, &transcript(ferry.session(), &script, || {}), &direct);
    }
}

#[test]
fn transaction_mode_with_two_workers() {
    let postgres = &Postgres::start_with(&[]);
    let ferry = Ferry::start_with(&postgres.url(), &["--pool-mode", "transaction"], &[("PGFERRY_WORKERS", "2")]);
    for (name, script) in scripts() {
        let direct = transcript(Raw::logged_in(Raw::tcp(postgres.port), "trust_user", "postgres"), &script, || {});
        assert_same(name, &transcript(ferry.session(), &script, || {}), &direct);
    }
}

/// Two clients on one connection: somebody else is there whenever the client under test is between two pieces of work
/// and does not need to keep the connection.
fn compare_with_an_intruder(reset: &str) {
    let postgres = &Postgres::start_with(&[]);
    let args = ["--pool-mode", "transaction", "--pool-size", "1", "--reset", reset];
    let ferry = Ferry::start_with(&postgres.url(), &args, &[("PGFERRY_QUERY_WAIT_TIMEOUT", "20ms")]);
    let mut intruder = Intruder::enter(&ferry);
    let scripts = scripts();
    // Without resets a sequence's state could be anybody's, and is refused: a stated limit.
    let fair = |name: &str| reset == "always" || name != "sequences in a transaction";
    for (name, script) in scripts.iter().filter(|(name, _)| fair(name)) {
        let direct = transcript(Raw::logged_in(Raw::tcp(postgres.port), "trust_user", "postgres"), script, || {});
        // On a busy machine the intruder may not be gone within the query_wait_timeout, which is short for its sake.
        let refused =
            |ferried: &Vec<String>| ferried.iter().any(|message| message.contains("no upstream connection came free"));
        let mut attempts = (0..20).map(|_| transcript(ferry.session(), script, || intruder.intrude()));
        let ferried = attempts.find(|ferried| !refused(ferried)).expect("an attempt that is not refused");
        assert_same(&format!("{name}, reset = {reset}"), &ferried, &direct);
    }
}

#[test]
fn transaction_mode_with_an_intruder() {
    compare_with_an_intruder("always");
}

#[test]
fn transaction_mode_with_an_intruder_and_resets_on_change() {
    compare_with_an_intruder("on_change");
}

#[test]
fn transaction_mode_with_an_intruder_and_no_resets() {
    compare_with_an_intruder("never");
}

fn assert_same(name: &str, ferried: &[String], direct: &[String]) {
    let differs = (0..direct.len().max(ferried.len())).find(|&at| ferried.get(at) != direct.get(at));
    if let Some(at) = differs {
        let from = at.saturating_sub(3);
        panic!(
            "{name}: message {at} differs\n direct: {:#?}\nferried: {:#?}",
            direct.iter().skip(from).take(7).collect::<Vec<_>>(),
            ferried.iter().skip(from).take(7).collect::<Vec<_>>(),
        );
    }
}

/// The welcome: the same settings, for the same startup packets.
#[test]
fn welcomes() {
    let postgres = &Postgres::start_with(&[]);
    let ferry = Ferry::start(postgres, &[]);
    let user = ("user", "trust_user");
    let database = ("database", "postgres");
    let packets: &[&[(&str, &str)]] = &[
        &[user, database],
        &[user, database, ("application_name", "psql")],
        &[user, database, ("application_name", "")],
        &[user, database, ("application_name", &"a".repeat(80))],
        &[user, database, ("application_name", "Zürich")],
        &[user, database, ("datestyle", "german")],
        &[user, database, ("DateStyle", "ISO"), ("TimeZone", "Europe/Berlin"), ("client_encoding", "latin1")],
        &[user, database, ("DateStyle", "ymd")],
        &[user, database, ("IntervalStyle", "iso_8601"), ("standard_conforming_strings", "off")],
        &[user, database, ("options", "-c datestyle=sql -c work_mem=1234kB -c search_path=a\\ b")],
        &[user, database, ("options", "--timezone=Asia/Tokyo -ca.b=c")],
        &[user, database, ("extra_float_digits", "2"), ("statement_timeout", "5s")],
        &[user, ("database", "other")],
        &[user, ("database", "nowhere")],
        &[user, database, ("datestyle", "nonsense")],
        &[user, database, ("TimeZone", "Nowhere/Land")],
        &[user, database, ("client_encoding", "klingon")],
        &[user, database, ("options", "-c work_mem=lots")],
        &[user, database, ("options", "-c no_such_setting=1")],
        &[user, database, ("no_such_setting", "1")],
        &[("user", "nobody_at_all"), database],
        &[("user", "rejected"), database],
        &[("database", "postgres")],
        &[],
        &[user, database, ("replication", "maybe")],
    ];
    let settings = "select current_setting('datestyle'), current_setting('timezone'), current_setting('client_encoding'), \
        current_setting('application_name'), current_setting('work_mem'), current_setting('search_path'), \
        current_setting('extra_float_digits'), current_setting('statement_timeout'), current_setting('intervalstyle'), \
        current_setting('standard_conforming_strings'), current_setting('a.b', true), current_database()";
    let welcome = |mut raw: Raw, packet: &[(&str, &str)]| {
        raw.send(&startup(packet));
        let mut seen = raw.until_ready();
        // The key and the order of the settings are the server's own business; that a long application_name is cut
        // off is not announced, which is a stated limit.
        seen.retain(|message| !matches!(message.tag, b'K' | b'N'));
        if seen.iter().any(|message| message.tag == b'E') {
            // Whether the server had got as far as AuthenticationOk before it refused makes no difference.
            seen.retain(|message| message.tag != b'R');
        }
        // Errors that pgferry raises itself say the same, but not in which line of PostgreSQL's source.
        let show = |message: &Message| match message.tag {
            // The way up may be encrypted where the client's way is not.
            b'E' => {
                let text = |field| message.field(field).replace("SSL encryption", "no encryption");
                format!("E {:?}", [b'S', b'V', b'C', b'M', b'D', b'H'].map(text))
            }
            _ => format!("{message:?}"),
        };
        let mut shown: Vec<_> = seen.iter().map(show).collect();
        shown.sort();
        if seen.last().is_some_and(|message| message.tag == b'Z') {
            shown.extend(raw.query(settings).iter().map(|message| format!("{message:?}")));
        }
        shown
    };
    // Twice: with a connection that has to be opened, and with one that has been used.
    for _ in 0..2 {
        for packet in packets {
            let direct = welcome(Raw::tcp(postgres.port), packet);
            let ferried = welcome(ferry.raw(), packet);
            assert_eq!(ferried, direct, "{packet:?}");
        }
    }
}
