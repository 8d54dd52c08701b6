//! Pass-through: the upstream decides by the client's own password, which is then remembered.

use std::future::Future;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::{Entry, ask, timed_out};
use crate::auth::{Credential, Password};
use crate::error::Fault;
use crate::upstream::account::{Account, Freshness, Knowledge};
use crate::upstream::attempt::attempt as attempt_login;
use crate::upstream::login_slots::LoginSlot;
use crate::upstream::{Ask, DialError, Pool, Secret};

/// One client's login by pass-through.
pub(super) struct PassThrough<'a, 'b> {
    pub entry: &'b mut Entry<'a>,
    pub pool: &'b Arc<Pool>,
    /// The client was asked for a password, and gave one.
    pub password_given: bool,
}

impl PassThrough<'_, '_> {
    /// The upstream decides: by what it is known to do, or by trying. `false` when the client went away.
    pub async fn run(&mut self) -> Result<bool, Fault> {
        if self.knowledge(&self.pool.account) == Knowledge::Open {
            return Ok(true);
        }
        let pool = Arc::clone(self.pool);
        let _waiting = pool.logs_in();
        let outcome = Box::pin(self.decide()).await;
        outcome.map_err(|fault| {
            // Where the time is over in which the upstream could not be asked, that is told.
            let is_late = Instant::now() >= self.entry.deadline;
            let trouble = pool.account.last_trouble(std::time::Instant::now());
            trouble.filter(|_| is_late).unwrap_or(fault)
        })
    }

    /// Asks the client where the upstream asks, and tries upstream what is not known. Nothing of the upstream is held while the
    /// client thinks, or while others are waited for.
    async fn decide(&mut self) -> Result<bool, Fault> {
        let account = Arc::clone(&self.pool.account);
        let source = self.entry.source();
        let mut given: Option<Password> = None;
        loop {
            match (&given, self.knowledge(&account)) {
                (None, Knowledge::Open) => return Ok(true),
                (None, Knowledge::Asks) => {
                    let Some(password) = self.ask().await? else { return Ok(false) };
                    given = Some(password);
                }
                _ => {}
            }
            let registry = &self.entry.shared.registry;
            if let Some(password) = &given {
                if self.is_known(&account, password) {
                    return Ok(true);
                }
                if let Some(refusal) = account.refusal(registry, password) {
                    return self.entry.hold_back(&source, refusal).await;
                }
            }
            if let Err(fault) = self.upstream_up(&account).await {
                return if self.is_remembered(&account, given.as_ref()) { Ok(true) } else { Err(fault) };
            }
            let lane = account.lane(source.source());
            let Some(lane) = self.entry.unless_gone(lane.lock_owned()).await? else { return Ok(false) };
            let Some(turn) = self.entry.turn(&source).await? else { return Ok(false) };
            let attempt = self.in_time(account.turn()).await?;
            // The next of the same source may wait for this account.
            drop(lane);
            // Another client may have found out meanwhile, or met with trouble.
            if self.is_settled(&account, given.as_ref()) || account.trouble(std::time::Instant::now()).is_some() {
                continue;
            }
            let slot = self.in_time(self.entry.shared.registry.login_slots.take()).await?;
            // And for a slot.
            drop(turn);
            let outcome = match &given {
                None => self.first_contact(attempt, slot, &mut given).await?,
                Some(password) => {
                    let secret = Secret::Known(Credential::Password(password.clone()));
                    let outcome = attempt_login(self.pool, &self.entry.shared.registry, secret, slot).await;
                    drop(attempt);
                    Some(outcome)
                }
            };
            let Some(outcome) = outcome else {
                source.count();
                return Ok(false);
            };
            let Err(error) = outcome else { return Ok(true) };
            if error.is_clients() {
                source.count();
            }
            match error {
                DialError::ClientGone => return Ok(false),
                // The slot was another login's meanwhile; the answer is tried in its turn.
                DialError::Unanswered => {}
                // What is old is better than nothing.
                error if error.may_pass() && self.is_remembered(&account, given.as_ref()) => return Ok(true),
                error if error.may_pass() => account.note_trouble(&error),
                error if error.is_credential() => return self.entry.hold_back(&source, error.fault()).await,
                error => return Err(error.fault()),
            }
        }
    }

    /// Whether it is known by now how the login ends, or that the client is to be asked first.
    fn is_settled(&self, account: &Account, given: Option<&Password>) -> bool {
        let registry = &self.entry.shared.registry;
        match given {
            None => self.knowledge(account) != Knowledge::Unknown,
            Some(password) => self.is_known(account, password) || account.refusal(registry, password).is_some(),
        }
    }

    /// What the upstream is known to do, as far as that is not too old to let clients in.
    fn knowledge(&self, account: &Account) -> Knowledge {
        match account.knowledge() {
            Knowledge::Open if self.is_stale(account) => Knowledge::Unknown,
            other => other,
        }
    }

    /// Whether `password` is known to be the right one, and that is not too old.
    fn is_known(&self, account: &Account, password: &Password) -> bool {
        account.matches(&self.entry.shared.registry, password) && !self.is_stale(account)
    }

    /// Whether the client would be let in by what is known, however old.
    fn is_remembered(&self, account: &Account, given: Option<&Password>) -> bool {
        match given {
            None => account.knowledge() == Knowledge::Open,
            Some(password) => account.matches(&self.entry.shared.registry, password),
        }
    }

    fn is_stale(&self, account: &Account) -> bool {
        account.freshness(self.entry.settings.auth_recheck) == Freshness::Stale
    }

    /// Lets the upstream decide whether it wants a password, and asks the client only then; `None` when it goes away.
    async fn first_contact(
        &mut self,
        turn: tokio::sync::MutexGuard<'_, ()>,
        slot: LoginSlot,
        given: &mut Option<Password>,
    ) -> Result<Option<Result<(), DialError>>, Fault> {
        let registry = &self.entry.shared.registry;
        let (ask, asked) = Ask::new(&registry.login_slots);
        let attempt = attempt_login(self.pool, registry, Secret::Ask(ask), slot);
        // An attempt that ends without asking lets go of its end.
        let Ok(answer) = asked.await else { return Ok(Some(attempt.await)) };
        // The others may ask their clients while this one thinks.
        self.pool.account.asks();
        drop(turn);
        let Some(password) = self.ask().await? else { return Ok(None) };
        // An attempt that has ended meanwhile says so.
        let _ = answer.send(password.clone());
        *given = Some(password);
        Ok(Some(attempt.await))
    }

    /// Waits until the database is not paused, and the upstream may be asked again after it was down or full.
    ///
    /// # Errors
    /// When the client's time is up before: why the upstream could not be asked.
    async fn upstream_up(&self, account: &Account) -> Result<(), Fault> {
        let switches = &self.entry.shared.registry.switches;
        self.in_time(switches.resumed(self.entry.database)).await?;
        while let Some((until, fault)) = account.trouble(std::time::Instant::now()) {
            if Instant::from_std(until) >= self.entry.deadline {
                return Err(fault);
            }
            tokio::time::sleep_until(until.into()).await;
        }
        Ok(())
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Fault> {
        let done = timeout_at(self.entry.deadline, work).await;
        done.map_err(|_| timed_out(self.entry.settings.client_login_timeout))
    }

    async fn ask(&mut self) -> Result<Option<Password>, Fault> {
        let password = ask::password(
            self.entry.conn,
            self.entry.room,
            self.entry.deadline,
            self.entry.settings.client_login_timeout,
        )
        .await?;
        self.password_given = password.is_some();
        Ok(password)
    }
}
