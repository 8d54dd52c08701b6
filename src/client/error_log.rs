//! Errors as the log tells them: the first of a kind at once, those that follow as a count, so that a thousand clients
//! with the same trouble are one line.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tracing::{Level, debug, info, warn};

use crate::error::{ClientError, ErrorSource};
use crate::lock::lock;
use crate::log::cut;

/// For how long errors of a kind are counted before they are told of again.
const FOLD_INTERVAL: Duration = Duration::from_secs(10);

/// Number of kinds that are kept.
const MAX_KINDS: usize = 50;

/// Number of kinds with the same SQLSTATE that are told apart: names that clients make up are without end.
const MAX_ALIKE: usize = 20;

/// Bytes of a message that are kept: servers may say a megabyte.
const MAX_TEXT_BYTES: usize = 4096;

/// Events in which a client gets an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorEvent {
    /// It was not let in.
    Refused,
    /// A statement of its was not carried out.
    Failed,
    /// Its session was ended.
    Ended,
    /// It left before its login, because of what it was answered.
    Left,
}

impl ErrorEvent {
    fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused a client",
            Self::Failed => "failed a statement",
            Self::Ended => "ended a session",
            Self::Left => "a client left",
        }
    }

    /// Returns the level at which it is logged.
    fn level(self, client_error: &ClientError) -> Level {
        match (client_error.error_source(), self) {
            // Its own program may not say why; and PostgreSQL has told others so already.
            (_, Self::Left) | (ErrorSource::Server, Self::Refused) => Level::INFO,
            (ErrorSource::Client, _) => Level::DEBUG,
            (ErrorSource::Server | ErrorSource::Limits, _) => Level::WARN,
        }
    }
}

/// One kind of error.
#[derive(Debug)]
struct Kind {
    /// Identity: the event, the SQLSTATE and the message without its particulars.
    key: (ErrorEvent, String, String),
    /// The last one in full.
    text: String,
    level: Level,
    told: Instant,
    last: Instant,
    count: u64,
    /// Number of errors since it was last logged.
    folded: u64,
}

/// The errors that clients were told lately.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog {
    /// The one that came last is the last.
    kinds: Mutex<VecDeque<Kind>>,
}

impl ErrorLog {
    /// Notes that `what` happened to a client because of `client_error`.
    pub(crate) fn note(&self, what: ErrorEvent, client: Option<u64>, client_error: &ClientError) {
        if self.is_news(what, client_error, Instant::now()) {
            log(what.level(client_error), client, format_args!("{}: {client_error}", what.name()));
        }
    }

    /// Returns whether it is to be told at once.
    fn is_news(&self, what: ErrorEvent, client_error: &ClientError, now: Instant) -> bool {
        let mut key = (what, client_error.code(), shortened(&client_error.message()));
        let text = shortened(&client_error.to_string());
        let mut kinds = self.kinds();
        let alike = kinds.iter().filter(|kind| (kind.key.0, &kind.key.1) == (key.0, &key.1)).count();
        if alike >= MAX_ALIKE && !kinds.iter().any(|kind| kind.key == key) {
            key.2.clear();
        }
        if let Some(at) = kinds.iter().position(|kind| kind.key == key)
            && let Some(mut kind) = kinds.remove(at)
        {
            kind.text = text;
            kind.last = now;
            kind.count += 1;
            kind.folded += 1;
            kinds.push_back(kind);
            return false;
        }
        if kinds.len() >= MAX_KINDS {
            kinds.pop_front();
        }
        let level = what.level(client_error);
        kinds.push_back(Kind { key, text, level, told: now, last: now, count: 1, folded: 0 });
        true
    }

    /// Tells of those that have been counted for long enough.
    pub(crate) fn tell(&self) {
        for (level, line) in self.due(Instant::now()) {
            log(level, None, format_args!("{line}"));
        }
    }

    fn due(&self, now: Instant) -> Vec<(Level, String)> {
        let mut lines = Vec::new();
        for kind in self.kinds().iter_mut().filter(|kind| kind.folded > 0 && now - kind.told >= FOLD_INTERVAL) {
            let (times, seconds) = (kind.folded, (now - kind.told).as_secs());
            lines.push((
                kind.level,
                format!("{}: {times} more in the last {seconds} s: {}", kind.key.0.name(), kind.text),
            ));
            kind.folded = 0;
            kind.told = now;
        }
        lines
    }

    /// Returns the latest entries, the last first: text, time, number of times.
    #[must_use]
    pub(crate) fn latest(&self) -> Vec<(String, Instant, u64)> {
        let kinds = self.kinds();
        kinds
            .iter()
            .rev()
            .map(|kind| (format!("{}: {}", kind.key.0.name(), kind.text), kind.last, kind.count))
            .collect()
    }

    fn kinds(&self) -> MutexGuard<'_, VecDeque<Kind>> {
        lock(&self.kinds)
    }
}

fn shortened(text: &str) -> String {
    cut(text, MAX_TEXT_BYTES).to_owned()
}

fn log(level: Level, client: Option<u64>, text: fmt::Arguments<'_>) {
    match level {
        Level::DEBUG => debug!(client, "{text}"),
        Level::INFO => info!(client, "{text}"),
        _ => warn!(client, "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::sqlstate;

    #[test]
    fn the_first_is_told_and_the_others_counted() {
        let complaints = ErrorLog::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let full = |waited: &str| {
            ClientError::error(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, "no connection")
                .detail(waited.to_owned())
        };
        assert!(complaints.is_news(ErrorEvent::Refused, &full("waited 1 s"), at(0)));
        for second in 1..5 {
            assert!(
                !complaints.is_news(ErrorEvent::Refused, &full("waited 2 s"), at(second)),
                "particulars don't count"
            );
        }
        assert!(complaints.is_news(ErrorEvent::Ended, &full("waited 1 s"), at(5)), "something else happened");
        assert!(complaints.due(at(6)).is_empty());
        let lines = complaints.due(at(10));
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].0, Level::WARN);
        assert_eq!(lines[0].1, "refused a client: 4 more in the last 10 s: no connection (53300); waited 2 s");
        assert!(complaints.due(at(30)).is_empty(), "nothing came since");
        assert!(!complaints.is_news(ErrorEvent::Refused, &full("x"), at(31)));
        assert_eq!(complaints.due(at(31)).len(), 1, "one line for what came since");
        let latest = complaints.latest();
        assert_eq!((latest.len(), latest[0].2), (2, 6));
        assert!(latest[0].0.starts_with("refused a client: no connection"), "{latest:?}");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let complaints = ErrorLog::default();
        let codes = [sqlstate::INTERNAL, sqlstate::TOO_MANY_CONNECTIONS, sqlstate::INVALID_PASSWORD];
        for nth in 0..3 * MAX_KINDS {
            let client_error = ClientError::error(ErrorSource::Client, codes[nth % 3], format!("number {nth}"));
            complaints.note(ErrorEvent::Failed, Some(1), &client_error);
        }
        assert_eq!(complaints.latest().len(), MAX_KINDS);
        let long = ClientError::error(ErrorSource::Server, sqlstate::SYNTAX_ERROR, "é".repeat(1 << 20));
        complaints.note(ErrorEvent::Failed, Some(1), &long);
        assert!(complaints.latest()[0].0.len() < 2 * MAX_TEXT_BYTES);
    }

    #[test]
    fn names_without_end_are_a_few_lines() {
        let complaints = ErrorLog::default();
        let start = Instant::now();
        let of = |nth: usize| {
            ClientError::fatal(
                ErrorSource::Server,
                sqlstate::UNDEFINED_DATABASE,
                format!("database \"{nth}\" does not exist"),
            )
        };
        let told = (0..10_000).filter(|nth| complaints.is_news(ErrorEvent::Refused, &of(*nth), start)).count();
        assert_eq!(told, MAX_ALIKE + 1);
        let lines = complaints.due(start + FOLD_INTERVAL);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].1.contains(&format!("{} more", 10_000 - told)), "{lines:?}");
        assert!(!complaints.is_news(ErrorEvent::Refused, &of(3), start), "the first are told apart still");
    }
}
