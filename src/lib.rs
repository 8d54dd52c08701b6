//! pgferry: a local connection-multiplexing proxy for PostgreSQL.
//!
//! The program is [`run`]. What tests, benchmarks and fuzz targets use besides is in `internals`, which is no API to build on.
//! ARCHITECTURE.md tells the way of one client through these modules.

mod admin;
mod auth;
mod buffer;
mod cli;
mod client;
mod config;
mod doctor;
mod drain;
mod error;
mod file_watch;
mod fuzz;
mod import;
mod lock;
mod log;
mod machine;
mod net;
mod offload;
mod permission;
mod server;
mod small_file;
mod system_error;
mod track;
mod upstream;
mod wake;
mod wire;

pub use cli::run;

/// The items that tests, benchmarks and fuzz targets use.
#[doc(hidden)]
pub mod internals;
