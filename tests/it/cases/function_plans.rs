//! Constants in functions are read under the settings of the client that has them run, whichever client had them run there first.

use crate::harness::protocol_client::{bind, execute, parse, query, startup, sync};
use crate::harness::{Pgferry, Postgres, ProtocolClient};

/// A function that reads its constants under each of the settings, behind its name.
const FUNCTION: &str = "() returns text language plpgsql as $$ declare said text; begin \
    select concat_ws(' ', extract(epoch from moment), day, nothing, list) into said from (select \
        '2020-01-01 00:00'::timestamptz as moment, '01/02/2020'::date - '2020-01-01'::date as day, \
        (null = null) is null as nothing, '{null}'::text[] is distinct from array[null]::text[] as list) x; \
    return said; end $$";

const MODES: [(&str, &str); 5] = [
    ("transaction", "auto"),
    ("transaction", "always"),
    ("transaction", "on_change"),
    ("session", "auto"),
    ("session", "always"),
];

/// The highest number of a function.
const MAX_NUMBER: usize = 8;

/// What runs function `number`.
fn reads(number: usize) -> String {
    format!("select reads_{number}()")
}

fn logged_in(mut client: ProtocolClient, params: &[(&str, &str)]) -> ProtocolClient {
    client.send(&startup(&[&[("user", "trust_user"), ("database", "postgres")][..], params].concat()));
    client.until_ready();
    client
}

/// A server with such functions, and a pgferry with one connection to it.
struct Servers {
    postgres: Postgres,
    ferry: Pgferry,
}

impl Servers {
    fn start(mode: &str, reset: &str) -> Self {
        let postgres = Postgres::start_with(&["timezone='UTC'"]);
        let functions = (0..=MAX_NUMBER).map(|number| format!("create function reads_{number}{FUNCTION};"));
        postgres.sql(&functions.collect::<String>());
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "1", "--reset", reset]);
        Self { postgres, ferry }
    }

    fn client(&self, params: &[(&str, &str)]) -> ProtocolClient {
        logged_in(self.ferry.raw(), params)
    }

    /// What a client with these startup parameters reads by function `number`, which must be what it reads directly.
    fn reads(&self, number: usize, params: &[(&str, &str)], context: &str) {
        let direct = logged_in(ProtocolClient::tcp(self.postgres.port), params).value(&reads(number));
        assert_eq!(self.client(params).value(&reads(number)), direct, "{params:?}: {context}");
    }
}

#[test]
fn under_the_settings_of_startup_packets() {
    for (mode, reset) in MODES {
        let servers = Servers::start(mode, reset);
        let context = format!("{mode}, {reset}");
        for params in [
            &[][..],
            &[("TimeZone", "Asia/Tokyo")],
            &[("DateStyle", "German")],
            &[("options", "-c array_nulls=off")],
            &[("options", "-c transform_null_equals=on")],
            &[],
        ] {
            servers.reads(0, params, &context);
        }
    }
}

#[test]
fn under_settings_that_last_for_a_transaction() {
    const TOKYO: &str = "set local timezone = 'Asia/Tokyo'";
    // Each with a function of its own, so that none has been planned there before.
    let in_one_text = |sets: &str, number| vec![query(&format!("begin; {sets}; {}; commit", reads(number)))];
    let pipelined = |set: &str, number, end: &str| {
        let texts = ["begin", set, &reads(number), end];
        let all = texts.iter().flat_map(|sql| [parse("", sql), bind("", "", &[]), execute("", 0)]);
        vec![all.chain([sync()]).collect::<Vec<_>>().concat()]
    };
    let ways = [
        in_one_text(TOKYO, 0),
        in_one_text("select set_config('timezone', 'Asia/Tokyo', true)", 1),
        in_one_text("select set_config('TimeZone', 'Asia/Tokyo', false)", 2),
        in_one_text("set timezone = 'Asia/Tokyo'", 3),
        ["begin", TOKYO, &reads(4), "commit"].map(query).to_vec(),
        pipelined(TOKYO, 5, "commit"),
        pipelined("set timezone = 'Asia/Tokyo'", 6, "rollback"),
        vec![query(&format!("set timezone = 'Asia/Tokyo'; {}; reset timezone", reads(7)))],
        vec![query(&format!("do $$ begin {TOKYO}; perform reads_8(); end $$"))],
    ];
    for (mode, reset) in MODES {
        let servers = Servers::start(mode, reset);
        for (number, way) in ways.iter().enumerate() {
            let mut one = servers.client(&[]);
            for request in way {
                one.send(request);
                let answer = one.until_ready();
                assert!(answer.iter().all(|message| message.tag != b'E'), "{answer:?}");
            }
            drop(one);
            servers.reads(number, &[], &format!("{mode}, {reset}: {}", String::from_utf8_lossy(&way.concat())));
        }
    }
}

#[test]
fn under_settings_that_a_client_has_said() {
    for (mode, reset) in MODES {
        let servers = Servers::start(mode, reset);
        let mut one = servers.client(&[]);
        for sql in ["set timezone = 'Asia/Tokyo'", "set transform_null_equals = on", &reads(0), "reset all"] {
            one.query(sql);
        }
        drop(one);
        servers.reads(0, &[], &format!("{mode}, {reset}"));
    }
}

#[test]
fn plans_are_kept_where_no_function_has_any() {
    let postgres = Postgres::start_with(&["log_statement=all", "timezone='UTC'"]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    for timezone in ["UTC", "Asia/Tokyo", "UTC"] {
        assert_eq!(logged_in(ferry.raw(), &[("TimeZone", timezone)]).value("show timezone"), timezone);
    }
    assert!(!postgres.log().contains("DISCARD PLANS"), "{}", postgres.log());
}
