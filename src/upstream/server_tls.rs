//! Encryption of a new connection to the upstream, asked for in PostgreSQL's protocol or begun at once.

use std::future::poll_fn;
use std::io;

use rustls::CertificateError;

use crate::net::{Stream, tls};
use crate::wire::frontend;

/// Encrypts connections to one host.
#[derive(Debug)]
pub(crate) struct ServerTls {
    /// Certificates, and what is trusted.
    pub client: tls::Client,
    /// The host's name or address, as the certificate should have it.
    pub host: String,
    /// True if to begin at once.
    pub direct: bool,
}

/// Reason why a connection could not be encrypted.
#[derive(Debug)]
pub(crate) enum ServerTlsError {
    /// The server can't, or does not want to.
    NotOffered,
    /// The server's identity is wrong, or no common TLS parameters exist; the reason.
    Untrusted(String),
    /// The connection broke.
    Broke(String),
}

impl ServerTls {
    /// Encrypts a new connection.
    ///
    /// # Errors
    /// As [`ServerTlsError`] lists. After [`ServerTlsError::NotOffered`] the connection can be used without encryption.
    pub(crate) async fn start(&self, stream: &mut Stream) -> Result<(), ServerTlsError> {
        if !self.direct {
            self.ask(stream).await?;
        }
        let session =
            self.client.connect(&self.host).await.map_err(|error| ServerTlsError::Untrusted(error.to_string()))?;
        stream.secure(session, None, &[]).await.map_err(|error| self.explain(&error))?;
        let agreed = stream.tls().and_then(tls::TlsSession::alpn);
        if self.direct && agreed != Some(tls::client::ALPN) {
            return Err(ServerTlsError::Untrusted(
                "direct TLS was established without agreeing on PostgreSQL's protocol (ALPN)".into(),
            ));
        }
        Ok(())
    }

    /// Asks for encryption. Of the answer exactly one byte is read: bytes that an attacker may have put behind it must not
    /// count as part of the encrypted session (CVE-2021-23222).
    async fn ask(&self, stream: &mut Stream) -> Result<(), ServerTlsError> {
        let broke = |error: io::Error| ServerTlsError::Broke(error.to_string());
        let mut request = Vec::new();
        frontend::put_ssl_request(&mut request);
        let mut written = 0;
        while written < request.len() {
            written += poll_fn(|cx| stream.poll_write(cx, &request[written..])).await.map_err(broke)?;
        }
        let mut answer = [0];
        let read = poll_fn(|cx| stream.poll_read(cx, &mut answer)).await.map_err(broke)?;
        match (read, answer[0]) {
            (0, _) => Err(ServerTlsError::Broke("closed by the server".into())),
            (_, b'S') if stream.has_unread() => {
                Err(ServerTlsError::Untrusted("received unencrypted data after SSL response".into()))
            }
            (_, b'S') => Ok(()),
            (_, b'N') => Err(ServerTlsError::NotOffered),
            // Its text is not to be trusted: its sender is not known yet (CVE-2024-10977).
            (_, b'E') => Err(ServerTlsError::Broke("server sent an error response during SSL exchange".into())),
            (_, other) => {
                Err(ServerTlsError::Untrusted(format!("received invalid response to SSL negotiation: {other:#04x}")))
            }
        }
    }

    fn explain(&self, error: &io::Error) -> ServerTlsError {
        match tls_error(error) {
            Some(error) => ServerTlsError::Untrusted(describe(error, &self.host)),
            None if self.direct => ServerTlsError::Broke(format!(
                "{error} during the TLS handshake (sslnegotiation=direct needs PostgreSQL 17 or later)"
            )),
            None => ServerTlsError::Broke(format!("{error} during the TLS handshake")),
        }
    }
}

/// TLS's own reason, if that is what failed.
#[must_use]
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Describes the error for the operator that has to fix it.
#[must_use]
pub(crate) fn describe(error: &rustls::Error, host: &str) -> String {
    use CertificateError as E;
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            E::UnknownIssuer => {
                "certificate verify failed: no root certificate that is trusted has signed it (sslrootcert)".into()
            }
            E::Expired | E::ExpiredContext { .. } => "certificate verify failed: certificate has expired".into(),
            E::NotValidYet | E::NotValidYetContext { .. } => {
                "certificate verify failed: certificate is not yet valid".into()
            }
            E::Revoked => "certificate verify failed: certificate revoked (sslcrl)".into(),
            E::UnknownRevocationStatus => {
                "certificate verify failed: sslcrl has no revocation list of an authority that signed it".into()
            }
            E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => {
                "certificate verify failed: the revocation list in sslcrl has expired".into()
            }
            E::NotValidForName | E::NotValidForNameContext { .. } => {
                format!("server certificate does not match host name \"{host}\" (sslmode=verify-full)")
            }
            // webpki's word for an authority's certificate that a server shows as its own.
            other if other.to_string().contains("CaUsedAsEndEntity") => {
                "certificate verify failed: self-signed certificate that is not in sslrootcert".into()
            }
            other => format!("certificate verify failed: {other}"),
        },
        rustls::Error::AlertReceived(alert) => format!("the server ended the TLS handshake: {alert:?}"),
        rustls::Error::InvalidMessage(_) => "the server does not answer in TLS".into(),
        other => other.to_string(),
    }
}
