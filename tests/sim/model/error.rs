//! Errors and notices, as `ereport` makes them.

use std::borrow::Cow;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Notice,
    Warning,
    Error,
    Fatal,
}

impl Severity {
    pub fn word(self) -> &'static str {
        match self {
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// What an ErrorResponse or NoticeResponse says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub severity: Severity,
    pub code: &'static str,
    pub message: Cow<'static, str>,
}

impl Report {
    pub fn error(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Error, code, message: message.into() }
    }

    pub fn fatal(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Fatal, code, message: message.into() }
    }

    pub fn warning(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Warning, code, message: message.into() }
    }

    pub fn notice(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Notice, code, message: message.into() }
    }
}

/// Why work on a message stops before its end.
#[derive(Clone, Debug)]
pub enum Stop {
    /// An error, which aborts the transaction; a fatal one ends the session.
    Error(Report),
    /// It must wait for a lock. The work begins anew when that may be free: nothing has happened yet.
    Wait(super::lock::Wait),
}

impl From<Report> for Stop {
    fn from(report: Report) -> Self {
        Self::Error(report)
    }
}

/// Stops with an error.
pub fn fail<T>(code: &'static str, message: impl Into<Cow<'static, str>>) -> Result<T, Stop> {
    Err(Stop::Error(Report::error(code, message)))
}
