//! The sources of functions are read by the rules of the client that has them run, whichever client had them run there first.

use super::script::Params;
use crate::harness::protocol_client::{parse, query, startup, sync};
use crate::harness::{Pgferry, Postgres, ProtocolClient};

const FUNCTIONS: &str = "create table things (x int); insert into things values (1); \
    create function returned() returns text language plpgsql as $$ begin return 'a\\\\b'; end $$; \
    create function selected() returns text language plpgsql as $$ declare y text; begin select 'a\\\\b' into y; return y; end $$; \
    create function ambiguous() returns text language plpgsql as $$ declare x int := 5; y text; \
        begin select x into y from things; return y; exception when ambiguous_column then return 'ambiguous'; end $$;";

const ALL: &str = "select returned(), selected(), ambiguous()";

const OFF: &str = "set standard_conforming_strings = off";

fn logged_in(mut client: ProtocolClient, params: &[(&str, &str)]) -> ProtocolClient {
    client.send(&startup(&[&[("user", "trust_user"), ("database", "postgres")][..], params].concat()));
    client.until_ready();
    client
}

fn read(client: &mut ProtocolClient) -> Vec<String> {
    let answer = client.query(ALL);
    answer.iter().find(|message| message.tag == b'D').unwrap_or_else(|| panic!("a row: {answer:?}")).columns()
}

fn servers(mode: &str, reset: &str) -> (Postgres, Pgferry) {
    let postgres = Postgres::start_with(&["escape_string_warning=off", "log_connections=on"]);
    postgres.sql(FUNCTIONS);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "1", "--reset", reset]);
    (postgres, ferry)
}

#[test]
fn whatever_another_client_had_set() {
    let params: Params = &[("standard_conforming_strings", "off")];
    let options: Params = &[("options", "-c plpgsql.variable_conflict=use_column -c backslash_quote=off")];
    let ways: [(Params, Vec<Vec<u8>>); 8] = [
        (params, vec![query(ALL)]),
        (options, vec![query(ALL)]),
        (&[], vec![query(OFF), query(ALL)]),
        (&[], vec![query(&format!("{OFF}; {ALL}"))]),
        (&[], vec![query("begin"), query("set local standard_conforming_strings = off"), query(ALL), query("commit")]),
        (&[], vec![query("select set_config('standard_conforming_strings', 'off', true), returned(), selected()")]),
        (&[], vec![query("set plpgsql.variable_conflict = use_column"), query(ALL)]),
        (&[], vec![query("begin; set local plpgsql.variable_conflict = use_variable"), query(ALL), query("rollback")]),
    ];
    for (mode, reset) in [("transaction", "auto"), ("transaction", "always"), ("session", "auto")] {
        let (postgres, ferry) = servers(mode, reset);
        let expected = read(&mut logged_in(ProtocolClient::tcp(postgres.port), &[]));
        for (params, way) in &ways {
            let mut one = logged_in(ferry.raw(), params);
            for request in way {
                one.send(request);
                one.until_ready();
            }
            drop(one);
            let context = || format!("{mode}, {reset}: {params:?} {:?}", String::from_utf8_lossy(&way.concat()));
            assert_eq!(read(&mut logged_in(ferry.raw(), &[])), expected, "{}", context());
        }
    }
}

#[test]
fn clients_with_the_same_rules_share_connections() {
    let (postgres, ferry) = servers("transaction", "auto");
    let before = postgres.connections_received();
    for _ in 0..10 {
        let mut client = logged_in(ferry.raw(), &[]);
        client.query(OFF);
        client.send(&[parse("s", ALL), sync()].concat());
        client.until_ready();
        assert_eq!(read(&mut client)[..2], ["a\\b", "a\\b"]);
    }
    assert!(postgres.connections_received() - before <= 3, "{}", ferry.log());
}
