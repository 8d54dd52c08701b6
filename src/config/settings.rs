//! Settings as the program works with them: resolved, checked, immutable.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::address::{ClientAddress, SocketPorts};
use super::encryption;
use super::error::{ConfigError, Origin};
use super::keys::{KEYS, Key, PER_DATABASE};
use super::reader::{Reader, number_or_auto, optional_duration, positive_duration, truth, unix_socket_mode};
use super::rule::{ClientIdentity, Rule};
use super::source::RawConfig;
use super::url::Upstream;
use super::user::{Limits, UserEntry};
use super::value::{self, AdminListen, Auth, ClientTls, Listen, LogFormat, Mode, PeerRule, Pin, Reset, number};
use super::written_value::Value;
use crate::auth::Stored;
use crate::auth::scram::keys::MAX_ITERATIONS;
use crate::net::tls::Version;

/// Everything that can be configured; `keys` says what each means.
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own, on or off")]
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the key of the same name, documented once in `keys`")]
pub struct Settings {
    pub upstream: Upstream,
    pub dbname: Option<String>,
    pub force_user: Option<String>,
    pub dns_max_ttl: Duration,
    pub upstream_password_file: Option<PathBuf>,
    pub password_command: Vec<String>,
    pub password_ttl: Duration,
    pub passfile: Option<PathBuf>,
    pub listen: Vec<Listen>,
    pub ports: SocketPorts,
    pub unix_socket_mode: u32,
    pub unix_socket_group: Option<String>,
    pub allow_remote: bool,
    pub max_client_conn: usize,
    pub pool_mode: Mode,
    pub pin: Pin,
    pub max_prepared_statements: usize,
    pub max_prepared_bytes: usize,
    pub pool_size: usize,
    /// `None` for as many as [`Settings::max_upstream`] allows.
    pub reserve_pool_size: Option<usize>,
    pub reserve_pool_timeout: Duration,
    pub min_pool_size: usize,
    /// `None` for as many as the server has.
    pub max_upstream: Option<usize>,
    pub max_connecting: usize,
    pub server_idle_timeout: Option<Duration>,
    pub server_lifetime: Option<Duration>,
    pub query_wait_timeout: Duration,
    pub server_connect_timeout: Duration,
    pub client_login_timeout: Duration,
    pub cleanup_timeout: Duration,
    pub tcp_keepidle: Option<Duration>,
    pub tcp_user_timeout: Option<Duration>,
    pub reset: Reset,
    /// The rules of logins: the `[[rule]]` tables, or one that is `auth_type`.
    pub rules: Vec<Rule>,
    pub auth_recheck: Duration,
    pub peer: Vec<PeerRule>,
    pub users: BTreeMap<Vec<u8>, Stored>,
    /// The limits of users that have any.
    pub limits: BTreeMap<Vec<u8>, Limits>,
    pub auth_file: Option<PathBuf>,
    pub auth_user: Option<String>,
    pub auth_query: String,
    pub auth_dbname: Option<String>,
    pub auth_query_ttl: Duration,
    pub scram_iterations: u32,
    pub client_tls: ClientTls,
    pub client_tls_cert_file: Option<PathBuf>,
    pub client_tls_key_file: Option<PathBuf>,
    pub client_tls_ca_file: Option<PathBuf>,
    pub client_tls_min_protocol_version: Version,
    pub drain_timeout: Duration,
    pub log_format: LogFormat,
    pub log_level: String,
    pub log_connections: bool,
    pub log_stats_interval: Option<Duration>,
    pub admin_listen: Option<AdminListen>,
    pub admin_hosts: Vec<String>,
    pub admin_users: Vec<String>,
    pub stats_users: Vec<String>,
    pub admin_peer: bool,
    pub quit_endpoint: bool,
    pub workers: usize,
    pub buffer_size: usize,
    /// What holds for the clients of databases with a table of their own.
    pub databases: BTreeMap<Vec<u8>, Arc<Settings>>,
    /// Every key with its value as text (secrets hidden) and the place it came from, for `pgferry check` and for
    /// comparing settings.
    pub(super) shown: Vec<(&'static Key, String, Origin)>,
}

/// Where connections go, and as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way<'a> {
    upstream: &'a Upstream,
    dbname: Option<&'a str>,
    force_user: Option<&'a str>,
    password_file: Option<&'a std::path::Path>,
    command: &'a [String],
}

impl Settings {
    /// Understands and checks what was written.
    ///
    /// # Errors
    /// The first mistake, with its place and key.
    #[expect(clippy::too_many_lines, reason = "a line for each setting")]
    pub fn resolve(written: &RawConfig) -> Result<Self, ConfigError> {
        let reader = Reader { written };
        let upstream = reader.upstream()?;
        let server_connect_timeout = match (written.get("server_connect_timeout"), upstream.connect_timeout) {
            (None, Some(from_url)) => from_url,
            _ => reader.read("server_connect_timeout", positive_duration)?,
        };
        let databases = written
            .databases()
            .into_iter()
            .map(|(name, own)| Ok((name.as_bytes().to_vec(), Arc::new(Self::resolve(&own)?))))
            .collect::<Result<BTreeMap<_, _>, ConfigError>>()?;
        let ports = reader.read_optional("port", SocketPorts::parse)?.map_or_else(
            || SocketPorts::of([&upstream].into_iter().chain(databases.values().map(|own| &own.upstream))),
            SocketPorts::Set,
        );
        let settings = Self {
            upstream_password_file: reader.path("upstream_password_file"),
            password_command: reader.list("password_command"),
            dbname: reader.text("dbname"),
            force_user: reader.text("force_user"),
            dns_max_ttl: reader.read("dns_max_ttl", positive_duration)?,
            password_ttl: reader.read("password_ttl", value::duration)?,
            passfile: reader
                .path("passfile")
                .or_else(|| upstream.passfile.clone())
                .or_else(|| written.default_passfile()),
            listen: reader.listen()?,
            ports,
            unix_socket_mode: reader.read("unix_socket_mode", unix_socket_mode)?,
            unix_socket_group: reader.text("unix_socket_group"),
            allow_remote: reader.read("allow_remote", truth)?,
            max_client_conn: reader.read("max_client_conn", |text| number(text, 0, 1_000_000))?,
            pool_mode: reader.read("pool_mode", Mode::parse)?,
            pin: reader.read("pin", Pin::parse)?,
            max_prepared_statements: reader.read("max_prepared_statements", |text| number(text, 1, 10_000))?,
            max_prepared_bytes: reader.read("max_prepared_bytes", value::size)?,
            pool_size: reader.read("pool_size", |text| number(text, 1, 10_000))?,
            reserve_pool_size: reader.read("reserve_pool_size", |text| number_or_auto(text, 0, 10_000))?,
            reserve_pool_timeout: reader.read("reserve_pool_timeout", positive_duration)?,
            min_pool_size: reader.read("min_pool_size", |text| number(text, 0, 10_000))?,
            max_upstream: reader.read("max_upstream", |text| number_or_auto(text, 1, 10_000))?,
            max_connecting: reader.read("max_connecting", |text| number(text, 1, 1_000))?,
            server_idle_timeout: reader.read("server_idle_timeout", optional_duration)?,
            server_lifetime: reader.read("server_lifetime", optional_duration)?,
            query_wait_timeout: reader.read("query_wait_timeout", positive_duration)?,
            server_connect_timeout,
            client_login_timeout: reader.read("client_login_timeout", positive_duration)?,
            cleanup_timeout: reader.read("cleanup_timeout", positive_duration)?,
            tcp_keepidle: reader.read("tcp_keepidle", optional_duration)?,
            tcp_user_timeout: reader.read("tcp_user_timeout", optional_duration)?,
            reset: reader.read("reset", Reset::parse)?,
            rules: match written.get("rule") {
                Some((_, Value::Rules(rules))) if !rules.is_empty() => rules.clone(),
                _ => vec![Rule::for_all(reader.read("auth_type", Auth::parse)?)],
            },
            users: match written.get("users") {
                Some((_, Value::Users(users))) => stored(users),
                _ => BTreeMap::new(),
            },
            limits: match written.get("users") {
                Some((_, Value::Users(users))) => limits(users),
                _ => BTreeMap::new(),
            },
            auth_recheck: reader.read("auth_recheck", value::duration)?,
            auth_file: reader.path("auth_file"),
            auth_user: reader.text("auth_user"),
            auth_query: reader.read("auth_query", |text| Ok(text.to_owned()))?,
            auth_dbname: reader.text("auth_dbname"),
            auth_query_ttl: reader.read("auth_query_ttl", value::duration)?,
            scram_iterations: reader.read("scram_iterations", |text| match text.parse() {
                Ok(rounds @ 1..=MAX_ITERATIONS) => Ok(rounds),
                _ => Err(format!("\"{text}\" is not a number from 1 to {MAX_ITERATIONS}")),
            })?,
            client_tls: reader.read("client_tls", ClientTls::parse)?,
            client_tls_cert_file: reader.path("client_tls_cert_file"),
            client_tls_key_file: reader.path("client_tls_key_file"),
            client_tls_ca_file: reader.path("client_tls_ca_file"),
            client_tls_min_protocol_version: reader.read("client_tls_min_protocol_version", encryption::version)?,
            peer: match written.get("peer") {
                Some((_, Value::Peers(rules))) => rules.clone(),
                _ => Vec::new(),
            },
            drain_timeout: reader.read("drain_timeout", value::duration)?,
            log_format: reader.read("log_format", LogFormat::parse)?,
            log_level: reader.read("log_level", |text| match text {
                "error" | "warn" | "info" | "debug" | "trace" => Ok(text.to_owned()),
                _ => Err(format!("\"{text}\" is not one of error, warn, info, debug, trace")),
            })?,
            log_connections: reader.read("log_connections", truth)?,
            log_stats_interval: reader.read("log_stats_interval", optional_duration)?,
            admin_listen: reader.read_optional("admin_listen", AdminListen::parse)?,
            admin_hosts: reader.names("admin_hosts"),
            admin_users: reader.names("admin_users"),
            stats_users: reader.names("stats_users"),
            admin_peer: reader.read("admin_peer", truth)?,
            quit_endpoint: reader.read("quit_endpoint", truth)?,
            workers: reader.read("workers", |text| number(text, 1, 256))?,
            buffer_size: reader.read("buffer_size", |text| {
                let size = value::size(text)?;
                if (4096..=16 << 20).contains(&size) { Ok(size) } else { Err("must be from 4kB to 16MB".into()) }
            })?,
            upstream,
            databases,
            shown: KEYS.iter().map(|key| reader.show(key)).collect(),
        };
        settings.check(&reader)?;
        Ok(settings)
    }

    /// The table of databases that no other table names.
    pub const OTHERS: &'static [u8] = b"*";

    /// What holds for the clients of `database`.
    #[must_use]
    pub fn of<'a>(self: &'a Arc<Self>, database: &[u8]) -> &'a Arc<Self> {
        if self.databases.is_empty() {
            return self;
        }
        self.databases.get(database).or_else(|| self.databases.get(Self::OTHERS)).unwrap_or(self)
    }

    /// The addresses that clients connect to.
    #[must_use]
    pub fn addresses(&self) -> Vec<ClientAddress> {
        ClientAddress::all(&self.listen, self.ports.all())
    }

    /// The name that the database has on the server for clients of `database`, where these are the settings that hold for them.
    #[must_use]
    pub fn real_database<'a>(&'a self, database: &'a [u8]) -> &'a [u8] {
        self.dbname.as_ref().map_or(database, |name| name.as_bytes())
    }

    /// The role that all clients of `database` use, if it is fixed.
    #[must_use]
    pub fn forced_role(&self, database: &[u8]) -> Option<&str> {
        let own = self.databases.get(database).or_else(|| self.databases.get(Self::OTHERS));
        own.map_or(&self.force_user, |own| &own.force_user).as_deref()
    }

    /// All that decides where connections go, and as whom.
    #[must_use]
    pub fn way(&self) -> Way<'_> {
        Way {
            upstream: &self.upstream,
            dbname: self.dbname.as_deref(),
            force_user: self.force_user.as_deref(),
            password_file: self.upstream_password_file.as_deref(),
            command: &self.password_command,
        }
    }

    /// The same of every database, by name; the general one has none.
    #[must_use]
    pub fn ways(&self) -> Vec<(&[u8], Way<'_>)> {
        let own = self.databases.iter().map(|(name, settings)| (name.as_slice(), settings.way()));
        [(&b""[..], self.way())].into_iter().chain(own).collect()
    }

    /// The database in which passwords for the console are tried by pass-through.
    #[must_use]
    pub fn console_database(&self) -> String {
        self.auth_dbname.clone().or_else(|| self.upstream.database.clone()).unwrap_or_else(|| "postgres".to_owned())
    }

    /// Every key with its value as text (secrets hidden) and where that comes from.
    pub fn shown(&self) -> impl Iterator<Item = (&'static Key, &str, &Origin)> {
        self.shown.iter().map(|(key, value, place)| (*key, value.as_str(), place))
    }

    /// What each key is set to, secrets hidden: valid TOML, each line saying where its value comes from.
    #[must_use]
    pub fn show(&self) -> String {
        let mut out = String::new();
        for (key, value, place) in &self.shown {
            let line = match (key.name, value.is_empty()) {
                ("upstream", _) => format!("upstream = \"{}\"", self.upstream),
                ("peer" | "rule" | "users" | "databases", _) => continue,
                (name, true) => format!("# {name} is not set"),
                (name, false) => format!("{name} = {value}"),
            };
            // Writing to a string can't fail.
            let _ = writeln!(out, "{line:<44} # {place}");
        }
        for (nth, rule) in (1..).zip(&self.rules).filter(|_| self.has_rules()) {
            let _ = writeln!(out, "# [[rule]] {nth}: {rule}");
        }
        for rule in &self.peer {
            let _ = writeln!(out, "# [[peer]] {rule}");
        }
        for user in self.users.keys() {
            let _ = writeln!(out, "# [users] {:?} = (hidden)", String::from_utf8_lossy(user));
        }
        for (user, limits) in &self.limits {
            let shown = [
                ("pool_size", limits.pool_size),
                ("max_user_client_connections", limits.max_user_client_connections),
                ("max_user_connections", limits.max_user_connections),
            ];
            let shown = shown.iter().filter_map(|(name, limit)| Some(format!("{name} = {}", (*limit)?)));
            let _ =
                writeln!(out, "# [users.{:?}] {}", String::from_utf8_lossy(user), shown.collect::<Vec<_>>().join(", "));
        }
        for (name, own) in &self.databases {
            let _ = writeln!(out, "[databases.{:?}]", String::from_utf8_lossy(name));
            for ((key, value, place), (_, general, _)) in own.shown.iter().zip(&self.shown) {
                if key.name == "upstream" && own.upstream != self.upstream {
                    let line = format!("upstream = \"{}\"", own.upstream);
                    let _ = writeln!(out, "{line:<44} # {place}");
                } else if PER_DATABASE.contains(&key.name) && value != general {
                    let line = format!("{} = {value}", key.name);
                    let _ = writeln!(out, "{line:<44} # {place}");
                }
            }
        }
        out
    }

    /// Where `key` was written, if it was.
    #[must_use]
    pub fn place(&self, key: &str) -> Option<&Origin> {
        self.shown
            .iter()
            .find(|(known, ..)| known.name == key)
            .map(|(_, _, place)| place)
            .filter(|place| **place != Origin::Default)
    }

    /// Returns whether rules were written, and not only `auth_type`.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        self.place("rule").is_some()
    }

    pub(super) fn per_database(&self) -> Vec<(&[u8], Vec<&str>)> {
        let own = self.databases.iter();
        own.map(|(name, own)| (name.as_slice(), own.shown.iter().map(|(_, value, _)| value.as_str()).collect()))
            .collect()
    }

    /// The rule that decides about `caller`, and its number counted from 1.
    #[must_use]
    pub fn rule(&self, caller: &ClientIdentity<'_>) -> Option<(usize, &Rule)> {
        (1..).zip(&self.rules).find(|(_, rule)| rule.fits(caller))
    }

    /// Returns whether clients may log in by SCRAM with secrets that are stored here.
    #[must_use]
    pub fn needs_verifiers(&self) -> bool {
        self.rules.iter().any(|rule| rule.method == Auth::Scram)
    }

    /// Returns whether the upstream alone decides on logins, by the clients' passwords.
    #[must_use]
    pub fn is_pass_through(&self) -> bool {
        self.rules.iter().all(|rule| matches!(rule.method, Auth::PassThrough | Auth::Reject))
    }
}

fn stored(users: &BTreeMap<String, UserEntry>) -> BTreeMap<Vec<u8>, Stored> {
    // What is no secret was refused when it was read.
    let secret = |(user, entry): (&String, &UserEntry)| {
        Some((user.as_bytes().to_vec(), Stored::parse(entry.secret.as_ref()?).ok()?))
    };
    users.iter().filter_map(secret).collect()
}

fn limits(users: &BTreeMap<String, UserEntry>) -> BTreeMap<Vec<u8>, Limits> {
    let limited = users.iter().filter(|(_, entry)| entry.limits != Limits::default());
    limited.map(|(user, entry)| (user.as_bytes().to_vec(), entry.limits)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(file: &str) -> Result<Settings, ConfigError> {
        let mut written = RawConfig::default();
        written.file_text("f.toml", file)?;
        Settings::resolve(&written)
    }

    #[test]
    fn an_upstream_is_enough() {
        let settings = resolve("upstream = \"postgres://db\"").expect("good");
        assert_eq!(settings.pool_size, 20);
        assert_eq!(settings.query_wait_timeout, Duration::from_secs(10));
        assert_eq!(settings.listen, [Listen::Dir("/run/pgferry".into())]);
        let error = Settings::resolve(&RawConfig::default()).expect_err("nothing to front");
        assert!(error.to_string().contains("--upstream"), "{error}");
    }

    #[test]
    fn mistakes_name_their_place() {
        for (line, part) in [
            ("pool_size = 0", "f.toml:2: pool_size: \"0\" is not a number from 1"),
            ("pool_mode = \"statement\"", "session, transaction"),
            ("server_idle_timeout = \"soon\"", "f.toml:2: server_idle_timeout"),
            ("listen = [\"0.0.0.0:5432\"]", "allow_remote"),
            ("listen = []", "no address"),
            ("auth_type = \"trust\"", "needs an upstream credential"),
            ("auth_type = \"peer\"", "rejects every client"),
            ("unix_socket_mode = \"999\"", "octal"),
            ("buffer_size = 1", "from 4kB"),
            ("allow_remote = \"maybe\"", "neither true nor false"),
        ] {
            let error = resolve(&format!("upstream = \"postgres://db\"\n{line}")).expect_err(line).to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
        let error = resolve("upstream = \"postgres://u@db\"\nauth_type = \"trust\"\nlisten = \"127.0.0.1:1\"")
            .expect_err("tcp");
        assert!(error.to_string().contains("f.toml:2: auth_type"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings =
            resolve("upstream = \"postgres://me:hunter2@db\"\nupstream_password = \"hunter3\"").expect("good");
        assert!(!settings.show().contains("hunter"), "{}", settings.show());
        assert!(!format!("{settings:?}").contains("hunter"));
        assert!(settings.show().contains("postgres://me:(hidden)@db:5432"));
    }

    #[test]
    fn what_is_shown_reads_back() {
        let settings = resolve("upstream = \"postgres://db\"\nlisten = \"@x\"\npool_size = 7").expect("good");
        let again = resolve(&settings.show()).expect("shown settings are a configuration");
        assert_eq!(settings.changed(&again), (vec![], vec![]));
    }

    #[test]
    fn databases_have_settings_of_their_own() {
        let text = "upstream = \"postgres://db\"\npool_size = 7\n[databases.shop]\npool_mode = \"transaction\"\npin = \"refuse\"";
        let settings = Arc::new(resolve(text).expect("good"));
        let (shop, other) = (settings.of(b"shop"), settings.of(b"other"));
        assert_eq!((shop.pool_mode, shop.pin, shop.pool_size), (Mode::Transaction, Pin::Refuse, 7));
        assert_eq!((other.pool_mode, other.pin, other.pool_size), (Mode::Session, Pin::Auto, 7));
        let again = resolve(&settings.show()).expect("shown settings are a configuration");
        assert_eq!(settings.changed(&again), (vec![], vec![]));
        let changed = resolve(&text.replace("refuse", "auto")).expect("good");
        assert_eq!(settings.changed(&changed), (vec!["databases"], vec![]));
        let elsewhere = text.replace("pool_mode = \"transaction\"", "upstream = \"postgres://me:one@other/x\"");
        let settings = resolve(&elsewhere).expect("good");
        assert!(
            settings.show().contains("\nupstream = \"postgres://me:(hidden)@other:5432/x\""),
            "{}",
            settings.show()
        );
        let changed = resolve(&elsewhere.replace("one", "two")).expect("good");
        assert_eq!(settings.changed(&changed), (vec!["databases"], vec![]), "secrets count too");
        let error = resolve("upstream = \"postgres://db\"\n[databases.shop]\npool_size = 0").expect_err("no size");
        assert!(error.to_string().contains("f.toml:3: pool_size"), "{error}");
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_was() {
        let fixed = "log_format = \"json\"\nworkers = 2\nbuffer_size = \"64kB\"";
        let keys = fixed.lines().filter_map(|line| line.split(" = ").next());
        let names: Vec<_> = KEYS.iter().filter(|key| !key.change.by_reload()).map(|key| key.name).collect();
        assert_eq!(keys.collect::<Vec<_>>(), names, "this test knows every such key");
        let old = resolve("upstream = \"postgres://db\"").expect("good");
        let new = resolve(&format!("upstream = \"postgres://db\"\n{fixed}")).expect("good");
        assert_eq!(new.changed(&old), (vec![], names));
        let kept = new.keeping_fixed_of(&old);
        assert_eq!(kept.changed(&old), (vec![], vec![]));
        let without_shown = |settings: &Settings| format!("{:?}", Settings { shown: Vec::new(), ..settings.clone() });
        assert_eq!(without_shown(&kept), without_shown(&old), "and not only what is shown");
    }

    #[test]
    fn changes_are_told_apart() {
        let old = resolve("upstream = \"postgres://db\"").expect("good");
        let new = resolve("upstream = \"postgres://db2\"\npool_size = 3\nworkers = 7").expect("good");
        assert_eq!(new.changed(&old), (vec!["upstream", "pool_size"], vec!["workers"]));
        let kept = new.keeping_fixed_of(&old);
        assert_eq!((kept.workers, kept.pool_size), (1, 3));
        assert_eq!(kept.changed(&old), (vec!["upstream", "pool_size"], vec![]));
    }
}
