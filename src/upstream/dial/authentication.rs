//! The stage of a login in which the server asks for proof.

use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::authentication::sasl;
use postgres_protocol::message::{backend::Message, frontend as protocol};
use zeroize::Zeroize;

use super::incoming::{Incoming, send, unknown_method};
use super::{DialError, Login, Secret, scram};
use crate::auth::{Credential, Md5Secret, Password};
use crate::config::{Binding, LoginMethod};
use crate::net::Conn;
use crate::net::tls::certificate;
use crate::upstream::target::{TargetHost, UpstreamTarget};

/// Proofs so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Proved {
    method: LoginMethod,
    /// True if to this server alone (SCRAM-SHA-256-PLUS).
    bound: bool,
}

impl Proved {
    const NOTHING: Self = Self { method: LoginMethod::None, bound: false };

    fn by(method: LoginMethod) -> Self {
        Self { method, bound: false }
    }
}

/// Answers the server's requests up to `AuthenticationOk`; gives what was accepted, if anything was asked for.
///
/// A request is held against the target's `channel_binding` and `require_auth` before it is answered, and `AuthenticationOk`
/// against what has been proved by then: a server can't get around them by what it leaves out.
pub(super) async fn authenticate(
    incoming: &mut Incoming<'_>,
    login: &mut Login,
    endpoint: &TargetHost,
    fixed: &mut Option<Password>,
) -> Result<Option<Credential>, DialError> {
    let upstream_target = Arc::clone(&login.upstream_target);
    let mut proved = Proved::NOTHING;
    let mut used: Option<Credential> = None;
    loop {
        let request = incoming.request(used.as_ref()).await?;
        if let Message::AuthenticationOk = request {
            may_come_in(&upstream_target, proved)?;
            return Ok(used);
        }
        let method = method_of(&request)?;
        if proved != Proved::NOTHING {
            return Err(DialError::Protocol("the server asks for a proof twice".into()));
        }
        may_ask(&upstream_target, method)?;
        proved = match request {
            Message::AuthenticationSasl(body) => {
                let (mechanism, binding) = choose_mechanism(&body, incoming.conn, &upstream_target)?;
                let credential = used.insert(credential(login, endpoint, fixed).await?).clone();
                scram::exchange(incoming, mechanism, binding, credential).await?;
                Proved { method, bound: mechanism == sasl::SCRAM_SHA_256_PLUS }
            }
            Message::AuthenticationMd5Password(body) => {
                let secret = match used.insert(credential(login, endpoint, fixed).await?) {
                    Credential::Password(password) => Md5Secret::of(password, &login.user),
                    Credential::Md5(secret) => secret.clone(),
                    Credential::Key(..) => return Err(unusable("an MD5 password", "scram-sha-256")),
                };
                send_password(incoming.conn, secret.response(body.salt()).as_bytes()).await?;
                Proved::by(method)
            }
            _ => {
                let Credential::Password(password) = used.insert(credential(login, endpoint, fixed).await?) else {
                    return Err(unusable("the password in clear text", "trust, md5 or scram-sha-256"));
                };
                send_password(incoming.conn, password.expose()).await?;
                Proved::by(method)
            }
        };
    }
}

/// The method that a request begins.
fn method_of(request: &Message) -> Result<LoginMethod, DialError> {
    match request {
        Message::AuthenticationCleartextPassword => Ok(LoginMethod::Password),
        Message::AuthenticationMd5Password(_) => Ok(LoginMethod::Md5),
        Message::AuthenticationSasl(_) => Ok(LoginMethod::Scram),
        Message::AuthenticationSaslContinue(_) | Message::AuthenticationSaslFinal(_) => {
            Err(DialError::Protocol("unexpected SASL message outside of an exchange".into()))
        }
        _ => Err(unknown_method("GSSAPI, SSPI or Kerberos")),
    }
}

/// Checks that the server may ask for `method`: an answer to what it may not ask for would already tell it something.
fn may_ask(upstream_target: &UpstreamTarget, method: LoginMethod) -> Result<(), DialError> {
    if !upstream_target.require_auth.allows(method) {
        let asked = match method {
            LoginMethod::Password => "server requested a cleartext password",
            LoginMethod::Md5 => "server requested a hashed password",
            LoginMethod::Scram | LoginMethod::None => "server requested SASL authentication",
        };
        return Err(required(upstream_target, asked));
    }
    if upstream_target.binding == Binding::Require && method != LoginMethod::Scram {
        return Err(unbound());
    }
    Ok(())
}

/// Checks that what has been proved is enough for the server to be believed.
fn may_come_in(upstream_target: &UpstreamTarget, proved: Proved) -> Result<(), DialError> {
    if upstream_target.binding == Binding::Require && !proved.bound {
        return Err(unbound());
    }
    if !upstream_target.require_auth.allows(proved.method) {
        return Err(required(upstream_target, "server did not complete authentication"));
    }
    Ok(())
}

fn choose_mechanism(
    body: &postgres_protocol::message::backend::AuthenticationSaslBody,
    conn: &Conn,
    upstream_target: &UpstreamTarget,
) -> Result<(&'static str, crate::auth::scram::client::Binding), DialError> {
    let mut mechanisms = body.mechanisms();
    let mut offered = scram::Mechanisms::default();
    while let Some(name) = next_mechanism(&mut mechanisms)? {
        offered.plain |= name == sasl::SCRAM_SHA_256;
        offered.plus |= name == sasl::SCRAM_SHA_256_PLUS;
    }
    scram::choose(offered, end_point(conn), upstream_target.binding).ok_or_else(|| {
        let required = upstream_target.binding == Binding::Require && offered.plain;
        if required { unbound() } else { unknown_method("SASL without SCRAM-SHA-256") }
    })
}

/// Returns the channel binding data of the server's certificate.
fn end_point(conn: &Conn) -> Option<Vec<u8>> {
    conn.stream().tls()?.peer_certificates().first().and_then(certificate::end_point)
}

/// Returns the credential to log in with; a server asks once.
async fn credential(
    login: &mut Login,
    endpoint: &TargetHost,
    fixed: &mut Option<Password>,
) -> Result<Credential, DialError> {
    match std::mem::replace(&mut login.secret, Secret::Used) {
        Secret::Known(credential) => Ok(credential),
        Secret::PasswordPrompt(ask) => ask.password().await.map(Credential::Password),
        Secret::Fixed(other) => {
            login.secret = Secret::Sought;
            let found = endpoint.credentials.password(login.database(), &login.user).await;
            login.secret = Secret::Used;
            let Some(password) = found.map_err(DialError::Credential)? else {
                return other.ok_or(DialError::NoPassword);
            };
            *fixed = Some(password.clone());
            Ok(Credential::Password(password))
        }
        Secret::None => Err(DialError::NoPassword),
        Secret::Sought | Secret::Used => Err(DialError::Protocol("the server asks for the password twice".into())),
    }
}

/// `postgres-protocol`'s iterators are fallible ones; this is all of that trait that is needed.
fn next_mechanism<'a>(
    mechanisms: &mut postgres_protocol::message::backend::SaslMechanisms<'a>,
) -> Result<Option<&'a str>, DialError> {
    fallible_iterator::FallibleIterator::next(mechanisms)
        .map_err(|_| DialError::Protocol("a malformed list of SASL mechanisms".into()))
}

/// The server asks for what can't be made of the credential that is there.
fn unusable(asked: &str, good: &str) -> DialError {
    DialError::Credential(format!(
        "the upstream server asks for {asked}, which can't be made of the secret that is stored here (good for: {good})"
    ))
}

async fn send_password(conn: &mut Conn, password: &[u8]) -> Result<(), DialError> {
    let mut out = BytesMut::new();
    protocol::password_message(password, &mut out)?;
    let sent = send(conn, &out).await;
    out.zeroize();
    conn.output.zeroize();
    sent
}

fn unbound() -> DialError {
    DialError::Untrusted("channel binding required, but server authenticated client without channel binding".into())
}

fn required(upstream_target: &UpstreamTarget, why: &str) -> DialError {
    DialError::Untrusted(format!(
        "authentication method requirement \"{}\" failed: {why}",
        upstream_target.require_auth
    ))
}
