//! Configuration: as written, then resolved, then compared.
//!
//! - [`keys`]: the one table of settings: name, default, meaning. Everything else is derived from it.
//! - [`source`]: where a value was written (flag, environment, file, default) and which one wins.
//! - [`url`]: the upstream's connection URI, in libpq's forms.
//! - [`encryption`]: TLS towards the upstream, in libpq's terms.
//! - [`value`]: parsers for single values: durations, modes, addresses.
//! - [`settings`]: what the program works with: resolved, checked, immutable.

pub mod encryption;
pub mod keys;
pub mod settings;
pub mod source;
pub mod url;
pub mod value;

pub use encryption::{Binding, Encryption, Negotiation, SslMode};
pub use settings::Settings;
pub use source::{ConfigError, Written};
pub use url::{Host, Upstream};
pub use value::{Auth, Listen, LogFormat, Mode, PeerRule, Pin, Reset};
