//! SHOW DATABASES and SHOW USERS.

use std::collections::BTreeMap;

use super::name;
use crate::admin::AdminState;
use crate::admin::table::{Cell, Type};
use crate::client::startup_cache::Replication;
use crate::config::{CONSOLE, Host};
use crate::upstream::ServerSide;

pub(super) const DATABASES: [(&str, Type); 17] = [
    ("name", Type::Text),
    ("host", Type::Text),
    ("port", Type::Int),
    ("database", Type::Text),
    ("force_user", Type::Text),
    ("pool_size", Type::Int),
    ("min_pool_size", Type::Int),
    ("reserve_pool_size", Type::Int),
    ("server_lifetime", Type::Int),
    ("pool_mode", Type::Text),
    ("load_balance_hosts", Type::Text),
    ("max_connections", Type::Int),
    ("current_connections", Type::Int),
    ("max_client_connections", Type::Int),
    ("current_client_connections", Type::Int),
    ("paused", Type::Int),
    ("disabled", Type::Int),
];

pub(super) const USERS: [(&str, Type); 8] = [
    ("name", Type::Text),
    ("pool_size", Type::Text),
    ("reserve_pool_size", Type::Text),
    ("pool_mode", Type::Text),
    ("max_user_connections", Type::Int),
    ("current_connections", Type::Int),
    ("max_user_client_connections", Type::Int),
    ("current_client_connections", Type::Int),
];

/// Numbers of connections and clients.
#[derive(Clone, Copy, Default)]
struct Now {
    servers: usize,
    clients: usize,
}

/// Connections and clients by what `key` picks of a (database, user).
fn now(admin_state: &AdminState, key: impl Fn(&[u8], &[u8]) -> String) -> BTreeMap<String, Now> {
    let mut now = BTreeMap::<String, Now>::new();
    for pool in admin_state.shared.pools.with_former() {
        now.entry(key(&pool.key.database, &pool.key.user)).or_default().servers += pool.conn_infos.all().len();
    }
    for session in admin_state.shared.sessions.all() {
        let now = now.entry(key(session.target.database(), session.target.user())).or_default();
        now.clients += 1;
        now.servers += usize::from(session.target.replication() != Replication::None);
    }
    now
}

pub(super) fn databases(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let ServerSide { config, capacity, pauses, .. } = &*admin_state.shared.server_side;
    let general = config.settings.load_full();
    let mut now = now(admin_state, |database, _| name(database));
    // What is paused has neither clients nor connections, before long.
    for known in general.databases.keys().chain(&pauses.databases()) {
        now.entry(name(known)).or_default();
    }
    now.entry(CONSOLE[0].to_owned()).or_default();
    now.into_iter()
        .map(|(database, now)| {
            let settings = general.of(database.as_bytes());
            let switch = pauses.of(database.as_bytes());
            let hosts: Vec<_> = settings.upstream.url.endpoints.iter().map(|endpoint| &endpoint.host).collect();
            let shown = |host: &Host| match host {
                Host::Tcp(host, _) => host.clone(),
                Host::Unix(dir, _) => dir.display().to_string(),
            };
            let host = hosts.iter().map(|host| shown(host)).collect::<Vec<_>>().join(",");
            let port = hosts.first().map_or(0, |host| host.port());
            vec![
                database.clone().into(),
                host.into(),
                u32::from(port).into(),
                settings.upstream.dbname.clone().unwrap_or(database).into(),
                settings.upstream.force_user.clone().into(),
                settings.pool.pool_size.into(),
                settings.pool.min_pool_size.into(),
                settings.pool.reserve_pool_size.into(),
                settings.timeouts.server_lifetime.map(|lifetime| lifetime.as_secs()).into(),
                settings.pool.pool_mode.to_string().into(),
                Cell::Null,
                capacity.max_upstream().into(),
                now.servers.into(),
                Cell::Number(0),
                now.clients.into(),
                switch.paused.into(),
                switch.disabled.into(),
            ]
        })
        .collect()
}

pub(super) fn users(admin_state: &AdminState) -> Vec<Vec<Cell>> {
    let settings = admin_state.shared.server_side.config.settings.load_full();
    let mut users = now(admin_state, |_, user| name(user));
    for limited in settings.auth.limits.keys() {
        users.entry(name(limited)).or_default();
    }
    users
        .into_iter()
        .map(|(user, now)| {
            let limits = settings.auth.limits.get(user.as_bytes()).copied().unwrap_or_default();
            vec![
                user.into(),
                limits.pool_size.map(|size| size.to_string()).into(),
                Cell::Null,
                Cell::Null,
                limits.max_user_connections.unwrap_or(0).into(),
                now.servers.into(),
                limits.max_user_client_connections.unwrap_or(0).into(),
                now.clients.into(),
            ]
        })
        .collect()
}
