//! TLS, towards clients and towards servers.
//!
//! - [`session`]: one encrypted connection.
//! - [`client`]: how carefully servers are looked at, and what is shown to them; `verify` does the looking.
//! - [`server`]: the certificate that clients see, and the authorities that theirs must be from.
//! - [`certificate`]: what certificates say where rustls does not tell.
//! - `files`: certificates and keys as files.

pub(crate) mod certificate;
pub(crate) mod client;
mod files;
pub(crate) mod server;
pub(crate) mod session;
mod verify;

pub use client::{Client, ClientOptions, Roots, Version};
pub(crate) use server::{CertificateOrigin, OwnCertificate, Server, ServerOptions};
pub(crate) use session::TlsSession;
