//! The upstream's address, in the forms that libpq takes: a URI, or `keyword=value` pairs.
//!
//! The rules are those of PostgreSQL's manual, "Connection Strings".

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::encryption::Encryption;
use super::socket_path::socket_path;
use super::value::TargetSessionAttrs;
use crate::auth::Password;

/// Hosts that are dialled.
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
            Self::Unix(dir, port) => write!(f, "{}", socket_path(dir, *port).display()),
        }
    }
}

impl Host {
    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(_, port) | Self::Unix(_, port) => *port,
        }
    }
}

/// One of several servers that may be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host.
    pub host: Host,
    /// The address to connect to, if the host's name is not to be looked up (`hostaddr`).
    pub address: Option<IpAddr>,
}

/// The PostgreSQL that pgferry fronts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Hosts, at least one. The first that satisfies `target` is used.
    pub endpoints: Vec<Endpoint>,
    /// Condition that a server must satisfy (`target_session_attrs`).
    pub target: TargetSessionAttrs,
    /// True if they are tried in random order (`load_balance_hosts`).
    pub balance: bool,
    /// The role for `auth_type = "trust"` and `"peer"`.
    pub user: Option<String>,
    /// Password of that role.
    pub password: Option<Password>,
    /// The database named in the URL: only shown in the DSN to use.
    pub database: Option<String>,
    /// `connect_timeout`, if given.
    pub connect_timeout: Option<Duration>,
    /// The minor version of the newest protocol that is asked for (`max_protocol_version`): 0, or 2 for longer cancel
    /// keys, which PostgreSQL 18 gives.
    pub minor: u16,
    /// File in which other passwords are looked up (`passfile`).
    pub passfile: Option<PathBuf>,
    /// Encryption of connections.
    pub encryption: Encryption,
}

impl fmt::Display for Upstream {
    /// The URL without its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://")?;
        if let Some(user) = &self.user {
            write!(f, "{}", escaped(user))?;
            if self.password.is_some() {
                write!(f, ":(hidden)")?;
            }
            write!(f, "@")?;
        }
        // In a URI all hosts stand together only where all are TCP's.
        let all_tcp = self.endpoints.iter().all(|endpoint| matches!(endpoint.host, Host::Tcp(..)));
        let hosts = || self.endpoints.iter().map(|endpoint| &endpoint.host);
        if all_tcp || self.endpoints.len() == 1 {
            write!(f, "{}", hosts().map(ToString::to_string).collect::<Vec<_>>().join(","))?;
        }
        if let Some(database) = &self.database {
            write!(f, "/{}", escaped(database))?;
        }
        let mut parameters = self.encryption.show();
        if !all_tcp && self.endpoints.len() > 1 {
            let name = |host: &Host| match host {
                Host::Tcp(name, _) => name.clone(),
                Host::Unix(dir, _) => dir.display().to_string(),
            };
            parameters.push(("host", hosts().map(name).collect::<Vec<_>>().join(",")));
            parameters.push(("port", hosts().map(|host| host.port().to_string()).collect::<Vec<_>>().join(",")));
        }
        if self.endpoints.iter().any(|endpoint| endpoint.address.is_some()) {
            let address = |endpoint: &Endpoint| endpoint.address.map_or_else(String::new, |ip| ip.to_string());
            parameters.push(("hostaddr", self.endpoints.iter().map(address).collect::<Vec<_>>().join(",")));
        }
        parameters.extend(
            (self.target != TargetSessionAttrs::Any).then(|| ("target_session_attrs", self.target.to_string())),
        );
        parameters.extend(self.balance.then(|| ("load_balance_hosts", "random".to_owned())));
        parameters.extend(self.passfile.as_ref().map(|path| ("passfile", path.display().to_string())));
        parameters.extend((self.minor > 0).then(|| ("max_protocol_version", format!("3.{}", self.minor))));
        for (nth, (name, value)) in parameters.iter().enumerate() {
            let value = percent_encode(value.as_bytes(), &QUERY);
            write!(f, "{}{name}={value}", if nth == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

/// A name with what would end it in a URI written as `%…`; letters of all alphabets stay.
fn escaped(name: &str) -> String {
    let escape = |c: char| match c {
        '%' | ':' | '/' | '?' | '#' | '@' => format!("%{:02X}", u32::from(c)),
        c => c.to_string(),
    };
    name.chars().map(escape).collect()
}

impl Upstream {
    /// All places as text.
    #[must_use]
    pub fn places(&self) -> String {
        self.endpoints.iter().map(|endpoint| endpoint.host.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Reads a connection string.
    ///
    /// # Errors
    /// Says which part is wrong; a password never appears in the message.
    ///
    /// ```
    /// use pgferry::internals::config::url::Upstream;
    ///
    /// let upstream = Upstream::parse("postgres://app@pg-1,pg-2:5433/shop?connect_timeout=3").expect("good");
    /// assert_eq!(upstream.places(), "pg-1:5432, pg-2:5433");
    /// assert_eq!(upstream.database.as_deref(), Some("shop"));
    /// assert!(Upstream::parse("db.example:5432").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
            Some(rest) => uri(rest),
            None if text.contains('=') => keywords(text)?.resolve(),
            None => Err("not a connection URI: it starts with postgres:// (host:port alone is not enough)".into()),
        }
    }
}

/// The parameters that are understood, besides those of encryption.
const PARAMETERS: [&str; 11] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "passfile",
    "dbname",
    "connect_timeout",
    "max_protocol_version",
    "target_session_attrs",
    "load_balance_hosts",
];

/// Parameters by which a client describes itself; pgferry's clients bring their own.
const CLIENTS_OWN: [&str; 3] = ["application_name", "fallback_application_name", "client_encoding"];

/// Characters that need no escape in the query of a URL.
const QUERY: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b':');

/// The settings of a connection string.
#[derive(Default)]
struct Fields {
    values: BTreeMap<&'static str, String>,
    encryption: Encryption,
}

impl Fields {
    fn put(&mut self, name: &str, value: String) -> Result<(), String> {
        if Encryption::NAMES.contains(&name) {
            return self.encryption.set(name, &value);
        }
        if let Some(known) = PARAMETERS.into_iter().find(|known| *known == name) {
            if value.is_empty() {
                self.values.remove(known);
            } else {
                self.values.insert(known, value);
            }
            return Ok(());
        }
        match (name, value.as_str()) {
            // JDBC's and older libpqs' way to say it.
            ("ssl", "true") | ("requiressl", "1") => self.encryption.set("sslmode", "require"),
            ("gssencmode", "disable" | "prefer") | ("sslcompression", "0") => Ok(()),
            ("sslpassword", _) => Err("sslpassword is not supported: use a key without a passphrase".into()),
            _ if CLIENTS_OWN.contains(&name) => Ok(()),
            _ => Err(unknown_parameter(name)),
        }
    }

    fn resolve(mut self) -> Result<Upstream, String> {
        let mut take = |name| self.values.remove(name);
        let endpoints = endpoints(take("host").as_deref(), take("hostaddr").as_deref(), take("port").as_deref())?;
        let target = take("target_session_attrs").map_or(Ok(TargetSessionAttrs::Any), |text| {
            TargetSessionAttrs::parse(&text).map_err(|error| format!("target_session_attrs: {error}"))
        })?;
        let balance = match take("load_balance_hosts").as_deref() {
            None | Some("disable") => false,
            Some("random") => true,
            Some(other) => return Err(format!("invalid load_balance_hosts value: \"{other}\" (disable, random)")),
        };
        let connect_timeout = match take("connect_timeout").as_deref() {
            None => None,
            Some(text) => {
                let seconds: i32 =
                    text.parse().map_err(|_| format!("connect_timeout: \"{text}\" is not a number of seconds"))?;
                // What is 0 or less is no limit of its own, as in libpq.
                u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
            }
        };
        let minor = match take("max_protocol_version").as_deref() {
            None | Some("3.0") => 0,
            Some("3.2" | "latest") => 2,
            Some(other) => return Err(format!("invalid max_protocol_version value: \"{other}\" (3.0, 3.2, latest)")),
        };
        Ok(Upstream {
            endpoints,
            target,
            balance,
            minor,
            user: take("user"),
            password: take("password").map(|password| Password::new(password.into_bytes())),
            passfile: take("passfile").map(PathBuf::from),
            database: take("dbname"),
            connect_timeout,
            encryption: self.encryption,
        })
    }
}

/// The places that `host`, `hostaddr` and `port` name: lists of the same length, but for a single port for all.
fn endpoints(host: Option<&str>, address: Option<&str>, port: Option<&str>) -> Result<Vec<Endpoint>, String> {
    let list = |text: Option<&str>| -> Vec<String> {
        text.map(|text| text.split(',').map(|item| item.trim().to_owned()).collect()).unwrap_or_default()
    };
    let (hosts, addresses, ports) = (list(host), list(address), list(port));
    let count = hosts.len().max(addresses.len()).max(1);
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(format!("could not match {} host names to {} hostaddr values", hosts.len(), addresses.len()));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(format!("could not match {} port numbers to {count} hosts", ports.len()));
    }
    let endpoint = |at: usize| {
        let given = |list: &[String]| list.get(at).filter(|item| !item.is_empty()).cloned();
        let address = match given(&addresses) {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| format!("hostaddr: \"{text}\" is no address"))?),
        };
        let host = given(&hosts).or_else(|| given(&addresses)).unwrap_or_else(|| "localhost".to_owned());
        let port = match given(&ports).or_else(|| ports.first().filter(|_| ports.len() == 1).cloned()).as_deref() {
            None | Some("") => 5432,
            Some(port) => match port.parse() {
                Ok(port @ 1..) => port,
                _ if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                    return Err(format!("invalid port number: \"{port}\""));
                }
                // It may be a password that should be in front of an `@`.
                _ => return Err("invalid port number: it is none; a user and a password end with an \"@\"".into()),
            },
        };
        if host.starts_with('@') {
            return Err(format!("\"{host}\" is an abstract socket: pgferry connects to socket files and over TCP"));
        }
        let host = if host.starts_with('/') { Host::Unix(host.into(), port) } else { Host::Tcp(host, port) };
        Ok(Endpoint { host, address })
    };
    (0..count).map(endpoint).collect()
}

fn unknown_parameter(name: &str) -> String {
    // What is no name may be a part of a password.
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return "something else than a parameter's name stands in front of a \"=\": in a password write ? and & as %3F and \
                %26, or put it into single quotes where the parts are separated by blanks"
            .to_owned();
    }
    match super::keys::nearest(name, PARAMETERS.into_iter().chain(Encryption::NAMES)) {
        Some(near) => format!("invalid URI query parameter: \"{name}\" (did you mean \"{near}\"?)"),
        None => format!("URI query parameter \"{name}\" is not supported: leave it out (clients set their own)"),
    }
}

/// Reads what stands behind `postgres://`.
fn uri(rest: &str) -> Result<Upstream, String> {
    // Where a password's `/` or `?` has ended the authority, an error could name parts of the password, and what is read may be another
    // server: a password of digits is a port then.
    let (authority, behind) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let path = behind.split('?').next().unwrap_or_default();
    let advice = || "it has an \"@\" behind a \"/\" or \"?\": in a password write these as %2F and %3F, in a database's name @ as %40";
    match uri_fields(rest).and_then(Fields::resolve) {
        Ok(_) if path.contains('@') => Err(advice().to_owned()),
        Err(_) if authority.contains(':') && behind.contains('@') => Err(advice().to_owned()),
        result => result,
    }
}

fn uri_fields(rest: &str) -> Result<Fields, String> {
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
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for one in hosts.split(',') {
        let (host, port) = match one.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or("an IPv6 address lacks its closing bracket")?;
                (host, after.strip_prefix(':').unwrap_or(after))
            }
            None => one.split_once(':').unwrap_or((one, "")),
        };
        names.push(decode("host", host)?);
        ports.push(decode("port", port)?);
    }
    // A list of nothing but commas names hosts all the same.
    fields.put("host", names.join(","))?;
    fields.put("port", if ports.iter().all(String::is_empty) { String::new() } else { ports.join(",") })?;
    if let Some(path) = path {
        fields.put("dbname", decode("database", path)?)?;
    }
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (name, value) =
            pair.split_once('=').ok_or("missing key/value separator \"=\" behind the \"?\", or behind an \"&\"")?;
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
    use crate::config::SslMode;

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
            assert_eq!(upstream.places(), host, "{text}");
            assert_eq!(upstream.user.as_deref(), user, "{text}");
            assert_eq!(upstream.database.as_deref(), database, "{text}");
        }
        let upstream = Upstream::parse("postgres://me:p%40ss@h/x?connect_timeout=3").expect("good");
        assert_eq!(upstream.password.as_ref().map(Password::expose), Some(&b"p@ss"[..]));
        assert_eq!(upstream.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(upstream.to_string(), "postgres://me:(hidden)@h:5432/x");
    }

    #[test]
    fn several_hosts_as_libpq_takes_them() {
        for (text, places) in [
            ("postgres://a,b:5433,[::1]:7/x", "a:5432, b:5433, [::1]:7"),
            ("postgres://a,b/x?port=9", "a:9, b:9"),
            ("host=a,/tmp port=1,2", "a:1, /tmp/.s.PGSQL.2"),
            ("host=a,b port=1,", "a:1, b:5432"),
            ("hostaddr=10.0.0.1,10.0.0.2", "10.0.0.1:5432, 10.0.0.2:5432"),
        ] {
            let upstream = Upstream::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(upstream.places(), places, "{text}");
            let again = Upstream::parse(&upstream.to_string()).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(again, upstream, "{text}: {upstream}");
        }
        let text = "postgres://a,b?target_session_attrs=read-write&load_balance_hosts=random";
        let upstream = Upstream::parse(text).expect("good");
        assert_eq!((upstream.target, upstream.balance), (TargetSessionAttrs::ReadWrite, true));
        assert_eq!(Upstream::parse(&upstream.to_string()).expect("good"), upstream);
    }

    #[test]
    fn what_is_shown_can_be_read() {
        let text = "postgres://h:5432/x?sslmode=verify-full&sslnegotiation=direct&sslrootcert=/my%20ca.pem&sslcert=/c\
                    &sslkey=/k&sslcrl=/r&ssl_min_protocol_version=TLSv1.3&sslsni=0&channel_binding=require\
                    &require_auth=scram-sha-256\
                    &hostaddr=10.0.0.1&passfile=/p&max_protocol_version=3.2";
        let upstream = Upstream::parse(text).expect("good");
        assert_eq!(upstream.to_string(), text);
        assert_eq!(upstream.encryption.root.as_deref(), Some("/my ca.pem"));
        let jdbc = Upstream::parse("postgres://h?ssl=true").expect("good");
        assert_eq!(jdbc.encryption.mode, Some(SslMode::Require));
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, part) in [
            ("postgres://?host=@pg", "\"@pg\" is an abstract socket"),
            ("db.example:5432", "postgres://"),
            ("postgres://a,b/x?port=1,2,3", "could not match 3 port numbers to 2 hosts"),
            ("postgres://a,b?hostaddr=10.0.0.1", "could not match 2 host names to 1 hostaddr"),
            ("postgres://a?target_session_attrs=primry", "primary"),
            ("postgres://a?load_balance_hosts=yes", "load_balance_hosts"),
            ("postgres://h:0", "port"),
            ("postgres://h:x", "port"),
            ("postgres://h:99999", "port"),
            ("postgres://me:p%zz@h", "percent-encoding in the password"),
            ("postgres://h?hostaddr=db", "no address"),
            ("postgres://h?sslpassword=x", "not supported"),
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
        for text in [
            "postgres://me:hunter2%zz@h",
            "postgres://me:hunter2/x@h/d",
            "postgres://me:hunter2?x@h",
            "postgres://me:1/hunter2?x=y@h",
            "postgres://me:hunter2",
            "postgres://me:hunter2/d",
            "postgres://me:p@hunter2/x@h/d",
            "postgres://me:p@ss/hunter2@h/d",
            "postgres://me:1/hunter2@h/d",
            "postgres://me:p@ss?hunter2@h/d",
            "postgres://me:p@ss?hunter2=x@h/d",
            "postgres://me:p@ss?x&hunter2@h",
            "host=h password=a hunter2 sslmode=require",
            "host=h password=a hunter2",
        ] {
            let error = Upstream::parse(text).expect_err("bad");
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
        let named = Upstream::parse("postgres://m%3Ae@h/a%40b").expect("good");
        assert_eq!((named.user.as_deref(), named.database.as_deref()), (Some("m:e"), Some("a@b")));
        assert_eq!(Upstream::parse(&named.to_string()).expect("as it is shown"), named);
        assert_eq!(
            Upstream::parse("postgres://me:p@ss@h/d").expect("good").to_string(),
            "postgres://me:(hidden)@h:5432/d"
        );
        for (text, seconds) in [("0", None), ("-1", None), ("2147483647", Some(2_147_483_647))] {
            let upstream = Upstream::parse(&format!("postgres://h?connect_timeout={text}")).expect("good");
            assert_eq!(upstream.connect_timeout, seconds.map(Duration::from_secs), "{text}");
        }
        assert!(Upstream::parse("postgres://h?connect_timeout=18446744073709551615").is_err(), "libpq takes none such");
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
