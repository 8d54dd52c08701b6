//! What the log says of the process as a whole.

use tracing::{info, warn};

use crate::client::Shared;
use crate::config::socket_path::split_socket_path;
use crate::config::{Auth, Listen, Rule, Settings};

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
    if settings.is_pass_through() && settings.upstream.url.password.is_some() {
        warn!(
            "the password in the upstream URL is not used: with auth_type = \"pass-through\" clients bring their own"
        );
    }
    let shows_certificate = settings.upstream.url.encryption.options().is_ok_and(|options| options.identity.is_some());
    if settings.auth.rules.iter().any(|rule| rule.method == Auth::PassThrough) && shows_certificate {
        warn!(
            "pgferry shows PostgreSQL a certificate of its own (sslcert): clients that are let in by that need no password \
             here with the method \"pass-through\""
        );
    }
    let trusts_all = settings.auth.rules.iter().any(|rule| *rule == Rule::for_all(Auth::Trust));
    if trusts_all && settings.listen.listen.iter().any(Listen::is_remote) {
        warn!("a [[rule]] without conditions trusts everybody, and other machines can connect");
    }
    if let Some(address) = settings.admin.admin_listen.as_ref().filter(|address| address.is_remote()) {
        warn!("admin_listen = \"{address}\": every machine that can connect to it can read the figures");
    }
    if trusts_all && settings.listen.unix_socket_mode & 0o007 != 0 {
        warn!(
            "auth_type = \"trust\" and unix_socket_mode = \"{:04o}\": every user of this machine gets in without a password",
            settings.listen.unix_socket_mode
        );
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
