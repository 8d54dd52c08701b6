//! Passwords as they are stored: plain, hashed with MD5, or as SCRAM verifiers; and PgBouncer's file of them.

use std::collections::HashMap;

use super::md5::Md5Secret;
use super::scram::Verifier;
use super::secret::Password;

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
    /// When it begins like a SCRAM verifier and is none, which is not meant as a password.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.starts_with(Verifier::PREFIX) {
            return Verifier::parse(text).map(Self::Scram).ok_or("this is not a SCRAM verifier as in pg_authid");
        }
        Ok(match Md5Secret::parse(text) {
            Some(secret) => Self::Md5(secret),
            None => Self::Plain(Password::new(text.as_bytes().to_vec())),
        })
    }
}

/// Returns whether `given` is the password of `user`, with the secret `stored`, if there is such a user. Takes `rounds` rounds of hashing
/// whatever the kind of the secret, as long as no verifier has more.
#[must_use]
pub(crate) fn is_right(stored: Option<&Stored>, user: &[u8], given: &Password, rounds: u32) -> bool {
    let (right, done) = match stored {
        Some(Stored::Plain(password)) => (password.is(given), 0),
        Some(Stored::Scram(verifier)) => (verifier.matches(given), verifier.iterations()),
        Some(Stored::Md5(secret)) => (secret.is(&Md5Secret::of(given, user)), 0),
        None => (false, 0),
    };
    // What tells nothing is hashed for the time that it takes.
    if let Some(rest @ 1..) = rounds.checked_sub(done) {
        std::hint::black_box(Verifier::nobodys(vec![0; 16], rest, [0; 32]).matches(given));
    }
    right
}

/// Secrets by user.
pub(crate) type Users = HashMap<Vec<u8>, Stored>;

/// Reads PgBouncer's `userlist.txt`: a line is `"user" "secret"`, a quote inside is doubled; lines that begin with `;` or
/// `#` are comments.
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
        users.insert(user.into_bytes(), Stored::parse(&secret).map_err(wrong)?);
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
        assert!(Stored::parse("SCRAM-SHA-256$4096:oops").is_err());
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
                assert!(is_right(Some(kind), b"me", &password("x"), rounds), "{kind:?}");
                assert!(!is_right(Some(kind), b"me", &password("y"), rounds), "{kind:?}");
            }
            assert!(!is_right(None, b"me", &password("x"), rounds));
        }
    }

    #[test]
    fn pgbouncers_file_is_read() {
        let text = "; a comment\n\n\"app\" \"se\"\"cret\"\n\"we\"\"ird\" \"\" \"ignored\"\n  \"last\"\"x\" \"p\"";
        let users = userlist(text).expect("good");
        let plain = |user: &str| match users.get(user.as_bytes()) {
            Some(Stored::Plain(password)) => String::from_utf8(password.expose().to_vec()).expect("UTF-8"),
            other => panic!("{user}: {other:?}"),
        };
        assert_eq!((plain("app"), plain("we\"ird"), plain("last\"x")), ("se\"cret".into(), String::new(), "p".into()));
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
