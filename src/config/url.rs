//! The upstream's address, in the forms that libpq takes: a URI, or `keyword=value` pairs.
//!
//! The rules are those of PostgreSQL's manual, "Connection Strings".

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::auth::Password;

/// What is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or address, and a port.
    Tcp(String, u16),
    /// The directory of a unix socket, and the port in its name.
    Unix(PathBuf, u16),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(dir, port) => write!(f, "{}/.s.PGSQL.{port}", dir.display()),
        }
    }
}

/// The PostgreSQL that pgferry fronts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is.
    pub host: Host,
    /// The role for `auth = "trust"` and `"peer"`.
    pub user: Option<String>,
    /// That role's password.
    pub password: Option<Password>,
    /// The database named in the URL: only shown in the DSN to use.
    pub database: Option<String>,
    /// `connect_timeout`, if given.
    pub connect_timeout: Option<Duration>,
    /// The minor version of the newest protocol that is asked for (`max_protocol_version`): 0, or 2 for longer cancel
    /// keys, which PostgreSQL 18 gives.
    pub minor: u16,
}

impl fmt::Display for Upstream {
    /// The URL without its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}")?;
            if self.password.is_some() {
                write!(f, ":(hidden)")?;
            }
            write!(f, "@")?;
        }
        write!(f, "{}", self.host)?;
        if let Some(database) = &self.database {
            write!(f, "/{database}")?;
        }
        if self.minor > 0 {
            write!(f, "?max_protocol_version=3.{}", self.minor)?;
        }
        Ok(())
    }
}

impl Upstream {
    /// Reads a connection string.
    ///
    /// # Errors
    /// Says which part is wrong; a password never appears in the message.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields = match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
            Some(rest) => uri(rest)?,
            None if text.contains('=') => keywords(text)?,
            None => {
                return Err("not a connection URI: it starts with postgres:// (host:port alone is not enough)".into());
            }
        };
        fields.resolve()
    }
}

/// The settings of a connection string, as text.
#[derive(Default)]
struct Fields {
    host: Option<String>,
    port: Option<String>,
    user: Option<String>,
    password: Option<String>,
    dbname: Option<String>,
    connect_timeout: Option<String>,
    max_protocol_version: Option<String>,
}

impl Fields {
    fn put(&mut self, name: &str, value: String) -> Result<(), String> {
        let slot = match name {
            "host" | "hostaddr" => &mut self.host,
            "port" => &mut self.port,
            "user" => &mut self.user,
            "password" => &mut self.password,
            "dbname" => &mut self.dbname,
            "connect_timeout" => &mut self.connect_timeout,
            "max_protocol_version" => &mut self.max_protocol_version,
            "sslmode" => return sslmode(&value),
            // What a client says of itself; pgferry's clients bring their own.
            "application_name" | "fallback_application_name" | "client_encoding" => return Ok(()),
            _ => return Err(unknown_parameter(name)),
        };
        *slot = Some(value).filter(|value| !value.is_empty());
        Ok(())
    }

    fn resolve(self) -> Result<Upstream, String> {
        let host = self.host.unwrap_or_else(|| "localhost".to_owned());
        if host.contains(',') || self.port.as_deref().is_some_and(|port| port.contains(',')) {
            return Err("several hosts are not supported yet: name one".into());
        }
        let port = match self.port.as_deref() {
            None => 5432,
            Some(port) => match port.parse() {
                Ok(port @ 1..) => port,
                _ => return Err(format!("invalid port number: \"{port}\"")),
            },
        };
        let host = if host.starts_with('/') { Host::Unix(host.into(), port) } else { Host::Tcp(host, port) };
        let connect_timeout = match self.connect_timeout.as_deref() {
            None | Some("0") => None,
            Some(text) => {
                let seconds: u64 =
                    text.parse().map_err(|_| format!("connect_timeout: \"{text}\" is not a number of seconds"))?;
                Some(Duration::from_secs(seconds))
            }
        };
        let minor = match self.max_protocol_version.as_deref() {
            None | Some("3.0") => 0,
            Some("3.2" | "latest") => 2,
            Some(other) => return Err(format!("invalid max_protocol_version value: \"{other}\" (3.0, 3.2, latest)")),
        };
        Ok(Upstream {
            host,
            minor,
            user: self.user,
            password: self.password.map(|password| Password::new(password.into_bytes())),
            database: self.dbname,
            connect_timeout,
        })
    }
}

fn sslmode(mode: &str) -> Result<(), String> {
    match mode {
        "disable" | "allow" | "prefer" => Ok(()),
        "require" | "verify-ca" | "verify-full" => Err(format!(
            "sslmode={mode}: this version has no TLS towards PostgreSQL yet; \"prefer\" connects without it"
        )),
        _ => Err(format!("invalid sslmode value: \"{mode}\"")),
    }
}

fn unknown_parameter(name: &str) -> String {
    const KNOWN: [&str; 9] = [
        "host",
        "port",
        "user",
        "password",
        "dbname",
        "connect_timeout",
        "sslmode",
        "max_protocol_version",
        "application_name",
    ];
    match super::keys::nearest(name, KNOWN) {
        Some(near) => format!("invalid URI query parameter: \"{name}\" (did you mean \"{near}\"?)"),
        None => format!("URI query parameter \"{name}\" is not supported: leave it out (clients set their own)"),
    }
}

fn uri(rest: &str) -> Result<Fields, String> {
    let mut fields = Fields::default();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    let (userinfo, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    if let Some(userinfo) = userinfo {
        let (user, password) = userinfo.split_once(':').map_or((userinfo, None), |(u, p)| (u, Some(p)));
        fields.put("user", decode("user", user)?)?;
        if let Some(password) = password {
            fields.put("password", decode("password", password)?)?;
        }
    }
    if hosts.contains(',') {
        return Err("several hosts are not supported yet: name one".into());
    }
    let (host, port) = match hosts.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']').ok_or("an IPv6 address lacks its closing bracket")?;
            (host, after.strip_prefix(':').unwrap_or(after))
        }
        None => hosts.split_once(':').unwrap_or((hosts, "")),
    };
    fields.put("host", decode("host", host)?)?;
    fields.put("port", decode("port", port)?)?;
    if let Some(path) = path {
        fields.put("dbname", decode("database", path)?)?;
    }
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| format!("missing key/value separator \"=\" in \"{pair}\""))?;
        fields.put(&decode("parameter", name)?, decode(name, value)?)?;
    }
    Ok(fields)
}

fn decode(what: &str, text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let broken = bytes.iter().enumerate().any(|(at, &b)| {
        b == b'%' && !bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    if broken || text.contains("%00") {
        return Err(format!("invalid percent-encoding in the {what}"));
    }
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| format!("the {what} is not UTF-8"))
}

fn keywords(text: &str) -> Result<Fields, String> {
    let mut fields = Fields::default();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(|| "missing \"=\" after a keyword".to_owned())?;
        let (value, after) = keyword_value(after.trim_start())?;
        fields.put(name.trim(), value)?;
        rest = after.trim_start();
    }
    Ok(fields)
}

/// A value ends at a blank unless it is in single quotes; a backslash takes the next character as it is.
fn keyword_value(text: &str) -> Result<(String, &str), String> {
    let (quoted, body) = text.strip_prefix('\'').map_or((false, text), |body| (true, body));
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err("unterminated quoted string".into()) } else { Ok((value, "")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn uris_in_libpqs_forms() {
        for (text, host, user, database) in [
            ("postgres://db.example:5433/shop", "db.example:5433", None, Some("shop")),
            ("postgresql://db.example", "db.example:5432", None, None),
            ("postgres://", "localhost:5432", None, None),
            ("postgres://me@h", "h:5432", Some("me"), None),
            ("postgres://me:p%40ss%2Fw@h/d%20b", "h:5432", Some("me"), Some("d b")),
            ("postgres://[2001:db8::1]:1234/x", "[2001:db8::1]:1234", None, Some("x")),
            ("postgres://%2Fvar%2Frun%2Fpostgresql/x", "/var/run/postgresql/.s.PGSQL.5432", None, Some("x")),
            ("postgres:///x?host=/tmp&port=7&user=u", "/tmp/.s.PGSQL.7", Some("u"), Some("x")),
            ("postgres://h/x?sslmode=prefer&connect_timeout=3", "h:5432", None, Some("x")),
            ("host=h port=1 user='it\\'s me' dbname = x", "h:1", Some("it's me"), Some("x")),
        ] {
            let upstream = Upstream::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(upstream.host.to_string(), host, "{text}");
            assert_eq!(upstream.user.as_deref(), user, "{text}");
            assert_eq!(upstream.database.as_deref(), database, "{text}");
        }
        let upstream = Upstream::parse("postgres://me:p%40ss@h/x?connect_timeout=3").expect("good");
        assert_eq!(upstream.password.as_ref().map(Password::expose), Some(&b"p@ss"[..]));
        assert_eq!(upstream.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(upstream.to_string(), "postgres://me:(hidden)@h:5432/x");
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, part) in [
            ("db.example:5432", "postgres://"),
            ("postgres://a,b/x", "several hosts"),
            ("postgres://h?host=a,b", "several hosts"),
            ("postgres://h:0", "port"),
            ("postgres://h:x", "port"),
            ("postgres://h:99999", "port"),
            ("postgres://me:p%zz@h", "percent-encoding in the password"),
            ("postgres://h?sslmode=require", "no TLS"),
            ("postgres://h?sslmode=on", "invalid sslmode"),
            ("postgres://h?max_protocol_version=3.1", "invalid max_protocol_version"),
            ("postgres://h?sslmod=prefer", "did you mean \"sslmode\""),
            ("postgres://h?pgbouncer=true", "not supported"),
            ("postgres://h?x", "missing key/value separator"),
            ("postgres://[::1/x", "bracket"),
            ("host='h", "unterminated"),
        ] {
            let error = Upstream::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = Upstream::parse("postgres://me:hunter2%zz@h").expect_err("bad");
        assert!(!error.contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in ".{0,80}") {
            let _ = Upstream::parse(&text);
            let _ = Upstream::parse(&format!("postgres://{text}"));
            let _ = Upstream::parse(&format!("host={text}"));
        }
    }
}
