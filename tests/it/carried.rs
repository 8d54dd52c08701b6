//! Transaction mode: what is carried from connection to connection, what keeps a client on one, and for how long.

use crate::harness::protocol_client::{bind, close, describe, execute, parse, query, startup, sync, tags};
use crate::harness::{Message, Pgferry, Postgres, ProtocolClient, Signal, eventually};

fn ferry(postgres: &Postgres, size: &str, settings: &[(&str, &str)]) -> Pgferry {
    Pgferry::start_with(&postgres.url(), &["--pool-mode", "transaction", "--pool-size", size], settings)
}

fn error(messages: &[Message]) -> &Message {
    messages.iter().find(|message| message.tag == b'E').unwrap_or_else(|| panic!("no error: {messages:?}"))
}

fn run(name: &str) -> Vec<u8> {
    [bind("", name, &[]), execute("", 0), sync()].concat()
}

/// Whether another client gets the only connection.
fn is_free(ferry: &Pgferry) -> bool {
    let mut other = ferry.session();
    other.query("select 'mine'").iter().all(|message| message.tag != b'E')
}

/// Each reason, how it comes about, and how it goes.
const REASONS: [(&str, &[&str], &[&str]); 8] = [
    ("temp", &["create temp table t (a int)", "create temp view v as select 1"], &["drop view v", "drop table t"]),
    ("temp", &["create function pg_temp.f() returns int language sql as 'select 1'"], &["drop function pg_temp.f()"]),
    ("listen", &["listen a", "listen b"], &["unlisten a", "unlisten *"]),
    ("prepare", &["prepare a as select 1", "prepare b as select 2"], &["deallocate a", "deallocate b"]),
    ("cursor", &["declare c cursor with hold for select 1"], &["close c"]),
    (
        "lock",
        &["select pg_advisory_lock(7), pg_advisory_lock(7)"],
        &["select pg_advisory_unlock(7)", "select pg_advisory_unlock(7)"],
    ),
    ("role", &["set role limited"], &["reset role"]),
    ("setting", &["select set_config('a.b', E'a\\nb', false)"], &["reset all"]),
];

#[test]
fn a_connection_is_kept_as_long_as_there_is_a_reason() {
    let postgres = Postgres::start_with(&[]);
    let ferry = ferry(&postgres, "1", &[("PGFERRY_QUERY_WAIT_TIMEOUT", "50ms")]);
    for (reason, come, go) in REASONS {
        let mut client = ferry.session();
        let before = ferry.report().get("pinned");
        for sql in come {
            client.query(sql);
        }
        for sql in go {
            assert!(!is_free(&ferry), "{reason}: before {sql}");
            let answer = client.query(sql);
            assert!(answer.iter().all(|message| message.tag != b'E'), "{sql}: {answer:?}");
        }
        eventually("it is given back", || is_free(&ferry));
        assert!(ferry.report().get("pinned") > before, "{reason} is counted");
        ferry.logs(&format!("keeps its connection because of: {reason}"));
        assert_eq!(client.value("select 'goes on'"), "goes on");
    }
    for (reason, come, _) in REASONS {
        let mut client = ferry.session();
        for sql in come {
            client.query(sql);
        }
        assert!(!is_free(&ferry), "{reason}");
        client.query("discard all");
        eventually("DISCARD ALL ends every reason", || is_free(&ferry));
    }
}

#[test]
fn reasons_are_refused_where_they_are_not_wanted() {
    let postgres = Postgres::shared();
    let ferry = ferry(postgres, "1", &[("PGFERRY_PIN", "refuse")]);
    let mut client = ferry.session();
    for sql in [
        "create temp table t (a int)",
        "listen a",
        "select pg_advisory_lock(1)",
        "do $$ begin execute ''; end $$",
        "set role limited",
    ] {
        let messages = client.query(sql);
        assert_eq!(tags(&messages), "EZ", "{sql}: {messages:?}");
        let refusal = error(&messages);
        assert_eq!(refusal.field(b'C'), "0A000", "{sql}");
        assert!(refusal.field(b'D').contains("pin = \"refuse\"") && !refusal.field(b'H').is_empty(), "{refusal:?}");
        client.send(&[parse("", sql), bind("", "", &[]), execute("", 0), sync(), query("select 1")].concat());
        let messages = client.until_ready();
        assert_eq!((tags(&messages).as_str(), error(&messages).field(b'C').as_str()), ("EZ", "0A000"), "{sql}");
        assert_eq!(tags(&client.until_ready()), "TDCZ", "what comes behind the Sync is carried out");
    }
    // As any error, it fails the transaction.
    client.query("begin");
    assert_eq!(client.query("listen a").last().expect("ready").body, b"E");
    assert_eq!(error(&client.query("select 1")).field(b'C'), "25P02");
    client.query("rollback");
    for sql in [
        "set work_mem = '5MB'",
        "begin; set local a.b = c; commit",
        "select set_config('a.b', 'c', false)",
        "select nextval('shared_sequence')",
    ] {
        let messages = client.query(sql);
        assert!(messages.iter().all(|message| message.tag != b'E'), "{sql}: {messages:?}");
    }
    assert_eq!(client.value("show work_mem"), "5MB");
}

#[test]
fn databases_may_have_a_mode_of_their_own() {
    let postgres = Postgres::start_with(&[]);
    let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
    let file = dir.path().join("pgferry.toml");
    let text = format!(
        "upstream = \"{}\"\nlisten = \"{}\"\n[databases.other]\npool_mode = \"transaction\"\npin = \"refuse\"\npool_size = 1\n",
        postgres.url(),
        dir.path().display()
    );
    std::fs::write(&file, text).expect("written");
    let args = ["-c".to_owned(), file.to_str().expect("UTF-8").to_owned(), "-v".to_owned()];
    let ferry = Pgferry::spawn(dir, &args.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let mut there: Vec<_> = (0..3).map(|_| ferry.raw().logged_in("trust_user", "other")).collect();
    for raw in &mut there {
        assert_eq!(raw.value("select current_database()"), "other", "all of them on one connection");
        assert_eq!(error(&raw.query("listen a")).field(b'C'), "0A000");
    }
    assert_eq!(tags(&ferry.session().query("listen a")), "CZ");
}

#[test]
fn a_client_keeps_the_mode_it_came_in_with() {
    let postgres = Postgres::start_with(&[]);
    let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
    let file = dir.path().join("pgferry.toml");
    let text = |mode: &str| {
        let (url, socket) = (postgres.url(), dir.path().display().to_string());
        format!("upstream = \"{url}\"\nlisten = \"{socket}\"\npool_mode = \"{mode}\"\npool_size = 1\n")
    };
    let (before, after) = (text("transaction"), text("session"));
    std::fs::write(&file, before).expect("written");
    let ferry = Pgferry::spawn(dir, &["-c", file.to_str().expect("UTF-8"), "-v"], &[]);
    let mut client = ferry.session();
    client.send(&[parse("s", "select 'carried'"), sync()].concat());
    client.until_ready();
    std::fs::write(&file, after).expect("written");
    ferry.signal(Signal::SIGHUP);
    eventually("the settings are in force", || ferry.log().contains("settings reloaded; changed: pool_mode"));
    assert!(is_free(&ferry));
    client.send(&run("s"));
    assert_eq!(client.until_ready()[1].columns(), ["carried"]);
    assert!(is_free(&ferry), "it still gives its connection back");
}

#[test]
fn a_sequences_state_is_never_somebody_elses() {
    let postgres = Postgres::start_with(&[]);
    for reset in ["always", "on_change", "never"] {
        let ferry = ferry(&postgres, "1", &[("PGFERRY_RESET", reset)]);
        let (mut one, mut two) = (ferry.session(), ferry.session());
        one.query("select nextval('shared_sequence')");
        two.query("select nextval('in_a_transaction')");
        for sql in ["select lastval()", "select currval('in_a_transaction')"] {
            let messages = one.query(sql);
            let refusal = error(&messages);
            assert_eq!(refusal.field(b'C'), "55000", "{reset}: {sql}: {messages:?}");
            assert!(refusal.field(b'H').contains("pool_mode = \"session\""), "{reset}: {refusal:?}");
            one.query("discard all");
        }
        if reset == "always" {
            // In one transaction it is known, and from then on.
            one.query("begin");
            let value = one.value("select nextval('shared_sequence')");
            assert_eq!(one.value("select lastval()"), value);
            one.query("commit");
            assert_eq!(one.value("select currval('shared_sequence')"), value);
        }
    }
}

#[test]
fn a_plan_that_is_out_of_date_is_made_anew() {
    let postgres = Postgres::start_with(&[]);
    for reset in ["always", "on_change"] {
        let ferry = ferry(&postgres, "1", &[("PGFERRY_RESET", reset)]);
        postgres.sql("drop table if exists changing; create table changing as select 1 as a");
        let (mut one, mut told) = (ferry.session(), ferry.session());
        one.send(&[parse("s", "select * from changing"), sync(), run("s")].concat());
        assert_eq!((tags(&one.until_ready()).as_str(), tags(&one.until_ready()).as_str()), ("1Z", "2DCZ"));
        told.send(&[parse("s", "select * from changing"), describe(b'S', "s"), sync()].concat());
        assert_eq!(tags(&told.until_ready()), "1tTZ");
        // Not through pgferry, which would see it.
        postgres.sql("alter table changing add column b text default 'new'");
        one.send(&run("s"));
        let messages = one.until_ready();
        assert_eq!(tags(&messages), "2DCZ", "{reset}: who was not told its columns gets what is there: {messages:?}");
        assert_eq!(messages[1].columns(), ["1", "new"]);
        // Who was told its columns is told that they have changed, at the latest the second time.
        let mut seen = Vec::new();
        for _ in 0..2 {
            told.send(&run("s"));
            seen.extend(told.until_ready().into_iter().filter(|message| message.tag == b'E'));
        }
        assert_eq!(seen.last().expect("an error").field(b'R'), "RevalidateCachedQuery", "{reset}");
    }
}

#[test]
fn a_statement_that_is_gone_from_the_server_is_prepared_again() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create function sweep() returns void language plpgsql as 'begin execute ''deallocate all''; end'");
    let ferry = ferry(&postgres, "1", &[("PGFERRY_RESET", "on_change")]);
    let (mut one, mut two) = (ferry.session(), ferry.session());
    one.send(&[parse("s", "select 'here'"), sync(), run("s")].concat());
    one.until_ready();
    one.until_ready();
    two.query("select sweep()");
    one.send(&run("s"));
    let messages = one.until_ready();
    assert_eq!(tags(&messages), "2DCZ", "{messages:?}");
    // In a transaction the error is told, and it happens once.
    two.query("select sweep()");
    one.query("begin");
    one.send(&run("s"));
    let messages = one.until_ready();
    assert_eq!(error(&messages).field(b'M'), "prepared statement \"s\" does not exist");
    one.query("rollback");
    one.send(&run("s"));
    assert_eq!(tags(&one.until_ready()), "2DCZ");
}

#[test]
fn an_unnamed_statement_comes_along_to_a_connection_that_nobody_has_used() {
    let postgres = Postgres::start_with(&[]);
    let ferry = ferry(&postgres, "3", &[]);
    let (mut client, mut other) = (ferry.session(), ferry.session());
    for reset in [false, true] {
        client.send(&[parse("", "select 'mine'"), describe(b'S', ""), sync()].concat());
        assert_eq!(tags(&client.until_ready()), "1tTZ");
        // It takes the connection that the client has had; the next is a new one, or one that was reset.
        other.query("begin");
        if reset {
            let mut third = ferry.session();
            third.query("begin; create temp table t (a int); commit");
            drop(third);
            eventually("it is given back", || ferry.report().get("idle_now") > 0);
        }
        client.send(&run(""));
        let answers = client.until_ready();
        assert_eq!(tags(&answers), "2DCZ", "{answers:?}");
        client.query("select 1");
        other.query("rollback");
    }
}

#[test]
fn statements_on_a_connection_are_bounded() {
    let postgres = Postgres::start_with(&[]);
    let ferry = ferry(&postgres, "1", &[("PGFERRY_RESET", "on_change"), ("PGFERRY_MAX_PREPARED_STATEMENTS", "10")]);
    let mut client = ferry.session();
    let count = "select count(*) from pg_prepared_statements";
    for n in 0..50 {
        client.send(&[parse(&format!("s{n}"), &format!("select {n}")), sync()].concat());
        client.until_ready();
    }
    assert_eq!(client.value(count), "10");
    for n in 0..50 {
        client.send(&run(&format!("s{n}")));
        assert_eq!(client.until_ready()[1].columns(), [n.to_string()]);
    }
    assert_eq!(client.value(count), "10");
    drop(client);
    // Another client with the same texts needs none of its own.
    let mut other = ferry.session();
    let before = other.value("select string_agg(name, ' ' order by name) from pg_prepared_statements");
    for n in 40..50 {
        other.send(&[parse(&format!("t{n}"), &format!("select {n}")), sync(), run(&format!("t{n}"))].concat());
        assert_eq!(tags(&other.until_ready()), "1Z");
        assert_eq!(other.until_ready()[1].columns(), [n.to_string()]);
    }
    assert_eq!(other.value("select string_agg(name, ' ' order by name) from pg_prepared_statements"), before);
}

#[test]
fn nobody_reaches_statements_by_the_names_they_have_on_the_server() {
    let ferry = ferry(Postgres::shared(), "1", &[("PGFERRY_RESET", "on_change")]);
    let (mut one, mut two) = (ferry.session(), ferry.session());
    one.send(&[parse("s", "select 'secret'"), sync()].concat());
    one.until_ready();
    let name = one.value("select name from pg_prepared_statements");
    two.send(&run(&name));
    let messages = two.until_ready();
    assert_eq!((tags(&messages).as_str(), error(&messages).field(b'C').as_str()), ("EZ", "26000"));
    two.send(&[close(b'S', &name), sync()].concat());
    assert_eq!(tags(&two.until_ready()), "3Z");
    one.send(&run("s"));
    assert_eq!(one.until_ready()[1].columns(), ["secret"]);
    // The name is as good as any other.
    two.send(&[parse(&name, "select 'two'"), sync(), run(&name)].concat());
    two.until_ready();
    assert_eq!(two.until_ready()[1].columns(), ["two"]);
}

fn with_settings(ferry: &Pgferry, settings: &[(&str, &str)]) -> ProtocolClient {
    let mut raw = ferry.raw();
    let mut params = vec![("user", "trust_user"), ("database", "postgres")];
    params.extend_from_slice(settings);
    raw.send(&startup(&params));
    raw.until_ready();
    raw
}

#[test]
fn a_reset_goes_back_to_what_the_client_asked_for() {
    let postgres = Postgres::start_with(&[]);
    for mode in ["session", "transaction"] {
        for reset in ["always", "on_change"] {
            let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "1", "--reset", reset]);
            let tokyo = [("TimeZone", "Asia/Tokyo"), ("application_name", "tokyo")];
            for settings in [&tokyo[..], &[], &[("TimeZone", "Europe/Berlin")], &tokyo[..1]] {
                let wanted = settings.first().map_or("Etc/UTC", |(_, value)| value);
                for undo in ["reset timezone", "reset all", "discard all", "set timezone to default"] {
                    let mut client = with_settings(&ferry, settings);
                    client.query("set timezone = 'Pacific/Chatham'");
                    client.query(undo);
                    assert_eq!(client.value("show timezone"), wanted, "{mode}, {reset}, {settings:?}: {undo}");
                    client.query("begin; set timezone = 'Pacific/Chatham'");
                    client.query("reset timezone");
                    assert_eq!(client.value("show timezone"), wanted, "{mode}, {reset}, {settings:?}");
                    client.query("rollback");
                    assert_eq!(client.value("show timezone"), wanted, "{mode}, {reset}, {settings:?}");
                }
            }
        }
    }
}

#[test]
fn a_setting_that_the_server_refuses_later_harms_nobody_else() {
    let postgres = Postgres::start_with(&[]);
    let ferry = ferry(&postgres, "1", &[]);
    let mut one = ferry.session();
    let mut two = ferry.session();
    one.query("set default_text_search_config = 'public.ours'");
    postgres.sql("create text search configuration public.ours (copy = pg_catalog.simple)");
    one.query("set default_text_search_config = 'public.ours'");
    assert_eq!(two.value("show default_text_search_config"), "pg_catalog.english");
    postgres.sql("drop text search configuration public.ours");
    let refused = one.query("select 1");
    assert_eq!(error(&refused).field(b'C'), "22023", "{refused:?}");
    assert!(error(&refused).field(b'H').contains("anew on each connection"), "{refused:?}");
    assert_eq!(two.value("show default_text_search_config"), "pg_catalog.english");
    assert_eq!(postgres.backends(), 1, "and the connection is used again");
}

#[test]
fn what_the_server_changes_reaches_clients_between_transactions() {
    let postgres = Postgres::start_with(&[]);
    for reset in ["always", "on_change"] {
        let ferry = ferry(&postgres, "1", &[("PGFERRY_RESET", reset)]);
        let mut clients = [ferry.session(), ferry.session()];
        let zone = if reset == "always" { "Asia/Tokyo" } else { "Europe/Berlin" };
        for client in &mut clients {
            client.query("select 1");
        }
        postgres.sql(&format!("alter system set timezone = '{zone}'"));
        postgres.signal(Signal::SIGHUP);
        for client in &mut clients {
            let mut told = String::new();
            eventually("the change is there", || {
                let messages = client.query("show timezone");
                for message in messages.iter().filter(|message| message.tag == b'S') {
                    told = String::from_utf8_lossy(&message.body).into_owned();
                }
                let row = messages.iter().find(|message| message.tag == b'D').expect("a row");
                row.columns() == [zone]
            });
            assert_eq!(told, format!("TimeZone\0{zone}\0"), "{reset}");
        }
    }
}
