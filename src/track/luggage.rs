//! What a client carries from connection to connection.

use std::sync::Arc;

use super::acts::Act;
use super::ledger::Ledger;
use super::params::{self, Params, Wanted};
use super::pinning::Pins;
use super::statements::{Flavor, Names, REPORTED, Text, Undo};

/// Settings that neither the meaning nor the result of a statement depends on.
const HARMLESS: [&[u8]; 9] = [
    b"application_name",
    b"client_min_messages",
    b"idle_in_transaction_session_timeout",
    b"idle_session_timeout",
    b"lock_timeout",
    b"statement_timeout",
    b"synchronous_commit",
    b"transaction_timeout",
    b"work_mem",
];

/// What a client carries from connection to connection.
#[derive(Debug, Default)]
pub struct Luggage {
    /// The following settings that its startup packet asked for.
    pub asked: Wanted,
    /// The following settings as it has them now.
    pub wanted: Wanted,
    /// The reported settings that it was told.
    pub view: Params,
    /// The settings that it has made with plain `SET`s.
    pub ledger: Ledger,
    /// Its named statements.
    pub names: Names,
    /// Its unnamed statement.
    pub unnamed: Option<Arc<Text>>,
    flavor: Option<(Params, Arc<Flavor>)>,
}

impl Luggage {
    /// What a client begins with that asked for `asked` and was told `view`.
    #[must_use]
    pub fn new(asked: Wanted, view: Params) -> Self {
        Self {
            wanted: asked.clone(),
            asked,
            view,
            ledger: Ledger::default(),
            names: Names::default(),
            unnamed: None,
            flavor: None,
        }
    }

    /// The settings that the meaning of a text depends on, in a session that reports `params` and holds `pins`; `None`
    /// where they are this client's own.
    pub fn flavor(&mut self, params: &Params, pins: Pins) -> Option<Arc<Flavor>> {
        if !pins.among(Pins::PRIVATE).is_empty() {
            return None;
        }
        if let Some((known, flavor)) = &self.flavor
            && known == params
        {
            return Some(Arc::clone(flavor));
        }
        let mut flavor = Vec::new();
        for name in REPORTED {
            flavor.extend_from_slice(params.get(name.as_bytes()).unwrap_or_default());
            flavor.push(0);
        }
        for (name, text) in self.ledger.texts()? {
            // Those that are reported are above.
            if !name.contains(&b'.') && !HARMLESS.contains(&name) && params::following(name).is_none() {
                flavor.extend_from_slice(text);
                flavor.push(0);
            }
        }
        let flavor = Arc::new(Flavor::from(flavor));
        self.flavor = Some((params.clone(), Arc::clone(&flavor)));
        Some(flavor)
    }

    /// `act` has succeeded.
    pub fn acted(&mut self, act: &Act) {
        self.flavor = None;
        self.ledger.acted(act, |name| params::following(name).is_some());
    }

    /// A command other than an act has completed with `tag`.
    pub fn completed(&mut self, tag: &[u8]) {
        if self.ledger.has_changes() {
            self.flavor = None;
            self.ledger.completed(tag);
        }
    }

    /// The server is ready, with transaction status `status`.
    pub fn ready(&mut self, status: u8) {
        if self.ledger.has_changes() {
            self.flavor = None;
        }
        self.ledger.ready(status);
    }

    /// Something has changed settings for the rest of the transaction, in a way that can't be told.
    pub fn blur(&mut self) {
        self.flavor = None;
        self.ledger.blur();
    }

    /// `DISCARD ALL`.
    pub fn discard_all(&mut self) {
        self.names.clear();
        self.unnamed = None;
        self.ledger.clear();
        self.flavor = None;
        self.wanted.clone_from(&self.asked);
    }

    /// Takes back what has not happened.
    pub fn undo(&mut self, undo: &Undo) {
        if let Some((name, before)) = &undo.name {
            self.names.set(name, before.clone());
        }
        if undo.unnamed {
            self.unnamed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::acts;
    use super::*;

    fn params(timezone: &[u8]) -> Params {
        let mut params = Params::default();
        params.set(b"TimeZone", timezone);
        params.set(b"client_encoding", b"UTF8");
        params
    }

    #[test]
    fn the_meaning_of_a_text_depends_on_settings() {
        let mut luggage = Luggage::default();
        let plain = luggage.flavor(&params(b"UTC"), Pins::none());
        assert_eq!(luggage.flavor(&params(b"UTC"), Pins::LISTEN), plain);
        assert_ne!(luggage.flavor(&params(b"GMT"), Pins::none()), plain);
        assert_eq!(luggage.flavor(&params(b"UTC"), Pins::TEMP), None);
        let mut set = |sql: &[u8]| {
            luggage.acted(&acts::of_sql(sql).expect("an act"));
            luggage.ready(b'I');
            luggage.flavor(&params(b"UTC"), Pins::none())
        };
        assert_eq!(set(b"set application.user_id = 7"), plain);
        assert_eq!(set(b"set statement_timeout = 7"), plain);
        assert_ne!(set(b"set search_path = a"), plain);
        assert_eq!(set(b"reset search_path"), plain);
        luggage.acted(&acts::of_sql(b"set local search_path = a").expect("an act"));
        assert_ne!(luggage.flavor(&params(b"UTC"), Pins::none()), plain);
        luggage.ready(b'I');
        luggage.blur();
        assert_eq!(luggage.flavor(&params(b"UTC"), Pins::none()), None);
        luggage.ready(b'I');
        assert_eq!(luggage.flavor(&params(b"UTC"), Pins::none()), plain);
    }
}
