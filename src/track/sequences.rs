//! What a session remembers of sequences.

/// Use of sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sequences {
    /// Nothing that is known.
    #[default]
    Untouched,
    /// Some have probably given values, of which the session remembers the latest.
    GaveValues,
}
