//! Whether a connection has the statements of a reset prepared.

/// Whether a connection has the statements of such a reset prepared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetStatements {
    /// It has not.
    #[default]
    Absent,
    /// It has.
    Prepared,
}
