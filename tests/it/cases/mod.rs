//! What clients of PostgreSQL rely on, as scripts that must give the same directly and through pgferry.

mod at_most_once;
mod freed_names;
mod network;
mod script;
mod skipped_pipelines;
mod unnamed_statement;
