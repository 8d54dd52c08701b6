//! PostgreSQL's MD5 passwords: `md5` and the hash of password and user name. Old, broken, and still in use.

use std::fmt::Write as _;

use md5::{Digest, Md5};

use super::Password;

/// A stored MD5 password: as good as the password itself for logging in where MD5 is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Md5Secret(Password);

impl Md5Secret {
    /// Returns the secret of `password`.
    #[must_use]
    pub fn of(password: &Password, user: &[u8]) -> Self {
        Self(Password::new(hex(&[password.expose(), user]).into_bytes()))
    }

    /// Reads one as `pg_authid` has it; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hash = text.strip_prefix("md5")?;
        let is_hash = hash.len() == 32 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_hash.then(|| Self(Password::new(hash.as_bytes().to_vec())))
    }

    /// Returns whether `other` is the same, compared in constant time.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }

    /// Returns a client's answer to a challenge with `salt`.
    #[must_use]
    pub fn response(&self, salt: [u8; 4]) -> String {
        format!("md5{}", hex(&[self.0.expose(), &salt]))
    }
}

fn hex(parts: &[&[u8]]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    md5.finalize().iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_those_of_libpq() {
        let password = Password::new(b"password".to_vec());
        let secret = Md5Secret::of(&password, b"md5_user");
        // The vector of postgres-protocol.
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        assert_eq!(secret.response(salt), "md562af4dd09bbb41884907a838a3233294");
        let stored = format!("md5{}", hex(&[b"password", b"md5_user"]));
        assert_eq!(Md5Secret::parse(&stored), Some(secret));
        for bad in ["md5", "md5zz", &stored.to_uppercase(), &format!("{stored}0"), "password"] {
            assert_eq!(Md5Secret::parse(bad), None, "{bad}");
        }
    }
}
