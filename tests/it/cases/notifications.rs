//! Notifications name the process they come from: a client's own pid stands for itself and for no other.

use super::script::{Findings, PATIENCE, SESSION, Setup, TRANSACTION};
use crate::harness::protocol_client::{query, startup, terminate};
use crate::harness::{Pgferry, Postgres, ProtocolClient, Received, eventually};

/// A client and the pid it was told.
fn client(ferry: &Pgferry) -> (ProtocolClient, i32) {
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    let greeting = raw.until_ready();
    let key = greeting.iter().find(|message| message.tag == b'K').expect("a key");
    let pid = i32::from_be_bytes(key.body[..4].try_into().expect("four bytes"));
    (raw, pid)
}

/// The pid of the next notification.
fn notified_by(raw: &mut ProtocolClient) -> i32 {
    loop {
        match raw.receive(PATIENCE) {
            Received::Message(message) if message.tag == b'A' => {
                return i32::from_be_bytes(message.body[..4].try_into().expect("four bytes"));
            }
            Received::Message(_) => {}
            Received::End | Received::Nothing => panic!("no notification within {PATIENCE:?}"),
        }
    }
}

/// A listener that was told the pid of a connection that it lost before it used it; that connection's new client
/// notifies.
fn lost_loan(setup: Setup, postgres: &Postgres, findings: &mut Findings) {
    let ferry = setup.start(postgres);
    let (mut first, _) = client(&ferry);
    let (mut other, _) = client(&ferry);
    first.query("select 1");
    other.query("select 1");
    first.send(&terminate());
    first.read_to_end();
    eventually("a connection is idle", || ferry.report().get("idle_now") >= 1 || setup.mode == "transaction");
    let (mut listener, told) = client(&ferry);
    let (mut notifier, _) = client(&ferry);
    notifier.query("select 1");
    other.send(&terminate());
    other.read_to_end();
    listener.query("listen lost_loan");
    notifier.query("notify lost_loan, 'x'");
    let by = notified_by(&mut listener);
    if by == told {
        findings.add(format!("a notification of another client bears the listener's own pid, {setup:?}"));
    }
    listener.send(&query("notify lost_loan, 'mine'"));
    let by = notified_by(&mut listener);
    if by != told {
        findings.add(format!("the listener's own notification bears pid {by}, and it was told {told}, {setup:?}"));
    }
    ferry.give_up();
}

#[test]
fn notification_of_another_client_never_bears_the_listeners_own_pid() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    for setup in [SESSION[1], SESSION[3], TRANSACTION[1], TRANSACTION[3], TRANSACTION[5]] {
        lost_loan(setup, &postgres, &mut findings);
    }
    findings.report();
}

/// Many clients that come, listen and go: each tells its own notifications from others'.
#[test]
fn notification_of_ones_own_bears_the_pid_that_was_told() {
    let postgres = Postgres::start_with(&[]);
    let mut findings = Findings::default();
    for setup in [Setup { pool: "4", ..SESSION[0] }, Setup { pool: "4", ..TRANSACTION[0] }] {
        let ferry = setup.start(&postgres);
        for nth in 0..20 {
            let mut clients: Vec<_> = (0..4).map(|_| client(&ferry)).collect();
            let order = [nth % 4, (nth + 1) % 4, (nth + 2) % 4, (nth + 3) % 4];
            for at in order {
                clients[at].0.query("listen own");
            }
            for at in order {
                clients[at].0.send(&query("notify own"));
                let pids: Vec<_> = clients.iter_mut().map(|(raw, told)| notified_by(raw) == *told).collect();
                if pids.iter().enumerate().any(|(nth, own)| *own != (nth == at)) {
                    findings.add(format!("taken for its own: {pids:?} where {at} notifies, {setup:?}"));
                }
                // Behind the notification there is the answer, for the one that notifies.
            }
            for (mut raw, _) in clients {
                raw.try_send(&terminate());
            }
        }
        ferry.give_up();
    }
    findings.report();
}
