//! TLS towards clients: the certificate that they see, and the authorities that theirs must be from.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{Connection, ServerConfig, ServerConnection};

use super::certificate::end_point;
use super::client::{ALPN, Version, root_store, versions};
use super::files::{certificates, private_key};
use crate::file_watch::Reloadable;

/// What clients see.
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

/// Encrypts connections of clients.
#[derive(Debug)]
pub(crate) struct Server(Reloadable<Made>);

#[derive(Debug)]
struct Made {
    config: Arc<ServerConfig>,
    end_point: Option<Vec<u8>>,
}

impl Server {
    /// Reads the files that `options` name.
    ///
    /// # Errors
    /// Which of them can't be used, and why.
    pub(crate) fn new(options: ServerOptions) -> Result<Self, String> {
        let mut paths = vec![options.certificate.clone(), options.key.clone()];
        paths.extend(options.client_roots.clone());
        Reloadable::new("certificates", paths, move || make(&options)).map(Self)
    }

    /// A session with a client, yet without its handshake; and what the client can bind its login to
    /// (`tls-server-end-point`).
    ///
    /// # Errors
    /// When rustls has no memory for it.
    pub(crate) async fn accept(&self) -> std::io::Result<(Connection, Option<Vec<u8>>)> {
        let made = self.0.current().await;
        let session = ServerConnection::new(Arc::clone(&made.config)).map_err(std::io::Error::other)?;
        Ok((session.into(), made.end_point.clone()))
    }
}

fn make(options: &ServerOptions) -> Result<Made, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(options.oldest, Version::V13))
        .map_err(|error| error.to_string())?;
    let builder = match &options.client_roots {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = root_store(path, &certificates(path)?)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // A client without one may still have a password; the rules decide.
                .allow_unauthenticated()
                .build()
                .map_err(|error| format!("{}: {error}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (certificate, key) = (&options.certificate, &options.key);
    let chain = certificates(certificate)?;
    let end_point = chain.first().and_then(end_point);
    let mut config = builder
        .with_single_cert(chain, private_key(key)?)
        .map_err(|error| format!("{} and {}: {error}", certificate.display(), key.display()))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // As PostgreSQL: no tickets, no sessions to resume. Clients are near, and the keys of tickets would outlive them.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Made { config: Arc::new(config), end_point })
}
