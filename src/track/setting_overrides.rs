//! Settings that hold in a session beyond what its login gave it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::lexis::Lexis;
use super::params::{Set, parse_time};
use super::sql::{Token, Tokens};

/// Settings that hold in a session beyond what its login gave it: name and statement, in the order in which they were
/// said, since one may need another. Cheap to clone.
#[derive(Clone, Debug, Default, Eq)]
pub struct SettingOverrides {
    sets: Option<Arc<Sets>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sets {
    list: Vec<Set>,
    /// Bytes of the names and statements: asked for after each statement.
    bytes: usize,
}

/// Settings that are searched one after another; where there are more, which may be thousands, they are found by an index.
const MAX_SEARCHED: usize = 16;

/// Overrides that are about to be asked for many settings.
struct ByName<'a> {
    overrides: &'a SettingOverrides,
    index: Option<HashMap<&'a [u8], &'a [u8]>>,
}

impl<'a> ByName<'a> {
    fn get(&self, name: &[u8]) -> Option<&'a [u8]> {
        match &self.index {
            Some(index) => index.get(name).copied(),
            None => self.overrides.get(name),
        }
    }
}

impl PartialEq for SettingOverrides {
    fn eq(&self, other: &Self) -> bool {
        match (&self.sets, &other.sets) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => self.is_empty() && other.is_empty(),
        }
    }
}

impl SettingOverrides {
    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets().is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.sets = None;
    }

    /// Returns whether setting `name`, in any case, is among them.
    #[must_use]
    pub fn mentions(&self, name: &[u8]) -> bool {
        self.sets().iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    pub(super) fn sets(&self) -> &[Set] {
        self.sets.as_deref().map_or(&[], |sets| &sets.list)
    }

    /// The statement that made setting `name`, which is in lower case.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.sets().iter().find(|(n, _)| **n == *name).map(|(_, text)| &**text)
    }

    /// The time that setting `name`, of which the unit is a millisecond, was set to; `None` where it was not set, is off,
    /// or is not understood.
    #[must_use]
    pub fn time(&self, name: &[u8]) -> Option<Duration> {
        parse_time(std::str::from_utf8(&value(self.get(name)?)?).ok()?)
    }

    /// Bytes of the names and statements.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.sets.as_deref().map_or(0, |sets| sets.bytes)
    }

    pub(super) fn set(&mut self, name: &[u8], text: Option<&[u8]>) {
        if text.is_none() && self.get(name).is_none() {
            return;
        }
        let sets = Arc::make_mut(self.sets.get_or_insert_default());
        if let Some(at) = sets.list.iter().position(|(known, _)| **known == *name) {
            let (name, text) = sets.list.remove(at);
            sets.bytes -= name.len() + text.len();
        }
        sets.bytes += text.map_or(0, |text| name.len() + text.len());
        sets.list.extend(text.map(|text| (name.into(), text.into())));
    }

    /// The statements by setting.
    fn by_name(&self) -> ByName<'_> {
        let index = (self.sets().len() > MAX_SEARCHED)
            .then(|| self.sets().iter().map(|(name, text)| (&**name, &**text)).collect());
        ByName { overrides: self, index }
    }

    /// The statements that make a session in which `have` holds into one in which this holds, in their order.
    #[must_use]
    pub fn difference(&self, have: &Self) -> Vec<Vec<u8>> {
        if self == have {
            return Vec::new();
        }
        let (ours, theirs) = (self.by_name(), have.by_name());
        let gone = have.sets().iter().filter(|(name, _)| ours.get(name).is_none());
        let resets = gone.map(|(name, _)| {
            let mut sql = b"RESET ".to_vec();
            put_name(&mut sql, name);
            sql
        });
        let other = self.sets().iter().filter(|(name, text)| theirs.get(name) != Some(text));
        resets.chain(other.map(|(_, text)| text.to_vec())).collect()
    }
}

/// The one value that a `SET` gives its setting; `None` where it is not told by its text alone.
fn value(statement: &[u8]) -> Option<Vec<u8>> {
    let mut tokens = Tokens::new(statement, Lexis::default());
    tokens.find(|token| {
        *token == Token::Other(b'=') || matches!(token, Token::Word(w) if w.eq_ignore_ascii_case(b"to"))
    })?;
    tokens.skip_to_token();
    let rest = tokens.rest();
    let mut token = tokens.next()?;
    let mut number = rest;
    if token == Token::Other(b'+') {
        tokens.skip_to_token();
        number = tokens.rest();
        token = tokens.next()?;
    }
    match token {
        Token::Text(text) => Some(text.to_vec()),
        Token::Other(b'.') => {
            tokens.next();
            number.get(..number.len() - tokens.rest().len()).map(<[u8]>::to_vec)
        }
        Token::Other(b'0'..=b'9') => number.get(..number.len() - tokens.rest().len()).map(<[u8]>::to_vec),
        token => token.identifier(),
    }
}

/// A setting's name, each part quoted.
fn put_name(sql: &mut Vec<u8>, name: &[u8]) {
    for (nth, part) in name.split(|&b| b == b'.').enumerate() {
        if nth > 0 {
            sql.push(b'.');
        }
        sql.push(b'"');
        sql.extend_from_slice(part);
        sql.push(b'"');
    }
}
