//! The plans that functions keep in a session, and the settings that constants in them were read under.
//!
//! The statements of a function in PL/pgSQL, and from PostgreSQL 18 on of one in SQL, are analysed once per session, and again when
//! what they read has changed, or the `search_path`. That another setting has changed makes no difference (`RevalidateCachedQuery` in
//! `src/backend/utils/cache/plancache.c`): a `'2020-01-01'` that was compared with a `timestamptz` stays what it was for the client
//! that had the function run first.

use super::client_state::ClientState;
use super::plan_settings::{FunctionPlans, PlanSettings, PlannedUnder, hold};
use super::server_state::ServerState;
use super::session_command::{PositionedCommand, SessionCommand};
use super::sql_effects::SqlEffects;

/// Returns whether functions on `server`, which another client has had, may have plans with constants that mean something else to
/// `client`.
#[must_use]
pub(crate) fn are_outdated(server: &ServerState, client: &ClientState) -> bool {
    match server.code.plans() {
        FunctionPlans::None => false,
        FunctionPlans::Kept => !server.planned.fits(&client.view, client.settings.kept()),
        FunctionPlans::OfTheMoment => server.planned != PlannedUnder::Nothing,
    }
}

/// Returns whether functions that a text of `client`'s runs, or some that have run, may have plans that were made under other settings
/// than those in force behind it.
#[must_use]
pub(crate) fn may_be_made_otherwise(effects: &SqlEffects, client: &ClientState) -> bool {
    let resets_all = |placed: &PositionedCommand| placed.command == SessionCommand::ResetAll;
    effects.plan_settings >= PlanSettings::Unseen
        || (effects.commands.as_ref().is_some_and(|commands| commands.iter().any(resets_all))
            && hold(client.settings.kept()))
}

#[cfg(test)]
mod tests {
    use super::super::params::{RequestedParams, ServerParams};
    use super::super::session_command;
    use super::*;

    fn params(timezone: &str) -> ServerParams {
        let mut params = ServerParams::default();
        params.set(b"TimeZone", timezone.as_bytes());
        params.set(b"application_name", timezone.as_bytes());
        params
    }

    fn client(params: &ServerParams, sql: &str) -> ClientState {
        let mut client = ClientState::new(RequestedParams::default(), params.clone());
        client.succeeded(&session_command::of_sql(sql.as_bytes()).expect("a command"));
        client.ready(b'I');
        client
    }

    #[test]
    fn other_settings_outdate_plans() {
        let utc = params("UTC");
        let mut server = ServerState::new(utc.clone(), RequestedParams::default());
        let plain = client(&utc, "set search_path = a");
        assert!(!are_outdated(&server, &plain), "there are none");
        server.planned.runs_under(&plain.view, plain.settings.kept());
        let mut named = utc.clone();
        named.set(b"application_name", b"another");
        assert!(!are_outdated(&server, &client(&named, "set work_mem = 64")));
        let digits = client(&utc, "set extra_float_digits = 3");
        assert!(are_outdated(&server, &digits) && are_outdated(&server, &client(&params("GMT"), "set work_mem = 64")));
        server.planned.runs_under(&digits.view, digits.settings.kept());
        assert!(are_outdated(&server, &plain) && are_outdated(&server, &digits));
    }
}
