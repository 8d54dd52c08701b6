//! Limits on login attempts and cancel requests, by source.
//!
//! The attempts of a source that has given many wrong answers are checked one after another at a fixed rate. Each source has a
//! lane of its own, so that it waits for itself alone; and only few of a source wait for what all share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{MutexGuard, Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout_at};

use super::slots::{Slot, Slots};
use crate::auth::{Bucket, Source, WrongAnswers};
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::lock::lock;
use crate::net::{Peer, Stream};

/// Most sources that are remembered.
const MAX_SOURCES: usize = 10_000;

/// Most attempts of one source that wait for an account's turn or a login slot.
const MAX_WAITING_ATTEMPTS: usize = 8;

/// Most replies to wrong answers of one source that are held back at a time.
const MAX_DELAYED_REPLIES: usize = 256;

/// Wrong cancel keys of one source that are looked at at once.
const CANCEL_BURST: u32 = 100;

/// Time per cancel request after that: a key of protocol 3.0 has 32 bits, so that guessing one takes most of a year.
const CANCEL_INTERVAL: Duration = Duration::from_millis(5);

/// Most cancel requests of one source that wait for that; more are dropped.
const MAX_WAITING_CANCELS: usize = 256;

/// The attempts of all sources.
#[derive(Debug, Default)]
pub(crate) struct Limiter(Mutex<HashMap<Source, Arc<SourceLimit>>>);

/// The attempts of one source.
#[derive(Debug)]
pub(crate) struct SourceLimit {
    source: Source,
    /// Held by the attempt that is next.
    lane: tokio::sync::Mutex<()>,
    answers: Mutex<WrongAnswers>,
    attempts: Semaphore,
    delayed: Arc<Slots>,
    /// Held by the cancel request that is next.
    cancel_lane: tokio::sync::Mutex<()>,
    cancels: Mutex<Bucket>,
    cancels_waiting: Arc<Slots>,
}

/// The turn of an attempt: where attempts of its source have to wait for each other, the next one does until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    limit: &'a SourceLimit,
    _lane: Option<MutexGuard<'a, ()>>,
    _attempt: Option<SemaphorePermit<'a>>,
}

impl Turn<'_> {
    /// The outcome of comparing an answer; a wrong one (`None`) is counted before the next one is compared.
    #[must_use]
    pub(crate) fn judge<T>(self, right: Option<T>) -> Option<T> {
        if right.is_none() {
            self.limit.count();
        }
        right
    }
}

/// A reply that is held back: how long, and its place among those of its source.
#[derive(Debug)]
pub(crate) struct Delay {
    /// Length.
    pub length: Duration,
    _place: Slot,
}

impl Limiter {
    /// The attempts of the peer of `stream`.
    #[must_use]
    pub(crate) fn of(&self, stream: &Stream) -> Arc<SourceLimit> {
        self.source(match stream.peer() {
            Ok(Peer::Tcp(address)) => Source::of_address(address.ip()),
            Ok(Peer::Unix { uid, .. }) => Source::Uid(uid),
            Err(_) => Source::Gone,
        })
    }

    fn source(&self, source: Source) -> Arc<SourceLimit> {
        let mut sources = lock(&self.0);
        if let Some(known) = sources.get(&source) {
            return Arc::clone(known);
        }
        if sources.len() >= MAX_SOURCES {
            let now = Instant::now();
            sources.retain(|_, limit| Arc::strong_count(limit) > 1 || !limit.is_forgiven(now));
            if sources.len() >= MAX_SOURCES {
                // Addresses without number: forgetting some lets each have another burst, and the lanes keep the rest apart.
                let mut places = 0..MAX_SOURCES / 2;
                sources.retain(|_, limit| Arc::strong_count(limit) > 1 || places.next().is_some());
            }
        }
        Arc::clone(sources.entry(source).or_insert_with(|| Arc::new(SourceLimit::new(source))))
    }
}

impl SourceLimit {
    fn new(source: Source) -> Self {
        let now = Instant::now();
        Self {
            source,
            lane: tokio::sync::Mutex::default(),
            answers: Mutex::new(WrongAnswers::new(now)),
            attempts: Semaphore::new(MAX_WAITING_ATTEMPTS),
            delayed: Slots::new(MAX_DELAYED_REPLIES),
            cancel_lane: tokio::sync::Mutex::default(),
            cancels: Mutex::new(Bucket::new(CANCEL_BURST, CANCEL_INTERVAL, now)),
            cancels_waiting: Slots::new(MAX_WAITING_CANCELS),
        }
    }

    /// Waits for the turn of an attempt, until `deadline` at the latest. Cancel-safe.
    ///
    /// # Errors
    /// When that is too late.
    pub(crate) async fn turn(&self, deadline: tokio::time::Instant) -> Result<Turn<'_>, ClientError> {
        let turn = async {
            let _lane = self.lane().await;
            let attempt = self.attempts.acquire().await.ok();
            Turn { limit: self, _lane: None, _attempt: attempt }
        };
        timeout_at(deadline, turn).await.map_err(|_| self.late())
    }

    /// The turn to compare an answer here: it is waited for only where many were wrong.
    ///
    /// # Errors
    /// As [`SourceLimit::turn`].
    pub(crate) async fn turn_to_compare(&self, deadline: tokio::time::Instant) -> Result<Turn<'_>, ClientError> {
        if lock(&self.answers).wait(Instant::now()).is_zero() {
            return Ok(Turn { limit: self, _lane: None, _attempt: None });
        }
        let lane = timeout_at(deadline, self.lane()).await.map_err(|_| self.late())?;
        Ok(Turn { limit: self, _lane: Some(lane), _attempt: None })
    }

    async fn lane(&self) -> MutexGuard<'_, ()> {
        turn_in(&self.lane, || lock(&self.answers).wait(Instant::now())).await
    }

    fn late(&self) -> ClientError {
        let late = if lock(&self.answers).wait(Instant::now()).is_zero() {
            let message = format!("too many logins at a time from {}", self.source);
            ClientError::fatal(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, message)
                .hint("Logins that PostgreSQL is to decide about are tried max_connecting at a time.")
        } else {
            self.too_many()
        };
        late.detail(
            "Others that came from there before were still being tried when this login's time was over (client_login_timeout).",
        )
    }

    /// Returns the source.
    #[must_use]
    pub(crate) fn source(&self) -> Source {
        self.source
    }

    /// Counts an attempt that was not accepted.
    pub(crate) fn count(&self) {
        lock(&self.answers).count(Instant::now());
    }

    /// Delay of the reply to a wrong answer, at most `longest`.
    ///
    /// # Errors
    /// The reply, when too many are held back already.
    pub(crate) fn delay(&self, longest: Duration) -> Result<Delay, ClientError> {
        let place = self.delayed.try_take().ok_or_else(|| {
            self.too_many().detail(format!(
                "The replies to {MAX_DELAYED_REPLIES} others that came from there are being held back."
            ))
        })?;
        Ok(Delay { length: lock(&self.answers).delay(Instant::now(), longest), _place: place })
    }

    /// Waits for the turn of a cancel request, where many from there had a wrong key; `None` when too many wait.
    pub(crate) async fn cancel_turn(&self) -> Option<Turn<'_>> {
        if lock(&self.cancels).wait(Instant::now()).is_zero() {
            return Some(Turn { limit: self, _lane: None, _attempt: None });
        }
        let _waiting = self.cancels_waiting.try_take()?;
        let lane = turn_in(&self.cancel_lane, || lock(&self.cancels).wait(Instant::now())).await;
        Some(Turn { limit: self, _lane: Some(lane), _attempt: None })
    }

    /// Counts a cancel request with a wrong key.
    pub(crate) fn count_cancel(&self) {
        lock(&self.cancels).spend(Instant::now());
    }

    fn is_forgiven(&self, now: Instant) -> bool {
        lock(&self.answers).are_forgiven(now) && lock(&self.cancels).is_full(now)
    }

    fn too_many(&self) -> ClientError {
        let message = format!("too many wrong passwords from {}", self.source);
        ClientError::fatal(ErrorSource::Client, sqlstate::TOO_MANY_CONNECTIONS, message)
            .hint("The limit is per user of this machine on unix sockets, and per address on TCP.")
    }
}

/// Waits for those in front in `lane`, and then for as long as `wait` says by then.
async fn turn_in(lane: &tokio::sync::Mutex<()>, wait: impl FnOnce() -> Duration) -> MutexGuard<'_, ()> {
    let turn = lane.lock().await;
    let wait = wait();
    if !wait.is_zero() {
        sleep(wait).await;
    }
    turn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_those_who_owe_nothing_go_first() {
        let limiter = Limiter::default();
        for uid in 0..20 {
            limiter.source(Source::Uid(uid)).count();
        }
        for uid in 100..u32::try_from(MAX_SOURCES + 90).expect("small") {
            let _ = limiter.source(Source::Uid(uid));
        }
        assert!(lock(&limiter.0).len() <= MAX_SOURCES);
        for uid in 100_000..u32::try_from(100_000 + 3 * MAX_SOURCES).expect("small") {
            limiter.source(Source::Uid(uid)).count();
        }
        assert!(lock(&limiter.0).len() <= MAX_SOURCES);
    }
}
