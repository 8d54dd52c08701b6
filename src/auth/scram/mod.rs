//! SCRAM-SHA-256 (RFC 5802, RFC 7677), both halves, as PostgreSQL speaks it: without user names, which are in the startup
//! packet, and with the channel binding `tls-server-end-point` (RFC 5929).
//!
//! - [`keys`]: what passwords become: keys, and the verifiers of `pg_authid`.
//! - [`client`]: logs in.
//! - [`server`]: lets in.
//! - `message`: the attributes that messages consist of.

pub(crate) mod client;
pub(crate) mod keys;
mod message;
pub(crate) mod server;
#[cfg(test)]
mod tests;

pub(crate) use keys::{ClientKey, Shape, Verifier};

/// The mechanism without channel binding.
pub(crate) const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// The mechanism with channel binding.
pub(crate) const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Reason why an exchange failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ScramError {
    /// A message is not what it should be: what, and in what way.
    Malformed(&'static str, String),
    /// The two sides do not agree about channel binding.
    Binding(&'static str),
    /// Something that is part of the standard but not of PostgreSQL.
    Unsupported(&'static str),
    /// The password is wrong, or the user unknown.
    WrongPassword,
    /// The server does not know the password either: it is another server.
    Impostor,
    /// The server refuses.
    Refused(String),
    /// The server asks for more work than is accepted.
    TooMuchWork(u32),
    /// The keys that are there are not those that the server's verifier was made of.
    OtherVerifier,
}
