//! TLS as clients are offered it: to which of them, and with which certificate.

use std::sync::Arc;

use crate::config::{ClientTls, Settings, value};
use crate::net::tls::{CertificateOrigin, Server, ServerOptions, Version};
use crate::net::{Peer, Stream};

/// TLS for the clients that ask for it.
#[derive(Debug)]
pub(crate) struct TlsOffer {
    over_tcp: bool,
    oldest: Version,
    /// `None` where it is offered to none.
    server: Option<Arc<Server>>,
}

impl TlsOffer {
    /// The offer that `settings` describe: with the certificate that they name, or else with one made here. One that was made for
    /// the `former` offer stays.
    ///
    /// # Errors
    /// When the certificate can't be used, or none can be made: why.
    pub(crate) fn new(settings: &Settings, former: Option<&Self>) -> Result<Self, String> {
        let oldest = settings.tls.client_tls_min_protocol_version;
        let former = former.filter(|former| former.oldest == oldest).and_then(|former| former.server.clone());
        let made = former.filter(|server| server.origin() == CertificateOrigin::SelfSigned);
        let server =
            match (settings.tls.client_tls, &settings.tls.client_tls_cert_file, &settings.tls.client_tls_key_file) {
                (ClientTls::Off, ..) => None,
                (_, Some(certificate), Some(key)) => Some(Arc::new(Server::new(ServerOptions {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    client_roots: settings.tls.client_tls_ca_file.clone(),
                    oldest,
                })?)),
                _ => Some(made.map_or_else(|| Server::self_signed(oldest).map(Arc::new), Ok)?),
            };
        Ok(Self { over_tcp: settings.tls.client_tls == ClientTls::Auto, oldest, server })
    }

    /// Returns the TLS server for the client behind `stream`; `None` where TLS is declined.
    ///
    /// PostgreSQL has no TLS on unix sockets, and libpq never asks there. Drivers that do ask leave when they are told no. A
    /// certificate that proves nothing is for this machine: across a network it would only look safe.
    #[must_use]
    pub(crate) fn to(&self, stream: &Stream) -> Option<&Server> {
        let server = self.server.as_deref()?;
        let is_offered = match stream.peer() {
            Ok(Peer::Unix { .. }) => true,
            Ok(Peer::Tcp(address)) => {
                self.over_tcp && (server.origin() == CertificateOrigin::Configured || value::is_loopback(address.ip()))
            }
            // Gone already.
            Err(_) => false,
        };
        is_offered.then_some(server)
    }
}
