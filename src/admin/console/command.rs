//! What can be said at the console.

use std::fmt;

use crate::admin::server_command::{Shutdown, Takeover};
use crate::admin::show::Show;
use crate::client::AdminRole;
use crate::client::cancel_key::CancelKey;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// `SHOW …`.
    Show(Show),
    /// `SHOW HELP`.
    Help,
    /// `SHOW` or `SET` of a setting that drivers ask for when they connect: its name, and whether it is shown.
    Driver(&'static str, bool),
    /// `PAUSE [db]`.
    Pause(Option<String>),
    /// `RESUME [db]`.
    Resume(Option<String>),
    /// `DISABLE db`.
    Disable(String),
    /// `ENABLE db`.
    Enable(String),
    /// `RECONNECT [db]`.
    Reconnect(Option<String>),
    /// `KILL [db]`.
    Kill(Option<String>),
    /// `KILL_CLIENT id`.
    KillClient(u64),
    /// `WAIT_CLOSE [db]`.
    WaitClose(Option<String>),
    /// `RELOAD`.
    Reload,
    /// `SET key = value`.
    Set(String, String),
    /// `SHUTDOWN […]`.
    Shutdown(Shutdown),
    /// `TAKE_OVER [IF_ENDING]`: another process asks for the listeners.
    TakeOver(Takeover),
    /// `TAKEN_OVER`: it has them, and takes clients.
    TakenOver,
    /// `CANCEL number pid key`: it passes on a cancel request with a key that it does not know, under a number of its own.
    Cancel(i32, i32, Vec<u8>),
    /// Nothing.
    Empty,
}

/// Settings that drivers ask for, and what they are here.
pub(crate) const DRIVERS: [(&str, &str); 8] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("intervalstyle", "postgres"),
    ("standard_conforming_strings", "on"),
    ("datestyle", "ISO"),
    ("timezone", "GMT"),
    ("default_transaction_isolation", "read committed"),
    ("extra_float_digits", "1"),
];

impl Command {
    /// Understands a command.
    ///
    /// # Errors
    /// What is wrong with it, and a hint.
    pub(crate) fn parse(text: &str) -> Result<Self, (String, Option<String>)> {
        let words = words(text).map_err(|error| (error, None))?;
        let Some((verb, rest)) = words.split_first() else { return Ok(Self::Empty) };
        let verb_lower = verb.text.to_ascii_lowercase();
        let maybe = || match rest {
            [] => Ok(None),
            [one] => Ok(Some(one.name())),
            _ => Err((format!("{} takes one database at most", verb.text.to_uppercase()), None)),
        };
        let one = || match rest {
            [one] => Ok(one.name()),
            _ => Err((format!("a database is required: {} NAME", verb.text.to_uppercase()), None)),
        };
        let none = |command| match rest {
            [] => Ok(command),
            [more, ..] => Err((format!("syntax error at or near \"{}\"", more.text), None)),
        };
        match verb_lower.as_str() {
            "show" | "select" => show(rest, verb_lower == "show"),
            "pause" => maybe().map(Self::Pause),
            "resume" => maybe().map(Self::Resume),
            "reconnect" => maybe().map(Self::Reconnect),
            "kill" => maybe().map(Self::Kill),
            "wait_close" => maybe().map(Self::WaitClose),
            "disable" => one().map(Self::Disable),
            "enable" => one().map(Self::Enable),
            "kill_client" => match rest {
                [id] => id.text.parse().map(Self::KillClient).map_err(|_| bad_id(&id.text)),
                _ => Err(("a client's id is required: KILL_CLIENT ID".into(), Some("SHOW CLIENTS lists ids.".into()))),
            },
            "reload" => none(Self::Reload),
            "take_over" => match rest {
                [when] if when.text.eq_ignore_ascii_case("if_ending") => Ok(Self::TakeOver(Takeover::Ending)),
                _ => none(Self::TakeOver(Takeover::Any)),
            },
            "taken_over" => none(Self::TakenOver),
            "cancel" => cancel(rest),
            "shutdown" => shutdown(rest),
            "set" => set(rest),
            "suspend" => {
                Err(("SUSPEND is not supported".into(), Some("PAUSE stops work between transactions.".into())))
            }
            _ => {
                let known = VERBS.iter().map(|verb| verb.split(' ').next().unwrap_or(verb));
                let near = crate::config::keys::nearest(&verb_lower.to_uppercase(), known);
                let hint = near.map_or("SHOW HELP lists the commands.".into(), |near| format!("Did you mean {near}?"));
                Err((format!("invalid command \"{}\"", text.trim()), Some(hint)))
            }
        }
    }

    /// Returns whether it only looks.
    #[must_use]
    pub(crate) fn only_looks(&self) -> bool {
        matches!(self, Self::Show(_) | Self::Help | Self::Driver(..) | Self::Empty)
    }

    /// Returns the role that may have it executed. Listeners go to the user that the process runs as and to no other: through
    /// them come the clients' passwords.
    #[must_use]
    pub(crate) fn right(&self) -> AdminRole {
        match self {
            Self::TakeOver(_) | Self::TakenOver | Self::Cancel(..) => AdminRole::Owner,
            _ if self.only_looks() => AdminRole::Stats,
            _ => AdminRole::Admin,
        }
    }

    /// Returns the tag of its `CommandComplete`.
    #[must_use]
    pub(crate) fn tag(&self) -> String {
        match self {
            Self::Show(_) | Self::Help | Self::Driver(_, true) => "SHOW".into(),
            Self::Driver(_, false) => "SET".into(),
            // As PgBouncer has it.
            Self::Set(key, value) => format!("SET {key}={value}"),
            Self::Pause(_) => "PAUSE".into(),
            Self::Resume(_) => "RESUME".into(),
            Self::Disable(_) => "DISABLE".into(),
            Self::Enable(_) => "ENABLE".into(),
            Self::Reconnect(_) => "RECONNECT".into(),
            Self::Kill(_) => "KILL".into(),
            Self::KillClient(_) => "KILL_CLIENT".into(),
            Self::WaitClose(_) => "WAIT_CLOSE".into(),
            Self::Reload => "RELOAD".into(),
            Self::Shutdown(_) => "SHUTDOWN".into(),
            Self::TakeOver(_) => "TAKE_OVER".into(),
            Self::TakenOver => "TAKEN_OVER".into(),
            Self::Cancel(..) => "CANCEL".into(),
            Self::Empty => String::new(),
        }
    }
}

impl fmt::Display for Command {
    /// As it is logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Set(key, _) = self
            && crate::config::keys::find(key).is_none_or(|key| key.secret)
        {
            return write!(f, "SET {key}=(hidden)");
        }
        f.write_str(&self.tag())?;
        match self {
            Self::Pause(Some(name))
            | Self::Resume(Some(name))
            | Self::Reconnect(Some(name))
            | Self::Kill(Some(name))
            | Self::WaitClose(Some(name))
            | Self::Disable(name)
            | Self::Enable(name) => write!(f, " \"{name}\""),
            Self::KillClient(id) => write!(f, " {id}"),
            Self::Shutdown(how) => write!(f, " ({how:?})"),
            _ => Ok(()),
        }
    }
}

/// The commands, as help shows them.
pub(crate) const VERBS: [&str; 14] = [
    "SHOW HELP|WHAT",
    "PAUSE [db]",
    "RESUME [db]",
    "DISABLE db",
    "ENABLE db",
    "RECONNECT [db]",
    "KILL [db]",
    "KILL_CLIENT id",
    "WAIT_CLOSE [db]",
    "RELOAD",
    "SET key = value",
    "SHUTDOWN",
    "SHUTDOWN WAIT_FOR_SERVERS",
    "SHUTDOWN WAIT_FOR_CLIENTS",
];

/// The statements of a text: what stands between semicolons that are not in quotes.
#[must_use]
pub(crate) fn statements(text: &str) -> Vec<&str> {
    let mut all = Vec::new();
    let (mut start, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, ';') => {
                all.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    all.push(&text[start..]);
    all.retain(|statement| !statement.trim().is_empty());
    all
}

fn show(rest: &[Word], is_show: bool) -> Result<Command, (String, Option<String>)> {
    let [what] = rest else {
        return Err(match rest {
            [] => ("SHOW what?".into(), Some(Show::list())),
            [_, more, ..] => (format!("syntax error at or near \"{}\"", more.text), Some(Show::list())),
            _ => ("syntax error".into(), None),
        });
    };
    let name = what.text.to_ascii_lowercase();
    if name == "help" {
        return Ok(Command::Help);
    }
    if let Some((known, _)) = DRIVERS.iter().find(|(known, _)| *known == name) {
        return Ok(Command::Driver(known, true));
    }
    match Show::find(&name) {
        Some(show) => Ok(Command::Show(show)),
        // Some drivers and pools check a connection so.
        None if !is_show && name == "1" => Ok(Command::Show(Show::Version)),
        None => {
            let near = crate::config::keys::nearest(&name, Show::ALL.iter().map(|(_, name)| *name));
            let hint = near.map_or_else(Show::list, |near| format!("Did you mean SHOW {}?", near.to_uppercase()));
            Err((format!("there is no SHOW \"{}\"", what.text), Some(hint)))
        }
    }
}

/// `CANCEL number pid key`, the key in hexadecimal digits.
fn cancel(rest: &[Word]) -> Result<Command, (String, Option<String>)> {
    let parsed = || {
        let [number, pid, key] = rest else { return None };
        Some(Command::Cancel(number.text.parse().ok()?, pid.text.parse().ok()?, CancelKey::from_hex(&key.text)?))
    };
    parsed().ok_or_else(|| ("CANCEL takes a number, a pid and a key".into(), None))
}

fn shutdown(rest: &[Word]) -> Result<Command, (String, Option<String>)> {
    let how = match rest {
        [] => Shutdown::Now,
        [how] if how.text.eq_ignore_ascii_case("wait_for_servers") => Shutdown::WaitForServers,
        [how] if how.text.eq_ignore_ascii_case("wait_for_clients") => Shutdown::WaitForClients,
        [how, ..] => {
            let hint = "SHUTDOWN, SHUTDOWN WAIT_FOR_SERVERS, SHUTDOWN WAIT_FOR_CLIENTS";
            return Err((format!("syntax error at or near \"{}\"", how.text), Some(hint.into())));
        }
    };
    Ok(Command::Shutdown(how))
}

/// `SET key = value`, `SET key TO value`.
fn set(rest: &[Word]) -> Result<Command, (String, Option<String>)> {
    let (key, value) = match rest {
        [key, to, value] if to.text == "=" || to.text.eq_ignore_ascii_case("to") => (key, value),
        _ => {
            return Err((
                "SET takes a key and a value".into(),
                Some("SET key = 'value'; SHOW CONFIG lists keys.".into()),
            ));
        }
    };
    let name = key.text.to_ascii_lowercase();
    if let Some((known, _)) = DRIVERS.iter().find(|(known, _)| *known == name) {
        return Ok(Command::Driver(known, false));
    }
    Ok(Command::Set(name, value.text.clone()))
}

fn bad_id(text: &str) -> (String, Option<String>) {
    (format!("invalid client id \"{text}\""), Some("SHOW CLIENTS lists ids.".into()))
}

/// A word, or what stood in quotes.
struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    /// As the name of a database: folded as SQL folds names.
    fn name(&self) -> String {
        if self.quoted { self.text.clone() } else { self.text.to_lowercase() }
    }
}

fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut chars = text.trim().trim_end_matches(';').chars().peekable();
    while let Some(&c) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
        } else if c == '=' {
            chars.next();
            words.push(Word { text: "=".into(), quoted: false });
        } else if c == '\'' || c == '"' {
            chars.next();
            let mut word = String::new();
            loop {
                match chars.next() {
                    // Twice stands for itself.
                    Some(next) if next == c && chars.peek() == Some(&c) => {
                        chars.next();
                        word.push(c);
                    }
                    Some(next) if next == c => break,
                    Some(next) => word.push(next),
                    None => return Err("unterminated quoted string".into()),
                }
            }
            words.push(Word { text: word, quoted: true });
        } else {
            let mut word = String::new();
            while let Some(&next) = chars.peek().filter(|c| !c.is_whitespace() && !matches!(c, '=' | '\'' | '"')) {
                word.push(next);
                chars.next();
            }
            words.push(Word { text: word, quoted: false });
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_as_people_and_tools_write_them() {
        for (text, command) in [
            ("show pools;", Command::Show(Show::Pools)),
            ("SHOW POOLS", Command::Show(Show::Pools)),
            ("select version", Command::Show(Show::Version)),
            ("  Show  Stats_Totals ; ", Command::Show(Show::StatsTotals)),
            ("PAUSE", Command::Pause(None)),
            ("pause Shop", Command::Pause(Some("shop".into()))),
            ("PAUSE \"Shop \"\"x\"\"\"", Command::Pause(Some("Shop \"x\"".into()))),
            ("kill_client 12", Command::KillClient(12)),
            ("SET pool_size=7", Command::Set("pool_size".into(), "7".into())),
            ("set log_level to 'debug'", Command::Set("log_level".into(), "debug".into())),
            ("SET extra_float_digits = 3", Command::Driver("extra_float_digits", false)),
            ("shutdown wait_for_clients", Command::Shutdown(Shutdown::WaitForClients)),
            (";", Command::Empty),
            ("", Command::Empty),
        ] {
            assert_eq!(Command::parse(text), Ok(command), "{text}");
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, part, hint) in [
            ("pausee shop", "invalid command \"pausee shop\"", "PAUSE"),
            ("show pool", "no SHOW \"pool\"", "SHOW POOLS"),
            ("show", "what", "STATS"),
            ("disable", "required", ""),
            ("pause a b", "one database", ""),
            ("kill_client x", "invalid client id", "SHOW CLIENTS"),
            ("set x", "key and a value", "SHOW CONFIG"),
            ("shutdown later", "later", "WAIT_FOR_CLIENTS"),
            ("pause 'x", "unterminated", ""),
            ("suspend", "not supported", "PAUSE"),
            ("reload now", "now", ""),
        ] {
            let (error, said) = Command::parse(text).expect_err(text);
            assert!(error.contains(part) && said.unwrap_or_default().contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn a_text_may_hold_several_statements() {
        assert_eq!(statements("show stats; pause 'a;b' ;;"), ["show stats", " pause 'a;b' "]);
        assert!(statements(" ; ").is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in ".{0,60}") {
            for statement in statements(&text) {
                let _ = Command::parse(statement);
            }
        }
    }
}
