//! Finds the value of a key, understands it, and says where mistakes are.

use std::path::PathBuf;
use std::time::Duration;

use super::encryption::Encryption;
use super::error::{ConfigError, Origin};
use super::keys::Key;
use super::source::RawConfig;
use super::url::Upstream;
use super::value::{self, Listen, number};
use super::written_value::Value;
use crate::auth::Password;

/// Finds values and says where mistakes are.
pub(super) struct Reader<'a> {
    pub written: &'a RawConfig,
}

impl Reader<'_> {
    pub(super) fn read<T>(
        &self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let (text, place) = match self.written.get(name) {
            Some((place, value)) => (text_of(value), place.clone()),
            None => (default_text(name), Origin::Default),
        };
        parse(text.trim()).map_err(|message| ConfigError::new(message).at(&place, name))
    }

    /// As [`Reader::read`], for a key that may be left out.
    pub(super) fn read_optional<T>(
        &self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        match self.written.get(name) {
            Some(_) => self.read(name, parse).map(Some),
            None => Ok(None),
        }
    }

    /// The upstream, with what other keys say of it.
    pub(super) fn upstream(&self) -> Result<Upstream, ConfigError> {
        let mut upstream = self.upstream_url()?;
        for name in Encryption::NAMES {
            if let Some((place, value)) = self.written.get(name) {
                let set = upstream.encryption.set(name, text_of(value).trim());
                set.map_err(|message| ConfigError::new(message).at(place, name))?;
            }
        }
        upstream.encryption.home.clone_from(&self.written.home);
        upstream.encryption.check().map_err(|message| {
            let named = Encryption::NAMES.into_iter().find(|name| self.written.get(name).is_some());
            self.error(named.unwrap_or("upstream"), message)
        })?;
        if let Some((_, Value::One(password))) = self.written.get("upstream_password") {
            upstream.password = Some(Password::new(password.clone().into_bytes()));
        }
        Ok(upstream)
    }

    pub(super) fn upstream_url(&self) -> Result<Upstream, ConfigError> {
        let Some((place, value)) = self.written.get("upstream") else {
            return Err(ConfigError::new("no upstream is configured").hint(
                "set upstream to the PostgreSQL server's URL: pgferry --upstream postgres://db.example:5432 \
                 (or PGFERRY_UPSTREAM, or upstream = in the file)",
            ));
        };
        Upstream::parse(text_of(value).trim()).map_err(|message| ConfigError::new(message).at(place, "upstream"))
    }

    pub(super) fn listen(&self) -> Result<Vec<Listen>, ConfigError> {
        let (place, items) = match self.written.get("listen") {
            Some((place, Value::Many(items))) => (place.clone(), items.clone()),
            Some((place, value)) => (place.clone(), vec![text_of(value)]),
            None => (Origin::Default, vec!["/run/pgferry".to_owned()]),
        };
        let parsed = items.iter().map(|item| Listen::parse(item)).collect::<Result<Vec<_>, _>>();
        match parsed.map_err(|message| ConfigError::new(message).at(&place, "listen"))? {
            list if list.is_empty() => Err(ConfigError::new("no address to listen on").at(&place, "listen")),
            list => Ok(list),
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.written.get(name).map(|(_, value)| text_of(value)).filter(|text| !text.is_empty())
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        match self.written.get(name) {
            Some((_, Value::Many(items))) => items.clone(),
            Some((_, Value::One(text))) => text.split_whitespace().map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    }

    /// A list of names, which may also be written as PgBouncer has them: with commas between.
    pub(super) fn names(&self, name: &str) -> Vec<String> {
        let names = match self.written.get(name) {
            Some((_, Value::Many(items))) => items.clone(),
            Some((_, Value::One(text))) => text.split(',').map(|name| name.trim().to_owned()).collect(),
            _ => Vec::new(),
        };
        names.into_iter().filter(|name| !name.is_empty()).collect()
    }

    pub(super) fn error(&self, name: &'static str, message: String) -> ConfigError {
        let place = self.written.get(name).map_or(Origin::Default, |(place, _)| place.clone());
        ConfigError::new(message).at(&place, name)
    }

    pub(super) fn show(&self, key: &'static Key) -> (&'static Key, String, Origin) {
        let (value, place) = match self.written.get(key.name) {
            Some((place, value)) => (value.clone(), place.clone()),
            None => return (key, key.default.unwrap_or_default().to_owned(), Origin::Default),
        };
        let shown = match value {
            _ if key.secret => "\"(hidden)\"".to_owned(),
            Value::One(text) if key.default.is_some_and(|default| !default.starts_with(['"', '['])) => text,
            Value::One(text) if key.default.is_some_and(|default| default.starts_with('[')) => format!("[{text:?}]"),
            Value::One(text) => format!("{text:?}"),
            Value::Many(items) => format!("{items:?}"),
            Value::Peers(_) | Value::Rules(_) | Value::Users(_) | Value::Databases(_) => String::new(),
        };
        (key, shown, place)
    }
}

fn default_text(name: &str) -> String {
    let default = super::keys::find(name).and_then(|key| key.default).unwrap_or_default();
    default.trim_matches('"').to_owned()
}

pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::One(text) => text.clone(),
        Value::Many(items) => items.join(","),
        Value::Peers(_) | Value::Rules(_) | Value::Users(_) | Value::Databases(_) => String::new(),
    }
}

/// A number, or `None` for "auto".
pub(super) fn number_or_auto(text: &str, min: usize, max: usize) -> Result<Option<usize>, String> {
    match text {
        "auto" => Ok(None),
        _ => number(text, min, max)
            .map(Some)
            .map_err(|_| format!("\"{text}\" is neither \"auto\" nor a number from {min} to {max}")),
    }
}

pub(super) fn truth(text: &str) -> Result<bool, String> {
    match text {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(format!("\"{text}\" is neither true nor false")),
    }
}

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match value::duration(text)? {
        Duration::ZERO => Err("must be longer than 0".into()),
        duration => Ok(duration),
    }
}

pub(super) fn optional_duration(text: &str) -> Result<Option<Duration>, String> {
    value::duration(text).map(|duration| (!duration.is_zero()).then_some(duration))
}

/// The same for a time that the system takes only if it is between `shortest` and `longest`.
pub(super) fn optional_duration_within(
    text: &str,
    (shortest, longest): (Duration, Duration),
) -> Result<Option<Duration>, String> {
    match optional_duration(text)? {
        Some(duration) if !(shortest..=longest).contains(&duration) => {
            Err(format!("\"{text}\" is neither 0 nor from {shortest:?} to {longest:?}, which is what the kernel takes"))
        }
        duration => Ok(duration),
    }
}

pub(super) fn unix_socket_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        _ => Err(format!("\"{text}\" is not an octal mode such as \"0770\"")),
    }
}
