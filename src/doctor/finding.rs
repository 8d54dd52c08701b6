//! One thing that was found out, how bad it is, and what would help.

use serde::Serialize;

/// Level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know.
    Info,
    /// It may hurt soon.
    Warn,
    /// It hurts.
    Crit,
}

/// One thing that was found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Level.
    pub level: Level,
    /// Topic.
    pub topic: String,
    /// Text.
    pub text: String,
    /// Advice, each with its risk.
    pub advice: Vec<String>,
}

/// Creates a finding without advice.
pub(super) fn finding(level: Level, topic: impl Into<String>, text: impl Into<String>) -> Finding {
    Finding { level, topic: topic.into(), text: text.into(), advice: Vec::new() }
}

impl Finding {
    /// With one more piece of advice.
    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice.push(advice.into());
        self
    }
}
