//! What a client is told when something fails: SQLSTATE, cause and hint, and who is to blame.

use std::fmt;
use std::sync::Arc;

use crate::wire::backend;
use crate::wire::frame::HEADER;

/// SQLSTATEs that pgferry raises itself, named as in PostgreSQL's manual, appendix "Error Codes".
pub mod sqlstate {
    /// `connection_failure`.
    pub const CONNECTION_FAILURE: &str = "08006";
    /// `sqlclient_unable_to_establish_sqlconnection`.
    pub const UNABLE_TO_CONNECT: &str = "08001";
    /// `protocol_violation`.
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    /// `feature_not_supported`.
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    /// `invalid_authorization_specification`.
    pub const INVALID_AUTHORIZATION: &str = "28000";
    /// `invalid_password`.
    pub const INVALID_PASSWORD: &str = "28P01";
    /// `invalid_parameter_value`.
    pub const INVALID_PARAMETER: &str = "22023";
    /// `invalid_sql_statement_name`.
    pub const UNDEFINED_STATEMENT: &str = "26000";
    /// A prepared statement whose name is taken.
    pub const DUPLICATE_STATEMENT: &str = "42P05";
    /// A command in a transaction that has failed.
    pub const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
    /// A session that was idle for longer than `idle_session_timeout`.
    pub const IDLE_SESSION_TIMEOUT: &str = "57P05";
    /// `too_many_connections`.
    pub const TOO_MANY_CONNECTIONS: &str = "53300";
    /// `invalid_cursor_name`.
    pub const UNDEFINED_CURSOR: &str = "34000";
    /// `invalid_catalog_name`.
    pub const UNDEFINED_DATABASE: &str = "3D000";
    /// `program_limit_exceeded`.
    pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    /// `insufficient_privilege`.
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    /// `syntax_error`.
    pub const SYNTAX_ERROR: &str = "42601";
    /// `config_file_error`.
    pub const CONFIG_FILE_ERROR: &str = "F0000";
    /// `object_not_in_prerequisite_state`.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
    /// `cant_change_runtime_param`.
    pub const CANT_CHANGE_RUNTIME_PARAM: &str = "55P02";
    /// `undefined_object`.
    pub const UNDEFINED_OBJECT: &str = "42704";
    /// `query_canceled`.
    pub const QUERY_CANCELED: &str = "57014";
    /// `admin_shutdown`.
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    /// `crash_shutdown`.
    pub const CRASH_SHUTDOWN: &str = "57P02";
    /// `cannot_connect_now`.
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    /// `internal_error`.
    pub const INTERNAL: &str = "XX000";
}

/// Whether an error ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the session goes on.
    Error,
    /// The session is over.
    Fatal,
}

/// Who is to blame: decides how loudly it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client: its own business.
    Client,
    /// The upstream, or the way to it.
    Upstream,
    /// The limits in force.
    Limits,
}

/// An error for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The upstream's own `ErrorResponse`, passed on as it came.
    Upstream(Arc<[u8]>),
    /// An error that pgferry raises.
    Ours(Box<Ours>),
}

/// The parts of an error that pgferry raises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ours {
    /// Whether the connection ends.
    pub severity: Severity,
    /// The SQLSTATE.
    pub code: &'static str,
    /// Who is to blame.
    pub blame: Blame,
    /// What went wrong.
    pub message: String,
    /// Particulars.
    pub detail: Option<String>,
    /// What would help.
    pub hint: Option<String>,
}

impl Fault {
    /// A FATAL error.
    #[must_use]
    pub fn fatal(blame: Blame, code: &'static str, message: impl Into<String>) -> Self {
        Self::ours(Severity::Fatal, blame, code, message.into())
    }

    /// An ERROR that leaves the session usable.
    #[must_use]
    pub fn error(blame: Blame, code: &'static str, message: impl Into<String>) -> Self {
        Self::ours(Severity::Error, blame, code, message.into())
    }

    /// A FATAL error for a client that breaks the protocol.
    #[must_use]
    pub fn violation(message: impl Into<String>) -> Self {
        Self::fatal(Blame::Client, sqlstate::PROTOCOL_VIOLATION, message)
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
        backend::put_error_as_fatal(&mut fatal, frame.get(HEADER..).unwrap_or_default());
        Self::Upstream(fatal.into())
    }

    fn ours(severity: Severity, blame: Blame, code: &'static str, message: String) -> Self {
        Self::Ours(Box::new(Ours { severity, code, blame, message, detail: None, hint: None }))
    }

    /// Adds particulars.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        if let Self::Ours(ours) = &mut self {
            ours.detail = Some(detail.into());
        }
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Ours(ours) = &mut self {
            ours.hint = Some(hint.into());
        }
        self
    }

    /// The same error, ending the connection.
    #[must_use]
    pub fn into_fatal(mut self) -> Self {
        if let Self::Ours(ours) = &mut self {
            ours.severity = Severity::Fatal;
        }
        self
    }

    /// Appends the `ErrorResponse`.
    pub fn put(&self, out: &mut Vec<u8>) {
        let ours = match self {
            Self::Upstream(frame) => return out.extend_from_slice(frame),
            Self::Ours(ours) => ours,
        };
        let severity = match ours.severity {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        let mut fields = vec![(b'S', severity), (b'V', severity), (b'C', ours.code), (b'M', ours.message.as_str())];
        fields.extend(ours.detail.as_deref().map(|detail| (b'D', detail)));
        fields.extend(ours.hint.as_deref().map(|hint| (b'H', hint)));
        backend::put_error(out, &fields);
    }

    /// The SQLSTATE; empty where the upstream sent none.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Upstream(frame) => field(frame, b'C'),
            Self::Ours(ours) => ours.code.to_owned(),
        }
    }

    /// The message's text.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Upstream(frame) => field(frame, b'M'),
            Self::Ours(ours) => ours.message.clone(),
        }
    }

    /// Who is to blame.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Upstream(_) => Blame::Upstream,
            Self::Ours(ours) => ours.blame,
        }
    }
}

fn field(frame: &[u8], field: u8) -> String {
    let value = frame.get(HEADER..).and_then(|body| backend::error_field(body, field));
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message(), self.code())?;
        if let Self::Ours(ours) = self {
            if let Some(detail) = &ours.detail {
                write!(f, "; {detail}")?;
            }
            if let Some(hint) = &ours.hint {
                write!(f, "; hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_sent() {
        let fault = Fault::error(Blame::Limits, sqlstate::TOO_MANY_CONNECTIONS, "m").detail("d").hint("h").into_fatal();
        let mut out = Vec::new();
        fault.put(&mut out);
        for (kind, value) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "53300"), (b'M', "m"), (b'D', "d"), (b'H', "h")]
        {
            assert_eq!(backend::error_field(&out[5..], kind), Some(value.as_bytes()));
        }
        assert_eq!(fault.to_string(), "m (53300); d; hint: h");
        let passed_on = Fault::Upstream(out.clone().into());
        assert_eq!((passed_on.code().as_str(), passed_on.message().as_str()), ("53300", "m"));
    }
}
