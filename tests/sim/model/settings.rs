//! A session's settings, with what transactions and savepoints remember of them: `guc.c`.

use std::rc::Rc;
use std::time::Duration;

use super::error::Report;
use super::value::{Encoding, boolean};

/// How a setting's value is checked and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Encoding,
    DateStyle,
    IntervalStyle,
    Bool,
    TimeZone,
    /// A list of identifiers.
    Path,
    /// Milliseconds.
    Time,
    /// Kilobytes.
    Memory,
    Int,
    Role,
    /// A level of isolation.
    Isolation,
    /// `synchronous_commit`.
    Commit,
    /// A text search configuration. There is `mine`, in schema `one`, and PostgreSQL's own `simple`.
    SearchConfig,
    Internal,
    /// A placeholder with a dot in its name.
    Custom,
}

/// A value, and where it comes from.
#[derive(Clone, Debug)]
struct Held {
    text: Rc<str>,
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// What RESET gives.
    Start,
    Session,
}

/// What a level of the stack remembers, as `GucStackState`.
#[derive(Clone, Debug)]
enum Remembered {
    Set,
    Local,
    /// SET, and then SET LOCAL: with the value of SET.
    SetLocal(Held),
}

#[derive(Clone, Debug)]
struct Level {
    nest: usize,
    state: Remembered,
    prior: Held,
}

#[derive(Clone, Debug)]
struct Setting {
    name: Rc<str>,
    kind: Kind,
    held: Held,
    reset: Rc<str>,
    /// The startup packet has said what RESET gives, which the server's configuration does not change.
    is_clients: bool,
    stack: Vec<Level>,
    /// The value that was reported last, for those that are.
    reported: Option<Rc<str>>,
}

/// How a value is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Set,
    Local,
}

/// The settings that PostgreSQL reports.
const REPORTED: [(&str, Kind, &str); 13] = [
    ("application_name", Kind::Text, ""),
    ("client_encoding", Kind::Encoding, "UTF8"),
    ("DateStyle", Kind::DateStyle, "ISO, MDY"),
    ("default_transaction_read_only", Kind::Bool, "off"),
    ("in_hot_standby", Kind::Internal, "off"),
    ("integer_datetimes", Kind::Internal, "on"),
    ("IntervalStyle", Kind::IntervalStyle, "postgres"),
    ("is_superuser", Kind::Internal, "on"),
    ("server_encoding", Kind::Internal, "UTF8"),
    ("server_version", Kind::Internal, "15.0"),
    ("session_authorization", Kind::Internal, ""),
    ("standard_conforming_strings", Kind::Bool, "on"),
    ("TimeZone", Kind::TimeZone, "UTC"),
];

const OTHERS: [(&str, Kind, &str); 14] = [
    ("default_transaction_isolation", Kind::Isolation, "read committed"),
    ("transaction_isolation", Kind::Isolation, "read committed"),
    ("transaction_read_only", Kind::Bool, "off"),
    ("synchronous_commit", Kind::Commit, "on"),
    ("default_text_search_config", Kind::SearchConfig, "pg_catalog.english"),
    ("search_path", Kind::Path, "\"$user\", public"),
    ("statement_timeout", Kind::Time, "0"),
    ("lock_timeout", Kind::Time, "0"),
    ("idle_in_transaction_session_timeout", Kind::Time, "0"),
    ("transaction_timeout", Kind::Time, "0"),
    ("work_mem", Kind::Memory, "4MB"),
    ("extra_float_digits", Kind::Int, "1"),
    ("enable_seqscan", Kind::Bool, "on"),
    ("role", Kind::Role, "none"),
];

/// Since this version a transaction may be allowed a time.
const LIMITS_TRANSACTIONS: u32 = 17;

/// The settings that a transaction has for itself, and those that they are made of when it begins.
const OF_TRANSACTION: [(&str, &str); 2] =
    [(ISOLATION, "default_transaction_isolation"), (READ_ONLY, "default_transaction_read_only")];
const ISOLATION: &str = "transaction_isolation";
pub const READ_ONLY: &str = "transaction_read_only";

/// What a transaction may be: its isolation, and whether it only reads.
pub type Characteristics = [Rc<str>; 2];

/// The time zones that there are.
const ZONES: [&str; 5] = ["UTC", "GMT", "Asia/Tokyo", "Europe/Berlin", "America/New_York"];

/// A session's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    all: Vec<Setting>,
    /// How deep transactions are nested: 1 in a transaction, one more in each savepoint.
    nest: usize,
    /// The transaction has taken a snapshot: `FirstSnapshotSet`.
    pub queried: bool,
    /// Where the settings of a transaction are, and their defaults.
    of_transaction: [(usize, usize); 2],
    /// Whether any stack holds anything.
    stacked: bool,
    /// Whether any reported setting may have changed.
    report: bool,
    /// What is to be reported at once, before 14; `None` where changes are reported when the server is ready.
    at_once: Option<Vec<(Rc<str>, Rc<str>)>>,
    /// Grows with every change of `search_path`, `role` or `standard_conforming_strings`.
    pub generation: u64,
}

impl Settings {
    /// The defaults of a server of this major version, for a session of `user`.
    pub fn new(user: &str, version: u32) -> Self {
        let make = |reported: bool| {
            move |&(name, kind, value): &(&'static str, Kind, &'static str)| {
                let value: Rc<str> = match name {
                    "session_authorization" => user.into(),
                    // Before 13.8 a DISCARD ALL takes effect with the Sync behind it.
                    "server_version" if version < 13 => format!("{version}.0").into(),
                    "server_version" => format!("{version}.22").into(),
                    _ => value.into(),
                };
                let reported = match name {
                    "search_path" => version >= 18,
                    "default_transaction_read_only" | "in_hot_standby" => version >= 14,
                    _ => reported,
                };
                Setting {
                    name: name.into(),
                    kind,
                    reset: Rc::clone(&value),
                    is_clients: false,
                    reported: reported.then(|| Rc::clone(&value)),
                    held: Held { text: value, source: Source::Start },
                    stack: Vec::new(),
                }
            }
        };
        let is_there =
            |(name, _, _): &&(&str, Kind, &str)| *name != "transaction_timeout" || version >= LIMITS_TRANSACTIONS;
        let others = OTHERS.iter().filter(is_there).map(make(false));
        let all: Vec<Setting> = REPORTED.iter().map(make(true)).chain(others).collect();
        let place = |name: &str| all.iter().position(|setting| *setting.name == *name).unwrap_or_default();
        let of_transaction = OF_TRANSACTION.map(|(name, default)| (place(name), place(default)));
        let at_once = (version < 14).then(Vec::new);
        Self { all, nest: 0, queried: false, of_transaction, stacked: false, report: false, at_once, generation: 0 }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|setting| setting.name.eq_ignore_ascii_case(name))
    }

    /// A setting's value, if it exists.
    pub fn get(&self, name: &str) -> Option<&Rc<str>> {
        self.find(name).map(|at| &self.all[at].held.text)
    }

    /// The setting's name as PostgreSQL spells it, its value, and what RESET makes of it.
    pub fn iter(&self) -> impl Iterator<Item = (&Rc<str>, &Rc<str>, &Rc<str>, &'static str)> {
        let source = |held: &Held| if held.source == Source::Session { "session" } else { "default" };
        self.all.iter().map(move |setting| (&setting.name, &setting.held.text, &setting.reset, source(&setting.held)))
    }

    /// Takes a value from the startup packet as the session's default.
    pub fn start(&mut self, name: &str, value: &str) -> Result<(), Report> {
        let at = self.find_or_create(name)?;
        let value = self.check(at, value)?;
        let setting = &mut self.all[at];
        setting.held.text = Rc::clone(&value);
        setting.reset = Rc::clone(&value);
        setting.is_clients = true;
        if setting.reported.is_some() {
            setting.reported = Some(value);
        }
        Ok(())
    }

    /// The server's default is another one from now on: `set_config_option` with `makeDefault`.
    pub fn configure(&mut self, name: &str, value: &str) {
        let Some(at) = self.find(name).filter(|at| !self.all[*at].is_clients) else { return };
        let Ok(value) = self.check(at, value) else { return };
        let setting = &mut self.all[at];
        setting.reset = Rc::clone(&value);
        let priors = setting.stack.iter_mut().map(|level| &mut level.prior);
        for held in priors.chain([&mut setting.held]).filter(|held| held.source == Source::Start) {
            held.text = Rc::clone(&value);
        }
        self.report |= setting.reported.is_some();
        // What the session has set stays, and is not reported anew.
        if setting.reported.is_some()
            && setting.held.source == Source::Start
            && let Some(at_once) = &mut self.at_once
        {
            at_once.push((Rc::clone(&setting.name), Rc::clone(&setting.held.text)));
        }
        self.generation += 1;
    }

    /// The same for a session that begins.
    pub fn begin_with(&mut self, name: &str, value: &str) {
        self.configure(name, value);
        self.at_once.iter_mut().for_each(Vec::clear);
        for setting in self.all.iter_mut().filter(|setting| setting.reported.is_some()) {
            setting.reported = Some(Rc::clone(&setting.held.text));
        }
    }

    /// All that is reported at the start.
    pub fn reported(&self) -> impl Iterator<Item = (&str, &str)> {
        let reported = self.all.iter().filter(|setting| setting.reported.is_some());
        reported.map(|setting| (&*setting.name, &*setting.held.text))
    }

    /// Whether changes are to be reported now.
    pub fn reports_at_once(&self) -> bool {
        self.at_once.as_ref().is_some_and(|reports| !reports.is_empty())
    }

    /// What has changed since it was reported last: `ReportChangedGUCOptions`.
    pub fn changed(&mut self, mut report: impl FnMut(&str, &str)) {
        if let Some(at_once) = &mut self.at_once {
            at_once.drain(..).for_each(|(name, value)| report(&name, &value));
            return;
        }
        if !std::mem::take(&mut self.report) {
            return;
        }
        for setting in &mut self.all {
            if let Some(reported) = &mut setting.reported
                && *reported != setting.held.text
            {
                *reported = Rc::clone(&setting.held.text);
                report(&setting.name, &setting.held.text);
            }
        }
    }

    fn find_or_create(&mut self, name: &str) -> Result<usize, Report> {
        if let Some(at) = self.find(name) {
            return Ok(at);
        }
        let good = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !name.contains('.') {
            return Err(Report::error("42704", format!("unrecognized configuration parameter \"{name}\"")));
        }
        if !name.split('.').all(good) {
            return Err(Report::error("42602", format!("invalid configuration parameter name \"{name}\"")));
        }
        self.all.push(Setting {
            name: name.into(),
            kind: Kind::Custom,
            held: Held { text: "".into(), source: Source::Start },
            reset: "".into(),
            is_clients: false,
            stack: Vec::new(),
            reported: None,
        });
        Ok(self.all.len() - 1)
    }

    /// Sets `name`, or resets it.
    pub fn set(&mut self, name: &str, value: Option<&str>, action: Action) -> Result<(), Report> {
        let at = self.find_or_create(name)?;
        if self.all[at].kind == Kind::Internal {
            return Err(Report::error("55P02", format!("parameter \"{name}\" cannot be changed")));
        }
        let (text, source) = match value {
            Some(value) => (self.check(at, value)?, Source::Session),
            None => (Rc::clone(&self.all[at].reset), Source::Start),
        };
        let value = Held { text, source };
        if self.all[at].kind == Kind::Role {
            let superuser = if &*value.text == "none" { "on" } else { "off" };
            if let Some(at) = self.find("is_superuser") {
                self.put(at, Held { text: superuser.into(), source: Source::Session }, action);
            }
        }
        self.put(at, value, action);
        Ok(())
    }

    /// `SET SESSION AUTHORIZATION DEFAULT`, which ends a role that was set too.
    pub fn reset_authorization(&mut self) -> Result<(), Report> {
        if let Some(at) = self.find("is_superuser") {
            self.put(at, Held { text: "on".into(), source: Source::Session }, Action::Set);
        }
        if let Some(at) = self.find("session_authorization") {
            let held = self.all[at].held.clone();
            self.put(at, held, Action::Set);
        }
        self.set("role", Some("none"), Action::Set)
    }

    /// `RESET ALL`.
    pub fn reset_all(&mut self) {
        for at in 0..self.all.len() {
            let setting = &self.all[at];
            let stays = matches!(setting.kind, Kind::Internal | Kind::Role) || self.is_of_transaction(at);
            if !stays && setting.held.source == Source::Session {
                let reset = Held { text: Rc::clone(&setting.reset), source: Source::Start };
                self.put(at, reset, Action::Set);
            }
        }
    }

    fn put(&mut self, at: usize, value: Held, action: Action) {
        let setting = &mut self.all[at];
        remember(setting, self.nest, action);
        self.stacked = true;
        self.report |= setting.reported.is_some();
        setting.held = value;
        if setting.reported.is_some()
            && let Some(at_once) = &mut self.at_once
        {
            at_once.push((Rc::clone(&setting.name), Rc::clone(&setting.held.text)));
        }
        self.generation += 1;
    }

    /// A transaction begins.
    pub fn begin(&mut self) {
        self.nest = 1;
        self.queried = false;
        for (at, default) in self.of_transaction {
            self.all[at].held.text = Rc::clone(&self.all[default].held.text);
        }
    }

    fn is_of_transaction(&self, at: usize) -> bool {
        self.of_transaction.iter().any(|(place, _)| *place == at)
    }

    /// What the transaction is: `SaveTransactionCharacteristics`.
    pub fn characteristics(&self) -> Characteristics {
        self.of_transaction.map(|(at, _)| Rc::clone(&self.all[at].held.text))
    }

    /// `RestoreTransactionCharacteristics`.
    pub fn restore(&mut self, characteristics: Characteristics) {
        for ((at, _), text) in self.of_transaction.into_iter().zip(characteristics) {
            self.all[at].held.text = text;
        }
    }

    /// Whether the transaction only reads.
    pub fn is_read_only(&self) -> bool {
        &*self.all[self.of_transaction[1].0].held.text == "on"
    }

    /// The end of a savepoint's part goes back to what its transaction was.
    pub fn restore_read_only(&mut self, is_read_only: bool) {
        self.all[self.of_transaction[1].0].held.text = if is_read_only { "on".into() } else { "off".into() };
    }

    /// `check_transaction_read_only` and `check_transaction_isolation`.
    fn check_of_transaction(&self, at: usize, value: &str) -> Result<(), Report> {
        let setting = &self.all[at];
        let same = *setting.held.text == *value || (setting.kind == Kind::Bool && value == "on");
        if self.nest > 0 && !same && (self.queried || self.nest > 1) {
            return Err(Report::error("25001", format!("{} must be set before any query", setting.name)));
        }
        Ok(())
    }

    /// A savepoint begins, which makes it `nest` levels.
    pub fn nest(&mut self, nest: usize) {
        self.nest = nest;
    }

    /// Level `nest` ends: `AtEOXact_GUC`. Once it has ended, it has no effect to end it again.
    pub fn end(&mut self, nest: usize, commit: bool) {
        self.nest = nest - 1;
        if !self.stacked {
            return;
        }
        let (mut takes_role, mut told) = (false, false);
        for setting in &mut self.all {
            if !setting.stack.is_empty() && end(setting, nest, commit) {
                takes_role |= setting.kind == Kind::Role;
                told |= setting.kind == Kind::Internal;
                self.report |= setting.reported.is_some();
                self.generation += 1;
                if setting.reported.is_some()
                    && let Some(at_once) = &mut self.at_once
                {
                    at_once.push((Rc::clone(&setting.name), Rc::clone(&setting.held.text)));
                }
            }
        }
        if let Some(at) = self.find("is_superuser").filter(|_| takes_role && !told)
            && let Some(at_once) = &mut self.at_once
        {
            at_once.push((Rc::clone(&self.all[at].name), Rc::clone(&self.all[at].held.text)));
        }
        self.stacked = self.nest > 0;
    }

    /// The values of a SET as one text: `flatten_set_variable_args`.
    pub fn flatten(&self, name: &str, values: &[Rc<str>]) -> Result<Rc<str>, Report> {
        let kind = self.find(name).map(|at| self.all[at].kind);
        match (kind, values) {
            (Some(Kind::Path), _) => Ok(values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ").into()),
            (Some(Kind::DateStyle), _) => Ok(values.join(", ").into()),
            (_, [value]) => Ok(Rc::clone(value)),
            _ => Err(Report::error("22023", format!("SET {name} takes only one argument"))),
        }
    }

    fn check(&self, at: usize, value: &str) -> Result<Rc<str>, Report> {
        let setting = &self.all[at];
        let invalid =
            || Report::error("22023", format!("invalid value for parameter \"{}\": \"{value}\"", setting.name));
        let checked: Option<Rc<str>> = match setting.kind {
            Kind::Text | Kind::Custom | Kind::Path => Some(value.into()),
            Kind::Bool => boolean(value).map(|on| if on { "on".into() } else { "off".into() }),
            Kind::Encoding => encoding(value).map(Into::into),
            Kind::DateStyle => date_style(&setting.held.text, value).map(Into::into),
            Kind::IntervalStyle => {
                let lower = value.to_ascii_lowercase();
                let styles = ["postgres", "postgres_verbose", "sql_standard", "iso_8601"];
                styles.into_iter().find(|style| *style == lower).map(Into::into)
            }
            Kind::TimeZone => ZONES.into_iter().find(|zone| zone.eq_ignore_ascii_case(value)).map(Into::into),
            Kind::Time => {
                number(value, &TIME).filter(|n| (0..=i64::from(i32::MAX)).contains(n)).map(|n| shown(n, &TIME))
            }
            Kind::Memory => {
                number(value, &MEMORY).filter(|n| (64..=i64::from(i32::MAX)).contains(n)).map(|n| shown(n, &MEMORY))
            }
            Kind::Int => value.parse::<i64>().ok().filter(|n| (-15..=3).contains(n)).map(|n| n.to_string().into()),
            Kind::Commit => {
                let lower = value.to_ascii_lowercase();
                let levels = ["local", "remote_write", "remote_apply", "on", "off"];
                levels.into_iter().find(|level| *level == lower).map(Into::into)
            }
            Kind::Isolation => {
                let lower = value.to_ascii_lowercase();
                let levels = ["serializable", "repeatable read", "read committed", "read uncommitted"];
                levels.into_iter().find(|level| *level == lower).map(Into::into)
            }
            Kind::Role => ["none", "deputy"].into_iter().find(|role| *role == value).map(Into::into),
            Kind::SearchConfig => {
                let path = self.get("search_path").map(|path| identifiers(path)).unwrap_or_default();
                match value {
                    "simple" | "pg_catalog.simple" => Some("pg_catalog.simple".into()),
                    "one.mine" => Some("one.mine".into()),
                    "mine" if path.iter().any(|schema| **schema == *"one") => Some("one.mine".into()),
                    _ => None,
                }
            }
            Kind::Internal => None,
        };
        if checked.is_none() && setting.kind == Kind::Role {
            return Err(Report::error("22023", format!("role \"{value}\" does not exist")));
        }
        if self.is_of_transaction(at)
            && let Some(value) = &checked
        {
            self.check_of_transaction(at, value)?;
        }
        checked.ok_or_else(invalid)
    }

    /// The time that a setting allows, unless it is 0.
    pub fn time(&self, name: &str) -> Option<Duration> {
        let millis = number(self.get(name)?, &TIME).and_then(|millis| u64::try_from(millis).ok());
        millis.filter(|millis| *millis > 0).map(Duration::from_millis)
    }

    /// The same, unless a transaction may take no longer, which then counts alone.
    pub fn time_within_transaction(&self, name: &str) -> Option<Duration> {
        let limit = self.time("transaction_timeout");
        self.time(name).filter(|allowed| limit.is_none_or(|limit| *allowed < limit))
    }

    /// The encoding of the client's texts.
    pub fn encoding(&self) -> Encoding {
        let is_latin = self.get("client_encoding").is_some_and(|value| &**value == "LATIN1");
        if is_latin { Encoding::Latin1 } else { Encoding::Utf8 }
    }

    /// Whether backslashes in ordinary string constants are escapes.
    pub fn escapes(&self) -> bool {
        self.get("standard_conforming_strings").is_some_and(|value| &**value == "off")
    }
}

/// `push_old_value`.
fn remember(setting: &mut Setting, nest: usize, action: Action) {
    if nest == 0 {
        return;
    }
    let value = setting.held.clone();
    if let Some(level) = setting.stack.last_mut().filter(|level| level.nest >= nest) {
        match (action, &level.state) {
            (Action::Set, _) => level.state = Remembered::Set,
            (Action::Local, Remembered::Set) => level.state = Remembered::SetLocal(value),
            (Action::Local, _) => {}
        }
        return;
    }
    let state = if action == Action::Set { Remembered::Set } else { Remembered::Local };
    setting.stack.push(Level { nest, state, prior: value });
}

/// Ends level `nest` for one setting; says whether its value changed.
fn end(setting: &mut Setting, nest: usize, commit: bool) -> bool {
    let mut changed = false;
    while let Some(top) = setting.stack.last_mut().filter(|level| level.nest >= nest) {
        if commit && top.nest > 1 {
            let level = top.clone();
            let merges = setting.stack.len() > 1 && setting.stack[setting.stack.len() - 2].nest == level.nest - 1;
            if !merges {
                if let Some(top) = setting.stack.last_mut() {
                    top.nest -= 1;
                }
                continue;
            }
            setting.stack.pop();
            if let Some(below) = setting.stack.last_mut() {
                match level.state {
                    Remembered::Set => below.state = Remembered::Set,
                    Remembered::Local => {
                        if matches!(below.state, Remembered::Set) {
                            below.state = Remembered::SetLocal(level.prior);
                        }
                    }
                    Remembered::SetLocal(masked) => below.state = Remembered::SetLocal(masked),
                }
            }
            continue;
        }
        let Some(level) = setting.stack.pop() else { break };
        let restored = match level.state {
            _ if !commit => Some(level.prior),
            Remembered::Set => None,
            Remembered::Local => Some(level.prior),
            Remembered::SetLocal(masked) => Some(masked),
        };
        if let Some(value) = restored {
            // Texts are compared by where they are, others by what they are.
            let same = match setting.kind {
                Kind::Bool | Kind::Internal | Kind::IntervalStyle | Kind::Commit | Kind::Isolation => {
                    setting.held.text == value.text
                }
                _ => Rc::ptr_eq(&setting.held.text, &value.text),
            };
            changed |= !same;
            setting.held = value;
        }
    }
    changed
}

/// Units, the largest first.
const TIME: [(&str, i64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)];
const MEMORY: [(&str, i64); 4] = [("TB", 1 << 30), ("GB", 1 << 20), ("MB", 1 << 10), ("kB", 1)];

fn number(value: &str, units: &[(&str, i64)]) -> Option<i64> {
    let value = value.trim();
    let digits = value.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let number: i64 = number.parse().ok()?;
    let unit = unit.trim();
    if unit.is_empty() {
        return Some(number);
    }
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| number * factor)
}

fn shown(number: i64, units: &[(&str, i64)]) -> Rc<str> {
    if number == 0 {
        return "0".into();
    }
    let unit = units.iter().find(|(_, factor)| number % factor == 0);
    unit.map_or_else(|| number.to_string(), |(name, factor)| format!("{}{name}", number / factor)).into()
}

fn encoding(value: &str) -> Option<&'static str> {
    let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
    match plain.to_ascii_lowercase().as_str() {
        "utf8" | "unicode" => Some("UTF8"),
        "latin1" | "iso88591" => Some("LATIN1"),
        "sqlascii" => Some("SQL_ASCII"),
        _ => None,
    }
}

/// `check_DateStyle`: what a value leaves out stays as it is in `current`.
fn date_style(current: &str, value: &str) -> Option<String> {
    let (mut style, mut order) = current.split_once(", ")?;
    let mut ordered = false;
    for word in value.split([',', ' ']).filter(|word| !word.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "iso" => style = "ISO",
            "sql" => style = "SQL",
            "postgres" => style = "Postgres",
            "german" => {
                style = "German";
                if !ordered {
                    order = "DMY";
                }
            }
            "ymd" => (order, ordered) = ("YMD", true),
            "dmy" | "euro" | "european" => (order, ordered) = ("DMY", true),
            "mdy" | "us" | "noneuro" => (order, ordered) = ("MDY", true),
            "default" => (style, order) = ("ISO", "MDY"),
            _ => return None,
        }
    }
    Some(format!("{style}, {order}"))
}

/// `quote_identifier`, without keywords.
fn quoted(name: &str) -> String {
    let plain = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if plain { name.to_owned() } else { format!("\"{name}\"") }
}

/// `SplitIdentifierString`.
pub fn identifiers(value: &str) -> Vec<Rc<str>> {
    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
    let name = |name: &str| match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => quoted.into(),
        None => name.to_ascii_lowercase().into(),
    };
    names.map(name).collect()
}
