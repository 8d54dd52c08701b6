//! Texts of errors: the client's own name where PostgreSQL names a prepared statement, and nothing else is touched.

use super::script::{A, Script, TRANSACTION, compare, run, step};
use crate::harness::Postgres;
use crate::harness::protocol_client::{parse, query, sync};

#[test]
fn error_texts_are_postgresqls_but_for_the_names_of_statements() {
    let named = Script::new("of a number of parameters")
        .ask(A, &[parse("mine", "select $1::int"), sync()])
        .ask(A, &[run("mine", &["1"]), sync()])
        .ask(A, &[run("mine", &[]), sync()])
        .sql(A, "execute mine")
        .sql(A, "execute mine(1, 2)");
    // Statements get numbers one after the other.
    let of_the_client =
        (1..9).fold(Script::new("of the client").ask(A, &[parse("mine", "select 1"), sync()]), |script, n| {
            script
                .ask(A, &[query(&format!("do $$ begin raise 'about \"pgferry_{n}\"'; end $$"))])
                .ask(A, &[step(&format!("select 'pgferry_{n}'::int")), sync()])
        });
    compare(Postgres::shared(), &TRANSACTION[..2], &[named, of_the_client]);
}
