//! PgBouncer's configurations of the kinds that people publish, said in pgferry's words.

use std::fs;
use std::process::Output;
use std::sync::Arc;

use pgferry::internals::config::{Auth, Host, Mode, RawConfig, Reset, Settings, SslMode};

use crate::harness::pgferry::command;

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import");

/// What the program prints for one of the files beside this.
fn import(name: &str) -> (Output, String) {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(DIR).expect("a directory") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("readable").replace("HERE", DIR);
        fs::write(dir.path().join(path.file_name().expect("a name")), text).expect("written");
    }
    let file = dir.path().join(name);
    let output = command().args(["import-pgbouncer", file.to_str().expect("UTF-8")]).output().expect("pgferry");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let loads = resolved(name, &text);
    assert_eq!(output.status.code(), Some(i32::from(!output.stderr.is_empty())), "{name}: {output:?}");
    assert!(loads.is_ok() || output.status.code() == Some(1), "{name}: {output:?} {loads:?}");
    (output, text)
}

fn resolved(name: &str, text: &str) -> Result<Settings, pgferry::internals::config::ConfigError> {
    let mut written = RawConfig::default();
    written.file_text(name, text).and_then(|()| Settings::resolve(&written))
}

/// The settings that it means, and its text.
fn settings(name: &str) -> (Arc<Settings>, String) {
    let (_, text) = import(name);
    let settings = resolved(name, &text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
    (Arc::new(settings), text)
}

#[test]
fn every_setting_is_carried_over_or_explained() {
    for entry in fs::read_dir(DIR).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
        if path.extension().is_none_or(|extension| extension != "ini") {
            continue;
        }
        let (_, text) = import(&name);
        // Those whose meaning is the default, or which are said together with others.
        let silent = [
            "listen_addr",
            "unix_socket_dir",
            "listen_port",
            "server_reset_query",
            "server_reset_query_always",
            "max_db_connections",
            "max_user_connections",
            "auth_hba_file",
            "client_tls_sslmode",
            "log_stats",
            "verbose",
            "tcp_keepalive",
            "stats_period",
            "log_disconnections",
        ];
        let mut section = String::new();
        for line in fs::read_to_string(&path).expect("readable").lines() {
            if line.starts_with('[') {
                section = line.to_owned();
            }
            let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with([';', '#'])) else { continue };
            let key = key.trim().trim_matches('"');
            let said = text.contains(&format!("# {key} ")) || silent.contains(&key);
            let carried = KEYS.iter().any(|(theirs, ours)| *theirs == key && text.contains(&format!("\n{ours} = ")));
            let named = section != "[pgbouncer]";
            assert!(said || carried || named, "{name}: nothing is said of {key}\n{text}");
        }
    }
}

/// What some settings are called here.
const KEYS: [(&str, &str); 35] = [
    ("reserve_pool_size", "reserve_pool_size"),
    ("reserve_pool_timeout", "reserve_pool_timeout"),
    ("admin_users", "admin_users"),
    ("stats_users", "stats_users"),
    ("auth_type", "auth_type"),
    ("auth_type", "method"),
    ("auth_file", "auth_file"),
    ("auth_user", "auth_user"),
    ("auth_query", "auth_query"),
    ("auth_dbname", "auth_dbname"),
    ("pool_mode", "pool_mode"),
    ("max_client_conn", "max_client_conn"),
    ("default_pool_size", "pool_size"),
    ("min_pool_size", "min_pool_size"),
    ("unix_socket_mode", "unix_socket_mode"),
    ("unix_socket_group", "unix_socket_group"),
    ("server_tls_sslmode", "sslmode"),
    ("server_tls_ca_file", "sslrootcert"),
    ("server_tls_cert_file", "sslcert"),
    ("server_tls_key_file", "sslkey"),
    ("server_tls_protocols", "ssl_min_protocol_version"),
    ("client_tls_cert_file", "client_tls_cert_file"),
    ("client_tls_key_file", "client_tls_key_file"),
    ("client_tls_ca_file", "client_tls_ca_file"),
    ("client_tls_protocols", "client_tls_min_protocol_version"),
    ("server_lifetime", "server_lifetime"),
    ("server_idle_timeout", "server_idle_timeout"),
    ("query_wait_timeout", "query_wait_timeout"),
    ("server_connect_timeout", "server_connect_timeout"),
    ("client_login_timeout", "client_login_timeout"),
    ("log_connections", "log_connections"),
    ("dns_max_ttl", "dns_max_ttl"),
    ("tcp_keepidle", "tcp_keepidle"),
    ("tcp_user_timeout", "tcp_user_timeout"),
    ("max_prepared_statements", "max_prepared_statements"),
];

#[test]
fn a_tutorials_configuration() {
    let (settings, text) = settings("minimal.ini");
    assert_eq!(settings.upstream.url.places(), "127.0.0.1:5432");
    assert_eq!(settings.listen.ports.all(), [6432]);
    let shown: Vec<_> = settings.listen.listen.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["/tmp", "127.0.0.1:6432"]);
    assert_eq!(settings.auth.rules.len(), 1);
    assert_eq!(
        (settings.auth.rules[0].method, settings.auth.rules[0].databases.as_slice()),
        (Auth::Md5, &["shop", "pgferry", "pgbouncer"].map(str::to_owned)[..])
    );
    assert_eq!(settings.admin.admin_users, ["postgres"]);
    assert!(text.starts_with("# Made from "), "{text}");
}

#[test]
fn containers_and_operators() {
    let (settings, text) = settings("container.ini");
    assert_eq!(
        (settings.pool.pool_mode, settings.pool.reset, settings.listen.max_client_conn),
        (Mode::Transaction, Reset::OnChange, 1000)
    );
    assert!(settings.listen.allow_remote && settings.auth.auth_query.contains("user_search"));
    assert!(text.contains("# ignore_startup_parameters = extra_float_digits,search_path: not needed"), "{text}");
    let (output, text) = import("operator.ini");
    assert!(String::from_utf8_lossy(&output.stderr).contains("peer"), "{output:?}");
    assert_eq!(output.status.code(), Some(1), "the peers are to be added");
    assert!(text.contains("transport = [\"tls\"]\ndatabase = [\"shop\", \"orders\"]\nuser = [\"app\"]"), "{text}");
    assert!(text.contains("write the mask 255.255.0.0") && text.contains("the method gss is not supported"), "{text}");
    assert!(text.contains("sslmode = \"verify-ca\"") && text.contains("log_stats_interval = \"0\""), "{text}");
}

#[test]
fn applications() {
    let (settings, text) = settings("web.ini");
    let app = settings.of(b"app");
    assert_eq!(app.upstream.dbname.as_deref(), Some("app_production"));
    assert_eq!(app.upstream.force_user.as_deref(), Some("app"));
    assert_eq!(
        app.upstream.url.password.as_ref().map(pgferry::internals::auth::Password::expose),
        Some(&b"s3cr'et"[..])
    );
    assert_eq!((app.pool.pool_size, app.pool.reset), (40, Reset::Never));
    assert_eq!(settings.of(b"app_ro").upstream.url.places(), "replica.example.com:5432");
    assert_eq!(settings.upstream.url.encryption.mode(), SslMode::VerifyFull);
    assert_eq!(
        (settings.listen.unix_socket_mode, settings.listen.unix_socket_group.as_deref()),
        (0o770, Some("www-data"))
    );
    assert!(text.contains("# connect_query = SET search_path TO app: "), "{text}");
    let (settings, _) = self::settings("included.ini");
    assert_eq!(
        (settings.pool.pool_mode, settings.pool.pool_size, settings.listen.max_client_conn),
        (Mode::Transaction, 100, 2048)
    );
    assert!(!settings.has_rules() || settings.auth.rules[0].databases == ["app_production", "pgferry", "pgbouncer"]);
}

#[test]
fn what_is_included_belongs_to_the_section_that_includes_it_and_what_has_no_counterpart_is_told() {
    let (output, text) = import("unusual.ini");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("upstream = \"postgres://db.example:5432\"\n"), "{text}");
    assert!(
        text.contains("upstream = \"postgres://%40pg:5433\"\n") && error.contains("\"@pg\" is an abstract socket"),
        "{error}"
    );
    assert!(
        !text.contains("\ndns_max_ttl") && text.contains("# dns_max_ttl = 0: each new connection looks its name up"),
        "{text}"
    );
    assert!(text.contains("pool_size = 2\n") && text.contains("# query_timeout = 30: ALTER ROLE"), "{text}");
    assert!(text.contains("# reserve_pool_size = 1: reserves are per database\n"), "{text}");
    assert!(text.contains("# nonsense = 1: PgBouncer has no such word"), "{text}");
    // With a socket file it loads.
    assert!(resolved("unusual.ini", &text.replace("%40pg", "%2Frun%2Fpg")).is_ok(), "{text}");
}

#[test]
fn many_databases_and_users() {
    let (settings, text) = settings("tenants.ini");
    assert_eq!(settings.upstream.url.places(), "10.0.0.1:5432", "where most are");
    assert_eq!((settings.of(b"alpha").pool.pool_mode, settings.of(b"alpha").pool.pool_size), (Mode::Session, 5));
    assert_eq!((settings.of(b"beta").pool.pool_size, settings.of(b"beta").pool.min_pool_size), (50, 5));
    let gamma = settings.of(b"gamma");
    assert_eq!((gamma.upstream.url.places().as_str(), gamma.upstream.dbname.as_deref()), ("10.0.0.2:5433", Some("g")));
    assert_eq!(settings.of(b"odd name").pool.pool_mode, Mode::Transaction);
    assert_eq!(settings.auth.limits[&b"report"[..]].max_user_connections, Some(5));
    assert_eq!(settings.auth.limits[&b"batch"[..]].max_user_client_connections, Some(10));
    assert!(text.contains("# query_timeout = 300: ALTER ROLE"), "{text}");
    assert_eq!(settings.listen.listen.len(), 3);
}

#[test]
fn sockets_hosts_and_certificates() {
    let (socket, text) = settings("socket.ini");
    assert_eq!(socket.auth.rules[0].method, Auth::Trust);
    assert!(text.contains("upstream = \"postgres://%2Fvar%2Frun%2Fpostgresql:5432\""), "{text}");
    let (settings, _) = settings("failover.ini");
    let main = settings.of(b"main");
    assert_eq!(main.upstream.url.places(), "pg-1.internal:5432, pg-2.internal:5433");
    assert!(main.upstream.url.balance && !settings.of(b"dual").upstream.url.balance);
    assert!(
        matches!(&settings.of(b"moved").upstream.url.endpoints[0].host, Host::Tcp(name, 5432) if name == "primary.internal")
    );
    assert_eq!(settings.upstream.tcp_user_timeout.map(|timeout| timeout.as_millis()), Some(12_500));
    let (settings, _) = self::settings("certificates.ini");
    assert_eq!(settings.auth.rules[0].method, Auth::Cert);
    assert_eq!(settings.of(b"any").upstream.force_user.as_deref(), Some("pooler"));
}

#[test]
fn what_can_not_be_carried_over_is_explained() {
    let (_, text) = import("tuned.ini");
    for part in [
        "# so_reuseport = 1: ",
        "# made_up_setting = 1: PgBouncer has no such setting",
        "# [peers] 1 = ",
        "# pool_mode = statement: ",
        "# query_timeout = 30: set statement_timeout",
        "# auth_type = any: ",
        "query_wait_timeout = \"1d\"",
        "log_level = \"debug\"",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("broken.ini");
    fs::write(&file, "[pgbouncer]\nnonsense\n").expect("written");
    let output = command().args(["import-pgbouncer", file.to_str().expect("UTF-8")]).output().expect("pgferry");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("broken.ini:2: neither"), "{output:?}");
}

/// A configuration with these lines in `[pgbouncer]` and `[databases]`: what it becomes.
fn import_lines(databases: &str, pgbouncer: &str) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pgbouncer.ini");
    fs::write(&file, format!("[databases]\n{databases}\n[pgbouncer]\n{pgbouncer}\n")).expect("written");
    let output = command().args(["import-pgbouncer", file.to_str().expect("UTF-8")]).output().expect("pgferry");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn defaults_that_differ_are_written_and_explained() {
    let (status, text, said) = import_lines("* = host=db", "auth_file = /u");
    assert_eq!(status, Some(0), "{said}");
    for (name, default, here) in [
        ("query_wait_timeout", "120", "query_wait_timeout = \"120s\""),
        ("server_connect_timeout", "15", "server_connect_timeout = \"15s\""),
        ("client_login_timeout", "60", "client_login_timeout = \"60s\""),
        ("max_client_conn", "100", "max_client_conn = 100"),
        ("log_connections", "1", "log_connections = true"),
        ("max_db_connections", "0", "# "),
        ("cancel_wait_timeout", "10", "# "),
        ("autodb_idle_timeout", "3600", "# "),
    ] {
        assert!(text.contains(&format!("\n# {name} = {default} is PgBouncer's default")), "{name}: {text}");
        assert!(text.contains(&format!("\n{here}")), "{here}: {text}");
    }
    assert!(!text.contains("dns_max_ttl") && !text.contains("server_lifetime"), "equal defaults need no word: {text}");
    let settings = resolved("the result", &text).expect("it loads");
    assert_eq!(
        (settings.pool.max_upstream, settings.pool.reserve_pool_size, settings.listen.max_client_conn),
        (None, Some(0), 100)
    );
    let (_, text, _) = import_lines("* = host=db", "query_wait_timeout = 7\nlog_connections = 0");
    assert!(text.contains("\nquery_wait_timeout = \"7s\"") && !text.contains("120"), "{text}");
}

#[test]
fn of_what_is_said_twice_the_last_holds() {
    let databases =
        "a = host=h dbname=x\na = host=h dbname=y\n[users]\nbob = max_user_connections=3\nbob = max_user_connections=5";
    let (status, text, said) = import_lines(
        databases,
        "auth_type = scram-sha-256\nauth_file = /dev/null\npool_mode = session\npool_mode = transaction\npool_mode = transaction\n\
         tcp_keepidle = 30\ntcp_keepalive = 0",
    );
    assert_eq!(status, Some(0), "{said}");
    for (line, count) in
        [("pool_mode = \"transaction\"", 1), ("dbname = \"y\"", 1), ("dbname = \"x\"", 0), ("[users.\"bob\"]", 1)]
    {
        assert_eq!(text.matches(line).count(), count, "{line}: {text}");
    }
    assert!(text.contains("max_user_connections = 5") && text.contains("tcp_keepidle = \"0\""), "{text}");
}

#[test]
fn pools_keep_their_sizes() {
    for (databases, pgbouncer, most) in [
        ("a = host=db\nb = host=db", "default_pool_size = 300\nmax_db_connections = 120", 240),
        ("* = host=db", "max_db_connections = 18446744073709551615", 10_000),
    ] {
        let (_, text, _) = import_lines(databases, pgbouncer);
        assert!(text.contains(&format!("\nmax_upstream = {most}\n")), "{databases} {pgbouncer}: {text}");
        assert!(text.contains("max_db_connections = "), "{databases} {pgbouncer}: {text}");
    }
    for (databases, pgbouncer, part) in [
        ("* = host=db", "default_pool_size = 0", "\npool_size = 1000\n"),
        ("a = host=db\nb = host=db pool_size=400", "default_pool_size = 50", "\npool_size = 400\n"),
    ] {
        let (_, text, _) = import_lines(databases, pgbouncer);
        assert!(text.contains(part) && !text.contains("\nmax_upstream = "), "{databases} {pgbouncer}: {text}");
    }
    let (_, text, _) =
        import_lines("a = host=db reserve_pool=4", "auth_file = /u\ndefault_pool_size = 300\nreserve_pool_size = 5");
    let settings = resolved("the result", &text).expect("it loads");
    assert_eq!(
        (settings.pool.max_upstream, settings.pool.pool_size, settings.pool.reserve_pool_size),
        (None, 300, Some(5)),
        "{text}"
    );
    assert!(text.contains("\nreserve_pool_timeout = \"5s\"") && text.contains("\nreserve_pool_size = 4\n"), "{text}");
    let (_, text, _) = import_lines("a = host=db min_pool_size=3", "min_pool_size = 5");
    assert!(text.contains("\nmin_pool_size = 5\n") && text.contains("\nmin_pool_size = 3\n"), "{text}");
    assert!(!text.contains("# min_pool_size"), "it means the same: {text}");
}

#[test]
fn tls_that_is_turned_off_towards_clients_stays_off() {
    let (_, text, _) = import_lines("a = host=db", "client_tls_sslmode = disable");
    assert!(text.contains("\nclient_tls = \"off\"\n"), "{text}");
}

#[test]
fn a_result_without_what_keeps_clients_out_is_a_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    let hba = dir.path().join("hba.conf");
    let users = "auth_user = lookup";
    let by_hba = format!("auth_type = hba\nauth_hba_file = {}", hba.display());
    for (line, code) in [
        ("host all +staff all reject", 1),
        ("host all all samenet reject", 1),
        ("hostssl all all all cert map=staff", 1),
        ("host shop app 10.0.0.0/8 reject", 0),
    ] {
        fs::write(&hba, format!("{line}\nhost all all all md5\n")).expect("written");
        let (status, text, said) = import_lines("* = host=db", &format!("{by_hba}\n{users}"));
        assert_eq!((status, said.contains(line)), (Some(code), code == 1), "{line}: {said}");
        assert!(text.contains("method = \"md5\""), "{text}");
    }
    fs::write(&hba, "hostnossl all all 10.0.0.0/8 md5\nhost all all all md5\n").expect("written");
    let encrypted = format!("{by_hba}\n{users}\nclient_tls_sslmode = require");
    let (_, text, _) = import_lines("* = host=db", &encrypted);
    assert!(text.contains("transport = [\"tcp\"]\naddress = [\"10.0.0.0/8\"]\nmethod = \"reject\""), "{text}");
    assert!(text.contains("transport = [\"tls\"]\nmethod = \"md5\""), "{text}");
    for (mode, rule, code) in [
        ("prefer", "auth_type = \"md5\"", 0),
        ("require", "transport = [\"unix\", \"abstract\", \"tls\"]\nmethod = \"md5\"", 0),
        ("verify-ca", "transport = [\"unix\", \"abstract\", \"tls\"]\nmethod = \"md5\"", 1),
    ] {
        let (status, text, said) = import_lines("* = host=db", &format!("{users}\nclient_tls_sslmode = {mode}"));
        assert_eq!(status, Some(code), "{mode}: {said}");
        assert!(text.contains(rule), "{mode}: {text}");
    }
}

#[test]
fn a_file_that_is_missing_is_named_with_the_line_that_includes_it() {
    let (status, _, said) = import_lines("* = host=db", "pool_mode = session\n%include missing.ini");
    assert_eq!(status, Some(1));
    assert!(said.contains("pgbouncer.ini:5: ") && said.contains("missing.ini: No such file"), "{said}");
}

#[test]
fn a_database_that_is_called_like_the_console_is_told() {
    let (_, text, _) = import_lines("pgferry = host=db\nshop = host=db", "");
    assert!(text.contains("# [databases] pgferry: clients that name it get the console"), "{text}");
}

#[test]
fn trusted_clients_log_in_by_the_files_secrets() {
    for (databases, access) in [
        ("* = host=db", "auth_type = trust\nauth_file = /etc/hostname\nlisten_addr = 127.0.0.1"),
        ("shop = host=db user=app password=pw\nother = host=db user=app", "auth_type = any"),
    ] {
        let (_, text, said) = import_lines(databases, access);
        assert!(text.contains("method = \"trust\""), "{text}");
        assert!(!said.contains("does not load"), "{said}: {text}");
    }
}

#[test]
fn a_result_that_does_not_load_is_a_failure() {
    for (databases, pgbouncer, part) in [
        ("* = host=db", "auth_type = trust", "trust"),
        ("* = host=db", "auth_type = any", "trust"),
        ("* = host=db", "auth_type = scram-sha-256", "secrets"),
        ("* = host=db pool_size=many", "", "pool_size"),
        ("* = host=db", "query_wait_timeout = soon", "query_wait_timeout"),
    ] {
        let (status, text, said) = import_lines(databases, pgbouncer);
        assert_eq!(status, Some(1), "{text}");
        assert!(said.contains("does not load") && said.contains(part), "{said}");
        assert!(text.contains("upstream = \"postgres://db:5432\""), "what there is, is printed: {text}");
    }
}
