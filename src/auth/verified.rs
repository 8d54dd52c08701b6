//! What is remembered of one user's passwords: the one the upstream took, and those it lately refused.

use std::time::{Duration, Instant};

use super::secret::{Mac, Password, ProcessKey};

/// Time for which a refusal is repeated without asking the upstream again. A password that becomes right meanwhile works
/// after this time at the latest.
pub(crate) const REFUSAL_TTL: Duration = Duration::from_secs(5);

/// Number of refused passwords that are remembered.
const MAX_REFUSALS: usize = 8;

/// The memory of one user's passwords. `R` is what a refusal was answered with.
#[derive(Clone, Debug)]
pub struct Verified<R> {
    known: Option<(Mac, Password)>,
    refused: Vec<(Mac, Instant, R)>,
}

impl<R> Default for Verified<R> {
    fn default() -> Self {
        Self { known: None, refused: Vec::new() }
    }
}

impl<R: Clone> Verified<R> {
    /// Returns whether `password` is the one the upstream took.
    #[must_use]
    pub fn matches(&self, key: &ProcessKey, password: &Password) -> bool {
        self.known.as_ref().is_some_and(|(mac, _)| key.verify(&[password.expose()], mac))
    }

    /// Returns the upstream's latest answer to `password`, if it refused it.
    #[must_use]
    pub fn refusal(&self, key: &ProcessKey, password: &Password, now: Instant) -> Option<R> {
        let fresh = self.refused.iter().filter(|(_, at, _)| now.saturating_duration_since(*at) < REFUSAL_TTL);
        fresh.into_iter().find(|(mac, _, _)| key.verify(&[password.expose()], mac)).map(|(_, _, why)| why.clone())
    }

    /// The password to dial with.
    #[must_use]
    pub fn password(&self) -> Option<&Password> {
        self.known.as_ref().map(|(_, password)| password)
    }

    /// The same without the password that was taken.
    #[must_use]
    pub fn without_password(self) -> Self {
        Self { known: None, ..self }
    }

    /// Forgets which passwords were refused.
    pub fn forget_refusals(&mut self) {
        self.refused.clear();
    }

    /// The upstream took `password`: it replaces whatever was known.
    pub fn accept(&mut self, key: &ProcessKey, password: Password) {
        let mac = key.mac(&[password.expose()]);
        self.refused.retain(|(refused, _, _)| !key.verify(&[password.expose()], refused));
        self.known = Some((mac, password));
    }

    /// The upstream refused `password` with `why`.
    pub fn refuse(&mut self, key: &ProcessKey, password: &Password, why: R, now: Instant) {
        if self.matches(key, password) {
            self.known = None;
        }
        self.refused.retain(|(mac, at, _)| {
            now.saturating_duration_since(*at) < REFUSAL_TTL && !key.verify(&[password.expose()], mac)
        });
        if self.refused.len() >= MAX_REFUSALS {
            self.refused.remove(0);
        }
        self.refused.push((key.mac(&[password.expose()]), now, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.as_bytes().to_vec())
    }

    #[test]
    fn changes_are_followed_in_both_directions() {
        let key = ProcessKey::generate().expect("randomness");
        let now = Instant::now();
        let mut verified = Verified::default();
        assert!(!verified.matches(&key, &password("old")));
        verified.accept(&key, password("old"));
        assert!(verified.matches(&key, &password("old")));
        verified.accept(&key, password("new"));
        assert!(verified.matches(&key, &password("new")) && !verified.matches(&key, &password("old")));
        verified.refuse(&key, &password("new"), "no", now);
        assert!(!verified.matches(&key, &password("new")) && verified.password().is_none());
        assert_eq!(verified.refusal(&key, &password("new"), now), Some("no"));
        verified.accept(&key, password("new"));
        assert_eq!(verified.refusal(&key, &password("new"), now), None);
    }

    #[test]
    fn refusing_another_password_keeps_the_known_one() {
        let key = ProcessKey::generate().expect("randomness");
        let now = Instant::now();
        let mut verified = Verified::default();
        verified.accept(&key, password("right"));
        for n in 0..100 {
            verified.refuse(&key, &password(&format!("wrong {n}")), n, now);
        }
        assert!(verified.matches(&key, &password("right")));
        assert_eq!(verified.refusal(&key, &password("wrong 99"), now), Some(99));
        assert_eq!(verified.refusal(&key, &password("wrong 0"), now), None, "memory is bounded");
        assert_eq!(verified.refusal(&key, &password("wrong 99"), now + REFUSAL_TTL), None, "refusals expire");
    }
}
