//! Settings that have changed without a statement that is known to set them: what the server is asked about them, and what they
//! are to be. Code inside the database has set or reset them, or the server's configuration has changed.

use super::Machine;
use crate::track::params::{self, set_to};

/// A setting that follows the client, and the value that it is to have.
pub(super) type Wanted = (&'static str, Box<[u8]>);

impl Machine<'_> {
    /// The following settings that have changed in this piece of work without a statement that is known to set them, and those that may
    /// have gone back, unreported, to what another client asked for.
    pub(super) fn doubtful_changes(&self) -> Vec<&'static str> {
        if self.server.params.is(&self.start) && !self.explained.may_be_others() {
            return Vec::new();
        }
        let Some(baseline) = self.context.parameters.baseline() else { return Vec::new() };
        let changed: Vec<_> = self
            .server
            .params
            .beyond(&self.start)
            .filter_map(|(name, now)| Some((params::following(name)?, now)))
            .collect();
        let is_at_base = |name: &str, now: &[u8]| self.server.base.get(name.as_bytes()) == Some(now);
        let is_anothers = |name: &str| {
            let now = self.server.params.get(name.as_bytes());
            now.is_some_and(|now| is_at_base(name, now)) && now != self.own_reset_value(name, &baseline)
        };
        // Code may have reset everything; the client may have set what the other one asked for, of which nothing is reported then.
        let is_reset = self.explained.may_be_others()
            || changed.iter().any(|(name, now)| is_at_base(name, now) && !self.explained.names(name));
        // In transaction mode the client takes it along, unless it is the server's doing.
        let is_unexplained = |name: &str| self.carries() && !self.explained.may_have_set(name);
        let is_doubtful = |name: &&'static str| {
            let is_changed = changed.iter().any(|(changed, _)| changed == name);
            // A statement that sets it to just that may have been followed by code that resets it.
            ((is_changed || is_reset) && is_anothers(name) && !self.explained.is_looked_into(name))
                || (is_changed && is_unexplained(name))
        };
        params::FOLLOWING.into_iter().filter(is_doubtful).collect()
    }

    /// The server has told where the value of a setting comes from, in a row of the answer to [`origins_query`]. Returns what the setting
    /// is to be instead, where it is not the client's own doing.
    pub(super) fn learn_origin(&mut self, row: &[&[u8]]) -> Option<Wanted> {
        let &[name, reset_value, source] = row else { return None };
        let name = params::following(name)?;
        let now = self.server.params.get(name.as_bytes());
        if source == b"session" || now != Some(reset_value) {
            return None;
        }
        if self.server.base.get(name.as_bytes()) == now {
            // A hidden `RESET`, which took it to what another client asked for.
            let baseline = self.context.parameters.baseline()?;
            return self.own_reset_value(name, &baseline).map(|own| (name, own.into()));
        }
        // The server's doing: from now on that is what clients get that ask for nothing, and the others keep what they have.
        self.server.base.set(name.as_bytes(), reset_value);
        self.start.set(name.as_bytes(), reset_value);
        self.context.parameters.learn_base(self.server);
        self.client.wanted.get(name).map(|wanted| (name, wanted.into()))
    }

    /// The `SET`s that give the client what it wants where the server gives something else to clients that ask for nothing, which has
    /// changed in front of its messages. These may have set it themselves.
    pub(super) fn keep_from_new_defaults(&mut self) -> Vec<Vec<u8>> {
        let changed = self.explained.take_new_defaults().into_iter();
        let wanted = changed.filter(|name| !self.explained.may_have_set(name)).filter_map(|name| {
            let wanted = self.client.wanted.get(name)?;
            Some((name, wanted.into()))
        });
        let wanted: Vec<Wanted> = wanted.collect();
        self.sets_to(&wanted)
    }

    /// The `SET`s that give settings the value they are to have, where they have not got it.
    pub(super) fn sets_to(&self, wanted: &[Wanted]) -> Vec<Vec<u8>> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let baseline = self.context.parameters.baseline().unwrap_or_default();
        wanted
            .iter()
            .filter(|(name, value)| self.server.params.get(name.as_bytes()) != Some(value))
            .flat_map(|(name, value)| params::values_to(name, value, &baseline))
            .map(|(name, value)| set_to(name, value))
            .collect()
    }
}

/// Writes the query for the values to which a `RESET` would set `names`, and the origins of their values.
pub(super) fn origins_query(names: &[&str]) -> Vec<u8> {
    let mut sql =
        b"SELECT name, reset_val, source FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ANY ('{"
            .to_vec();
    sql.extend_from_slice(names.join(",").as_bytes());
    sql.extend_from_slice(b"}')");
    sql
}
