//! A model of PostgreSQL at the level of protocol bytes, as `src/backend/tcop/postgres.c` has it: bytes in, bytes out.
//!
//! It is held against real servers by [`crate::against_postgres`].

mod analyze;
mod backend;
mod catalog;
mod cluster;
mod copy;
mod cursor;
mod dml;
mod error;
mod eval;
mod extended;
mod fastpath;
mod functions;
mod lock;
mod portal;
mod settings;
mod shared;
mod simple;
mod sql;
mod startup;
mod statement;
#[cfg(test)]
mod tests;
mod transaction;
mod value;
mod wire;
mod xact;

pub use cluster::{Cluster, Options};
pub use sql::lexer::shortened;

/// A backend's number, which is never used again.
pub type BackendId = usize;
