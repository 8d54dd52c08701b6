//! A page that shows at a snapshot what figures can't, and the figures that it shows.

use std::time::Instant;

use serde::Serialize;

use super::AdminState;
use super::health;
use super::state::{RecentError, Sample};
use crate::client::session_handle::Activity;
use crate::drain::Phase;
use crate::upstream::histogram::BOUNDS;

/// The page: it loads nothing but its figures.
pub(crate) const HTML: &str = include_str!("page.html");

/// Content security policy of the page: its own script, its own style, and requests for its figures.
pub(crate) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
    frame-ancestors 'none'";

/// Number of waiting clients that are named.
const MAX_WAITING_SHOWN: usize = 20;

/// Number of pools that are shown.
const MAX_POOLS_SHOWN: usize = 100;

#[derive(Serialize)]
struct Status {
    version: &'static str,
    ready: bool,
    /// Reason why it is not ready.
    why: Option<String>,
    phase: &'static str,
    mode: String,
    upstream: String,
    max_upstream: usize,
    bounds: [u64; BOUNDS.len()],
    now: Sample,
    samples: Vec<Sample>,
    ports: Ports,
    pools: Vec<Pool>,
    waiting: Vec<Waiting>,
    pins: Vec<Pin>,
    errors: Vec<RecentError>,
}

#[derive(Serialize)]
struct Ports {
    saved: u64,
    time_waits: u64,
    unavailable: u64,
}

#[derive(Serialize)]
struct Pool {
    database: String,
    user: String,
    leased: usize,
    idle: usize,
    waiting: usize,
    size: usize,
    mode: String,
}

#[derive(Serialize)]
struct Waiting {
    client: u64,
    database: String,
    user: String,
    application_name: String,
    milliseconds: u128,
}

#[derive(Serialize)]
struct Pin {
    reason: &'static str,
    live: usize,
    count: u64,
}

impl Pin {
    fn of((reason, count, live): (&'static str, u64, usize)) -> Self {
        Self { reason, live, count }
    }
}

/// The page's figures, as JSON.
#[must_use]
pub(crate) fn figures(admin_state: &AdminState) -> String {
    let shared = &admin_state.shared;
    let settings = shared.server_side.config.settings.load_full();
    let counters = shared.counters();
    let verdict = health::ready(shared);
    let status = Status {
        version: concat!("version ", env!("CARGO_PKG_VERSION")),
        ready: verdict.is_ok(),
        why: verdict.err(),
        phase: match shared.drain.phase() {
            Phase::Running => "serving",
            _ => "ending",
        },
        mode: settings.pool.pool_mode.to_string(),
        upstream: settings.upstream.url.places(),
        max_upstream: shared.server_side.capacity.max_upstream(),
        bounds: BOUNDS,
        now: admin_state.sample(),
        samples: admin_state.samples(),
        ports: Ports {
            saved: counters.ports_saved(),
            time_waits: counters.time_waits.get(),
            unavailable: counters.no_port.get(),
        },
        pools: pools(admin_state),
        waiting: waiting(admin_state),
        pins: admin_state.pins().into_iter().filter(|(_, count, _)| *count > 0).map(Pin::of).collect(),
        errors: admin_state.errors(),
    };
    // Numbers and texts only.
    serde_json::to_string(&status).unwrap_or_default()
}

/// Returns the pools, those in use first.
fn pools(admin_state: &AdminState) -> Vec<Pool> {
    let pools = admin_state.shared.pools.all().into_iter().map(|pool| {
        let state = pool.state();
        Pool {
            database: text(&pool.key.database),
            user: text(&pool.key.user),
            leased: state.leased,
            idle: state.idle,
            waiting: state.waiting,
            size: state.size,
            mode: admin_state.shared.settings_of(&pool.key.database).pool.pool_mode.to_string(),
        }
    });
    let mut pools: Vec<_> = pools.collect();
    pools.sort_by_key(|pool| std::cmp::Reverse((pool.waiting, pool.leased, pool.idle)));
    pools.truncate(MAX_POOLS_SHOWN);
    pools
}

/// Waiting clients, the longest first.
fn waiting(admin_state: &AdminState) -> Vec<Waiting> {
    let now = Instant::now();
    let all = admin_state.shared.sessions.all();
    let waiting = all.iter().filter_map(|session| {
        let snapshot = session.snapshot();
        let since = snapshot.requested.filter(|_| snapshot.activity == Activity::Waiting)?;
        Some(Waiting {
            client: session.id,
            database: text(session.target.database()),
            user: text(session.target.user()),
            application_name: snapshot.application_name,
            milliseconds: now.saturating_duration_since(since).as_millis(),
        })
    });
    let mut waiting: Vec<_> = waiting.collect();
    waiting.sort_by_key(|one| std::cmp::Reverse(one.milliseconds));
    waiting.truncate(MAX_WAITING_SHOWN);
    waiting
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
