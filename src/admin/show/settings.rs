//! SHOW CONFIG, LISTS, MEM, STATE, VERSION, DNS_HOSTS: the process itself.

use std::collections::BTreeSet;

use crate::admin::Desk;
use crate::admin::table::{Cell, Type};
use crate::config::keys::Change;
use crate::drain::Phase;

pub(super) const CONFIG: [(&str, Type); 4] =
    [("key", Type::Text), ("value", Type::Text), ("default", Type::Text), ("changeable", Type::Text)];
pub(super) const LISTS: [(&str, Type); 2] = [("list", Type::Text), ("items", Type::Int)];
pub(super) const MEM: [(&str, Type); 5] =
    [("name", Type::Text), ("size", Type::Int), ("used", Type::Int), ("free", Type::Int), ("memtotal", Type::Int)];
pub(super) const STATE: [(&str, Type); 2] = [("key", Type::Text), ("value", Type::Text)];
pub(super) const VERSION: [(&str, Type); 1] = [("version", Type::Text)];
pub(super) const DNS_HOSTS: [(&str, Type); 3] = [("hostname", Type::Text), ("ttl", Type::Big), ("addrs", Type::Text)];

/// Every setting, and whether `SET` changes it; and PgBouncer's names of those that its tools look for.
pub(super) fn config(desk: &Desk) -> Vec<Vec<Cell>> {
    let settings = desk.shared.registry.settings.load_full();
    let plain = |text: &str| text.trim_matches('"').to_owned();
    let mut rows: Vec<Vec<Cell>> = settings
        .shown()
        .map(|(key, value, _)| {
            let value = match key.name {
                "upstream" => settings.upstream.to_string(),
                // The limit in force; what is written may be 0.
                "max_client_conn" => desk.shared.places.cap().to_string(),
                _ => plain(value),
            };
            let changeable = if key.change == Change::Console { "yes" } else { "no" };
            vec![key.name.into(), value.into(), key.default.map(plain).into(), changeable.into()]
        })
        .collect();
    let alias = |name: &str, value: String| vec![name.into(), value.into(), Cell::Null, "no".into()];
    rows.push(alias("default_pool_size", settings.pool_size.to_string()));
    rows.push(alias("max_user_connections", "0".into()));
    rows
}

pub(super) fn lists(desk: &Desk) -> Vec<Vec<Cell>> {
    let registry = &desk.shared.registry;
    let pools = registry.all_pools();
    let databases: BTreeSet<_> = pools.iter().map(|pool| &pool.key.database).collect();
    let users: BTreeSet<_> = pools.iter().map(|pool| &pool.key.user).collect();
    let places = &desk.shared.places;
    let logged_in = desk.shared.sessions.count();
    let idle = registry.idle();
    let rows = [
        ("databases", databases.len()),
        ("users", users.len()),
        ("peers", 0),
        ("pools", pools.len()),
        ("peer_pools", 0),
        ("free_clients", places.cap().saturating_sub(places.used())),
        ("used_clients", logged_in),
        ("login_clients", places.used().saturating_sub(logged_in)),
        ("free_servers", idle),
        ("used_servers", registry.open().saturating_sub(idle)),
        ("dns_names", registry.resolved().len()),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    rows.into_iter().map(|(list, items)| vec![list.into(), items.into()]).collect()
}

pub(super) fn mem(desk: &Desk) -> Vec<Vec<Cell>> {
    let registry = &desk.shared.registry;
    let (size, lent, free) = registry.buffers.usage();
    let resident = crate::admin::desk::resident().unwrap_or(0);
    vec![
        vec!["buffers".into(), size.into(), lent.into(), free.into(), (size * (lent + free)).into()],
        vec!["process".into(), Cell::Number(0), Cell::Number(1), Cell::Number(0), resident.into()],
    ]
}

pub(super) fn state(desk: &Desk) -> Vec<Vec<Cell>> {
    let paused = desk.shared.registry.switches.all_paused();
    let ending = desk.shared.drain.phase() != Phase::Running;
    let yes = |truth: bool| if truth { "yes" } else { "no" };
    let rows = [("active", !paused && !ending), ("paused", paused), ("suspended", false), ("ending", ending)];
    rows.into_iter().map(|(key, truth)| vec![key.into(), yes(truth).into()]).collect()
}

pub(super) fn version() -> Vec<Vec<Cell>> {
    vec![vec![concat!("pgferry ", env!("CARGO_PKG_VERSION")).into()]]
}

pub(super) fn dns_hosts(desk: &Desk) -> Vec<Vec<Cell>> {
    let ttl = desk.shared.registry.settings.load().dns_max_ttl;
    let row = |(host, age, addresses): (String, std::time::Duration, Vec<std::net::SocketAddr>)| {
        let addresses: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
        vec![host.into(), ttl.saturating_sub(age).as_secs().into(), addresses.join(",").into()]
    };
    desk.shared.registry.resolved().into_iter().map(row).collect()
}
