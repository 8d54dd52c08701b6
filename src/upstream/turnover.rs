//! Whether connections come free, or clients keep them.

use std::time::Duration;

/// Looks in a row without a turnover that show that there is none. Several, since the process itself may not have run for
/// as long as one of them takes.
const LOOKS: u32 = 5;

/// The most looks that are required, after fewer have misled.
const MOST_LOOKS: u32 = 16 * LOOKS;

/// Results of looks at a pool in which clients wait: a *turnover* is a connection that comes back.
#[derive(Debug)]
pub(crate) struct Turnover {
    /// Looks since the last one.
    looks: u32,
    /// Number of looks without one that show that there is none.
    required: u32,
    /// A task looks.
    watched: bool,
}

impl Default for Turnover {
    fn default() -> Self {
        Self { looks: 0, required: LOOKS, watched: false }
    }
}

impl Turnover {
    /// Time between two looks, where `timeout` without a turnover is to show that there is none.
    #[must_use]
    pub(crate) fn interval(timeout: Duration) -> Duration {
        timeout / LOOKS
    }

    /// Notes a connection that came back. If it had seemed that none does, clients are just slow, on a busy machine for example: while
    /// others wait, it takes twice as many looks from now on.
    pub(crate) fn happened(&mut self) {
        if self.has_ceased() {
            self.required = (2 * self.required).min(MOST_LOOKS);
        }
        self.looks = 0;
    }

    /// Notes a look at which clients waited, and nothing had come back since the last one.
    pub(crate) fn looked(&mut self) {
        self.looks = self.looks.saturating_add(1).min(self.required);
    }

    /// Returns whether clients with connections keep them.
    #[must_use]
    pub(crate) fn has_ceased(&self) -> bool {
        self.looks >= self.required
    }

    /// Returns whether a task is to be set to looking; once, however many ask.
    pub(crate) fn set_watch(&mut self) -> bool {
        !std::mem::replace(&mut self.watched, true)
    }

    /// The task looks no more, since no client waits.
    pub(crate) fn watch_ends(&mut self) {
        (self.watched, self.required) = (false, LOOKS);
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

    #[test]
    fn clients_that_are_slow_are_given_more_time_while_others_wait() {
        let mut turnover = Turnover::default();
        let mut required = Vec::new();
        for _ in 0..6 {
            let mut looks = 0;
            while !turnover.has_ceased() {
                turnover.looked();
                looks += 1;
            }
            required.push(looks);
            turnover.happened();
        }
        assert_eq!(required, [5, 10, 20, 40, 80, 80]);
        turnover.watch_ends();
        (0..LOOKS).for_each(|_| turnover.looked());
        assert!(turnover.has_ceased());
    }
}
