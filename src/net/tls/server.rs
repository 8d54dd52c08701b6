//! TLS towards clients: the certificate that they see, and the authorities that theirs must be from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ConfigBuilder, Connection, ServerConfig, ServerConnection, WantsVerifier};
use tracing::warn;

use super::certificate::{Certificate, end_point};
use super::client::{ALPN, Version, root_store, versions};
use super::files::{certificates, named, private_key, unusable};
use crate::file_watch::Reloadable;

/// The names in a self-signed certificate.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Certificate and protocol versions that clients see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerOptions {
    /// The certificate, with its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that may sign clients' certificates; without them no client is asked for one.
    pub client_roots: Option<PathBuf>,
    /// The oldest version that clients may use.
    pub oldest: Version,
}

/// The origin of a certificate that clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CertificateOrigin {
    /// The files that the settings name.
    Configured,
    /// This process, at its start: it encrypts, but proves to no client which server it has reached.
    SelfSigned,
}

/// A certificate that clients see.
#[derive(Debug)]
pub(crate) struct OwnCertificate {
    /// Origin.
    pub origin: CertificateOrigin,
    /// Channel binding data for clients' logins (`tls-server-end-point`, RFC 5929); `None` where that is not defined.
    pub end_point: Option<Vec<u8>>,
}

/// Encrypts connections of clients.
#[derive(Debug)]
pub(crate) struct Server {
    origin: CertificateOrigin,
    made: Reloadable<Made>,
}

#[derive(Debug)]
struct Made {
    config: Arc<ServerConfig>,
    certificate: Arc<OwnCertificate>,
}

impl Server {
    /// Reads the files that `options` name.
    ///
    /// # Errors
    /// Which of them can't be used, and why.
    pub(crate) fn new(options: ServerOptions) -> Result<Self, String> {
        let mut paths = vec![options.certificate.clone(), options.key.clone()];
        paths.extend(options.client_roots.clone());
        let made = Reloadable::new("certificates", paths, move || configured(&options))?;
        Ok(Self { origin: CertificateOrigin::Configured, made })
    }

    /// Makes a certificate for this machine's own names, signed with its own key, which exists in memory only.
    ///
    /// # Errors
    /// When there is no randomness.
    pub(crate) fn self_signed(oldest: Version) -> Result<Self, String> {
        let made = Reloadable::new("certificates", Vec::new(), move || self_signed(oldest))?;
        Ok(Self { origin: CertificateOrigin::SelfSigned, made })
    }

    /// The origin of the certificate that it shows.
    #[must_use]
    pub(crate) fn origin(&self) -> CertificateOrigin {
        self.origin
    }

    /// A session with a client, yet without its handshake, and the certificate that it shows.
    ///
    /// # Errors
    /// When rustls has no memory for it.
    pub(crate) async fn accept(&self) -> std::io::Result<(Connection, Arc<OwnCertificate>)> {
        let made = self.made.current().await;
        let session = ServerConnection::new(Arc::clone(&made.config)).map_err(std::io::Error::other)?;
        Ok((session.into(), Arc::clone(&made.certificate)))
    }
}

fn configured(options: &ServerOptions) -> Result<Made, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = builder(&provider, options.oldest)?;
    let builder = match &options.client_roots {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots =
                certificates(path).and_then(|all| root_store(path, &all)).map_err(named("client_tls_ca_file"))?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // A client without one may still have a password; the rules decide.
                .allow_unauthenticated()
                .build()
                .map_err(|error| format!("client_tls_ca_file: {}: {error}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (certificate, key) = (&options.certificate, &options.key);
    let chain = certificates(certificate).map_err(named("client_tls_cert_file"))?;
    if chain.first().and_then(Certificate::read).is_some_and(|own| !own.is_valid_at(SystemTime::now())) {
        warn!(
            "client_tls_cert_file: {}: the certificate has expired or is not valid yet: clients that verify it do not connect",
            certificate.display()
        );
    }
    let end_point = chain.first().and_then(end_point);
    let config =
        builder.with_single_cert(chain, private_key(key).map_err(named("client_tls_key_file"))?).map_err(|error| {
            format!("client_tls_cert_file and client_tls_key_file: {}", unusable(certificate, key, &error))
        })?;
    Ok(made(config, OwnCertificate { origin: CertificateOrigin::Configured, end_point }))
}

fn self_signed(oldest: Version) -> Result<Made, String> {
    let failed = |error: rcgen::Error| format!("no certificate could be made: {error}");
    let mut params = CertificateParams::new(LOCAL_NAMES.map(str::to_owned)).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "pgferry");
    // ECDSA with P-256, which every client knows; signing takes a tenth of RSA's time.
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = CertificateDer::from(params.self_signed(&key).map_err(failed)?);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let end_point = end_point(&certificate);
    let mut config = builder(&Arc::new(local_provider()), oldest)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(|error| error.to_string())?;
    config.ignore_client_order = true;
    Ok(made(config, OwnCertificate { origin: CertificateOrigin::SelfSigned, end_point }))
}

/// Cheapest cryptography. No byte leaves the machine, so none can be recorded for quantum computers to come.
fn local_provider() -> CryptoProvider {
    let cheap: [&'static dyn SupportedKxGroup; 2] = [kx_group::X25519, kx_group::SECP256R1];
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = cheap.to_vec();
    let is_cheap = |suite: &rustls::SupportedCipherSuite| {
        *suite == cipher_suite::TLS13_AES_128_GCM_SHA256
            || *suite == cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    };
    provider.cipher_suites.sort_by_key(|suite| !is_cheap(suite));
    provider
}

fn builder(
    provider: &Arc<CryptoProvider>,
    oldest: Version,
) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, String> {
    ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&versions(oldest, Version::V13))
        .map_err(|error| error.to_string())
}

fn made(mut config: ServerConfig, certificate: OwnCertificate) -> Made {
    config.alpn_protocols = vec![ALPN.to_vec()];
    // As PostgreSQL: no tickets, no sessions to resume. PostgreSQL's clients begin each connection with a context of its own, so
    // that a ticket would be made and sent for nothing; and the keys of tickets would outlive their sessions.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Made { config: Arc::new(config), certificate: Arc::new(certificate) }
}
