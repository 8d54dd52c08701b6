//! Errors for clients: SQLSTATE, cause, hint, and source.

use std::fmt;
use std::sync::Arc;

use crate::system_error::without_numbers;
use crate::wire::backend;
use crate::wire::frame::HEADER_BYTES;

/// SQLSTATEs that pgferry raises itself, named as in PostgreSQL's manual, appendix "Error Codes".
pub(crate) mod sqlstate {
    /// The class of those about connections.
    pub(crate) const CONNECTION_EXCEPTIONS: &str = "08";
    /// `connection_failure`.
    pub const CONNECTION_FAILURE: &str = "08006";
    /// `sqlclient_unable_to_establish_sqlconnection`.
    pub(crate) const UNABLE_TO_CONNECT: &str = "08001";
    /// `protocol_violation`.
    pub(crate) const PROTOCOL_VIOLATION: &str = "08P01";
    /// `feature_not_supported`.
    pub(crate) const FEATURE_NOT_SUPPORTED: &str = "0A000";
    /// `invalid_authorization_specification`.
    pub(crate) const INVALID_AUTHORIZATION: &str = "28000";
    /// `invalid_password`.
    pub(crate) const INVALID_PASSWORD: &str = "28P01";
    /// `invalid_parameter_value`.
    pub(crate) const INVALID_PARAMETER: &str = "22023";
    /// `invalid_sql_statement_name`.
    pub(crate) const UNDEFINED_STATEMENT: &str = "26000";
    /// `duplicate_prepared_statement`.
    pub(crate) const DUPLICATE_STATEMENT: &str = "42P05";
    /// A command in a transaction that has failed.
    pub(crate) const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
    /// A session that was idle for longer than `idle_session_timeout`.
    pub(crate) const IDLE_SESSION_TIMEOUT: &str = "57P05";
    /// `too_many_connections`.
    pub const TOO_MANY_CONNECTIONS: &str = "53300";
    /// `invalid_cursor_name`.
    pub(crate) const UNDEFINED_CURSOR: &str = "34000";
    /// `invalid_catalog_name`.
    pub(crate) const UNDEFINED_DATABASE: &str = "3D000";
    /// `program_limit_exceeded`.
    pub(crate) const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    /// `insufficient_privilege`.
    pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";
    /// `syntax_error`.
    pub(crate) const SYNTAX_ERROR: &str = "42601";
    /// `config_file_error`.
    pub(crate) const CONFIG_FILE_ERROR: &str = "F0000";
    /// `object_not_in_prerequisite_state`.
    pub(crate) const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
    /// `cant_change_runtime_param`.
    pub(crate) const CANT_CHANGE_RUNTIME_PARAM: &str = "55P02";
    /// `undefined_object`.
    pub(crate) const UNDEFINED_OBJECT: &str = "42704";
    /// `query_canceled`.
    pub const QUERY_CANCELED: &str = "57014";
    /// `admin_shutdown`.
    pub(crate) const ADMIN_SHUTDOWN: &str = "57P01";
    /// `crash_shutdown`.
    pub(crate) const CRASH_SHUTDOWN: &str = "57P02";
    /// `cannot_connect_now`.
    pub(crate) const CANNOT_CONNECT_NOW: &str = "57P03";
    /// `internal_error`.
    pub(crate) const INTERNAL: &str = "XX000";
}

/// Severity of an error: does it end the connection?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the session goes on.
    Error,
    /// The session is over.
    Fatal,
}

/// Source of an error: decides the level at which it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorSource {
    /// The client: its own business.
    Client,
    /// The upstream, or the way to it.
    Server,
    /// The limits in force.
    Limits,
}

/// An error for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// The upstream's own `ErrorResponse`, passed on as it came.
    Server(Arc<[u8]>),
    /// An error that pgferry raises.
    Proxy(Box<Proxy>),
}

/// The parts of an error that pgferry raises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Severity.
    pub severity: Severity,
    /// The SQLSTATE.
    pub code: &'static str,
    /// The source of the error.
    pub error_source: ErrorSource,
    /// Message: the cause.
    pub message: String,
    /// Particulars.
    pub detail: Option<String>,
    /// Hint: the remedy.
    pub hint: Option<String>,
}

impl ClientError {
    /// A FATAL error.
    #[must_use]
    pub fn fatal(error_source: ErrorSource, code: &'static str, message: impl Into<String>) -> Self {
        Self::proxy(Severity::Fatal, error_source, code, &message.into())
    }

    /// An ERROR that leaves the session usable.
    #[must_use]
    pub fn error(error_source: ErrorSource, code: &'static str, message: impl Into<String>) -> Self {
        Self::proxy(Severity::Error, error_source, code, &message.into())
    }

    /// A FATAL error for a client that breaks the protocol.
    #[must_use]
    pub fn violation(message: impl Into<String>) -> Self {
        Self::fatal(ErrorSource::Client, sqlstate::PROTOCOL_VIOLATION, message)
    }

    /// A FATAL error for a message of a type that PostgreSQL does not know; the words are PostgreSQL's.
    #[must_use]
    pub fn unknown_message(tag: u8) -> Self {
        Self::violation(format!("invalid frontend message type {tag}"))
    }

    /// The upstream's `ErrorResponse` in `frame`, as one that ends the connection.
    #[must_use]
    pub fn upstream_fatal(frame: &[u8]) -> Self {
        let mut fatal = Vec::new();
        backend::put_error_as_fatal(&mut fatal, frame.get(HEADER_BYTES..).unwrap_or_default());
        Self::Server(fatal.into())
    }

    fn proxy(severity: Severity, error_source: ErrorSource, code: &'static str, message: &str) -> Self {
        let message = without_numbers(message).into_owned();
        Self::Proxy(Box::new(Proxy { severity, code, error_source, message, detail: None, hint: None }))
    }

    /// Adds particulars.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        if let Self::Proxy(proxy) = &mut self {
            proxy.detail = Some(without_numbers(&detail.into()).into_owned());
        }
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Proxy(proxy) = &mut self {
            proxy.hint = Some(hint.into());
        }
        self
    }

    /// The same error, ending the connection.
    #[must_use]
    pub fn into_fatal(mut self) -> Self {
        if let Self::Proxy(proxy) = &mut self {
            proxy.severity = Severity::Fatal;
        }
        self
    }

    /// Appends the `ErrorResponse`.
    pub fn put(&self, out: &mut Vec<u8>) {
        let proxy = match self {
            Self::Server(frame) => return out.extend_from_slice(frame),
            Self::Proxy(proxy) => proxy,
        };
        let severity = match proxy.severity {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        let mut fields = vec![(b'S', severity), (b'V', severity), (b'C', proxy.code), (b'M', proxy.message.as_str())];
        fields.extend(proxy.detail.as_deref().map(|detail| (b'D', detail)));
        fields.extend(proxy.hint.as_deref().map(|hint| (b'H', hint)));
        backend::put_error(out, &fields);
    }

    /// The SQLSTATE; empty where the upstream sent none.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Server(frame) => field(frame, b'C'),
            Self::Proxy(proxy) => proxy.code.to_owned(),
        }
    }

    /// The message's text.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Server(frame) => field(frame, b'M'),
            Self::Proxy(proxy) => proxy.message.clone(),
        }
    }

    /// The source of the error.
    #[must_use]
    pub fn error_source(&self) -> ErrorSource {
        match self {
            Self::Server(_) => ErrorSource::Server,
            Self::Proxy(proxy) => proxy.error_source,
        }
    }
}

fn field(frame: &[u8], field: u8) -> String {
    let value = frame.get(HEADER_BYTES..).and_then(|body| backend::error_field(body, field));
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message(), self.code())?;
        if let Self::Proxy(proxy) = self {
            if let Some(detail) = &proxy.detail {
                write!(f, "; {detail}")?;
            }
            if let Some(hint) = &proxy.hint {
                write!(f, "; hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ClientError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_sent() {
        let client_error = ClientError::error(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, "m")
            .detail("d")
            .hint("h")
            .into_fatal();
        let mut out = Vec::new();
        client_error.put(&mut out);
        for (kind, value) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "53300"), (b'M', "m"), (b'D', "d"), (b'H', "h")]
        {
            assert_eq!(backend::error_field(&out[5..], kind), Some(value.as_bytes()));
        }
        assert_eq!(client_error.to_string(), "m (53300); d; hint: h");
        let passed_on = ClientError::Server(out.clone().into());
        assert_eq!((passed_on.code().as_str(), passed_on.message().as_str()), ("53300", "m"));
    }
}
