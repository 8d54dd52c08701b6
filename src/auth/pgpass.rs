//! Password files, as libpq reads them (`~/.pgpass`): a line is `host:port:database:user:password`; `*` stands for
//! anything, a backslash takes the next character as it is.

use super::Password;

/// For whom a password is looked up.
#[derive(Clone, Copy, Debug)]
pub struct PassfileKey<'a> {
    /// The host's name or address; `localhost` for a unix socket in the default directory.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The database.
    pub database: &'a [u8],
    /// The user.
    pub user: &'a [u8],
}

/// The password in the first line of `file` that fits.
///
/// ```
/// use pgferry::internals::auth::pgpass::{PassfileKey, look_up};
///
/// let wanted = PassfileKey { host: "db.example", port: 5432, database: b"shop", user: b"app" };
/// let password = look_up(b"db.example:*:shop:app:correct horse", &wanted).expect("the line fits");
/// assert_eq!(password.expose(), b"correct horse");
/// ```
#[must_use]
pub fn look_up(file: &[u8], wanted: &PassfileKey<'_>) -> Option<Password> {
    file.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).find_map(|line| {
        if line.starts_with(b"#") {
            return None;
        }
        let port = wanted.port.to_string();
        let fields = [wanted.host.as_bytes(), port.as_bytes(), wanted.database, wanted.user];
        let rest = fields.into_iter().try_fold(line, |rest, field| {
            let (found, rest) = field_of(rest)?;
            (found == b"*" || unescaped(found) == field).then_some(rest)
        })?;
        // What follows another colon is not part of it, in libpq neither.
        let password = field_of(rest).map_or(rest, |(password, _)| password);
        Some(Password::new(unescaped(password))).filter(|password| !password.expose().is_empty())
    })
}

/// The bytes up to the next colon that has no backslash before it, and what follows it.
fn field_of(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut escaped = false;
    let end = line.iter().position(|&b| {
        let ends = b == b':' && !escaped;
        escaped = b == b'\\' && !escaped;
        ends
    })?;
    Some((&line[..end], &line[end + 1..]))
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        // One at the end stands for itself, as in libpq.
        kept.push(if byte == b'\\' { *bytes.next().unwrap_or(&byte) } else { byte });
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_match_as_in_libpq() {
        let file = b"# a comment\n\
            db:5432:shop:app:first\n\
            db:5432:*:app:second\r\n\
            *:*:*:ad\\:min:p\\:w\\\\d\n\
            broken line\n\
            db:5432:shop:reader:one:two\n\
            db:5432:shop:guest:\n\
            db:5432:shop:ends:in\\\n\
            *:*:*:*:last";
        for (port, database, user, expected) in [
            (5432, "shop", "app", "first"),
            (5432, "other", "app", "second"),
            (5433, "shop", "app", "last"),
            (1, "x", "ad:min", "p:w\\d"),
            (5432, "shop", "reader", "one"),
            (5432, "shop", "guest", "last"),
            (5432, "shop", "ends", "in\\"),
        ] {
            let wanted = PassfileKey { host: "db", port, database: database.as_bytes(), user: user.as_bytes() };
            let found = look_up(file, &wanted).map(|password| password.expose().to_vec());
            assert_eq!(found, Some(expected.as_bytes().to_vec()), "{port} {database} {user}");
        }
        let wanted = PassfileKey { host: "db", port: 1, database: b"x", user: b"y" };
        assert!(look_up(b"db:2:x:y:z\n", &wanted).is_none());
        assert!(look_up(b"", &wanted).is_none());
    }
}
