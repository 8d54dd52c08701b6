//! The login: authentication, and then what the server says of the session.
//!
//! The manual's "Start-up" flow, one function for each of its stages, in which only the messages of that stage are taken: what
//! a server leaves out, repeats or says too early ends the login. `authentication` is the first stage.

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;

use super::authentication::authenticate;
use super::{DialError, Login};
use crate::auth::{Credential, Password};
use crate::error::ClientError;
use crate::net::Conn;
use crate::track::ServerParams;
use crate::track::pipeline::IDLE;
use crate::upstream::target::TargetHost;
use crate::wire::{backend, frontend};

/// The longest message, in bytes, that a server may send while it logs us in.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// All that it may send meanwhile, in bytes. PostgreSQL's own is about 1 kB.
const MAX_LOGIN_BYTES: usize = 1 << 20;

/// What a login yields.
#[derive(Default)]
pub(super) struct LoggedIn {
    pub params: ServerParams,
    pub pid: i32,
    pub secret: Box<[u8]>,
    pub credential: Option<Credential>,
}

/// Logs in. A looked-up password is noted in `fixed`.
pub(super) async fn log_in(
    conn: &mut Conn,
    login: &mut Login,
    endpoint: &TargetHost,
    fixed: &mut Option<Password>,
) -> Result<LoggedIn, DialError> {
    let minor = login.upstream_target.minor;
    let params = login.params.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    let user = [(&b"user"[..], login.user.as_slice())];
    frontend::put_startup(&mut conn.output, minor, user.into_iter().chain(params));
    conn.flush().await?;
    let mut incoming = Incoming { conn, left: MAX_LOGIN_BYTES };
    incoming.negotiated(minor).await?;
    let credential = authenticate(&mut incoming, login, endpoint, fixed).await?;
    incoming.session(credential).await
}

/// What a server sends during a login.
pub(super) struct Incoming<'a> {
    pub conn: &'a mut Conn,
    /// Number of bytes that it may still send.
    left: usize,
}

impl Incoming<'_> {
    /// The type of the next message, which stays where it is.
    async fn peek(&mut self) -> Result<u8, DialError> {
        let frame = self.conn.peek_frame(MAX_MESSAGE_BYTES).await?;
        let (tag, size) = (frame.tag, frame.bytes.len());
        if size > self.left {
            return Err(DialError::Protocol(format!("more than {MAX_LOGIN_BYTES} bytes during a login")));
        }
        Ok(tag)
    }

    /// Receives one message: its type, and all of its bytes. An error ends the login.
    async fn next(&mut self, credential: Option<&Credential>) -> Result<(u8, BytesMut), DialError> {
        let tag = self.peek().await?;
        let frame = self.conn.peek_frame(MAX_MESSAGE_BYTES).await?;
        let bytes = BytesMut::from(frame.bytes);
        self.conn.consume(bytes.len());
        self.left -= bytes.len();
        if tag == backend::ERROR {
            return Err(DialError::Refused(ClientError::Server(bytes.as_ref().into()), credential.cloned()));
        }
        Ok((tag, bytes))
    }

    /// Receives what nothing may precede: that the server speaks an older minor version than `minor`, if it does. No
    /// protocol options are asked for, so none can be unknown to it.
    async fn negotiated(&mut self, minor: u16) -> Result<(), DialError> {
        if self.peek().await? != backend::NEGOTIATE {
            return Ok(());
        }
        let (_, bytes) = self.next(None).await?;
        // PostgreSQL sends the version whole, others only its minor part.
        let body = bytes.get(5..).and_then(|body| body.split_first_chunk::<4>());
        let older = body.is_some_and(|(version, options)| {
            let [major, spoken] = [&version[..2], &version[2..]].map(|half| u16::from_be_bytes([half[0], half[1]]));
            matches!(major, 0 | 3) && spoken < minor && options == [0; 4]
        });
        if older { Ok(()) } else { Err(DialError::Protocol("invalid protocol negotiation message".into())) }
    }

    /// Receives a message of the authentication stage.
    pub(super) async fn request(&mut self, credential: Option<&Credential>) -> Result<Message, DialError> {
        let (tag, mut bytes) = self.next(credential).await?;
        let message = if tag == backend::AUTHENTICATION { Message::parse(&mut bytes)? } else { None };
        message.ok_or_else(|| {
            let shown = char::from(tag).escape_default();
            DialError::Protocol(format!("expected authentication request from server, but received {shown}"))
        })
    }

    /// Receives what follows `AuthenticationOk`, up to the first `ReadyForQuery`.
    async fn session(&mut self, credential: Option<Credential>) -> Result<LoggedIn, DialError> {
        let mut session = LoggedIn { credential, ..LoggedIn::default() };
        loop {
            let (tag, bytes) = self.next(session.credential.as_ref()).await?;
            let body = &bytes[crate::wire::frame::HEADER_BYTES..];
            match tag {
                backend::PARAMETER_STATUS => {
                    let (name, value) = backend::parameter_status(body).ok_or_else(|| malformed("ParameterStatus"))?;
                    session.params.set(name, value);
                }
                backend::BACKEND_KEY_DATA => {
                    let (pid, secret) = backend::key_data(body).ok_or_else(|| malformed("BackendKeyData"))?;
                    (session.pid, session.secret) = (pid, secret.into());
                }
                backend::NOTICE => {}
                backend::READY if body == [IDLE] => return Ok(session),
                backend::READY => {
                    return Err(DialError::Protocol("a session that begins inside a transaction".into()));
                }
                _ => {
                    let shown = char::from(tag).escape_default();
                    return Err(DialError::Protocol(format!("unexpected message {shown} after authentication")));
                }
            }
        }
    }
}

fn malformed(what: &str) -> DialError {
    DialError::Protocol(format!("a malformed {what}"))
}

pub(super) async fn send(conn: &mut Conn, bytes: &[u8]) -> Result<(), DialError> {
    conn.output.extend_from_slice(bytes);
    conn.flush().await?;
    Ok(())
}
