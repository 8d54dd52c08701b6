//! Secrets of users that are stored here or looked up: the settings, PgBouncer's file, the upstream.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::salt_key::SaltKey;
use crate::auth::scram::{Shape, Verifier};
use crate::auth::stored::{Kinds, Lookup, Users, userlist};
use crate::auth::{Credential, Password, ProcessKey, Stored};
use crate::config::Settings;
use crate::error::ClientError;
use crate::file_watch::Reloadable;
use crate::lock::lock;
use crate::permission::{Attempt, describe};
use crate::small_file;
use crate::upstream::Pools;
use crate::upstream::auth_query::AuthQuery;
use crate::upstream::counters::Counters;

/// The length of the salt of a verifier that is made here: PostgreSQL's.
const SALT_BYTES: usize = 16;

/// Number of verifiers of plain passwords that are kept.
const MAX_VERIFIERS: usize = 10_000;

/// Secrets of users.
#[derive(Debug)]
pub(crate) struct Secrets {
    users: BTreeMap<Vec<u8>, Stored>,
    file: Option<Reloadable<Users>>,
    auth_query: Option<Arc<AuthQuery>>,
    iterations: u32,
    salts: SaltKey,
    /// Verifiers that were made of plain passwords: that takes milliseconds.
    made: Mutex<HashMap<Vec<u8>, (Password, Verifier)>>,
}

impl Secrets {
    /// The secrets that `settings` name, in place of `former`.
    ///
    /// # Errors
    /// When `auth_file` can't be used: why, and in which line; or when there is no randomness.
    pub(crate) fn new(settings: &Settings, former: Option<&Self>) -> Result<Self, String> {
        let file = settings.auth.auth_file.clone().map(|path| {
            let read = {
                let path = path.clone();
                move || {
                    let text = small_file::read_text(&path).map(Zeroizing::new);
                    let text = text
                        .map_err(|error| format!("auth_file: {}", describe(Attempt::Read, &path.display(), &error)))?;
                    userlist(&text).map_err(|error| format!("auth_file: {}: {error}", path.display()))
                }
            };
            Reloadable::new("secrets of users", vec![path], read)
        });
        let file = file.transpose()?;
        let in_file = file.as_ref().map(Reloadable::last);
        Ok(Self {
            salts: SaltKey::new(settings, in_file.as_deref(), former.map(|former| &former.salts))?,
            users: settings.auth.users.clone(),
            auth_query: AuthQuery::new(settings).map(Arc::new),
            iterations: settings.auth.scram_iterations,
            made: Mutex::default(),
            file,
        })
    }

    /// The secret of `user` for `database`, as far as it is known without asking the upstream.
    pub(crate) async fn known(&self, database: &[u8], user: &[u8]) -> Lookup {
        if let Some(stored) = self.users.get(user) {
            return Lookup::Done(Some(stored.clone()));
        }
        if let Some(file) = &self.file
            && let Some(stored) = file.current().await.get(user)
        {
            return Lookup::Done(Some(stored.clone()));
        }
        self.auth_query.as_ref().map_or(Lookup::Done(None), |auth_query| auth_query.known(database, user))
    }

    /// The credential that the settings or the file have for `role`, to log in upstream with where its client brings none. A SCRAM
    /// verifier is none.
    pub(crate) async fn credential(&self, role: &[u8]) -> Option<Credential> {
        let stored = match (self.users.get(role), &self.file) {
            (Some(stored), _) => stored.clone(),
            (None, Some(file)) => file.current().await.get(role)?.clone(),
            (None, None) => return None,
        };
        match stored {
            Stored::Plain(password) => Some(Credential::Password(password)),
            Stored::Md5(secret) => Some(Credential::Md5(secret)),
            Stored::Scram(_) => None,
        }
    }

    /// Asks the upstream for the secret of `user` for `database`, if there is one. Cancel-safe.
    ///
    /// # Errors
    /// What the client is told when it could not be looked up.
    pub(crate) async fn look_up(
        &self,
        pools: &Arc<Pools>,
        database: &[u8],
        user: &[u8],
    ) -> Result<Option<Stored>, ClientError> {
        match &self.auth_query {
            Some(auth_query) => auth_query.secret(pools, database, user).await,
            None => Ok(None),
        }
    }

    /// Forgets what was looked up, since roles have changed.
    pub(crate) fn forget_answers(&self) {
        if let Some(auth_query) = &self.auth_query {
            auth_query.forget_answers();
        }
    }

    /// A wrong password was given: what was looked up may be out of date.
    pub(crate) fn invalidate(&self, database: &[u8], user: &[u8]) {
        if let Some(auth_query) = &self.auth_query {
            auth_query.invalidate(database, user);
        }
    }

    /// Returns whether the method `md5` asks `user`, with the secret `stored`, for an MD5 answer. As in PostgreSQL, a SCRAM verifier
    /// can't answer MD5, so SCRAM it is. Where there are users of both kinds, a name without a secret is taken for one of either, and
    /// always for the same.
    pub(crate) async fn answers_md5(&self, user: &[u8], stored: Option<&Stored>) -> bool {
        match stored {
            Some(Stored::Scram(_)) => false,
            Some(_) => true,
            None if self.rounds() == 0 => true,
            None => {
                let kinds = self.kinds();
                (kinds.plain || kinds.md5) && self.salts.get().await.mac(&[b"kind", user]).bytes()[0] < 128
            }
        }
    }

    /// The rounds of hashing after which an answer in clear text is judged, whatever the kind of the secret; 0 where there is no
    /// verifier, so that none takes any.
    #[must_use]
    pub(crate) fn rounds(&self) -> u32 {
        let least = if self.auth_query.is_some() { self.iterations } else { 0 };
        self.kinds().shapes.last().map_or(least, |most| most.iterations.max(least))
    }

    /// The kinds of all users' secrets, as far as they are known without looking any up.
    fn kinds(&self) -> Kinds {
        let mut kinds = self.auth_query.as_ref().map_or_else(Kinds::default, |auth_query| auth_query.found());
        self.users.values().for_each(|stored| kinds.note(stored));
        if let Some(file) = &self.file {
            file.last().values().for_each(|stored| kinds.note(stored));
        }
        kinds
    }

    /// The shape of the verifier that `user` would have, for a name without one: one of those that others have, and always the same.
    fn shape(&self, user: &[u8], salts: &ProcessKey) -> Shape {
        let own = Shape { iterations: self.iterations, salt_bytes: SALT_BYTES };
        let kinds = self.kinds();
        let mut shapes = kinds.shapes;
        if kinds.plain || shapes.is_empty() {
            shapes.insert(own);
        }
        let at = usize::from(salts.mac(&[b"shape", user]).bytes()[0]) % shapes.len();
        shapes.into_iter().nth(at).unwrap_or(own)
    }

    /// Returns the verifier that SCRAM compares with: for a user without a suitable secret, a verifier that no password fits, which
    /// looks like any other.
    pub(crate) async fn verifier(&self, user: &[u8], stored: Option<&Stored>) -> Verifier {
        match stored {
            Some(Stored::Scram(verifier)) => verifier.clone(),
            Some(Stored::Plain(password)) => self.made(user, password).await,
            Some(Stored::Md5(_)) | None => {
                let salts = self.salts.get().await;
                let noise = *salts.mac(&[b"no password", user]).bytes();
                let shape = self.shape(user, salts);
                Verifier::nobodys(salt(salts, user, shape.salt_bytes), shape.iterations, noise)
            }
        }
    }

    /// Makes salts' key and the verifiers of plain passwords before they are asked for, so that a first login takes no longer than
    /// others and does not tell that there is such a user.
    pub(crate) async fn warm_up(&self) {
        self.salts.get().await;
        let file = self.file.as_ref().map(Reloadable::last);
        let all = self.users.iter().chain(file.iter().flat_map(|users| users.iter()));
        for (user, stored) in all {
            if let Stored::Plain(password) = stored {
                self.made(user, password).await;
            }
        }
    }

    /// Closes the connections that secrets are looked up on.
    pub(crate) async fn close(&self, counters: &Counters) {
        if let Some(auth_query) = &self.auth_query {
            auth_query.close(counters).await;
        }
    }

    async fn made(&self, user: &[u8], password: &Password) -> Verifier {
        let known = self.kept().get(user).filter(|(of, _)| of == password).map(|(_, verifier)| verifier.clone());
        if let Some(verifier) = known {
            return verifier;
        }
        let salt = salt(self.salts.get().await, user, SALT_BYTES);
        let (of, own, iterations) = (password.clone(), salt.clone(), self.iterations);
        let made = spawn_blocking(move || Verifier::of(&of, own, iterations)).await;
        // Hashing does not panic; if the runtime ends, it is not used.
        let verifier = made.unwrap_or_else(|_| Verifier::nobodys(salt, self.iterations, [0; 32]));
        let mut kept = self.kept();
        if kept.len() >= MAX_VERIFIERS {
            kept.clear();
        }
        kept.insert(user.to_vec(), (password.clone(), verifier.clone()));
        verifier
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, (Password, Verifier)>> {
        lock(&self.made)
    }
}

/// The salt of `user`, of `length` bytes.
fn salt(salts: &ProcessKey, user: &[u8], length: usize) -> Vec<u8> {
    let block = |nth: u32| *salts.mac(&[b"salt", user, &nth.to_be_bytes()]).bytes();
    (0..).flat_map(block).take(length).collect()
}
