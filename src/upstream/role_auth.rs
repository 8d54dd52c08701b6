//! What is known of one (database, user): does the upstream ask for a password, and which one does it take?

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::dial::{DialError, Secret};
use super::lane::Lane;
use super::queue::pause_while_full;
use crate::auth::{Credential, Password, ProcessKey, Source, Verified};
use crate::config::Settings;
use crate::error::ClientError;
use crate::lock::lock;

/// The first and the longest pause between attempts while the upstream is down.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

/// Time for which it is remembered that the upstream could not be asked.
const TROUBLED: Duration = Duration::from_secs(60);

/// Requirement of the upstream for this user's logins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AuthRequirement {
    /// No login has been tried.
    #[default]
    Unknown,
    /// It asks for no password.
    Open,
    /// It asks for a password.
    Asks,
}

/// Knowledge of one (database, user)'s login.
#[derive(Debug)]
pub(crate) struct RoleAuth {
    memory: Mutex<CachedAuth>,
    /// Succession, if it has ended.
    succession: OnceLock<Succession>,
    /// The attempts of each source that wait for their turn, or have it.
    lanes: Mutex<HashMap<Source, Arc<Lane>>>,
    /// One attempt at a time, so that a herd of first clients costs one connection.
    turn: tokio::sync::Mutex<()>,
}

/// Difference between the password that a user has logged in with and the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PasswordChange {
    /// It is the same, or the first one.
    Unchanged,
    /// It is another one.
    Changed,
}

impl PasswordChange {
    fn of(is_another: bool) -> Self {
        if is_another { Self::Changed } else { Self::Unchanged }
    }
}

/// Successors of a `RoleAuth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Succession {
    /// The same role, with another password: its clients go on with new connections.
    SameRole,
    /// Another role of the same name: connections and clients of the former one are no longer its.
    AnotherRole,
}

/// Freshness of what is known of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// It can be relied on.
    Fresh,
    /// It can be relied on once more, while the upstream is asked again.
    Due,
    /// The upstream is to be asked first.
    Stale,
}

#[derive(Clone, Debug)]
struct CachedAuth {
    requirement: AuthRequirement,
    /// Time at which the upstream last let the user in.
    proved: Option<Instant>,
    /// Time at which that was last tried again in the background.
    rechecked: Option<Instant>,
    verified: Verified<ClientError>,
    /// The upstream credential of clients that log in by another method than pass-through.
    learned: Option<Credential>,
    /// Credential that was right under former settings: good enough to try, not to accept a client by.
    presumed: Option<Credential>,
    trouble: Option<RecentFailure>,
    /// Reason for which the upstream lets the user in no more, in its own words: all that would let the user in is forgotten since.
    denial: Option<ClientError>,
}

/// An attempt that failed because the upstream is down or full.
#[derive(Clone, Debug)]
struct RecentFailure {
    until: Instant,
    pause: Duration,
    client_error: ClientError,
}

impl CachedAuth {
    /// Returns whether nothing is known. A question for a password is no knowledge: servers ask it for unknown names as well.
    fn is_blank(&self) -> bool {
        self.requirement != AuthRequirement::Open && self.verified.password().is_none() && self.learned.is_none()
    }
}

impl Default for RoleAuth {
    fn default() -> Self {
        let memory = CachedAuth {
            requirement: AuthRequirement::Unknown,
            proved: None,
            rechecked: None,
            verified: Verified::default(),
            learned: None,
            presumed: None,
            trouble: None,
            denial: None,
        };
        Self {
            memory: Mutex::new(memory),
            succession: OnceLock::new(),
            lanes: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        }
    }
}

impl RoleAuth {
    /// Returns the known requirement of the upstream.
    #[must_use]
    pub(crate) fn requirement(&self) -> AuthRequirement {
        self.memory().requirement
    }

    /// Returns how fresh the knowledge is at `now` that the upstream lets the user in; fresh where it never has, so that there is none.
    #[must_use]
    pub(crate) fn freshness(&self, recheck: Duration, now: Instant) -> Freshness {
        match self.memory().proved.map(|at| now.saturating_duration_since(at)) {
            Some(age) if age >= recheck * 2 => Freshness::Stale,
            Some(age) if age >= recheck => Freshness::Due,
            _ => Freshness::Fresh,
        }
    }

    /// Returns whether the caller is to try again in the background whether the upstream lets the user in: one does within
    /// `recheck`.
    #[must_use]
    pub(crate) fn claim_recheck(&self, recheck: Duration) -> bool {
        let mut memory = self.memory();
        let due = memory.rechecked.is_none_or(|at| at.elapsed() >= recheck);
        if due {
            memory.rechecked = Some(Instant::now());
        }
        due
    }

    /// The upstream has let the user in.
    pub(crate) fn note_success(&self) {
        self.memory().proved = Some(Instant::now());
    }

    /// Returns its successor, if it is out of date.
    #[must_use]
    pub(crate) fn succession(&self) -> Option<Succession> {
        self.succession.get().copied()
    }

    /// A `RoleAuth` that is to follow this one, with all that it knows.
    pub(super) fn next(&self) -> Self {
        Self { memory: Mutex::new(self.memory().clone()), ..Self::default() }
    }

    /// It is followed by another one.
    pub(super) fn end(&self, succession: Succession) {
        // What came first holds.
        let _ = self.succession.set(succession);
        if succession == Succession::AnotherRole {
            self.forget();
        }
    }

    /// Notes that the upstream lets the user in no more.
    pub(super) fn deny(&self, key: &ProcessKey, error: &DialError) {
        self.refused(key, error);
        self.forget();
        self.memory().denial = Some(error.client_error());
    }

    /// The reason why a pool's connection could not be opened. One without a password, since the login that had one was denied, tells why
    /// that was.
    pub(super) fn reason(&self, error: DialError) -> DialError {
        match (error, &self.memory().denial) {
            (DialError::NoPassword, Some(denial)) => DialError::Refused(denial.clone(), None),
            (error, _) => error,
        }
    }

    /// Returns whether an attempt that failed with `error` shows that the upstream lets the user in no more: it was not a wrong password.
    pub(super) fn is_denied(&self, key: &ProcessKey, error: &DialError) -> bool {
        error.denies_login()
            && match error {
                DialError::Refused(_, Some(Credential::Password(password))) => self.matches(key, password),
                _ => true,
            }
    }

    /// Forgets all that would let the user in.
    fn forget(&self) {
        let mut memory = self.memory();
        let refusals = std::mem::take(&mut memory.verified).without_password();
        *memory = CachedAuth { verified: refusals, ..Self::default().into_memory() };
    }

    fn into_memory(self) -> CachedAuth {
        self.memory.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the upstream is known to take `password`.
    #[must_use]
    pub(crate) fn matches(&self, key: &ProcessKey, password: &Password) -> bool {
        self.memory().verified.matches(key, password)
    }

    /// Returns the source of the password for a pool's own connections.
    #[must_use]
    pub(crate) fn secret(&self, settings: &Settings) -> Secret {
        let memory = self.memory();
        let verified = || memory.verified.password().cloned().map(Credential::Password);
        let presumed = || memory.presumed.clone();
        // The upstream has taken it from a client, also where others log in by another method and a password is configured for these.
        if let Some(own) = verified() {
            return Secret::Known(own);
        }
        if settings.is_pass_through() {
            return presumed().map_or(Secret::None, Secret::Known);
        }
        Secret::Fixed(memory.learned.clone().or_else(presumed))
    }

    /// Takes over what was right under settings that are no longer in force, to log in upstream with.
    pub(crate) fn presume(&self, before: &Self) {
        let known = before.known();
        self.memory().presumed = known;
    }

    fn known(&self) -> Option<Credential> {
        let memory = self.memory();
        let verified = memory.verified.password().cloned().map(Credential::Password);
        memory.learned.clone().or(verified).or_else(|| memory.presumed.clone())
    }

    /// Notes the upstream credential of a client that has logged in here.
    pub(crate) fn learn(&self, credential: Credential) -> PasswordChange {
        let mut memory = self.memory();
        let is_another = memory.learned.as_ref().is_some_and(|before| *before != credential);
        memory.learned = Some(credential);
        PasswordChange::of(is_another)
    }

    /// Notes that a pool's connection could not be opened: a refused password is forgotten.
    pub(crate) fn note_failure(&self, key: &ProcessKey, error: &DialError) {
        if !error.is_credential() {
            return;
        }
        let mut memory = self.memory();
        match error {
            DialError::Refused(client_error, Some(Credential::Password(password))) => {
                memory.verified.refuse(key, password, client_error.clone(), Instant::now());
            }
            _ => memory.requirement = AuthRequirement::Unknown,
        }
    }

    /// Returns the lane in which the attempts of `source` wait for each other, so that only one of them waits for its turn.
    #[must_use]
    pub(crate) fn lane(&self, source: Source) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        Arc::clone(lanes.entry(source).or_default())
    }

    /// Waits for a turn to try a password (or its absence) upstream. A task that has waited checks first whether another
    /// has found out meanwhile.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Reason why the upstream could not be asked lately, and when it may be asked again, if that is not over `now`.
    #[must_use]
    pub(crate) fn trouble(&self, now: Instant) -> Option<(Instant, ClientError)> {
        let memory = self.memory();
        memory
            .trouble
            .as_ref()
            .filter(|trouble| trouble.until > now)
            .map(|trouble| (trouble.until, trouble.client_error.clone()))
    }

    /// Reason why the upstream could not be asked when that was last tried, if it has not been since, and that was not long before `now`.
    #[must_use]
    pub(crate) fn last_trouble(&self, now: Instant) -> Option<ClientError> {
        let memory = self.memory();
        let recent = memory.trouble.as_ref().filter(|trouble| now.saturating_duration_since(trouble.until) < TROUBLED);
        recent.map(|trouble| trouble.client_error.clone())
    }

    /// Notes that the upstream could not be asked, which may pass.
    pub(crate) fn note_trouble(&self, error: &DialError) {
        let mut memory = self.memory();
        let pause = if error.is_full() {
            pause_while_full()
        } else {
            memory.trouble.as_ref().map_or(PAUSES.0, |before| (before.pause * 2).min(PAUSES.1))
        };
        memory.trouble =
            Some(RecentFailure { until: Instant::now() + pause, pause, client_error: error.client_error() });
    }

    /// Notes that the upstream has asked for a password.
    pub(crate) fn asks(&self) {
        self.memory().requirement = AuthRequirement::Asks;
    }

    /// Returns the upstream's latest answer to `password`, if it refused it.
    #[must_use]
    pub(crate) fn refusal(&self, key: &ProcessKey, password: &Password) -> Option<ClientError> {
        self.memory().verified.refusal(key, password, Instant::now())
    }

    /// Forgets which passwords the upstream has refused.
    pub(super) fn forget_refusals(&self) {
        self.memory().verified.forget_refusals();
    }

    /// The upstream has let the user in with `credential`.
    pub(super) fn accepted(&self, key: &ProcessKey, credential: Option<Credential>) -> PasswordChange {
        let mut memory = self.memory();
        memory.trouble = None;
        memory.denial = None;
        memory.proved = Some(Instant::now());
        let before = memory.verified.password().cloned();
        let is_another = match (&before, &credential) {
            (Some(before), Some(Credential::Password(now))) => !before.is(now),
            _ => false,
        };
        match credential {
            Some(Credential::Md5(_) | Credential::Key(..)) => memory.requirement = AuthRequirement::Asks,
            Some(Credential::Password(password)) => {
                memory.requirement = AuthRequirement::Asks;
                memory.verified.accept(key, password);
            }
            None => memory.requirement = AuthRequirement::Open,
        }
        PasswordChange::of(is_another)
    }

    pub(super) fn refused(&self, key: &ProcessKey, error: &DialError) {
        if let DialError::Refused(client_error, Some(Credential::Password(password))) = error {
            let mut memory = self.memory();
            if !error.may_pass() {
                memory.trouble = None;
            }
            memory.requirement = AuthRequirement::Asks;
            if error.is_credential() {
                memory.verified.refuse(key, password, client_error.clone(), Instant::now());
            }
        }
    }

    /// Returns whether nothing is known that would be missed.
    #[must_use]
    pub(crate) fn is_blank(&self) -> bool {
        self.memory().is_blank()
    }

    fn memory(&self) -> MutexGuard<'_, CachedAuth> {
        lock(&self.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_auth_is_blank_until_something_is_known() {
        let role_auth = RoleAuth::default();
        assert!(role_auth.is_blank());
        role_auth.asks();
        assert!(role_auth.is_blank(), "servers ask every client");
        role_auth.learn(Credential::Password(Password::new(b"x".to_vec())));
        assert!(!role_auth.is_blank());
    }
}
