//! Protocol bookkeeping, pure: messages in, decisions out. No sockets, no `async`.
//!
//! - [`pipeline`]: what the server still owes, so that a connection changes hands only between answers.
//! - [`request`]: what a client's message asks for, and what becomes of the answer.
//! - [`pinning`]: which messages leave state behind in a session, so that it changes hands only when clean.
//! - [`params`]: the reported settings (`ParameterStatus`) of a client and of a connection, and their difference.
//! - [`acts`]: statements whose effect on the session can be carried: `SET`, `RESET`, savepoints, `DEALLOCATE`.
//! - [`ledger`]: what a client has set with them, as far as its transactions commit.
//! - [`statements`]: named prepared statements of clients, and on connections.
//! - [`names`]: which statement and which portal a message is about.
//! - [`luggage`]: all that a client carries from connection to connection.
//! - [`sieve`]: a quick pass that spares most statements the look.
//! - [`sql`]: just enough of SQL's lexis for `pinning` and `acts` to tell a keyword from a string.

pub mod acts;
pub mod ledger;
pub mod luggage;
pub mod names;
pub mod params;
pub mod pinning;
pub mod pipeline;
pub mod request;
pub mod sieve;
pub mod sql;
pub mod statements;

pub use luggage::Luggage;
pub use params::{Params, Wanted};
pub use pinning::{Look, Pins};
pub use pipeline::Pipeline;
pub use request::{Reply, Request};

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
