//! Settings as the program works with them: resolved, checked, immutable.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::address::{ClientAddress, SocketPorts};
use super::error::{ConfigError, Origin};
use super::keys::{KEYS, Key, PER_DATABASE};
use super::reader::{Reader, positive_duration};
use super::rule::{ClientIdentity, Rule};
use super::setting_groups::{
    AdminSettings, AuthSettings, ListenSettings, LogSettings, PoolSettings, Timeouts, TlsSettings, UpstreamSettings,
};
use super::source::RawConfig;
use super::url::Upstream;
use super::value::Auth;

/// Everything that can be configured; `keys` says what each means.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings of server connections: the target, and the role to log in as.
    pub upstream: UpstreamSettings,
    /// Settings of listeners: addresses, limits on clients, workers and buffers.
    pub listen: ListenSettings,
    /// Settings of pools: the mode, resets, sizes.
    pub pool: PoolSettings,
    /// Settings of clients' logins: rules, secrets, limits of users.
    pub auth: AuthSettings,
    /// Settings of TLS toward clients.
    pub tls: TlsSettings,
    /// Timeouts and lifetimes.
    pub timeouts: Timeouts,
    /// Settings of administration: the address for HTTP, admins, rights.
    pub admin: AdminSettings,
    /// Settings of the log.
    pub log: LogSettings,
    /// Settings for the clients of databases with a table of their own.
    pub databases: BTreeMap<Vec<u8>, Arc<Settings>>,
    /// Every key with its value as text (secrets hidden) and the place it came from, for `pgferry check` and for
    /// comparing settings.
    pub(super) shown: Vec<(&'static Key, String, Origin)>,
}

/// Target of connections, and the role that they log in as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
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
    pub fn resolve(written: &RawConfig) -> Result<Self, ConfigError> {
        let reader = Reader { written };
        let url = reader.upstream()?;
        let server_connect_timeout = match (written.get("server_connect_timeout"), url.connect_timeout) {
            (None, Some(from_url)) => from_url,
            _ => reader.read("server_connect_timeout", positive_duration)?,
        };
        let databases = written
            .databases()
            .into_iter()
            .map(|(name, own)| {
                let named = |error: ConfigError| match error.key.as_deref() {
                    Some(key) if own.get(key) != written.get(key) => error.in_table(&format!("databases.{name}")),
                    _ => error,
                };
                Ok((name.as_bytes().to_vec(), Arc::new(Self::resolve(&own).map_err(named)?)))
            })
            .collect::<Result<BTreeMap<_, _>, ConfigError>>()?;
        let ports = reader.read_optional("port", SocketPorts::parse)?.map_or_else(
            || SocketPorts::of([&url].into_iter().chain(databases.values().map(|own| &own.upstream.url))),
            SocketPorts::Set,
        );
        let settings = Self {
            upstream: UpstreamSettings::read(&reader, url)?,
            listen: ListenSettings::read(&reader, ports)?,
            pool: PoolSettings::read(&reader)?,
            auth: AuthSettings::read(&reader)?,
            tls: TlsSettings::read(&reader)?,
            timeouts: Timeouts::read(&reader, server_connect_timeout)?,
            admin: AdminSettings::read(&reader)?,
            log: LogSettings::read(&reader)?,
            databases,
            shown: KEYS.iter().map(|key| reader.show(key)).collect(),
        };
        settings.check(&reader)?;
        Ok(settings)
    }

    /// The table of databases that no other table names.
    pub const OTHERS: &'static [u8] = b"*";

    /// Returns the settings for the clients of `database`.
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
        ClientAddress::all(&self.listen.listen, self.listen.ports.all())
    }

    /// The name that the database has on the server for clients of `database`, where these are the settings that hold for them.
    #[must_use]
    pub fn real_database<'a>(&'a self, database: &'a [u8]) -> &'a [u8] {
        self.upstream.dbname.as_ref().map_or(database, |name| name.as_bytes())
    }

    /// The role that all clients of `database` use, if it is fixed.
    #[must_use]
    pub fn forced_role(&self, database: &[u8]) -> Option<&str> {
        let own = self.databases.get(database).or_else(|| self.databases.get(Self::OTHERS));
        own.map_or(&self.upstream.force_user, |own| &own.upstream.force_user).as_deref()
    }

    /// All that decides where connections go, and as whom.
    #[must_use]
    pub fn route(&self) -> Route<'_> {
        Route {
            upstream: &self.upstream.url,
            dbname: self.upstream.dbname.as_deref(),
            force_user: self.upstream.force_user.as_deref(),
            password_file: self.upstream.upstream_password_file.as_deref(),
            command: &self.upstream.password_command,
        }
    }

    /// The same of every database, by name; the general one has none.
    #[must_use]
    pub fn routes(&self) -> Vec<(&[u8], Route<'_>)> {
        let own = self.databases.iter().map(|(name, settings)| (name.as_slice(), settings.route()));
        [(&b""[..], self.route())].into_iter().chain(own).collect()
    }

    /// Returns whether connections go to the servers of `other`, by the same means.
    #[must_use]
    pub fn has_servers_of(&self, other: &Self) -> bool {
        // The database in the URL is only shown.
        let servers = |settings: &Self| Upstream { database: None, ..settings.upstream.url.clone() };
        let passwords = |settings: &Self| {
            let upstream = &settings.upstream;
            (upstream.upstream_password_file.clone(), upstream.password_command.clone())
        };
        servers(self) == servers(other) && passwords(self) == passwords(other)
    }

    /// The database in which passwords for the console are tried by pass-through.
    #[must_use]
    pub fn console_database(&self) -> String {
        self.auth
            .auth_dbname
            .clone()
            .or_else(|| self.upstream.url.database.clone())
            .unwrap_or_else(|| "postgres".to_owned())
    }

    /// Every key with its value as text (secrets hidden) and where that comes from.
    pub fn shown(&self) -> impl Iterator<Item = (&'static Key, &str, &Origin)> {
        self.shown.iter().map(|(key, value, place)| (*key, value.as_str(), place))
    }

    /// Writes each key with its value, secrets hidden: valid TOML, each line with the origin of its value.
    #[must_use]
    pub fn show(&self) -> String {
        let mut out = String::new();
        for (key, value, place) in &self.shown {
            let line = match (key.name, value.is_empty()) {
                ("upstream", _) => format!("upstream = \"{}\"", self.upstream.url),
                ("peer" | "rule" | "users" | "databases", _) => continue,
                (name, true) => format!("# {name} is not set"),
                (name, false) => format!("{name} = {value}"),
            };
            // Writing to a string can't fail.
            let _ = writeln!(out, "{line:<44} # {place}");
        }
        for (nth, rule) in (1..).zip(&self.auth.rules).filter(|_| self.has_rules()) {
            let _ = writeln!(out, "# [[rule]] {nth}: {rule}");
        }
        for rule in &self.auth.peer {
            let _ = writeln!(out, "# [[peer]] {rule}");
        }
        for user in self.auth.users.keys() {
            let _ = writeln!(out, "# [users] {:?} = (hidden)", String::from_utf8_lossy(user));
        }
        for (user, limits) in &self.auth.limits {
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
                if key.name == "upstream" && own.upstream.url != self.upstream.url {
                    let line = format!("upstream = \"{}\"", own.upstream.url);
                    let _ = writeln!(out, "{line:<44} # {place}");
                } else if PER_DATABASE.contains(&key.name) && value != general {
                    let line = format!("{} = {value}", key.name);
                    let _ = writeln!(out, "{line:<44} # {place}");
                }
            }
        }
        out
    }

    /// Returns the origin of `key`, if it was written.
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
        (1..).zip(&self.auth.rules).find(|(_, rule)| rule.fits(caller))
    }

    /// Returns whether clients may log in by SCRAM with secrets that are stored here.
    #[must_use]
    pub fn needs_verifiers(&self) -> bool {
        self.auth.rules.iter().any(|rule| rule.method == Auth::Scram)
    }

    /// Returns whether the upstream alone decides on logins, by the clients' passwords.
    #[must_use]
    pub fn is_pass_through(&self) -> bool {
        self.auth.rules.iter().all(|rule| matches!(rule.method, Auth::PassThrough | Auth::Reject))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::Password;
    use crate::config::{Listen, Mode, Pin};

    fn resolve(file: &str) -> Result<Settings, ConfigError> {
        let mut written = RawConfig::default();
        written.file_text("f.toml", file)?;
        Settings::resolve(&written)
    }

    #[test]
    fn an_upstream_is_enough() {
        let settings = resolve("upstream = \"postgres://db\"").expect("good");
        assert_eq!(settings.pool.pool_size, 20);
        assert_eq!(settings.timeouts.query_wait_timeout, Duration::from_secs(10));
        assert_eq!(settings.listen.listen, [Listen::Dir("/run/pgferry".into())]);
        let error = Settings::resolve(&RawConfig::default()).expect_err("nothing to front");
        assert!(error.to_string().contains("--upstream"), "{error}");
    }

    #[test]
    fn mistakes_name_their_place() {
        for (line, part) in [
            ("pool_size = 0", "f.toml:2: pool_size: \"0\" is not a number from 1"),
            ("tcp_keepidle = \"10h\"", "f.toml:2: tcp_keepidle: \"10h\" is neither 0 nor from 1s to 32767s"),
            ("tcp_keepidle = \"500ms\"", "f.toml:2: tcp_keepidle: \"500ms\" is neither 0 nor from 1s"),
            ("tcp_user_timeout = \"30d\"", "f.toml:2: tcp_user_timeout: \"30d\" is neither 0 nor from 1ms"),
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
    fn an_upstream_is_another_process() {
        for (upstream, rest) in [
            ("postgres:///shop?host=/run/pgferry", ""),
            ("postgres://?host=db,/run/pgferry", ""),
            ("postgres:///shop?host=/tmp/../tmp", "listen = \"/tmp\""),
            ("postgres://localhost:6432/shop", "listen = \"127.0.0.1:6432\""),
            ("postgres://db:6432/shop?hostaddr=127.0.0.1", "listen = \"127.0.0.1:6432\""),
            ("postgres://127.0.0.1:6432", "listen = \"0.0.0.0:6432\"\nallow_remote = true"),
            ("postgres://db", "[databases.x]\nupstream = \"postgres:///?host=/run/pgferry\""),
        ] {
            let error = resolve(&format!("upstream = \"{upstream}\"\n{rest}")).expect_err(upstream).to_string();
            assert!(error.contains("at which pgferry itself listens"), "{error}");
        }
        for (upstream, rest) in [
            ("postgres:///shop?host=/var/run/postgresql", ""),
            ("postgres:///shop?host=/run/pgferry&port=5433", "port = 5432"),
            ("postgres://127.0.0.1:5432", "listen = \"127.0.0.1:6432\""),
            ("postgres://10.0.0.1:6432", "listen = \"127.0.0.1:6432\""),
        ] {
            resolve(&format!("upstream = \"{upstream}\"\n{rest}")).expect(upstream);
        }
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
        assert_eq!((shop.pool.pool_mode, shop.pool.pin, shop.pool.pool_size), (Mode::Transaction, Pin::Refuse, 7));
        assert_eq!((other.pool.pool_mode, other.pool.pin, other.pool.pool_size), (Mode::Session, Pin::Auto, 7));
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
        assert!(error.to_string().contains("f.toml:3: databases.shop.pool_size"), "{error}");
        let error = resolve("upstream = \"postgres://db\"\npool_size = 0\n[databases.shop]\npin = \"auto\"")
            .expect_err("no size");
        assert!(error.to_string().contains("f.toml:2: pool_size"), "what is not its own: {error}");
    }

    #[test]
    fn a_password_in_a_databases_table_comes_before_those_of_others() {
        for general in [
            "upstream_password = \"general\"",
            "upstream_password_file = \"general\"",
            "password_command = [\"general\"]",
        ] {
            for own in [
                "upstream = \"postgres://me:own@other\"",
                "upstream_password = \"own\"",
                "upstream = \"postgres://me:own@other\"\nupstream_password = \"own\"",
            ] {
                let settings = resolve(&format!("upstream = \"postgres://db\"\n{general}\n[databases.x]\n{own}"));
                let settings = Arc::new(settings.expect(own));
                let UpstreamSettings { url, upstream_password_file, password_command, .. } =
                    &settings.of(b"x").upstream;
                assert_eq!(url.password.as_ref().map(Password::expose), Some(&b"own"[..]), "{general} {own}");
                assert!(upstream_password_file.is_none() && password_command.is_empty(), "{general} {own}");
            }
            let file =
                format!("upstream = \"postgres://db\"\n{general}\n[databases.x]\nupstream_password_file = \"own\"");
            let settings = Arc::new(resolve(&file).expect("good"));
            let UpstreamSettings { url, upstream_password_file, .. } = &settings.of(b"x").upstream;
            assert_eq!((url.password.is_none(), upstream_password_file.as_deref()), (true, Some("own".as_ref())));
            let file =
                format!("upstream = \"postgres://db\"\n{general}\n[databases.x]\nupstream = \"postgres://other\"");
            let settings = Arc::new(resolve(&file).expect("good"));
            let (own, others) = (&settings.of(b"x").upstream, &settings.upstream);
            assert_eq!(
                (&own.url.password, &own.upstream_password_file, &own.password_command),
                (&others.url.password, &others.upstream_password_file, &others.password_command),
                "a server without a password of its own"
            );
        }
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
        assert_eq!((kept.listen.workers, kept.pool.pool_size), (1, 3));
        assert_eq!(kept.changed(&old), (vec!["upstream", "pool_size"], vec![]));
    }
}
