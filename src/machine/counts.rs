//! What a machine counts for statistics.

/// Requests that the server was ready after, since this was last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyCounts {
    /// Number of requests.
    pub queries: u32,
    /// Number of those that ended a transaction.
    pub transactions: u32,
}

/// Messages that were counted, since this was last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// `Parse` messages of the client.
    pub client_parses: u64,
    /// `Parse` messages sent to the server.
    pub server_parses: u64,
    /// `Bind` messages of the client.
    pub binds: u64,
    /// Counts of requests after which the server was ready.
    pub readies: ReadyCounts,
}
