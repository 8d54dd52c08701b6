//! The simulator's parts: a model of PostgreSQL, scripts for clients, and the proof that the model is right.
#![allow(unreachable_pub, reason = "nothing is exported from a test binary")]
#![expect(
    clippy::struct_excessive_bools,
    clippy::too_many_lines,
    clippy::match_same_arms,
    clippy::needless_for_each,
    clippy::format_push_string,
    reason = "a model and its scripts, which are read as tables"
)]

mod against_postgres;
mod alone;
mod decoration;
mod generator;
#[allow(dead_code, unused_imports, reason = "the integration tests use all of it")]
#[path = "../it/harness/mod.rs"]
mod harness;
mod model;
mod random;
mod script;
mod shrink;
mod simulator;
mod together;
mod transcript;
