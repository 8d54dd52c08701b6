//! What a session begins with by its role: the role itself, by its startup packet or by `ALTER ROLE … SET role`, and settings.

use super::script::{A, B, Params, SESSION_TWO, Script, TRANSACTION_TWO, compare};
use crate::harness::protocol_client::{query, startup};
use crate::harness::{Pgferry, Postgres, ProtocolClient, eventually};

fn logged_in(mut client: ProtocolClient, params: &[(&str, &str)]) -> ProtocolClient {
    client.send(&startup(&[&[("database", "postgres")][..], params].concat()));
    client.until_ready();
    client
}

#[test]
fn the_next_client_begins_with_it() {
    const WHO: &str = "select current_user";
    let postgres = Postgres::start_with(&[]);
    postgres.sql(
        "create role reader; create role plain login in role reader; create role changed login in role reader; \
        alter role changed set role = 'reader';",
    );
    let begun: [&[(&str, &str)]; 3] = [
        &[("user", "plain"), ("role", "reader")],
        &[("user", "plain"), ("options", "-c role=reader")],
        &[("user", "changed")],
    ];
    let ways: [&[&str]; 6] = [
        &["set role none"],
        &["set session authorization changed", "set session authorization plain", "set role none"],
        &["begin", "set role none", "commit"],
        &["begin", "set local role none", "commit"],
        &["select set_config('role', 'none', false)"],
        &["set role reader", "set role none"],
    ];
    for reset in ["auto", "on_change", "always"] {
        for mode in ["transaction", "session"] {
            let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "1", "--reset", reset]);
            for params in begun {
                for way in ways {
                    let mut one = logged_in(ferry.raw(), params);
                    for sql in way {
                        one.query(sql);
                    }
                    let mut direct = logged_in(ProtocolClient::tcp(postgres.port), params);
                    for sql in way {
                        direct.query(sql);
                    }
                    assert_eq!(one.value(WHO), direct.value(WHO), "{reset}, {mode}, {params:?}: {way:?}");
                    drop(one);
                    let next = logged_in(ferry.raw(), params).value(WHO);
                    assert_eq!(next, "reader", "{reset}, {mode}, {params:?}, behind {way:?}");
                }
            }
        }
    }
}

#[test]
fn a_client_keeps_the_settings_that_it_was_told() {
    const SHOW: &str = "show timezone";
    let postgres = Postgres::start_with(&["timezone='UTC'"]);
    postgres.sql("create role changed login;");
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    let mut one = logged_in(ferry.raw(), &[("user", "changed")]);
    let mut two = logged_in(ferry.raw(), &[("user", "changed")]);
    assert_eq!(one.value(SHOW), "UTC");
    two.query("set timezone = 'UTC'");
    // Through pgferry, which knows it at once: elsewhere, a connection that is opened before it is noticed changes what they get.
    ferry.session().query("alter role changed set timezone = 'Asia/Tokyo'");
    assert_eq!(logged_in(ferry.raw(), &[("user", "changed")]).value(SHOW), "Asia/Tokyo");
    for sql in ["select 1", "set timezone = 'GMT'; reset timezone", "set timezone = 'GMT'; reset all", "discard all"] {
        for client in [&mut one, &mut two] {
            let answer = client.query(sql);
            assert!(!answer.iter().any(|message| message.body == b"TimeZone\0Asia/Tokyo\0"), "{answer:?}");
            assert_eq!(client.value(SHOW), "UTC", "behind {sql}");
        }
    }
}

#[test]
fn a_client_that_waits_for_a_connection_meanwhile_keeps_them_too() {
    const SHOW: &str = "show timezone";
    let postgres = Postgres::start_with(&["timezone='UTC'"]);
    postgres.sql("create role changed login;");
    let args = ["--pool-mode", "transaction", "--pool-size", "1"];
    let ferry = Pgferry::start_with(&postgres.url(), &args, &[("PGFERRY_RESERVE_POOL_SIZE", "0")]);
    let [mut has, mut waits, mut rests] = [(); 3].map(|()| logged_in(ferry.raw(), &[("user", "changed")]));
    has.query("begin");
    waits.send(&query(SHOW));
    eventually("it waits", || ferry.report().get("waiting_now") == 1);
    ferry.session().query("alter role changed set timezone = 'Asia/Tokyo'");
    has.query("commit");
    let answer = waits.until_ready();
    assert!(answer.iter().any(|message| message.tag == b'D' && message.columns() == ["UTC"]), "{answer:?}");
    for client in [&mut has, &mut waits, &mut rests] {
        assert_eq!(client.value(SHOW), "UTC");
    }
}

#[test]
fn going_back_to_it_pins_no_client() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create role reader; create role other; create role plain login in role reader, other;");
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction", "--pool-size", "1"]);
    let params = [("user", "plain"), ("role", "reader")];
    let (mut one, mut two) = (logged_in(ferry.raw(), &params), logged_in(ferry.raw(), &params));
    for way in ["set role none; reset role", "begin; set local role other; commit", "set role other; set role reader"] {
        one.query(way);
        assert_eq!(two.value("select current_user"), "reader", "behind {way}");
    }
}

#[test]
fn reset_all_leaves_it_as_it_is() {
    const WHO: &str = "select current_user, session_user";
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create role reader; grant reader to trust_user;");
    let taken = |way: &str| {
        Script::new(way)
            .sql(A, way)
            .sql(A, "reset all")
            .sql(B, WHO)
            .sql(A, WHO)
            .sql(A, "set role none; set session authorization default; reset all")
            .sql(A, WHO)
            .sql(B, WHO)
    };
    let scripts = [
        "set role reader",
        "set \"role\" = reader",
        "set session session authorization reader",
        "set session_authorization = reader",
        "set session_authorization to reader; select 1",
        "select set_config('role', 'reader', false)",
        "select set_config('session_authorization', 'reader', false)",
        "update pg_settings set setting = 'reader' where name = 'role'",
        "begin; set \"role\" to reader; commit",
        "do $$ begin set role reader; end $$",
    ]
    .map(taken);
    compare(&postgres, &TRANSACTION_TWO, &scripts);
}

#[test]
fn reset_all_succeeds_as_a_role_that_may_not_set_what_the_session_began_with() {
    const BOSS: Params = &[("user", "boss"), ("options", "-c log_min_duration_statement=5min -c work_mem=6MB")];
    const SHOWS: &str =
        "select current_user, current_setting('log_min_duration_statement'), current_setting('work_mem')";
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create role boss superuser login; create role reader;");
    let resets = |way: &str| {
        Script::new(way)
            .comes_with(A, BOSS)
            .comes_with(B, &[("user", "boss")])
            .sql(B, SHOWS)
            .sql(A, "set role reader")
            .sql(A, way)
            .sql(A, SHOWS)
            .sql(A, "reset role")
            .sql(B, SHOWS)
            .sql(A, SHOWS)
    };
    let scripts = ["reset all", "reset all; select 1", "discard all", "reset work_mem"].map(resets);
    compare(&postgres, &[TRANSACTION_TWO[0], TRANSACTION_TWO[1], SESSION_TWO[0]], &scripts);
}
