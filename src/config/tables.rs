//! The values of the file that are tables: `[databases.NAME]`, `[[peer]]`, `[[rule]]`, `[users]`.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::keys::{self, PER_DATABASE};
use super::rule::Rule;
use super::user::{self, UserEntry};
use super::value::PeerRule;
use super::written_value::{self, Value, Values, of_key, one, plain, unknown};

/// Translates a span of the file into its origin.
type At<'a> = &'a dyn Fn(Range<usize>) -> Origin;

pub(super) fn databases(value: &Spanned<DeValue<'_>>, at: At<'_>) -> Result<Value, ConfigError> {
    let not_tables = |span| ConfigError::new("write it as [databases.NAME] tables").at(&at(span), "databases");
    let DeValue::Table(tables) = value.get_ref() else { return Err(not_tables(value.span())) };
    let mut all = BTreeMap::new();
    for (name, table) in tables {
        let DeValue::Table(fields) = table.get_ref() else { return Err(not_tables(table.span())) };
        let mut values = Values::new();
        for (key, value) in fields {
            let (place, key) = (at(key.span()), key.get_ref().as_ref());
            let shown = format!("databases.{}.{key}", name.get_ref());
            let Some(known) = keys::find(key).filter(|known| PER_DATABASE.contains(&known.name)) else {
                return Err(unknown(key, PER_DATABASE.into_iter()).at(&place, &shown));
            };
            let value = of_key(known, value).map_err(|error| ConfigError::new(error).at(&place, &shown))?;
            values.insert(known.name, (place, value));
        }
        all.insert(name.get_ref().to_string(), values);
    }
    Ok(Value::Databases(all))
}

pub(super) fn peers(value: &Spanned<DeValue<'_>>, at: At<'_>) -> Result<Value, ConfigError> {
    list(value, at, "peer", &PeerRule::FIELDS, PeerRule::from_fields).map(Value::Peers)
}

pub(super) fn rules(value: &Spanned<DeValue<'_>>, at: At<'_>) -> Result<Value, ConfigError> {
    list(value, at, "rule", &Rule::FIELDS, Rule::from_fields).map(Value::Rules)
}

pub(super) fn users(value: &Spanned<DeValue<'_>>, at: At<'_>) -> Result<Value, ConfigError> {
    let DeValue::Table(fields) = value.get_ref() else {
        return Err(ConfigError::new("write it as a [users] table").at(&at(value.span()), "users"));
    };
    let mut users = BTreeMap::new();
    for (user, secret) in fields {
        let name = format!("users.{}", user.get_ref());
        let entry = if let DeValue::Table(fields) = secret.get_ref() {
            user_table(fields, at, &name)?
        } else {
            let text = written_value::secret(secret);
            let text = text.map_err(|error| ConfigError::new(error).at(&at(user.span()), &name))?;
            UserEntry { secret: Some(text), ..UserEntry::default() }
        };
        if let Some(secret) = &entry.secret {
            let bad = |error: &str| ConfigError::new(error).at(&at(user.span()), &name);
            crate::auth::Stored::parse(secret).map_err(bad)?;
        }
        users.insert(user.get_ref().to_string(), entry);
    }
    Ok(Value::Users(users))
}

/// A `[users.NAME]` table.
fn user_table(fields: &DeTable<'_>, at: At<'_>, name: &str) -> Result<UserEntry, ConfigError> {
    let mut entry = UserEntry::default();
    for (key, value) in fields {
        let (place, field) = (at(key.span()), key.get_ref().as_ref());
        let shown = format!("{name}.{field}");
        if !user::FIELDS.contains(&field) {
            return Err(unknown(field, user::FIELDS.into_iter()).at(&place, &shown));
        }
        let set = if field == "password" {
            written_value::secret(value).map(|text| entry.secret = Some(text))
        } else {
            let text = one(value).ok_or_else(|| "not a value for this key".to_owned());
            text.and_then(|text| entry.limits.set(field, &text))
        };
        set.map_err(|error| ConfigError::new(error).at(&place, &shown))?;
    }
    Ok(entry)
}

/// An array of tables, each with fields of `known` names.
fn list<T>(
    value: &Spanned<DeValue<'_>>,
    at: At<'_>,
    name: &str,
    known: &[&'static str],
    make: impl Fn(&[(String, Vec<String>)]) -> Result<T, String>,
) -> Result<Vec<T>, ConfigError> {
    let not_tables = || ConfigError::new(format!("write it as [[{name}]] tables")).at(&at(value.span()), name);
    let tables = value.get_ref().as_array().ok_or_else(not_tables)?;
    let mut all = Vec::new();
    for table in tables {
        let mut fields = Vec::new();
        for (key, value) in table.get_ref().as_table().ok_or_else(not_tables)? {
            let (place, field) = (at(key.span()), key.get_ref().as_ref());
            let shown = format!("{name}.{field}");
            if !known.contains(&field) {
                return Err(unknown(field, known.iter().copied()).at(&place, &shown));
            }
            let values = match plain(value) {
                Some(Value::One(text)) => vec![text],
                Some(Value::Many(items)) if items.is_empty() => {
                    let error = ConfigError::new("an empty list fits nothing");
                    return Err(error.hint("leave the field out to have it fit everything").at(&place, &shown));
                }
                Some(Value::Many(items)) => items,
                _ => return Err(ConfigError::new("not a value for this key").at(&place, &shown)),
            };
            fields.push((field.to_owned(), values));
        }
        all.push(make(&fields).map_err(|error| ConfigError::new(error).at(&at(table.span()), name))?);
    }
    Ok(all)
}
