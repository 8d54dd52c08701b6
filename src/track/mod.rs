//! Protocol bookkeeping, pure: messages in, decisions out. No sockets, no `async`.
//!
//! - [`pipeline`]: what the server still owes, so that a connection changes hands only between answers.
//! - [`pinning`]: which messages leave state behind in a session, so that it changes hands only when clean.
//! - [`params`]: the reported settings (`ParameterStatus`) of a client and of a connection, and their difference.
//! - [`unnamed`]: the unnamed prepared statement, which must not change hands between its parse and its bind.
//! - [`sql`]: just enough of SQL's lexis for `pinning` to tell a keyword from a string.

pub mod params;
pub mod pinning;
pub mod pipeline;
pub mod sql;
pub mod unnamed;

pub use params::{Params, Wanted};
pub use pinning::Pins;
pub use pipeline::{Pipeline, Reply, Request};
pub use unnamed::Unnamed;

/// Proof that a session may be handed to somebody else: nothing is owed, no transaction is open, nothing pins.
///
/// Only [`Clean::prove`] makes one, and giving a connection back to its pool takes one.
#[derive(Debug)]
pub struct Clean(());

impl Clean {
    /// Looks at both sides of the books; `None` while anything is open.
    #[must_use]
    pub fn prove(pipeline: &Pipeline, pins: Pins) -> Option<Self> {
        (pipeline.settled() && pins.is_empty()).then_some(Self(()))
    }
}
