//! What passwords become: keys, and the verifiers of `pg_authid`.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::message::{decode, encode};
use crate::auth::Password;

/// The length of every key.
pub(crate) const KEY_BYTES: usize = 32;

/// The most rounds that are done: a second or so of one core.
pub(crate) const MAX_ITERATIONS: u32 = 2_000_000;

/// The longest salt that is accepted.
pub(crate) const MAX_SALT_BYTES: usize = 1024;

/// Key of the client, which only the holder of the password has.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct ClientKey(pub(super) [u8; KEY_BYTES]);

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(hidden)")
    }
}

/// Part of a verifier that a client is told when it begins to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    /// Number of rounds of hashing that it was made with.
    pub iterations: u32,
    /// Number of bytes of its salt.
    pub salt_bytes: usize,
}

/// Verifier of a password, as in `pg_authid.rolpassword`: `SCRAM-SHA-256$4096:salt$StoredKey:ServerKey`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored: [u8; KEY_BYTES],
    pub(super) server: [u8; KEY_BYTES],
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(hidden)")
    }
}

impl Verifier {
    /// Prefix of verifiers in `pg_authid`.
    pub const PREFIX: &'static str = "SCRAM-SHA-256$";

    /// Reads a verifier as `pg_authid` has it; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (work, keys) = text.strip_prefix(Self::PREFIX)?.split_once('$')?;
        let (iterations, salt) = work.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let iterations = iterations.parse().ok().filter(|rounds| (1..=MAX_ITERATIONS).contains(rounds))?;
        let salt = decode(salt).filter(|salt| (1..=MAX_SALT_BYTES).contains(&salt.len()))?;
        let key = |text| decode(text).and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes).ok());
        Some(Self { iterations, salt, stored: key(stored)?, server: key(server)? })
    }

    /// Makes the verifier of a password. Takes milliseconds: one for every few thousand `iterations`.
    #[must_use]
    pub fn of(password: &Password, salt: Vec<u8>, iterations: u32) -> Self {
        let keys = Keys::of(password, &salt, iterations);
        Self { iterations, salt, stored: hash(&keys.client.0), server: keys.server }
    }

    /// A verifier that no password fits, for unknown users.
    #[must_use]
    pub fn nobodys(salt: Vec<u8>, iterations: u32, noise: [u8; KEY_BYTES]) -> Self {
        Self { iterations, salt, stored: noise, server: noise }
    }

    /// Returns the part of it that a client is told when it begins to log in.
    #[must_use]
    pub(crate) fn shape(&self) -> Shape {
        Shape { iterations: self.iterations, salt_bytes: self.salt.len() }
    }

    /// Writes it as `pg_authid` has it.
    #[must_use]
    pub fn show(&self) -> String {
        let (salt, stored, server) = (encode(&self.salt), encode(&self.stored), encode(&self.server));
        format!("{}{}:{salt}${stored}:{server}", Self::PREFIX, self.iterations)
    }

    /// Returns whether `password` is the one it was made of. Takes as long as making it.
    #[must_use]
    pub fn matches(&self, password: &Password) -> bool {
        let keys = Keys::of(password, &self.salt, self.iterations);
        same(&hash(&keys.client.0), &self.stored)
    }
}

/// The keys of a password under one salt.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Keys {
    pub client: ClientKey,
    pub server: [u8; KEY_BYTES],
}

impl Keys {
    /// `SaltedPassword` and the keys made of it (RFC 5802, section 3).
    pub(super) fn of(password: &Password, salt: &[u8], iterations: u32) -> Self {
        let mut salted = stretched(prepared(password).expose(), salt, iterations);
        let keys = Self { client: ClientKey(mac(&salted, b"Client Key")), server: mac(&salted, b"Server Key") };
        salted.zeroize();
        keys
    }
}

/// Makes a key of `secret`, expensively: by `rounds` of the hashing that makes a password's keys (PBKDF2).
#[must_use]
pub(crate) fn stretched(secret: &[u8], salt: &[u8], rounds: u32) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let rounds = NonZeroU32::new(rounds).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, secret, &mut key);
    key
}

/// The password as SCRAM hashes it: normalised if it is text, else as it is, as PostgreSQL does.
fn prepared(password: &Password) -> Password {
    let text = std::str::from_utf8(password.expose()).ok();
    match text.and_then(|text| stringprep::saslprep(text).ok()) {
        Some(text) => Password::new(text.as_bytes().to_vec()),
        None => password.clone(),
    }
}

pub(super) fn mac(key: &[u8], message: &[u8]) -> [u8; KEY_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    fixed(tag.as_ref())
}

pub(super) fn hash(bytes: &[u8]) -> [u8; KEY_BYTES] {
    fixed(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn fixed(bytes: &[u8]) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    // SHA-256's are that long.
    key.copy_from_slice(bytes);
    key
}

pub(super) fn xor(one: &[u8; KEY_BYTES], other: &[u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    std::array::from_fn(|at| one[at] ^ other[at])
}

/// Compares in constant time.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one, other).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.as_bytes().to_vec())
    }

    #[test]
    fn verifiers_are_those_of_postgresql() {
        // `SET password_encryption = 'scram-sha-256'; CREATE ROLE … PASSWORD 'pencil'` on PostgreSQL 15 gives this form;
        // the keys are those of RFC 7677's example.
        let salt = decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let verifier = Verifier::of(&password("pencil"), salt, 4096);
        let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                    wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert_eq!(verifier.show(), text);
        assert_eq!(Verifier::parse(text), Some(verifier.clone()));
        assert!(verifier.matches(&password("pencil")) && !verifier.matches(&password("pen")));
    }

    #[test]
    fn what_is_no_verifier_is_refused() {
        let good = Verifier::of(&password("x"), vec![1; 16], 4096).show();
        assert!(Verifier::parse(&good).is_some());
        for bad in [
            String::new(),
            "md5".into(),
            good.replace("4096", "0"),
            good.replace("4096", "-1"),
            good.replace("4096", "4294967296"),
            good.replace("4096", "2000001"),
            good.replace("SCRAM-SHA-256", "SCRAM-SHA-1"),
            good.replacen('=', "", 1),
            good[..good.len() - 5].into(),
            format!("{good}="),
        ] {
            assert_eq!(Verifier::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn passwords_are_normalised_where_they_are_text() {
        let keys = |text: &[u8]| Keys::of(&Password::new(text.to_vec()), b"salt", 1).client.clone();
        assert!(keys("\u{2168}".as_bytes()) == keys(b"IX"), "compatibility characters");
        assert!(keys("a\u{ad}b".as_bytes()) == keys(b"ab"), "soft hyphens");
        assert!(keys(b"\xff\xfe") != keys(b"\xff"), "what is no UTF-8 stays as it is");
        assert!(keys(b"\x07a") != keys(b"a"), "what is prohibited stays as it is");
    }
}
