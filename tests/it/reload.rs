//! What changes while pgferry runs, and another process in its place.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use crate::harness::pgferry::command;
use crate::harness::postgres::{free_port, program};
use crate::harness::protocol_client::{CANCEL_REQUEST, packet, query, startup, tags};
use crate::harness::{
    Certs, ChildProcess, Pgferry, Postgres, ProtocolClient, Received, Signal, eventually, probes_a_client, signal,
};

/// A pgferry whose settings stand in a file.
struct Filed {
    ferry: Pgferry,
    certs: Certs,
}

impl Filed {
    fn start(postgres: &Postgres, text: &str) -> Self {
        let certs = Certs::new();
        let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
        let text = format!("upstream = \"{}\"\n{text}", postgres.url());
        let path = certs.write("pgferry.toml", &text.replace("HERE", dir.path().to_str().expect("UTF-8")));
        Self { ferry: Pgferry::spawn(dir, &["-c", &path, "-v"], &[]), certs }
    }

    fn write(&self, text: &str) {
        self.certs.write("pgferry.toml", &text.replace("HERE", self.ferry.host()));
    }

    fn guest(&self) -> ProtocolClient {
        ProtocolClient::logged_in(self.ferry.raw(), "u", "pgferry")
    }
}

#[test]
fn a_reload_says_what_has_changed_and_a_mistake_changes_nothing() {
    let postgres = Postgres::shared();
    let filed = Filed::start(postgres, "listen = \"HERE\"\npool_size = 5\n");
    let mut guest = filed.guest();
    let base = format!("upstream = \"{}\"\nlisten = \"HERE\"\n", postgres.url());
    filed.write(&format!("{base}pool_size = 3\nquery_wait_timeout = \"7s\"\nworkers = 2\n"));
    let said = guest.query("RELOAD");
    assert_eq!(tags(&said), "NCZ");
    let text = said[0].field(b'M');
    assert!(
        text.contains("changed: pool_size, query_wait_timeout") && text.contains("need a restart: workers"),
        "{text}"
    );
    let value = |guest: &mut ProtocolClient, key: &str| {
        let rows = guest.query("show config");
        let found = rows.iter().filter(|message| message.tag == b'D').find(|row| row.columns()[0] == key);
        found.expect("a key").columns()[1].clone()
    };
    assert_eq!((value(&mut guest, "pool_size"), value(&mut guest, "workers")), ("3".to_owned(), "1".to_owned()));
    filed.write(&format!("{base}pool_sise = 4\n"));
    let error = guest.error("reload");
    assert_eq!(error.field(b'C'), "F0000");
    assert!(error.field(b'M').contains("pgferry.toml:3: pool_sise"), "{error:?}");
    assert!(error.field(b'H').contains("pool_size"), "{error:?}");
    assert_eq!(value(&mut guest, "pool_size"), "3");
    filed.write(&format!("{base}pool_size = 4\nunix_socket_group = \"no-such-group\"\n"));
    let error = guest.error("reload");
    assert!(error.field(b'M').contains("there is no group \"no-such-group\""), "{error:?}");
    assert_eq!(value(&mut guest, "pool_size"), "3", "all or nothing");
    filed.write(&base);
    assert_eq!(tags(&guest.query("SET pool_size = 9")), "NCZ");
    assert_eq!(value(&mut guest, "pool_size"), "9");
    assert_eq!(tags(&guest.query("SET query_wait_timeout = '1s'; SET log_level = debug")), "NCNCZ");
    assert_eq!(value(&mut guest, "pool_size"), "9", "what was set stays set");
    for (sql, part) in [
        ("SET pool_size = many", "SET: pool_size: \"many\""),
        ("SET workers = 2", "without a restart"),
        ("SET pool_sise = 2", "unrecognized configuration parameter \"pool_sise\""),
        ("SET rule = x", "\"rule\" cannot be changed at the console"),
    ] {
        let error = guest.error(sql);
        assert!(error.field(b'M').contains(part), "{sql}: {error:?}");
    }
    guest.query("reload");
    assert_eq!(value(&mut guest, "pool_size"), "20", "what is written counts again");
    filed.ferry.logs("console: SET pool_size=9");
}

#[test]
fn the_log_says_more_or_less_at_once() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut guest = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry");
    for sql in ["SET log_level = warn", "PAUSE", "SET log_level = info", "RESUME"] {
        assert!(tags(&guest.query(sql)).ends_with("CZ"), "{sql}");
    }
    eventually("it is told again", || ferry.log().contains("console: RESUME"));
    assert!(!ferry.log().contains("console: PAUSE"), "{}", ferry.log());
}

#[test]
fn listeners_come_and_go() {
    let postgres = Postgres::shared();
    let filed = Filed::start(postgres, "listen = \"HERE\"\n");
    let mut client = filed.ferry.session();
    assert_eq!(client.value("select 1"), "1");
    let port = free_port();
    let base = format!("upstream = \"{}\"\n", postgres.url());
    let admin = filed.ferry.dir().join("admin.sock");
    filed.write(&format!(
        "{base}listen = [\"HERE\", \"127.0.0.1:{port}\"]\nunix_socket_mode = \"0700\"\nadmin_listen = \"HERE/admin.sock\"\n"
    ));
    let mut guest = filed.guest();
    let said = guest.query("reload")[0].field(b'M');
    assert!(said.contains("listen, unix_socket_mode, admin_listen"), "{said}");
    assert_eq!(ProtocolClient::tcp(port).logged_in("trust_user", "postgres").value("select 2"), "2");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(filed.ferry.socket()).expect("it").permissions());
    assert_eq!(mode & 0o777, 0o700);
    assert!(admin.exists());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address");
    filed.write(&format!("{base}listen = [\"HERE\", \"{taken}\"]\npool_size = 1\n"));
    let error = guest.error("reload");
    assert!(error.field(b'M').contains("in use"), "{error:?}");
    assert_eq!(
        ProtocolClient::tcp(port).logged_in("trust_user", "postgres").value("select 3"),
        "3",
        "nothing has changed"
    );
    filed.write(&format!("{base}listen = [\"127.0.0.1:{port}\"]\n"));
    guest.query("reload");
    eventually("the socket file is gone", || !filed.ferry.socket().exists() && !admin.exists());
    assert_eq!(client.value("select 4"), "4", "who is connected stays");
    assert_eq!(ProtocolClient::tcp(port).logged_in("trust_user", "postgres").value("select 5"), "5");
}

/// Settings with another URL of the same server for each number of `seconds`.
fn moved(postgres: &Postgres, seconds: u32) -> String {
    format!("upstream = \"{}&connect_timeout={seconds}\"\nlisten = \"HERE\"\n", postgres.url())
}

#[test]
fn connections_of_the_former_upstream_are_shown_and_waited_for() {
    let postgres = Postgres::start_with(&[]);
    let filed = Filed::start(&postgres, "listen = \"HERE\"\npool_mode = \"transaction\"\n");
    let (mut client, mut guest) = (filed.ferry.session(), filed.guest());
    for (seconds, command) in (7..).zip(["WAIT_CLOSE", "PAUSE postgres"]) {
        client.query("begin");
        let pid = client.value("select pg_backend_pid()");
        filed.write(&format!("{}pool_mode = \"transaction\"\n", moved(&postgres, seconds)));
        assert!(guest.query("RELOAD")[0].field(b'M').contains("upstream"));
        let servers = guest.query("show servers");
        let held = servers.iter().filter(|row| row.tag == b'D').find(|row| row.columns()[16] == pid);
        assert_eq!(held.map(|row| row.columns()[13].clone()), Some("1".to_owned()), "close_needed: {servers:?}");
        guest.send(&query(command));
        assert_eq!(client.value("select pg_backend_pid()"), pid, "its transaction goes on");
        let silent = guest.receive(std::time::Duration::from_millis(100));
        assert!(matches!(silent, Received::Nothing), "{command} has not waited");
        client.query("commit");
        assert_eq!(tags(&guest.until_ready()), "CZ", "{command}");
    }
    guest.query("RESUME postgres");
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn connections_of_the_former_upstream_are_counted_as_they_close() {
    let postgres = Postgres::start_with(&[]);
    let settings = "max_upstream = 1\n";
    let filed = Filed::start(&postgres, &format!("listen = \"HERE\"\n{settings}"));
    let pid = filed.ferry.session().value("select pg_backend_pid()");
    eventually("it is idle", || filed.ferry.report().get("idle_now") == 1);
    let pid = pid.parse().expect("a process id");
    // It does not answer the good-bye, and keeps the only place until it is given up.
    signal(pid, Signal::SIGSTOP);
    filed.write(&format!("{}{settings}", moved(&postgres, 7)));
    let mut guest = filed.guest();
    guest.query("RELOAD");
    let started = std::time::Instant::now();
    assert_eq!(filed.ferry.session().value("select 1"), "1");
    assert!(started.elapsed() < std::time::Duration::from_secs(8), "it comes when the place is free: {started:?}");
    signal(pid, Signal::SIGCONT);
    assert!(filed.ferry.report().text("close_reasons").starts_with("reload 1"), "{:?}", filed.ferry.report());
}

#[test]
fn connections_of_databases_that_a_reload_does_not_change_stay() {
    let postgres = Postgres::start_with(&[]);
    let settings = |rest: &str| format!("listen = \"HERE\"\npool_mode = \"transaction\"\n{rest}");
    let filed = Filed::start(&postgres, &settings(""));
    let mut guest = filed.guest();
    let log_in = |database| ProtocolClient::logged_in(filed.ferry.raw(), "trust_user", database);
    let mut clients = ["postgres", "other"].map(log_in);
    let mut pids = || clients.each_mut().map(|client| client.value("select pg_backend_pid()"));
    let before = pids();
    let mut reload = |rest: &str| {
        filed.write(&format!("upstream = \"{}\"\n{}", postgres.url(), settings(rest)));
        assert_eq!(tags(&guest.query("RELOAD")), "NCZ");
    };
    for rest in ["[databases.more]\ndbname = \"other\"\n", "[databases.other]\npool_size = 3\n", ""] {
        reload(rest);
        assert_eq!(pids(), before, "{rest}");
    }
    reload("[databases.other]\ndbname = \"postgres\"\n");
    let after = pids();
    assert_eq!((after[0] == before[0], after[1] == before[1]), (true, false));
    reload("");
    assert_eq!((pids()[0] == before[0], pids()[1] == after[1]), (true, false));
}

#[test]
fn client_that_waits_during_a_reload_is_served_by_the_new_upstream() {
    let postgres = Postgres::start_with(&[]);
    let settings = "pool_mode = \"transaction\"\npool_size = 1\nreserve_pool_size = 0\n";
    let filed = Filed::start(&postgres, &format!("listen = \"HERE\"\n{settings}"));
    let (mut first, mut second, mut guest) = (filed.ferry.session(), filed.ferry.session(), filed.guest());
    first.query("begin");
    second.send(&query("select 2"));
    eventually("it waits", || filed.ferry.report().get("waiting_now") == 1);
    filed.write(&format!("{}{settings}", moved(&postgres, 7)));
    guest.query("RELOAD");
    first.query("commit");
    assert_eq!(tags(&second.until_ready()), "TDCZ");
    assert_eq!(filed.ferry.report().get("upstream_opened"), 2, "one before and one behind the reload");
}

#[test]
fn connections_of_the_former_upstream_are_still_ours() {
    let postgres = Postgres::start_with(&[]);
    let filed = Filed::start(&postgres, "listen = \"HERE\"\npool_mode = \"transaction\"\n");
    let (mut client, mut guest) = (filed.ferry.session(), filed.guest());
    client.query("begin");
    filed.write(&format!("{}pool_mode = \"transaction\"\n", moved(&postgres, 7)));
    guest.query("RELOAD");
    assert_eq!(guest.query("show capacity")[1].columns()[5], "1", "of which the server has as many less for others");
    client.query("commit");
}

#[test]
fn what_the_server_has_room_for_is_known_through_a_reload() {
    let postgres = Postgres::start_with(&["max_connections=30"]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction"]);
    let mut client = ferry.session();
    client.query("begin");
    let mut guest = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry");
    let room = |guest: &mut ProtocolClient| {
        let row = guest.query("show capacity")[1].columns();
        (row[1].clone(), row[7].clone())
    };
    let before = room(&mut guest);
    assert_eq!(before, ("30".to_owned(), "30".to_owned()));
    // No connection is idle, on which the server could be asked.
    guest.query("SET log_stats_interval = '59s'");
    assert_eq!(room(&mut guest), before);
    client.query("commit");
}

#[test]
fn a_shorter_interval_of_statistics_counts_at_once() {
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &[("PGFERRY_LOG_STATS_INTERVAL", "1h")]);
    assert_eq!(ferry.session().value("select 1"), "1");
    ProtocolClient::logged_in(ferry.raw(), "u", "pgferry").query("SET log_stats_interval = '1s'");
    eventually("it is told", || ferry.log().contains("new upstream connections"));
}

#[test]
fn clients_move_to_a_new_upstream_when_they_are_between_two_pieces_of_work() {
    let (old, new) = (Postgres::start_with(&[]), Postgres::start_with(&[]));
    for mode in ["session", "transaction"] {
        let filed = Filed::start(&old, &format!("listen = \"HERE\"\npool_mode = \"{mode}\"\n"));
        let mut free = filed.ferry.session();
        assert_eq!(free.value("show port"), old.port.to_string());
        let mut busy = filed.ferry.session();
        busy.query("begin");
        busy.query("select 1");
        let mut stateful = filed.ferry.session();
        stateful.query("create temp table mine as select 1 a");
        filed.write(&format!("upstream = \"{}\"\nlisten = \"HERE\"\npool_mode = \"{mode}\"\n", new.url()));
        assert!(filed.guest().query("reload")[0].field(b'M').contains("upstream"));
        assert_eq!(free.value("show port"), new.port.to_string(), "{mode}");
        assert_eq!(busy.value("show port"), old.port.to_string(), "{mode}: a transaction ends where it began");
        busy.query("commit");
        assert_eq!(busy.value("show port"), new.port.to_string(), "{mode}");
        assert_eq!(stateful.value("select count(*) from mine"), "1", "{mode}: what a session has, it keeps");
        assert_eq!(filed.ferry.session().value("show port"), new.port.to_string());
        drop(stateful);
        eventually("nobody is left there", || old.backends() == 0);
    }
}

fn pgbench(host: &str, seconds: &str) -> ChildProcess {
    let mut command = Command::new(program("pgbench"));
    command
        .args(["-n", "-C", "-M", "simple", "-c", "8", "-j", "2", "-T", seconds, "-f", "/dev/stdin"])
        .args(["-h", host, "-U", "trust_user", "postgres"])
        .stdin(std::process::Stdio::from(fs::File::open(script()).expect("a script")))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    ChildProcess::spawn(&mut command)
}

fn script() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/select-1.sql")
}

#[test]
fn twenty_replacements_cost_no_client_its_connection() {
    let postgres = Postgres::start_with(&[]);
    let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
    let host = dir.path().to_str().expect("UTF-8").to_owned();
    let abstract_name = format!("@pgferry-test-{}", std::process::id());
    let port = free_port();
    let tcp = format!("127.0.0.1:{port}");
    let admin = dir.path().join("admin.sock");
    let log = |nth: usize| dir.path().join(format!("log.{nth}"));
    let start = |nth: usize| {
        let file = fs::File::create(log(nth)).expect("a file");
        let url = postgres.url();
        let args = ["-u", &url, "-l", &host, "-l", &abstract_name, "-l", &tcp, "--replace", "-m", "transaction"];
        let env = ("PGFERRY_ADMIN_LISTEN", admin.to_str().expect("UTF-8"));
        ChildProcess::spawn(command().args(args).envs([env]).stderr(file))
    };
    let said = |nth: usize, text: &str| fs::read_to_string(log(nth)).unwrap_or_default().contains(text);
    let mut running = start(0);
    eventually("the first is ready", || said(0, "ready: "));
    let mut stays = ProtocolClient::unix(&dir.path().join(".s.PGSQL.5432")).logged_in("trust_user", "postgres");
    assert_eq!(stays.value("select 1"), "1");
    let load = [pgbench(&host, "12"), pgbench(&abstract_name, "12")];
    for nth in 1..=20 {
        let next = start(nth);
        eventually("the next is ready", || said(nth, "ready: "));
        eventually("the one before knows", || said(nth - 1, "replaced by another process"));
        let mut before = std::mem::replace(&mut running, next);
        if nth == 1 {
            assert_eq!(stays.value("select 2"), "2", "who is there may stay");
            stays.send(&crate::harness::protocol_client::terminate());
        }
        let ended = crate::harness::eventually_some("it ends", || before.try_wait().expect("a child"));
        assert_eq!(ended.code(), Some(0), "{}", fs::read_to_string(log(nth - 1)).unwrap_or_default());
        assert_eq!(ProtocolClient::tcp(port).logged_in("trust_user", "postgres").value("select 3"), "3");
        assert!(std::os::unix::net::UnixStream::connect(&admin).is_ok(), "figures are told by the new one");
    }
    for load in load {
        let output = load.into_output();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && !text.contains("error"), "{text}");
        assert!(text.contains("number of failed transactions: 0") || !text.contains("failed transactions"), "{text}");
    }
    assert!(fs::read_to_string(dir.path().join(".s.PGSQL.5432.lock")).expect("it").contains(&running.id().to_string()));
    crate::harness::signal(running.id(), Signal::SIGTERM);
    assert_eq!(crate::harness::eventually_some("it ends", || running.try_wait().expect("a child")).code(), Some(0));
    assert!(!dir.path().join(".s.PGSQL.5432").exists(), "the last one takes its socket along");
}

/// The next process has none where the server is full of them.
#[test]
fn a_process_that_was_replaced_gives_up_its_idle_connections() {
    let postgres = Postgres::start_with(&["max_connections=9"]);
    let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
    let host = dir.path().to_str().expect("UTF-8").to_owned();
    let log = |nth: usize| dir.path().join(format!("log.{nth}"));
    let said = |nth: usize, text: &str| fs::read_to_string(log(nth)).unwrap_or_default().contains(text);
    let start = |nth: usize| {
        let file = fs::File::create(log(nth)).expect("a file");
        let args = ["-u", &postgres.url(), "-l", &host, "--replace", "-m", "transaction"];
        let child = ChildProcess::spawn(command().args(args).env("PGFERRY_CLIENT_LOGIN_TIMEOUT", "2s").stderr(file));
        eventually("it is ready", || said(nth, "ready: "));
        child
    };
    let client = || ProtocolClient::unix(&dir.path().join(".s.PGSQL.5432")).logged_in("limited", "postgres");
    let _first = start(0);
    let mut clients = [(); 6].map(|()| client());
    for sql in ["begin", "commit"] {
        for client in &mut clients {
            client.query(sql);
        }
    }
    let _second = start(1);
    eventually("the one before knows", || said(0, "replaced by another process"));
    assert_eq!(client().value("select 1"), "1");
    assert_eq!(clients[0].value("select 2"), "2", "its own clients are served too");
}

#[test]
fn cancel_requests_find_the_clients_of_processes_that_were_replaced() {
    let postgres = Postgres::start_with(&[]);
    let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
    let host = dir.path().to_str().expect("UTF-8").to_owned();
    let log = |nth: usize| dir.path().join(format!("log.{nth}"));
    let said = |nth: usize, text: &str| fs::read_to_string(log(nth)).unwrap_or_default().contains(text);
    let start = |nth: usize| {
        let file = fs::File::create(log(nth)).expect("a file");
        let args = ["-u", &postgres.url(), "-l", &host, "--replace", "-m", "transaction"];
        let child = ChildProcess::spawn(command().args(args).stderr(file));
        eventually("it is ready", || said(nth, "ready: "));
        child
    };
    let socket = dir.path().join(".s.PGSQL.5432");
    let begin = |nth: usize| {
        let mut raw = ProtocolClient::unix(&socket);
        raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
        let key = raw.until_ready().into_iter().find(|message| message.tag == b'K').expect("a key").body;
        raw.send(&query(&format!("select pg_sleep(60) as sleeper_{nth}")));
        eventually("it runs", || {
            postgres.sql(&format!(
                "select count(*) from pg_stat_activity where query like '%sleeper_{nth}' and state = 'active'"
            )) == "1"
        });
        (raw, key)
    };
    let cancel = |key: &[u8]| {
        let mut raw = ProtocolClient::unix(&socket);
        raw.send(&packet(CANCEL_REQUEST, key));
        assert!(raw.recv().is_none(), "a cancel request is answered by closing");
    };
    let (mut processes, mut clients) = (Vec::new(), Vec::new());
    for nth in 0..3 {
        processes.push(start(nth));
        if nth > 0 {
            eventually("the one before knows", || said(nth - 1, "replaced by another process"));
        }
        clients.push(begin(nth));
    }
    let mut wrong = clients[0].1.clone();
    wrong[7] ^= 1;
    cancel(&wrong);
    let active = "select count(*) from pg_stat_activity where query like 'select pg_sleep(60)%' and state = 'active'";
    for (nth, (raw, key)) in clients.iter_mut().enumerate() {
        assert_eq!(postgres.sql(active), (3 - nth).to_string(), "no other is cancelled");
        cancel(key);
        let messages = raw.until_ready();
        let error = messages.iter().find(|message| message.tag == b'E').expect("an error");
        assert_eq!(error.field(b'C'), "57014", "{nth}");
        assert_eq!(raw.value("select 1"), "1");
    }
    let keys: Vec<_> = clients.iter().map(|(_, key)| key.clone()).collect();
    // The way to the first's client leads by the second, which has none any more, and no connection.
    clients[1].0.query("create temp table left_behind (a int)");
    drop(clients.drain(1..));
    eventually("it keeps none", || postgres.backends() == 2);
    let (raw, key) = &mut clients[0];
    raw.send(&query("select pg_sleep(60) as sleeper_0"));
    eventually("it runs", || postgres.sql(active) == "1");
    cancel(key);
    assert_eq!(tags(&raw.until_ready()).replace('S', ""), "TEZ");
    assert!(processes[1].try_wait().expect("a child").is_none(), "it stays for as long as the first does");
    drop(clients);
    for mut before in processes.drain(..2) {
        assert!(crate::harness::ends(&mut before).success());
    }
    // Those that are gone know nothing any more, and nobody waits for them.
    for key in &keys {
        cancel(key);
    }
    let mut last = processes.remove(0);
    crate::harness::signal(last.id(), Signal::SIGTERM);
    assert!(crate::harness::ends(&mut last).success());
    for nth in 0..3 {
        assert!(!said(nth, "panicked"));
    }
}

#[test]
fn a_successor_with_other_upstreams_keeps_the_ports_of_the_former_ones() {
    let certs = Certs::new();
    let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
    let host = dir.path().to_str().expect("UTF-8").to_owned();
    let log = |nth: usize| dir.path().join(format!("log.{nth}"));
    let start = |nth: usize, reports: u16| {
        let text = format!(
            "upstream = \"{}\"\nlisten = [\"{host}\"]\n[databases.reports]\nupstream = \"postgres://127.0.0.1:{reports}\"",
            Postgres::shared().url()
        );
        let path = certs.write(&format!("f{nth}.toml"), &text);
        let file = fs::File::create(log(nth)).expect("a file");
        let mut command = command();
        command.args(["-c", &path, "--replace"]).env_remove("PGFERRY_PORT").stderr(file);
        let child = ChildProcess::spawn(&mut command);
        eventually("it is ready", || fs::read_to_string(log(nth)).unwrap_or_default().contains("ready: "));
        child
    };
    let mut before = start(0, 6543);
    let mut running = start(1, 6544);
    assert!(crate::harness::ends(&mut before).success());
    for port in [Postgres::shared().port, 6543, 6544] {
        let raw = ProtocolClient::unix(&dir.path().join(format!(".s.PGSQL.{port}")));
        assert_eq!(raw.logged_in("trust_user", "postgres").value("select 1"), "1", "{port}");
    }
    // Nor does a reload take one away.
    crate::harness::signal(running.id(), Signal::SIGHUP);
    eventually("it reloads", || fs::read_to_string(log(1)).unwrap_or_default().contains("settings reloaded"));
    assert!(dir.path().join(".s.PGSQL.6543").exists());
    crate::harness::signal(running.id(), Signal::SIGTERM);
    assert!(crate::harness::ends(&mut running).success());
    assert!(!dir.path().join(".s.PGSQL.6543").exists());
}

#[test]
fn a_successor_that_fails_leaves_everything_as_it_was() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let url = Postgres::shared().url();
    let output = command().args(["-u", &url, "-l", ferry.host(), "-l", &taken, "--replace"]).output().expect("pgferry");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use"), "{output:?}");
    assert_eq!(ferry.session().value("select 1"), "1");
    let output = command().args(["-u", &url, "-l", ferry.host()]).output().expect("pgferry");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("in use by process") && said.contains("--replace"), "{said}");
}

/// Two that take the place of the same process would share its clients out between them.
#[test]
fn listeners_are_offered_to_one_process_at_a_time() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let console = || ferry.raw().logged_in("u", "pgferry");
    let (mut first, mut second) = (console(), console());
    assert_eq!(tags(&first.query("TAKE_OVER")).trim_matches('N'), "TDCZ");
    let answer = second.query("TAKE_OVER");
    assert_eq!(tags(&answer), "EZ");
    assert!(answer[0].field(b'M').contains("another process is taking its place"), "{answer:?}");
    drop(first);
    eventually("it may try again", || tags(&second.query("TAKE_OVER")).ends_with("TDCZ"));
}

/// A process whose listeners have gone to another while this one asked: it has none, and the other is asked.
#[test]
fn the_process_that_has_the_listeners_by_now_is_asked() {
    let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).expect("a listener");
    let message = |tag: u8, body: &[u8]| {
        let size = u32::try_from(body.len() + 4).expect("small").to_be_bytes();
        [&[tag][..], &size, body].concat()
    };
    let ready = message(b'Z', b"I");
    let answers = [message(b'C', b"SHOW\0"), message(b'E', b"SERROR\0C55000\0Mnot today\0\0")];
    let consoles = std::thread::spawn(move || {
        for answer in answers {
            let (mut socket, _) = listener.accept().expect("a connection");
            let mut said = [0; 1024];
            for answer in [message(b'R', &[0; 4]), answer] {
                assert!(socket.read(&mut said).expect("a message") > 0);
                socket.write_all(&[answer, ready.clone()].concat()).expect("taken");
            }
        }
    });
    let host = dir.path().to_str().expect("UTF-8");
    let output = command().args(["-u", "postgres://127.0.0.1", "-l", host, "--replace"]).output().expect("pgferry");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--replace: not today"), "{output:?}");
    consoles.join().expect("both were asked");
}

/// pgferry with `listener` as a service manager gives it, logging to `log`.
fn started_by_a_manager(listener: &impl AsFd, log: &Path, url: &str) -> ChildProcess {
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
    let mut command = crate::harness::pgferry::program("sh");
    command
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_pgferry"), "-u", url])
        .stdin(listener.as_fd().try_clone_to_owned().expect("a descriptor"))
        .stderr(fs::File::create(log).expect("a file"));
    let child = ChildProcess::spawn(&mut command);
    eventually("pgferry is ready", || fs::read_to_string(log).unwrap_or_default().contains("ready: "));
    child
}

#[test]
fn restarts_by_a_service_manager_abort_no_short_connection() {
    let postgres = Postgres::start_with(&[]);
    let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
    let path = dir.path().join(".s.PGSQL.5432");
    let listener = UnixListener::bind(&path).expect("a socket");
    let log = |nth: usize| dir.path().join(format!("log.{nth}"));
    let mut running = started_by_a_manager(&listener, &log(0), &postgres.url());
    let load = pgbench(dir.path().to_str().expect("UTF-8"), "8");
    for nth in 1..=10 {
        let served = || ProtocolClient::unix(&path).logged_in("trust_user", "postgres").value("select 1");
        assert_eq!(served(), "1");
        crate::harness::signal(running.id(), Signal::SIGTERM);
        let ended = crate::harness::ends(&mut running);
        assert_eq!(ended.code(), Some(0), "{}", fs::read_to_string(log(nth - 1)).unwrap_or_default());
        running = started_by_a_manager(&listener, &log(nth), &postgres.url());
    }
    let output = load.into_output();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && !text.contains("error") && !text.contains("abort"), "{text}");
    crate::harness::signal(running.id(), Signal::SIGTERM);
    assert!(crate::harness::ends(&mut running).success());
}

#[test]
fn a_restart_by_a_service_manager_ends_who_stays_and_keeps_who_comes() {
    let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
    let path = dir.path().join(".s.PGSQL.5432");
    let listener = UnixListener::bind(&path).expect("a socket");
    let log = |nth: usize| dir.path().join(format!("log.{nth}"));
    let url = Postgres::shared().url();
    let mut first = started_by_a_manager(&listener, &log(0), &url);
    let mut stays = ProtocolClient::unix(&path).logged_in("trust_user", "postgres");
    let mut just_in = ProtocolClient::unix(&path).logged_in("trust_user", "postgres");
    crate::harness::signal(first.id(), Signal::SIGTERM);
    eventually("it ends", || fs::read_to_string(log(0)).unwrap_or_default().contains("new clients wait"));
    assert_eq!(just_in.value("select 1"), "1", "a client that was accepted does what it came for");
    let mut comes = ProtocolClient::unix(&path);
    comes.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    assert_eq!(stays.read_to_end().last().map(|message| message.field(b'C')).as_deref(), Some("57P01"));
    assert!(crate::harness::ends(&mut first).success());
    let mut second = started_by_a_manager(&listener, &log(1), &url);
    assert_eq!(comes.until_ready().last().map(|message| message.tag), Some(b'Z'));
    assert_eq!(comes.value("select 2"), "2");
    drop(comes);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        crate::harness::signal(second.id(), signal);
        assert!(crate::harness::ends(&mut second).success());
        let mut waits = ProtocolClient::unix(&path);
        waits.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
        second = started_by_a_manager(&listener, &log(2), &url);
        assert_eq!(waits.until_ready().last().map(|message| message.tag), Some(b'Z'), "{signal}");
    }
}

#[test]
fn clients_that_waited_at_a_service_managers_listener_are_probed() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut client = ProtocolClient::tcp(port);
    let log = dir.path().join("log");
    let mut running = started_by_a_manager(&listener, &log, &Postgres::shared().url());
    client = client.logged_in("trust_user", "postgres");
    assert_eq!(client.value("select 1"), "1");
    eventually("a keepalive timer runs", || probes_a_client(port));
    drop(client);
    crate::harness::signal(running.id(), Signal::SIGTERM);
    assert!(crate::harness::ends(&mut running).success());
}

#[test]
fn a_service_manager_may_hold_the_listener() {
    let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
    let path = dir.path().join(".s.PGSQL.5432");
    // What systemd does: the socket is its own, the program finds it as descriptor 3.
    let script = "import os, socket, sys\n\
                  s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n\
                  os.dup2(s.fileno(), 3); os.set_inheritable(3, True)\n\
                  os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n\
                  os.execv(sys.argv[2], sys.argv[2:])\n";
    let log = dir.path().join("log");
    let url = Postgres::shared().url();
    let mut command = crate::harness::pgferry::program("/usr/bin/python3");
    command
        .args(["-c", script, path.to_str().expect("UTF-8"), env!("CARGO_BIN_EXE_pgferry"), "-u", &url])
        .stderr(fs::File::create(&log).expect("a file"));
    let mut child = ChildProcess::spawn(&mut command);
    eventually("it is ready", || fs::read_to_string(&log).unwrap_or_default().contains("ready: "));
    let said = fs::read_to_string(&log).expect("a log");
    assert!(said.contains(&format!("host={} port=5432", dir.path().display())), "{said}");
    assert_eq!(ProtocolClient::unix(&path).logged_in("trust_user", "postgres").value("select 1"), "1");
    crate::harness::signal(child.id(), Signal::SIGHUP);
    eventually("it has reloaded", || fs::read_to_string(&log).unwrap_or_default().contains("settings reloaded"));
    assert_eq!(
        ProtocolClient::unix(&path).logged_in("trust_user", "postgres").value("select 2"),
        "2",
        "a reload changes no listener"
    );
    crate::harness::signal(child.id(), Signal::SIGTERM);
    assert!(crate::harness::ends(&mut child).success());
    assert!(path.exists(), "it is the service manager's");
}

#[test]
fn a_socket_file_that_was_removed_is_made_again() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut before = ferry.session();
    let lock = ferry.dir().join(".s.PGSQL.5432.lock");
    for (nth, removed) in [vec![ferry.socket()], vec![ferry.socket(), lock.clone()]].into_iter().enumerate() {
        for path in &removed {
            fs::remove_file(path).expect("removed");
        }
        ferry.signal(Signal::SIGHUP);
        eventually("it is made again", || ferry.log().matches("settings reloaded").count() > nth);
        assert_eq!(ferry.session().value("select 1"), "1");
        assert!(lock.exists());
    }
    assert_eq!(before.value("select 1"), "1", "clients stay");
    let output = command().args(["-u", &Postgres::shared().url(), "-l", ferry.host()]).output().expect("pgferry");
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use by process"), "{output:?}");
    ferry.signal(Signal::SIGHUP);
    eventually("one more", || ferry.log().matches("settings reloaded").count() > 2);
    assert_eq!(ferry.log().matches("listening on ").count(), 2, "what is there stays");
}

#[test]
fn the_socket_file_of_admin_listen_is_seen_to_as_well() {
    let text = "listen = \"HERE\"\nadmin_listen = \"HERE/admin\"\n";
    let filed = Filed::start(Postgres::shared(), text);
    let path = filed.ferry.dir().join("admin");
    let reload = |nth: usize| {
        filed.ferry.signal(Signal::SIGHUP);
        eventually("reloaded", || filed.ferry.log().matches("settings reloaded").count() == nth);
    };
    let answers = || {
        let mut socket = std::os::unix::net::UnixStream::connect(&path).expect("a listener");
        socket.write_all(b"GET /live HTTP/1.0\r\n\r\n").expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    };
    answers();
    fs::remove_file(&path).expect("removed");
    reload(1);
    answers();
    let upstream = Postgres::shared().url();
    filed.write(&format!("upstream = \"{upstream}\"\n{text}unix_socket_mode = \"0700\"\n"));
    reload(2);
    let mode = |file: &Path| fs::metadata(file).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&filed.ferry.socket())), (0o700, 0o700));
    answers();
}

#[test]
fn a_successor_makes_a_socket_file_again_that_was_removed() {
    let removed_of = |file: &str| vec![".s.PGSQL.5432".to_owned(), file.to_owned()];
    for removed in [vec![".s.PGSQL.5432".to_owned()], removed_of(".s.PGSQL.5432.lock")] {
        let other = tempfile::tempdir().expect("a directory");
        let host = other.path().to_str().expect("UTF-8").to_owned();
        let mut former = Pgferry::start(Postgres::shared(), &["--listen", &host]);
        for file in removed {
            fs::remove_file(other.path().join(file)).expect("removed");
        }
        let log = other.path().join("log");
        let args = ["-u", &Postgres::shared().url(), "-l", former.host(), "-l", &host, "--replace"];
        let file = fs::File::create(&log).expect("a file");
        let mut next = ChildProcess::spawn(command().args(args).stderr(file));
        assert!(former.wait().success(), "{}", fs::read_to_string(&log).unwrap_or_default());
        for socket in [former.socket(), other.path().join(".s.PGSQL.5432")] {
            assert_eq!(ProtocolClient::unix(&socket).logged_in("trust_user", "postgres").value("select 1"), "1");
        }
        let output = command().args(["-u", &Postgres::shared().url(), "-l", &host]).output().expect("pgferry");
        assert!(String::from_utf8_lossy(&output.stderr).contains("in use by process"), "{output:?}");
        signal(next.id(), Signal::SIGTERM);
        assert!(crate::harness::ends(&mut next).success());
        assert!(!other.path().join(".s.PGSQL.5432").exists(), "it is its own");
    }
}

/// A process that lets the successor log in at its console, and hangs as it is asked for the listeners.
#[test]
fn a_process_that_hangs_is_not_waited_for_without_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).expect("a socket");
    let hangs = std::thread::spawn(move || {
        let (mut asks, _) = listener.accept().expect("a connection");
        let mut asked = [0; 1024];
        assert!(std::io::Read::read(&mut asks, &mut asked).expect("a startup packet") > 0);
        std::io::Write::write_all(&mut asks, b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").expect("written");
        std::io::Read::read_to_end(&mut asks, &mut Vec::new()).expect("all of it");
    });
    let listen = dir.path().to_str().expect("UTF-8");
    let replaces = ["--replace", "--port", "5432", "--listen", listen, "--upstream", "postgres://127.0.0.1"];
    let out = crate::harness::pgferry::run_pgferry(&replaces, &[]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("did not answer within 10 s"), "{said}");
    hangs.join().expect("the thread");
}
