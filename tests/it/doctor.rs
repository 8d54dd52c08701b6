//! `pgferry doctor`: on this kernel, in network namespaces with few ports; and on what other machines' `/proc` says.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use pgferry::internals::doctor::facts::{Pool, Upstream};
use pgferry::internals::doctor::kernel::{Kernel, Paths};
use pgferry::internals::doctor::sockets::{State, all, by_state};
use pgferry::internals::doctor::{Facts, Level, diagnose, report};

use crate::harness::pgferry::command;
use crate::harness::postgres::free_port;
use crate::harness::protocol_client::message;
use crate::harness::{Pgferry, Postgres, ProtocolClient};

/// Runs the doctor in a network namespace of its own with 200 ports, `held` of which are in TIME_WAIT toward the upstream.
fn in_namespace(held: usize, args: &[&str]) -> Output {
    let doctor = format!("{} doctor -u postgres://me@10.77.0.1 {}", env!("CARGO_BIN_EXE_pgferry"), args.join(" "));
    run_in_namespace(held, &doctor)
}

fn run_in_namespace(held: usize, command: &str) -> Output {
    let fill = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctor/fill.py");
    let script = format!(
        "set -e; ip link set lo up; ip addr add 10.77.0.1/32 dev lo; \
         echo '20000 20199' > /proc/sys/net/ipv4/ip_local_port_range; \
         echo 0 > /proc/sys/net/ipv4/tcp_tw_reuse; python3 {fill} 10.77.0.1 {held} {command}"
    );
    let user = if nix::unistd::geteuid().is_root() { "--net" } else { "--user --map-root-user --net" };
    let mut unshare = crate::harness::pgferry::program("timeout");
    unshare.args(["60", "unshare"]).args(user.split(' ')).args(["sh", "-c", &script]);
    let output = unshare.output().expect("unshare");
    let said = String::from_utf8_lossy(&output.stderr);
    let denied = said.contains("unshare failed") || said.contains("write failed /proc/self/");
    assert!(!denied, "these tests need network namespaces: run them as root, or allow user namespaces ({said})");
    output
}

fn stdout(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn verdicts_follow_the_share_of_ports_that_are_held() {
    for (held, level, status, part) in [
        (10, "OK", 1, "5 % of 200 ports held"),
        (82, "WARN", 1, "41 % of 200 ports held"),
        (120, "CRIT", 2, "60 % of 200 ports held"),
        (200, "CRIT", 2, "Cannot assign requested address"),
    ] {
        let output = in_namespace(held, &[]);
        let said = stdout(&output);
        let line = said.lines().find(|line| line.contains(" ports 10.77.0.1:5432")).expect("a line");
        assert!(line.starts_with(&format!("[{level}]")) && line.contains(part), "{held}: {said}");
        assert!(held == 200 || line.contains(&format!("time-wait {held}")), "{line}");
        // The false server speaks no PostgreSQL, which is worth a warning.
        assert_eq!(output.status.code(), Some(status), "{said}");
        let advised = said.contains("sysctl -w net.ipv4.ip_local_port_range");
        assert_eq!(advised, held > 80, "{said}");
        assert!(said.contains("net.ipv4.tcp_tw_recycle") && said.contains("absent: gone since Linux 4.12"), "{said}");
        assert!(said.contains("= 0: ports in TIME_WAIT are not used again"), "{said}");
        assert!(said.contains("slow from about 1/s on, failing from 3/s on (200 ports"), "{said}");
    }
}

#[test]
fn a_pgferry_that_finds_no_port_says_and_counts_so() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctor/no_port.sh");
    let output = run_in_namespace(200, &format!("{script} {}", env!("CARGO_BIN_EXE_pgferry")));
    let said = stdout(&output);
    assert!(said.contains("no ephemeral port is free"), "{said}");
    let at = said.find("no_port=").expect("the figure");
    let count: String = said[at + 8..].chars().take_while(char::is_ascii_digit).collect();
    assert!(count.parse::<u32>().expect("a number") >= 1, "{said}");
}

#[test]
fn a_full_server_is_judged_by_what_a_pgferry_has_seen() {
    let postgres = Postgres::start_with(&["max_connections=23"]);
    let pgferry = Pgferry::start(&postgres, &[]);
    assert_eq!(ProtocolClient::logged_in(pgferry.raw(), "limited", "postgres").value("select 1"), "1");
    let held: Vec<_> =
        (0..22).map(|_| ProtocolClient::tcp(postgres.port).logged_in("trust_user", "postgres")).collect();
    let url = format!("postgres://limited@127.0.0.1:{}/postgres?sslmode=disable", postgres.port);
    let output = command().args(["doctor", "-u", &url, "-l", pgferry.host()]).output().expect("pgferry");
    let said = stdout(&output);
    assert!(said.contains("not asked: ") && said.contains("1 sidecars with pool_size = 20 fit"), "{said}");
    drop(held);
}

#[test]
fn programs_get_json() {
    let output = in_namespace(120, &["--json"]);
    let said: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(said["verdict"], "CRIT");
    let upstream = &said["facts"]["upstreams"][0];
    assert_eq!((&upstream["held"], &upstream["time_wait"]), (&120.into(), &120.into()));
    assert_eq!(said["facts"]["kernel"]["ip_local_port_range"], serde_json::json!([20000, 20199]));
    let findings = said["findings"].as_array().expect("a list");
    assert!(findings.iter().all(|finding| finding["level"].is_string() && finding["text"].is_string()), "{said}");
}

#[test]
fn a_server_and_a_pgferry_that_run_are_looked_at() {
    let postgres = Postgres::start_with(&["max_connections=40", "superuser_reserved_connections=3"]);
    let version = postgres.version();
    if version >= 14 {
        postgres.sql("alter role trust_user set idle_session_timeout = '5min'");
    }
    let pgferry = Pgferry::start(&postgres, &[]);
    let mut client = pgferry.session();
    assert_eq!(client.value("select 1"), "1");
    let url = format!("postgres://trust_user@127.0.0.1:{}/postgres?sslmode=disable", postgres.port);
    let permit = |mode| {
        let permissions = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
        fs::set_permissions(pgferry.dir(), permissions).expect("chmod");
    };
    permit(0o700);
    let doctor = |more: &[&str]| {
        let args = [&["doctor", "-u", &url, "-l", pgferry.host()], more].concat();
        command().args(args).env("PGFERRY_POOL_SIZE", "10").output().expect("pgferry")
    };
    let said = stdout(&doctor(&["--measure", "--as-uid", "12345", "--watch", "1"]));
    assert!(said.contains("of 37 connections in use (3 reserved)"), "{said}");
    assert!(said.contains("3 sidecars with pool_size = 10 fit"), "{said}");
    assert!(said.contains("max_upstream = \"auto\" comes to 32"), "{said}");
    assert_eq!(said.contains("idle_session_timeout is 300 s"), version >= 14, "{said}");
    assert!(said.contains("connect, log in, first row: through pgferry p50 "), "{said}");
    assert!(said.contains("end in TIME_WAIT"), "{said}");
    assert!(said.contains("connections: 1 by pgferry, 0 by others"), "{said}");
    let denied = format!("uid 12345 may not enter {}", pgferry.host());
    assert!(said.contains(&denied), "{said}");
    assert!(!said.contains('\u{1b}'), "no colours where nobody sees them");
    permit(0o755);
    let output = doctor(&["--as-uid", "12345"]);
    let said = stdout(&output);
    assert!(said.contains(".s.PGSQL.5432  answers"), "{said}");
    assert!(!said.contains("may not"), "{said}");
}

#[test]
fn each_of_several_hosts_is_judged_by_its_own_server() {
    let postgres = Postgres::shared();
    let closed = free_port();
    let url = format!("postgres://trust_user@127.0.0.1:{},127.0.0.1:{closed}/postgres?sslmode=disable", postgres.port);
    let said = stdout(&command().args(["doctor", "-u", &url]).output().expect("pgferry"));
    let server = |port: u16| {
        let topic = format!("server 127.0.0.1:{port} ");
        said.lines().find(|line| line.contains(&topic)).unwrap_or_else(|| panic!("{topic}: {said}"))
    };
    assert!(server(postgres.port).contains("PostgreSQL "), "{said}");
    assert!(server(closed).contains("not asked: ") && server(closed).contains("refused"), "{said}");
}

#[test]
fn a_server_that_answers_nothing_behind_the_login_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            // The startup packet is short, and comes at once.
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat());
            open.push(stream);
        }
    });
    let url = format!("postgres://me@127.0.0.1:{port}/d?sslmode=disable");
    for (args, part) in [(["check", "-u", &url], "not asked now: "), (["doctor", "-u", &url], "not asked: ")] {
        let output = command().args(args).env("PGFERRY_SERVER_CONNECT_TIMEOUT", "500ms").output().expect("pgferry");
        let said = stdout(&output);
        assert!(said.contains(&format!("{part}the server did not answer in time")), "{args:?}: {said}");
    }
}

#[test]
fn a_server_that_can_not_be_reached_is_told_of_whether_a_user_is_named_or_not() {
    let port = free_port();
    for user in ["", "me@"] {
        let output = command().args(["doctor", "-u", &format!("postgres://{user}127.0.0.1:{port}")]).output();
        let said = stdout(&output.expect("pgferry"));
        let line = said.lines().find(|line| line.contains(&format!(" server 127.0.0.1:{port}"))).expect("a line");
        assert!(line.starts_with("[WARN]") && line.contains("could not connect"), "{said}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("postgres://{}", listener.local_addr().expect("an address"));
    let said = stdout(&command().args(["doctor", "-u", &url]).output().expect("pgferry"));
    assert!(said.contains("[INFO] server") && said.contains("names no user"), "{said}");
}

#[test]
fn mistakes_are_explained() {
    for (args, part) in [
        (&["doctor"][..], "no upstream"),
        (&["doctor", "-u", "db.example"], "postgres://"),
        (&["doctor", "-c", "/no/such/file"], "/no/such/file"),
    ] {
        let output = command().args(args).output().expect("pgferry");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(part), "{args:?}: {said}");
    }
    let output = command().args(["doctor", "-u", "postgres://no-such-host.invalid"]).output().expect("pgferry");
    assert_eq!(output.status.code(), Some(2));
    let said = stdout(&output);
    assert!(said.contains("[CRIT] upstream no-such-host.invalid:5432"), "{said}");
    assert!(said.ends_with("\ncritical problems found\n"), "no port is missing: {said}");
    let output = command().args(["doctor", "-u", "postgres://%2Ftmp/x"]).output().expect("pgferry");
    assert!(stdout(&output).contains("a unix socket needs no ports"));
}

/// The report about a machine whose `/proc` and `/etc` were copied to `tests/doctor/NAME`.
fn of_machine(name: &str, in_kubernetes: bool) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doctor").join(name);
    let paths = Paths { proc: dir.join("proc"), etc: dir.join("etc"), cgroup: dir.join("cgroup") };
    let kernel = Kernel::read(&paths);
    let address = "10.1.2.3:5432".parse().expect("an address");
    let found: Vec<_> =
        all(&paths.proc).unwrap_or_default().into_iter().filter(|socket| socket.remote == address).collect();
    let states = by_state(&found);
    let upstream = Upstream {
        name: "db.example:5432".into(),
        address: Some(address),
        is_local: false,
        unresolved: None,
        held: found.len(),
        time_wait: states.get(&State::TIME_WAIT).copied().unwrap_or_default(),
        states: states.into_iter().map(|(state, count)| (state.name(), count)).collect(),
        churn: None,
        holders: Vec::new(),
        server: None,
    };
    let facts = Facts {
        kernel,
        open_files: Some((1024, 524_288)),
        container: if in_kubernetes { (Some(128 << 20), Some(1024)) } else { (None, None) },
        in_kubernetes,
        pool: Pool { pool_size: 20, max_upstream: None, idle_timeout_s: 600 },
        upstreams: vec![upstream],
        listeners_in_range: Vec::new(),
        pgferry: None,
    };
    let findings = diagnose(&facts);
    assert!(findings.iter().any(|finding| finding.level <= Level::Info));
    let text = report::text(&findings, false);
    text.replace(&format!("{}/", dir.display()), "/")
}

/// `TEST_SNAPSHOTS=write` writes what is expected.
#[test]
fn other_machines_get_their_own_report() {
    for (name, in_kubernetes) in
        [("plain-6.18", false), ("tuned-5.15", false), ("vendor-4.19", false), ("old-3.10", false), ("pod", true)]
    {
        let path = format!("{}/tests/doctor/{name}/expected.txt", env!("CARGO_MANIFEST_DIR"));
        let found = of_machine(name, in_kubernetes);
        if std::env::var_os("TEST_SNAPSHOTS").is_some() {
            fs::write(&path, &found).expect("written");
        }
        assert_eq!(found, fs::read_to_string(&path).expect("readable"), "{name}");
    }
}
