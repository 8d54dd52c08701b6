//! Whether a server is the one that was meant, with libpq's levels of care.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::certificate::Certificate;

/// Verifies server certificates with libpq's levels.
#[derive(Debug)]
pub(super) struct Verifier {
    /// Checks chains; `None` when nothing is checked.
    pub chains: Option<Arc<WebPkiServerVerifier>>,
    /// The roots as they stand in the file.
    pub roots: Vec<CertificateDer<'static>>,
    /// True if revocation lists are kept, which only `chains` looks at.
    pub revocation: bool,
    /// True if the certificate must name the host.
    pub names: bool,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// A chain that rustls does not take, but libpq does: a certificate that is itself among the roots, or one of
    /// version 1 that a root has signed, as `openssl x509 -req` makes them in PostgreSQL's own manual.
    fn is_trusted_directly(&self, end: &CertificateDer<'_>, now: SystemTime) -> Result<bool, Error> {
        if self.revocation {
            return Ok(false);
        }
        let Some(certificate) = Certificate::read(end) else { return Ok(false) };
        let is_root = self.roots.iter().any(|root| root == end);
        let signed = || {
            let mut roots = self.roots.iter().filter_map(Certificate::read);
            roots.any(|root| root.is_valid_at(now) && certificate.is_signed_by(&root, &self.algorithms))
        };
        let trusted = is_root || (certificate.is_version_1() && signed());
        if !trusted {
            return Ok(false);
        }
        if certificate.is_valid_at(now) { Ok(true) } else { Err(CertificateError::Expired.into()) }
    }

    /// Returns whether the certificate names the host; where it names no host at all, its common name counts.
    fn check_name(&self, end: &CertificateDer<'_>, host: &ServerName<'_>) -> Result<(), Error> {
        if !self.names {
            return Ok(());
        }
        let wrong = || Error::from(CertificateError::NotValidForName);
        let certificate = Certificate::read(end).ok_or(CertificateError::BadEncoding)?;
        if !certificate.names_hosts() {
            let named = certificate.common_name().is_some_and(|name| matches(&name, &host.to_str()));
            return if named { Ok(()) } else { Err(wrong()) };
        }
        // As libpq: an address may also stand among the names of hosts, as text.
        if matches!(host, ServerName::IpAddress(_)) && certificate.has_host_name(&host.to_str()) {
            return Ok(());
        }
        rustls::client::verify_server_name(&ParsedCertificate::try_from(end)?, host)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chains) = &self.chains else { return Ok(ServerCertVerified::assertion()) };
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        if !self.is_trusted_directly(end, time)? {
            match chains.verify_server_cert(end, intermediates, host, ocsp, now) {
                // It looks at the name last: the chain is good.
                Ok(_)
                | Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) => {}
                Err(error) => return Err(error),
            }
        }
        self.check_name(end, host)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match version_1(end) {
            Some(certificate) => self.has_made(&certificate, message, signed),
            None => verify_tls12_signature(message, end, signed, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match version_1(end) {
            // The schemes with PKCS#1 padding or SHA-1 are for certificates only there (RFC 8446, section 4.2.3).
            Some(_) if !is_for_tls13(signed.scheme) => Err(CertificateError::BadSignature.into()),
            Some(certificate) => self.has_made(&certificate, message, signed),
            None => verify_tls13_signature(message, end, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Verifier {
    fn has_made(
        &self,
        certificate: &Certificate,
        message: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if certificate.has_made(signed.scheme, message, signed.signature(), &self.algorithms) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        Err(CertificateError::BadSignature.into())
    }
}

fn version_1(end: &CertificateDer<'_>) -> Option<Certificate> {
    Certificate::read(end).filter(Certificate::is_version_1)
}

fn is_for_tls13(scheme: SignatureScheme) -> bool {
    use SignatureScheme as S;
    matches!(
        scheme,
        S::ECDSA_NISTP256_SHA256
            | S::ECDSA_NISTP384_SHA384
            | S::ECDSA_NISTP521_SHA512
            | S::RSA_PSS_SHA256
            | S::RSA_PSS_SHA384
            | S::RSA_PSS_SHA512
            | S::ED25519
    )
}

/// Returns whether a common name is that of `host`; a `*` stands for the whole of the first label (libpq's `wildcard_match`).
fn matches(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(suffix), Some((label, rest))) = (name.strip_prefix("*."), host.split_once('.')) else { return false };
    !label.is_empty() && rest.eq_ignore_ascii_case(suffix)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    #[test]
    fn an_address_may_stand_among_the_names_of_hosts() {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.subject_alt_names = vec![SanType::DnsName("10.1.2.3".try_into().expect("ASCII"))];
        let end = params.self_signed(&KeyPair::generate().expect("a key")).expect("signed");
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let verifier = Verifier { chains: None, roots: Vec::new(), revocation: false, names: true, algorithms };
        for (host, expected) in [("10.1.2.3", true), ("10.1.2.4", false), ("db.example", false)] {
            let host = ServerName::try_from(host).expect("a name");
            assert_eq!(verifier.check_name(end.der(), &host).is_ok(), expected, "{host:?}");
        }
    }

    #[test]
    fn common_names_match_as_in_libpq() {
        for (name, host, expected) in [
            ("db.example", "db.example", true),
            ("DB.example", "db.Example", true),
            ("*.example", "db.example", true),
            ("*.example", "a.db.example", false),
            ("*.example", ".example", false),
            ("*.example", "example", false),
            ("d*.example", "db.example", false),
            ("*", "db", false),
            ("db.example", "db.example.org", false),
        ] {
            assert_eq!(matches(name, host), expected, "{name} {host}");
        }
    }
}
