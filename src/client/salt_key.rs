//! The key that salts are made with where no stored verifier has one: for names without a secret, and for plain passwords.
//!
//! It is made of the secrets that are stored, so that it is the same after a restart and in every pgferry with the same
//! configuration: a salt that changes would tell which names have a verifier. Every client that begins a login sees what it makes,
//! and may compare that with what a guess at the secrets would make. So guesses are made expensive: more than those at a verifier.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use crate::auth::scram::keys::stretched;
use crate::auth::stored::Users;
use crate::auth::{ProcessKey, Stored};
use crate::config::Settings;

/// Rounds of hashing between the secrets and the key: a tenth of a second or so of one core.
const ROUNDS: u32 = 600_000;

/// A digest of the stored secrets.
type Digest = Zeroizing<[u8; 32]>;

/// The key, once it has been made.
pub(super) struct SaltKey {
    /// `None` where no secret is stored here: the key is drawn at random.
    digest: Option<Digest>,
    key: Arc<OnceCell<ProcessKey>>,
}

impl fmt::Debug for SaltKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaltKey(hidden)")
    }
}

impl SaltKey {
    /// The key for the secrets in `settings` and `file`. It stays the `former` one where that was made of the same.
    ///
    /// # Errors
    /// When there is no randomness.
    pub(super) fn new(settings: &Settings, file: Option<&Users>, former: Option<&Self>) -> Result<Self, String> {
        let digest = digest(settings, file);
        if let Some(same) = former.filter(|former| former.digest == digest) {
            return Ok(Self { digest, key: Arc::clone(&same.key) });
        }
        let drawn = || ProcessKey::generate().map_err(|error| format!("no randomness: {error}"));
        let key = if digest.is_some() { OnceCell::new() } else { OnceCell::new_with(Some(drawn()?)) };
        Ok(Self { digest, key: Arc::new(key) })
    }

    /// The key; the first caller has it made.
    pub(super) async fn get(&self) -> &ProcessKey {
        let make = || async {
            let digest = self.digest.clone().unwrap_or_default();
            let made = spawn_blocking(move || stretched(&*digest, b"pgferry salts", ROUNDS)).await;
            // Hashing does not panic; if the runtime ends, the key is not used.
            ProcessKey::from_bytes(made.unwrap_or_default())
        };
        self.key.get_or_init(make).await
    }
}

fn digest(settings: &Settings, file: Option<&Users>) -> Option<Digest> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut any = false;
    let mut add = |part: &[u8]| {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    let mut stored: Vec<_> =
        settings.auth.users.iter().chain(file.into_iter().flat_map(|users| users.iter())).collect();
    stored.sort_by_key(|(user, _)| *user);
    for (user, stored) in stored {
        any = true;
        add(user);
        match stored {
            Stored::Plain(password) => add(password.expose()),
            Stored::Md5(secret) => add(secret.response([0; 4]).as_bytes()),
            Stored::Scram(verifier) => add(Zeroizing::new(verifier.show()).as_bytes()),
        }
    }
    if let Some(password) = &settings.upstream.url.password {
        any = true;
        add(password.expose());
    }
    add(settings.upstream.url.to_string().as_bytes());
    let mut digest = Digest::default();
    // A digest of SHA-256 has 32 bytes.
    digest.copy_from_slice(hash.finish().as_ref());
    any.then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;

    fn settings(text: &str) -> Settings {
        let mut written = RawConfig::default();
        written.file_text("f", &format!("upstream = \"postgres://db.example\"\n{text}")).expect("a configuration");
        Settings::resolve(&written).expect("settings")
    }

    async fn salt(key: &SaltKey) -> [u8; 32] {
        *key.get().await.mac(&[b"unknown"]).bytes()
    }

    #[tokio::test]
    async fn the_same_secrets_make_the_same_salts() {
        let of = |text: &str| SaltKey::new(&settings(text), None, None).expect("a key");
        let (one, again, other) = (of("users.app = \"x\""), of("users.app = \"x\""), of("users.app = \"y\""));
        assert_eq!(salt(&one).await, salt(&again).await);
        assert_ne!(salt(&one).await, salt(&other).await);
        let digest = *one.digest.clone().expect("of secrets");
        let cheap = ProcessKey::from_bytes(digest);
        assert_ne!(salt(&one).await, *cheap.mac(&[b"unknown"]).bytes(), "a guess takes more than one hash");
    }

    #[tokio::test]
    async fn without_secrets_salts_are_unpredictable_and_outlive_reloads() {
        let of =
            |former: Option<&SaltKey>| SaltKey::new(&settings("auth_user = \"looks\""), None, former).expect("a key");
        let (one, other) = (of(None), of(None));
        assert_ne!(salt(&one).await, salt(&other).await);
        assert_eq!(salt(&one).await, salt(&of(Some(&one))).await);
    }
}
