//! The login: the server's questions, and what it says of the session.

use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::authentication::sasl;
use postgres_protocol::message::{backend::Message, frontend as protocol};
use zeroize::Zeroize;

use super::{DialError, Login, Secret, scram};
use crate::auth::{Credential, Md5Secret, Password};
use crate::config::Binding;
use crate::error::{Blame, Fault, sqlstate};
use crate::net::Conn;
use crate::net::tls::certificate;
use crate::track::Params;
use crate::upstream::route::Endpoint;
use crate::wire::{backend, frontend};

/// The longest message a server may send while it logs us in.
const LOGIN_LIMIT: usize = 64 * 1024;

/// What a login yields.
#[derive(Default)]
pub(super) struct Session {
    pub params: Params,
    pub pid: i32,
    pub secret: Box<[u8]>,
    pub credential: Option<Credential>,
}

/// Logs in. A looked-up password is noted in `fixed`.
pub(super) async fn log_in(
    conn: &mut Conn,
    login: &mut Login,
    endpoint: &Endpoint,
    fixed: &mut Option<Password>,
) -> Result<Session, DialError> {
    let route = Arc::clone(&login.route);
    let params = login.params.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    let user = [(&b"user"[..], login.user.as_slice())];
    frontend::put_startup(&mut conn.output, route.minor, user.into_iter().chain(params));
    conn.flush().await?;
    let mut session = Session::default();
    let mut bound = false;
    loop {
        // Its secret may be longer than the library expects.
        if let Some((pid, secret)) = key_data(conn).await? {
            (session.pid, session.secret) = (pid, secret);
            continue;
        }
        let Some(message) = receive(conn, session.credential.as_ref()).await? else { continue };
        let unbound = || {
            DialError::Untrusted(
                "channel binding required, but server authenticated client without channel binding".into(),
            )
        };
        match message {
            Message::AuthenticationOk if route.binding == Binding::Require && !bound => return Err(unbound()),
            Message::AuthenticationOk => {}
            Message::AuthenticationCleartextPassword | Message::AuthenticationMd5Password(_)
                if route.binding == Binding::Require =>
            {
                return Err(unbound());
            }
            Message::AuthenticationCleartextPassword => {
                let credential = session.credential.insert(credential(login, endpoint, fixed).await?);
                let Credential::Password(password) = credential else {
                    return Err(unusable("the password in clear text", "trust, md5 or scram-sha-256"));
                };
                send_password(conn, password.expose()).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                let credential = session.credential.insert(credential(login, endpoint, fixed).await?);
                let secret = match credential {
                    Credential::Password(password) => Md5Secret::of(password, &login.user),
                    Credential::Md5(secret) => secret.clone(),
                    Credential::Key(..) => return Err(unusable("an MD5 password", "scram-sha-256")),
                };
                send_password(conn, secret.response(body.salt()).as_bytes()).await?;
            }
            Message::AuthenticationSasl(body) => {
                let mut mechanisms = body.mechanisms();
                let (mut plain, mut plus) = (false, false);
                while let Some(name) = next_mechanism(&mut mechanisms)? {
                    plain |= name == sasl::SCRAM_SHA_256;
                    plus |= name == sasl::SCRAM_SHA_256_PLUS;
                }
                let choice = scram::choose(plain, plus, end_point(conn), route.binding);
                let Some((mechanism, binding)) = choice else {
                    let required = route.binding == Binding::Require && plain;
                    return Err(if required { unbound() } else { unknown_method("SASL without SCRAM-SHA-256") });
                };
                bound = mechanism == sasl::SCRAM_SHA_256_PLUS;
                let credential = session.credential.insert(credential(login, endpoint, fixed).await?).clone();
                scram::exchange(conn, mechanism, binding, credential).await?;
            }
            Message::AuthenticationGss | Message::AuthenticationSspi | Message::AuthenticationKerberosV5 => {
                return Err(unknown_method("GSSAPI, SSPI or Kerberos"));
            }
            Message::ReadyForQuery(_) => return Ok(session),
            Message::ParameterStatus(body) => {
                session.params.set(body.name()?.as_bytes(), body.value()?.as_bytes());
            }
            _ => return Err(DialError::Protocol("a message that has no place in a login".into())),
        }
    }
}

/// What the server's certificate gives to bind a login to.
fn end_point(conn: &Conn) -> Option<Vec<u8>> {
    conn.stream().tls()?.peer_certificates().first().and_then(certificate::end_point)
}

/// What there is to log in with; a server asks once.
async fn credential(
    login: &mut Login,
    endpoint: &Endpoint,
    fixed: &mut Option<Password>,
) -> Result<Credential, DialError> {
    match std::mem::replace(&mut login.secret, Secret::Used) {
        Secret::Known(credential) => Ok(credential),
        Secret::Ask(ask) => ask.password().await.map(Credential::Password),
        Secret::Fixed(other) => {
            let found = endpoint.credentials.password(login.database(), &login.user).await;
            let Some(password) = found.map_err(DialError::Credential)? else {
                return other.ok_or(DialError::NoPassword);
            };
            *fixed = Some(password.clone());
            Ok(Credential::Password(password))
        }
        Secret::None => Err(DialError::NoPassword),
        Secret::Used => Err(DialError::Protocol("the server asks for the password twice".into())),
    }
}

/// The next message, if it is `BackendKeyData`.
async fn key_data(conn: &mut Conn) -> Result<Option<(i32, Box<[u8]>)>, DialError> {
    let frame = conn.peek_frame(LOGIN_LIMIT).await?;
    if frame.tag != backend::BACKEND_KEY_DATA {
        return Ok(None);
    }
    let key = backend::key_data(frame.body()).map(|(pid, secret)| (pid, secret.into()));
    let size = frame.bytes.len();
    conn.consume(size);
    key.map(Some).ok_or_else(|| DialError::Protocol("a malformed BackendKeyData".into()))
}

/// Receives one message; `None` for those that a login passes over: notices, and that the server speaks an older minor
/// version than was asked for.
pub(super) async fn receive(conn: &mut Conn, credential: Option<&Credential>) -> Result<Option<Message>, DialError> {
    let frame = conn.peek_frame(LOGIN_LIMIT).await?;
    let (tag, size) = (frame.tag, frame.bytes.len());
    if tag == backend::ERROR {
        let fault = Fault::Upstream(frame.bytes.into());
        conn.consume(size);
        return Err(DialError::Refused(fault, credential.cloned()));
    }
    let mut bytes = BytesMut::from(frame.bytes);
    conn.consume(size);
    match tag {
        backend::NOTICE | backend::NEGOTIATE => Ok(None),
        _ => Ok(Message::parse(&mut bytes)?),
    }
}

/// `postgres-protocol`'s iterators are fallible ones; this is all of that trait that is needed.
fn next_mechanism<'a>(
    mechanisms: &mut postgres_protocol::message::backend::SaslMechanisms<'a>,
) -> Result<Option<&'a str>, DialError> {
    fallible_iterator::FallibleIterator::next(mechanisms).map_err(Into::into)
}

fn unknown_method(name: &str) -> DialError {
    let fault = Fault::fatal(
        Blame::Upstream,
        sqlstate::FEATURE_NOT_SUPPORTED,
        format!("the upstream server asks for an authentication method that pgferry does not speak: {name}"),
    )
    .hint("Methods that work: trust, password, md5, scram-sha-256 (pg_hba.conf).");
    DialError::Refused(fault, None)
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

pub(super) async fn send(conn: &mut Conn, bytes: &[u8]) -> Result<(), DialError> {
    conn.output.extend_from_slice(bytes);
    conn.flush().await?;
    Ok(())
}
