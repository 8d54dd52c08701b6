//! A statement as a connection has it.

use super::statements::{Columns, ParameterTypes, Rereading};

/// Standing of a statement at a reset: may it stay on its connection?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was prepared when nothing had run since the session was as new.
    Trusted,
    /// It was trusted, and then used when code may have changed settings. Its constants may be those of then: the server looks at a text
    /// anew whenever what it reads has changed or was analysed (`RevalidateCachedQuery` in `src/backend/utils/cache/plancache.c`).
    Used,
    /// Code that had run by the time it was prepared may have changed what its text means.
    Doubtful,
}

/// Words of the server when a statement was prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reception {
    /// It has accepted the text without a word.
    Silent,
    /// It has given notices about the text, as it does to every client that prepares it.
    WithNotices,
}

/// A statement as a connection has it.
#[derive(Clone, Debug)]
pub struct PreparedStatement {
    /// Time of its last use, by the clock of the connection's statements.
    pub(super) used: u64,
    /// Bytes of its text.
    pub(super) size: usize,
    /// Standing at a reset.
    pub(super) standing: Standing,
    /// Words of the server about its text.
    pub(super) reception: Reception,
    /// Decision whether it may stay where plans are discarded.
    pub(super) rereading: Rereading,
    /// The columns that its plan has there, once the server was asked: they don't change (`RevalidateCachedQuery` in
    /// `src/backend/utils/cache/plancache.c`).
    pub(super) columns: Option<Columns>,
    /// The types that its parameters have there, once the server was asked: they don't change either.
    pub(super) types: Option<ParameterTypes>,
}
