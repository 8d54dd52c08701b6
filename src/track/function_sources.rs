//! The sources of functions, which a server process reads once: a connection on which that was done by other rules than a client's is of no
//! use to it.

use super::lexis::Lexis;
use super::plan_settings::FunctionPlans;
use super::server_state::ServerState;
use super::session_command::SessionCommand;
use super::source_settings;
use super::sql_effects;

/// Returns whether functions on `server` may have been read by other rules than those of a session with texts read by `lexis`.
#[must_use]
pub(crate) fn were_read_otherwise(server: &ServerState, lexis: Lexis) -> bool {
    !server.sources.fit(lexis) && server.code.plans() != FunctionPlans::None
}

/// Returns how a session's texts, and functions' sources, are read behind `sql`, which was read by `lexis`, where it does nothing but set:
/// many programs begin so.
#[must_use]
pub(crate) fn lexis_behind(sql: &[u8], lexis: Lexis) -> Lexis {
    let effects = sql_effects::analyze(sql, lexis);
    let commands = effects.commands.as_deref().unwrap_or_default();
    let mut sets = commands.iter().filter_map(|placed| match &placed.command {
        SessionCommand::Set { name, text } if source_settings::is_rule(name) => Some(text),
        _ => None,
    });
    match sets.next_back().filter(|_| commands.len() == effects.statements) {
        Some(text) => Lexis { backslashes: source_settings::backslashes_behind(text), ..lexis },
        None => lexis,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::lexis::Backslashes;

    #[test]
    fn what_only_sets_is_looked_through() {
        for (sql, backslashes) in [
            ("set standard_conforming_strings = off", Backslashes::Escape),
            ("SET SESSION standard_conforming_strings TO 'false'; set work_mem = 64", Backslashes::Escape),
            ("set standard_conforming_strings = off; set standard_conforming_strings to on", Backslashes::Literal),
            ("set standard_conforming_strings = off; select f()", Backslashes::Literal),
            ("set local standard_conforming_strings = off", Backslashes::Literal),
            ("select 1", Backslashes::Literal),
        ] {
            assert_eq!(lexis_behind(sql.as_bytes(), Lexis::default()).backslashes, backslashes, "{sql}");
        }
    }
}
