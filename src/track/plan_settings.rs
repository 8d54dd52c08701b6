//! The settings that constants in a plan are read under, and those that the plans of functions on a connection were made under.

use super::params::ServerParams;
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

/// Settings among them that servers report, by their places in [`FOLLOWING`](super::params::FOLLOWING).
const REPORTED: [usize; 4] = [2, 3, 4, 5];

/// Statement that makes a session plan anew.
pub(crate) const DISCARD_PLANS: &str = "DISCARD PLANS";

/// Functions of a database that keep plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FunctionPlans {
    /// None does.
    None,
    /// Some may.
    #[default]
    Kept,
    /// Some may, with constants of the moment at which they are made ([`super::constants`]).
    OfTheMoment,
}

/// The settings that constants in the plans of functions on a connection were read under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PlannedUnder {
    /// There are no such plans.
    #[default]
    Nothing,
    /// The settings of a session that reports these, and has set these.
    Settings(ServerParams, SettingOverrides),
    /// Various ones.
    Several,
}

impl PlannedUnder {
    /// Functions may be run in a session that reports `params`, and has set `kept`.
    pub(crate) fn runs_under(&mut self, params: &ServerParams, kept: &SettingOverrides) {
        match self {
            Self::Nothing => *self = Self::Settings(params.clone(), kept.clone()),
            Self::Settings(..) if self.fits(params, kept) => {}
            Self::Settings(..) | Self::Several => *self = Self::Several,
        }
    }

    /// Returns whether constants mean what they mean in a session that reports `params`, and has set `kept`.
    #[must_use]
    pub(crate) fn fits(&self, params: &ServerParams, kept: &SettingOverrides) -> bool {
        match self {
            Self::Nothing => true,
            Self::Settings(then, set) => !differ((then, set), (params, kept)),
            Self::Several => false,
        }
    }
}

/// Changes that a text makes to settings that functions' plans are made under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlanSettings {
    /// It does not, or the server reports what it has changed.
    #[default]
    Untouched,
    /// It may, and no report tells.
    Unseen,
    /// The same, and functions' sources are read by other rules meanwhile.
    UnseenRules,
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
    use super::super::params::FOLLOWING;
    use super::*;

    #[test]
    fn settings_are_told_by_their_names_in_lower_case() {
        assert!(SETTINGS.iter().all(|name| !name.iter().any(u8::is_ascii_uppercase)));
        let reported = |name: &str| SETTINGS.iter().any(|known| known.eq_ignore_ascii_case(name.as_bytes()));
        let places: Vec<usize> = (0..FOLLOWING.len()).filter(|&known| reported(FOLLOWING[known])).collect();
        assert_eq!(places, REPORTED);
        assert!(is_read_by_plans(b"TimeZone") && !is_read_by_plans(b"search_path"));
    }
}
