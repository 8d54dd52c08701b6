//! The reported settings of a client's session between two reports.
//!
//! From PostgreSQL 14 on a server reports what has changed in front of `ReadyForQuery` only (`ReportChangedGUCOptions` in
//! `src/backend/utils/misc/guc.c`). Behind a `SET` in a pipeline without a `Sync` texts already mean what the new value makes
//! them mean.

use super::params::{self, ServerParams};
use super::session_command::{PositionedCommand, SessionCommand};
use super::sql_effects::SqlEffects;
use super::statements::REPORTED;
use super::unknown_settings::UnknownSettings;

/// The reported settings that texts are read under.
#[derive(Clone, Debug, Default)]
pub enum SettingsInForce {
    /// Values that the client was told.
    #[default]
    AsTold,
    /// Others, perhaps.
    Changed,
    /// The server is asked for them.
    Asked,
    /// These, until something else is run.
    Are(ServerParams),
}

impl SettingsInForce {
    /// Returns whether they are not known, and not asked for.
    #[must_use]
    pub fn are_unknown(&self) -> bool {
        matches!(self, Self::Changed)
    }

    /// Returns whether they may be others than the server has reported.
    #[must_use]
    pub fn are_unreported(&self) -> bool {
        !matches!(self, Self::AsTold)
    }

    /// Returns whether the server is asked for them.
    #[must_use]
    pub fn are_asked(&self) -> bool {
        matches!(self, Self::Asked)
    }

    /// A text is bound, and about to be run, that may set what its commands don't tell.
    pub fn bound(&mut self, effects: &SqlEffects) {
        let is_unknown = !matches!(effects.unknown_settings, UnknownSettings::None | UnknownSettings::Named);
        if is_unknown || effects.named_settings.iter().any(|name| is_reported(name)) {
            *self = Self::Changed;
        }
    }

    /// A transaction may end in which some were set: they go back.
    pub fn may_go_back(&mut self) {
        *self = Self::Changed;
    }

    /// A portal is run that runs these commands.
    pub fn ran(&mut self, commands: &[PositionedCommand]) {
        if self.are_unreported() || commands.iter().any(|placed| changes_reported(&placed.command)) {
            *self = Self::Changed;
        }
    }

    /// The query that asks the server for them, in the order of [`REPORTED`].
    #[must_use]
    pub fn query() -> Vec<u8> {
        let settings = REPORTED.map(|name| format!("pg_catalog.current_setting('{name}')"));
        format!("SELECT {}", settings.join(",")).into_bytes()
    }

    /// The server's answer, of a client that was `told` what it reported before.
    pub fn learn(&mut self, told: &ServerParams, values: &[Option<&[u8]>]) {
        let mut params = told.clone();
        for (name, value) in REPORTED.iter().zip(values) {
            params.set(name.as_bytes(), value.unwrap_or_default());
        }
        *self = Self::Are(params);
    }

    /// The server has reported what has changed.
    pub fn on_reported(&mut self) {
        *self = Self::AsTold;
    }

    /// Returns the values for a client that was `told` what the server has reported.
    #[must_use]
    pub fn known<'s>(&'s self, told: &'s ServerParams) -> &'s ServerParams {
        if let Self::Are(params) = self { params } else { told }
    }
}

fn is_reported(name: &[u8]) -> bool {
    params::following(name).is_some()
}

/// Returns whether a command may change a reported setting, were it only by undoing what has.
fn changes_reported(command: &SessionCommand) -> bool {
    match command {
        SessionCommand::Set { name, .. }
        | SessionCommand::SetLocal { name, .. }
        | SessionCommand::Reset { name }
        | SessionCommand::ResetLocal { name, .. }
        | SessionCommand::UnknownSet { name: Some(name) } => is_reported(name),
        // DISCARD ALL stands alone, and takes no question behind it in its pipeline.
        SessionCommand::ResetAll
        | SessionCommand::UnknownSet { name: None }
        | SessionCommand::RollbackTo { .. }
        | SessionCommand::Commit
        | SessionCommand::Rollback => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexis::Lexis;
    use super::super::session_command;
    use super::super::sql_effects::analyze;
    use super::*;

    fn run(in_force: &mut SettingsInForce, sql: &[u8]) {
        let effects = analyze(sql, Lexis::default());
        in_force.bound(&effects);
        in_force.ran(effects.commands.as_deref().unwrap_or_default());
    }

    #[test]
    fn what_changes_reported_settings_is_asked_for() {
        for (sql, changes) in [
            (&b"set timezone = 'GMT'"[..], true),
            (b"set local DateStyle = German", true),
            (b"reset all", true),
            (b"select set_config('timezone', 'GMT', false)", true),
            (b"set search_path = a", false),
            (b"select 1", false),
            (b"begin", false),
        ] {
            let mut in_force = SettingsInForce::default();
            run(&mut in_force, sql);
            assert_eq!(in_force.are_unknown(), changes, "{}", String::from_utf8_lossy(sql));
        }
        assert!(session_command::of_sql(b"set timezone = 'GMT'").is_some_and(|command| changes_reported(&command)));
    }

    #[test]
    fn what_was_asked_for_is_known_until_something_else_runs() {
        let mut told = ServerParams::default();
        told.set(b"TimeZone", b"UTC");
        let mut in_force = SettingsInForce::default();
        assert_eq!(in_force.known(&told), &told);
        run(&mut in_force, b"set timezone = 'GMT'");
        let values = REPORTED.map(|name| Some(if name == "TimeZone" { &b"GMT"[..] } else { b"x" }));
        in_force.learn(&told, &values);
        assert_eq!(in_force.known(&told).get(b"timezone"), Some(&b"GMT"[..]));
        run(&mut in_force, b"select 1");
        assert!(in_force.are_unknown());
        in_force.on_reported();
        run(&mut in_force, b"select 1");
        assert_eq!(in_force.known(&told), &told);
    }
}
