//! Clients that go on asking before they have read what they were answered.

use super::script::{A, DEFAULTS, Script, compare};
use crate::harness::Postgres;
use crate::harness::protocol_client::{extended, query};

/// The server has answered, or waits for somebody to read.
const ANSWERED: &str = "select count(*) from pg_stat_activity where backend_type = 'client backend' \
    and pid <> pg_backend_pid() and state <> 'idle' and wait_event is distinct from 'ClientWrite'";

/// Of some of these sizes the end is in pgferry when the next request comes, and waits for the client to read.
#[test]
fn request_behind_an_answer_that_is_not_read_is_answered() {
    let postgres = Postgres::start_with(&[]);
    let sized = |kilobytes: usize| {
        Script::new(&format!("{kilobytes} kB"))
            .send(A, &[query(&format!("select repeat('x', 1000) from generate_series(1, {kilobytes})"))])
            .eventually(ANSWERED, "0")
            .send(A, &[query("select 'next'"), extended("select 1/0", &[])])
            .ready(A, 3)
            .leave(A)
    };
    let scripts: Vec<_> = (100..500).step_by(8).map(sized).collect();
    compare(&postgres, &DEFAULTS, &scripts);
}
