//! Certificates, keys and revocation lists as files.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::permission::{Attempt, describe};
use crate::small_file;

/// Puts the name of the setting in front of what is wrong with its file.
pub(super) fn named(setting: &str) -> impl Fn(String) -> String {
    move |why| format!("{setting}: {why}")
}

/// Reads the certificates of a PEM file: at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| at(path, &no_pem(&error)))?;
    if all.is_empty() { Err(at(path, &"no certificate in PEM format")) } else { Ok(all) }
}

/// Reads the revocation lists of a PEM file: at least one.
pub(super) fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let text = read(path)?;
    let all = CertificateRevocationListDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| at(path, &no_pem(&error)))?;
    if all.is_empty() { Err(at(path, &"no certificate revocation list in PEM format")) } else { Ok(all) }
}

/// Reads a private key, if its file is private: libpq's rule.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let file = fs::metadata(path).map_err(|error| describe(Attempt::Read, &path.display(), &error))?;
    let forbidden = if file.uid() == 0 { 0o037 } else { 0o077 };
    if file.mode() & forbidden != 0 {
        return Err(at(
            path,
            &"the private key has group or world access: it should have permissions u=rw (0600) or less, or u=rw,g=r \
              (0640) or less if owned by root",
        ));
    }
    let text = zeroize::Zeroizing::new(read(path)?);
    if text.windows(9).any(|window| window == b"ENCRYPTED") {
        return Err(at(path, &"the private key has a passphrase: pgferry takes keys without one"));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => at(path, &"no private key in PEM format"),
        other => at(path, &no_pem(&other)),
    })
}

/// Says what is wrong with a file in PEM format, without its bytes.
fn no_pem(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it ends within a section: there is a BEGIN without its END".into(),
        pem::Error::IllegalSectionStart { .. } => "a line that begins a section is not as in PEM format".into(),
        other => other.to_string(),
    }
}

/// Says why a certificate and a key can't be used together.
pub(super) fn unusable(certificate: &Path, key: &Path, error: &rustls::Error) -> String {
    let (certificate, key) = (certificate.display(), key.display());
    match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "{certificate}: its first certificate is not that of the key in {key}: the own certificate comes first, its \
             authorities' behind it"
        ),
        rustls::Error::General(_) => format!(
            "{key}: a private key of this kind is not supported: RSA with 2048 to 8192 bits (not RSA-PSS), ECDSA with P-256, P-384 \
             or P-521, or Ed25519"
        ),
        error => format!("{certificate} and {key}: {error}"),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    small_file::read(path).map_err(|error| describe(Attempt::Read, &path.display(), &error))
}

fn at(path: &Path, error: &dyn fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_told_in_words() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        let whole = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, words) in [
            (&whole[..40], "it ends within a section"),
            ("-----BEGIN CERTIFICATE\n", "a line that begins a section"),
            ("", "no certificate in PEM format"),
        ] {
            fs::write(&file, text).expect("written");
            let error = certificates(&file).expect_err("no certificate");
            assert!(error.starts_with(file.to_str().expect("UTF-8")) && error.contains(words), "{error}");
        }
    }
}
