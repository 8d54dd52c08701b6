//! The figures as Prometheus reads them: OpenMetrics, or the older text format for scrapers that don't ask for it.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;

use crate::client::Shared;
use crate::log;
use crate::track::Pins;
use crate::upstream::counter::Counter;
use crate::upstream::histogram::{BOUNDS, Histogram};
use crate::upstream::occupancy::Occupancy;
use crate::upstream::pool_stats::PoolStats;
use crate::upstream::roles::DatabaseUser;
use crate::upstream::{CloseReason, Pools, ServerSide};

/// A figure of a server's.
type Of = fn(&Occupancy) -> usize;

/// Gauges of a server's connections: name, help, value.
const SERVER: [(&str, &str, Of); 3] = [
    (
        "pgferry_server_connections_max",
        "Connections that PostgreSQL has for roles that are no superusers.",
        Occupancy::places,
    ),
    (
        "pgferry_server_connections",
        "Client connections to PostgreSQL at the last look, those of others included.",
        |seen| seen.used,
    ),
    ("pgferry_server_connections_idle", "Those of them that are known to be idle.", |seen| seen.idle),
];

/// Number of (database, user)s with lines of their own; further ones are summed up under `other`.
const MAX_POOLS: usize = 100;

/// The longest label, in bytes: PostgreSQL's own names are shorter. Those that are alike up to there share a line.
const MAX_LABEL_BYTES: usize = 64;

/// Format of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4.
    Text,
}

impl Format {
    /// Returns the format that a client's `Accept` header asks for.
    #[must_use]
    pub(crate) fn wanted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// The page's `Content-Type`.
    #[must_use]
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All figures.
#[must_use]
pub(crate) fn page(shared: &Shared, format: Format) -> String {
    let mut page = Page { text: String::with_capacity(16 * 1024), format };
    page.process(shared);
    page.clients(shared);
    page.upstream(shared);
    page.ports(shared);
    page.pools(&Row::all(&shared.pools));
    page.times(shared);
    if format == Format::OpenMetrics {
        page.text.push_str("# EOF\n");
    }
    page.text
}

/// The figures of one (database, user).
#[derive(Default)]
struct Row {
    leased: usize,
    idle: usize,
    waiting: usize,
    size: usize,
    stats: [u64; 9],
}

impl Row {
    /// By database and user; what is beyond the limit is `other`.
    fn all(pools: &Pools) -> BTreeMap<(String, String), Self> {
        // What was done outlives the pools that did it.
        let mut rows = Self::counted(pools.server_side.roles.all_stats());
        for pool in pools.with_former() {
            let row = Self::of(&mut rows, &pool.key.database, &pool.key.user);
            let state = pool.state();
            row.leased += state.leased;
            row.idle += state.idle;
            row.waiting += state.waiting;
        }
        for pool in pools.all() {
            Self::of(&mut rows, &pool.key.database, &pool.key.user).size += pool.state().size;
        }
        rows
    }

    /// The counts of `stats`; the first of them have lines of their own.
    fn counted(stats: Vec<(DatabaseUser, Arc<PoolStats>)>) -> BTreeMap<(String, String), Self> {
        let mut rows = BTreeMap::<_, Self>::new();
        for ((database, user), stats) in stats {
            let row = Self::of(&mut rows, &database, &user);
            let counters = [
                stats.logins(),
                &stats.assignments,
                &stats.queries,
                &stats.transactions,
                &stats.received,
                &stats.sent,
                &stats.client_parses,
                &stats.server_parses,
                &stats.binds,
            ];
            for (sum, counter) in row.stats.iter_mut().zip(counters) {
                *sum += counter.get();
            }
        }
        rows
    }

    fn of<'a>(rows: &'a mut BTreeMap<(String, String), Self>, database: &[u8], user: &[u8]) -> &'a mut Self {
        let show = |name: &[u8]| {
            let name = String::from_utf8_lossy(name);
            match log::cut(&name, MAX_LABEL_BYTES) {
                short if short.len() < name.len() => format!("{short}…"),
                _ => name.into_owned(),
            }
        };
        let mut labels = (show(database), show(user));
        if rows.len() >= MAX_POOLS && !rows.contains_key(&labels) {
            labels = ("other".to_owned(), "other".to_owned());
        }
        rows.entry(labels).or_default()
    }
}

/// Names of the numbers in a row's `stats`, in their order.
const POOL_STATS: [(&str, &str); 9] = [
    ("pgferry_pool_logins", "Clients that logged in."),
    ("pgferry_pool_assignments", "Server connections given to clients."),
    ("pgferry_pool_queries", "Requests answered by PostgreSQL with ReadyForQuery."),
    ("pgferry_pool_transactions", "Transactions that ended, single statements included."),
    ("pgferry_pool_received_bytes", "Bytes received from clients after their login."),
    ("pgferry_pool_sent_bytes", "Bytes sent to clients after their login."),
    ("pgferry_pool_client_parses", "Parse messages of clients."),
    ("pgferry_pool_server_parses", "Parse messages sent to PostgreSQL."),
    ("pgferry_pool_binds", "Bind messages of clients."),
];

struct Page {
    text: String,
    format: Format,
}

impl Page {
    fn process(&mut self, shared: &Shared) {
        self.head("pgferry_build_info", "gauge", "The version that runs.");
        self.line("pgferry_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        let draining = u8::from(shared.drain.phase() != crate::drain::Phase::Running);
        self.gauge("pgferry_draining", "1 while the process is shutting down.", draining);
        self.head_counter("pgferry_log_lines_dropped", "Log lines dropped because standard error was not read.");
        self.line("pgferry_log_lines_dropped_total", &[], shared.log.dropped());
    }

    fn clients(&mut self, shared: &Shared) {
        let counters = shared.counters();
        self.counter("pgferry_client_logins", "Clients that logged in.", &counters.logins);
        self.counter("pgferry_clients_rejected", "Clients that were not let in.", &counters.refused);
        self.head_counter("pgferry_client_tls_requests", "Clients that asked for TLS, by outcome.");
        let tls = &counters.client_tls;
        for (outcome, counter) in
            [("established", &tls.established), ("declined", &tls.declined), ("failed", &tls.failed)]
        {
            self.line("pgferry_client_tls_requests_total", &[("outcome", outcome)], counter.get());
        }
        self.gauge("pgferry_clients", "Clients that are logged in.", shared.sessions.count());
        self.gauge("pgferry_clients_waiting", "Clients waiting for a server connection.", shared.sessions.waiting());
        self.gauge("pgferry_clients_max", "Maximum number of clients.", shared.client_slots.cap());
        self.counter("pgferry_cancels", "Cancel requests sent to PostgreSQL.", &counters.cancels);
        self.counter(
            "pgferry_cancels_rejected",
            "Cancel requests with a wrong key, or for no session.",
            &counters.wrong_cancels,
        );
        self.counter("pgferry_auth_failures", "Wrong passwords, found here or upstream.", &counters.wrong_passwords);
        self.counter("pgferry_pins", "Server connections kept by a client because of session state.", &counters.pins);
        self.head_counter("pgferry_pins_by_reason", "Pins by reason; one pin may have several.");
        for ((_, reason), counter) in Pins::NAMES.iter().zip(&counters.pins_by_reason) {
            self.line("pgferry_pins_by_reason_total", &[("reason", reason)], counter.get());
        }
    }

    fn upstream(&mut self, shared: &Shared) {
        let ServerSide { config, counters, capacity, .. } = &*shared.server_side;
        self.counter("pgferry_upstream_opened", "Server connections opened.", &counters.opened);
        self.head_counter("pgferry_upstream_closed", "Server connections closed, by reason.");
        for ((_, reason), counter) in CloseReason::NAMES.iter().zip(&counters.closed_by_reason) {
            self.line("pgferry_upstream_closed_total", &[("reason", reason)], counter.get());
        }
        self.head_counter("pgferry_upstream_failed", "Failed attempts to open a server connection, by SQLSTATE.");
        for (code, count) in counters.failures.by_code() {
            self.line("pgferry_upstream_failed_total", &[("sqlstate", &code)], count);
        }
        self.counter("pgferry_upstream_aborted", "Server connections closed by an abort (RST).", &counters.reset);
        self.counter("pgferry_auth_attempts_upstream", "Logins that had to be tried at PostgreSQL.", &counters.tried);
        self.gauge("pgferry_upstream_connections", "Server connections, in any state.", capacity.used());
        let max = capacity.max_upstream();
        self.gauge("pgferry_upstream_connections_max", "Maximum number of server connections (max_upstream).", max);
        self.gauge(
            "pgferry_upstream_connections_share",
            "Those of them that are opened without closing idle ones of other pools.",
            capacity.share().min(max),
        );
        let upstream_targets = config.upstream_targets();
        let seen: Vec<_> = upstream_targets
            .all()
            .iter()
            .filter_map(|upstream_target| Some((upstream_target.places(), upstream_target.room.seen()?)))
            .collect();
        for (name, help, value) in SERVER {
            self.head(name, "gauge", help);
            for (places, occupancy) in &seen {
                self.line(name, &[("upstream", places)], value(occupancy));
            }
        }
    }

    fn ports(&mut self, shared: &Shared) {
        let counters = shared.counters();
        self.head_counter("pgferry_ports_saved", "Client connections that took no ephemeral port.");
        self.line("pgferry_ports_saved_total", &[], counters.ports_saved());
        self.counter(
            "pgferry_closes_with_time_wait",
            "Closed server connections that may have left a TIME_WAIT on this host.",
            &counters.time_waits,
        );
        let refused = "Attempts to connect that found no ephemeral port (EADDRNOTAVAIL).";
        self.counter("pgferry_ports_unavailable", refused, &counters.no_port);
    }

    fn pools(&mut self, rows: &BTreeMap<(String, String), Row>) {
        let each = |page: &mut Self, name: &str, labels: &[(&str, &str)], value: fn(&Row) -> usize| {
            for ((database, user), row) in rows {
                let all: Vec<_> =
                    [("database", database.as_str()), ("user", user)].into_iter().chain(labels.to_vec()).collect();
                page.line(name, &all, value(row));
            }
        };
        self.head("pgferry_pool_connections", "gauge", "Open server connections of a pool, by state.");
        each(self, "pgferry_pool_connections", &[("state", "active")], |row| row.leased);
        each(self, "pgferry_pool_connections", &[("state", "idle")], |row| row.idle);
        self.head(
            "pgferry_pool_connections_max",
            "gauge",
            "Server connections that a pool may have without its reserve (pool_size).",
        );
        each(self, "pgferry_pool_connections_max", &[], |row| row.size);
        self.head("pgferry_pool_waiting", "gauge", "Clients waiting for a connection of a pool.");
        each(self, "pgferry_pool_waiting", &[], |row| row.waiting);
        for (at, (name, help)) in POOL_STATS.into_iter().enumerate() {
            self.head_counter(name, help);
            for ((database, user), row) in rows {
                self.line(&format!("{name}_total"), &[("database", database), ("user", user)], row.stats[at]);
            }
        }
    }

    fn times(&mut self, shared: &Shared) {
        let timings = &shared.counters().timings;
        let all: [(&str, &str, &Histogram); 5] = [
            ("pgferry_login_seconds", "Time from accepting a client to its ReadyForQuery.", &timings.login),
            ("pgferry_pool_wait_seconds", "Time that a client waited for a server connection.", &timings.wait),
            ("pgferry_upstream_connect_seconds", "Time to open a server connection, login included.", &timings.connect),
            ("pgferry_query_seconds", "Time from a client's request to PostgreSQL's ReadyForQuery.", &timings.query),
            (
                "pgferry_transaction_seconds",
                "Duration of transactions, single statements included.",
                &timings.transaction,
            ),
        ];
        for (name, help, histogram) in all {
            self.head(name, "histogram", help);
            let seen = histogram.snapshot();
            let bucket = format!("{name}_bucket");
            for (at, count) in seen.cumulative.iter().enumerate() {
                #[expect(clippy::cast_precision_loss, reason = "the bounds are small")]
                let le = BOUNDS.get(at).map_or("+Inf".to_owned(), |micros| format!("{:?}", *micros as f64 / 1e6));
                self.line(&bucket, &[("le", &le)], count);
            }
            self.line(&format!("{name}_sum"), &[], seen.sum.as_secs_f64());
            self.line(&format!("{name}_count"), &[], seen.cumulative[BOUNDS.len()]);
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.line(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        self.head_counter(name, help);
        self.line(&format!("{name}_total"), &[], counter.get());
    }

    /// OpenMetrics names a counter without the `_total` of its lines, the older format with it.
    fn head_counter(&mut self, name: &str, help: &str) {
        match self.format {
            Format::OpenMetrics => self.head(name, "counter", help),
            Format::Text => self.head(&format!("{name}_total"), "counter", help),
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        let mut separator = '{';
        for (label, content) in labels {
            let content = content.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // As above.
            let _ = write!(self.text, "{separator}{label}=\"{content}\"");
            separator = ',';
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::roles::Roles;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page { text: String::new(), format: Format::Text };
        page.line("m_total", &[("database", "a\"b\\c\nd"), ("user", "x")], 7);
        assert_eq!(page.text, "m_total{database=\"a\\\"b\\\\c\\nd\",user=\"x\"} 7\n");
    }

    #[test]
    fn lines_of_pools_never_go_back() {
        let roles = Roles::default();
        let (mut before, mut last_other) = (BTreeMap::new(), 0);
        for nth in 0..3 * MAX_POOLS {
            let (database, user) = (format!("d{nth}"), format!("u{}", nth % 7));
            // Some come and never log in.
            let stats = roles.stats(database.as_bytes(), user.as_bytes());
            for _ in 0..nth % 3 {
                roles.note_login(&stats);
            }
            let now = Row::counted(roles.all_stats());
            let logins = |rows: &BTreeMap<_, Row>, labels| rows.get(labels).map_or(0, |row| row.stats[0]);
            for (labels, logged_in) in &before {
                assert!(logins(&now, labels) >= *logged_in, "{labels:?} at {nth}");
            }
            let other = logins(&now, &("other".to_owned(), "other".to_owned()));
            assert!(other >= last_other && other - last_other <= 2, "{nth}: {last_other} and then {other}");
            last_other = other;
            before =
                now.into_iter().map(|(labels, row)| (labels, row.stats[0])).filter(|(_, count)| *count > 0).collect();
        }
        assert!(last_other > 0);
    }

    #[test]
    fn the_format_is_what_is_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(Format::wanted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::wanted("*/*"), Format::Text);
    }
}
