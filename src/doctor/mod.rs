//! `pgferry doctor`: why ports run out on this host, and what to do about it. It reads, and never writes.
//!
//! - [`kernel`]: what the kernel is set to, and which files say so.
//! - [`sockets`]: sockets toward an address, by state.
//! - [`processes`]: their owners.
//! - [`server`]: what PostgreSQL says of its own limits.
//! - [`pgferry`]: a pgferry that runs here: its listeners, and how fast they are.
//! - [`facts`]: all of that together.
//! - [`diagnosis`]: what it means, and what would help.
//! - `sysctl_advice`: the same for the sysctls of old recipes.
//! - [`report`]: how it is told.

pub(crate) mod diagnosis;
pub(crate) mod facts;
pub(crate) mod kernel;
pub(crate) mod pgferry;
pub(crate) mod processes;
pub(crate) mod report;
pub(crate) mod server;
pub(crate) mod sockets;
mod sysctl_advice;

pub(crate) use diagnosis::diagnose;
pub(crate) use facts::{Examination, Facts};
