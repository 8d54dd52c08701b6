//! What the log says of the process as a whole.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::client::Shared;
use crate::config::Settings;
use crate::config::socket_path::split_socket_path;

/// Logs the line that a new user needs: how clients connect, where PostgreSQL is, the limits.
pub(super) fn announce(settings: &Settings, listeners: &[String]) {
    let dsns: Vec<_> = listeners.iter().map(|name| dsn(name)).collect();
    info!(
        "ready: clients connect with {}, PostgreSQL is at {}; {} mode, {} connections per pool, at most {}",
        dsns.join(" or "),
        settings.upstream.url.places(),
        settings.pool.pool_mode,
        settings.pool.pool_size,
        settings.pool.max_upstream.map_or("as many as the server has".to_owned(), |most| format!("{most} over all"))
    );
}

/// Warns of passwords that the settings name and that are not there. Nothing waits for the file systems that they are on.
pub(super) fn advise_on_passwords(shared: &Shared) {
    let server_side = Arc::clone(&shared.server_side);
    spawn_blocking(move || advise(&server_side.config.upstream_targets().missing_passwords()));
}

/// Warns of what an operator had better know.
pub(super) fn advise(advice: &[String]) {
    for line in advice {
        warn!("{}", line.replace("\n  hint: ", "; hint: "));
    }
}

/// Returns the connection string for the listener called `name`.
fn dsn(name: &str) -> String {
    let (host, port) = match split_socket_path(name) {
        Some(dir_and_port) => dir_and_port,
        None => name.rsplit_once(':').unwrap_or((name, "5432")),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    format!("\"host={host} port={port}\"")
}

/// The figures in one line.
pub(super) fn report(shared: &Shared) {
    let counters = shared.counters();
    info!(
        clients = counters.logins.get(),
        refused = counters.refused.get(),
        upstream_opened = counters.opened.get(),
        upstream_closed = counters.closed.get(),
        close_reasons = %counters.close_reasons(),
        upstream_reset = counters.reset.get(),
        time_waits = counters.time_waits.get(),
        no_port = counters.no_port.get(),
        ports_saved = counters.ports_saved(),
        upstream_failed = counters.failed.get(),
        logins_tried_upstream = counters.tried.get(),
        cancels = counters.cancels.get(),
        cancels_wrong = counters.wrong_cancels.get(),
        pinned = counters.pins.get(),
        pin_reasons = %counters.pin_reasons(),
        clients_now = shared.sessions.count(),
        pools_now = shared.pools.count(),
        upstream_now = shared.server_side.capacity.used(),
        idle_now = shared.pools.idle(),
        leased_now = shared.pools.leased(),
        waiting_now = shared.sessions.waiting(),
        "served {} client connections over {} upstream connections",
        counters.logins.get(),
        counters.opened.get(),
    );
}
