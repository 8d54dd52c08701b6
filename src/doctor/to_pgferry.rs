//! The way to a pgferry that runs here, as its clients go.

use crate::config::{Encryption, Endpoint, Host, Listen, Settings, SslMode};

/// Settings by which a client would connect to the pgferry that listens as `settings` say; `None` where it has only listeners
/// without a file or an address.
pub(super) fn through(settings: &Settings) -> Option<Settings> {
    let host = settings.listen.listen.iter().find_map(|listen| match listen {
        Listen::Dir(dir) => Some(Host::Unix(dir.clone(), *settings.listen.ports.all().first()?)),
        Listen::Tcp(address) => Some(Host::Tcp(address.ip().to_string(), address.port())),
        Listen::Abstract(_) => None,
    })?;
    let mut through = settings.clone();
    through.upstream.url.endpoints = vec![Endpoint { host, address: None }];
    through.upstream.url.encryption = Encryption { mode: Some(SslMode::Disable), ..Encryption::default() };
    Some(through)
}
