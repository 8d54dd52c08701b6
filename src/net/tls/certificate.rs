//! What certificates say, where rustls does not: names, validity, the hash that channel binding needs, and the old
//! version 1 that rustls does not read.

use std::time::SystemTime;

use aws_lc_rs::digest;
use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use x509_cert::certificate::{CertificateInner, Raw, Version};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A certificate that has been read.
#[derive(Debug)]
pub(crate) struct Certificate(CertificateInner<Raw>);

/// Signature algorithms by the hash they use: `sha1`, `md5` and older ones count as SHA-256, as RFC 5929 says.
const HASHES: [(&str, &digest::Algorithm); 13] = [
    ("1.2.840.113549.1.1.4", &digest::SHA256),
    ("1.2.840.113549.1.1.5", &digest::SHA256),
    ("1.2.840.10045.4.1", &digest::SHA256),
    ("1.2.840.113549.1.1.11", &digest::SHA256),
    ("1.2.840.113549.1.1.12", &digest::SHA384),
    ("1.2.840.113549.1.1.13", &digest::SHA512),
    ("1.2.840.113549.1.1.14", &digest::SHA224),
    ("1.2.840.10045.4.3.1", &digest::SHA224),
    ("1.2.840.10045.4.3.2", &digest::SHA256),
    ("1.2.840.10045.4.3.3", &digest::SHA384),
    ("1.2.840.10045.4.3.4", &digest::SHA512),
    ("2.16.840.1.101.3.4.3.1", &digest::SHA224),
    ("2.16.840.1.101.3.4.3.2", &digest::SHA256),
];

/// RSA-PSS; its parameters name the hash: by one of these, or SHA-1 when there is none.
const RSA_PSS: &str = "1.2.840.113549.1.1.10";
const PSS_HASHES: [(&str, &digest::Algorithm); 3] = [
    ("2.16.840.1.101.3.4.2.1", &digest::SHA256),
    ("2.16.840.1.101.3.4.2.2", &digest::SHA384),
    ("2.16.840.1.101.3.4.2.3", &digest::SHA512),
];

impl Certificate {
    /// Reads a certificate; `None` when it is none.
    #[must_use]
    pub(crate) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        CertificateInner::from_der(der).ok().map(Self)
    }

    /// The subject's common name; `None` when there is none, or it has a NUL byte, which only an attacker would put
    /// there.
    #[must_use]
    pub(crate) fn common_name(&self) -> Option<String> {
        let name = self.0.tbs_certificate().subject().common_name().ok()??;
        Some(name.value().into_owned()).filter(|name| !name.contains('\0'))
    }

    /// The alternative names that are text: of hosts, mail boxes and resources.
    #[must_use]
    pub(crate) fn names(&self) -> Vec<String> {
        let text = |name: &GeneralName| match name {
            GeneralName::DnsName(name)
            | GeneralName::Rfc822Name(name)
            | GeneralName::UniformResourceIdentifier(name) => Some(name.as_str().to_owned()),
            _ => None,
        };
        self.alternatives().map(|names| names.0.iter().filter_map(text).collect()).unwrap_or_default()
    }

    /// Returns whether it names hosts or addresses, in which case its common name says nothing about them (RFC 6125).
    #[must_use]
    pub(crate) fn names_hosts(&self) -> bool {
        let is_host = |name: &GeneralName| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_));
        self.alternatives().is_some_and(|names| names.0.iter().any(is_host))
    }

    /// Returns whether `name`, letter by letter, is the name of a host among its alternative ones.
    #[must_use]
    pub(crate) fn has_host_name(&self, name: &str) -> bool {
        let is_it = |other: &GeneralName| matches!(other, GeneralName::DnsName(other) if other.as_str() == name);
        self.alternatives().is_some_and(|names| names.0.iter().any(is_it))
    }

    fn alternatives(&self) -> Option<SubjectAltName> {
        self.0.tbs_certificate().get_extension::<SubjectAltName>().ok()?.map(|(_, names)| names)
    }

    /// Returns whether it is of version 1, which has no extensions.
    #[must_use]
    pub(crate) fn is_version_1(&self) -> bool {
        self.0.tbs_certificate().version() == Version::V1
    }

    /// Returns whether it is valid at `now`.
    #[must_use]
    pub(crate) fn is_valid_at(&self, now: SystemTime) -> bool {
        let validity = self.0.tbs_certificate().validity();
        (validity.not_before.to_system_time()..=validity.not_after.to_system_time()).contains(&now)
    }

    /// Returns whether `issuer` has signed it.
    #[must_use]
    pub(crate) fn is_signed_by(&self, issuer: &Self, algorithms: &WebPkiSupportedAlgorithms) -> bool {
        let (ours, theirs) = (self.0.tbs_certificate(), issuer.0.tbs_certificate());
        if ours.issuer() != theirs.subject() || ours.signature() != self.0.signature_algorithm() {
            return false;
        }
        let Ok(message) = ours.to_der() else { return false };
        let Some(signature) = self.0.signature().as_bytes() else { return false };
        let Some(signed_with) = contents(self.0.signature_algorithm()) else { return false };
        let usable = algorithms.all.iter().filter(|algorithm| algorithm.signature_alg_id().as_ref() == signed_with);
        usable.into_iter().any(|algorithm| issuer.verifies(*algorithm, &message, signature))
    }

    /// Returns whether the holder of its key has made `signature` in a handshake.
    #[must_use]
    pub(crate) fn has_made(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> bool {
        let usable = algorithms.mapping.iter().filter(|(known, _)| *known == scheme);
        usable.flat_map(|(_, all)| all.iter()).any(|algorithm| self.verifies(*algorithm, message, signature))
    }

    fn verifies(&self, algorithm: &dyn SignatureVerificationAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        let key = self.0.tbs_certificate().subject_public_key_info();
        let Some(kind) = contents(&key.algorithm) else { return false };
        let same_kind = algorithm.public_key_alg_id().as_ref() == kind;
        let key = key.subject_public_key.as_bytes();
        same_kind && key.is_some_and(|key| algorithm.verify_signature(key, message, signature).is_ok())
    }

    /// The hash algorithm that `tls-server-end-point` takes: that of the certificate's signature (RFC 5929, section
    /// 4.1). `None` where the signature uses none, such as Ed25519.
    fn binding_hash(&self) -> Option<&'static digest::Algorithm> {
        let algorithm = self.0.signature_algorithm();
        let is = |text: &str| ObjectIdentifier::new(text).is_ok_and(|oid| oid == algorithm.oid);
        if is(RSA_PSS) {
            let parameters = algorithm.parameters.as_ref()?.to_der().ok()?;
            let names = |text: &str| {
                let oid = ObjectIdentifier::new(text).ok().and_then(|oid| oid.to_der().ok());
                oid.is_some_and(|oid| parameters.windows(oid.len()).any(|window| window == oid))
            };
            let named = PSS_HASHES.iter().find(|(text, _)| names(text));
            return Some(named.map_or(&digest::SHA256, |(_, hash)| *hash));
        }
        HASHES.iter().find(|(text, _)| is(text)).map(|(_, hash)| *hash)
    }
}

/// The channel-binding data `tls-server-end-point` of a server that showed `der` (RFC 5929); `None` where that is not
/// defined.
#[must_use]
pub(crate) fn end_point(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let hash = Certificate::read(der)?.binding_hash()?;
    Some(digest::digest(hash, der).as_ref().to_vec())
}

/// The contents of an algorithm's identifier, without the sequence's own header, as rustls compares them.
fn contents(algorithm: &x509_cert::spki::AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    let mut contents = algorithm.oid.to_der().ok()?;
    if let Some(parameters) = &algorithm.parameters {
        contents.extend(parameters.to_der().ok()?);
    }
    Some(contents)
}
