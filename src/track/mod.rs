//! What is known of a client and of a server connection, pure: messages in, decisions out. No sockets, no `async`.
//!
//! - [`administration`]: what a client does to databases and roles, which concerns other connections; [`vacating_statements`]: its
//!   prepared statements that do.
//! - [`client_state`]: what a client is to find on whatever connection serves it.
//! - [`server_state`]: what one connection has.
//! - [`pipeline`]: what the server still owes, so that a connection changes hands only between answers.
//! - [`owed`]: what is known of one request that is owed.
//! - [`request`]: what a client's message asks for, and what becomes of the answer.
//! - [`rollback`]: what to take back when a request fails.
//! - [`sql_effects`]: what a text may leave behind in a session, so that it changes hands only when clean.
//! - [`constants`]: whether its constants mean the moment at which it is read.
//! - [`unknown_settings`]: changes of settings that it does not show.
//! - [`sql_statement`]: what decides, of the words of one statement, what it is.
//! - [`pins`]: the reasons why a session must stay with its client.
//! - [`session_code`]: what the code in a database may leave in sessions, [`stored_code`] by its source.
//! - [`session_command`]: commands with an effect on the session that can be followed: `SET`, `RESET`, savepoints, `DEALLOCATE`.
//! - [`characteristics`]: what `SET SESSION CHARACTERISTICS` sets.
//! - [`session_settings`]: what a client has set with them, as far as its transactions commit: [`setting_overrides`].
//! - [`settings_in_force`]: the reported settings between two reports.
//! - [`params`]: the reported settings (`ParameterStatus`) of a client and of a connection, and their difference.
//! - [`parse_settings`]: which of them decide what a text means when it is prepared.
//! - [`startup_settings`]: other settings of a startup packet that follow their client.
//! - [`parameter_cache`]: what the server makes of settings, and so what clients are greeted with; [`spelling`] tells it how
//!   values are spelt that it has not seen.
//! - [`own_requests`]: requests of pgferry's own on a connection that no client has.
//! - [`keeping_reset`]: a reset that keeps the statements that pgferry has prepared, with statements of its own
//!   ([`reset_statements`]); [`keeps_statements`] tells whether a pool's may.
//! - [`client_statements`]: what a client has prepared, by its names.
//! - [`statements`]: prepared statements, with numbers from [`statement_ids`]; [`server_statements`]: those of a connection, each a
//!   [`prepared_statement`]; [`unnamed_statement`]: the one without a name; [`statement_mentions`] finds them in SQL.
//! - [`function_plans`]: what functions keep in a session of the settings that they were first run under ([`plan_settings`]).
//! - [`function_sources`]: whether a connection has read their sources by a client's rules ([`source_settings`]).
//! - [`sequences`]: what a session remembers of them.
//! - [`number_hasher`]: a hash of numbers that no client chooses.
//! - [`message_target`]: which statement and which portal a message is about.
//! - [`text_edit`]: changes to a text, and what they do to positions in errors.
//! - [`transaction_block`]: whether a text leaves a transaction block open.
//! - [`prefilter`]: a quick pass that spares most statements the analysis.
//! - [`sql`]: just enough of SQL's lexis to tell a keyword from a string.

pub(crate) mod administration;
pub(crate) mod characteristics;
pub(crate) mod client_state;
pub(crate) mod client_statements;
pub(crate) mod constants;
mod field_notation;
pub(crate) mod following_settings;
pub(crate) mod for_others;
pub(crate) mod function_plans;
pub(crate) mod function_sources;
pub(crate) mod keeping_reset;
pub(crate) mod keeps_statements;
pub(crate) mod lexis;
pub(crate) mod message_target;
pub(crate) mod number_hasher;
pub(crate) mod open_changes;
pub(crate) mod owed;
pub(crate) mod own_requests;
pub(crate) mod parameter_cache;
pub(crate) mod params;
pub(crate) mod parse_settings;
pub(crate) mod pins;
pub(crate) mod pipeline;
pub(crate) mod plan_settings;
pub(crate) mod prefilter;
pub(crate) mod prepared_statement;
pub(crate) mod request;
pub(crate) mod reset_statements;
pub(crate) mod rollback;
pub(crate) mod sequences;
pub(crate) mod server_state;
pub(crate) mod server_statements;
pub(crate) mod session_code;
pub(crate) mod session_command;
pub(crate) mod session_settings;
pub(crate) mod setting_overrides;
pub(crate) mod settings_in_force;
pub(crate) mod source_settings;
pub(crate) mod spelling;
pub(crate) mod sql;
pub(crate) mod sql_effects;
pub(crate) mod sql_statement;
pub(crate) mod startup_settings;
pub(crate) mod state_functions;
pub(crate) mod statement_ids;
pub(crate) mod statement_mentions;
pub(crate) mod statements;
pub(crate) mod stored_code;
pub(crate) mod text_edit;
pub(crate) mod text_validity;
pub(crate) mod transaction_block;
mod unicode_name;
pub(crate) mod unknown_settings;
pub(crate) mod unnamed_statement;
pub(crate) mod vacating_statements;

pub use client_state::ClientState;
pub use lexis::Lexis;
pub use params::{RequestedParams, ServerParams};
pub use pins::Pins;
pub use pipeline::Pipeline;
pub use request::{Request, ResponseAction};
pub use server_state::ServerState;
pub use sql_effects::SqlEffects;

/// Proof that a session may be handed to another client: nothing is owed, no transaction is open, nothing pins.
///
/// Only [`Clean::prove`] makes one, and giving a connection back to its pool takes one.
#[derive(Debug)]
pub struct Clean(());

impl Clean {
    /// Looks at what is owed and what pins; `None` while anything is open.
    #[must_use]
    pub fn prove(pipeline: &Pipeline, pins: Pins) -> Option<Self> {
        (pipeline.settled() && pins.is_empty()).then_some(Self(()))
    }
}
