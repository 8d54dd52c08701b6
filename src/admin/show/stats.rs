//! SHOW STATS and its kin: what clients had done for them, in sums since the start and averages over a period.

use std::collections::BTreeMap;

use crate::admin::AdminState;
use crate::admin::state::StatTotals;
use crate::admin::table::{Cell, Table, Type};

/// The counts, in PgBouncer's order: what STATS_TOTALS, STATS_AVERAGES and TOTALS call them.
const COUNTS: [[&str; 3]; 12] = [
    ["server_assignment_count", "server_assignment_count", "server_assignment_count"],
    ["xact_count", "xact_count", "xact_count"],
    ["query_count", "query_count", "query_count"],
    ["bytes_received", "bytes_received", "client_bytes"],
    ["bytes_sent", "bytes_sent", "server_bytes"],
    ["xact_time", "xact_time", "xact_time"],
    ["query_time", "query_time", "query_time"],
    ["wait_time", "wait_time", "wait_time"],
    ["client_parse_count", "avg_client_parse_count", "ps_client_parse_count"],
    ["server_parse_count", "avg_server_parse_count", "ps_server_parse_count"],
    ["bind_count", "avg_bind_count", "ps_bind_count"],
    ["client_login_count", "avg_client_login_count", "client_login_count"],
];

/// STATS's names of sums and of averages.
const STATS: [[&str; 2]; 12] = [
    ["total_server_assignment_count", "avg_server_assignment_count"],
    ["total_xact_count", "avg_xact_count"],
    ["total_query_count", "avg_query_count"],
    ["total_received", "avg_recv"],
    ["total_sent", "avg_sent"],
    ["total_xact_time", "avg_xact_time"],
    ["total_query_time", "avg_query_time"],
    ["total_wait_time", "avg_wait_time"],
    ["total_client_parse_count", "avg_client_parse_count"],
    ["total_server_parse_count", "avg_server_parse_count"],
    ["total_bind_count", "avg_bind_count"],
    ["total_client_login_count", "avg_client_login_count"],
];

pub(super) const TOTALS: [(&str, Type); 2] = [("name", Type::Text), ("value", Type::Numeric)];

fn by_database(names: impl Iterator<Item = &'static str>) -> Table {
    let counts = names.map(|name| (name, Type::Numeric));
    Table::new(&[("database", Type::Text)].into_iter().chain(counts).collect::<Vec<_>>())
}

pub(super) fn stats() -> Table {
    by_database(STATS.iter().map(|names| names[0]).chain(STATS.iter().map(|names| names[1])))
}

pub(super) fn totals() -> Table {
    by_database(COUNTS.iter().map(|names| names[0]))
}

pub(super) fn averages() -> Table {
    by_database(COUNTS.iter().map(|names| names[1]))
}

pub(super) fn stats_rows(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    rows(admin_state, |sums, averages| sums.0.into_iter().chain(averages.0).collect())
}

pub(super) fn totals_rows(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    rows(admin_state, |sums, _| sums.0.to_vec())
}

pub(super) fn averages_rows(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    rows(admin_state, |_, averages| averages.0.to_vec())
}

fn rows(admin_state: &AdminState, pick: impl Fn(&StatTotals, &StatTotals) -> Vec<u64>) -> Vec<Vec<Cell>> {
    let averages = admin_state.averages();
    let rows = admin_state.sums().into_iter().map(|(database, sums)| {
        let average = averages.get(&database).copied().unwrap_or_default();
        let numbers = pick(&sums, &average);
        [Cell::Text(database)].into_iter().chain(numbers.into_iter().map(Cell::Number)).collect()
    });
    rows.collect()
}

pub(super) fn sums(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let total = |by: &BTreeMap<String, StatTotals>| {
        by.values().fold(StatTotals::default(), |all, one| StatTotals(std::array::from_fn(|at| all.0[at] + one.0[at])))
    };
    let (sums, averages) = (total(&admin_state.sums()), total(&admin_state.averages()));
    let rows = |prefix: &str, numbers: StatTotals| -> Vec<Vec<Cell>> {
        let named = COUNTS.iter().zip(numbers.0);
        named.map(|(names, number)| vec![format!("{prefix}_{}", names[2]).into(), number.into()]).collect()
    };
    [rows("total", sums), rows("avg", averages)].concat()
}
