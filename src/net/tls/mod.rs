//! Encryption, and who proves what with which certificate.
//!
//! - [`session`]: one encrypted connection.
//! - [`client`]: how carefully servers are looked at, and what is shown to them; `verify` does the looking.
//! - [`certificate`]: what certificates say where rustls does not tell.
//! - [`files`]: certificates and keys as files, read again when they change.

pub mod certificate;
pub mod client;
pub mod files;
pub mod session;
mod verify;

pub use client::{Client, ClientOptions, Roots, Version};
pub use session::Session;
