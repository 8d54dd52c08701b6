//! Our side as a client: how carefully servers are looked at, and what is shown to them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, SupportedProtocolVersion};

use super::files::{certificates, named, private_key, revocations, unusable};
use super::verify::Verifier;
use crate::file_watch::Reloadable;

/// The application protocol that PostgreSQL 17 and later agree upon.
pub(crate) const ALPN: &[u8] = b"postgresql";

/// Trusted authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// All: nothing is checked.
    Unchecked,
    /// Authorities of the operating system.
    System,
    /// Authorities in a PEM file.
    File(PathBuf),
}

/// The oldest, or the newest, version of TLS to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// Verification of servers, and the client's own certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// Trusted authorities.
    pub roots: Roots,
    /// True if the certificate must name the host.
    pub names: bool,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Certificates that are trusted no longer.
    pub revoked: Option<PathBuf>,
    /// The oldest version to speak.
    pub oldest: Version,
    /// The newest version to speak.
    pub newest: Version,
    /// True if servers are told which host is meant, where that is a name.
    pub sni: bool,
}

/// Encrypts connections to servers.
#[derive(Debug)]
pub struct Client(Reloadable<ClientConfig>);

impl Client {
    /// Reads the files that `options` name.
    ///
    /// # Errors
    /// Which of them can't be used, and why.
    pub fn new(options: ClientOptions) -> Result<Self, String> {
        let mut paths = match &options.roots {
            Roots::Unchecked => Vec::new(),
            Roots::System => system_root_paths(),
            Roots::File(path) => vec![path.clone()],
        };
        if let Some((certificate, key)) = &options.identity {
            paths.extend([certificate.clone(), key.clone()]);
        }
        paths.extend(options.revoked.clone());
        Reloadable::new("certificates", paths, move || config(&options)).map(Self)
    }

    /// A session with the server `host`, yet without its handshake.
    ///
    /// # Errors
    /// When `host` can be no server's name.
    pub async fn connect(&self, host: &str) -> io::Result<Connection> {
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned()).map_err(io::Error::other)?;
        let config = self.0.current().await;
        ClientConnection::new(config, name).map(Connection::from).map_err(io::Error::other)
    }
}

fn config(options: &ClientOptions) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(options, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(options.oldest, options.newest))
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                certificates(certificate).map_err(named("sslcert"))?,
                private_key(key).map_err(named("sslkey"))?,
            )
            .map_err(|error| format!("sslcert and sslkey: {}", unusable(certificate, key, &error)))?,
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = options.sni;
    config.resumption = Resumption::in_memory_sessions(64);
    Ok(config)
}

fn verifier(options: &ClientOptions, provider: &Arc<CryptoProvider>) -> Result<Verifier, String> {
    let (store, roots) = match &options.roots {
        Roots::Unchecked => (None, Vec::new()),
        Roots::System => (Some(system_roots()?), Vec::new()),
        Roots::File(path) => {
            let roots = certificates(path).map_err(named("sslrootcert"))?;
            (Some(root_store(path, &roots).map_err(named("sslrootcert"))?), roots)
        }
    };
    let chains = match store {
        None => None,
        Some(store) => {
            let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
            if let Some(path) = &options.revoked {
                builder =
                    builder.with_crls(revocations(path).map_err(named("sslcrl"))?).enforce_revocation_expiration();
            }
            Some(builder.build().map_err(|error| error.to_string())?)
        }
    };
    Ok(Verifier {
        chains,
        roots,
        revocation: options.revoked.is_some(),
        names: options.names,
        algorithms: provider.signature_verification_algorithms,
    })
}

/// The trust anchors in `roots`, which stand in the file `path`.
pub(super) fn root_store(
    path: &Path,
    roots: &[rustls::pki_types::CertificateDer<'static>],
) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    // Files of roots may have some that are of no use; but not only such.
    let (added, _) = store.add_parsable_certificates(roots.iter().cloned());
    if added == 0 { Err(format!("{}: no certificate that can serve as a root", path.display())) } else { Ok(store) }
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found.certs);
    match (added, found.errors.first()) {
        (0, Some(error)) => Err(format!("the system's root certificates: {error}")),
        (0, None) => Err("the system has no root certificates (the package ca-certificates brings them)".into()),
        _ => Ok(store),
    }
}

/// The file and the directories that the system's authorities are read from.
fn system_root_paths() -> Vec<PathBuf> {
    let found = openssl_probe::probe();
    found.cert_file.into_iter().chain(found.cert_dir).collect()
}

/// The versions from `oldest` to `newest`.
pub(super) fn versions(oldest: Version, newest: Version) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(Version::V12, &TLS12), (Version::V13, &TLS13)];
    all.into_iter().filter(|(version, _)| (oldest..=newest).contains(version)).map(|(_, known)| known).collect()
}
