//! What happened, in numbers.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use super::close::{CloseReason, Closed};
use super::counter::Counter;
use super::histogram::Histogram;
use crate::error::ClientError;
use crate::lock::lock;
use crate::track::Pins;

/// The counts of one process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Clients that logged in.
    pub logins: Counter,
    /// Clients that were refused.
    pub refused: Counter,
    /// The same by SQLSTATE.
    pub refusals: Failures,
    /// Outcomes of clients' requests for TLS.
    pub client_tls: ClientTlsCounters,
    /// Passwords that had to be tried upstream.
    pub tried: Counter,
    /// TCP (or unix) connections opened to the upstream, cancel requests not counted.
    pub opened: Counter,
    /// Upstream connections closed.
    pub closed: Counter,
    /// The same by reason, in the order of [`CloseReason::NAMES`].
    pub closed_by_reason: [Counter; CloseReason::NAMES.len()],
    /// Closes that may have left a TIME_WAIT on this host.
    pub time_waits: Counter,
    /// Attempts to connect for which there was no ephemeral port (`EADDRNOTAVAIL`).
    pub no_port: Counter,
    /// Attempts to open an upstream connection that failed.
    pub failed: Counter,
    /// Upstream connections that did not answer the good-bye and were reset.
    pub reset: Counter,
    /// Cancel requests sent to the upstream.
    pub cancels: Counter,
    /// Cancel requests with a wrong key, or for no session.
    pub wrong_cancels: Counter,
    /// Logins that were not accepted because of a wrong password, here or by the upstream.
    pub wrong_passwords: Counter,
    /// Leases kept because of session state.
    pub pins: Counter,
    /// The same by reason, in the order of [`Pins::NAMES`].
    pub pins_by_reason: [Counter; Pins::NAMES.len()],
    /// Failed attempts to open a connection, by SQLSTATE.
    pub failures: Failures,
    /// Durations.
    pub timings: Timings,
}

/// Outcomes of clients' requests for TLS.
#[derive(Debug, Default)]
pub(crate) struct ClientTlsCounters {
    /// Connections that are encrypted.
    pub established: Counter,
    /// Clients that were told that there is no TLS.
    pub declined: Counter,
    /// TLS handshakes that failed.
    pub failed: Counter,
}

/// Durations.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    /// From accepting a client to its greeting.
    pub login: Histogram,
    /// A client's wait for a connection to work on.
    pub wait: Histogram,
    /// Opening a connection, its login included.
    pub connect: Histogram,
    /// From a request to the server being ready again.
    pub query: Histogram,
    /// Transactions, single statements included.
    pub transaction: Histogram,
}

/// Failures by SQLSTATE.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<BTreeMap<String, u64>>);

/// Number of SQLSTATEs that are counted apart; a server could make up any number.
const MAX_CODES: usize = 32;

impl Failures {
    /// Counts one more with `code`.
    pub(crate) fn add(&self, code: &str) {
        let mut codes = lock(&self.0);
        let code = if codes.len() < MAX_CODES || codes.contains_key(code) { code } else { "other" };
        *codes.entry(code.to_owned()).or_default() += 1;
    }

    /// Counts of each.
    #[must_use]
    pub(crate) fn by_code(&self) -> BTreeMap<String, u64> {
        lock(&self.0).clone()
    }
}

impl Counters {
    /// A client keeps its connection because of `pins`.
    pub(crate) fn pinned(&self, pins: Pins) {
        self.pins.add();
        for ((pin, _), counter) in Pins::NAMES.iter().zip(&self.pins_by_reason) {
            if pins.contains(*pin) {
                counter.add();
            }
        }
    }

    /// An attempt to open a connection failed, with what a client would be told.
    pub(crate) fn fail(&self, client_error: &ClientError) {
        self.failed.add();
        self.failures.add(&client_error.code());
    }

    /// An attempt to connect failed with the system's `error`.
    pub(crate) fn fail_to_connect(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::AddrNotAvailable {
            self.no_port.add();
        }
    }

    /// A connection was closed because of `why`.
    pub(crate) fn close(&self, how: Closed, why: CloseReason) {
        self.closed.add();
        match how {
            Closed::Politely => {}
            Closed::Reset => drop(self.reset.add()),
            Closed::First => drop(self.time_waits.add()),
        }
        let by_reason = CloseReason::NAMES.iter().zip(&self.closed_by_reason);
        if let Some((_, counter)) = by_reason.into_iter().find(|((reason, _), _)| *reason == why) {
            counter.add();
        }
    }

    /// Connections of clients that cost no port.
    #[must_use]
    pub(crate) fn ports_saved(&self) -> u64 {
        self.logins.get().saturating_sub(self.opened.get())
    }

    /// The reasons for which connections were closed, with their counts.
    #[must_use]
    pub(crate) fn close_reasons(&self) -> String {
        list(CloseReason::NAMES.iter().map(|(_, name)| *name).zip(&self.closed_by_reason))
    }

    /// The reasons for which clients have kept connections, with their counts.
    #[must_use]
    pub(crate) fn pin_reasons(&self) -> String {
        list(Pins::NAMES.iter().map(|(_, name)| *name).zip(&self.pins_by_reason))
    }
}

fn list<'a>(counters: impl Iterator<Item = (&'a str, &'a Counter)>) -> String {
    let counted = counters.filter(|(_, counter)| counter.get() > 0);
    counted.map(|(name, counter)| format!("{name} {}", counter.get())).collect::<Vec<_>>().join(", ")
}
