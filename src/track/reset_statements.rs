//! Whether a connection has the statements of a reset prepared.

/// State of the statements of such a reset on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetStatements {
    /// It has not.
    #[default]
    Absent,
    /// It has.
    Prepared,
}
