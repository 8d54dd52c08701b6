//! Configuration: as written, then resolved, then compared.
//!
//! - [`keys`]: the one table of settings: name, default, meaning. Everything else is derived from it.
//! - [`source`]: where a value was written (flag, environment, file, default) and which one wins.
//! - [`url`]: the upstream's connection URI, in libpq's forms.
//! - [`encryption`], [`require_auth`]: TLS towards the upstream, and how it may have logins proved, in libpq's terms.
//! - [`rule`]: who may come in, and how they prove who they are.
//! - [`user`]: what is said of one user.
//! - [`value`]: parsers for single values: durations, modes, addresses.
//! - `tables`, `reader`: the file's tables, and how values are found and understood.
//! - [`settings`]: what the program works with: resolved, checked, immutable; `check` holds them against each
//!   other, `reload` against those before.

mod check;
pub mod encryption;
pub mod keys;
mod reader;
mod reload;
mod renamed;
pub mod require_auth;
pub mod rule;
pub mod settings;
pub mod source;
mod tables;
pub mod url;
pub mod user;
pub mod value;

pub use check::CONSOLE;
pub use encryption::{Binding, Encryption, Negotiation, SslMode};
pub use require_auth::{LoginMethod, RequireAuth};
pub use rule::{Caller, CertName, Rule, Transport};
pub use settings::Settings;
pub use source::{ConfigError, Written};
pub use url::{Endpoint, Host, Upstream};
pub use user::Limits;
pub use value::{AdminListen, Auth, Listen, LogFormat, Mode, PeerRule, Pin, Reset, Target};
