//! What is to be found out.

use std::time::Duration;

use super::kernel::Paths;

/// Scope of an examination.
#[derive(Clone, Debug, Default)]
pub struct Examination {
    /// Paths to read from.
    pub paths: Paths,
    /// For how long to count new TIME_WAITs.
    pub watch: Option<Duration>,
    /// True if connections may be opened to measure.
    pub measure: bool,
    /// The user to check the permissions of the socket files for.
    pub as_uid: Option<u32>,
}
