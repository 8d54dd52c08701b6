//! What the code in a database may leave in the sessions that run it, and which connections that concerns.
//!
//! A database's catalog tells which functions, views, triggers and the like it has. As long as none of them can leave anything, a
//! session holds nothing but what its clients' statements have said.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::plan_settings::FunctionPlans;
use super::statement_ids::StatementIds;
use crate::lock::lock;

/// Time for which an answer of the catalog is valid.
pub(crate) const VALID: Duration = Duration::from_secs(10);

/// Interval at which the catalog is asked.
pub(crate) const INTERVAL: Duration = Duration::from_secs(4);

/// After how long without an answer even a connection that clients wait for is used to ask.
const OVERDUE: Duration = Duration::from_secs(7);

/// Shortest rest between two looks: definitions may change one after another.
const LEAST_REST: Duration = Duration::from_millis(300);

/// Rest behind a look that has failed.
const FAILED_REST: Duration = Duration::from_secs(30);

/// Extent of what code may leave in a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nothing.
    #[default]
    Nothing,
    /// Last values of its sequences.
    Sequences,
    /// There is no telling what.
    Anything,
}

/// Result of reading a catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// A digest of the definitions, which changes as they do.
    pub digest: Vec<u8>,
    /// State that they may leave.
    pub reach: Reach,
    /// Some of those that do, and why: those that leave most.
    pub culprits: Vec<String>,
    /// Functions that keep plans.
    pub plans: FunctionPlans,
}

/// Outcome of a look at a catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The digest of the definitions is what it was.
    Same,
    /// Definitions were read.
    Found(Finding),
    /// Definitions could not be read: the cause.
    Failed(String),
}

/// Results of a look that have not been logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// State that code may leave, and some of the code that does.
    Found(Reach, Vec<String>),
    /// The catalog could not be read: why.
    Failed(String),
}

/// A look at a catalog that is under way: as long as there is one, no other is taken.
#[derive(Debug)]
pub struct Inquiry {
    code: Arc<SessionCode>,
    version: u64,
    at: Instant,
    /// The digest of what is known.
    pub known: Option<Vec<u8>>,
}

impl Inquiry {
    /// The code that it is about.
    #[must_use]
    pub fn code(&self) -> &SessionCode {
        &self.code
    }

    /// Notes at `now` what it has shown, unless definitions have changed since it began. Returns what is to be told of it.
    pub fn ends(self, answer: Answer, now: Instant) -> Option<News> {
        let mut state = lock(&self.code.state);
        state.looks = Looks::Ended { at: now, took: now.saturating_duration_since(self.at) };
        state.learn(&self, answer)
    }
}

impl Drop for Inquiry {
    fn drop(&mut self) {
        let mut state = lock(&self.code.state);
        if state.looks == Looks::UnderWay {
            // Its connection has ended.
            state.looks = Looks::Ended { at: self.at, took: Duration::ZERO };
        }
    }
}

/// Looks at a catalog so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Looks {
    /// None that counts.
    #[default]
    None,
    UnderWay,
    /// The last one ended then, and took so long.
    Ended {
        at: Instant,
        took: Duration,
    },
}

/// Reasons for a look at a catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing is known.
    Unknown,
    /// The last one is some time past.
    Past,
    /// The last result is about to expire.
    Overdue,
}

/// Knowledge of the code in one database of one server.
#[derive(Debug, Default)]
pub struct SessionCode {
    state: Mutex<State>,
    /// Numbers of statements, which count changes of definitions.
    statements: Arc<StatementIds>,
}

#[derive(Debug, Default)]
struct State {
    /// Changes whenever definitions may have changed.
    version: u64,
    /// Number of connections on which definitions are being changed.
    changing: usize,
    found: Option<Finding>,
    /// Time at which the look began that has shown it.
    seen: Option<Instant>,
    looks: Looks,
    /// Reason why nothing is known.
    failure: Option<String>,
    /// Result that was logged last.
    told: Option<News>,
    /// Number of changes of the definitions that statements refer to, as it was seen last.
    definitions: Option<Vec<u8>>,
}

impl State {
    fn outdate(&mut self) {
        self.version += 1;
        self.found = None;
    }

    /// Returns the age of what is known: the time since that look began.
    fn age(&self, now: Instant) -> Option<Duration> {
        let seen = self.found.as_ref().and(self.seen)?;
        Some(now.saturating_duration_since(seen))
    }

    fn is_due(&self, due: Due, now: Instant) -> bool {
        let interval = match due {
            Due::Unknown => VALID,
            Due::Past => INTERVAL,
            Due::Overdue => OVERDUE,
        };
        self.changing == 0 && self.age(now).is_none_or(|age| age >= interval) && self.has_rested(now)
    }

    /// Returns whether the last look is so long past that the server rests from them at least half of the time.
    fn has_rested(&self, now: Instant) -> bool {
        let least = if self.failure.is_some() { FAILED_REST } else { LEAST_REST };
        match self.looks {
            Looks::None => true,
            Looks::UnderWay => false,
            Looks::Ended { at, took } => now.saturating_duration_since(at) >= least.max(took),
        }
    }

    fn learn(&mut self, inquiry: &Inquiry, answer: Answer) -> Option<News> {
        if self.version != inquiry.version || self.changing > 0 {
            return None;
        }
        let news = match answer {
            Answer::Same => {
                self.seen = Some(inquiry.at);
                return None;
            }
            Answer::Found(found) => {
                if self.found.as_ref().is_none_or(|before| before.digest != found.digest) {
                    self.version += 1;
                }
                let news = News::Found(found.reach, found.culprits.clone());
                self.failure = None;
                self.seen = Some(inquiry.at);
                self.found = Some(found);
                news
            }
            Answer::Failed(why) => {
                self.outdate();
                self.failure = Some(why.clone());
                News::Failed(why)
            }
        };
        let is_news = self.told.as_ref() != Some(&news);
        is_news.then(|| {
            self.told = Some(news.clone());
            news
        })
    }

    /// The version of what is known, if that can't leave just anything.
    fn harmless(&self) -> Option<(u64, Reach)> {
        let reach = self.found.as_ref().filter(|_| self.changing == 0)?.reach;
        (reach < Reach::Anything).then_some((self.version, reach))
    }
}

impl SessionCode {
    /// Creates that of a database of which nothing is known; statements have their numbers from `statements`.
    #[must_use]
    pub fn new(statements: Arc<StatementIds>) -> Self {
        Self { statements, ..Self::default() }
    }

    /// Notes the number of changes of the definitions that statements refer to, as a look has shown it.
    pub fn on_definitions(&self, changes: &[u8]) {
        let mut state = lock(&self.state);
        let before = state.definitions.replace(changes.to_vec());
        if before.is_some_and(|before| before != changes) {
            self.statements.definitions_changed();
        }
    }

    /// Notes that the meaning of names may have changed ([`StatementIds::definitions_changed`]).
    pub(super) fn definitions_changed(&self) {
        self.statements.definitions_changed();
    }

    /// The database may be another one of the same name: what is known counts again once its digest is found to be the same. A look
    /// that has failed is not repeated for that: it may be what has ended the connection.
    pub fn is_doubtful(&self) {
        let mut state = lock(&self.state);
        state.seen = None;
        if state.failure.is_none() && state.looks != Looks::UnderWay {
            state.looks = Looks::None;
        }
    }

    /// Returns whether a look is due though no connection rests: one has been taken before, long ago.
    #[must_use]
    pub fn is_overdue(&self, now: Instant) -> bool {
        let state = lock(&self.state);
        state.looks != Looks::None && state.is_due(Due::Overdue, now)
    }

    /// Says whether the caller is to look at the catalog because of `due`; then no other is until that has ended.
    pub fn claim(self: &Arc<Self>, due: Due, now: Instant) -> Option<Inquiry> {
        let mut state = lock(&self.state);
        if !state.is_due(due, now) {
            return None;
        }
        state.looks = Looks::UnderWay;
        let known = state.found.as_ref().map(|found| found.digest.clone());
        Some(Inquiry { code: Arc::clone(self), version: state.version, at: now, known })
    }

    /// Definitions are being changed, until what this gives is dropped. Then they are to be looked at again.
    #[must_use]
    pub fn changing(self: &Arc<Self>) -> CodeChange {
        let mut state = lock(&self.state);
        state.changing += 1;
        state.outdate();
        CodeChange(Arc::clone(self))
    }

    /// Returns the last result, or the cause why there is none.
    ///
    /// # Errors
    /// The reason, where the catalog was looked at.
    pub fn found(&self) -> Result<Finding, Option<String>> {
        let state = lock(&self.state);
        state.found.clone().ok_or_else(|| state.failure.clone())
    }
}

/// A change of definitions that is not over: until it is, no answer of the catalog counts.
#[derive(Debug)]
pub struct CodeChange(Arc<SessionCode>);

impl Drop for CodeChange {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.changing -= 1;
        state.outdate();
        // The client of the statement may be gone, and nothing else has told.
        self.0.statements.definitions_changed();
    }
}

/// State that code may have left in one connection's session.
#[derive(Debug, Default)]
pub struct CodeExposure {
    code: Arc<SessionCode>,
    /// The version of what was known when the session was as new, if that could not leave just anything.
    as_new_in: Option<u64>,
    definitions: OwnDefinitions,
}

/// Definitions that statements of the session's own have changed since it was as new: it may have run what others never saw.
#[derive(Debug, Default)]
enum OwnDefinitions {
    #[default]
    Unchanged,
    /// In a transaction that is not over.
    Changing {
        _until: CodeChange,
    },
    Changed,
}

impl CodeExposure {
    /// Creates that of a session that has just begun, in a database with this code.
    #[must_use]
    pub fn new(code: Arc<SessionCode>) -> Self {
        let mut exposure = Self { code, ..Self::default() };
        exposure.is_as_new();
        exposure
    }

    /// The code of its database.
    #[must_use]
    pub fn code(&self) -> &Arc<SessionCode> {
        &self.code
    }

    /// The session is as new.
    pub fn is_as_new(&mut self) {
        self.definitions = OwnDefinitions::Unchanged;
        self.as_new_in = lock(&self.code.state).harmless().map(|(version, _)| version);
    }

    /// Returns what code may have left in it by `now`. Code that was not known all the time since it was as new may leave anything.
    #[must_use]
    pub fn reach(&self, now: Instant) -> Reach {
        if !matches!(self.definitions, OwnDefinitions::Unchanged) {
            return Reach::Anything;
        }
        let state = lock(&self.code.state);
        if state.age(now).is_none_or(|age| age >= VALID) {
            return Reach::Anything;
        }
        match state.harmless() {
            Some((version, reach)) if self.as_new_in == Some(version) => reach,
            _ => Reach::Anything,
        }
    }

    /// Returns whether code has left nothing at all in it, as far as is known. How old that knowledge is makes no difference to what
    /// the session's own client is told of it.
    #[must_use]
    pub fn left_nothing(&self) -> bool {
        let harmless = lock(&self.code.state).harmless();
        let is_unchanged = matches!(self.definitions, OwnDefinitions::Unchanged);
        is_unchanged
            && harmless.is_some_and(|(version, reach)| reach == Reach::Nothing && self.as_new_in == Some(version))
    }

    /// Returns whether code has left no more in it than what sequences have given, as far as is known.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        let harmless = lock(&self.code.state).harmless();
        let is_unchanged = matches!(self.definitions, OwnDefinitions::Unchanged);
        is_unchanged && harmless.is_some_and(|(version, _)| self.as_new_in == Some(version))
    }

    /// Returns whether functions keep plans in it, as far as is known.
    #[must_use]
    pub fn plans(&self) -> FunctionPlans {
        let is_unchanged = matches!(self.definitions, OwnDefinitions::Unchanged);
        let state = lock(&self.code.state);
        let found = state.found.as_ref().filter(|_| is_unchanged && self.as_new_in == Some(state.version));
        found.map_or(FunctionPlans::Kept, |found| found.plans)
    }

    /// A statement of the session's own changes definitions, or has just done so.
    pub fn defines(&mut self) {
        if !matches!(self.definitions, OwnDefinitions::Changing { .. }) {
            self.definitions = OwnDefinitions::Changing { _until: self.code.changing() };
        }
    }

    /// No transaction is open, and nothing is owed.
    pub fn is_settled(&mut self) {
        if matches!(self.definitions, OwnDefinitions::Changing { .. }) {
            self.definitions = OwnDefinitions::Changed;
        }
    }
}

/// Returns whether a command with this tag (`CommandComplete`) may have brought code into the database, or have changed what is
/// there.
#[must_use]
pub(crate) fn defines_code(tag: &[u8]) -> bool {
    const HARMLESS: [&[u8]; 11] = [
        b"CREATE INDEX",
        b"CREATE DATABASE",
        b"CREATE ROLE",
        b"CREATE SEQUENCE",
        b"CREATE TABLESPACE",
        b"ALTER DATABASE",
        b"ALTER DEFAULT PRIVILEGES",
        b"ALTER INDEX",
        b"ALTER ROLE",
        b"ALTER SEQUENCE",
        b"ALTER SYSTEM",
    ];
    let begins = |words: &[&[u8]]| words.iter().any(|word| tag.starts_with(word));
    tag == b"DO" || (begins(&[b"CREATE ", b"ALTER ", b"IMPORT ", b"COMMIT PREPARED"]) && !HARMLESS.contains(&tag))
}

/// Returns whether this is the name of a catalog that holds code, or says where it runs: a superuser may write there.
#[must_use]
pub(crate) fn holds_code(name: &[u8]) -> bool {
    const CATALOGS: [&[u8]; 10] = [
        b"pg_proc",
        b"pg_rewrite",
        b"pg_trigger",
        b"pg_policy",
        b"pg_attrdef",
        b"pg_constraint",
        b"pg_operator",
        b"pg_cast",
        b"pg_aggregate",
        b"pg_index",
    ];
    CATALOGS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(digest: &str, reach: Reach) -> Answer {
        Answer::Found(Finding { digest: digest.into(), reach, ..Finding::default() })
    }

    fn look(code: &Arc<SessionCode>, now: Instant, answer: Answer) {
        let inquiry = code.claim(Due::Past, now).expect("it is due");
        inquiry.ends(answer, now);
    }

    #[test]
    fn what_is_not_known_may_leave_anything() {
        let (code, now) = (Arc::new(SessionCode::default()), Instant::now());
        let at = |secs| now + Duration::from_secs(secs);
        let mut session = CodeExposure::new(Arc::clone(&code));
        assert_eq!(session.reach(now), Reach::Anything);
        look(&code, now, found("a", Reach::Nothing));
        assert_eq!(session.reach(now), Reach::Anything, "it began before that was known");
        session.is_as_new();
        assert_eq!(session.reach(at(9)), Reach::Nothing);
        assert_eq!(session.reach(at(10)), Reach::Anything, "that was long ago");
        look(&code, at(11), Answer::Same);
        assert_eq!(session.reach(at(11)), Reach::Nothing, "it was so all the time");
        look(&code, at(16), found("b", Reach::Nothing));
        assert_eq!(session.reach(at(16)), Reach::Anything, "there may have been something in between");
        session.is_as_new();
        assert_eq!(session.reach(at(16)), Reach::Nothing);
        look(&code, at(21), found("c", Reach::Sequences));
        session.is_as_new();
        assert_eq!(session.reach(at(21)), Reach::Sequences);
        look(&code, at(26), found("d", Reach::Anything));
        session.is_as_new();
        assert_eq!(session.reach(at(26)), Reach::Anything);
        look(&code, at(31), Answer::Failed("no".into()));
        assert_eq!((session.reach(at(31)), code.found()), (Reach::Anything, Err(Some("no".into()))));
        assert!(code.claim(Due::Unknown, at(60)).is_none() && code.claim(Due::Unknown, at(61)).is_some());
    }

    #[test]
    fn what_a_client_defines_counts_at_once() {
        let (code, now) = (Arc::new(SessionCode::default()), Instant::now());
        let at = |secs| now + Duration::from_secs(secs);
        look(&code, now, found("a", Reach::Nothing));
        let [mut own, other] = [(); 2].map(|()| CodeExposure::new(Arc::clone(&code)));
        let before = code.claim(Due::Past, at(4)).expect("it is due");
        own.defines();
        assert_eq!((own.reach(at(4)), other.reach(at(4))), (Reach::Anything, Reach::Anything));
        assert!(code.claim(Due::Unknown, at(5)).is_none(), "it is not over");
        before.ends(Answer::Same, at(5));
        own.is_settled();
        assert_eq!(other.reach(at(5)), Reach::Anything, "that look began before");
        look(&code, at(6), found("b", Reach::Nothing));
        assert_eq!((own.reach(at(6)), other.reach(at(6))), (Reach::Anything, Reach::Anything));
        let mut own = own;
        own.is_as_new();
        assert_eq!(own.reach(at(6)), Reach::Nothing);
        own.defines();
        drop(own);
        assert!(code.claim(Due::Unknown, at(7)).is_some(), "its connection has ended");
    }

    #[test]
    fn looks_are_taken_in_turn() {
        let (code, now) = (Arc::new(SessionCode::default()), Instant::now());
        let at = |millis| now + Duration::from_millis(millis);
        assert!(!code.is_overdue(now), "none has been taken");
        drop(code.claim(Due::Overdue, now).expect("it is due"));
        assert!(code.claim(Due::Unknown, at(299)).is_none());
        look(&code, at(300), found("a", Reach::Nothing));
        assert!(code.claim(Due::Past, at(4299)).is_none() && code.claim(Due::Unknown, at(4400)).is_none());
        assert!(code.claim(Due::Overdue, at(7299)).is_none() && code.claim(Due::Overdue, at(7300)).is_some());
    }

    #[test]
    fn slow_looks_take_half_of_the_time_of_one_server_process() {
        let (code, now) = (Arc::new(SessionCode::default()), Instant::now());
        let at = |secs| now + Duration::from_secs(secs);
        let slow = code.claim(Due::Unknown, now).expect("it is due");
        code.is_doubtful();
        drop(code.changing());
        assert!(code.claim(Due::Unknown, at(2)).is_none(), "one is under way");
        slow.ends(found("a", Reach::Nothing), at(3));
        assert!(code.found().is_err(), "definitions have changed meanwhile");
        assert!(code.claim(Due::Unknown, at(5)).is_none());
        let other = code.claim(Due::Unknown, at(6)).expect("it is due");
        other.ends(Answer::Failed("no".into()), at(46));
        assert!(code.claim(Due::Unknown, at(85)).is_none() && code.claim(Due::Unknown, at(86)).is_some());
    }

    #[test]
    fn a_database_without_connections_is_looked_at_anew_unless_that_has_failed() {
        let (code, now) = (Arc::new(SessionCode::default()), Instant::now());
        look(&code, now, found("a", Reach::Nothing));
        code.is_doubtful();
        look(&code, now, Answer::Failed("it ends the connection".into()));
        code.is_doubtful();
        assert!(code.claim(Due::Unknown, now + Duration::from_secs(29)).is_none());
    }

    #[test]
    fn tags_tell_of_code() {
        for tag in ["CREATE FUNCTION", "ALTER TABLE", "DO", "CREATE EXTENSION", "CREATE TABLE", "COMMIT PREPARED"] {
            assert!(defines_code(tag.as_bytes()), "{tag}");
        }
        for tag in ["SELECT 1", "CREATE INDEX", "COMMIT", "DROP FUNCTION", "ALTER ROLE", "INSERT 0 1"] {
            assert!(!defines_code(tag.as_bytes()), "{tag}");
        }
    }
}
