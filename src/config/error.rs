//! What is wrong with a configuration, and where it says so.

use std::fmt;

/// Origin of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// pgferry's own default.
    Default,
    /// A variable of the environment that other programs read as well: it holds where nothing that is pgferry's own says anything.
    Shared(&'static str),
    /// A line of the configuration file.
    File {
        /// The file's path.
        path: String,
        /// The line, counted from 1.
        line: usize,
    },
    /// A variable of the environment.
    Env(String),
    /// A command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Env(name) => write!(f, "{name}"),
            Self::Shared(name) | Self::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// A mistake in the configuration: where, which key, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Origin of the mistake.
    pub place: Option<Origin>,
    /// The key it is about.
    pub key: Option<String>,
    /// Message.
    pub message: String,
    /// Hint: the remedy.
    pub hint: Option<String>,
}

impl ConfigError {
    /// A mistake that has no place.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { place: None, key: None, message: message.into(), hint: None }
    }

    /// Says where it is and which key it is about.
    #[must_use]
    pub fn at(self, place: &Origin, key: &str) -> Self {
        Self { place: Some(place.clone()), key: Some(key.to_owned()), ..self }
    }

    /// Says in which table the key is.
    #[must_use]
    pub(super) fn in_table(self, table: &str) -> Self {
        Self { key: self.key.map(|key| format!("{table}.{key}")), ..self }
    }

    /// Adds advice.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        write!(f, "{}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
