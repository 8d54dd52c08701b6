//! Limits on login attempts and cancel requests, by source.
//!
//! The attempts of a source that has given many wrong answers are checked one after another at a fixed rate, the latest first: where
//! wrong ones come without end, one that has just come need not wait for all before it. Each source has lanes of its own, so that it
//! waits for itself alone; and only few of a source wait for what all share. Cancel requests have a lane for each session that they
//! are for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout_at};

use super::lane::{Lane, LaneTurn};
use crate::auth::{Bucket, Check, Source, WrongAnswers};
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::lock::lock;
use crate::net::{Peer, Stream};

/// Most sources that are remembered.
const MAX_SOURCES: usize = 10_000;

/// Most attempts of one source that wait for a role's turn or a login slot.
const MAX_WAITING_ATTEMPTS: usize = 8;

/// Wrong cancel keys of one source for one session that are looked at at once.
const CANCEL_BURST: u32 = 100;

/// Time per cancel request after that: a key of protocol 3.0 has 32 bits, so that guessing one takes weeks.
const CANCEL_INTERVAL: Duration = Duration::from_millis(1);

/// Most cancel requests of one source for one session that wait for that; more are dropped.
const MAX_WAITING_CANCELS: usize = 1024;

/// Most sessions for which a source's wrong cancel keys are remembered.
const MAX_CANCEL_LANES: usize = 256;

/// The attempts of all sources.
#[derive(Debug, Default)]
pub(crate) struct Limiter(Mutex<HashMap<Source, Arc<SourceLimit>>>);

/// The attempts of one source.
#[derive(Debug)]
pub(crate) struct SourceLimit {
    source: Source,
    /// Held by the attempt that is tried upstream next.
    attempt_lane: Arc<Lane>,
    /// Held by the answer that is checked here next.
    check_lane: Arc<Lane>,
    /// Held by the one for which a secret is looked up upstream.
    lookup_lane: Arc<Lane>,
    answers: Mutex<WrongAnswers>,
    attempts: Semaphore,
    /// The cancel requests for a session, by the number of that, and those for none.
    cancels: Mutex<HashMap<Option<u64>, Arc<CancelLane>>>,
}

/// The cancel requests of one source for one session.
#[derive(Debug)]
pub(crate) struct CancelLane {
    next: Arc<Lane>,
    wrong: Mutex<Bucket>,
}

/// The turn of a cancel request: where those for its session have to wait for each other, the next one does until this is dropped.
#[derive(Debug)]
pub(crate) struct CancelTurn {
    lane: Arc<CancelLane>,
    _place: Option<LaneTurn>,
}

impl CancelTurn {
    /// Counts the request as one with a wrong key, and lets the next one have its turn. A key that was not looked at, for want of a
    /// turn, can't be counted: what is owed is bounded by what was looked at, however many come.
    pub(crate) fn count(self) {
        self.lane.count();
    }
}

/// The turn of an attempt to be tried upstream: the next ones of its source may wait for theirs.
#[derive(Debug)]
pub(crate) struct Turn<'a>(#[allow(dead_code, reason = "held")] Option<SemaphorePermit<'a>>);

/// The turn of an answer to be checked here, which counts as a wrong one until it turns out to be right. Where answers of its
/// source have to wait for each other, the next one does until this is dropped.
#[derive(Debug)]
pub(crate) struct CheckTurn<'a> {
    limit: &'a SourceLimit,
    check: Check,
    _lane: Option<LaneTurn>,
}

impl CheckTurn<'_> {
    /// The outcome of checking an answer; `None` is a wrong one.
    #[must_use]
    pub(crate) fn judge<T>(self, right: Option<T>) -> Option<T> {
        if right.is_some() {
            lock(&self.limit.answers).discount(self.check);
        }
        right
    }
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
            attempt_lane: Arc::default(),
            check_lane: Arc::default(),
            lookup_lane: Arc::default(),
            answers: Mutex::new(WrongAnswers::new(now)),
            attempts: Semaphore::new(MAX_WAITING_ATTEMPTS),
            cancels: Mutex::default(),
        }
    }

    /// Waits for the turn of an attempt, until `deadline` at the latest. Cancel-safe.
    ///
    /// # Errors
    /// When that is too late.
    pub(crate) async fn turn(&self, deadline: tokio::time::Instant) -> Result<Turn<'_>, ClientError> {
        let turn = async {
            let _lane = turn_in(&self.attempt_lane, deadline, || self.wait(Check::Attempt)).await;
            Turn(self.attempts.acquire().await.ok())
        };
        timeout_at(deadline, turn).await.map_err(|_| self.late(Check::Attempt))
    }

    /// The turn to check an answer here: it is waited for only where many were wrong.
    ///
    /// # Errors
    /// As [`SourceLimit::turn`].
    pub(crate) async fn turn_to_check(
        &self,
        check: Check,
        deadline: tokio::time::Instant,
    ) -> Result<CheckTurn<'_>, ClientError> {
        let lane = if self.count_if_free(check) {
            None
        } else {
            let lane = timeout_at(deadline, turn_in(&self.check_lane, deadline, || self.wait(check))).await;
            let lane = lane.map_err(|_| self.late(check))?;
            lock(&self.answers).count(Instant::now(), check);
            lane
        };
        Ok(CheckTurn { limit: self, check, _lane: lane })
    }

    /// Waits for the turn to have a secret looked up upstream, until `deadline` at the latest; it lasts until what is given is
    /// dropped. Cancel-safe.
    ///
    /// # Errors
    /// When that is too late.
    pub(crate) async fn turn_to_look_up(&self, deadline: tokio::time::Instant) -> Result<LaneTurn, ClientError> {
        let turn = timeout_at(deadline, turn_in(&self.lookup_lane, deadline, || self.wait(Check::Attempt))).await;
        turn.ok().flatten().ok_or_else(|| self.late(Check::Attempt))
    }

    /// Counts an answer that need not be waited for; says whether that is so.
    fn count_if_free(&self, check: Check) -> bool {
        let now = Instant::now();
        let mut answers = lock(&self.answers);
        let is_free = answers.wait(now, check).is_zero();
        if is_free {
            answers.count(now, check);
        }
        is_free
    }

    fn wait(&self, check: Check) -> Duration {
        lock(&self.answers).wait(Instant::now(), check)
    }

    fn late(&self, check: Check) -> ClientError {
        let late = if self.wait(check).is_zero() {
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

    /// Counts an attempt that the upstream has not accepted.
    pub(crate) fn count(&self) {
        lock(&self.answers).count(Instant::now(), Check::Attempt);
    }

    /// Delay of the reply to a wrong answer, at most `longest`.
    #[must_use]
    pub(crate) fn delay(&self, longest: Duration) -> Duration {
        lock(&self.answers).delay(Instant::now(), longest)
    }

    /// The cancel requests for the session with this number, or for none: guesses at one session's key hold up no other's.
    #[must_use]
    pub(crate) fn cancels_for(&self, session: Option<u64>) -> Arc<CancelLane> {
        let mut lanes = lock(&self.cancels);
        if lanes.len() >= MAX_CANCEL_LANES && !lanes.contains_key(&session) {
            let now = Instant::now();
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || !lock(&lane.wrong).is_full(now));
            if lanes.len() >= MAX_CANCEL_LANES {
                // Each may have another burst.
                lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
            }
        }
        let new = || {
            Arc::new(CancelLane {
                next: Arc::new(Lane::new(MAX_WAITING_CANCELS)),
                wrong: Mutex::new(Bucket::new(CANCEL_BURST, CANCEL_INTERVAL, Instant::now())),
            })
        };
        Arc::clone(lanes.entry(session).or_insert_with(new))
    }

    fn is_forgiven(&self, now: Instant) -> bool {
        let cancels = lock(&self.cancels);
        lock(&self.answers).are_forgiven(now) && cancels.values().all(|lane| lock(&lane.wrong).is_full(now))
    }

    fn too_many(&self) -> ClientError {
        let message = format!("too many wrong passwords from {}", self.source);
        ClientError::fatal(ErrorSource::Client, sqlstate::TOO_MANY_CONNECTIONS, message)
            .hint("The limit is per user of this machine on unix sockets, and per address on TCP.")
    }
}

impl CancelLane {
    /// Waits for the turn of a cancel request, where many had a wrong key; `None` when too many have come since.
    pub(crate) async fn turn(self: &Arc<Self>) -> Option<CancelTurn> {
        let wait = || lock(&self.wrong).wait(Instant::now());
        let place = match wait() {
            Duration::ZERO => None,
            _ => Some(turn_in(&self.next, tokio::time::Instant::now(), wait).await?),
        };
        Some(CancelTurn { lane: Arc::clone(self), _place: place })
    }

    fn count(&self) {
        lock(&self.wrong).spend(Instant::now(), 1);
    }
}

/// Waits for the turn in `lane`, and then for as long as `wait` says by then; `None` when others have taken the place.
async fn turn_in(lane: &Arc<Lane>, deadline: tokio::time::Instant, wait: impl Fn() -> Duration) -> Option<LaneTurn> {
    let turn = lane.turn(deadline).await?;
    let wait = wait();
    if !wait.is_zero() {
        sleep(wait).await;
    }
    Some(turn)
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

    #[tokio::test]
    async fn no_more_are_checked_at_once_than_may_be_wrong() {
        let limiter = Limiter::default();
        let limit = limiter.source(Source::Uid(1));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        let mut turns = Vec::new();
        let next = || limit.turn_to_check(Check::Comparison, deadline);
        // None of them has been judged, and yet all of them count. On a slow machine some are let go for the time that passes.
        while let Ok(turn) = timeout_at(tokio::time::Instant::now(), next()).await {
            turns.push(turn.expect("in time"));
            assert!(turns.len() < 1000, "none of them counts");
        }
        assert!(turns.len() >= 100, "only {} at once", turns.len());
        for turn in turns {
            assert_eq!(turn.judge(Some(7)), Some(7));
        }
        assert!(timeout_at(tokio::time::Instant::now(), next()).await.is_ok(), "all were right");
    }

    #[tokio::test]
    async fn cancel_requests_that_had_no_turn_leave_no_debt() {
        let limiter = Limiter::default();
        let limit = limiter.source(Source::Uid(1));
        let lane = limit.cancels_for(Some(1));
        for _ in 0..CANCEL_BURST + 1000 {
            lane.count();
        }
        let now = Instant::now();
        let owed = lock(&lane.wrong).wait(now);
        let mut turns: Vec<_> = (0..2 * MAX_WAITING_CANCELS).map(|_| Box::pin(lane.turn())).collect();
        let at_once = tokio::time::Instant::now();
        for turn in &mut turns {
            assert!(timeout_at(at_once, turn).await.is_err(), "it waits");
        }
        let mut lost = 0;
        for turn in &mut turns {
            lost += usize::from(matches!(timeout_at(at_once, turn).await, Ok(None)));
        }
        assert_eq!(lost, MAX_WAITING_CANCELS - 1, "one has the turn, so many wait");
        assert_eq!(lock(&lane.wrong).wait(now), owed);
    }

    #[tokio::test]
    async fn guesses_at_one_sessions_key_hold_up_no_other() {
        let limiter = Limiter::default();
        let limit = limiter.source(Source::Uid(1));
        let (guessed, other) = (limit.cancels_for(Some(1)), limit.cancels_for(Some(2)));
        for _ in 0..CANCEL_BURST + 1000 {
            guessed.count();
            limit.cancels_for(None).count();
        }
        assert!(timeout_at(tokio::time::Instant::now(), guessed.turn()).await.is_err());
        assert!(timeout_at(tokio::time::Instant::now(), other.turn()).await.is_ok_and(|turn| turn.is_some()));
        for session in 0..10 * MAX_CANCEL_LANES as u64 {
            limit.cancels_for(Some(session)).count();
        }
        assert!(lock(&limit.cancels).len() <= MAX_CANCEL_LANES);
        assert!(timeout_at(tokio::time::Instant::now(), guessed.turn()).await.is_err(), "it is in use");
    }
}
