//! SHOW CONFIG, LISTS, MEM, STATE, VERSION, DNS_HOSTS: the process itself.

use std::collections::BTreeSet;

use crate::admin::AdminState;
use crate::admin::table::{Cell, Type};
use crate::config::keys::Change;
use crate::drain::Phase;
use crate::upstream::ServerSide;

pub(super) const CONFIG: [(&str, Type); 4] =
    [("key", Type::Text), ("value", Type::Text), ("default", Type::Text), ("changeable", Type::Text)];
pub(super) const LISTS: [(&str, Type); 2] = [("list", Type::Text), ("items", Type::Int)];
pub(super) const MEM: [(&str, Type); 5] =
    [("name", Type::Text), ("size", Type::Int), ("used", Type::Int), ("free", Type::Int), ("memtotal", Type::Int)];
pub(super) const STATE: [(&str, Type); 2] = [("key", Type::Text), ("value", Type::Text)];
pub(super) const VERSION: [(&str, Type); 1] = [("version", Type::Text)];
pub(super) const DNS_HOSTS: [(&str, Type); 3] = [("hostname", Type::Text), ("ttl", Type::Big), ("addrs", Type::Text)];

/// Every setting, and whether `SET` changes it; and PgBouncer's names of those that its tools look for.
pub(super) fn config(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let settings = admin_state.shared.server_side.config.settings.load_full();
    let plain = |text: &str| text.trim_matches('"').to_owned();
    let mut rows: Vec<Vec<Cell>> = settings
        .shown()
        .map(|(key, value, _)| {
            let value = match key.name {
                "upstream" => settings.upstream.url.to_string(),
                // The limit in force; what is written may be 0.
                "max_client_conn" => admin_state.shared.client_slots.cap().to_string(),
                _ => plain(value),
            };
            let changeable = if key.change == Change::Console { "yes" } else { "no" };
            vec![key.name.into(), value.into(), key.default.map(plain).into(), changeable.into()]
        })
        .collect();
    let alias = |name: &str, value: String| vec![name.into(), value.into(), Cell::Null, "no".into()];
    rows.push(alias("default_pool_size", settings.pool.pool_size.to_string()));
    rows.push(alias("max_user_connections", "0".into()));
    rows
}

pub(super) fn lists(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let pools = admin_state.shared.pools.all();
    let databases: BTreeSet<_> = pools.iter().map(|pool| &pool.key.database).collect();
    let users: BTreeSet<_> = pools.iter().map(|pool| &pool.key.user).collect();
    let client_slots = &admin_state.shared.client_slots;
    let logged_in = admin_state.shared.sessions.count();
    let idle = admin_state.shared.pools.idle();
    let ServerSide { config, capacity, .. } = &*admin_state.shared.server_side;
    let rows = [
        ("databases", databases.len()),
        ("users", users.len()),
        ("peers", 0),
        ("pools", pools.len()),
        ("peer_pools", 0),
        ("free_clients", client_slots.cap().saturating_sub(client_slots.used())),
        ("used_clients", logged_in),
        ("login_clients", client_slots.used().saturating_sub(logged_in)),
        ("free_servers", idle),
        ("used_servers", capacity.used().saturating_sub(idle)),
        ("dns_names", config.resolved().len()),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    rows.into_iter().map(|(list, items)| vec![list.into(), items.into()]).collect()
}

pub(super) fn mem(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let (size, lent, free) = admin_state.shared.server_side.buffers.usage();
    let resident = crate::admin::state::resident_memory_bytes().unwrap_or(0);
    vec![
        vec!["buffers".into(), size.into(), lent.into(), free.into(), (size * (lent + free)).into()],
        vec!["process".into(), Cell::Number(0), Cell::Number(1), Cell::Number(0), resident.into()],
    ]
}

pub(super) fn state(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let paused = admin_state.shared.server_side.pauses.all_paused();
    let ending = admin_state.shared.drain.phase() != Phase::Running;
    let yes = |truth: bool| if truth { "yes" } else { "no" };
    let rows = [("active", !paused && !ending), ("paused", paused), ("suspended", false), ("ending", ending)];
    rows.into_iter().map(|(key, truth)| vec![key.into(), yes(truth).into()]).collect()
}

pub(super) fn version() -> Vec<Vec<Cell>> {
    vec![vec![concat!("pgferry ", env!("CARGO_PKG_VERSION")).into()]]
}

pub(super) fn dns_hosts(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let config = &admin_state.shared.server_side.config;
    let ttl = config.settings.load().upstream.dns_max_ttl;
    let row = |(host, age, addresses): (String, std::time::Duration, Vec<std::net::SocketAddr>)| {
        let addresses: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
        vec![host.into(), ttl.saturating_sub(age).as_secs().into(), addresses.join(",").into()]
    };
    config.resolved().into_iter().map(row).collect()
}
