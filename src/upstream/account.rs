//! What is known of one (database, user): does the upstream ask for a password, and which one does it take?

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::dial::{self, DialError, Login, Secret};
use super::login_slots::LoginSlot;
use super::pool::Pool;
use super::registry::Registry;
use crate::auth::{Credential, Password, Verified};
use crate::config::Settings;
use crate::error::Fault;
use crate::track::Wanted;

/// The first and the longest pause between attempts while the upstream is down or full.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

/// What the upstream is known to do when this user comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Knowledge {
    /// Nobody has tried.
    #[default]
    Unknown,
    /// It asks for no password.
    Open,
    /// It asks for a password.
    Asks,
}

/// What is known of one (database, user).
#[derive(Debug)]
pub struct Account {
    memory: Mutex<Memory>,
    /// One attempt at a time, so that a herd of first clients costs one connection.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Memory {
    knowledge: Knowledge,
    verified: Verified<Fault>,
    /// What somebody who logged in by another method than pass-through can log in upstream with.
    learned: Option<Credential>,
    /// What was right under settings that are no longer in force: good enough to try, not to let anybody in.
    presumed: Option<Credential>,
    trouble: Option<Trouble>,
}

/// An attempt that failed because the upstream is down or full.
#[derive(Debug)]
struct Trouble {
    until: Instant,
    pause: Duration,
    fault: Fault,
}

impl Memory {
    /// That a name is asked for a password says nothing: servers ask also for names that they do not know.
    fn is_blank(&self) -> bool {
        self.knowledge != Knowledge::Open && self.verified.password().is_none() && self.learned.is_none()
    }
}

impl Default for Account {
    fn default() -> Self {
        let memory = Memory {
            knowledge: Knowledge::Unknown,
            verified: Verified::default(),
            learned: None,
            presumed: None,
            trouble: None,
        };
        Self { memory: Mutex::new(memory), turn: tokio::sync::Mutex::new(()) }
    }
}

impl Account {
    /// What the upstream is known to do.
    #[must_use]
    pub fn knowledge(&self) -> Knowledge {
        self.memory().knowledge
    }

    /// Whether the upstream is known to take `password`.
    #[must_use]
    pub fn matches(&self, registry: &Registry, password: &Password) -> bool {
        self.memory().verified.matches(&registry.key, password)
    }

    /// Where a pool's own connections get the password from.
    #[must_use]
    pub fn secret(&self, settings: &Settings) -> Secret {
        let memory = self.memory();
        let verified = || memory.verified.password().cloned().map(Credential::Password);
        let presumed = || memory.presumed.clone();
        if settings.is_pass_through() {
            return verified().or_else(presumed).map_or(Secret::None, Secret::Known);
        }
        Secret::Fixed(memory.learned.clone().or_else(verified).or_else(presumed))
    }

    /// Takes over what was right under settings that are no longer in force, to log in upstream with.
    pub fn presume(&self, before: &Self) {
        let known = before.known();
        self.memory().presumed = known;
    }

    fn known(&self) -> Option<Credential> {
        let memory = self.memory();
        let verified = memory.verified.password().cloned().map(Credential::Password);
        memory.learned.clone().or(verified).or_else(|| memory.presumed.clone())
    }

    /// What somebody who has logged in here can log in upstream with.
    pub fn learn(&self, credential: Credential) {
        self.memory().learned = Some(credential);
    }

    /// Notes that a pool's connection could not be opened: a refused password is forgotten.
    pub fn note_failure(&self, registry: &Registry, error: &DialError) {
        if !error.is_credential() {
            return;
        }
        let mut memory = self.memory();
        match error {
            DialError::Refused(fault, Some(Credential::Password(password))) => {
                memory.verified.refuse(&registry.key, password, fault.clone(), Instant::now());
            }
            _ => memory.knowledge = Knowledge::Unknown,
        }
    }

    /// Waits for a turn to try a password (or its absence) upstream. Who has waited looks first whether somebody
    /// else has found out meanwhile.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Why the upstream could not be asked lately, and when it may be asked again, if that is not over `now`.
    #[must_use]
    pub fn trouble(&self, now: Instant) -> Option<(Instant, Fault)> {
        let memory = self.memory();
        memory
            .trouble
            .as_ref()
            .filter(|trouble| trouble.until > now)
            .map(|trouble| (trouble.until, trouble.fault.clone()))
    }

    /// Notes that the upstream could not be asked, which may pass.
    pub fn note_trouble(&self, error: &DialError) {
        let mut memory = self.memory();
        let pause = memory.trouble.as_ref().map_or(PAUSES.0, |before| (before.pause * 2).min(PAUSES.1));
        memory.trouble = Some(Trouble { until: Instant::now() + pause, pause, fault: error.fault() });
    }

    /// The upstream has asked somebody for a password.
    pub fn asks(&self) {
        self.memory().knowledge = Knowledge::Asks;
    }

    /// What the upstream lately answered to `password`, if it refused it.
    #[must_use]
    pub fn refusal(&self, registry: &Registry, password: &Password) -> Option<Fault> {
        self.memory().verified.refusal(&registry.key, password, Instant::now())
    }

    fn accepted(&self, registry: &Registry, credential: Option<Credential>) {
        let mut memory = self.memory();
        memory.trouble = None;
        match credential {
            Some(Credential::Md5(_) | Credential::Key(..)) => memory.knowledge = Knowledge::Asks,
            Some(Credential::Password(password)) => {
                memory.knowledge = Knowledge::Asks;
                memory.verified.accept(&registry.key, password);
            }
            None => memory.knowledge = Knowledge::Open,
        }
    }

    fn refused(&self, registry: &Registry, error: &DialError) {
        if let DialError::Refused(fault, Some(Credential::Password(password))) = error {
            let mut memory = self.memory();
            memory.knowledge = Knowledge::Asks;
            if error.is_credential() {
                memory.verified.refuse(&registry.key, password, fault.clone(), Instant::now());
            }
        }
    }

    /// Whether nothing is known that would be missed.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.memory().is_blank()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries to log in upstream as a client asks, in a task of its own that finishes even if the client goes away: what
/// it learns is kept, and the connection goes to the pool.
///
/// # Errors
/// As [`DialError`] lists.
pub fn attempt(
    pool: &Arc<Pool>,
    registry: &Arc<Registry>,
    secret: Secret,
    slot: LoginSlot,
) -> impl Future<Output = Result<(), DialError>> + use<> {
    let pool = Arc::clone(pool);
    let registry = Arc::clone(registry);
    let task = tokio::spawn(async move {
        let settings = registry.settings_of(&pool.key.database);
        let limit = match secret {
            // The client's thinking counts too.
            Secret::Ask(_) => settings.login_timeout + settings.connect_timeout,
            _ => settings.connect_timeout,
        };
        let params = pool.startup_params(&Wanted::default(), &settings);
        let route = registry.route(&pool.key.database);
        let login = Login { user: pool.key.user.clone(), params, secret, route };
        registry.counters.tried.add();
        match dial::dial(&settings, login, &registry, limit).await {
            Ok(dialled) => {
                pool.account.accepted(&registry, dialled.credential.clone());
                // The client need not wait for its slot; until it has one it counts as one that logs in.
                tokio::spawn(async move {
                    pool.adopt(dialled, &settings).await;
                    drop(slot);
                });
                Ok(())
            }
            Err(failed) => {
                let error = failed.error.clone();
                registry.counters.fail(&error.fault());
                pool.account.refused(&registry, &error);
                // The client need not wait for that; the connection still counts as one that logs in.
                let registry = Arc::clone(&registry);
                tokio::spawn(async move {
                    failed.close(&registry).await;
                    drop(slot);
                });
                Err(error)
            }
        }
    });
    async move { task.await.unwrap_or_else(|error| Err(DialError::Protocol(error.to_string()))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_blank_until_something_is_known() {
        let account = Account::default();
        assert!(account.is_blank());
        account.asks();
        assert!(account.is_blank(), "servers ask whoever comes");
        account.learn(Credential::Password(Password::new(b"x".to_vec())));
        assert!(!account.is_blank());
    }
}
