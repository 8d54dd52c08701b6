//! TLS as clients are offered it: to which of them, and with which certificate.

use crate::config::{ClientTls, Settings, value};
use crate::net::tls::{CertificateOrigin, Server, ServerOptions};
use crate::net::{Peer, Stream};

/// TLS for the clients that ask for it.
#[derive(Debug)]
pub(crate) struct TlsOffer {
    over_tcp: bool,
    /// `None` where it is offered to none.
    server: Option<Server>,
}

impl TlsOffer {
    /// The offer that `settings` describe: with the certificate that they name, or else with one made here.
    ///
    /// # Errors
    /// When the certificate can't be used, or none can be made: why.
    pub(crate) fn new(settings: &Settings) -> Result<Self, String> {
        let server = match (settings.client_tls, &settings.client_tls_cert_file, &settings.client_tls_key_file) {
            (ClientTls::Off, ..) => None,
            (_, Some(certificate), Some(key)) => Some(Server::new(ServerOptions {
                certificate: certificate.clone(),
                key: key.clone(),
                client_roots: settings.client_tls_ca_file.clone(),
                oldest: settings.client_tls_min_protocol_version,
            })?),
            _ => Some(Server::self_signed(settings.client_tls_min_protocol_version)?),
        };
        Ok(Self { over_tcp: settings.client_tls == ClientTls::Auto, server })
    }

    /// What encrypts the connection of the client behind `stream`; `None` where it is told that there is no TLS.
    ///
    /// PostgreSQL has no TLS on unix sockets, and libpq never asks there. Drivers that do ask leave when they are told no. A
    /// certificate that proves nothing is for this machine: across a network it would only look safe.
    #[must_use]
    pub(crate) fn to(&self, stream: &Stream) -> Option<&Server> {
        let server = self.server.as_ref()?;
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
