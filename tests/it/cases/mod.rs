//! What clients of PostgreSQL rely on, as scripts that must give the same directly and through pgferry.

mod at_most_once;
mod described_columns;
mod freed_names;
mod idle_session_timeout;
mod network;
mod order_of_settings;
mod other_settings;
mod script;
mod sequences;
mod skipped_pipelines;
mod terminate;
mod two_databases;
mod unnamed_statement;
mod unseen_settings;
