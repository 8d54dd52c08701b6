//! The plans that functions keep in a session, and the settings that constants in them were read under.
//!
//! The statements of a function in PL/pgSQL, and from PostgreSQL 18 on of one in SQL, are analysed once per session, and again when
//! what they read has changed, or the `search_path`. That another setting has changed makes no difference (`RevalidateCachedQuery` in
//! `src/backend/utils/cache/plancache.c`): a `'2020-01-01'` that was compared with a `timestamptz` stays what it was for the client
//! that had the function run first.

use super::client_state::ClientState;
use super::params::ServerParams;
use super::server_state::ServerState;
use super::setting_overrides::SettingOverrides;

/// The settings that decide what a constant is, or what is made of one as a statement is planned, in lower case.
const SETTINGS: [&[u8]; 13] = [
    b"array_nulls",
    b"bytea_output",
    b"datestyle",
    b"extra_float_digits",
    b"intervalstyle",
    b"lc_monetary",
    b"quote_all_identifiers",
    b"standard_conforming_strings",
    b"timezone",
    b"timezone_abbreviations",
    b"transform_null_equals",
    b"xmlbinary",
    b"xmloption",
];

/// Those among them that servers report, by their places in [`FOLLOWING`](super::params::FOLLOWING).
const REPORTED: [usize; 4] = [2, 3, 4, 5];

/// What makes a session plan anew.
pub(crate) const DISCARD_PLANS: &str = "DISCARD PLANS";

/// Whether functions of a database keep plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FunctionPlans {
    /// None does.
    None,
    /// Some may.
    #[default]
    Kept,
}

/// The settings that constants in the plans of functions on a connection were read under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PlannedUnder {
    /// There are no such plans.
    #[default]
    Nothing,
    /// Those of a session that reports these, and has set these.
    Settings(ServerParams, SettingOverrides),
    /// Various ones.
    Several,
}

impl PlannedUnder {
    /// Functions may be run in the session of `client`.
    pub(crate) fn runs_for(&mut self, client: &ClientState) {
        match self {
            Self::Nothing => *self = Self::Settings(client.view.clone(), client.ledger.kept().clone()),
            Self::Settings(..) if self.fits(client) => {}
            Self::Settings(..) | Self::Several => *self = Self::Several,
        }
    }

    /// Returns whether constants mean what they mean to `client`.
    fn fits(&self, client: &ClientState) -> bool {
        match self {
            Self::Nothing => true,
            Self::Settings(params, kept) => !differ((params, kept), (&client.view, client.ledger.kept())),
            Self::Several => false,
        }
    }
}

/// Whether a text changes settings that functions' plans are made under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlanSettings {
    /// It does not, or the server reports what it has changed.
    #[default]
    Untouched,
    /// It may, and no report tells.
    Unseen,
}

/// Returns whether `kept` holds a setting that constants depend on.
#[must_use]
pub(crate) fn hold(kept: &SettingOverrides) -> bool {
    SETTINGS.iter().any(|name| kept.get(name).is_some())
}

/// Returns whether constants mean something else where setting `name` has another value.
#[must_use]
pub(crate) fn is_read_by_plans(name: &[u8]) -> bool {
    SETTINGS.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Returns whether functions on `server` may have plans with constants that mean something else to `client`.
#[must_use]
pub(crate) fn are_outdated(server: &ServerState, client: &ClientState) -> bool {
    !server.planned.fits(client) && server.code.plans() == FunctionPlans::Kept
}

/// Returns whether a constant may mean something else in one of two sessions than in the other.
fn differ(
    (params, kept): (&ServerParams, &SettingOverrides),
    (other_params, other_kept): (&ServerParams, &SettingOverrides),
) -> bool {
    let reported = |known: usize| params.following(known) != other_params.following(known);
    let said = |name: &&[u8]| kept.get(name) != other_kept.get(name);
    (!params.is(other_params) && REPORTED.into_iter().any(reported))
        || (kept != other_kept && SETTINGS.iter().any(said))
}

#[cfg(test)]
mod tests {
    use super::super::params::{FOLLOWING, RequestedParams};
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
        server.planned.runs_for(&plain);
        let mut named = utc.clone();
        named.set(b"application_name", b"another");
        assert!(!are_outdated(&server, &client(&named, "set work_mem = 64")));
        let digits = client(&utc, "set extra_float_digits = 3");
        assert!(are_outdated(&server, &digits) && are_outdated(&server, &client(&params("GMT"), "set work_mem = 64")));
        server.planned.runs_for(&digits);
        assert!(are_outdated(&server, &plain) && are_outdated(&server, &digits));
    }

    #[test]
    fn settings_are_told_by_their_names_in_lower_case() {
        assert!(SETTINGS.iter().all(|name| !name.iter().any(u8::is_ascii_uppercase)));
        let reported = |name: &str| SETTINGS.iter().any(|known| known.eq_ignore_ascii_case(name.as_bytes()));
        let places: Vec<usize> = (0..FOLLOWING.len()).filter(|&known| reported(FOLLOWING[known])).collect();
        assert_eq!(places, REPORTED);
        assert!(is_read_by_plans(b"TimeZone") && !is_read_by_plans(b"search_path"));
    }
}
