//! Opens one connection and logs in.
//!
//! The login follows the manual's "Start-up" flow; messages are read with `postgres-protocol`, each whole in memory
//! and bounded before it is parsed.

mod error;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ChannelBinding, ScramSha256};
use postgres_protocol::message::{backend::Message, frontend as protocol};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout_at};

pub use error::{DialError, Failed};

use super::link::Address;
use super::registry::Registry;
use crate::auth::Password;
use crate::config::{Host, Settings};
use crate::error::{Blame, Fault, sqlstate};
use crate::net::{Conn, Stream};
use crate::track::Params;
use crate::wire::{backend, frontend};

/// The longest message a server may send while it logs us in.
const LOGIN_LIMIT: usize = 64 * 1024;

/// How much later each further address of a host is tried while the ones before have not answered (RFC 8305 calls
/// it the connection attempt delay).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// A client who can be asked for a password, once.
#[derive(Debug)]
pub struct Ask {
    question: oneshot::Sender<oneshot::Sender<Password>>,
}

impl Ask {
    /// The asker, and where the client's side learns that it is asked: it answers through the sender it gets there.
    #[must_use]
    pub fn new() -> (Self, oneshot::Receiver<oneshot::Sender<Password>>) {
        let (question, asked) = oneshot::channel();
        (Self { question }, asked)
    }

    async fn password(self) -> Option<Password> {
        let (answer, answered) = oneshot::channel();
        self.question.send(answer).ok()?;
        answered.await.ok()
    }
}

/// Where the password comes from if the upstream asks for one.
#[derive(Debug)]
pub enum Secret {
    /// There is none.
    None,
    /// It is known.
    Known(Password),
    /// A client is asked.
    Ask(Ask),
}

/// Who logs in, and with what.
#[derive(Debug)]
pub struct Login {
    /// The role.
    pub user: Vec<u8>,
    /// `database`, `options` and all else that goes into the startup packet.
    pub params: Vec<(Vec<u8>, Vec<u8>)>,
    /// The password's source.
    pub secret: Secret,
}

/// An open connection that has just logged in.
#[derive(Debug)]
pub struct Dialled {
    /// The socket.
    pub conn: Conn,
    /// Where it goes.
    pub address: Address,
    /// What the server reported.
    pub params: Params,
    /// The backend's process id.
    pub pid: i32,
    /// The backend's cancel secret.
    pub secret: Box<[u8]>,
    /// The password that was asked for and accepted; `None` when the server asked for none.
    pub password: Option<Password>,
}

/// Opens a connection and logs in, all within `limit`.
///
/// # Errors
/// As [`DialError`] lists; the caller makes use of it and then closes what is left.
pub async fn dial(settings: &Settings, login: Login, registry: &Registry, limit: Duration) -> Result<Dialled, Failed> {
    let host = &settings.upstream.host;
    let deadline = Instant::now() + limit;
    let unreachable = |why: String, refused| DialError::Unreachable { host: host.to_string(), why, refused };
    let timed_out = || unreachable(format!("timed out after {} s (connect_timeout)", limit.as_secs_f32()), false);
    let (stream, address) = match timeout_at(deadline, connect(host)).await {
        Err(_) => return Err(Failed { error: timed_out(), conn: None }),
        Ok(Err(error)) => {
            let refused = matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
            return Err(Failed { error: unreachable(describe(&error), refused), conn: None });
        }
        Ok(Ok(connected)) => connected,
    };
    registry.counters.opened.add();
    let mut conn = Conn::new(stream, Arc::clone(&registry.buffers));
    // Options that can't be set cost comfort, not correctness.
    let _ = conn.stream().set_upstream_options(settings.keepalive, settings.tcp_user_timeout);
    let outcome = timeout_at(deadline, log_in(&mut conn, login, settings.upstream.minor))
        .await
        .unwrap_or_else(|_| Err(timed_out()));
    match outcome {
        Ok(session) => Ok(Dialled {
            conn,
            address,
            params: session.params,
            pid: session.pid,
            secret: session.secret,
            password: session.password,
        }),
        Err(error) => Err(Failed { error, conn: Some(conn) }),
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "Connection refused".into(),
        io::ErrorKind::AddrNotAvailable => "Cannot assign requested address (no ephemeral port is free)".into(),
        _ => error.to_string(),
    }
}

async fn connect(host: &Host) -> io::Result<(Stream, Address)> {
    match host {
        Host::Unix(dir, port) => {
            let path = dir.join(format!(".s.PGSQL.{port}"));
            let stream = UnixStream::connect(&path).await?;
            Ok((Stream::Unix(stream), Address::Unix(path)))
        }
        Host::Tcp(name, port) => {
            let addresses: Vec<SocketAddr> = lookup_host((name.as_str(), *port)).await?.collect();
            let (stream, address) = connect_any(&addresses).await?;
            Ok((Stream::Tcp(stream), Address::Tcp(address)))
        }
    }
}

/// Tries addresses in order, each a little after the one before; the first that answers wins.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
    if let [only] = *addresses {
        return TcpStream::connect(only).await.map(|stream| (stream, only));
    }
    let mut attempts = JoinSet::new();
    for (nth, &address) in (0u32..).zip(addresses) {
        attempts.spawn(async move {
            sleep(NEXT_ADDRESS * nth).await;
            TcpStream::connect(address).await.map(|stream| (stream, address))
        });
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    while let Some(outcome) = attempts.join_next().await {
        match outcome {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => last = error,
            Err(error) => last = io::Error::other(error),
        }
    }
    Err(last)
}

/// What a login yields.
#[derive(Default)]
struct Session {
    params: Params,
    pid: i32,
    secret: Box<[u8]>,
    password: Option<Password>,
}

async fn log_in(conn: &mut Conn, login: Login, minor: u16) -> Result<Session, DialError> {
    let user = login.user;
    let params = login.params.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    frontend::put_startup(&mut conn.output, minor, [(&b"user"[..], user.as_slice())].into_iter().chain(params));
    conn.flush().await?;
    let mut session = Session::default();
    let mut secret = Some(login.secret);
    loop {
        // Its secret may be longer than the library expects.
        if let Some((pid, secret)) = key_data(conn).await? {
            (session.pid, session.secret) = (pid, secret);
            continue;
        }
        let Some(message) = receive(conn, session.password.as_ref()).await? else { continue };
        match message {
            Message::AuthenticationOk => {}
            Message::AuthenticationCleartextPassword => {
                let password = password_from(secret.take()).await?;
                send_password(conn, password.expose()).await?;
                session.password = Some(password);
            }
            Message::AuthenticationMd5Password(body) => {
                let password = password_from(secret.take()).await?;
                send_password(conn, md5_hash(&user, password.expose(), body.salt()).as_bytes()).await?;
                session.password = Some(password);
            }
            Message::AuthenticationSasl(body) => {
                let mut mechanisms = body.mechanisms();
                let mut scram = false;
                while let Some(name) = fallible_iterator_next(&mut mechanisms)? {
                    scram |= name == sasl::SCRAM_SHA_256;
                }
                if !scram {
                    return Err(unknown_method("SASL without SCRAM-SHA-256"));
                }
                let password = password_from(secret.take()).await?;
                session.password = Some(password.clone());
                scram_sha_256(conn, &password).await?;
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
async fn receive(conn: &mut Conn, password: Option<&Password>) -> Result<Option<Message>, DialError> {
    let frame = conn.peek_frame(LOGIN_LIMIT).await?;
    let (tag, size) = (frame.tag, frame.bytes.len());
    if tag == backend::ERROR {
        let fault = Fault::Upstream(frame.bytes.into());
        conn.consume(size);
        return Err(DialError::Refused(fault, password.cloned()));
    }
    let mut bytes = BytesMut::from(frame.bytes);
    conn.consume(size);
    match tag {
        backend::NOTICE | backend::NEGOTIATE => Ok(None),
        _ => Ok(Message::parse(&mut bytes)?),
    }
}

/// `postgres-protocol`'s iterators are fallible ones; this is all of that trait that is needed.
fn fallible_iterator_next<'a>(
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

async fn password_from(secret: Option<Secret>) -> Result<Password, DialError> {
    match secret {
        Some(Secret::Known(password)) => Ok(password),
        Some(Secret::Ask(ask)) => ask.password().await.ok_or(DialError::ClientGone),
        Some(Secret::None) => Err(DialError::NoPassword),
        None => Err(DialError::Protocol("the server asks for the password twice".into())),
    }
}

async fn send_password(conn: &mut Conn, password: &[u8]) -> Result<(), DialError> {
    let mut out = BytesMut::new();
    protocol::password_message(password, &mut out)?;
    send(conn, &out).await
}

async fn send(conn: &mut Conn, bytes: &[u8]) -> Result<(), DialError> {
    conn.output.extend_from_slice(bytes);
    conn.flush().await?;
    Ok(())
}

async fn scram_sha_256(conn: &mut Conn, password: &Password) -> Result<(), DialError> {
    let mut scram = ScramSha256::new(password.expose(), ChannelBinding::unsupported());
    let mut out = BytesMut::new();
    protocol::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), &mut out)?;
    send(conn, &out).await?;
    let first = loop {
        match receive(conn, Some(password)).await? {
            Some(Message::AuthenticationSaslContinue(body)) => break body,
            None => {}
            Some(_) => return Err(DialError::Protocol("no SCRAM server-first-message".into())),
        }
    };
    // Thousands of rounds of hashing: milliseconds that must not hold up everybody else's data.
    let scram = spawn_blocking(move || scram.update(first.data()).map(|()| scram)).await;
    let mut scram = scram.map_err(io::Error::other)??;
    let mut out = BytesMut::new();
    protocol::sasl_response(scram.message(), &mut out)?;
    send(conn, &out).await?;
    loop {
        match receive(conn, Some(password)).await? {
            Some(Message::AuthenticationSaslFinal(body)) => return Ok(scram.finish(body.data())?),
            None => {}
            Some(_) => return Err(DialError::Protocol("no SCRAM server-final-message".into())),
        }
    }
}
