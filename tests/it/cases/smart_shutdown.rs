//! A server that waits for its connections to end before it stops, and takes no new ones meanwhile: it does not wait for idle ones of
//! pgferry's once that has noticed.

use crate::harness::protocol_client::{startup, tags};
use crate::harness::{Pgferry, Postgres, ProtocolClient, Signal, eventually};

const PATIENCE: [(&str, &str); 2] = [("PGFERRY_QUERY_WAIT_TIMEOUT", "60s"), ("PGFERRY_CLIENT_LOGIN_TIMEOUT", "60s")];

fn in_transaction(ferry: &Pgferry) -> ProtocolClient {
    let mut client = ferry.session();
    client.query("begin");
    client
}

#[test]
fn a_smart_shutdown_waits_for_work_only() {
    for mode in ["session", "transaction"] {
        let mut postgres = Postgres::start_with(&[]);
        let ferry = Pgferry::start_with(&postgres.url(), &["-m", mode], &PATIENCE);
        let mut working = [in_transaction(&ferry), in_transaction(&ferry)];
        drop(in_transaction(&ferry));
        // In session mode it has the idle connection, and has not used it.
        let mut unused = ferry.session();
        postgres.signal(Signal::SIGTERM);
        eventually("it stops", || postgres.log().contains("received smart shutdown request"));
        let mut newcomer = ferry.raw();
        newcomer.send(&startup(&[("user", "trust_user"), ("database", "other")]));
        ferry.logs("takes no new connections");
        for client in &mut working {
            assert_eq!(client.value("select 1"), "1", "{mode}: work goes on");
            assert_eq!(tags(&client.query("commit")), "CZ", "{mode}");
        }
        drop(working);
        eventually("it has stopped", || postgres.log().contains("database system is shut down"));
        postgres.stop();
        postgres.start();
        assert!(tags(&newcomer.until_ready()).ends_with('Z'), "{mode}");
        assert_eq!(newcomer.value("select 2"), "2", "{mode}");
        assert_eq!(unused.value("select 3"), "3", "{mode}");
    }
}
