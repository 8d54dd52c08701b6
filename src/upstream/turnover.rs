//! Whether connections come free, or clients keep them.

use std::time::Duration;

/// Looks in a row without a turnover that show that there is none. Several, since the process itself may not have run for
/// as long as one of them takes.
const LOOKS: u32 = 5;

/// Results of looks at a pool in which clients wait: a *turnover* is a connection that comes back.
#[derive(Debug, Default)]
pub(crate) struct Turnover {
    /// Looks since the last one.
    looks: u32,
    /// A task looks.
    watched: bool,
}

impl Turnover {
    /// Time between two looks, where `timeout` without a turnover is to show that there is none.
    #[must_use]
    pub(crate) fn interval(timeout: Duration) -> Duration {
        timeout / LOOKS
    }

    /// Notes a connection that came back.
    pub(crate) fn happened(&mut self) {
        self.looks = 0;
    }

    /// Notes a look at which clients waited, and nothing had come back since the last one.
    pub(crate) fn looked(&mut self) {
        self.looks = self.looks.saturating_add(1).min(LOOKS);
    }

    /// Returns whether clients with connections keep them.
    #[must_use]
    pub(crate) fn has_ceased(&self) -> bool {
        self.looks >= LOOKS
    }

    /// Returns whether a task is to be set to looking; once, however many ask.
    pub(crate) fn set_watch(&mut self) -> bool {
        !std::mem::replace(&mut self.watched, true)
    }

    /// The task looks no more.
    pub(crate) fn watch_ends(&mut self) {
        self.watched = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_looks_without_a_turnover_in_between_show_that_there_is_none() {
        let mut turnover = Turnover::default();
        for _ in 0..3 {
            for _ in 1..LOOKS {
                turnover.looked();
                assert!(!turnover.has_ceased());
            }
            turnover.happened();
        }
        (0..LOOKS).for_each(|_| turnover.looked());
        assert!(turnover.has_ceased());
        turnover.looked();
        assert!(turnover.has_ceased(), "as long as nothing comes back");
        turnover.happened();
        assert!(!turnover.has_ceased());
    }
}
