//! Secrets that are wiped from memory when dropped and never printed.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac};
use zeroize::{Zeroize, Zeroizing};

use super::md5::Md5Secret;
use super::scram::{ClientKey, Verifier};

/// A password as the client sent it or the configuration holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Takes over `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The password in the text of a file or a program: all of it but the end of its last line.
    #[must_use]
    pub(crate) fn in_text(mut text: Vec<u8>) -> Self {
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        if text.last() == Some(&b'\r') {
            text.pop();
        }
        Self::new(text)
    }

    /// Returns whether `other` is the same, in a time that tells neither how much of it is nor how long the other is.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let [one, other] = [self, other].map(|password| digest::digest(&digest::SHA256, password.expose()));
        verify_slices_are_equal(one.as_ref(), other.as_ref()).is_ok()
    }

    /// The password itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// Credentials to log in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// A password.
    Password(Password),
    /// A stored MD5 password: good where MD5 is asked for.
    Md5(Md5Secret),
    /// The key of a SCRAM password, and the verifier it belongs to: good where the server has that very verifier.
    Key(ClientKey, Box<Verifier>),
}

/// A key that never leaves the process: random, and then as long-lived as the process. AWS-LC wipes it when it is dropped.
pub struct ProcessKey(hmac::Key);

impl fmt::Debug for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProcessKey(hidden)")
    }
}

impl ProcessKey {
    /// Draws a key from the kernel.
    ///
    /// # Errors
    /// When the kernel has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self::from_bytes(key))
    }

    /// A key that is to be the same in another process.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        bytes.zeroize();
        Self(key)
    }

    /// The keyed MAC of `parts`, each marked off by its length.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> Mac {
        let mut hmac = hmac::Context::with_key(&self.0);
        for part in parts {
            hmac.update(&(part.len() as u64).to_be_bytes());
            hmac.update(part);
        }
        let mut mac = [0; 32];
        // A tag of HMAC-SHA-256 has 32 bytes.
        mac.copy_from_slice(hmac.sign().as_ref());
        Mac(mac)
    }

    /// Returns whether `mac` is that of `parts`, compared in constant time.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], mac: &Mac) -> bool {
        verify_slices_are_equal(&self.mac(parts).0, &mac.0).is_ok()
    }
}

/// A keyed MAC: tells whether a secret is the same as one seen before, and nothing else.
#[derive(Clone, Copy)]
pub struct Mac([u8; 32]);

impl Mac {
    /// The MAC's bytes, where it serves as an unpredictable number.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_tell_secrets_apart() {
        let key = ProcessKey::generate().expect("randomness");
        let mac = key.mac(&[b"user", b"secret"]);
        assert!(key.verify(&[b"user", b"secret"], &mac));
        assert!(!key.verify(&[b"user", b"Secret"], &mac));
        assert!(!key.verify(&[b"users", b"ecret"], &mac), "parts are marked off");
        assert!(!ProcessKey::generate().expect("randomness").verify(&[b"user", b"secret"], &mac));
    }

    #[test]
    fn secrets_are_not_printed() {
        let password = Password::new(b"hunter2".to_vec());
        assert!(!format!("{password:?}").contains("hunter2"));
    }
}
