//! Databases that an administrator has paused (all or one) or disabled.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::lock::lock;

/// Databases that are paused or disabled.
#[derive(Debug, Default)]
pub(crate) struct PauseState {
    /// True if anything is: one look in the common case.
    any: AtomicBool,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    all_paused: bool,
    databases: BTreeMap<Vec<u8>, DatabaseState>,
}

/// State of one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DatabaseState {
    /// No client gets a connection; it waits for one.
    pub paused: bool,
    /// Logins are rejected.
    pub disabled: bool,
}

impl PauseState {
    /// Returns the state of `database`.
    #[must_use]
    pub(crate) fn of(&self, database: &[u8]) -> DatabaseState {
        if !self.any.load(Ordering::SeqCst) {
            return DatabaseState::default();
        }
        let state = self.state();
        let own = state.databases.get(database).copied().unwrap_or_default();
        DatabaseState { paused: own.paused || state.all_paused, ..own }
    }

    /// The databases that are paused or disabled by name.
    #[must_use]
    pub(crate) fn databases(&self) -> Vec<Vec<u8>> {
        self.state().databases.keys().cloned().collect()
    }

    /// Returns whether everything is paused.
    #[must_use]
    pub(crate) fn all_paused(&self) -> bool {
        self.state().all_paused
    }

    /// Waits until work on `database` is not paused. Cancel-safe.
    pub(crate) async fn resumed(&self, database: &[u8]) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.of(database).paused {
                return;
            }
            changed.await;
        }
    }

    /// Pauses work on one database, or on all.
    pub(crate) fn pause(&self, database: Option<&[u8]>) {
        self.change(|state| match database {
            Some(name) => state.databases.entry(name.to_vec()).or_default().paused = true,
            None => state.all_paused = true,
        });
    }

    /// Lets work on one database go on, or on all; says whether any was paused.
    pub(crate) fn resume(&self, database: Option<&[u8]>) -> bool {
        let mut was = false;
        self.change(|state| {
            was = database.is_none() && std::mem::take(&mut state.all_paused);
            for (name, own) in &mut state.databases {
                if database.is_none_or(|database| database == name) {
                    was |= std::mem::take(&mut own.paused);
                }
            }
        });
        was
    }

    /// Disables logins to `database`.
    pub(crate) fn disable(&self, database: &[u8]) {
        self.change(|state| state.databases.entry(database.to_vec()).or_default().disabled = true);
    }

    /// Enables logins to `database` again.
    pub(crate) fn enable(&self, database: &[u8]) {
        self.change(|state| state.databases.entry(database.to_vec()).or_default().disabled = false);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        state.databases.retain(|_, own| *own != DatabaseState::default());
        self.any.store(state.all_paused || !state.databases.is_empty(), Ordering::SeqCst);
        drop(state);
        self.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn who_waits_goes_on_when_the_last_pause_is_over() {
        let pauses = Arc::new(PauseState::default());
        pauses.resumed(b"shop").await;
        pauses.pause(Some(b"shop"));
        pauses.pause(None);
        assert!(pauses.of(b"shop").paused && pauses.of(b"other").paused);
        let waiting = tokio::spawn({
            let pauses = Arc::clone(&pauses);
            async move { pauses.resumed(b"shop").await }
        });
        tokio::task::yield_now().await;
        assert!(pauses.resume(Some(b"shop")) && pauses.of(b"shop").paused, "all are paused still");
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert!(pauses.resume(None) && !pauses.resume(None));
        waiting.await.expect("resumed");
    }

    #[test]
    fn a_database_is_disabled_by_itself() {
        let pauses = PauseState::default();
        pauses.disable(b"shop");
        assert!(pauses.of(b"shop").disabled && !pauses.of(b"other").disabled && !pauses.of(b"shop").paused);
        pauses.enable(b"shop");
        assert_eq!(pauses.of(b"shop"), DatabaseState::default());
    }

    #[test]
    fn what_is_paused_or_disabled_by_name_is_listed() {
        let pauses = PauseState::default();
        pauses.pause(None);
        assert!(pauses.databases().is_empty());
        pauses.pause(Some(b"shop"));
        pauses.disable(b"reports");
        assert_eq!(pauses.databases(), [&b"reports"[..], b"shop"]);
        pauses.resume(None);
        assert_eq!(pauses.databases(), [b"reports"]);
    }
}
