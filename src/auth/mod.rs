//! Who may come in, pure: no sockets, no `async`.
//!
//! - [`secret`]: passwords that are wiped and never printed, and the process's own key.
//! - [`verified`]: what is remembered of a user's password, so that most logins need no upstream connection.
//! - [`scram`]: both halves of SCRAM-SHA-256.
//! - [`md5`]: PostgreSQL's older passwords.
//! - [`pgpass`]: password files.
//! - [`stored`]: passwords as they are stored, and PgBouncer's file of them.
//! - [`bucket`]: how often something may be tried.
//! - [`attempts`]: wrong answers, by where they come from.

pub mod attempts;
pub mod bucket;
pub mod md5;
pub mod pgpass;
pub mod scram;
pub mod secret;
pub mod stored;
pub mod verified;

pub use attempts::{Source, WrongAnswers};
pub use bucket::Bucket;
pub use md5::Md5Secret;
pub use secret::{Credential, Mac, Password, ProcessKey};
pub use stored::Stored;
pub use verified::Verified;
