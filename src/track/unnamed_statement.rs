//! The unnamed statement of a connection.

use super::client_statements::Unnamed;

/// A connection's unnamed statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnnamedStatement {
    /// There is none.
    #[default]
    Absent,
    /// The one with this number ([`Unnamed::id`]).
    Is(u64),
    /// There may be one, and it is no client's.
    Unknown,
}

impl UnnamedStatement {
    /// Returns whether it is what a client has that has `unnamed`.
    #[must_use]
    pub fn is(self, unnamed: Option<&Unnamed>) -> bool {
        self == unnamed.map_or(Self::Absent, |unnamed| Self::Is(unnamed.id))
    }
}
