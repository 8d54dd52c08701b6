//! Connections that lead nowhere any more, and nothing says so: a host that is gone, a firewall that has forgotten them.

use crate::cases::network::{Network, State};
use crate::harness::protocol_client::{query, tags};
use crate::harness::{Pgferry, Postgres, eventually};

/// New connections pass, as they do directly. So do requests, since pgferry asks first where one has been idle for long.
#[test]
fn that_were_idle_for_long_cost_no_client_its_request() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("create table lost (mode text)");
    for mode in ["session", "transaction"] {
        let network = Network::to(postgres.port);
        let ferry = Pgferry::start_with(&network.url(), &["--pool-mode", mode], &[]);
        let mut clients = [ferry.session(), ferry.session(), ferry.session()];
        for client in &mut clients {
            client.query("begin");
        }
        let pids = clients.each_mut().map(|client| client.value("select pg_backend_pid()")).join(", ");
        for client in &mut clients {
            client.query("commit");
        }
        drop(clients);
        network.make(State::LosesRequests);
        // Longer than pgferry takes their existence for granted. What it asks them meanwhile does not come there.
        let count = |condition: &str| {
            postgres.sql(&format!("select count(*) from pg_stat_activity where pid in ({pids}) and {condition}"))
        };
        eventually("they have been idle for long", || {
            count("state_change < clock_timestamp() - interval '6 s'") == "3"
        });
        let mut short = ferry.session();
        let inserted = short.query(&format!("insert into lost values ('{mode}')"));
        assert_eq!(tags(&inserted), "CZ", "{mode}: {inserted:?}");
        assert!(network.withheld() > 0, "{mode}: it was tried on one that is lost");
        // The others are not tried one after another.
        eventually("they are all left", || count("true") == "0");
        assert_eq!(postgres.sql(&format!("select count(*) from lost where mode = '{mode}'")), "1");
        drop(short);
        ferry.give_up();
    }
}

/// What pgferry asks of a server as it logs in again may be answered late: the answer is no client's.
#[test]
fn that_answer_pgferry_late_give_no_client_the_answer() {
    let postgres = Postgres::start_with(&[]);
    let network = Network::to(postgres.port);
    let env = [("PGFERRY_AUTH_RECHECK", "0"), ("PGFERRY_SERVER_CONNECT_TIMEOUT", "1s")];
    let ferry = Pgferry::start_with(&network.url(), &["--pool-mode", "transaction"], &env);
    let mut first = ferry.session();
    first.query("begin");
    network.hold_answers_to("own.usesysid");
    // Its role is known, so that it gets in nevertheless.
    let mut second = ferry.session();
    assert!(network.withheld() > 0, "the server was asked whether the role is the same");
    second.send(&query("select 'second'"));
    network.make(State::Passes);
    let answers = second.until_ready();
    assert_eq!((tags(&answers).as_str(), answers[1].columns()), ("TDCZ", vec!["second".to_owned()]), "{answers:?}");
    drop((first, second));
    ferry.give_up();
}
