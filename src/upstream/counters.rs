//! What happened, in numbers.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::counter::Counter;
use super::histogram::Histogram;
use crate::error::ClientError;
use crate::lock::lock;
use crate::track::Pins;

/// Reason why an upstream connection was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// A client's session could not be made fit for another one, or was its own.
    #[default]
    Session,
    /// It was idle for too long.
    Idle,
    /// It was too old.
    Lifetime,
    /// The settings it was opened under are no longer in force.
    Reload,
    /// The limit was exceeded, or another pool needs the slot.
    Surplus,
    /// The server closed it, or it broke.
    Dead,
    /// The login failed, or was a try that is not needed any more.
    Login,
    /// The process ends.
    Shutdown,
    /// A command at the console.
    Command,
    /// Its role has another password or is another one by now, or is let in no more.
    Identity,
    /// The host's name no longer stands for its address, or the server is not what is wanted any more.
    Moved,
    /// Its backend has clients here, which no reset ends.
    Looped,
}

impl CloseReason {
    /// Every reason, with its name.
    pub(crate) const NAMES: [(Self, &'static str); 12] = [
        (Self::Session, "session"),
        (Self::Idle, "idle"),
        (Self::Lifetime, "lifetime"),
        (Self::Reload, "reload"),
        (Self::Surplus, "surplus"),
        (Self::Dead, "dead"),
        (Self::Login, "login"),
        (Self::Shutdown, "shutdown"),
        (Self::Command, "command"),
        (Self::Identity, "identity"),
        (Self::Moved, "moved"),
        (Self::Looped, "looped"),
    ];
}

/// The counts of one process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Clients that logged in.
    pub logins: Counter,
    /// Clients that were refused.
    pub refused: Counter,
    /// The same by SQLSTATE.
    pub refusals: Failures,
    /// What became of clients' requests for TLS.
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
    /// How long things took.
    pub timings: Timings,
}

/// What became of clients' requests for TLS.
#[derive(Debug, Default)]
pub(crate) struct ClientTlsCounters {
    /// Connections that are encrypted.
    pub established: Counter,
    /// Clients that were told that there is no TLS.
    pub declined: Counter,
    /// TLS handshakes that failed.
    pub failed: Counter,
}

/// How long things took.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    /// From accepting a client to its welcome.
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

/// How many SQLSTATEs are told apart; a server could make up any number.
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

    /// A connection was closed because of `why`.
    pub(crate) fn close(&self, why: CloseReason) {
        self.closed.add();
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
