//! Properties of a transaction, which can be set until it has taken a snapshot: what pgferry asks the server takes none.

use super::script::{A, Script, TRANSACTION, compare, step};
use crate::harness::Postgres;
use crate::harness::protocol_client::sync;

#[test]
fn isolation_level_can_be_set_behind_settings_in_a_pipeline() {
    let scripts: Vec<_> = [
        "set standard_conforming_strings = off",
        "set client_encoding = 'LATIN1'",
        "set local timezone = 'Asia/Tokyo'",
        "reset standard_conforming_strings",
        "reset all",
    ]
    .iter()
    .map(|setting| {
        let texts = ["begin", setting, "set transaction isolation level serializable", "show transaction_isolation"];
        let pipeline: Vec<_> = texts.iter().map(|sql| step(sql)).chain([step("commit"), sync()]).collect();
        Script::new(setting).ask(A, &pipeline).sql(A, "show transaction_isolation")
    })
    .collect();
    compare(Postgres::shared(), &TRANSACTION, &scripts);
}

#[test]
fn settings_in_a_pipeline_need_no_right_to_run_functions() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql(
        "create role allowed_little login; \
         revoke execute on function current_setting(text), current_setting(text, boolean) from public",
    );
    let pipeline = [step("set standard_conforming_strings = off"), step("show standard_conforming_strings"), sync()];
    let script = Script::new("without current_setting").comes_with(A, &[("user", "allowed_little")]).ask(A, &pipeline);
    compare(&postgres, &TRANSACTION, &[script]);
}
