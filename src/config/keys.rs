//! The one table of settings.

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the file; in the environment it is `PGFERRY_` and the name in capitals.
    pub name: &'static str,
    /// Its default as it would be written in the file; `None` when leaving it out means something else.
    pub default: Option<&'static str>,
    /// What it does, in one line.
    pub doc: &'static str,
    /// Whether the value must never be shown.
    pub secret: bool,
    /// What applies a change.
    pub change: Change,
}

/// What applies a change of a setting.
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

impl Change {
    /// Whether a reload applies it.
    #[must_use]
    pub fn by_reload(self) -> bool {
        self != Self::Restart
    }
}

/// A setting that `SET` at the console may change.
#[derive(Clone, Copy, Debug)]
pub struct Adjustable(&'static Key);

/// Why `SET` does not change a setting.
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
pub const KEYS: [Key; 74] = [
    secret(
        "upstream",
        "Where PostgreSQL is: postgres://[user[:password]@]host[:port][/database][?sslmode=…&connect_timeout=…].",
    ),
    optional(
        "dbname",
        "The database to connect to, for a [databases.NAME] table; default: the one that the client names.",
    ),
    optional(
        "force_user",
        "The role to connect as, whoever the client is; its password comes from the URL or upstream_password and its kin.",
    ),
    adjustable(
        "dns_max_ttl",
        "\"15s\"",
        "How often the upstream's name is looked up again, to leave addresses that it no longer stands for.",
    ),
    secret("upstream_password", "The upstream's password for clients that bring none of their own, if not in the URL."),
    optional("upstream_password_file", "A file with that password, read whenever a connection is opened."),
    optional(
        "password_command",
        "A program (and its arguments, as a list) that prints that password; PGHOST, PGPORT, PGUSER and PGDATABASE say for what.",
    ),
    key("password_ttl", "\"600s\"", "How long what password_command printed is used before it is run again."),
    optional(
        "passfile",
        "A file of passwords in .pgpass's form [env: PGPASSFILE]; default: ~/.pgpass, if it is there.",
    ),
    optional(
        "sslmode",
        "\"disable\", \"allow\", \"prefer\", \"require\", \"verify-ca\" or \"verify-full\"; default: \"prefer\", or \"verify-full\" when sslrootcert is given.",
    ),
    optional(
        "sslnegotiation",
        "\"postgres\", or \"direct\": TLS from the first byte, one round trip less (PostgreSQL 17+).",
    ),
    optional("sslrootcert", "The authorities that may sign the upstream's certificate: a PEM file, or \"system\"."),
    optional("sslcert", "The certificate to show to the upstream (PEM)."),
    optional("sslkey", "Its private key (PEM, no passphrase, mode 0600)."),
    optional("sslcrl", "Certificates that are revoked (PEM)."),
    optional("ssl_min_protocol_version", "\"TLSv1.2\" (default) or \"TLSv1.3\"."),
    optional("ssl_max_protocol_version", "\"TLSv1.2\" or \"TLSv1.3\" (default)."),
    optional("sslsni", "0 keeps the upstream's name out of the handshake; default: 1."),
    optional(
        "channel_binding",
        "Bind SCRAM logins to the encrypted channel: \"disable\", \"prefer\" (default) or \"require\".",
    ),
    optional(
        "require_auth",
        "The methods by which the upstream may have logins proved, as in libpq: a list of \"password\", \"md5\", \"scram-sha-256\" and \"none\", or of those that it may not use, each with \"!\" in front; default: all.",
    ),
    key(
        "listen",
        "[\"/run/pgferry\"]",
        "Where clients connect: a directory, \"@name\" (abstract socket) or \"host:port\"; any number.",
    ),
    key("port", "5432", "The port number in socket file names (.s.PGSQL.PORT)."),
    key("socket_mode", "\"0777\"", "Permissions of the socket file."),
    optional("socket_group", "Group of the socket file (name or number); default: the process's own."),
    key("allow_remote", "false", "Allow TCP listeners on addresses other than loopback."),
    adjustable("max_clients", "0", "Most clients at a time; 0 = as many as the limit on open files allows."),
    adjustable(
        "mode",
        "\"session\"",
        "How long a client keeps its upstream connection: \"session\" or \"transaction\"; a change holds for new clients.",
    ),
    adjustable(
        "pin",
        "\"auto\"",
        "In transaction mode, a client that leaves state in its session keeps its connection until that is gone (\"auto\"), or its statement is refused (\"refuse\").",
    ),
    adjustable(
        "max_prepared_statements",
        "200",
        "Prepared statements kept on an upstream connection in transaction mode; those used longest ago give way.",
    ),
    adjustable("max_prepared_bytes", "\"4MB\"", "Bytes of text of those statements."),
    adjustable(
        "pool_size",
        "20",
        "Upstream connections per (database, user, startup settings) that short connections share; a pool gets more only as reserve_pool_size says.",
    ),
    adjustable(
        "reserve_pool_size",
        "\"auto\"",
        "Further connections of a pool while those who have the others keep them; \"auto\" = as many as max_upstream allows, 0 = none.",
    ),
    adjustable(
        "reserve_pool_timeout",
        "\"50ms\"",
        "How long no connection of a pool has come free while a client waits, before it gets one of the reserve.",
    ),
    adjustable("min_idle", "0", "Upstream connections kept open per known pool even when idle."),
    adjustable(
        "max_upstream",
        "\"auto\"",
        "Most upstream connections over all pools; \"auto\" = as many as the server has (max_connections), which is asked.",
    ),
    adjustable("max_dialling", "4", "Most upstream connections being opened at a time, per pool."),
    adjustable("idle_timeout", "\"600s\"", "Close an upstream connection that was idle this long; 0 = never."),
    adjustable(
        "lifetime",
        "\"3600s\"",
        "Replace an upstream connection of this age (±10 %) when it is idle; 0 = never.",
    ),
    adjustable("wait_timeout", "\"10s\"", "Longest wait of a client for an upstream connection."),
    adjustable(
        "connect_timeout",
        "\"5s\"",
        "Longest time to open an upstream connection: name look-up, TCP and login.",
    ),
    adjustable("login_timeout", "\"10s\"", "Longest time for a client to log in."),
    adjustable(
        "cleanup_timeout",
        "\"5s\"",
        "Longest time to cancel, roll back and reset what a client left behind; then the connection is closed.",
    ),
    adjustable(
        "keepalive",
        "\"60s\"",
        "Idle time after which TCP probes the upstream and clients; 0 = the system's default.",
    ),
    adjustable(
        "tcp_user_timeout",
        "\"0\"",
        "How long sent data may stay unacknowledged, or a full server unwilling to read, before it counts as dead; 0 = the system's default.",
    ),
    adjustable(
        "reset",
        "\"always\"",
        "Reset a used session before anybody else gets it: \"always\", \"smart\" (only where session state was seen) or \"never\".",
    ),
    key(
        "auth",
        "\"pass-through\"",
        "How clients log in where no [[rule]] is written: \"pass-through\" (the upstream decides), \"scram-sha-256\", \"md5\", \"password\", \"peer\", \"cert\", \"trust\" or \"reject\".",
    ),
    key(
        "auth_recheck",
        "\"60s\"",
        "How long it is taken for granted that PostgreSQL still lets a role in: a login after that has it tried again, in the background up to twice as long; 0 = every login.",
    ),
    optional(
        "rule",
        "[[rule]] tables: transport, database, user, address, uid, gid and the method for clients that fit; the first that fits decides, and who fits none is refused.",
    ),
    optional("peer", "For the method \"peer\": [[peer]] tables, each with uid, gid or user and the roles they may be."),
    Key {
        secret: true,
        ..optional(
            "users",
            "A [users] table of secrets for the methods that need them: a password, md5… or SCRAM-SHA-256$…; or [users.NAME] tables with password, pool_size, max_clients, max_upstream.",
        )
    },
    optional(
        "auth_file",
        "A file of such secrets in the form of PgBouncer's userlist.txt; it is read again when it changes.",
    ),
    optional("auth_user", "The role that looks up secrets in the upstream with auth_query; unset = nobody does."),
    key(
        "auth_query",
        "\"SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin\"",
        "The query that gives the user's name and secret, for the name $1; no secret = no login.",
    ),
    optional("auth_dbname", "The database that auth_query runs in; default: the one that the client wants."),
    key("auth_query_ttl", "\"60s\"", "How long what auth_query gave is used before it is asked again."),
    key(
        "scram_iterations",
        "4096",
        "Rounds of hashing for SCRAM logins with secrets that are stored as plain passwords.",
    ),
    optional(
        "tls_cert",
        "The certificate to show to clients on TCP (PEM, with its chain); TLS is offered where it is set.",
    ),
    optional("tls_key", "Its private key (PEM, no passphrase, mode 0600)."),
    optional("tls_client_ca", "The authorities that may sign clients' certificates (PEM), for the method \"cert\"."),
    key(
        "tls_min_protocol_version",
        "\"TLSv1.2\"",
        "\"TLSv1.2\" or \"TLSv1.3\": the oldest version that clients may use.",
    ),
    adjustable("drain_timeout", "\"25s\"", "On SIGTERM, how long transactions may take to end."),
    fixed("log_format", "\"text\"", "\"text\" or \"json\"."),
    adjustable("log_level", "\"info\"", "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"."),
    adjustable("log_connections", "false", "Log each client's login and end."),
    adjustable(
        "log_stats",
        "\"60s\"",
        "How often a line of vital figures is logged, where anything happened; 0 = never.",
    ),
    optional(
        "admin_listen",
        "Where figures and health are asked for over HTTP: host:port, or the path of a socket file.",
    ),
    optional(
        "admin_hosts",
        "Names that requests to admin_listen may be addressed to (Host), besides addresses, localhost and this machine's own name.",
    ),
    optional(
        "admin_users",
        "Roles that may do everything at the console (database \"pgferry\"), once they have logged in.",
    ),
    optional("stats_users", "Roles that may look at what the console shows."),
    key(
        "admin_peer",
        "true",
        "Whether root and pgferry's own user may do everything at the console without a password, over a unix socket and in pgferry's own container (PID and user namespace).",
    ),
    key("quit_endpoint", "false", "Whether POST /quitquitquit at admin_listen ends the process as SIGTERM does."),
    fixed("workers", "1", "Threads that serve clients."),
    optional(
        "databases",
        "[databases.NAME] tables for the clients of one database: upstream, dbname, force_user, mode, pin, reset, pool_size and other limits; \"*\" stands for all that have no table.",
    ),
    fixed("buffer_size", "\"32kB\"", "Buffer lent to each direction of a connection while data is under way."),
];

/// The settings that a `[databases.NAME]` table may have.
pub const PER_DATABASE: [&str; 20] = [
    "upstream",
    "upstream_password",
    "upstream_password_file",
    "sslmode",
    "sslrootcert",
    "dbname",
    "force_user",
    "connect_timeout",
    "mode",
    "pin",
    "reset",
    "pool_size",
    "reserve_pool_size",
    "reserve_pool_timeout",
    "min_idle",
    "idle_timeout",
    "wait_timeout",
    "cleanup_timeout",
    "max_prepared_statements",
    "max_prepared_bytes",
];

/// All settings as a page: what `config/REFERENCE.md` holds.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(
        "# Settings\n\nMade from the source (`pgferry settings`); a test holds it against that. A flag beats the environment \
         (`PGFERRY_` and the name in capitals), which beats the file; `SET` at the console beats all of them until the \
         next reload.\n\n| key | default | changed by | in `[databases.NAME]` | |\n|---|---|---|---|---|\n",
    );
    for key in &KEYS {
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

/// The setting called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The known name nearest to `name`, if one is near.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|known| (strsim::damerau_levenshtein(name, known), known));
    let (distance, best) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2.max(name.len() / 3)).then_some(best)
}
