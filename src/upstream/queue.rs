//! Who waits for a connection that is still being opened, what was opened for nobody, and when the next attempt may
//! start.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::dial::DialError;

/// The first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause while the server is just not up: a refused connect costs neither side anything, and whoever
/// waits should have a row soon after the server is back.
const LONGEST_PAUSE_DOWN: Duration = Duration::from_millis(250);

/// The longest pause after any other failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The waiting, of one pool. `T` is an open connection.
#[derive(Debug)]
pub struct Queue<T> {
    waiters: VecDeque<oneshot::Sender<Result<T, DialError>>>,
    spares: Vec<T>,
    dialling: usize,
    pause: Duration,
    not_before: Option<Instant>,
    /// Somebody sees to it that the next attempt is made when the pause is over.
    alarm_set: bool,
    last_error: Option<DialError>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiters: VecDeque::new(),
            spares: Vec::new(),
            dialling: 0,
            pause: Duration::ZERO,
            not_before: None,
            alarm_set: false,
            last_error: None,
        }
    }
}

/// Whether another attempt may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Now.
    Dial,
    /// At this time, if anybody still waits then.
    At(Instant),
    /// Enough are under way for those who wait.
    Nothing,
}

impl<T> Queue<T> {
    /// A spare connection, or a place in the queue.
    pub fn enter(&mut self) -> Result<T, oneshot::Receiver<Result<T, DialError>>> {
        if let Some(spare) = self.spares.pop() {
            return Ok(spare);
        }
        let (sender, receiver) = oneshot::channel();
        self.waiters.push_back(sender);
        Err(receiver)
    }

    /// Hands a connection to whoever has waited longest, or keeps it as a spare.
    pub fn deliver(&mut self, connection: T) {
        let mut connection = Ok(connection);
        while let Some(waiter) = self.waiters.pop_front() {
            match waiter.send(connection) {
                Ok(()) => return,
                Err(back) => connection = back,
            }
        }
        self.spares.extend(connection);
    }

    /// Whether anybody waits.
    pub fn has_waiters(&mut self) -> bool {
        self.waiters.retain(|waiter| !waiter.is_closed());
        !self.waiters.is_empty()
    }

    /// Whether another attempt may start, `beyond` those who wait for one.
    pub fn next(&mut self, beyond: usize, max_dialling: usize, now: Instant) -> Next {
        self.waiters.retain(|waiter| !waiter.is_closed());
        let limit = if self.last_error.is_some() { 1 } else { max_dialling };
        if self.dialling >= (self.waiters.len() + beyond).min(limit) {
            return Next::Nothing;
        }
        match self.not_before {
            Some(at) if at > now => Next::At(at),
            _ => Next::Dial,
        }
    }

    /// Whether an alarm is to be set for the end of the pause; once, however many ask.
    pub fn set_alarm(&mut self) -> bool {
        !std::mem::replace(&mut self.alarm_set, true)
    }

    /// The alarm has gone off.
    pub fn alarm_rings(&mut self) {
        self.alarm_set = false;
    }

    /// Notes an attempt that starts.
    pub fn dial_starts(&mut self) {
        self.dialling += 1;
    }

    /// Notes an attempt that ended.
    pub fn dial_ends(&mut self) {
        self.dialling -= 1;
    }

    /// Notes that the upstream can be reached. Says whether it could not before.
    pub fn succeeded(&mut self) -> bool {
        self.pause = Duration::ZERO;
        self.not_before = None;
        self.last_error.take().is_some()
    }

    /// Notes a failure: those who wait go on waiting if that may help, or are all told. Says whether this is news.
    pub fn failed(&mut self, error: &DialError, now: Instant) -> bool {
        let longest = if error.is_down() { LONGEST_PAUSE_DOWN } else { LONGEST_PAUSE };
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, longest);
        self.not_before = Some(now + self.pause);
        if !error.may_pass() {
            for waiter in self.waiters.drain(..) {
                // Whoever went away needs no answer.
                let _ = waiter.send(Err(error.clone()));
            }
        }
        let news = self.last_error.as_ref().is_none_or(|last| last.fault() != error.fault());
        self.last_error = Some(error.clone());
        news
    }

    /// Why the last attempt failed, if none has succeeded since.
    #[must_use]
    pub fn last_error(&self) -> Option<&DialError> {
        self.last_error.as_ref()
    }

    /// Takes the spares that `unfit` picks.
    pub fn take_spares(&mut self, mut unfit: impl FnMut(&T) -> bool) -> Vec<T> {
        let (taken, kept) = std::mem::take(&mut self.spares).into_iter().partition(|spare| unfit(spare));
        self.spares = kept;
        taken
    }

    /// How many spares there are.
    #[must_use]
    pub fn spares(&self) -> usize {
        self.spares.len()
    }

    /// How many attempts are under way.
    #[must_use]
    pub fn dialling(&self) -> usize {
        self.dialling
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Blame, Fault, sqlstate};

    fn down() -> DialError {
        DialError::Unreachable { host: "h".into(), why: "Connection refused".into(), refused: true }
    }

    #[test]
    fn twenty_who_left_cost_one_dial() {
        let mut queue = Queue::<u32>::default();
        let now = Instant::now();
        for _ in 0..20 {
            let Err(receiver) = queue.enter() else { panic!("no spares yet") };
            if queue.next(0, 4, now) == Next::Dial {
                queue.dial_starts();
            }
            drop(receiver);
        }
        assert_eq!(queue.dialling(), 1);
        queue.dial_ends();
        queue.deliver(7);
        assert_eq!(queue.enter().ok(), Some(7));
        assert_eq!(queue.next(0, 4, now), Next::Nothing);
    }

    #[test]
    fn first_come_first_served() {
        let mut queue = Queue::<u32>::default();
        let mut receivers: Vec<_> = (0..3).filter_map(|_| queue.enter().err()).collect();
        drop(receivers.remove(1));
        queue.deliver(1);
        queue.deliver(2);
        queue.deliver(3);
        let got: Vec<_> = receivers.iter_mut().map(|r| r.try_recv().expect("served").expect("a connection")).collect();
        assert_eq!(got, [1, 2]);
        assert_eq!(queue.spares(), 1);
    }

    #[test]
    fn what_may_pass_is_waited_for_with_one_probe() {
        let mut queue = Queue::<u32>::default();
        let now = Instant::now();
        let _waiting: Vec<_> = (0..9).filter_map(|_| queue.enter().err()).collect();
        assert_eq!(queue.next(0, 4, now), Next::Dial);
        let mut pauses = Vec::new();
        for nth in 0..5 {
            assert_eq!(queue.failed(&down(), now), nth == 0, "only the first failure is news");
            let Next::At(at) = queue.next(0, 4, now) else { panic!("a pause is due") };
            pauses.push((at - now).as_millis());
        }
        assert_eq!(pauses, [50, 100, 200, 250, 250]);
        assert!(queue.set_alarm() && !queue.set_alarm(), "one alarm, however many wait");
        queue.alarm_rings();
        assert!(queue.set_alarm());
        queue.dial_starts();
        assert_eq!(queue.next(0, 4, now + Duration::from_secs(9)), Next::Nothing, "a single probe");
        assert!(queue.has_waiters());
        assert!(queue.succeeded());
        assert_eq!(queue.next(0, 4, now), Next::Dial);
    }

    #[test]
    fn what_will_not_pass_is_told_to_all() {
        let mut queue = Queue::<u32>::default();
        let mut receivers: Vec<_> = (0..3).filter_map(|_| queue.enter().err()).collect();
        let fault = Fault::fatal(Blame::Upstream, sqlstate::INVALID_PASSWORD, "no");
        let mut frame = Vec::new();
        fault.put(&mut frame);
        queue.failed(&DialError::Refused(Fault::Upstream(frame.into()), None), Instant::now());
        for receiver in &mut receivers {
            assert!(receiver.try_recv().expect("told").is_err());
        }
        assert!(!queue.has_waiters());
    }
}
