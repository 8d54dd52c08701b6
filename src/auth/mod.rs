//! Who may come in, pure: no sockets, no `async`.
//!
//! - [`secret`]: passwords that are wiped and never printed, and the process's own key.
//! - [`verified`]: what is remembered of a user's password, so that most logins need no upstream connection.
//! - [`bucket`]: how often something may be tried.

pub mod bucket;
pub mod secret;
pub mod verified;

pub use bucket::Bucket;
pub use secret::{Mac, Password, ProcessKey};
pub use verified::Verified;
