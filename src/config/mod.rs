//! Configuration: as written, then resolved, then compared.
//!
//! - [`keys`]: the one table of settings: name, default, meaning. Everything else is derived from it.
//! - [`source`]: where a value was written (flag, environment, file, default) and which one wins; [`written_value`] is one of them,
//!   [`error`] what is wrong with it.
//! - [`url`]: the upstream's connection URI, in libpq's forms.
//! - [`encryption`], [`require_auth`]: TLS towards the upstream, and how it may have logins proved, in libpq's terms.
//! - [`rule`]: the rules by which clients log in.
//! - [`user`]: what is said of one user.
//! - [`address`]: where clients connect; `contact` where other processes find a running pgferry.
//! - [`value`]: parsers for single values: durations, modes, addresses.
//! - `tables`, `reader`: the file's tables, and how values are found and understood.
//! - [`settings`]: what the program works with: resolved, checked, immutable; [`setting_groups`] are its parts; `check` holds them against each
//!   other, `reload` against those before; `advice` is about what is hardly meant.

pub(crate) mod address;
mod advice;
mod check;
mod contact;
pub(crate) mod encryption;
pub(crate) mod error;
pub(crate) mod keys;
mod reader;
mod reload;
mod renamed;
pub(crate) mod require_auth;
pub(crate) mod rule;
pub(crate) mod setting_groups;
pub(crate) mod settings;
pub(crate) mod socket_path;
pub(crate) mod source;
mod tables;
pub(crate) mod url;
pub(crate) mod user;
pub(crate) mod value;
pub(crate) mod written_value;

pub(crate) use address::ClientAddress;
pub(crate) use check::CONSOLE;
pub(crate) use contact::Contact;
pub(crate) use encryption::{Binding, Encryption, Negotiation, SslMode};
pub(crate) use error::ConfigError;
pub(crate) use require_auth::{LoginMethod, RequireAuth};
pub(crate) use rule::{CertName, ClientIdentity, Network, Rule, Transport};
pub(crate) use settings::Settings;
pub(crate) use source::RawConfig;
pub(crate) use url::{Endpoint, Host, Upstream};
pub(crate) use value::{
    AdminListen, Auth, ClientTls, Listen, LogFormat, Mode, PeerRule, Pin, Reset, TargetSessionAttrs,
};
