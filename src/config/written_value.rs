//! Values before they have been understood.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::DeValue;

use super::error::{ConfigError, Origin};
use super::keys;
use super::rule::Rule;
use super::user::UserEntry;
use super::value::PeerRule;

/// A value before it has been understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string, number or truth value, as text.
    One(String),
    /// A list of them.
    Many(Vec<String>),
    /// The rules of `peer`.
    Peers(Vec<PeerRule>),
    /// The rules of `rule`.
    Rules(Vec<Rule>),
    /// Entries of `users`.
    Users(BTreeMap<String, UserEntry>),
    /// The tables of `database`, by name.
    Databases(BTreeMap<String, Values>),
}

/// Values by key, and where they were written.
pub(super) type Values = BTreeMap<&'static str, (Origin, Value)>;

/// The error about a name that is none of those that are `known`.
pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> ConfigError {
    let error = ConfigError::new("there is no such key");
    match keys::nearest(name, known) {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error,
    }
}

/// A value or list of the file, if it is one.
pub(super) fn plain(value: &Spanned<DeValue<'_>>) -> Option<Value> {
    match value.get_ref() {
        DeValue::Array(items) => items.iter().map(one).collect::<Option<_>>().map(Value::Many),
        _ => one(value).map(Value::One),
    }
}

/// A single value of the file, as text.
pub(super) fn one(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}
