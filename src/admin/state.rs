//! State of the console, the metrics and the page: samples of the figures, and the channel to the server's loop.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::server_command::ServerCommand;
use crate::client::Shared;
use crate::config::CONSOLE;
use crate::lock::lock;
use crate::track::Pins;
use crate::upstream::histogram::Snapshot;
use crate::upstream::slots::Slots;

/// Interval between samples of the figures.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// Number of samples that are kept: ten minutes.
const MAX_SAMPLES: usize = 121;

/// Over which time STATS's averages go, as PgBouncer's `stats_period`.
const STATS_PERIOD: Duration = Duration::from_secs(60);

/// Number of errors that are kept to be looked at.
const MAX_RECENT_ERRORS: usize = 20;

/// Sessions of the console at a time: they hold no place among the clients, and could use up all descriptors.
const MAX_CONSOLE_SESSIONS: usize = 100;

/// Counts of one database: in the order of `SHOW STATS_TOTALS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StatTotals(pub [u64; 12]);

impl StatTotals {
    /// Averages between two moments: counts and bytes per second, times per event.
    fn average(&self, before: &Self, seconds: u64) -> Self {
        let Self(change) = self.minus(before);
        let [assigned, xacts, queries, ..] = change;
        let each = |at: usize| match at {
            5 => change[at].checked_div(xacts),
            6 => change[at].checked_div(queries),
            7 => change[at].checked_div(assigned),
            _ => change[at].checked_div(seconds),
        };
        Self(std::array::from_fn(|at| each(at).unwrap_or(0)))
    }

    fn minus(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].saturating_sub(before.0[at])))
    }
}

/// The period that averages are taken over.
#[derive(Debug)]
struct Period {
    began: Instant,
    then: BTreeMap<String, StatTotals>,
    averages: BTreeMap<String, StatTotals>,
    ended_once: bool,
}

/// The figures at one moment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Time of the sample, in seconds since the process began.
    pub at: u64,
    /// Clients that had logged in.
    pub logins: u64,
    /// Clients that had been refused.
    pub refused: u64,
    /// Upstream connections that had been opened.
    pub opened: u64,
    /// Attempts to open one that had failed.
    pub failed: u64,
    /// Clients there were.
    pub clients: usize,
    /// Clients that waited.
    pub waiting: usize,
    /// Upstream connections there were.
    pub open: usize,
    /// Number of those that clients had.
    pub leased: usize,
    /// Requests by how long they took, as [`crate::upstream::histogram::BOUNDS`] divides them.
    pub query: Vec<u64>,
    /// Waits for a connection, likewise.
    pub wait: Vec<u64>,
    /// Logins, likewise.
    pub login: Vec<u64>,
}

/// An error that was told to a client or kept one waiting.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RecentError {
    /// Time at which it was last seen, in seconds since the process began.
    pub at: u64,
    /// Number of times.
    pub count: u64,
    /// Text of the error, its hint included.
    pub text: String,
}

/// Portals of the console, over all of its sessions, of which rows are left: each holds a table.
const MAX_SUSPENDED_PORTALS: usize = 16;

/// State that the console, the metrics and the page share.
#[derive(Debug)]
pub(crate) struct AdminState {
    /// State that all sessions share.
    pub shared: Arc<Shared>,
    /// Places for sessions of the console.
    pub console_slots: Arc<Slots>,
    /// Places for its portals of which rows are left.
    pub portal_slots: Arc<Slots>,
    commands: mpsc::Sender<ServerCommand>,
    began: Instant,
    period: Mutex<Period>,
    samples: Mutex<VecDeque<Sample>>,
}

impl AdminState {
    /// Creates the state; the receiver executes its commands.
    #[must_use]
    pub(crate) fn new(shared: Arc<Shared>) -> (Arc<Self>, mpsc::Receiver<ServerCommand>) {
        let (commands, receiver) = mpsc::channel(8);
        let began = Instant::now();
        let period = Period { began, then: BTreeMap::new(), averages: BTreeMap::new(), ended_once: false };
        let samples = Mutex::default();
        let console_slots = Slots::new(MAX_CONSOLE_SESSIONS);
        let portal_slots = Slots::new(MAX_SUSPENDED_PORTALS);
        (
            Arc::new(Self {
                shared,
                console_slots,
                portal_slots,
                commands,
                began,
                period: Mutex::new(period),
                samples,
            }),
            receiver,
        )
    }

    /// Sends a command. It is lost only if the process is about to end.
    pub(crate) async fn send_command(&self, order: ServerCommand) {
        let _ = self.commands.send(order).await;
    }

    /// Keeps the figures for as long as the process lives.
    pub(crate) async fn run_sampler(self: Arc<Self>) {
        loop {
            self.record_sample();
            self.roll_period();
            self.shared.errors.tell();
            sleep(SAMPLE_INTERVAL).await;
        }
    }

    fn record_sample(&self) {
        let sample = self.sample();
        let mut samples = lock(&self.samples);
        if samples.len() >= MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The figures now.
    #[must_use]
    pub(crate) fn sample(&self) -> Sample {
        let counters = self.shared.counters();
        let parts = |snapshot: Snapshot| {
            let mut before = 0;
            snapshot.cumulative.iter().map(|count| count - std::mem::replace(&mut before, *count)).collect()
        };
        Sample {
            at: self.uptime_s(),
            logins: counters.logins.get(),
            refused: counters.refused.get(),
            opened: counters.opened.get(),
            failed: counters.failed.get(),
            clients: self.shared.sessions.count(),
            waiting: self.shared.sessions.waiting(),
            open: self.shared.server_side.capacity.used(),
            leased: self.shared.pools.leased(),
            query: parts(counters.timings.query.snapshot()),
            wait: parts(counters.timings.wait.snapshot()),
            login: parts(counters.timings.login.snapshot()),
        }
    }

    /// The figures of the last ten minutes, the oldest first.
    #[must_use]
    pub(crate) fn samples(&self) -> Vec<Sample> {
        lock(&self.samples).iter().cloned().collect()
    }

    /// Seconds since the process began.
    #[must_use]
    pub(crate) fn uptime_s(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    /// The counts by database since the process began.
    #[must_use]
    pub(crate) fn sums(&self) -> BTreeMap<String, StatTotals> {
        // The console is a database like others, as in PgBouncer: there is always a row, which exporters count on.
        let mut sums = BTreeMap::from([(CONSOLE[0].to_owned(), StatTotals::default())]);
        for ((database, _), stats) in self.shared.server_side.roles.all_stats() {
            let counters = [
                &stats.assignments,
                &stats.transactions,
                &stats.queries,
                &stats.received,
                &stats.sent,
                &stats.transaction_time,
                &stats.query_time,
                &stats.waited,
                &stats.client_parses,
                &stats.server_parses,
                &stats.binds,
                stats.logins(),
            ];
            let sum = sums.entry(String::from_utf8_lossy(&database).into_owned()).or_default();
            for (sum, counter) in sum.0.iter_mut().zip(counters) {
                *sum += counter.get();
            }
        }
        sums
    }

    /// Averages by database over the last whole period; over the time so far in the first.
    #[must_use]
    pub(crate) fn averages(&self) -> BTreeMap<String, StatTotals> {
        let period = lock(&self.period);
        if period.ended_once {
            return period.averages.clone();
        }
        averages(&period.then, &self.sums(), period.began.elapsed())
    }

    fn roll_period(&self) {
        let mut period = lock(&self.period);
        let lasted = period.began.elapsed();
        if lasted < STATS_PERIOD {
            return;
        }
        let now = self.sums();
        period.averages = averages(&period.then, &now, lasted);
        period.then = now;
        period.began = Instant::now();
        period.ended_once = true;
    }

    /// Reasons why clients keep connections: how often each has been one, and how many keep one for it now.
    #[must_use]
    pub(crate) fn pins(&self) -> Vec<(&'static str, u64, usize)> {
        let held: Vec<_> = self.shared.sessions.all().iter().map(|session| session.pins()).collect();
        let counters = &self.shared.counters().pins_by_reason;
        let live = |pin: Pins| held.iter().filter(|pins| pins.contains(pin)).count();
        Pins::NAMES.iter().zip(counters).map(|((pin, reason), count)| (*reason, count.get(), live(*pin))).collect()
    }

    /// The latest errors, the last first.
    #[must_use]
    pub(crate) fn errors(&self) -> Vec<RecentError> {
        let seen = self.shared.errors.latest();
        let at = |when: Instant| when.saturating_duration_since(self.began).as_secs();
        seen.into_iter()
            .take(MAX_RECENT_ERRORS)
            .map(|(text, when, count)| RecentError { at: at(when), count, text })
            .collect()
    }
}

fn averages(
    then: &BTreeMap<String, StatTotals>,
    now: &BTreeMap<String, StatTotals>,
    lasted: Duration,
) -> BTreeMap<String, StatTotals> {
    let none = StatTotals::default();
    let average = |(name, sums): (&String, &StatTotals)| {
        (name.clone(), sums.average(then.get(name).unwrap_or(&none), lasted.as_secs().max(1)))
    };
    now.iter().map(average).collect()
}

/// Number of bytes of the process's resident memory.
#[must_use]
pub(crate) fn resident_memory_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_per_second_and_per_thing() {
        let before = StatTotals([10, 20, 30, 1000, 2000, 100, 200, 300, 1, 2, 3, 4]);
        let now = StatTotals([20, 25, 50, 3000, 6000, 1100, 2200, 1300, 11, 12, 13, 24]);
        let average = now.average(&before, 10);
        assert_eq!(average.0, [1, 0, 2, 200, 400, 200, 100, 100, 1, 1, 1, 2]);
        assert_eq!(now.average(&now, 10), StatTotals::default());
    }
}
