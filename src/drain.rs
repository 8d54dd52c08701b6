//! The phases of a process's end.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::watch;

/// Phase of the process's life. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Clients are served.
    Running,
    /// New clients go to another process; those there go on as long as they like.
    Left,
    /// No new clients; those there go on as long as they like.
    Closed,
    /// No new clients; those there end at their next safe point.
    Draining,
    /// All sessions end now.
    Stopping,
}

/// The process's phase, and the tasks that wait for it.
#[derive(Debug)]
pub(crate) struct Drain {
    phase: watch::Sender<Phase>,
    /// The same as a number, which all sessions look at all the time.
    now: AtomicU8,
}

impl Default for Drain {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Running), now: AtomicU8::new(Phase::Running as u8) }
    }
}

impl Drain {
    /// The phase now.
    #[must_use]
    pub(crate) fn phase(&self) -> Phase {
        match self.now.load(Ordering::SeqCst) {
            0 => Phase::Running,
            1 => Phase::Left,
            2 => Phase::Closed,
            3 => Phase::Draining,
            _ => Phase::Stopping,
        }
    }

    /// Moves on to `phase`; never back. Says whether that was news.
    pub(crate) fn advance(&self, phase: Phase) -> bool {
        self.phase.send_if_modified(|now| {
            let news = phase > *now;
            if news {
                *now = phase;
                self.now.store(phase as u8, Ordering::SeqCst);
            }
            news
        })
    }

    /// Waits until the phase is at least `phase`.
    pub(crate) async fn reached(&self, phase: Phase) {
        // The sender lives as long as this future.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_move_forward() {
        let drain = Drain::default();
        assert!(drain.advance(Phase::Stopping));
        assert!(!drain.advance(Phase::Draining));
        assert_eq!(drain.phase(), Phase::Stopping);
        drain.reached(Phase::Draining).await;
    }
}
