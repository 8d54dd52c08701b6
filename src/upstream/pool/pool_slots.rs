//! The slots that a connection of a pool holds, from before it is opened until it is closed.

use std::sync::Weak;

use tokio::runtime::Handle;

use super::Pool;
use crate::upstream::slots::Slot;

/// The slots of a connection. Dropping them frees them, and has connections opened for clients that found none: in its pool, in
/// others of its role, in all.
#[derive(Debug)]
pub(in crate::upstream) struct PoolSlots {
    held: Option<Held>,
    pool: Weak<Pool>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held")]
struct Held {
    /// In its pool.
    pool: Slot,
    /// Among its role's connections.
    user: Slot,
    /// In the process; `None` while that is waited for.
    process: Option<Slot>,
}

impl PoolSlots {
    /// The slots of a connection of `pool`, without the one in the process.
    pub(super) fn waiting(pool: Weak<Pool>, in_pool: Slot, user: Slot) -> Self {
        Self { held: Some(Held { pool: in_pool, user, process: None }), pool }
    }

    /// The same with that one.
    #[must_use]
    pub(super) fn with_process(mut self, slot: Slot) -> Self {
        if let Some(held) = &mut self.held {
            held.process = Some(slot);
        }
        self
    }
}

impl Drop for PoolSlots {
    fn drop(&mut self) {
        // A former pool is kept as long as it has slots.
        let pool = self.pool.upgrade();
        drop(self.held.take());
        // Without a runtime the process is about to end.
        if let Some(pool) = pool.filter(|_| Handle::try_current().is_ok()) {
            pool.open_as_needed();
            pool.note_freed();
        }
    }
}
