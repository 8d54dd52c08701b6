//! Values as written, and where: flag, environment, file.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use zeroize::{Zeroize, Zeroizing};

use super::error::{ConfigError, Origin};
use super::keys::{self, Adjustable, KEYS};
use super::tables;
use super::url::Upstream;
use super::value::PeerRule;
use super::written_value::{Value, Values, of_key, unknown};
use crate::permission::{Attempt, describe};
use crate::small_file;

/// Variables of the environment that other programs read as well, and the settings that they stand for.
const SHARED: [(&str, &str); 2] = [("DATABASE_URL", "upstream"), ("PGPASSFILE", "passfile")];

/// All values written anywhere, the strongest of each key.
#[derive(Clone, Debug, Default)]
pub struct RawConfig {
    values: Values,
    /// The home directory, where libpq's default files are.
    pub home: Option<PathBuf>,
}

impl Drop for RawConfig {
    /// Wipes secrets, which live on in the settings only.
    fn drop(&mut self) {
        for (key, (_, value)) in &mut self.values {
            if keys::find(key).is_some_and(|key| key.secret) {
                match value {
                    Value::One(text) => text.zeroize(),
                    Value::Users(users) => users.values_mut().for_each(|user| user.secret.zeroize()),
                    _ => {}
                }
            }
        }
    }
}

impl RawConfig {
    /// The value of `key` and where it was written.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&(Origin, Value)> {
        self.values.get(key)
    }

    /// `~/.pgpass`, if it is there.
    #[must_use]
    pub fn default_passfile(&self) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(".pgpass")).filter(|path| path.exists())
    }

    /// The databases that have a table of their own, each with what holds for it.
    #[must_use]
    pub fn databases(&self) -> Vec<(&str, Self)> {
        let Some((_, Value::Databases(tables))) = self.get("databases") else { return Vec::new() };
        let own = |table: &Values| {
            let mut values = self.values.clone();
            values.remove("databases");
            if brings_password(table) {
                // Those of other databases are not for its server.
                for key in PASSWORDS {
                    if let Some((_, Value::One(mut text))) = values.remove(key) {
                        text.zeroize();
                    }
                }
            }
            values.extend(table.iter().map(|(key, value)| (*key, value.clone())));
            Self { values, home: self.home.clone() }
        };
        tables.iter().map(|(name, table)| (name.as_str(), own(table))).collect()
    }

    /// Notes a flag's value.
    pub fn flag(&mut self, key: &'static str, flag: &'static str, value: Value) {
        self.put(key, Origin::Flag(flag), value);
    }

    /// Notes the variables `PGFERRY_…` among `vars`, their `_FILE` variants for secrets, `DATABASE_URL`, and what libpq
    /// reads as well: `PGPASSFILE` and `HOME`.
    ///
    /// # Errors
    /// An unknown `PGFERRY_` variable, a file that can't be read, or a malformed `PGFERRY_PEER`.
    pub fn env(&mut self, vars: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (name, text) in vars {
            let shared = SHARED.into_iter().find(|(shared, _)| *shared == name);
            if let Some((shared, key)) = shared.filter(|_| !text.is_empty()) {
                self.put(key, Origin::Shared(shared), Value::One(text));
                continue;
            }
            if name == "HOME" && !text.is_empty() {
                self.home = Some(text.into());
                continue;
            }
            let Some(key) = name.strip_prefix("PGFERRY_").map(str::to_ascii_lowercase) else { continue };
            if key == "config" || is_service_link(&key, &text) {
                continue;
            }
            let place = Origin::Env(name.clone());
            let from_file = match keys::find(&key) {
                // A key of its own, which is followed when the file changes.
                Some(_) => None,
                None => key.strip_suffix("_file").and_then(keys::find).filter(|key| key.secret && key.name != "users"),
            };
            if let Some(secret) = from_file {
                let content = small_file::read_text(Path::new(&text)).map(Zeroizing::new).map_err(|error| {
                    ConfigError::new(describe(Attempt::Read, &text, &error)).at(&place, secret.name)
                })?;
                self.put(secret.name, place, Value::One(content.trim_end_matches(['\n', '\r']).to_owned()));
                continue;
            }
            let Some(known) = keys::find(&key) else {
                return Err(unknown(&key, KEYS.iter().map(|key| key.name)).at(&place, &key));
            };
            let value = match known.name {
                "listen" => Value::Many(text.split(',').map(|item| item.trim().to_owned()).collect()),
                "peer" => {
                    Value::Peers(PeerRule::parse_list(&text).map_err(|e| ConfigError::new(e).at(&place, "peer"))?)
                }
                "databases" | "rule" | "users" => {
                    return Err(ConfigError::new("tables stand in the file").at(&place, known.name));
                }
                _ => Value::One(text),
            };
            self.put(known.name, place, value);
        }
        Ok(())
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// A file that can't be read, is no TOML, or has an unknown or ill-typed key; with file, line and key.
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let name = path.display().to_string();
        let text = small_file::read_text(path).map(Zeroizing::new);
        let text = text.map_err(|error| ConfigError::new(describe(Attempt::Read, &name, &error)))?;
        self.file_text(&name, &text)
    }

    /// As [`RawConfig::file`], for a file's content.
    ///
    /// # Errors
    /// As [`RawConfig::file`].
    pub fn file_text(&mut self, path: &str, text: &str) -> Result<(), ConfigError> {
        let at = |span: Range<usize>| Origin::File { path: path.to_owned(), line: line_of(text, span.start) };
        let table = DeTable::parse(text).map_err(|error| ConfigError {
            place: Some(at(error.span().unwrap_or(0..0))),
            ..ConfigError::new(error.message())
        })?;
        for (key, value) in table.get_ref() {
            let place = at(key.span());
            let name = key.get_ref().as_ref();
            let Some(known) = keys::find(name) else {
                let error = unknown(name, KEYS.iter().map(|key| key.name));
                let is_table = matches!(value.get_ref(), DeValue::Table(_));
                return Err(match error.hint {
                    None if is_table => error.hint("settings stand at the top of the file, in no table"),
                    _ => error,
                }
                .at(&place, name));
            };
            let value = match known.name {
                "peer" => tables::peers(value, &at)?,
                "rule" => tables::rules(value, &at)?,
                "users" => tables::users(value, &at)?,
                "databases" => tables::databases(value, &at)?,
                _ => of_key(known, value).map_err(|error| ConfigError::new(error).at(&place, name))?,
            };
            self.put(known.name, place, value);
        }
        Ok(())
    }

    /// Sets `key` on top of all that is written, as a command at the console does.
    pub fn set(&mut self, key: Adjustable, value: &str) {
        self.values.insert(key.name(), (Origin::Flag("SET"), Value::One(value.to_owned())));
    }

    /// A flag beats the environment, which beats the file, which beats what is said to all programs.
    fn put(&mut self, key: &'static str, place: Origin, value: Value) {
        match self.values.get(key) {
            Some((stronger, _)) if *stronger > place => {}
            _ => {
                self.values.insert(key, (place, value));
            }
        }
    }
}

/// The settings that give a password for the server.
const PASSWORDS: [&str; 3] = ["upstream_password", "upstream_password_file", "password_command"];

/// Returns whether a database's table has a password of its own, be it in the URL.
fn brings_password(table: &Values) -> bool {
    let in_url = match table.get("upstream") {
        Some((_, Value::One(text))) => Upstream::parse(text.trim()).is_ok_and(|upstream| upstream.password.is_some()),
        _ => false,
    };
    in_url || PASSWORDS.iter().any(|key| table.contains_key(key))
}

/// Returns whether Kubernetes has set a variable, as it does in every pod for each service of the namespace: here for one that is called
/// `pgferry`, or `pgferry-` and more. `key` is its name behind `PGFERRY_`.
fn is_service_link(key: &str, value: &str) -> bool {
    let words: Vec<_> = key.split('_').collect();
    let starts = |at: usize, wanted: &[&str]| words.get(at..).is_some_and(|rest| rest.starts_with(wanted));
    let is_number = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let is_protocol = |word: &&str| matches!(*word, "tcp" | "udp" | "sctp");
    (0..words.len()).any(|at| {
        let is_port_of = starts(at, &["port"])
            && words.get(at + 1).is_some_and(is_number)
            && words.get(at + 2).is_some_and(is_protocol);
        let is_last_port = starts(at, &["port"]) && at + 1 == words.len();
        starts(at, &["service", "host"])
            || starts(at, &["service", "port"])
            || is_port_of
            || (is_last_port && value.split_once("://").is_some_and(|(protocol, _)| is_protocol(&protocol)))
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    text.get(..offset).unwrap_or(text).matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_place_wins_whatever_the_order() {
        let mut written = RawConfig::default();
        written.flag("pool_size", "--pool-size", Value::One("3".into()));
        written.env([("PGFERRY_POOL_SIZE".into(), "2".into()), ("PGFERRY_PORT".into(), "7".into())]).expect("good");
        written.file_text("f", "pool_size = 1\nport = 1\npool_mode = \"transaction\"").expect("good");
        assert_eq!(written.get("pool_size").expect("set").1, Value::One("3".into()));
        assert_eq!(written.get("port").expect("set").1, Value::One("7".into()));
        assert_eq!(written.get("pool_mode").expect("set").0, Origin::File { path: "f".into(), line: 3 });
    }

    #[test]
    fn mistakes_name_file_line_and_key() {
        let say = |text: &str| RawConfig::default().file_text("/etc/pgferry.toml", text).expect_err("bad").to_string();
        assert_eq!(
            say("port = 5432\npool_sise = 3\n"),
            "/etc/pgferry.toml:2: pool_sise: there is no such key\n  hint: did you mean \"pool_size\"?"
        );
        assert_eq!(
            say("max_dialling = 4"),
            "/etc/pgferry.toml:1: max_dialling: there is no such key\n  hint: did you mean \"max_connecting\"?"
        );
        assert!(say("[users.a]\nmax_clients = 4").contains("\"max_user_client_connections\""), "the user's own");
        assert!(say("\nport = \n").starts_with("/etc/pgferry.toml:2: "), "{}", say("\nport = \n"));
        assert!(say("[port]\nx = 1").contains("/etc/pgferry.toml:1: port: a table"), "{}", say("[port]\nx = 1"));
        assert!(say("[[peer]]\nuid = 1\nrole = \"x\"").contains("3: peer.role"), "line of the field");
        assert!(say("[[peer]]\nuid = 1\nrole = \"x\"").contains("\"roles\""));
        let pins = say("[databases.shop]\npin = \"auto\"\npool_sise = 1");
        assert!(pins.contains("3: databases.shop.pool_sise") && pins.contains("\"pool_size\""), "{pins}");
        assert!(say("[databases]\npin = \"auto\"").contains("[databases.NAME]"));
    }

    #[test]
    fn values_that_would_not_be_taken_as_they_are_written_are_refused() {
        for (text, part) in [
            ("upstream_password = [\"a\", \"b\"]", "upstream_password: one value is needed, not a list"),
            ("dbname = [\"a\"]", "dbname: one value is needed, not a list"),
            ("pool_size = [1]", "pool_size: one value is needed, not a list"),
            ("upstream_password = 1_000", "upstream_password: a secret is a string"),
            ("[users.a]\npassword = 1.50", "users.a.password: a secret is a string"),
            ("[users]\na = 0x10", "users.a: a secret is a string"),
            ("[databases.x]\nupstream_password = 1", "databases.x.upstream_password: a secret is a string"),
            ("[databases.x]\ndbname = [\"a\"]", "databases.x.dbname: one value is needed, not a list"),
            ("dbname = \"a\\u0000user\"", "dbname: a zero byte"),
            ("upstream_password = \"a\\u0000\"", "upstream_password: a zero byte"),
            ("admin_users = [\"a\\u0000\"]", "admin_users: a zero byte"),
            ("[[rule]]\nuser = []\nmethod = \"trust\"", "rule.user: an empty list fits nothing"),
            ("[[peer]]\nuid = 1\nroles = []", "peer.roles: an empty list fits nothing"),
            ("[[peer]]\nuser = [\"a\", \"b\"]\nroles = [\"c\"]", "user: one name is needed"),
        ] {
            let error = RawConfig::default().file_text("f", text).expect_err(text).to_string();
            assert!(error.starts_with("f:") && error.contains(part), "{text}: {error}");
        }
        for text in
            ["port = [5432, 6543]", "admin_users = [\"a\"]", "admin_users = []", "password_command = [\"a\", \"b\"]"]
        {
            RawConfig::default().file_text("f", text).expect(text);
        }
    }

    #[test]
    fn variables_with_mistakes_are_refused() {
        let error = RawConfig::default().env([("PGFERRY_POOLSIZE".into(), "2".into())]).expect_err("unknown");
        assert!(error.to_string().contains("PGFERRY_POOLSIZE: ") && error.to_string().contains("pool_size"));
        let error = RawConfig::default()
            .env([("PGFERRY_UPSTREAM_FILE".into(), "/nonexistent/x".into())])
            .expect_err("no such file");
        assert!(error.to_string().contains("/nonexistent/x"));
    }

    #[test]
    fn what_kubernetes_says_of_services_is_no_setting() {
        let mut written = RawConfig::default();
        let links = [
            ("PGFERRY_SERVICE_HOST", "10.96.0.7"),
            ("PGFERRY_SERVICE_PORT", "9930"),
            ("PGFERRY_SERVICE_PORT_METRICS", "9930"),
            ("PGFERRY_PORT", "tcp://10.96.0.7:9930"),
            ("PGFERRY_PORT_9930_TCP", "tcp://10.96.0.7:9930"),
            ("PGFERRY_PORT_9930_TCP_PROTO", "tcp"),
            ("PGFERRY_PORT_9930_TCP_PORT", "9930"),
            ("PGFERRY_PORT_9930_TCP_ADDR", "10.96.0.7"),
            ("PGFERRY_METRICS_SERVICE_HOST", "10.96.0.8"),
            ("PGFERRY_METRICS_PORT", "tcp://10.96.0.8:9930"),
            ("PGFERRY_METRICS_PORT_53_UDP_ADDR", "10.96.0.8"),
        ];
        written.env(links.map(|(name, value)| (name.to_owned(), value.to_owned()))).expect("left alone");
        assert!(written.get("port").is_none());
        for (name, value) in [("PGFERRY_PORTS", "1"), ("PGFERRY_METRICS_PORT", "9930"), ("PGFERRY_SERVICE", "x")] {
            let error = RawConfig::default().env([(name.to_owned(), value.to_owned())]).expect_err(name);
            assert!(error.to_string().contains("no such key"), "{error}");
        }
        written.env([("PGFERRY_PORT".to_owned(), "6543".to_owned())]).expect("a setting");
        assert_eq!(written.get("port").expect("set").1, Value::One("6543".into()));
    }

    #[test]
    fn database_url_is_the_last_resort() {
        let vars = || [("DATABASE_URL".to_owned(), "postgres://a".to_owned())];
        let mut written = RawConfig::default();
        written.env(vars()).expect("good");
        assert_eq!(written.get("upstream").expect("set").1, Value::One("postgres://a".into()));
        let mut written = RawConfig::default();
        written.file_text("f", "upstream = \"postgres://b\"").expect("good");
        written.env(vars()).expect("good");
        assert_eq!(written.get("upstream").expect("set").1, Value::One("postgres://b".into()));
        // The order in which the program reads them.
        let mut written = RawConfig::default();
        written.env(vars()).expect("good");
        written.file_text("f", "upstream = \"postgres://b\"").expect("good");
        assert_eq!(written.get("upstream").expect("set").1, Value::One("postgres://b".into()));
    }

    #[test]
    fn libpqs_variable_gives_way_to_settings() {
        let mut written = RawConfig::default();
        written.env([("PGPASSFILE".to_owned(), "/home/me/.pgpass".to_owned())]).expect("good");
        assert_eq!(written.get("passfile").expect("set").1, Value::One("/home/me/.pgpass".into()));
        written.file_text("f", "passfile = \"/etc/pgferry/passfile\"").expect("good");
        assert_eq!(written.get("passfile").expect("set").1, Value::One("/etc/pgferry/passfile".into()));
    }
}
