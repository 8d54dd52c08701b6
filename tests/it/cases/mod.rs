//! What clients of PostgreSQL rely on, as scripts that must give the same directly and through pgferry.

mod administration;
mod at_most_once;
mod bounded_memory;
mod described_columns;
mod drivers;
mod dying_server;
mod failed_reset;
mod freed_names;
mod full_server;
mod function_plans;
mod half_messages;
mod idle_session_timeout;
mod indelible;
mod kept_statements;
mod kill_and_cancel;
mod moments;
mod network;
mod notifications;
mod order_of_settings;
mod other_settings;
mod redefined_elsewhere;
mod refused_pipelines;
mod roles;

mod script;
mod sequences;
mod skipped_pipelines;
mod slow_readers;
mod standing;
mod tenants;
mod terminate;
mod two_databases;
mod unnamed_statement;
mod unseen_settings;
