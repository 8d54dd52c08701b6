//! Pass-through: the upstream decides by the client's own password, which is then remembered.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Entry, ask, timed_out};
use crate::auth::{Credential, Password};
use crate::error::Fault;
use crate::upstream::account::{Knowledge, attempt};
use crate::upstream::{Ask, DialError, Pool, Secret};

/// The first and the longest pause before another attempt while the upstream is down.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

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
        match self.pool.account.knowledge() {
            Knowledge::Open => Ok(true),
            _ => Box::pin(self.decide()).await,
        }
    }

    async fn decide(&mut self) -> Result<bool, Fault> {
        let account = Arc::clone(&self.pool.account);
        if account.knowledge() == Knowledge::Unknown {
            let turn = timeout_at(self.entry.deadline, account.turn()).await;
            let turn = turn.map_err(|_| timed_out(self.entry.settings.login_timeout))?;
            if account.knowledge() == Knowledge::Unknown {
                return self.first_contact(turn).await;
            }
        }
        if account.knowledge() == Knowledge::Open {
            return Ok(true);
        }
        let Some(password) = self.ask().await? else { return Ok(false) };
        if account.matches(&self.entry.shared.registry, &password) {
            return Ok(true);
        }
        self.check(password).await
    }

    /// Tries a password upstream that is not known to be right.
    async fn check(&mut self, password: Password) -> Result<bool, Fault> {
        let account = Arc::clone(&self.pool.account);
        let registry = &self.entry.shared.registry;
        // Whoever waited for a turn looks again: somebody may have tried the same password meanwhile.
        let _turn = timeout_at(self.entry.deadline, account.turn())
            .await
            .map_err(|_| timed_out(self.entry.settings.login_timeout))?;
        if account.matches(registry, &password) {
            return Ok(true);
        }
        if let Some(refusal) = account.refusal(registry, &password) {
            return Err(refusal);
        }
        self.pace().await?;
        self.until_up(|| attempt(self.pool, registry, Secret::Known(Credential::Password(password.clone()))))
            .await
            .map(|()| true)
    }

    /// Nobody knows this user: lets the upstream decide whether it wants a password, and asks the client only then.
    async fn first_contact(&mut self, turn: tokio::sync::MutexGuard<'_, ()>) -> Result<bool, Fault> {
        self.pace().await?;
        let mut retry = Retry::until(self.entry.deadline);
        loop {
            let (ask, asked) = Ask::new();
            let attempt = attempt(self.pool, &self.entry.shared.registry, Secret::Ask(ask));
            // An attempt that ends without asking lets go of its end.
            let Ok(answer) = asked.await else {
                match attempt.await {
                    Ok(()) => return Ok(true),
                    Err(error) => retry.after(error).await?,
                }
                continue;
            };
            // The others may ask their clients while this one thinks.
            self.pool.account.asks();
            drop(turn);
            let Some(password) = self.ask().await? else { return Ok(false) };
            // Nobody listens any more if the upstream has lost patience; the outcome says so.
            let _ = answer.send(password.clone());
            return match attempt.await {
                Ok(()) => Ok(true),
                Err(error) if error.may_pass() => self.check(password).await,
                Err(error) => Err(error.fault()),
            };
        }
    }

    /// Keeps to the rate at which passwords may be tried upstream, and to a pause.
    async fn pace(&self) -> Result<(), Fault> {
        let switches = &self.entry.shared.registry.switches;
        let resumed = timeout_at(self.entry.deadline, switches.resumed(self.entry.database)).await;
        resumed.map_err(|_| timed_out(self.entry.settings.login_timeout))?;
        let patience = self.entry.deadline.saturating_duration_since(Instant::now());
        let pause = self.pool.account.may_try(&self.entry.shared.registry, patience)?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Tries again while the upstream is down and the client's time is not up.
    async fn until_up<F: Future<Output = Result<(), DialError>>>(&self, attempt: impl Fn() -> F) -> Result<(), Fault> {
        let mut retry = Retry::until(self.entry.deadline);
        loop {
            match attempt().await {
                Ok(()) => return Ok(()),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    async fn ask(&mut self) -> Result<Option<Password>, Fault> {
        let password = ask::password(self.entry.conn, self.entry.deadline, self.entry.settings.login_timeout).await?;
        self.password_given = password.is_some();
        Ok(password)
    }
}

/// The pauses between attempts while the upstream is down.
struct Retry {
    pause: Duration,
    deadline: Instant,
}

impl Retry {
    fn until(deadline: Instant) -> Self {
        Self { pause: PAUSES.0, deadline }
    }

    /// Waits for the next attempt, or gives up: when waiting does not help against `error`, or the time is up.
    async fn after(&mut self, error: DialError) -> Result<(), Fault> {
        if !error.may_pass() || Instant::now() + self.pause >= self.deadline {
            return Err(error.fault());
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        Ok(())
    }
}
