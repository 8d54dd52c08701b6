//! The clients that came out of one backend.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::lock::lock;

/// A client that came out of a backend. It is there for as long as this is held.
#[derive(Debug)]
pub(crate) struct LoopedClient(());

/// The clients that came out of one backend.
#[derive(Debug, Default)]
pub(crate) struct LoopedClients(Mutex<Vec<Weak<LoopedClient>>>);

impl LoopedClients {
    /// Notes one more. Those that are gone are forgotten.
    pub(super) fn add(&self) -> Arc<LoopedClient> {
        let client = Arc::new(LoopedClient(()));
        let mut clients = self.clients();
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Arc::downgrade(&client));
        client
    }

    /// Returns whether one of them is still there.
    #[must_use]
    pub(crate) fn any(&self) -> bool {
        self.clients().iter().any(|client| client.strong_count() > 0)
    }

    fn clients(&self) -> MutexGuard<'_, Vec<Weak<LoopedClient>>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_count_for_as_long_as_they_are_there() {
        let clients = LoopedClients::default();
        assert!(!clients.any());
        let (one, two) = (clients.add(), clients.add());
        drop(one);
        assert!(clients.any());
        drop(two);
        assert!(!clients.any());
        for _ in 0..100 {
            clients.add();
        }
        assert_eq!(clients.clients().len(), 1, "the last one, which is gone too");
    }
}
