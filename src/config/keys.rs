//! The one table of settings.

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the file; in the environment it is `PGFERRY_` and the name in capitals.
    pub name: &'static str,
    /// Its default as it would be written in the file; `None` when leaving it out means something else.
    pub default: Option<&'static str>,
    /// Meaning, in one line.
    pub doc: &'static str,
    /// True if the value must never be shown.
    pub secret: bool,
    /// Means by which a change is applied.
    pub change: Change,
}

/// Means by which a change of a setting is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A restart of the process.
    Restart,
    /// A reload of what is written in the file, the environment and the flags.
    Reload,
    /// A reload, or `SET` at the console: limits and times of pgferry's own work, and how much it logs. What names a program,
    /// a file, a credential, a server, a listener, a rule or a method of authentication is not among them: an admin at the
    /// console is trusted with the proxy, not with the user that it runs as, nor with its clients' passwords.
    Console,
}

impl Key {
    /// Returns whether its value may be a list.
    #[must_use]
    pub fn takes_list(&self) -> bool {
        LISTS.contains(&self.name)
    }
}

impl Change {
    /// Returns whether a reload applies it.
    #[must_use]
    pub fn by_reload(self) -> bool {
        self != Self::Restart
    }
}

/// A setting that `SET` at the console may change.
#[derive(Clone, Copy, Debug)]
pub struct Adjustable(&'static Key);

/// Reason why `SET` does not change a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdjustable {
    /// There is none of that name.
    Unknown,
    /// It takes a reload of what is written.
    ByReload,
    /// It takes a restart.
    ByRestart,
}

impl Adjustable {
    /// The setting called `name`.
    ///
    /// # Errors
    /// Why `SET` does not change it.
    pub fn find(name: &str) -> Result<Self, NotAdjustable> {
        let key = find(name).ok_or(NotAdjustable::Unknown)?;
        match key.change {
            Change::Console => Ok(Self(key)),
            Change::Reload => Err(NotAdjustable::ByReload),
            Change::Restart => Err(NotAdjustable::ByRestart),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }
}

const fn key(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { name, default: Some(default), doc, secret: false, change: Change::Reload }
}

/// One that the console may change, too.
const fn adjustable(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { change: Change::Console, ..key(name, default, doc) }
}

const fn fixed(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { change: Change::Restart, ..key(name, default, doc) }
}

const fn optional(name: &'static str, doc: &'static str) -> Key {
    Key { name, default: None, doc, secret: false, change: Change::Reload }
}

const fn secret(name: &'static str, doc: &'static str) -> Key {
    Key { secret: true, ..optional(name, doc) }
}

/// Every setting, in the order of the reference.
pub const KEYS: [Key; 75] = [
    secret(
        "upstream",
        "The PostgreSQL server: postgres://[user[:password]@]host[:port][/database][?sslmode=…&connect_timeout=…].",
    ),
    optional("dbname", "Database to connect to, for a [databases.NAME] table; default: the one that the client names."),
    optional(
        "force_user",
        "Role to connect as, whatever the client's; its password comes from the URL, upstream_password, upstream_password_file, password_command or passfile.",
    ),
    adjustable(
        "dns_max_ttl",
        "\"15s\"",
        "Interval at which the upstream's name is looked up again; connections to addresses that are no longer in DNS are replaced.",
    ),
    secret("upstream_password", "Password to log in upstream with, but for pass-through, if it is not in the URL."),
    optional("upstream_password_file", "File with that password; read whenever a connection is opened."),
    optional(
        "password_command",
        "Program (and its arguments, as a list) that prints that password; it finds PGHOST, PGPORT, PGUSER and PGDATABASE in its environment.",
    ),
    key("password_ttl", "\"600s\"", "Time for which the output of password_command is used before it runs again."),
    optional("passfile", "Password file in the format of .pgpass [env: PGPASSFILE]; default: ~/.pgpass, if it exists."),
    optional(
        "sslmode",
        "TLS towards PostgreSQL: \"disable\", \"allow\", \"prefer\", \"require\", \"verify-ca\" or \"verify-full\"; default: \"prefer\", or \"verify-full\" when sslrootcert is given.",
    ),
    optional(
        "sslnegotiation",
        "\"postgres\", or \"direct\": TLS from the first byte, one round trip less (PostgreSQL 17 and later).",
    ),
    optional("sslrootcert", "Authorities that may sign the server's certificate: a PEM file, or \"system\"."),
    optional("sslcert", "Certificate to present to the server (PEM)."),
    optional("sslkey", "Private key of sslcert (PEM, no passphrase, mode 0600)."),
    optional("sslcrl", "Revoked certificates (PEM)."),
    optional(
        "ssl_min_protocol_version",
        "Oldest TLS version towards PostgreSQL: \"TLSv1.2\" (default) or \"TLSv1.3\".",
    ),
    optional(
        "ssl_max_protocol_version",
        "Newest TLS version towards PostgreSQL: \"TLSv1.2\" or \"TLSv1.3\" (default).",
    ),
    optional("sslsni", "0 leaves the server's name out of the handshake; default: 1."),
    optional(
        "channel_binding",
        "Bind SCRAM logins to the TLS channel: \"disable\", \"prefer\" (default) or \"require\".",
    ),
    optional(
        "require_auth",
        "Authentication methods that the server may ask for, as in libpq: a list of \"password\", \"md5\", \"scram-sha-256\" and \"none\", or of those that it may not, each with \"!\" in front; default: all.",
    ),
    key(
        "listen",
        "[\"/run/pgferry\"]",
        "Where clients connect: a directory, \"@name\" (abstract socket) or \"host:port\"; any number.",
    ),
    optional(
        "port",
        "Port in the names of sockets (.s.PGSQL.PORT), or a list of several; default: those of the upstreams, and after a reload or replacement those of the former ones too.",
    ),
    key("unix_socket_mode", "\"0777\"", "Permissions of the socket file."),
    optional("unix_socket_group", "Group of the socket file (name or number); default: the process's own."),
    key("allow_remote", "false", "Allow TCP listeners on addresses other than loopback."),
    adjustable("max_client_conn", "0", "Maximum number of clients; 0 = as many as the limit on open files allows."),
    adjustable(
        "pool_mode",
        "\"session\"",
        "How long a client keeps its server connection: for its \"session\" or for a \"transaction\"; a change applies to new clients.",
    ),
    adjustable(
        "pin",
        "\"auto\"",
        "In transaction mode, a client that leaves state in its session keeps its connection until that is gone (\"auto\"), or its statement is refused (\"refuse\").",
    ),
    adjustable(
        "max_prepared_statements",
        "200",
        "Prepared statements kept on a server connection in transaction mode; the least recently used ones are closed.",
    ),
    adjustable("max_prepared_bytes", "\"4MB\"", "Bytes of text of those statements."),
    adjustable(
        "pool_size",
        "20",
        "Server connections per (database, user, startup settings) that short connections share; a pool gets more only as reserve_pool_size allows.",
    ),
    adjustable(
        "reserve_pool_size",
        "\"auto\"",
        "Additional connections of a pool while clients keep the others; \"auto\" = as many as max_upstream allows, 0 = none.",
    ),
    adjustable(
        "reserve_pool_timeout",
        "\"50ms\"",
        "Time without a connection coming free, while a client waits, after which the reserve is used.",
    ),
    adjustable(
        "min_pool_size",
        "0",
        "Server connections that a pool keeps open once a client has come, those in use included.",
    ),
    adjustable(
        "max_upstream",
        "\"auto\"",
        "Maximum number of server connections, over all pools; \"auto\" = as many as the server has (max_connections), which is asked.",
    ),
    adjustable("max_connecting", "4", "Maximum number of server connections being opened at a time, per pool."),
    adjustable("server_idle_timeout", "\"600s\"", "Idle time after which a server connection is closed; 0 = never."),
    adjustable(
        "server_lifetime",
        "\"3600s\"",
        "Age (±10 %) at which a server connection is replaced when it is idle; 0 = never.",
    ),
    adjustable("query_wait_timeout", "\"10s\"", "Maximum time that a client waits for a server connection."),
    adjustable(
        "server_connect_timeout",
        "\"5s\"",
        "Maximum time to open a server connection: name look-up, TCP, TLS and login.",
    ),
    adjustable("client_login_timeout", "\"10s\"", "Maximum time for a client to log in."),
    adjustable(
        "cleanup_timeout",
        "\"5s\"",
        "Maximum time to cancel, roll back and reset what a client left behind; then the connection is closed.",
    ),
    adjustable(
        "tcp_keepidle",
        "\"60s\"",
        "Idle time after which TCP probes servers and clients, up to 32767 s; 0 = the system's default.",
    ),
    adjustable(
        "tcp_user_timeout",
        "\"0\"",
        "Time that sent data may stay unacknowledged, or a full server unwilling to read, before the connection counts as dead; 0 = the system's default.",
    ),
    adjustable(
        "reset",
        "\"auto\"",
        "When a used session is reset before another client gets it: \"auto\" (where statements have left something or the database has code that might), \"always\", \"on_change\" (where statements have) or \"never\".",
    ),
    key(
        "auth_type",
        "\"pass-through\"",
        "How clients log in where there is no [[rule]]: \"pass-through\" (PostgreSQL decides), \"scram-sha-256\", \"md5\", \"password\", \"peer\", \"cert\", \"trust\" or \"reject\".",
    ),
    key(
        "auth_recheck",
        "\"60s\"",
        "Time for which PostgreSQL is trusted to still let a role in; a later login has that checked again, in the background up to twice as long; 0 = every login.",
    ),
    optional(
        "rule",
        "[[rule]] tables: transport, database, user, address, uid, gid and the method for clients that fit; the first that fits decides, and a client that fits none is refused.",
    ),
    optional(
        "peer",
        "For the method \"peer\": [[peer]] tables, each with uid, gid or user, and the roles that it may be.",
    ),
    secret(
        "users",
        "A [users] table of secrets for the methods that need them: a password, md5… or SCRAM-SHA-256$…; or [users.NAME] tables with password, pool_size, max_user_client_connections, max_user_connections.",
    ),
    optional(
        "auth_file",
        "File of such secrets in the format of PgBouncer's userlist.txt; read again when it changes.",
    ),
    optional("auth_user", "Role that looks up secrets in the database with auth_query; unset = none are looked up."),
    key(
        "auth_query",
        "\"SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin\"",
        "Query that gives the name and the secret of the user $1; no secret = no login.",
    ),
    optional("auth_dbname", "Database in which auth_query runs; default: the client's."),
    key("auth_query_ttl", "\"60s\"", "Time for which a result of auth_query is used."),
    key("scram_iterations", "4096", "Iterations for SCRAM logins with secrets that are stored as plain passwords."),
    key(
        "client_tls",
        "\"auto\"",
        "Where TLS is offered to clients that ask for it: \"auto\" (unix and abstract sockets, loopback TCP, and with client_tls_cert_file TCP from anywhere), \"unix\" (unix and abstract sockets) or \"off\".",
    ),
    optional(
        "client_tls_cert_file",
        "Certificate to present to clients (PEM, with its chain); without one pgferry makes one at its start, which no client can verify, for clients on this machine.",
    ),
    optional("client_tls_key_file", "Private key of client_tls_cert_file (PEM, no passphrase, mode 0600)."),
    optional("client_tls_ca_file", "Authorities that may sign clients' certificates (PEM), for the method \"cert\"."),
    key(
        "client_tls_min_protocol_version",
        "\"TLSv1.2\"",
        "Oldest TLS version for clients: \"TLSv1.2\" or \"TLSv1.3\".",
    ),
    adjustable("drain_timeout", "\"25s\"", "Time that transactions have to end after SIGTERM."),
    fixed("log_format", "\"text\"", "Format of the log: \"text\" or \"json\"."),
    adjustable("log_level", "\"info\"", "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"."),
    adjustable("log_connections", "false", "Log each client's login and end."),
    adjustable(
        "log_stats_interval",
        "\"60s\"",
        "Interval of the log's line of statistics, if anything happened; 0 = never.",
    ),
    optional("admin_listen", "Where metrics and health are served over HTTP: host:port, or the path of a socket file."),
    optional(
        "admin_hosts",
        "Names that requests to admin_listen may have as their Host, besides addresses, localhost and this machine's own name.",
    ),
    optional(
        "admin_users",
        "Roles that may use every command of the console (database \"pgferry\"), once they have logged in.",
    ),
    optional("stats_users", "Roles that may use the console's SHOW."),
    key(
        "admin_peer",
        "true",
        "Whether root and pgferry's own user may use every command of the console without a password, over a unix socket and in pgferry's own container (PID and user namespace).",
    ),
    key("quit_endpoint", "false", "Whether POST /quitquitquit at admin_listen ends the process as SIGTERM does."),
    fixed("workers", "1", "Threads that serve clients."),
    optional(
        "databases",
        "[databases.NAME] tables for the clients of one database: upstream, dbname, force_user, pool_mode, pin, reset, pool_size and other limits; \"*\" stands for every database without a table.",
    ),
    fixed(
        "buffer_size",
        "\"32kB\"",
        "Size of the buffer lent to each direction of a connection while data is under way.",
    ),
];

/// The settings that may be lists.
const LISTS: [&str; 7] =
    ["password_command", "require_auth", "listen", "port", "admin_hosts", "admin_users", "stats_users"];

/// The settings that a `[databases.NAME]` table may have.
pub(crate) const PER_DATABASE: [&str; 20] = [
    "upstream",
    "upstream_password",
    "upstream_password_file",
    "sslmode",
    "sslrootcert",
    "dbname",
    "force_user",
    "server_connect_timeout",
    "pool_mode",
    "pin",
    "reset",
    "pool_size",
    "reserve_pool_size",
    "reserve_pool_timeout",
    "min_pool_size",
    "server_idle_timeout",
    "query_wait_timeout",
    "cleanup_timeout",
    "max_prepared_statements",
    "max_prepared_bytes",
];

/// The sections of the reference: the first setting of each, and its heading.
const SECTIONS: [(&str, &str); 10] = [
    ("upstream", "Server"),
    ("sslmode", "TLS towards the server"),
    ("listen", "Listeners"),
    ("max_client_conn", "Clients and pools"),
    ("server_idle_timeout", "Timeouts and the reset"),
    ("auth_type", "Authentication"),
    ("client_tls", "TLS towards clients"),
    ("drain_timeout", "Shutdown and log"),
    ("admin_listen", "Administration"),
    ("workers", "Process and databases"),
];

/// All settings as a page: the content of `config/REFERENCE.md`.
#[must_use]
pub(crate) fn reference() -> String {
    let mut page = String::from(
        "# Settings\n\nGenerated from the source (`pgferry settings`); a test compares the two. A flag beats the environment \
         (`PGFERRY_` and the name in capitals), which beats the file; `SET` at the console beats all of them until the \
         next reload. [docs/configuration.md](../docs/configuration.md) explains how they work together.\n",
    );
    for key in &KEYS {
        if let Some((_, heading)) = SECTIONS.iter().find(|(first, _)| *first == key.name) {
            page.push_str(&["\n## ", heading, "\n\n", HEAD].concat());
        }
        let default = key.default.map_or_else(String::new, |default| format!("`{default}`"));
        let change = match key.change {
            Change::Restart => "restart",
            Change::Reload => "reload",
            Change::Console => "reload, `SET`",
        };
        let own = if PER_DATABASE.contains(&key.name) { "yes" } else { "" };
        let doc = key.doc.replace('|', "\\|");
        page.push_str(&["| `", key.name, "` | ", &default, " | ", change, " | ", own, " | ", &doc, " |\n"].concat());
    }
    page
}

/// The head of each table.
const HEAD: &str = "| setting | default | changed by | in `[databases.NAME]` | meaning |\n|---|---|---|---|---|\n";

/// The setting called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The name among `known` that `name` stands for: the present one of a setting that was renamed, that of PgBouncer's setting
/// of the name, or one that is spelled nearly alike.
#[must_use]
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    if let Some(renamed) = super::renamed::present(name, known.clone()) {
        return Some(renamed);
    }
    let lower = name.to_lowercase();
    let (most, length) = (2.max(name.len() / 3), lower.chars().count());
    // Of two texts the difference in length is the least distance; to measure the distance takes the product of their lengths.
    let alike = known.into_iter().filter(|known| known.chars().count().abs_diff(length) <= most);
    let scored = alike.map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known));
    let (distance, best) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= most).then_some(best)
}
