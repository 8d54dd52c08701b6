//! SHOW POOLS: connections and waiting clients, by database and user.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::name;
use crate::admin::AdminState;
use crate::admin::table::{Cell, Type};
use crate::client::session_handle::Activity;

pub(super) const POOLS: [(&str, Type); 17] = [
    ("database", Type::Text),
    ("user", Type::Text),
    ("cl_active", Type::Int),
    ("cl_waiting", Type::Int),
    ("cl_active_cancel_req", Type::Int),
    ("cl_waiting_cancel_req", Type::Int),
    ("sv_active", Type::Int),
    ("sv_active_cancel", Type::Int),
    ("sv_being_canceled", Type::Int),
    ("sv_idle", Type::Int),
    ("sv_used", Type::Int),
    ("sv_tested", Type::Int),
    ("sv_login", Type::Int),
    ("maxwait", Type::Int),
    ("maxwait_us", Type::Int),
    ("pool_mode", Type::Text),
    ("load_balance_hosts", Type::Text),
];

#[derive(Default)]
struct Row {
    clients: usize,
    waiting: usize,
    leased: usize,
    being_canceled: usize,
    idle: usize,
    opening: usize,
    longest: Duration,
    mode: String,
}

pub(super) fn pools(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let now = Instant::now();
    let mut rows = BTreeMap::<(String, String), Row>::new();
    for pool in admin_state.shared.pools.with_former() {
        let row = rows.entry((name(&pool.key.database), name(&pool.key.user))).or_default();
        let state = pool.state();
        let conn_infos = pool.conn_infos.all();
        row.being_canceled += conn_infos.iter().filter(|conn_info| !conn_info.gate.is_open()).count();
        row.leased += state.leased;
        row.idle += state.idle;
        row.opening += state.opening;
        row.waiting += pool.logging_in();
        row.mode = admin_state.shared.settings_of(&pool.key.database).pool.pool_mode.to_string();
    }
    for session in admin_state.shared.sessions.all() {
        let row = rows.entry((name(session.target.database()), name(session.target.user()))).or_default();
        let snapshot = session.snapshot();
        if snapshot.activity == Activity::Waiting {
            row.waiting += 1;
            let waited = snapshot.requested.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            row.longest = row.longest.max(waited);
        } else {
            row.clients += 1;
        }
    }
    rows.into_iter()
        .map(|((database, user), row)| {
            let (waited, micros) = (row.longest.as_secs(), row.longest.subsec_micros());
            let mode = if row.mode.is_empty() { "session".to_owned() } else { row.mode };
            vec![
                database.into(),
                user.into(),
                row.clients.into(),
                row.waiting.into(),
                Cell::Number(0),
                Cell::Number(0),
                row.leased.into(),
                Cell::Number(0),
                row.being_canceled.into(),
                row.idle.into(),
                Cell::Number(0),
                Cell::Number(0),
                row.opening.into(),
                waited.into(),
                micros.into(),
                mode.into(),
                Cell::Null,
            ]
        })
        .collect()
}
