//! Pass-through: the upstream decides by the client's own password, which is then remembered.

use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;

use super::{LoginAttempt, challenge, in_time};
use crate::auth::{Check, Credential, Password};
use crate::error::ClientError;
use crate::upstream::attempt::attempt as attempt_login;
use crate::upstream::login_slots::LoginSlot;
use crate::upstream::role_auth::{AuthRequirement, Freshness, RoleAuth};
use crate::upstream::{DialError, PasswordPrompt, Pool, Secret};

/// One client's login by pass-through.
pub(super) struct PassThrough<'a, 'b> {
    pub attempt: &'b mut LoginAttempt<'a>,
    pub pool: &'b Arc<Pool>,
    /// The client was asked for a password, and gave one.
    pub password_given: bool,
}

impl PassThrough<'_, '_> {
    /// The upstream decides: by what is known of it, which is as fresh as `known`, or by trying. `false` when the client went away.
    pub(super) async fn run(&mut self, known: Freshness) -> Result<bool, ClientError> {
        if known != Freshness::Stale && self.pool.role_auth.requirement() == AuthRequirement::Open {
            return Ok(true);
        }
        let pool = Arc::clone(self.pool);
        let _waiting = pool.logs_in();
        let outcome = Box::pin(self.decide()).await;
        outcome.map_err(|client_error| {
            // Where the time is over in which the upstream could not be asked, that is told.
            let is_late = Instant::now() >= self.attempt.deadline;
            let trouble = pool.role_auth.last_trouble(std::time::Instant::now());
            trouble.filter(|_| is_late).unwrap_or(client_error)
        })
    }

    /// Asks the client where the upstream asks, and tries upstream what is not known. Nothing of the upstream is held while the
    /// client thinks, or while others are waited for.
    async fn decide(&mut self) -> Result<bool, ClientError> {
        let role_auth = Arc::clone(&self.pool.role_auth);
        let source = self.attempt.source();
        let mut given: Option<Password> = None;
        loop {
            match (&given, self.requirement(&role_auth, std::time::Instant::now())) {
                (None, AuthRequirement::Open) => return Ok(true),
                (None, AuthRequirement::Asks) => {
                    let Some(password) = self.ask().await? else { return Ok(false) };
                    // One that is given up before the upstream is asked has been compared all the same.
                    let turn = self.attempt.turn_to_check(Check::Comparison, &source).await?;
                    let Some(turn) = turn else { return Ok(false) };
                    if turn.judge(self.is_known(&role_auth, &password).then_some(())).is_some() {
                        return Ok(true);
                    }
                    given = Some(password);
                }
                _ => {}
            }
            if let Some(password) = &given {
                if self.is_known(&role_auth, password) {
                    return Ok(true);
                }
                if let Some(refusal) = role_auth.refusal(&self.attempt.shared.server_side.key, password) {
                    return self.attempt.delay_reply(&source, refusal).await;
                }
            }
            if let Err(client_error) = self.upstream_up(&role_auth).await {
                return if self.is_remembered(&role_auth, given.as_ref()) { Ok(true) } else { Err(client_error) };
            }
            let lane = role_auth.lane(source.source());
            let Some(lane) = self.attempt.or_disconnected(lane.turn(self.attempt.deadline)).await? else {
                return Ok(false);
            };
            let Some(turn) = self.attempt.turn(&source).await? else { return Ok(false) };
            let attempt = self.in_time(role_auth.turn()).await?;
            // The next of the same source may wait for this role.
            drop(lane);
            // Another client may have found out meanwhile, or met with trouble.
            if self.is_settled(&role_auth, given.as_ref()) || role_auth.trouble(std::time::Instant::now()).is_some() {
                continue;
            }
            let slot = self.in_time(self.attempt.shared.server_side.logins.slots.take()).await?;
            // And for a slot.
            drop(turn);
            let Some(outcome) = self.try_upstream(attempt, slot, &mut given).await? else {
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
                error if error.may_pass() && self.is_remembered(&role_auth, given.as_ref()) => return Ok(true),
                error if error.may_pass() => role_auth.note_trouble(&error),
                error if error.is_credential() => return self.attempt.delay_reply(&source, error.client_error()).await,
                error => return Err(error.client_error()),
            }
        }
    }

    /// Returns whether it is known by now how the login ends, or that the client is to be asked first.
    fn is_settled(&self, role_auth: &RoleAuth, given: Option<&Password>) -> bool {
        match given {
            None => self.requirement(role_auth, std::time::Instant::now()) != AuthRequirement::Unknown,
            Some(password) => {
                self.is_known(role_auth, password)
                    || role_auth.refusal(&self.attempt.shared.server_side.key, password).is_some()
            }
        }
    }

    /// Returns the upstream's known requirement, as far as that is not too old at `now` to let clients in.
    fn requirement(&self, role_auth: &RoleAuth, now: std::time::Instant) -> AuthRequirement {
        match role_auth.requirement() {
            AuthRequirement::Open if self.is_stale(role_auth, now) => AuthRequirement::Unknown,
            other => other,
        }
    }

    /// Returns whether `password` is known to be the right one, and that is not too old.
    fn is_known(&self, role_auth: &RoleAuth, password: &Password) -> bool {
        role_auth.matches(&self.attempt.shared.server_side.key, password)
            && !self.is_stale(role_auth, std::time::Instant::now())
    }

    /// Returns whether the client would be let in by what is known, however old.
    fn is_remembered(&self, role_auth: &RoleAuth, given: Option<&Password>) -> bool {
        match given {
            None => role_auth.requirement() == AuthRequirement::Open,
            Some(password) => role_auth.matches(&self.attempt.shared.server_side.key, password),
        }
    }

    fn is_stale(&self, role_auth: &RoleAuth, now: std::time::Instant) -> bool {
        role_auth.freshness(self.attempt.settings.auth.auth_recheck, now) == Freshness::Stale
    }

    /// Tries upstream what the client has `given`, or what the upstream wants to be given; `None` when the client goes away.
    async fn try_upstream(
        &mut self,
        turn: tokio::sync::MutexGuard<'_, ()>,
        slot: LoginSlot,
        given: &mut Option<Password>,
    ) -> Result<Option<Result<(), DialError>>, ClientError> {
        let Some(password) = &*given else { return self.first_contact(turn, slot, given).await };
        let secret = Secret::Known(Credential::Password(password.clone()));
        let attempt = attempt_login(self.pool, &self.attempt.shared.pools, secret, slot);
        let outcome = self.in_time(attempt).await?;
        drop(turn);
        Ok(Some(outcome))
    }

    /// Lets the upstream decide whether it wants a password, and asks the client only then; `None` when it goes away.
    async fn first_contact(
        &mut self,
        turn: tokio::sync::MutexGuard<'_, ()>,
        slot: LoginSlot,
        given: &mut Option<Password>,
    ) -> Result<Option<Result<(), DialError>>, ClientError> {
        let (ask, asked) = PasswordPrompt::new(&self.attempt.shared.server_side.logins.slots);
        let attempt = attempt_login(self.pool, &self.attempt.shared.pools, Secret::PasswordPrompt(ask), slot);
        // An attempt that ends without asking lets go of its end.
        let Ok(answer) = self.in_time(asked).await? else { return Ok(Some(self.in_time(attempt).await?)) };
        // The others may ask their clients while this one thinks.
        self.pool.role_auth.asks();
        drop(turn);
        let Some(password) = self.ask().await? else { return Ok(None) };
        // An attempt that has ended meanwhile says so.
        let _ = answer.send(password.clone());
        *given = Some(password);
        Ok(Some(self.in_time(attempt).await?))
    }

    /// Waits until the database is not paused, and the upstream may be asked again after it was down or full.
    ///
    /// # Errors
    /// When the client's time is up before: why the upstream could not be asked.
    async fn upstream_up(&self, role_auth: &RoleAuth) -> Result<(), ClientError> {
        let pauses = &self.attempt.shared.server_side.pauses;
        self.in_time(pauses.resumed(self.attempt.database)).await?;
        while let Some((until, client_error)) = role_auth.trouble(std::time::Instant::now()) {
            if Instant::from_std(until) >= self.attempt.deadline {
                return Err(client_error);
            }
            tokio::time::sleep_until(until.into()).await;
        }
        Ok(())
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, ClientError> {
        in_time(self.attempt.deadline, self.attempt.settings.timeouts.client_login_timeout, work).await
    }

    async fn ask(&mut self) -> Result<Option<Password>, ClientError> {
        let password = challenge::password(
            self.attempt.conn,
            self.attempt.pending_logins,
            self.attempt.deadline,
            self.attempt.settings.timeouts.client_login_timeout,
        )
        .await?;
        self.password_given = password.is_some();
        Ok(password)
    }
}
