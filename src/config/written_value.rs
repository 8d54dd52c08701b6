//! Values before they have been understood.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::DeValue;

use super::error::{ConfigError, Origin};
use super::keys::{self, Key};
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

/// The value of `key` in the file, as it was written.
///
/// # Errors
/// What it is instead of a value that the key can have.
pub(super) fn of_key(key: &Key, value: &Spanned<DeValue<'_>>) -> Result<Value, String> {
    match plain(value) {
        Some(Value::Many(_)) if !key.takes_list() => Err("one value is needed, not a list".to_owned()),
        Some(Value::One(_)) if key.secret => secret(value).map(Value::One),
        Some(value) if has_zero_byte(&value) => Err("a zero byte can't be part of a value".to_owned()),
        Some(value) => Ok(value),
        None => Err(format!("a {} is not a value for this key", value.get_ref().type_str())),
    }
}

/// A secret of the file. A number would not be what was written: `1_000` is 1000.
///
/// # Errors
/// What it is instead.
pub(super) fn secret(value: &Spanned<DeValue<'_>>) -> Result<String, String> {
    match value.get_ref() {
        DeValue::String(text) if text.contains('\0') => Err("a zero byte can't be part of a value".to_owned()),
        DeValue::String(text) => Ok(text.to_string()),
        _ => Err("a secret is a string: put it into quotes".to_owned()),
    }
}

fn has_zero_byte(value: &Value) -> bool {
    match value {
        Value::One(text) => text.contains('\0'),
        Value::Many(items) => items.iter().any(|item| item.contains('\0')),
        Value::Peers(_) | Value::Rules(_) | Value::Users(_) | Value::Databases(_) => false,
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
