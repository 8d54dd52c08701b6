//! What becomes of each setting in `[pgbouncer]`.

use super::ini::Ini;
use super::{Toml, list, number, quoted};

/// Translation of a setting.
enum Mapping {
    /// It is this one, a number or a truth value.
    Number(&'static str),
    /// It is this one, a time in seconds, which 0 turns off.
    Seconds(&'static str),
    /// It is this one, a time in seconds that must be positive: 0 means no limit.
    Limit(&'static str),
    /// It is this one, a text.
    Text(&'static str),
    /// It is seen to elsewhere.
    Elsewhere,
    /// It has no counterpart: why.
    None(&'static str),
}

use Mapping::{Elsewhere, Limit, Number, Seconds, Text};

const LOG: &str = "pgferry logs to standard error; let the service manager or the shell keep it";
const PEERS: &str = "one pgferry has several threads (workers): no peers are needed for cancel requests";
const CIPHERS: &str = "TLS 1.2 and 1.3 with modern ciphers only, which can't be chosen";
/// The pool size in place of an unlimited one.
const UNLIMITED: usize = 1000;
/// The largest `max_upstream`.
const MOST_UPSTREAM: usize = 10_000;
const NO_TUNING: &str = "has no use here";

/// Every setting of PgBouncer 1.25, and what becomes of it.
const MAPPINGS: [(&str, Mapping); 101] = [
    ("admin_users", Elsewhere),
    ("application_name_add_host", Mapping::None("clients' application_name is passed on as it is")),
    ("auth_dbname", Text("auth_dbname")),
    ("auth_file", Elsewhere),
    ("auth_hba_file", Elsewhere),
    ("auth_ident_file", Mapping::None("write [[peer]] tables")),
    ("auth_ldap_options", Mapping::None("LDAP is not supported; pass-through lets PostgreSQL ask it")),
    ("auth_query", Elsewhere),
    ("auth_type", Elsewhere),
    ("auth_user", Elsewhere),
    ("autodb_idle_timeout", Mapping::None("unused pools are forgotten after 10 minutes")),
    ("cancel_wait_timeout", Mapping::None("a cancel request takes 5 s at most")),
    ("client_idle_timeout", Mapping::None("set idle_session_timeout in PostgreSQL (14 and later)")),
    ("client_login_timeout", Limit("client_login_timeout")),
    ("client_tls13_ciphers", Mapping::None(CIPHERS)),
    ("client_tls_ca_file", Elsewhere),
    ("client_tls_cert_file", Elsewhere),
    ("client_tls_ciphers", Mapping::None(CIPHERS)),
    ("client_tls_dheparams", Mapping::None(CIPHERS)),
    ("client_tls_ecdhcurve", Mapping::None(CIPHERS)),
    ("client_tls_key_file", Elsewhere),
    ("client_tls_protocols", Elsewhere),
    ("client_tls_sslmode", Elsewhere),
    ("conffile", Mapping::None("pgferry --config names the file")),
    ("default_pool_size", Elsewhere),
    ("disable_pqexec", Mapping::None("clients may speak either protocol")),
    ("dns_max_ttl", Elsewhere),
    ("dns_nxdomain_ttl", Mapping::None("a failed look-up is made again with the next attempt to connect")),
    ("dns_zone_check_period", Mapping::None("names are looked up again every dns_max_ttl")),
    ("idle_transaction_timeout", Mapping::None("set idle_in_transaction_session_timeout in PostgreSQL")),
    ("ignore_startup_parameters", Mapping::None("not needed: pgferry takes every startup parameter, and means it")),
    ("job_name", Mapping::None("for Windows services")),
    ("service_name", Mapping::None("for Windows services")),
    ("listen_addr", Elsewhere),
    ("listen_backlog", Mapping::None("as many wait as the kernel allows (net.core.somaxconn)")),
    ("listen_port", Elsewhere),
    ("log_connections", Elsewhere),
    ("log_disconnections", Elsewhere),
    ("log_pooler_errors", Mapping::None("errors are always logged, repeated ones as a count")),
    ("log_stats", Elsewhere),
    ("logfile", Mapping::None(LOG)),
    ("login_notify_message", Mapping::None("clients see PostgreSQL's messages only")),
    ("max_client_conn", Number("max_client_conn")),
    (
        "max_db_client_connections",
        Mapping::None("clients can be limited as a whole (max_client_conn) and per user ([users.NAME])"),
    ),
    ("max_db_connections", Elsewhere),
    ("max_packet_size", Mapping::None("messages stream through; their length is checked as PostgreSQL does")),
    ("max_prepared_statements", Elsewhere),
    ("max_user_client_connections", Mapping::None("say it for each user: max_user_client_connections in [users.NAME]")),
    ("max_user_connections", Elsewhere),
    ("min_pool_size", Number("min_pool_size")),
    ("peer_id", Mapping::None(PEERS)),
    ("pidfile", Mapping::None("the socket's lock file has the pid; service managers need none")),
    ("pkt_buf", Mapping::None(NO_TUNING)),
    ("pool_idle_timeout", Mapping::None("unused pools are forgotten after 10 minutes")),
    ("pool_mode", Elsewhere),
    ("query_timeout", Mapping::None("set statement_timeout in PostgreSQL")),
    (
        "query_wait_notify",
        Mapping::None("a client that gets no connection gets an error with the cause, and no notice before"),
    ),
    ("query_wait_timeout", Limit("query_wait_timeout")),
    ("reserve_pool_size", Number("reserve_pool_size")),
    ("reserve_pool_timeout", Limit("reserve_pool_timeout")),
    ("resolv_conf", Mapping::None("the system's resolver is used")),
    ("sbuf_loopcnt", Mapping::None(NO_TUNING)),
    ("scram_iterations", Number("scram_iterations")),
    ("server_check_delay", Mapping::None("a connection is looked at whenever it changes hands")),
    (
        "server_check_query",
        Mapping::None("what is sent in front of a client's first message proves the connection alive"),
    ),
    ("server_connect_timeout", Limit("server_connect_timeout")),
    ("server_fast_close", Mapping::None("the console's RECONNECT replaces connections as they come free")),
    ("server_idle_timeout", Seconds("server_idle_timeout")),
    ("server_lifetime", Elsewhere),
    ("server_login_retry", Mapping::None("tried again after 50 ms, then at growing intervals, while clients wait")),
    ("server_reset_query", Elsewhere),
    ("server_reset_query_always", Elsewhere),
    ("server_round_robin", Mapping::None("the connection used last is used first, so that idle ones can end")),
    ("server_tls13_ciphers", Mapping::None(CIPHERS)),
    ("server_tls_ca_file", Elsewhere),
    ("server_tls_cert_file", Text("sslcert")),
    ("server_tls_ciphers", Mapping::None(CIPHERS)),
    ("server_tls_key_file", Text("sslkey")),
    ("server_tls_protocols", Elsewhere),
    ("server_tls_sslmode", Elsewhere),
    ("so_reuseport", Mapping::None("one process has several threads (workers); --replace hands the listeners over")),
    ("stats_period", Elsewhere),
    ("stats_users", Elsewhere),
    ("suspend_timeout", Mapping::None("--replace hands the listeners over without suspending clients")),
    ("syslog", Mapping::None(LOG)),
    ("syslog_facility", Mapping::None(LOG)),
    ("syslog_ident", Mapping::None(LOG)),
    ("tcp_defer_accept", Mapping::None(NO_TUNING)),
    ("tcp_keepalive", Elsewhere),
    ("tcp_keepcnt", Mapping::None("three probes, a quarter of tcp_keepidle apart")),
    ("tcp_keepidle", Elsewhere),
    ("tcp_keepintvl", Mapping::None("a quarter of tcp_keepidle")),
    ("tcp_socket_buffer", Mapping::None(NO_TUNING)),
    ("tcp_user_timeout", Elsewhere),
    ("track_extra_parameters", Mapping::None("every setting that PostgreSQL reports follows its client")),
    ("transaction_timeout", Mapping::None("set transaction_timeout in PostgreSQL (17 and later)")),
    ("unix_socket_dir", Elsewhere),
    ("unix_socket_group", Text("unix_socket_group")),
    ("unix_socket_mode", Text("unix_socket_mode")),
    ("user", Mapping::None("start pgferry as the user that it is to be: User= in its unit")),
    ("verbose", Elsewhere),
];

/// Says what `[pgbouncer]` says.
pub(super) fn write(ini: &Ini, out: &mut Toml) {
    listen(ini, out);
    for entry in ini.section("pgbouncer") {
        let (name, value) = (entry.key.as_str(), entry.value.as_str());
        match MAPPINGS.iter().find(|(known, _)| *known == name).map(|(_, fate)| fate) {
            None => out.without(name, value, "PgBouncer has no such setting"),
            Some(Mapping::None(why)) => out.without(name, value, why),
            Some(Number(key)) => out.set(key, &number(value)),
            Some(Text(_)) if value.is_empty() => {}
            Some(Text(key)) => out.set(key, &quoted(value)),
            Some(Limit(key)) if is_zero(value) => {
                out.without(name, value, &format!("there is always a limit here: {key} is a day"));
                out.set(key, "\"1d\"");
            }
            Some(Seconds(key) | Limit(key)) => out.set(key, &quoted(&format!("{value}s"))),
            Some(Elsewhere) => particular(ini, name, value, out),
        }
    }
    sizes(ini, out);
    reset(ini, out);
    tls(ini, out);
}

fn is_zero(value: &str) -> bool {
    value.parse::<f64>() == Ok(0.0)
}

pub(super) fn is_on(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true")
}

fn listen(ini: &Ini, out: &mut Toml) {
    let port = ini.get("listen_port").unwrap_or("6432");
    let mut places = Vec::new();
    let dir = ini.get("unix_socket_dir").unwrap_or("/tmp");
    if !dir.is_empty() {
        places.push(dir.to_owned());
    }
    let mut remote = false;
    for address in ini.get("listen_addr").unwrap_or("").split(',').map(str::trim).filter(|a| !a.is_empty()) {
        let address = match address {
            "*" | "0.0.0.0" => "0.0.0.0".to_owned(),
            "localhost" => "127.0.0.1".to_owned(),
            v6 if v6.contains(':') => format!("[{v6}]"),
            other => other.to_owned(),
        };
        remote |= !(address.starts_with("127.") || address == "[::1]");
        places.push(format!("{address}:{port}"));
    }
    out.set("listen", &list(&places));
    out.set("port", &number(port));
    if remote {
        out.set("allow_remote", "true");
    }
}

/// Settings that are said in another way.
fn particular(ini: &Ini, name: &str, value: &str, out: &mut Toml) {
    match name {
        "admin_users" | "stats_users" => {
            let users: Vec<_> = value.split(',').map(|user| user.trim().to_owned()).filter(|u| !u.is_empty()).collect();
            out.set(name, &list(&users));
        }
        "log_connections" => out.set("log_connections", if is_on(value) { "true" } else { "false" }),
        "log_disconnections" => out.comment("log_connections logs both ends of a connection."),
        "log_stats" if !is_on(value) => out.set("log_stats_interval", "\"0\""),
        "stats_period" if ini.get("log_stats").is_none_or(is_on) => {
            out.set("log_stats_interval", &quoted(&format!("{value}s")));
        }
        "verbose" => out.set("log_level", if is_zero(value) { "\"info\"" } else { "\"debug\"" }),
        "tcp_keepalive" if !is_on(value) => out.set("tcp_keepidle", "\"0\""),
        "tcp_keepidle" if ini.get("tcp_keepalive").is_none_or(is_on) => {
            out.set("tcp_keepidle", &quoted(&format!("{value}s")));
        }
        "tcp_user_timeout" => out.set("tcp_user_timeout", &quoted(&format!("{value}ms"))),
        "dns_max_ttl" if is_zero(value) => {
            out.without(
                name,
                value,
                "each new connection looks its name up; those of open ones are looked up every 15 s",
            );
        }
        "dns_max_ttl" => out.set("dns_max_ttl", &quoted(&format!("{value}s"))),
        "server_lifetime" if is_zero(value) => {
            out.without(name, value, "a connection for one client only is what pgferry avoids; it is kept for an hour");
        }
        "server_lifetime" => out.set("server_lifetime", &quoted(&format!("{value}s"))),
        "max_prepared_statements" if is_zero(value) => {
            out.without(name, value, "prepared statements always work in transaction mode");
        }
        "max_prepared_statements" => out.set("max_prepared_statements", &number(value)),
        "pool_mode" => match value {
            "session" | "transaction" => out.set("pool_mode", &quoted(value)),
            other => {
                out.without(name, other, "statement mode forbids transactions; transaction mode comes next to it");
                out.set("pool_mode", "\"transaction\"");
            }
        },
        "max_user_connections" if !is_zero(value) => {
            out.without(name, value, "say it for each user: max_user_connections in [users.NAME]");
        }
        "auth_dbname" => out.set("auth_dbname", &quoted(value)),
        _ => {}
    }
}

fn sizes(ini: &Ini, out: &mut Toml) {
    match ini.get("default_pool_size") {
        Some(size) if is_zero(size) => {
            out.without("default_pool_size", size, "there is always a limit here");
            out.set("pool_size", &UNLIMITED.to_string());
        }
        Some(size) => out.set("pool_size", &number(size)),
        None => {}
    }
    let databases = ini.section("databases").count().max(1);
    if let Some(most) = ini.get("max_db_connections").filter(|most| !is_zero(most)) {
        out.without("max_db_connections", most, "max_upstream limits the connections to all databases together");
        if let Ok(most) = most.parse::<usize>() {
            out.set("max_upstream", &most.saturating_mul(databases).clamp(1, MOST_UPSTREAM).to_string());
        }
        return;
    }
    out.comment(
        "max_db_connections = 0 is PgBouncer's default: no limit over all pools; here max_upstream = \"auto\" is as many as the \
         server has.",
    );
}

/// In PgBouncer a session is reset between clients in session mode only, unless told otherwise.
fn reset(ini: &Ini, out: &mut Toml) {
    let query = ini.get("server_reset_query").unwrap_or("DISCARD ALL");
    let always = ini.get("server_reset_query_always").is_some_and(is_on);
    let session = ini.get("pool_mode").is_none_or(|mode| mode == "session");
    if query.is_empty() {
        out.set("reset", "\"never\"");
    } else if !session && !always {
        out.comment("PgBouncer resets nothing in transaction mode; here what was seen to be left is.");
        out.set("reset", "\"on_change\"");
    } else if !query.trim_end_matches(';').eq_ignore_ascii_case("discard all") {
        out.without("server_reset_query", query, "sessions are reset with DISCARD ALL");
    }
}

fn tls(ini: &Ini, out: &mut Toml) {
    let get = |name| ini.get(name).filter(|value| !value.is_empty());
    let mode = get("server_tls_sslmode").unwrap_or("prefer");
    // With sslrootcert alone libpq, and pgferry, verify: what PgBouncer does is said in full.
    if get("server_tls_sslmode").is_some() || get("server_tls_ca_file").is_some() {
        out.set("sslmode", &quoted(mode));
    }
    if let Some(file) = get("server_tls_ca_file") {
        out.set("sslrootcert", &quoted(file));
    }
    if let Some(oldest) = get("server_tls_protocols").and_then(oldest) {
        out.set("ssl_min_protocol_version", &quoted(oldest));
    }
    match get("client_tls_sslmode") {
        None => return,
        Some("disable") => return out.set("client_tls", "\"off\""),
        Some("allow" | "prefer") => {}
        Some(mode) => {
            out.without(
                "client_tls_sslmode",
                mode,
                "[[rule]] tables without transport = \"tcp\" keep others on TCP out",
            );
        }
    }
    for (name, key) in
        [("client_tls_cert_file", "client_tls_cert_file"), ("client_tls_key_file", "client_tls_key_file")]
    {
        if let Some(file) = get(name) {
            out.set(key, &quoted(file));
        }
    }
    if let Some(file) = get("client_tls_ca_file").filter(|_| get("client_tls_cert_file").is_some()) {
        out.set("client_tls_ca_file", &quoted(file));
    }
    if let Some(oldest) = get("client_tls_protocols").and_then(oldest) {
        out.set("client_tls_min_protocol_version", &quoted(oldest));
    }
}

/// The oldest version of TLS among `protocols`, where that is worth saying.
fn oldest(protocols: &str) -> Option<&'static str> {
    let all = protocols.to_ascii_lowercase();
    let has = |version: &str| all.split([',', ':', ' ']).any(|word| word == version);
    (has("tlsv1.3") && !has("tlsv1.2") && !has("secure") && !has("all")).then_some("TLSv1.3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_pgbouncer_has_a_fate() {
        let mut names: Vec<_> = MAPPINGS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MAPPINGS.len(), "each once");
        let known: Vec<_> = crate::config::keys::KEYS.iter().map(|key| key.name).collect();
        for (name, fate) in &MAPPINGS {
            if let Number(key) | Seconds(key) | Limit(key) | Text(key) = fate {
                assert!(known.contains(key), "{name} becomes {key}, which is no key");
            }
        }
    }
}
