//! pgferry: a local connection-multiplexing proxy for PostgreSQL.
//!
//! The library exists so that tests and fuzz targets reach the parts; it is not an API to build on.
//! ARCHITECTURE.md tells the way of one client through these modules.

pub mod admin;
pub mod auth;
pub mod buffer;
pub mod client;
pub mod config;
pub mod doctor;
pub mod drain;
pub mod error;
pub mod file_watch;
pub mod fuzz;
pub mod import;
pub mod log;
pub mod machine;
pub mod net;
pub mod offload;
pub mod permission;
pub mod server;
pub mod track;
pub mod upstream;
pub mod wake;
pub mod wire;

/// The modules that tests, benchmarks and fuzz targets use.
#[doc(hidden)]
pub mod internals {
    pub use crate::{
        admin, auth, buffer, config, doctor, error, fuzz, import, log, machine, net, server, track, upstream, wire,
    };
}
