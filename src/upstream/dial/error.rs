//! Why there is no connection, whether waiting may help, and what a client is told.

use std::io;

use crate::auth::Credential;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::{Conn, RecvError};
use crate::track::server_state::CloseMethod;
use crate::upstream::close::CloseReason;
use crate::upstream::counters::Counters;
use crate::upstream::server_conn::ServerConn;
use crate::upstream::server_tls::{describe, tls_error};
use crate::wire::backend;
use crate::wire::frame::HEADER_BYTES;

/// Reason why there is no connection.
#[derive(Clone, Debug)]
pub(crate) enum DialError {
    /// The way to the server is blocked: no such host, refused, timed out.
    Unreachable {
        /// Host that was dialled.
        host: String,
        /// Reason why it failed.
        why: String,
        /// Kind of the obstacle.
        obstacle: Obstacle,
    },
    /// The server does not satisfy `target_session_attrs`.
    Misfit {
        /// Host.
        host: String,
        /// Cause, in libpq's words.
        why: &'static str,
    },
    /// The server refused, in its own words, and what it was given to log in with, if anything.
    Refused(ClientError, Option<Credential>),
    /// The connection can't be encrypted as it must be, or the server's identity is wrong; the reason.
    Untrusted(String),
    /// The credential can't be had, or is of no use with this server: the cause.
    Credential(String),
    /// The server asks for a password and there is none.
    NoPassword,
    /// The client that was asked for a password went away.
    ClientGone,
    /// The client that was asked for a password had not answered when other logins wanted the slot.
    Unanswered,
    /// The connection ended before the login did, as it does when the server goes down or comes up.
    Broke(String),
    /// The server says what it should not.
    Protocol(String),
}

/// Kinds of obstacles on the way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// No server listens: trying again soon costs next to nothing.
    NoServer,
    /// This host has no port for another connection there, whatever the server does.
    NoPort,
    /// Anything else.
    Other,
}

impl Obstacle {
    /// The obstacle that `error` of a socket that was to be connected shows.
    #[must_use]
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Self::NoServer,
            io::ErrorKind::AddrNotAvailable => Self::NoPort,
            _ => Self::Other,
        }
    }

    /// Names the place to look for the remedy.
    fn hint(self) -> &'static str {
        match self {
            Self::NoPort => {
                "This host has used up net.ipv4.ip_local_port_range for connections to that server: \"pgferry doctor\" shows by what."
            }
            Self::NoServer | Self::Other => {
                "Is PostgreSQL running there and does it accept TCP/IP connections? The setting is \"upstream\"."
            }
        }
    }
}

impl DialError {
    /// Returns whether waiting may help: the server is starting, full, or out of reach.
    #[must_use]
    pub(crate) fn may_pass(&self) -> bool {
        self.another_may_do() || self.is_full()
    }

    /// Returns whether the server has no connection left for this client: in all, for its role or for its database.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Refused(client_error, _) if client_error.code() == sqlstate::TOO_MANY_CONNECTIONS)
    }

    /// Returns whether the server has no connection left for clients like this one. Texts may be translated; the name of the function in
    /// PostgreSQL that complains is not.
    #[must_use]
    pub(crate) fn is_server_full(&self) -> bool {
        let of_role_or_database = |routine: &[u8]| matches!(routine, b"InitializeSessionUserId" | b"CheckMyDatabase");
        self.is_full() && !self.routine().is_some_and(of_role_or_database)
    }

    /// Name of the function in PostgreSQL that refused; poolers name none.
    fn routine(&self) -> Option<&[u8]> {
        match self {
            Self::Refused(ClientError::Server(frame), _) => {
                backend::error_field(frame.get(HEADER_BYTES..).unwrap_or_default(), b'R')
            }
            _ => None,
        }
    }

    /// Returns whether the server is just not up, so that frequent attempts are cheap and worth it.
    #[must_use]
    pub(crate) fn is_down(&self) -> bool {
        match self {
            Self::Unreachable { obstacle, .. } => *obstacle == Obstacle::NoServer,
            Self::Broke(_) | Self::Misfit { .. } => true,
            Self::Refused(client_error, _) => is_going_or_coming(client_error),
            _ => false,
        }
    }

    /// Returns whether PostgreSQL has said that it stops or starts (`57P03`). One that starts has no connections open; so those which are
    /// open there are what one that stops waits for. A pooler that says so may mean one of its databases.
    #[must_use]
    pub(crate) fn takes_no_connections(&self) -> bool {
        matches!(self, Self::Refused(told, _) if told.code() == sqlstate::CANNOT_CONNECT_NOW)
            && self.routine().is_some()
    }

    /// Returns whether another of several servers may do where this one does not.
    #[must_use]
    pub(crate) fn another_may_do(&self) -> bool {
        matches!(self, Self::Unreachable { .. }) || self.is_down()
    }

    /// None of several servers will do.
    #[must_use]
    pub(crate) fn all_hosts_failed(places: &str, tried: &[Self]) -> Self {
        let why = tried.iter().map(|error| match error {
            Self::Unreachable { host, why, .. } => format!("{host}: {why}"),
            Self::Misfit { host, why } => format!("{host}: {why}"),
            other => other.client_error().message(),
        });
        let why = why.collect::<Vec<_>>().join("; ");
        let obstacle = if tried.iter().all(Self::is_down) { Obstacle::NoServer } else { Obstacle::Other };
        Self::Unreachable { host: places.to_owned(), why, obstacle }
    }

    /// Returns whether the server refused the user or the password.
    #[must_use]
    pub(crate) fn is_credential(&self) -> bool {
        match self {
            Self::Refused(client_error, _) => {
                matches!(client_error.code().as_str(), sqlstate::INVALID_PASSWORD | sqlstate::INVALID_AUTHORIZATION)
            }
            Self::NoPassword | Self::Credential(_) => true,
            _ => false,
        }
    }

    /// Returns whether the server does not let the user in, and will not as things are.
    #[must_use]
    pub(crate) fn denies_login(&self) -> bool {
        match self {
            Self::Refused(client_error, _) => matches!(
                client_error.code().as_str(),
                sqlstate::INVALID_PASSWORD
                    | sqlstate::INVALID_AUTHORIZATION
                    | sqlstate::UNDEFINED_DATABASE
                    | sqlstate::INSUFFICIENT_PRIVILEGE
                    | sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE
            ),
            Self::NoPassword => true,
            _ => false,
        }
    }

    /// Returns whether the attempt was the client's failure: the server refused it, or the client left its question open.
    #[must_use]
    pub(crate) fn is_clients(&self) -> bool {
        match self {
            Self::Refused(..) => !self.may_pass(),
            Self::ClientGone | Self::Unanswered => true,
            _ => false,
        }
    }

    /// Returns what helps a client that has waited while it was tried again.
    #[must_use]
    pub(crate) fn hint_behind_wait(&self) -> &'static str {
        match self {
            Self::Unreachable { obstacle: obstacle @ Obstacle::NoPort, .. } => obstacle.hint(),
            _ => "Check that PostgreSQL is up and accepts connections; pgferry keeps trying.",
        }
    }

    /// Returns the error for clients.
    #[must_use]
    pub(crate) fn client_error(&self) -> ClientError {
        match self {
            Self::Refused(client_error, _) => client_error.clone(),
            Self::Unreachable { host, why, obstacle } => ClientError::fatal(
                ErrorSource::Server,
                sqlstate::UNABLE_TO_CONNECT,
                format!("could not connect to the upstream server at {host}: {why}"),
            )
            .hint(obstacle.hint()),
            Self::Misfit { host, why } => ClientError::fatal(
                ErrorSource::Server,
                sqlstate::UNABLE_TO_CONNECT,
                format!("the upstream server at {host} does not satisfy target_session_attrs: {why}"),
            )
            .hint("The setting is target_session_attrs in the upstream URL."),
            Self::Untrusted(why) => ClientError::fatal(
                ErrorSource::Server,
                sqlstate::UNABLE_TO_CONNECT,
                format!("could not connect securely to the upstream server: {why}"),
            )
            .hint(
                "The settings are sslmode and those that begin with ssl, channel_binding and require_auth, in the upstream URL or \
                 the configuration.",
            ),
            Self::Credential(why) => ClientError::fatal(
                ErrorSource::Server,
                sqlstate::INVALID_AUTHORIZATION,
                "pgferry can't log in to the upstream server for this user",
            )
            .detail(why.clone())
            .hint("The settings are upstream_password, upstream_password_file, password_command, passfile and users."),
            Self::Broke(why) => ClientError::fatal(ErrorSource::Server, sqlstate::UNABLE_TO_CONNECT, why.clone())
                .hint("Is it PostgreSQL that listens there, and is it up? The setting is \"upstream\"."),
            Self::NoPassword => ClientError::fatal(
                ErrorSource::Server,
                sqlstate::INVALID_AUTHORIZATION,
                "the upstream server asks for a password and there is none",
            )
            .hint(
                "Where clients bring none that could be used, the password comes from upstream_password, \
                 upstream_password_file, password_command or passfile.",
            ),
            Self::ClientGone => {
                ClientError::fatal(ErrorSource::Client, sqlstate::CONNECTION_FAILURE, "the client went away during login")
            }
            Self::Unanswered => {
                ClientError::fatal(ErrorSource::Client, sqlstate::CONNECTION_FAILURE, "the client did not answer in time")
            }
            Self::Protocol(why) => ClientError::fatal(
                ErrorSource::Server,
                sqlstate::PROTOCOL_VIOLATION,
                format!("unexpected answer from the upstream server: {why}"),
            )
            .hint("Is it PostgreSQL that listens there? The setting is \"upstream\"."),
        }
    }
}

impl From<RecvError> for DialError {
    fn from(error: RecvError) -> Self {
        let broke = |why: String| Self::Broke(format!("the connection broke during login: {why}"));
        match error {
            RecvError::Closed => broke("closed by the server".into()),
            // TLS 1.3 servers look at our certificate when we already believe to be connected.
            RecvError::Io(error) => match tls_error(&error) {
                Some(tls) => Self::Untrusted(describe(tls, "")),
                None => broke(error.to_string()),
            },
            RecvError::Length(bad) => Self::Protocol(bad.to_string()),
        }
    }
}

/// A failure, and the connection that it leaves to be closed.
#[derive(Debug)]
pub(crate) struct DialFailure {
    /// Reason why there is no connection to use.
    pub error: DialError,
    pub(super) conn: Option<Box<Conn>>,
}

impl DialFailure {
    /// A failure that leaves nothing to close.
    #[must_use]
    pub(crate) fn of(error: DialError) -> Self {
        Self { error, conn: None }
    }

    /// A failure of a connection that had been opened.
    #[must_use]
    pub(crate) fn with(error: DialError, conn: Conn) -> Self {
        Self { error, conn: Some(Box::new(conn)) }
    }

    /// The same failure, for the reason that `reason` makes of its own.
    #[must_use]
    pub(crate) fn map(self, reason: impl FnOnce(DialError) -> DialError) -> Self {
        Self { error: reason(self.error), ..self }
    }

    /// Closes what is left as any other connection: the server first.
    pub(crate) async fn close(self, counters: &Counters) {
        if let Some(conn) = self.conn {
            let how = ServerConn::close(*conn, CloseMethod::Terminate).await;
            counters.close(how, CloseReason::Login);
        }
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        RecvError::Io(error).into()
    }
}

/// The server is shutting down, crashing or starting: `57P01` to `57P03`.
fn is_going_or_coming(client_error: &ClientError) -> bool {
    matches!(
        client_error.code().as_str(),
        sqlstate::ADMIN_SHUTDOWN | sqlstate::CRASH_SHUTDOWN | sqlstate::CANNOT_CONNECT_NOW
    )
}
