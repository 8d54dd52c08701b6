//! What a server sends during a login, and what it is sent.

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;

use super::DialError;
use crate::auth::Credential;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::{Conn, RecvError};
use crate::wire::backend;

/// The longest message, in bytes, that a server may send while it logs us in.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// All that it may send meanwhile, in bytes. PostgreSQL's own is about 1 kB.
const MAX_LOGIN_BYTES: usize = 1 << 20;

/// The longest text of an error without fields, in bytes.
const MAX_TEXT_BYTES: usize = 1000;

/// The numbers of authentication requests that are known: of Kerberos up to SCRAM, but for crypt's (4).
const METHODS: [u32; 11] = [0, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12];

/// Messages of a server during a login.
pub(super) struct Incoming<'a> {
    pub conn: &'a mut Conn,
    /// Number of bytes that it may still send.
    left: usize,
}

impl<'a> Incoming<'a> {
    /// Reads from `conn`, on which a login begins.
    pub(super) fn new(conn: &'a mut Conn) -> Self {
        Self { conn, left: MAX_LOGIN_BYTES }
    }

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
    pub(super) async fn next(&mut self, credential: Option<&Credential>) -> Result<(u8, BytesMut), DialError> {
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
    pub(super) async fn negotiated(&mut self, minor: u16) -> Result<(), DialError> {
        match self.conn.peek_frame(MAX_MESSAGE_BYTES).await {
            Ok(_) => {}
            Err(RecvError::Length(bad)) => {
                let is_text = self.conn.peek(1).await? == [backend::ERROR];
                return Err(if is_text { self.plain_error().await } else { RecvError::Length(bad).into() });
            }
            // Whatever is read behind that says less of the cause.
            Err(error) => return Err(error.into()),
        }
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

    /// Receives an error as a text without fields, which PostgreSQL sends where it can't start a process for the connection.
    async fn plain_error(&mut self) -> DialError {
        let (mut size, mut text) = (1, String::new());
        while size < MAX_TEXT_BYTES {
            match self.conn.peek(size + 1).await {
                Ok(bytes) if matches!(bytes[size], 0 | b'\n') => break,
                Ok(bytes) => text = String::from_utf8_lossy(&bytes[1..]).into_owned(),
                Err(_) => break,
            }
            size += 1;
        }
        DialError::Broke(format!("the server can't serve the connection: {text}"))
    }

    /// Receives a message of the authentication stage.
    pub(super) async fn request(&mut self, credential: Option<&Credential>) -> Result<Message, DialError> {
        let (tag, mut bytes) = self.next(credential).await?;
        if tag != backend::AUTHENTICATION {
            let shown = char::from(tag).escape_default();
            let why = format!("expected authentication request from server, but received {shown}");
            return Err(DialError::Protocol(why));
        }
        let method = bytes.get(5..).and_then(|body| body.first_chunk()).map(|method| u32::from_be_bytes(*method));
        Message::parse(&mut bytes).ok().flatten().ok_or_else(|| match method {
            Some(method) if !METHODS.contains(&method) => unknown_method(&format!("number {method}")),
            _ => DialError::Protocol("a malformed authentication request".into()),
        })
    }
}

pub(super) fn unknown_method(name: &str) -> DialError {
    let client_error = ClientError::fatal(
        ErrorSource::Server,
        sqlstate::FEATURE_NOT_SUPPORTED,
        format!("the upstream server asks for an authentication method that pgferry does not support: {name}"),
    )
    .hint("Methods that work: trust, password, md5, scram-sha-256 (pg_hba.conf).");
    DialError::Refused(client_error, None)
}

/// Sends a message.
pub(super) async fn send(conn: &mut Conn, bytes: &[u8]) -> Result<(), DialError> {
    conn.output.extend_from_slice(bytes);
    conn.flush().await?;
    Ok(())
}
