//! The keys that cancel requests must have.

use std::fmt;
use std::ops::Deref;

/// Number of random bytes that are taken from the system at once.
const POOL_BYTES: usize = 256;

/// Random bytes for secrets: taken from the system many at a time, each used once.
#[derive(Debug)]
pub(super) struct RandomPool {
    bytes: [u8; POOL_BYTES],
    left: usize,
}

impl Default for RandomPool {
    fn default() -> Self {
        Self { bytes: [0; POOL_BYTES], left: 0 }
    }
}

impl RandomPool {
    /// A secret for a client that speaks protocol `version`.
    ///
    /// # Errors
    /// When the system gives none.
    pub(super) fn secret(&mut self, version: u32) -> Result<CancelKey, getrandom::Error> {
        Ok(CancelKey(if version > 3 << 16 { Bytes::Long(Box::new(self.take()?)) } else { Bytes::Short(self.take()?) }))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], getrandom::Error> {
        if self.left < N {
            getrandom::fill(&mut self.bytes)?;
            self.left = POOL_BYTES;
        }
        let mut taken = [0; N];
        taken.swap_with_slice(&mut self.bytes[self.left - N..self.left]);
        self.left -= N;
        Ok(taken)
    }
}

/// The key that a cancel request must have: 4 bytes in protocol 3.0, 32 from 3.2.
#[derive(Clone)]
pub(crate) struct CancelKey(Bytes);

/// Most clients have a short one.
#[derive(Clone)]
enum Bytes {
    Short([u8; 4]),
    Long(Box<[u8; 32]>),
}

impl CancelKey {
    /// The digits in which a key goes from one process to another.
    #[must_use]
    pub(super) fn to_hex(key: &[u8]) -> String {
        key.iter().fold(String::new(), |digits, byte| format!("{digits}{byte:02x}"))
    }

    /// The key that `digits` stand for.
    #[must_use]
    pub(crate) fn from_hex(digits: &str) -> Option<Vec<u8>> {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let (pairs, rest) = digits.as_bytes().as_chunks();
        let byte = |&[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
        rest.is_empty().then(|| pairs.iter().map(byte).collect())?
    }
}

impl Deref for CancelKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short(bytes) => bytes,
            Bytes::Long(bytes) => &**bytes,
        }
    }
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a secret of {} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_way_to_another_process() {
        for key in [&b""[..], b"\x00\x0f\xf0\xff", &[7; 32]] {
            assert_eq!(CancelKey::from_hex(&CancelKey::to_hex(key)).as_deref(), Some(key));
        }
        for digits in ["xy", "+1", "a", "a\u{e4}"] {
            assert_eq!(CancelKey::from_hex(digits), None, "{digits}");
        }
    }

    #[test]
    fn no_two_secrets_are_cut_from_the_same_bytes() {
        let mut random_pool = RandomPool::default();
        let mut seen = Vec::new();
        for (version, length) in [(3 << 16, 4), (3 << 16 | 2, 32), (3 << 16, 4)].into_iter().cycle().take(100) {
            let secret = random_pool.secret(version).expect("randomness");
            assert_eq!(secret.len(), length);
            assert!(random_pool.bytes[random_pool.left..].iter().all(|byte| *byte == 0), "what is used is forgotten");
            seen.push(secret.to_vec());
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        // Two of 67 that are 4 bytes long are the same once in two million runs.
        assert_eq!(seen.len(), all);
    }
}
