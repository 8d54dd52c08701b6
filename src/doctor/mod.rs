//! `pgferry doctor`: why ports run out on this host, and what to do about it. It reads, and never writes.
//!
//! - [`kernel`]: what the kernel is set to, and which files say so.
//! - [`sockets`]: sockets toward an address, by state.
//! - [`processes`]: their owners.
//! - [`server`]: what PostgreSQL says of its own limits.
//! - [`pgferry`]: a pgferry that runs here: its listeners, and how fast they are.
//! - [`facts`]: all of that together, as far as an `examination` asks for it.
//! - [`diagnosis`]: what it means, and what would help: its [`finding`]s.
//! - `sysctl_advice`: the same for the sysctls of old recipes.
//! - `to_pgferry`: the way to a pgferry that runs here, as its clients go.
//! - [`report`]: how it is told.

pub(crate) mod diagnosis;
mod examination;
pub(crate) mod facts;
pub(crate) mod finding;
pub(crate) mod kernel;
pub(crate) mod pgferry;
pub(crate) mod processes;
pub(crate) mod report;
pub(crate) mod server;
pub(crate) mod sockets;
mod sysctl_advice;
mod to_pgferry;

pub(crate) use diagnosis::diagnose;
pub(crate) use examination::Examination;
pub(crate) use facts::Facts;
