//! Whether resets of a pool's connections may keep their statements.

use std::sync::OnceLock;

/// The SQLSTATEs of refusals that will come again: code makes or frees prepared statements, or the role may not call a function.
const LASTING: [&[u8; 5]; 3] = [b"22P02", b"26000", b"42501"];

/// Permission for resets of a pool's connections to keep statements: it ends once the server has refused one for good.
#[derive(Debug, Default)]
pub struct KeepsStatements {
    /// The SQLSTATE of that refusal.
    refusal: OnceLock<&'static [u8; 5]>,
}

impl KeepsStatements {
    /// Notes that the server has refused such a reset with this SQLSTATE. Where that will come again, none is tried any more.
    pub fn refused(&self, sqlstate: &[u8]) {
        if let Some(lasting) = LASTING.into_iter().find(|lasting| lasting.as_slice() == sqlstate) {
            // The first one is enough.
            let _ = self.refusal.set(lasting);
        }
    }

    /// Returns whether one is tried.
    pub(super) fn may(&self) -> bool {
        self.refusal.get().is_none()
    }
}
