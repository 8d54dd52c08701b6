//! What a client asks for in its startup packet follows it from connection to connection.

use crate::harness::protocol_client::{bind, execute, parse, query, startup, sync, tags};
use crate::harness::{Pgferry, Postgres, ProtocolClient};

fn log_in(ferry: &Pgferry, settings: &[(&str, &str)]) -> (ProtocolClient, String) {
    let mut raw = ferry.raw();
    let mut params = vec![("user", "trust_user"), ("database", "postgres")];
    params.extend_from_slice(settings);
    raw.send(&startup(&params));
    let welcome = raw.until_ready();
    assert!(tags(&welcome).ends_with("KZ"), "{welcome:?}");
    let statuses = welcome.iter().filter(|message| message.tag == b'S');
    let shown = statuses.map(|message| String::from_utf8_lossy(&message.body).replace('\0', "=")).collect();
    (raw, shown)
}

#[test]
fn clients_with_other_settings_share_a_connection() {
    for reset in ["always", "on_change", "never"] {
        let ferry =
            Pgferry::start(Postgres::shared(), &["--pool-mode", "transaction", "--pool-size", "1", "--reset", reset]);
        let wanted = [
            [("TimeZone", "Asia/Tokyo"), ("application_name", "it's one"), ("DateStyle", "German, DMY")],
            [("TimeZone", "Europe/Berlin"), ("application_name", "back\\slash"), ("DateStyle", "SQL, MDY")],
            [("timezone", "UTC"), ("application_name", ""), ("datestyle", "ISO, YMD")],
        ];
        let mut clients: Vec<_> = wanted.iter().map(|settings| log_in(&ferry, settings).0).collect();
        let mut plain = log_in(&ferry, &[]).0;
        for _ in 0..3 {
            for (client, settings) in clients.iter_mut().zip(&wanted) {
                for (name, value) in settings {
                    assert_eq!(client.value(&format!("show {name}")), *value, "{reset}");
                }
            }
            let all = "select concat_ws('; ', current_setting('timezone'), current_setting('application_name'), current_setting('datestyle'))";
            assert_eq!(plain.value(all), "Etc/UTC; ; ISO, MDY", "{reset}");
        }
    }
}

#[test]
fn a_login_with_settings_nobody_has_asked_for_does_not_wait() {
    let ferry = Pgferry::start(Postgres::shared(), &["--pool-size", "1"]);
    let mut holder = ferry.session();
    assert_eq!(holder.value("select 1"), "1");
    // The only connection is in use: what the server makes of these is not known yet.
    let (mut good, told) = log_in(&ferry, &[("TimeZone", "europe/berlin")]);
    assert!(told.contains("TimeZone=europe/berlin="), "{told}");
    let (mut bad, _) = log_in(&ferry, &[("TimeZone", "Nowhere/Land")]);
    drop(holder);
    let answer = good.query("show timezone");
    let told = answer.iter().find(|message| message.tag == b'S').expect("the server's spelling");
    assert_eq!(told.body, b"TimeZone\0Europe/Berlin\0");
    assert_eq!(answer.iter().find(|message| message.tag == b'D').expect("a row").columns(), ["Europe/Berlin"]);
    drop(good);
    bad.send(&query("select 'never'"));
    let messages = bad.read_to_end();
    assert_eq!(tags(&messages), "E", "{messages:?}");
    assert_eq!((messages[0].field(b'S').as_str(), messages[0].field(b'C').as_str()), ("FATAL", "22023"));
    let (mut next, told) = log_in(&ferry, &[("TimeZone", "europe/berlin")]);
    assert!(told.contains("TimeZone=Europe/Berlin="), "now it is known: {told}");
    assert_eq!(next.value("show timezone"), "Europe/Berlin");
}

#[test]
fn what_can_not_follow_gets_connections_of_its_own() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    let mut plain = ferry.session();
    let (mut patient, _) = log_in(&ferry, &[("options", "-c statement_timeout=77s -c log_disconnections=on")]);
    let (mut precise, _) = log_in(&ferry, &[("temp_buffers", "100")]);
    for _ in 0..3 {
        assert_eq!(plain.value("show statement_timeout"), "0");
        assert_eq!(
            patient.value("select concat(current_setting('statement_timeout'), current_setting('log_disconnections'))"),
            "77son"
        );
        assert_eq!(precise.value("show temp_buffers"), "800kB");
    }
    assert_eq!(postgres.backends(), 3);
}

/// Behind a client's `DISCARD ALL` its startup settings are said again, and the connection has them.
#[test]
fn startup_settings_do_not_stay_behind_a_discard_all() {
    let ferries = ["always", "on_change", "never"]
        .into_iter()
        .flat_map(|reset| ["session", "transaction"].map(|mode| (mode, reset)));
    let extended = [parse("", "discard all"), bind("", "", &[]), execute("", 0), sync()].concat();
    let failing = [query("discard all"), query("begin"), query("select 1/0")].concat();
    let resets = [(query("discard all"), 1), (extended, 1), (failing, 3)];
    for (mode, reset) in ferries {
        let flags = ["--pool-size", "1", "--pool-mode", mode, "--reset", reset];
        let ferry = Pgferry::start(Postgres::shared(), &flags);
        for (nth, (messages, readies)) in resets.iter().enumerate() {
            for (next, path) in [(None, "\"$user\", public"), (Some("-c search_path=elsewhere"), "elsewhere")] {
                let (mut first, _) = log_in(&ferry, &[("options", "-c search_path=elsewhere")]);
                first.send(messages);
                (0..*readies).for_each(|_| drop(first.until_ready()));
                drop(first);
                let options: Vec<_> = next.into_iter().map(|options| ("options", options)).collect();
                let (mut next, _) = log_in(&ferry, &options);
                assert_eq!(next.value("show search_path"), path, "{mode}, {reset}, {nth}");
            }
        }
    }
}
