//! Numbers for prepared statements, and the definitions that their texts refer to.

use std::sync::atomic::{AtomicU64, Ordering};

/// State that the statement caches of a process share: numbers for statements, which are never used again, and how often
/// definitions have changed that texts refer to.
#[derive(Debug, Default)]
pub struct StatementIds {
    last: AtomicU64,
    definitions: AtomicU64,
}

impl StatementIds {
    /// Numbers above one that is this process's own, made of these `random` bytes: behind a pooler that lends its sessions
    /// to several pgferrys the name of one's statement is none of another's.
    #[must_use]
    pub fn with_random_start(random: &[u8]) -> Self {
        // 48 bits: short enough for a name, and two processes hardly ever come to the same number.
        let start = random.iter().take(6).fold(0, |start, &byte| (start << 8) | u64::from(byte));
        Self { last: AtomicU64::new(start), ..Self::default() }
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Number of changes of definitions that texts refer to.
    pub(super) fn definitions(&self) -> u64 {
        self.definitions.load(Ordering::Relaxed)
    }

    /// Notes that the meaning of names may have changed: from now on no text is a statement that was there before, in any cache.
    pub fn definitions_changed(&self) {
        self.definitions.fetch_add(1, Ordering::Relaxed);
    }
}
