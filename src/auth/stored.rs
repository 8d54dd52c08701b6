//! Passwords as they are stored: plain, hashed with MD5, or as SCRAM verifiers; and PgBouncer's file of them.

use std::collections::{BTreeSet, HashMap};

use super::md5::Md5Secret;
use super::scram::{Shape, Verifier};
use super::secret::{Credential, Password};

/// A stored password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The password itself.
    Plain(Password),
    /// `md5…`, as in `pg_authid`.
    Md5(Md5Secret),
    /// `SCRAM-SHA-256$…`, as in `pg_authid`.
    Scram(Verifier),
}

impl Stored {
    /// Understands a secret as `pg_authid` and PgBouncer do: what is in neither's form is a plain password.
    ///
    /// # Errors
    /// When it begins like a SCRAM verifier and is none, which is not meant as a password; or when it is empty, by which no client may log in,
    /// as in PostgreSQL.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("an empty password lets no client in: leave it out");
        }
        if text.starts_with(Verifier::PREFIX) {
            return Verifier::parse(text).map(Self::Scram).ok_or("this is not a SCRAM verifier as in pg_authid");
        }
        Ok(match Md5Secret::parse(text) {
            Some(secret) => Self::Md5(secret),
            None => Self::Plain(Password::new(text.as_bytes().to_vec())),
        })
    }
}

/// Knowledge of a user's secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// It, or that there is none.
    Done(Option<Stored>),
    /// Nothing: the upstream has to be asked.
    Due,
}

/// Most shapes of verifiers that are told apart.
const MAX_SHAPES: usize = 16;

/// The kinds of some secrets: what a client is told that begins to log in depends on nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    /// There are passwords.
    pub plain: bool,
    /// There are MD5 hashes.
    pub md5: bool,
    /// The verifiers' shapes.
    pub shapes: BTreeSet<Shape>,
}

impl Kinds {
    /// Notes one more secret.
    pub(crate) fn note(&mut self, stored: &Stored) {
        match stored {
            Stored::Plain(_) => self.plain = true,
            Stored::Md5(_) => self.md5 = true,
            Stored::Scram(_) if self.shapes.len() >= MAX_SHAPES => {}
            Stored::Scram(verifier) => {
                self.shapes.insert(verifier.shape());
            }
        }
    }
}

/// A password in clear text, compared with a stored secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// True if it is the right one.
    pub right: bool,
    /// Rounds of hashing that were done: as many for every kind of secret.
    rounds: u32,
}

/// Compares `given` with the secret `stored` of `user`, if there is such a user. Whatever the kind of the secret, the work of
/// every kind is done: `rounds` rounds of hashing, as long as no verifier has more.
#[must_use]
pub(crate) fn compare(stored: Option<&Stored>, user: &[u8], given: &Password, rounds: u32) -> Comparison {
    let md5 = Md5Secret::of(given, user);
    let nothing = Stored::Plain(Password::new(Vec::new()));
    let (right, done) = match stored.unwrap_or(&nothing) {
        Stored::Plain(password) => (password.is(given) && stored.is_some(), 0),
        Stored::Md5(secret) => (secret.is(&md5), 0),
        Stored::Scram(verifier) => (verifier.matches(given), verifier.shape().iterations),
    };
    // What tells nothing is hashed for the time that it takes.
    let rest = rounds.saturating_sub(done);
    if rest > 0 {
        std::hint::black_box(Verifier::nobodys(vec![0; 16], rest, [0; 32]).matches(given));
    }
    Comparison { right, rounds: done + rest }
}

/// Compares a client's answer to an MD5 challenge with `salt` likewise; gives what it can log in with upstream, if it is right.
#[must_use]
pub(crate) fn compare_md5(stored: Option<Stored>, user: &[u8], salt: [u8; 4], given: &Password) -> Option<Credential> {
    // A user without a suitable secret is compared with one all the same, and what need not be hashed is hashed.
    let (password, kept) = match stored {
        Some(Stored::Plain(password)) => (Some(password), None),
        Some(Stored::Md5(secret)) => (None, Some(secret)),
        Some(Stored::Scram(_)) | None => (None, None),
    };
    let of_password = Md5Secret::of(password.as_ref().unwrap_or(given), user);
    let secret = kept.as_ref().unwrap_or(&of_password);
    let right = Password::new(secret.response(salt).into_bytes()).is(given);
    password.map(Credential::Password).or(kept.map(Credential::Md5)).filter(|_| right)
}

/// Secrets by user.
pub(crate) type Users = HashMap<Vec<u8>, Stored>;

/// Reads PgBouncer's `userlist.txt`: a line is `"user" "secret"`, a quote inside is doubled; lines that begin with `;` or
/// `#` are comments. A user with an empty one has none.
///
/// # Errors
/// The number of the first line that is wrong, and in what way; no secret appears in it.
pub(crate) fn userlist(text: &str) -> Result<Users, String> {
    let mut users = Users::new();
    for (nth, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        let wrong = |why: &str| format!("line {nth}: {why}");
        let (user, rest) = quoted(line).ok_or_else(|| wrong("expected \"user\" \"secret\""))?;
        let (secret, _) =
            quoted(rest.trim_start()).ok_or_else(|| wrong("expected a secret in quotes after the user"))?;
        if secret.is_empty() {
            users.remove(user.as_bytes());
        } else {
            users.insert(user.into_bytes(), Stored::parse(&secret).map_err(wrong)?);
        }
    }
    Ok(users)
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let body = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = body.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.next_if(|(_, next)| *next == '"').is_some() => value.push('"'),
            '"' => return Some((value, &body[at + 1..])),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let plain = |text: &str| Stored::Plain(Password::new(text.as_bytes().to_vec()));
        assert_eq!(Stored::parse("secret"), Ok(plain("secret")));
        assert_eq!(Stored::parse("md5 is no good"), Ok(plain("md5 is no good")));
        assert!(matches!(Stored::parse("md5d41d8cd98f00b204e9800998ecf8427e"), Ok(Stored::Md5(_))));
        let verifier = Verifier::of(&Password::new(b"x".to_vec()), vec![1; 16], 4096);
        assert_eq!(Stored::parse(&verifier.show()), Ok(Stored::Scram(verifier)));
        assert!(Stored::parse("SCRAM-SHA-256$4096:oops").is_err() && Stored::parse("").is_err());
    }

    #[test]
    fn every_kind_tells_right_from_wrong() {
        let password = |text: &str| Password::new(text.as_bytes().to_vec());
        let kinds = [
            Stored::Plain(password("x")),
            Stored::Md5(Md5Secret::of(&password("x"), b"me")),
            Stored::Scram(Verifier::of(&password("x"), vec![1; 16], 20)),
        ];
        for rounds in [0, 10, 20, 30] {
            for kind in &kinds {
                assert!(compare(Some(kind), b"me", &password("x"), rounds).right, "{kind:?}");
                for wrong in ["y", "", "xx"] {
                    assert!(!compare(Some(kind), b"me", &password(wrong), rounds).right, "{kind:?}");
                }
            }
            for given in ["x", ""] {
                assert!(!compare(None, b"me", &password(given), rounds).right);
            }
        }
        for rounds in [20, 30] {
            let of = |kind| compare(kind, b"me", &password("x"), rounds).rounds;
            assert!(kinds.iter().map(Some).chain([None]).all(|kind| of(kind) == rounds), "as much work for each");
        }
        let salt = *b"salt";
        for kind in &kinds {
            let answer = |text: &str| {
                let response = Md5Secret::of(&password(text), b"me").response(salt);
                compare_md5(Some(kind.clone()), b"me", salt, &password(&response))
            };
            assert_eq!(answer("x").is_some(), !matches!(kind, Stored::Scram(_)), "{kind:?}");
            assert!(answer("y").is_none() && answer("").is_none(), "{kind:?}");
        }
        assert!(compare_md5(None, b"me", salt, &password("x")).is_none());
    }

    #[test]
    fn pgbouncers_file_is_read() {
        let text = "; a comment\n\n\"app\" \"se\"\"cret\"\n\"we\"\"ird\" \"w\" \"ignored\"\n\"none\" \"\"\n  \"last\"\"x\" \"p\"";
        let users = userlist(text).expect("good");
        let plain = |user: &str| match users.get(user.as_bytes()) {
            Some(Stored::Plain(password)) => String::from_utf8(password.expose().to_vec()).expect("UTF-8"),
            other => panic!("{user}: {other:?}"),
        };
        assert_eq!((plain("app"), plain("we\"ird"), plain("last\"x")), ("se\"cret".into(), "w".into(), "p".into()));
        assert_eq!(users.len(), 3, "an empty password is none");
        for (text, part) in [
            ("app secret", "line 1"),
            ("\"a\" \"b\"\n\"app\" hunter2", "line 2"),
            ("\"app", "line 1"),
            ("\"app\" \"SCRAM-SHA-256$hunter2\"", "line 1"),
        ] {
            let error = userlist(text).expect_err(text);
            assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
        }
    }
}
