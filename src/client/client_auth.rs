//! What clients meet before they are let in: the certificate that they are shown, the secrets that they must know.

use super::secrets::Secrets;
use crate::config::Settings;
use crate::net::tls::{Server, ServerOptions};
use crate::offload::Lane;

/// What clients meet before they are let in.
#[derive(Debug)]
pub(crate) struct ClientAuth {
    /// Encrypts connections over TCP, where a certificate is configured.
    pub tls: Option<Server>,
    /// What they must know.
    pub secrets: Secrets,
    /// Where the names of users of this machine are looked up.
    pub names: Lane,
}

impl ClientAuth {
    /// The door that `settings` describe.
    ///
    /// # Errors
    /// When a certificate or a file of secrets can't be used: which, and why.
    pub(crate) fn new(settings: &Settings) -> Result<Self, String> {
        let tls = match (&settings.client_tls_cert_file, &settings.client_tls_key_file) {
            (Some(certificate), Some(key)) => Some(Server::new(ServerOptions {
                certificate: certificate.clone(),
                key: key.clone(),
                client_roots: settings.client_tls_ca_file.clone(),
                oldest: settings.client_tls_min_protocol_version,
            })?),
            _ => None,
        };
        Ok(Self { tls, secrets: Secrets::new(settings)?, names: Lane::default() })
    }
}
