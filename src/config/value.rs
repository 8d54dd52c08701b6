//! Single values: how each kind is written, read and shown.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every spelling.
            pub const ALL: &'static [&'static str] = &[$($text),+];

            /// Reads a value.
            ///
            /// # Errors
            /// Says which values there are.
            pub fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("\"{text}\" is not one of {}", Self::ALL.join(", "))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),+ })
            }
        }
    };
}

pub(super) use choice;

choice! {
    /// Time for which a client keeps its server connection.
    Mode {
        /// From its first statement to its end.
        Session = "session",
        /// For a transaction, unless session state pins it.
        Transaction = "transaction",
    }
}

choice! {
    /// Treatment of statements that leave session state, in transaction mode.
    Pin {
        /// Its client keeps the connection until that is gone.
        Auto = "auto",
        /// It is refused.
        Refuse = "refuse",
    }
}

choice! {
    /// Condition on which a used session is reset before another client gets it.
    Reset {
        /// Every time.
        Always = "always",
        /// Resets where session state was seen, or code in the database may have left some.
        Auto = "auto",
        /// Resets where session state was seen.
        OnChange = "on_change",
        /// Not at all.
        Never = "never",
    }
}

choice! {
    /// Methods by which clients log in.
    Auth {
        /// The upstream decides by the client's own password.
        PassThrough = "pass-through",
        /// The client's operating system user decides.
        Peer = "peer",
        /// Every connection is accepted.
        Trust = "trust",
        /// SCRAM, with secrets that are stored here.
        Scram = "scram-sha-256",
        /// MD5, or SCRAM where the secret is a SCRAM verifier, with secrets that are stored here.
        Md5 = "md5",
        /// The password in clear text, compared with secrets that are stored here.
        Password = "password",
        /// The client's certificate decides.
        Cert = "cert",
        /// Every connection is rejected.
        Reject = "reject",
    }
}

choice! {
    /// Transports over which TLS is offered to clients that ask for it.
    ClientTls {
        /// Over unix and abstract sockets, and over TCP; from other machines with a configured certificate only.
        Auto = "auto",
        /// Over unix and abstract sockets.
        Unix = "unix",
        /// Nowhere.
        Off = "off",
    }
}

choice! {
    /// Condition that a server must satisfy (libpq's `target_session_attrs`).
    TargetSessionAttrs {
        /// The first that can be reached.
        Any = "any",
        /// One that takes writes by default.
        ReadWrite = "read-write",
        /// One that takes none by default.
        ReadOnly = "read-only",
        /// A primary.
        Primary = "primary",
        /// A standby.
        Standby = "standby",
        /// A standby, or any if there is none.
        PreferStandby = "prefer-standby",
    }
}

choice! {
    /// The form of log lines.
    LogFormat {
        /// For people.
        Text = "text",
        /// For machines.
        Json = "json",
    }
}

/// Reads a duration: a number of seconds, or a number with `ms`, `s`, `min`/`m`, `h`, `d`.
///
/// # Errors
/// Says what was expected.
///
/// ```
/// use pgferry::internals::config::value::duration;
/// use std::time::Duration;
///
/// assert_eq!(duration("5min"), Ok(Duration::from_secs(300)));
/// assert!(duration("5 parsecs").is_err());
/// ```
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let expected = || format!("\"{text}\" is not a duration such as \"10s\", \"500ms\" or \"5min\"");
    let number: f64 = text[..digits].parse().map_err(|_| expected())?;
    let unit = match text[digits..].trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(expected()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| expected()).and_then(|duration| {
        // A hundred years: far enough for any use, near enough for clocks.
        if duration.as_secs() > 100 * 365 * 86400 { Err(format!("\"{text}\" is too long")) } else { Ok(duration) }
    })
}

/// A number from `min` to `max`.
///
/// # Errors
/// What it is not.
pub(super) fn number(text: &str, min: usize, max: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("\"{text}\" is not a number from {min} to {max}")),
    }
}

/// Reads a size in bytes: a number, or a number with `B`, `kB`, `MB` (powers of 1024, as PostgreSQL counts).
///
/// # Errors
/// Says what was expected.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let expected = || format!("\"{text}\" is not a size such as \"32kB\"");
    let number: usize = text[..digits].parse().map_err(|_| expected())?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "kB" => 1024,
        "MB" => 1024 * 1024,
        _ => return Err(expected()),
    };
    number.checked_mul(unit).ok_or_else(expected)
}

/// Address at which clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// A directory: the socket is `DIR/.s.PGSQL.PORT`.
    Dir(PathBuf),
    /// An abstract socket `@NAME/.s.PGSQL.PORT`, as libpq's `host=@NAME` expects.
    Abstract(String),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// Address for requests about figures and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A socket file.
    File(PathBuf),
}

impl AdminListen {
    /// Reads an address: `host:port`, or the path of a socket file.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        match Listen::parse(text) {
            Ok(Listen::Dir(path)) => Ok(Self::File(path)),
            Ok(Listen::Tcp(address)) => Ok(Self::Tcp(address)),
            Err(error) if text.ends_with(":0") => Err(error),
            _ => Err(format!("\"{text}\" is neither \"host:port\" nor the path of a socket file")),
        }
    }

    /// Returns whether other machines can reach it.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Tcp(address) if !is_loopback(address.ip()))
    }
}

impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Listen {
    /// Reads an address: `@name`, `host:port`, or a directory.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix('@') {
            return if name.is_empty() {
                Err("an abstract socket needs a name".into())
            } else {
                Ok(Self::Abstract(name.into()))
            };
        }
        if text.starts_with(['/', '.']) {
            return Ok(Self::Dir(PathBuf::from(text)));
        }
        let expected =
            || format!("\"{text}\" is not a directory (\"/run/pgferry\", \"./run\"), \"@name\" or \"host:port\"");
        let everywhere = text.strip_prefix("*:").or_else(|| text.strip_prefix(':'));
        if let Some(port) = everywhere.filter(|port| port.parse::<u16>().is_ok()) {
            return Err(format!(
                "\"{text}\" has no host: 127.0.0.1:{port} is this machine, 0.0.0.0:{port} and [::]:{port} any"
            ));
        }
        match text.rsplit_once(':') {
            Some((_, port)) if port.parse() == Ok(0_u16) => {
                Err(format!("\"{text}\" has no port that clients could know"))
            }
            Some((host, port)) if port.parse::<u16>().is_ok() => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let port = port.parse().map_err(|_| expected())?;
                let mut found = (host, port).to_socket_addrs().map_err(|error| format!("{text}: {error}"))?;
                found.next().map(Self::Tcp).ok_or_else(expected)
            }
            _ => Err(expected()),
        }
    }

    /// Returns whether clients from other machines can reach it.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Tcp(address) if !is_loopback(address.ip()))
    }
}

/// Returns whether `ip` is this machine talking to itself.
#[must_use]
pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(dir) => write!(f, "{}", dir.display()),
            Self::Abstract(name) => write!(f, "@{name}"),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// Roles that an operating system user may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRule {
    /// The user id that the rule is for.
    pub uid: Option<u32>,
    /// The group id that the rule is for: the process's primary group.
    pub gid: Option<u32>,
    /// The user's name that the rule is for.
    pub user: Option<String>,
    /// Roles; `*` is every role, none at all the role named like the user.
    pub roles: Vec<String>,
}

impl PeerRule {
    /// The fields of a rule.
    pub const FIELDS: [&'static str; 4] = ["uid", "gid", "user", "roles"];

    /// Makes a rule of its fields.
    ///
    /// # Errors
    /// Says which field is wrong.
    pub fn from_fields(fields: &[(String, Vec<String>)]) -> Result<Self, String> {
        let mut rule = Self::default();
        for (name, values) in fields {
            let number = || match values.as_slice() {
                [one] => one.parse::<u32>().map_err(|_| format!("{name}: \"{one}\" is not a number")),
                _ => Err(format!("{name}: one number is needed")),
            };
            match name.as_str() {
                "uid" => rule.uid = Some(number()?),
                "gid" => rule.gid = Some(number()?),
                "user" => match values.as_slice() {
                    [one] => rule.user = Some(one.clone()),
                    _ => return Err(format!("{name}: one name is needed")),
                },
                "roles" => rule.roles.clone_from(values),
                _ => return Err(format!("there is no field \"{name}\"")),
            }
        }
        if rule.uid.is_none() && rule.gid.is_none() && rule.user.is_none() {
            return Err("a rule needs uid, gid or user".into());
        }
        Ok(rule)
    }

    /// Reads the rules of `PGFERRY_PEER`: `uid=1000 roles=app,reports; user=www-data roles=*`.
    ///
    /// # Errors
    /// Says which part is wrong.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let rules = text.split(';').map(str::trim).filter(|rule| !rule.is_empty());
        rules
            .map(|rule| {
                let fields = rule.split_whitespace().map(|field| {
                    let (name, values) = field.split_once('=').ok_or(format!("\"{field}\" is not name=value"))?;
                    Ok((name.to_owned(), values.split(',').map(str::to_owned).collect()))
                });
                Self::from_fields(&fields.collect::<Result<Vec<_>, String>>()?)
            })
            .collect()
    }
}

impl fmt::Display for PeerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = [
            ("uid", self.uid.map(|n| n.to_string())),
            ("gid", self.gid.map(|n| n.to_string())),
            ("user", self.user.clone()),
        ];
        for (name, value) in rules {
            if let Some(value) = value {
                write!(f, "{name}={value} ")?;
            }
        }
        write!(f, "roles={}", self.roles.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("10", 10_000),
            ("0", 0),
            ("500ms", 500),
            ("1.5s", 1500),
            ("2min", 120_000),
            ("1h", 3_600_000),
            ("1 d", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "10 parsecs", "1e9", "99999999999d", "1..5"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(Listen::parse("/run/x"), Ok(Listen::Dir("/run/x".into())));
        assert_eq!(Listen::parse("@x"), Ok(Listen::Abstract("x".into())));
        assert_eq!(Listen::parse("127.0.0.1:5432").map(|l| l.is_remote()), Ok(false));
        assert_eq!(Listen::parse("[::1]:5432").map(|l| l.is_remote()), Ok(false));
        assert_eq!(Listen::parse("0.0.0.0:5432").map(|l| l.is_remote()), Ok(true));
        for text in ["", "@", "5432", "x:y", "127.0.0.1:99999"] {
            assert!(Listen::parse(text).is_err(), "{text}");
        }
        assert!(Listen::parse(":6432").expect_err("no host").contains("127.0.0.1:6432"));
        assert!(Listen::parse("127.0.0.1:0").expect_err("any port").contains("no port that clients"));
        assert!(AdminListen::parse("127.0.0.1:0").expect_err("any port").contains("no port that clients"));
    }

    #[test]
    fn peer_rules_in_one_line() {
        let rules = PeerRule::parse_list("uid=1000 roles=app,reports; user=www-data roles=*").expect("good");
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].roles, ["app", "reports"]);
        assert_eq!(rules[1].to_string(), "user=www-data roles=*");
        assert!(PeerRule::parse_list("roles=x").is_err());
        assert!(PeerRule::parse_list("uid=x").is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(size("32kB"), Ok(32 * 1024));
        assert_eq!(size("1 MB"), Ok(1024 * 1024));
        assert!(size("32kb").is_err() && size("").is_err() && size("99999999999999999999MB").is_err());
    }
}
