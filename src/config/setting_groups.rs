//! Settings in groups, each read from what was written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::address::SocketPorts;
use super::encryption;
use super::error::{ConfigError, Origin};
use super::reader::{
    Reader, number_or_auto, optional_duration, optional_duration_within, positive_duration, truth, unix_socket_mode,
};
use super::rule::Rule;
use super::url::Upstream;
use super::user::{Limits, UserEntry};
use super::value::{self, AdminListen, Auth, ClientTls, Listen, LogFormat, Mode, PeerRule, Pin, Reset, number};
use super::written_value::Value;
use crate::auth::Stored;
use crate::auth::scram::keys::MAX_ITERATIONS;
use crate::net::tls::Version;

/// Times that the kernel takes for `TCP_KEEPIDLE` (`MAX_TCP_KEEPIDLE`).
const KEEPIDLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(32_767));

/// Times that the kernel takes for `TCP_USER_TIMEOUT`, a whole number of milliseconds.
const USER_TIMEOUT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(2_147_483_647));

/// Settings of server connections: the target, and the role to log in as.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the key of the same name, documented once in `keys`")]
pub struct UpstreamSettings {
    /// The key `upstream`, with what other keys say of its encryption and password.
    pub url: Upstream,
    pub dbname: Option<String>,
    pub force_user: Option<String>,
    pub dns_max_ttl: Duration,
    pub upstream_password_file: Option<PathBuf>,
    pub password_command: Vec<String>,
    pub password_ttl: Duration,
    pub passfile: Option<PathBuf>,
    pub tcp_keepidle: Option<Duration>,
    pub tcp_user_timeout: Option<Duration>,
}

impl UpstreamSettings {
    /// Reads the group.
    ///
    /// # Errors
    /// The first mistake, with its place and key.
    pub(super) fn read(reader: &Reader<'_>, url: Upstream) -> Result<Self, ConfigError> {
        Ok(Self {
            dbname: reader.text("dbname"),
            force_user: reader.text("force_user"),
            dns_max_ttl: reader.read("dns_max_ttl", positive_duration)?,
            upstream_password_file: reader.path("upstream_password_file"),
            password_command: reader.list("password_command"),
            password_ttl: reader.read("password_ttl", value::duration)?,
            passfile: passfile(reader, &url),
            tcp_keepidle: reader.read("tcp_keepidle", |text| optional_duration_within(text, KEEPIDLE))?,
            tcp_user_timeout: reader.read("tcp_user_timeout", |text| optional_duration_within(text, USER_TIMEOUT))?,
            url,
        })
    }
}

/// The password file: the one that is set, that of the URL, or libpq's.
fn passfile(reader: &Reader<'_>, url: &Upstream) -> Option<PathBuf> {
    let written = reader.path("passfile");
    let is_set = matches!(reader.written.get("passfile"), Some((place, _)) if !matches!(place, Origin::Shared(_)));
    let (set, shared) = if is_set { (written, None) } else { (None, written) };
    set.or_else(|| url.passfile.clone()).or(shared).or_else(|| reader.written.default_passfile())
}

/// Settings of listeners: addresses, limits on clients, workers and buffers.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the key of the same name, documented once in `keys`")]
pub struct ListenSettings {
    pub listen: Vec<Listen>,
    pub ports: SocketPorts,
    pub unix_socket_mode: u32,
    pub unix_socket_group: Option<String>,
    pub allow_remote: bool,
    pub max_client_conn: usize,
    pub workers: usize,
    pub buffer_size: usize,
}

impl ListenSettings {
    /// Reads the group.
    ///
    /// # Errors
    /// The first mistake, with its place and key.
    pub(super) fn read(reader: &Reader<'_>, ports: SocketPorts) -> Result<Self, ConfigError> {
        Ok(Self {
            listen: reader.listen()?,
            ports,
            unix_socket_mode: reader.read("unix_socket_mode", unix_socket_mode)?,
            unix_socket_group: reader.text("unix_socket_group"),
            allow_remote: reader.read("allow_remote", truth)?,
            max_client_conn: reader.read("max_client_conn", |text| number(text, 0, 1_000_000))?,
            workers: reader.read("workers", |text| number(text, 1, 256))?,
            buffer_size: reader.read("buffer_size", |text| {
                let size = value::size(text)?;
                if (4096..=16 << 20).contains(&size) { Ok(size) } else { Err("must be from 4kB to 16MB".into()) }
            })?,
        })
    }
}

/// Settings of pools: the mode, resets, sizes.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the key of the same name, documented once in `keys`")]
pub struct PoolSettings {
    pub pool_mode: Mode,
    pub pin: Pin,
    pub reset: Reset,
    pub max_prepared_statements: usize,
    pub max_prepared_bytes: usize,
    pub pool_size: usize,
    /// `None` for as many as `max_upstream` allows.
    pub reserve_pool_size: Option<usize>,
    pub min_pool_size: usize,
    /// `None` for as many as the server has.
    pub max_upstream: Option<usize>,
    pub max_connecting: usize,
}

impl PoolSettings {
    /// Reads the group.
    ///
    /// # Errors
    /// The first mistake, with its place and key.
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            pool_mode: reader.read("pool_mode", Mode::parse)?,
            pin: reader.read("pin", Pin::parse)?,
            reset: reader.read("reset", Reset::parse)?,
            max_prepared_statements: reader.read("max_prepared_statements", |text| number(text, 1, 10_000))?,
            max_prepared_bytes: reader.read("max_prepared_bytes", value::size)?,
            pool_size: reader.read("pool_size", |text| number(text, 1, 10_000))?,
            reserve_pool_size: reader.read("reserve_pool_size", |text| number_or_auto(text, 0, 10_000))?,
            min_pool_size: reader.read("min_pool_size", |text| number(text, 0, 10_000))?,
            max_upstream: reader.read("max_upstream", |text| number_or_auto(text, 1, 10_000))?,
            max_connecting: reader.read("max_connecting", |text| number(text, 1, 1_000))?,
        })
    }
}

/// Settings of clients' logins: rules, secrets, limits of users.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the key of the same name, documented once in `keys`")]
pub struct AuthSettings {
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
}

impl AuthSettings {
    /// Reads the group.
    ///
    /// # Errors
    /// The first mistake, with its place and key.
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            rules: match reader.written.get("rule") {
                Some((_, Value::Rules(rules))) if !rules.is_empty() => rules.clone(),
                _ => vec![Rule::for_all(reader.read("auth_type", Auth::parse)?)],
            },
            auth_recheck: reader.read("auth_recheck", value::duration)?,
            peer: match reader.written.get("peer") {
                Some((_, Value::Peers(rules))) => rules.clone(),
                _ => Vec::new(),
            },
            users: match reader.written.get("users") {
                Some((_, Value::Users(users))) => stored(users),
                _ => BTreeMap::new(),
            },
            limits: match reader.written.get("users") {
                Some((_, Value::Users(users))) => limits(users),
                _ => BTreeMap::new(),
            },
            auth_file: reader.path("auth_file"),
            auth_user: reader.text("auth_user"),
            auth_query: reader.read("auth_query", |text| Ok(text.to_owned()))?,
            auth_dbname: reader.text("auth_dbname"),
            auth_query_ttl: reader.read("auth_query_ttl", value::duration)?,
            scram_iterations: reader.read("scram_iterations", |text| match text.parse() {
                Ok(rounds @ 1..=MAX_ITERATIONS) => Ok(rounds),
                _ => Err(format!("\"{text}\" is not a number from 1 to {MAX_ITERATIONS}")),
            })?,
        })
    }
}

/// Settings of TLS toward clients.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the key of the same name, documented once in `keys`")]
#[expect(clippy::struct_field_names, reason = "the names are the keys'")]
pub struct TlsSettings {
    pub client_tls: ClientTls,
    pub client_tls_cert_file: Option<PathBuf>,
    pub client_tls_key_file: Option<PathBuf>,
    pub client_tls_ca_file: Option<PathBuf>,
    pub client_tls_min_protocol_version: Version,
}

impl TlsSettings {
    /// Reads the group.
    ///
    /// # Errors
    /// The first mistake, with its place and key.
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            client_tls: reader.read("client_tls", ClientTls::parse)?,
            client_tls_cert_file: reader.path("client_tls_cert_file"),
            client_tls_key_file: reader.path("client_tls_key_file"),
            client_tls_ca_file: reader.path("client_tls_ca_file"),
            client_tls_min_protocol_version: reader.read("client_tls_min_protocol_version", encryption::version)?,
        })
    }
}

/// Timeouts and lifetimes.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the key of the same name, documented once in `keys`")]
pub struct Timeouts {
    pub reserve_pool_timeout: Duration,
    pub server_idle_timeout: Option<Duration>,
    pub server_lifetime: Option<Duration>,
    pub query_wait_timeout: Duration,
    pub server_connect_timeout: Duration,
    pub client_login_timeout: Duration,
    pub cleanup_timeout: Duration,
    pub drain_timeout: Duration,
}

impl Timeouts {
    /// Reads the group.
    ///
    /// # Errors
    /// The first mistake, with its place and key.
    pub(super) fn read(reader: &Reader<'_>, server_connect_timeout: Duration) -> Result<Self, ConfigError> {
        Ok(Self {
            reserve_pool_timeout: reader.read("reserve_pool_timeout", positive_duration)?,
            server_idle_timeout: reader.read("server_idle_timeout", optional_duration)?,
            server_lifetime: reader.read("server_lifetime", optional_duration)?,
            query_wait_timeout: reader.read("query_wait_timeout", positive_duration)?,
            server_connect_timeout,
            client_login_timeout: reader.read("client_login_timeout", positive_duration)?,
            cleanup_timeout: reader.read("cleanup_timeout", positive_duration)?,
            drain_timeout: reader.read("drain_timeout", value::duration)?,
        })
    }
}

/// Settings of administration: the address for HTTP, admins, rights.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the key of the same name, documented once in `keys`")]
pub struct AdminSettings {
    pub admin_listen: Option<AdminListen>,
    pub admin_hosts: Vec<String>,
    pub admin_users: Vec<String>,
    pub stats_users: Vec<String>,
    pub admin_peer: bool,
    pub quit_endpoint: bool,
}

impl AdminSettings {
    /// Reads the group.
    ///
    /// # Errors
    /// The first mistake, with its place and key.
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            admin_listen: reader.read_optional("admin_listen", AdminListen::parse)?,
            admin_hosts: reader.names("admin_hosts"),
            admin_users: reader.names("admin_users"),
            stats_users: reader.names("stats_users"),
            admin_peer: reader.read("admin_peer", truth)?,
            quit_endpoint: reader.read("quit_endpoint", truth)?,
        })
    }
}

/// Settings of the log.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the key of the same name, documented once in `keys`")]
#[expect(clippy::struct_field_names, reason = "the names are the keys'")]
pub struct LogSettings {
    pub log_format: LogFormat,
    pub log_level: String,
    pub log_connections: bool,
    pub log_stats_interval: Option<Duration>,
}

impl LogSettings {
    /// Reads the group.
    ///
    /// # Errors
    /// The first mistake, with its place and key.
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            log_format: reader.read("log_format", LogFormat::parse)?,
            log_level: reader.read("log_level", |text| match text {
                "error" | "warn" | "info" | "debug" | "trace" => Ok(text.to_owned()),
                _ => Err(format!("\"{text}\" is not one of error, warn, info, debug, trace")),
            })?,
            log_connections: reader.read("log_connections", truth)?,
            log_stats_interval: reader.read("log_stats_interval", optional_duration)?,
        })
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
