//! What clients meet before they are let in: the certificate that they are shown, the secrets that they must know.

use super::secrets::Secrets;
use super::tls_offer::TlsOffer;
use crate::config::Settings;
use crate::offload::SerialExecutor;

/// TLS, secrets and rules that apply to clients before they are let in.
#[derive(Debug)]
pub(crate) struct ClientAuth {
    /// Encrypts their connections.
    pub tls: TlsOffer,
    /// Secrets of users.
    pub secrets: Secrets,
    /// Executor by which names of this machine's users are looked up.
    pub names: SerialExecutor,
}

impl ClientAuth {
    /// Creates it as `settings` describe, in place of `former`.
    ///
    /// # Errors
    /// When a certificate or a file of secrets can't be used: which, and why.
    pub(crate) fn new(settings: &Settings, former: Option<&Self>) -> Result<Self, String> {
        let tls = TlsOffer::new(settings, former.map(|former| &former.tls))?;
        let secrets = Secrets::new(settings, former.map(|former| &former.secrets))?;
        Ok(Self { tls, secrets, names: SerialExecutor::default() })
    }
}
