//! The queue of clients that wait for a connection, the number being opened for them, and the time of the next attempt.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::dial::DialError;
use super::turnover::Turnover;

/// The shortest and the longest pause while the server is full: it may have a free place at any time, and looking costs
/// it a process.
const PAUSES_FULL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

/// The same for a pool with connections that serve its clients in turn: another pgferry's may have none.
const PAUSES_FULL_SERVED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

/// The first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause while the server is just not up: a refused connect costs neither side anything, and clients that
/// wait should have a row soon after the server is back.
const LONGEST_PAUSE_DOWN: Duration = Duration::from_millis(250);

/// The longest pause after any other failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Reason why a client got no connection.
#[derive(Clone, Debug)]
pub(crate) enum WaitError {
    /// Opening a connection failed.
    Connect(DialError),
    /// It took too long.
    Timeout,
    /// The clients of the pool go on in another one.
    Moved,
}

/// The end of the channel that a waiting client receives its connection from.
pub(crate) type Receiver<T> = oneshot::Receiver<Result<T, WaitError>>;

/// The waiting, of one pool. `T` is an open connection.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// In the order of their numbers.
    waiters: VecDeque<Waiter<T>>,
    next_number: u64,
    /// Next time at which expired waiters are removed.
    next_expiry: Option<Instant>,
    /// Turnover of connections.
    pub turnover: Turnover,
    dialling: usize,
    pause: Duration,
    pause_ends: Option<PauseEnd>,
    /// Time of the first timer that is set to make the next attempt.
    retry_at: Option<Instant>,
    last_error: Option<DialError>,
}

/// End of the pause after a failed attempt.
#[derive(Clone, Copy, Debug)]
struct PauseEnd {
    /// Its end where no connection comes free for the clients that wait.
    unserved: Instant,
    /// Its end while some do, if that is another.
    served: Option<Instant>,
}

#[derive(Debug)]
struct Waiter<T> {
    number: u64,
    sender: oneshot::Sender<Result<T, WaitError>>,
    /// Time at which it gives up; `None` for never.
    until: Option<Instant>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiters: VecDeque::new(),
            next_number: 0,
            next_expiry: None,
            turnover: Turnover::default(),
            dialling: 0,
            pause: Duration::ZERO,
            pause_ends: None,
            retry_at: None,
            last_error: None,
        }
    }
}

/// Permission to start another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Now.
    Dial,
    /// At this time, if a client still waits then.
    At(Instant),
    /// The same, or as soon as clients turn out to keep their connections.
    AtOrUnserved(Instant),
    /// Enough are under way for the clients that wait.
    Nothing,
}

impl<T> Queue<T> {
    /// A place at the end of the queue, until `until`: its number, and where the connection arrives.
    pub(crate) fn enter(&mut self, until: Option<Instant>) -> (u64, Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        let number = self.next_number;
        self.next_number += 1;
        self.waiters.push_back(Waiter { number, sender, until });
        (number, receiver)
    }

    /// Gives up a place.
    pub(crate) fn leave(&mut self, number: u64) {
        if let Ok(at) = self.waiters.binary_search_by_key(&number, |waiter| waiter.number) {
            self.waiters.remove(at);
        }
    }

    /// Hands a connection to the client that has waited longest, or back if none waits.
    pub(crate) fn deliver(&mut self, connection: T) -> Option<T> {
        let mut connection = Ok(connection);
        while let Some(waiter) = self.waiters.pop_front() {
            match waiter.sender.send(connection) {
                Ok(()) => return None,
                Err(back) => connection = back,
            }
        }
        connection.ok()
    }

    /// Sends all waiters to another pool.
    pub(crate) fn move_on(&mut self) {
        for waiter in self.waiters.drain(..) {
            // A client that went away needs no answer.
            let _ = waiter.sender.send(Err(WaitError::Moved));
        }
    }

    /// Number of clients that wait.
    #[must_use]
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Returns whether a timer must be set for `until`, because none fires before.
    pub(crate) fn set_next_expiry(&mut self, until: Instant) -> bool {
        let soon_enough = self.next_expiry.is_some_and(|at| at <= until);
        if !soon_enough {
            self.next_expiry = Some(until);
        }
        !soon_enough
    }

    /// Removes the waiters that have expired by `now`, for the timer that was set for `at`. Returns when to look
    /// again, if a waiter expires later.
    pub(crate) fn expire(&mut self, at: Instant, now: Instant) -> Option<Instant> {
        let is_over = |waiter: &Waiter<T>| waiter.until.is_some_and(|until| until <= now);
        if self.waiters.iter().any(is_over) {
            for waiter in std::mem::take(&mut self.waiters) {
                if is_over(&waiter) {
                    // A client that went away needs no answer.
                    let _ = waiter.sender.send(Err(WaitError::Timeout));
                } else {
                    self.waiters.push_back(waiter);
                }
            }
        }
        if self.next_expiry != Some(at) {
            // Another timer fires sooner.
            return None;
        }
        self.next_expiry = self.waiters.iter().filter_map(|waiter| waiter.until).min();
        self.next_expiry
    }

    /// Returns whether another attempt may start, for the waiting clients and `beyond` more connections.
    #[must_use]
    pub(crate) fn next(&self, beyond: usize, max_connecting: usize, now: Instant) -> Next {
        let limit = if self.last_error.is_some() { 1 } else { max_connecting };
        if self.dialling >= (self.waiters.len() + beyond).min(limit) {
            return Next::Nothing;
        }
        let Some(PauseEnd { unserved, served }) = self.pause_ends else { return Next::Dial };
        match served.filter(|_| !self.turnover.has_ceased()) {
            Some(at) if at > now => Next::AtOrUnserved(at),
            None if unserved > now => Next::At(unserved),
            _ => Next::Dial,
        }
    }

    /// Returns whether a timer must be set for an attempt `at` that time, because none fires before; once, however many ask.
    pub(crate) fn set_retry_timer(&mut self, at: Instant) -> bool {
        let sooner = self.retry_at.is_none_or(|set| at < set);
        if sooner {
            self.retry_at = Some(at);
        }
        sooner
    }

    /// The timer that was set for `at` has fired.
    pub(crate) fn retry_timer_fired(&mut self, at: Instant) {
        self.retry_at = self.retry_at.filter(|set| *set != at);
    }

    /// Notes an attempt that starts.
    pub(crate) fn dial_starts(&mut self) {
        self.dialling += 1;
    }

    /// Notes an attempt that ended.
    pub(crate) fn dial_ends(&mut self) {
        self.dialling -= 1;
    }

    /// Notes that the upstream can be reached. Says whether it could not before.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.pause = Duration::ZERO;
        self.pause_ends = None;
        self.last_error.take().is_some()
    }

    /// Notes a failure: clients go on waiting if that may help; otherwise those get the error that could have had one of the `places` which
    /// are left beside the open connections, if there are any such (`None`: all of them). Says whether this is news.
    pub(crate) fn failed(&mut self, error: &DialError, places: Option<usize>, now: Instant) -> bool {
        let longest = if error.is_down() { LONGEST_PAUSE_DOWN } else { LONGEST_PAUSE };
        self.pause = if error.is_full() { pause_while_full() } else { (self.pause * 2).clamp(FIRST_PAUSE, longest) };
        let served = (error.is_full() && places.is_some()).then(|| now + between(PAUSES_FULL_SERVED));
        self.pause_ends = Some(PauseEnd { unserved: now + self.pause, served });
        if !error.may_pass() {
            let places = places.unwrap_or(usize::MAX);
            for waiter in self.waiters.drain(..places.min(self.waiters.len())) {
                // As above.
                let _ = waiter.sender.send(Err(WaitError::Connect(error.clone())));
            }
        }
        let news = self.last_error.as_ref().is_none_or(|last| last.client_error() != error.client_error());
        self.last_error = Some(error.clone());
        news
    }

    /// Reason why the last attempt failed, if none has succeeded since.
    #[must_use]
    pub(crate) fn last_error(&self) -> Option<&DialError> {
        self.last_error.as_ref()
    }

    /// Number of attempts that are under way.
    #[must_use]
    pub(crate) fn dialling(&self) -> usize {
        self.dialling
    }
}

/// The pause before a server is tried again that is full.
#[must_use]
pub(crate) fn pause_while_full() -> Duration {
    between(PAUSES_FULL)
}

/// A time at random from `shortest` to `longest`, so that clients that failed together don't come back together.
fn between((shortest, longest): (Duration, Duration)) -> Duration {
    // The standard library seeds its hashers at random.
    let random = RandomState::new().hash_one(0u8) % 1024;
    shortest + longest.saturating_sub(shortest) * u32::try_from(random).unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ClientError, ErrorSource, sqlstate};
    use crate::upstream::dial::Obstacle;

    fn down() -> DialError {
        DialError::Unreachable { host: "h".into(), why: "Connection refused".into(), obstacle: Obstacle::NoServer }
    }

    fn full() -> DialError {
        refused_with(sqlstate::TOO_MANY_CONNECTIONS)
    }

    fn refused() -> DialError {
        refused_with(sqlstate::INVALID_PASSWORD)
    }

    fn refused_with(code: &'static str) -> DialError {
        let client_error = ClientError::fatal(ErrorSource::Server, code, "no");
        let mut frame = Vec::new();
        client_error.put(&mut frame);
        DialError::Refused(ClientError::Server(frame.into()), None)
    }

    #[test]
    fn twenty_who_left_cost_one_dial() {
        let mut queue = Queue::<u32>::default();
        let now = Instant::now();
        for _ in 0..20 {
            let (number, receiver) = queue.enter(None);
            if queue.next(0, 4, now) == Next::Dial {
                queue.dial_starts();
            }
            drop(receiver);
            queue.leave(number);
        }
        assert_eq!((queue.dialling(), queue.waiting()), (1, 0));
        queue.dial_ends();
        assert_eq!(queue.deliver(7), Some(7), "no client is there to take it");
        assert_eq!(queue.next(0, 4, now), Next::Nothing);
    }

    #[test]
    fn first_come_first_served() {
        let mut queue = Queue::<u32>::default();
        let mut receivers: Vec<_> = (0..4).map(|_| queue.enter(None)).collect();
        // One that leaves properly, and one that leaves in the moment in which its connection comes.
        let (number, _) = receivers.remove(1);
        queue.leave(number);
        queue.leave(number);
        drop(receivers.remove(1));
        assert_eq!((queue.deliver(1), queue.deliver(2), queue.deliver(3)), (None, None, Some(3)));
        let got: Vec<_> =
            receivers.iter_mut().map(|(_, r)| r.try_recv().expect("served").expect("a connection")).collect();
        assert_eq!(got, [1, 2]);
    }

    #[test]
    fn who_has_waited_long_enough_is_sent_away() {
        let mut queue = Queue::<u32>::default();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let (_, mut patient) = queue.enter(Some(at(20)));
        assert!(queue.set_next_expiry(at(20)));
        let (_, mut hasty) = queue.enter(Some(at(5)));
        assert!(queue.set_next_expiry(at(5)), "a timer has to fire sooner");
        let (_, mut third) = queue.enter(Some(at(12)));
        assert!(!queue.set_next_expiry(at(12)), "a timer fires before");
        let (_, _endless) = queue.enter(None);
        assert_eq!(queue.expire(at(5), at(5)), Some(at(12)));
        assert!(matches!(hasty.try_recv(), Ok(Err(WaitError::Timeout))));
        assert!(patient.try_recv().is_err() && third.try_recv().is_err(), "the others still wait");
        assert_eq!(queue.expire(at(20), at(21)), None, "the watch is another's");
        assert!(matches!(
            (patient.try_recv(), third.try_recv()),
            (Ok(Err(WaitError::Timeout)), Ok(Err(WaitError::Timeout)))
        ));
        assert_eq!((queue.expire(at(12), at(21)), queue.waiting()), (None, 1));
        assert!(queue.set_next_expiry(at(30)), "no timer is set any more");
    }

    #[test]
    fn what_may_pass_is_waited_for_with_one_probe() {
        let mut queue = Queue::<u32>::default();
        let now = Instant::now();
        let _waiting: Vec<_> = (0..9).map(|_| queue.enter(None)).collect();
        assert_eq!(queue.next(0, 4, now), Next::Dial);
        let mut pauses = Vec::new();
        for nth in 0..5 {
            assert_eq!(queue.failed(&down(), Some(9), now), nth == 0, "only the first failure is news");
            let Next::At(at) = queue.next(0, 4, now) else { panic!("a pause is due") };
            pauses.push((at - now).as_millis());
        }
        assert_eq!(pauses, [50, 100, 200, 250, 250]);
        let at = |millis| now + Duration::from_millis(millis);
        assert!(queue.set_retry_timer(at(250)) && !queue.set_retry_timer(at(250)), "one timer, however many wait");
        assert!(
            queue.set_retry_timer(at(50)) && !queue.set_retry_timer(at(250)),
            "clients that get none try again sooner"
        );
        queue.retry_timer_fired(at(250));
        assert!(!queue.set_retry_timer(at(60)), "one that fires sooner is set");
        queue.retry_timer_fired(at(50));
        assert!(queue.set_retry_timer(at(60)));
        queue.dial_starts();
        assert_eq!(queue.next(0, 4, now + Duration::from_secs(9)), Next::Nothing, "a single probe");
        assert_eq!(queue.waiting(), 9);
        assert!(queue.succeeded());
        assert_eq!(queue.next(0, 4, now), Next::Dial);
    }

    #[test]
    fn a_full_server_is_tried_with_one_probe_again_and_again() {
        let mut queue = Queue::<u32>::default();
        let now = Instant::now();
        let _waiting: Vec<_> = (0..9).map(|_| queue.enter(None)).collect();
        for _ in 0..50 {
            queue.failed(&full(), None, now);
            let Next::At(at) = queue.next(0, 4, now) else { panic!("a pause is due") };
            assert!((PAUSES_FULL.0..=PAUSES_FULL.1).contains(&(at - now)));
        }
        assert_eq!(queue.next(0, 4, now + PAUSES_FULL.1), Next::Dial);
        queue.dial_starts();
        assert_eq!((queue.next(0, 4, now + PAUSES_FULL.1), queue.waiting()), (Next::Nothing, 9), "a single probe");
    }

    /// The places that come free are for pgferrys that have none.
    #[test]
    fn a_full_server_is_tried_less_often_while_connections_come_free() {
        let mut queue = Queue::<u32>::default();
        let now = Instant::now();
        let _waiting: Vec<_> = (0..9).map(|_| queue.enter(None)).collect();
        queue.failed(&full(), Some(9), now);
        let Next::AtOrUnserved(at) = queue.next(0, 4, now) else { panic!("a pause is due") };
        assert!((PAUSES_FULL_SERVED.0..=PAUSES_FULL_SERVED.1).contains(&(at - now)));
        while !queue.turnover.has_ceased() {
            queue.turnover.looked();
        }
        assert_eq!(queue.next(0, 4, now + PAUSES_FULL.1), Next::Dial, "clients keep theirs");
        queue.turnover.happened();
        assert_eq!(queue.next(0, 4, now + PAUSES_FULL.1), Next::AtOrUnserved(at));
    }

    #[test]
    fn what_will_not_pass_is_told_to_those_it_concerns() {
        let mut queue = Queue::<u32>::default();
        let mut receivers: Vec<_> = (0..3).map(|_| queue.enter(None).1).collect();
        queue.failed(&refused(), Some(2), Instant::now());
        for receiver in &mut receivers[..2] {
            assert!(matches!(receiver.try_recv(), Ok(Err(WaitError::Connect(_)))));
        }
        assert!(receivers[2].try_recv().is_err(), "the third gets a connection that is open already");
        queue.failed(&refused(), None, Instant::now());
        assert_eq!(queue.waiting(), 0);
    }
}
