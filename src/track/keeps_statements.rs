//! Whether resets of a pool's connections may keep their statements.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether resets of a pool's connections may keep their statements.
#[derive(Debug, Default)]
pub struct KeepsStatements {
    refused: AtomicBool,
}

impl KeepsStatements {
    /// Notes that the server has refused such a reset with this SQLSTATE. Where that will come again, since code makes or frees
    /// prepared statements, or the role may not call a function, none is tried any more.
    pub fn refused(&self, sqlstate: &[u8]) {
        if matches!(sqlstate, b"22P02" | b"26000" | b"42501") {
            self.refused.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether one is tried.
    pub(super) fn may(&self) -> bool {
        !self.refused.load(Ordering::Relaxed)
    }
}
