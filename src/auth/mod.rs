//! Authentication, pure: no sockets, no `async`.
//!
//! - [`secret`]: passwords that are wiped and never printed, and the process's own key.
//! - [`verified`]: what is remembered of a user's password, so that most logins need no upstream connection.
//! - [`scram`]: both halves of SCRAM-SHA-256.
//! - [`md5`]: PostgreSQL's older passwords.
//! - [`pgpass`]: password files.
//! - [`stored`]: passwords as they are stored, and PgBouncer's file of them.
//! - [`bucket`]: how often something may be tried.
//! - [`attempts`]: wrong answers, by where they come from.

pub(crate) mod attempts;
pub(crate) mod bucket;
pub(crate) mod md5;
pub(crate) mod pgpass;
pub(crate) mod scram;
pub(crate) mod secret;
pub(crate) mod stored;
pub(crate) mod verified;

pub(crate) use attempts::{Check, Source, WrongAnswers};
pub(crate) use bucket::Bucket;
pub(crate) use md5::Md5Secret;
pub(crate) use secret::{Credential, Password, ProcessKey};
pub(crate) use stored::Stored;
pub(crate) use verified::Verified;
