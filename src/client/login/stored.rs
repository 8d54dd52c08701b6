//! Passwords that are compared here, with secrets that are stored or looked up: in clear text, with MD5, with SCRAM.
//!
//! An unknown user goes the same way as a known one, and fails where a wrong password fails, with the same words.

use std::pin::pin;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{timeout, timeout_at};

use super::{AuthResult, LoginAttempt, challenge, timed_out};
use crate::auth::scram::server::{Offered, Server};
use crate::auth::scram::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, Verifier};
use crate::auth::stored::{Lookup, compare, compare_md5};
use crate::auth::{Check, Credential, Stored};
use crate::client::presence::while_present;
use crate::client::secrets::Secrets;
use crate::config::Auth;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::tls::TlsSession;
use crate::upstream::limiter::SourceLimit;
use crate::wire::{backend, frontend};

/// Time after which a lookup of a secret no longer holds up those of other clients of its source.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(100);

impl LoginAttempt<'_> {
    /// The methods `scram-sha-256`, `md5` and `password`.
    pub(super) async fn stored(&mut self) -> Result<AuthResult, ClientError> {
        let source = self.source();
        let client_auth = self.shared.client_auth.load_full();
        let secrets = &client_auth.secrets;
        let Lookup::Done(stored) = self.find(secrets, &source).await? else { return Ok(AuthResult::Gone) };
        let outcome = match self.rule.method {
            Auth::Password => self.clear_text(secrets, stored, &source).await,
            Auth::Md5 if secrets.answers_md5(self.user, stored.as_ref()).await => self.md5(stored, &source).await,
            _ => {
                let verifier = secrets.verifier(self.user, stored.as_ref()).await;
                self.scram(stored, verifier, &source).await
            }
        };
        match outcome {
            Ok(Some(proof)) => Ok(proof),
            Ok(None) => {
                secrets.invalidate(self.database, self.user);
                let reply = self.wrong_password();
                self.delay_reply(&source, reply).await
            }
            Err(client_error) => Err(client_error),
        }
    }

    /// Finds the client's secret. Where the upstream has to be asked, that is done for one client of a source at a time, unless it takes
    /// long: what a client names before it has proved anything may be a database that hangs. It stays undone when the client goes away.
    async fn find(&mut self, secrets: &Secrets, source: &SourceLimit) -> Result<Lookup, ClientError> {
        if let done @ Lookup::Done(_) = secrets.known(self.database, self.user).await {
            return Ok(done);
        }
        let (pools, database, user) = (&self.shared.pools, self.database, self.user);
        let (deadline, limit) = (self.deadline, self.settings.timeouts.client_login_timeout);
        let look_up = async {
            let turn = source.turn_to_look_up(deadline).await?;
            let mut lookup = pin!(secrets.look_up(pools, database, user));
            let at_once = timeout(LOOKUP_PATIENCE, &mut lookup).await;
            drop(turn);
            match at_once {
                Ok(found) => found,
                Err(_) => timeout_at(deadline, lookup).await.unwrap_or_else(|_| Err(timed_out(limit))),
            }
        };
        let Some(found) = while_present(self.conn, look_up).await else { return Ok(Lookup::Due) };
        if found.is_err() {
            source.count();
        }
        found.map(Lookup::Done)
    }

    fn wrong_password(&self) -> ClientError {
        let message = format!("password authentication failed for user \"{}\"", self.shown_user());
        ClientError::fatal(ErrorSource::Client, sqlstate::INVALID_PASSWORD, message)
    }

    async fn clear_text(
        &mut self,
        secrets: &Secrets,
        stored: Option<Stored>,
        source: &SourceLimit,
    ) -> Result<Option<AuthResult>, ClientError> {
        let limit = self.settings.timeouts.client_login_timeout;
        let Some(given) = challenge::password(self.conn, self.pending_logins, self.deadline, limit).await? else {
            return Ok(Some(AuthResult::Gone));
        };
        let (user, rounds) = (self.user.to_vec(), secrets.rounds());
        let check = if rounds > 0 { Check::Hashing } else { Check::Comparison };
        let Some(turn) = self.turn_to_check(check, source).await? else { return Ok(Some(AuthResult::Gone)) };
        let compared = spawn_blocking({
            let given = given.clone();
            move || compare(stored.as_ref(), &user, &given, rounds)
        });
        let right = compared.await.is_ok_and(|compared| compared.right);
        Ok(turn.judge(right.then_some(AuthResult::Given(Some(Credential::Password(given))))))
    }

    async fn md5(&mut self, stored: Option<Stored>, source: &SourceLimit) -> Result<Option<AuthResult>, ClientError> {
        let mut salt = [0; 4];
        fill(&mut salt)?;
        backend::put_md5_request(&mut self.conn.output, salt);
        let limit = self.settings.timeouts.client_login_timeout;
        let Some(body) = challenge::answer(self.conn, self.pending_logins, "password", self.deadline, limit).await?
        else {
            return Ok(Some(AuthResult::Gone));
        };
        let given = challenge::read_password(&body)?;
        let turn = self.turn_to_check(Check::Comparison, source).await?;
        let Some(turn) = turn else { return Ok(Some(AuthResult::Gone)) };
        let credential = compare_md5(stored, self.user, salt, &given);
        Ok(turn.judge(credential.map(|credential| AuthResult::Given(Some(credential)))))
    }

    async fn scram(
        &mut self,
        stored: Option<Stored>,
        verifier: Verifier,
        source: &SourceLimit,
    ) -> Result<Option<AuthResult>, ClientError> {
        let certificate = self.conn.stream().tls().and_then(TlsSession::own_certificate);
        let end_point = certificate.and_then(|certificate| certificate.end_point.clone());
        let offered = match &end_point {
            Some(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256][..],
            None => &[SCRAM_SHA_256],
        };
        backend::put_sasl_request(&mut self.conn.output, offered);
        let Some(body) = self.answer().await? else { return Ok(Some(AuthResult::Gone)) };
        let (mechanism, first) = frontend::sasl_initial(&body).map_err(ClientError::violation)?;
        let chosen_plus = mechanism == SCRAM_SHA_256_PLUS.as_bytes();
        let binding = match (chosen_plus, end_point) {
            (true, None) => return Err(invalid_mechanism()),
            (false, _) if mechanism != SCRAM_SHA_256.as_bytes() => return Err(invalid_mechanism()),
            (_, Some(data)) => Offered::Plus(data, chosen_plus),
            (false, None) => Offered::Plain,
        };
        let mut random = [0; 18];
        fill(&mut random)?;
        let first = if let Some(first) = first {
            first.to_vec()
        } else {
            // It wants to be asked for its first message.
            backend::put_sasl_continue(&mut self.conn.output, b"");
            let Some(body) = self.answer().await? else { return Ok(Some(AuthResult::Gone)) };
            body.to_vec()
        };
        let server = Server::new(&first, &binding, verifier.clone(), random).map_err(|error| self.explain(error))?;
        backend::put_sasl_continue(&mut self.conn.output, server.first().as_bytes());
        let Some(last) = self.answer().await? else { return Ok(Some(AuthResult::Gone)) };
        let turn = self.turn_to_check(Check::Comparison, source).await?;
        let Some(turn) = turn else { return Ok(Some(AuthResult::Gone)) };
        let proven = match server.finish(&last) {
            Ok(proven) => proven,
            Err(ScramError::WrongPassword) => return Ok(turn.judge(None)),
            Err(error) => return Err(self.explain(error)),
        };
        backend::put_sasl_final(&mut self.conn.output, proven.message.as_bytes());
        let credential = match stored {
            Some(Stored::Plain(password)) => Credential::Password(password),
            _ => Credential::Key(proven.key, Box::new(verifier)),
        };
        Ok(turn.judge(Some(AuthResult::Given(Some(credential)))))
    }

    async fn answer(&mut self) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, ClientError> {
        challenge::answer(
            self.conn,
            self.pending_logins,
            "SASL",
            self.deadline,
            self.settings.timeouts.client_login_timeout,
        )
        .await
    }

    fn explain(&self, error: ScramError) -> ClientError {
        match error {
            ScramError::Malformed(what, detail) if detail.is_empty() => ClientError::violation(what),
            ScramError::Malformed(what, detail) => ClientError::violation(what).detail(detail),
            ScramError::Binding(what) => ClientError::fatal(ErrorSource::Client, sqlstate::INVALID_AUTHORIZATION, what),
            ScramError::Unsupported(what) => {
                ClientError::fatal(ErrorSource::Client, sqlstate::FEATURE_NOT_SUPPORTED, what)
            }
            // The rest is what only the client's half finds.
            _ => self.wrong_password(),
        }
    }
}

fn invalid_mechanism() -> ClientError {
    ClientError::violation("client selected an invalid SASL authentication mechanism")
}

fn fill(bytes: &mut [u8]) -> Result<(), ClientError> {
    getrandom::fill(bytes)
        .map_err(|error| ClientError::fatal(ErrorSource::Limits, sqlstate::INTERNAL, format!("no randomness: {error}")))
}
