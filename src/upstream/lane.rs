//! A lane in which one at a time has its turn, and the one with the latest deadline is next: the one that came last, wherever it
//! has waited before. Where more come than can be served, those that have just come are served, and not all of them too late.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::lock::lock;

/// Number of those waiting from which on it is looked whether some have left.
const PURGE_AT: usize = 64;

/// A lane.
#[derive(Debug)]
pub(crate) struct Lane {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    /// Callers that wait, with their deadlines, the latest last.
    waiting: VecDeque<(Instant, oneshot::Sender<()>)>,
    /// Number of those waiting from which on it is looked again whether some have left.
    purge_at: usize,
}

/// The turn in a lane, until this is dropped.
#[derive(Debug)]
pub(crate) struct LaneTurn(Arc<Lane>);

/// One that waits.
struct Waiting {
    called: oneshot::Receiver<()>,
    lane: Arc<Lane>,
}

impl Default for Lane {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Lane {
    /// An empty lane in which `most` wait at a time: one that comes besides takes the place of the one with the earliest deadline.
    #[must_use]
    pub(crate) fn new(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// Waits for the turn of one that can wait until `deadline`; `None` when others have taken the place. Cancel-safe.
    pub(crate) async fn turn(self: &Arc<Self>, deadline: Instant) -> Option<LaneTurn> {
        let mut waiting = {
            let mut state = lock(&self.state);
            if !state.is_taken {
                state.is_taken = true;
                return Some(LaneTurn(Arc::clone(self)));
            }
            let (call, called) = oneshot::channel();
            state.push(deadline, call, self.most);
            Waiting { called, lane: Arc::clone(self) }
        };
        let called = (&mut waiting.called).await;
        called.ok().map(|()| LaneTurn(Arc::clone(self)))
    }

    /// Gives the turn to the next.
    fn pass_on(&self) {
        loop {
            let next = {
                let mut state = lock(&self.state);
                let next = state.waiting.pop_back();
                state.is_taken = next.is_some();
                next
            };
            match next.map(|(_, call)| call.send(())) {
                // One that has left.
                Some(Err(())) => {}
                Some(Ok(())) | None => return,
            }
        }
    }
}

impl State {
    fn push(&mut self, deadline: Instant, call: oneshot::Sender<()>, most: usize) {
        if self.waiting.len() >= self.purge_at.max(PURGE_AT).min(most) {
            self.waiting.retain(|(_, waiting)| !waiting.is_closed());
            self.purge_at = 2 * self.waiting.len();
        }
        let at = self.waiting.partition_point(|(other, _)| *other <= deadline);
        self.waiting.insert(at, (deadline, call));
        if self.waiting.len() > most {
            self.waiting.pop_front();
        }
    }
}

impl Drop for LaneTurn {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.called.close();
        // It was called as it left.
        if self.called.try_recv().is_ok() {
            self.lane.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    /// Returns a turn that comes at once, if it does.
    async fn at_once<T>(turn: impl Future<Output = T>) -> Option<T> {
        let mut turn = pin!(turn);
        poll_fn(|cx| {
            Poll::Ready(match turn.as_mut().poll(cx) {
                Poll::Ready(done) => Some(done),
                Poll::Pending => None,
            })
        })
        .await
    }

    #[tokio::test]
    async fn the_one_that_came_last_is_next() {
        let lane = Arc::new(Lane::default());
        let first = lane.turn(Instant::now()).await;
        let mut waits: Vec<_> = (0..3).map(|_| Box::pin(lane.turn(Instant::now()))).collect();
        for wait in &mut waits {
            assert!(at_once(wait).await.is_none());
        }
        drop(first);
        let last = at_once(&mut waits[2]).await.expect("its turn");
        assert!(at_once(&mut waits[0]).await.is_none());
        // One that is called as it leaves passes the turn on.
        drop(last);
        drop(waits.remove(1));
        assert!(at_once(&mut waits[0]).await.is_some_and(|turn| turn.is_some()));
        assert!(at_once(lane.turn(Instant::now())).await.is_some());
    }

    #[tokio::test]
    async fn the_one_with_the_latest_deadline_is_next_whenever_it_came_here() {
        let lane = Arc::new(Lane::default());
        let now = Instant::now();
        let taken = lane.turn(now).await;
        let mut waits: Vec<_> = [1, 3, 2].map(|s| Box::pin(lane.turn(now + Duration::from_secs(s)))).into();
        for wait in &mut waits {
            assert!(at_once(wait).await.is_none());
        }
        drop(taken);
        for next in [1, 2, 0] {
            assert!(at_once(&mut waits[next]).await.is_some_and(|turn| turn.is_some()));
        }
    }

    #[tokio::test]
    async fn those_that_have_left_are_forgotten() {
        let lane = Arc::new(Lane::default());
        let taken = lane.turn(Instant::now()).await;
        for _ in 0..10_000 {
            assert!(at_once(lane.turn(Instant::now())).await.is_none());
        }
        assert!(lock(&lane.state).waiting.len() <= 2 * PURGE_AT);
        drop(taken);
        assert!(at_once(lane.turn(Instant::now())).await.is_some());
    }

    #[tokio::test]
    async fn where_too_many_wait_the_first_goes() {
        let lane = Arc::new(Lane::new(2));
        let taken = lane.turn(Instant::now()).await;
        let mut waits: Vec<_> = (0..3).map(|_| Box::pin(lane.turn(Instant::now()))).collect();
        for wait in &mut waits {
            assert!(at_once(wait).await.is_none());
        }
        assert!(at_once(&mut waits[0]).await.is_some_and(|turn| turn.is_none()));
        drop(taken);
        drop(at_once(&mut waits[2]).await.expect("its turn"));
        assert!(at_once(&mut waits[1]).await.is_some_and(|turn| turn.is_some()));
    }
}
