//! Figures and health over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Output;

use crate::harness::postgres::free_port;
use crate::harness::protocol_client::{SSL_REQUEST, bind, execute, packet, parse, startup, sync};
use crate::harness::{Pgferry, Postgres, ProtocolClient, Signal, eventually};

/// A pgferry that answers at `admin.sock` in a directory of its own.
struct Asked {
    ferry: Pgferry,
    dir: tempfile::TempDir,
}

impl Asked {
    fn start(url: &str, env: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("admin-").tempdir().expect("a directory");
        let path = dir.path().join("admin.sock");
        let own = ("PGFERRY_ADMIN_LISTEN", path.to_str().expect("UTF-8"));
        let env: Vec<_> = env.iter().copied().chain([own]).collect();
        let ferry = Pgferry::start_with(url, &[], &env);
        Self { ferry, dir }
    }

    /// Status and body of an answer.
    fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.dir.path().join("admin.sock")).expect("it listens");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).expect("a status").parse().expect("a number"), body.to_owned())
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "")
    }

    fn metrics(&self) -> BTreeMap<String, u64> {
        samples(&self.get("/metrics").1)
    }

    /// `pgferry` with the same configuration.
    fn command(&self, args: &[&str]) -> Output {
        pgferry(args, &[("PGFERRY_ADMIN_LISTEN", self.dir.path().join("admin.sock").to_str().expect("UTF-8"))])
    }
}

fn pgferry(args: &[&str], env: &[(&str, &str)]) -> Output {
    crate::harness::pgferry::run_pgferry(args, &[&[("PGFERRY_UPSTREAM", "postgres://127.0.0.1:1")], env].concat())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is counted here is small and positive"
)]
fn number(value: f64) -> u64 {
    value.round() as u64
}

/// The lines of a page by name and labels; panics where one has no type, or a name that its type forbids.
fn samples(page: &str) -> BTreeMap<String, u64> {
    let mut types = BTreeMap::new();
    let mut found = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().unwrap_or_default();
            let ends = ["", "_total", "_bucket", "_sum", "_count"];
            let family = ends.iter().find_map(|end| types.get_key_value(name.strip_suffix(end)?));
            let (_, kind) = family.unwrap_or_else(|| panic!("{name} has no type"));
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            let value: f64 = value.parse().expect("a number");
            // Sums of seconds are told in microseconds; everything else is whole.
            let value = if name.ends_with("_sum") { value * 1e6 } else { value };
            let value = number(value);
            assert!(found.insert(series.to_owned(), value).is_none(), "{series} comes twice");
        }
    }
    found
}

#[test]
fn figures_are_what_happened() {
    let postgres = Postgres::start_with(&[]);
    let asked = Asked::start(&postgres.url(), &[]);
    let empty = asked.metrics();
    assert_eq!(empty["pgferry_client_logins_total"], 0);
    let mut first = asked.ferry.session();
    for _ in 0..3 {
        assert_eq!(first.value("select 1"), "1");
    }
    first.query("begin");
    first.query("select 2");
    first.query("commit");
    first.send(&[parse("", "select 3"), bind("", "", &[]), execute("", 0), sync()].concat());
    first.until_ready();
    let of = |name: &str| format!("{name}{{database=\"postgres\",user=\"trust_user\"}}");
    // The answer is with the client a moment before it is counted.
    eventually("all is counted", || asked.metrics()[&of("pgferry_pool_queries_total")] == 7);
    let figures = asked.metrics();
    assert_eq!(figures["pgferry_clients"], 1);
    assert_eq!(figures[&of("pgferry_pool_logins_total")], 1);
    assert_eq!(figures[&of("pgferry_pool_queries_total")], 7);
    assert_eq!(figures[&of("pgferry_pool_transactions_total")], 5);
    assert_eq!(figures[&of("pgferry_pool_client_parses_total")], 1);
    assert_eq!(figures[&of("pgferry_pool_binds_total")], 1);
    assert!(figures[&of("pgferry_pool_received_bytes_total")] > 100);
    assert!(figures[&of("pgferry_pool_sent_bytes_total")] > 300);
    let leased = "pgferry_pool_connections{database=\"postgres\",user=\"trust_user\",state=\"active\"}";
    assert_eq!(figures[leased], 1);
    assert_eq!(figures["pgferry_query_seconds_count"], 7);
    assert_eq!(figures["pgferry_query_seconds_bucket{le=\"+Inf\"}"], 7);
    assert_eq!(figures["pgferry_transaction_seconds_count"], 5);
    assert!(figures["pgferry_transaction_seconds_sum"] >= figures["pgferry_query_seconds_sum"]);
    assert_eq!(figures["pgferry_login_seconds_count"], 1);
    assert!(figures["pgferry_upstream_opened_total"] >= 1);
    assert!(
        !figures.keys().any(|series| empty
            .get(series)
            .is_some_and(|before| figures[series] < *before && series.contains("_total")))
    );
}

#[test]
fn openmetrics_is_written_for_those_who_ask_for_it() {
    let asked = Asked::start(&Postgres::shared().url(), &[]);
    let (status, page) = asked.ask("GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert_eq!(status, 200);
    assert!(page.ends_with("# EOF\n"));
    assert!(page.contains("# TYPE pgferry_client_logins counter\n"));
    samples(&page);
    assert!(asked.get("/metrics").1.contains("# TYPE pgferry_client_logins_total counter\n"));
}

#[test]
fn the_log_tells_now_and_then_what_happens() {
    let asked = Asked::start(&Postgres::shared().url(), &[("PGFERRY_LOG_STATS_INTERVAL", "20ms")]);
    eventually("a line of figures", || {
        asked.ferry.session().query("select 1");
        let log = asked.ferry.log();
        log.lines().any(|line| line.contains(" clients/s over ") && line.contains("waiting_now=0"))
    });
}

#[test]
fn health_says_why_not() {
    let mut postgres = Postgres::start_with(&[]);
    let mut asked = Asked::start(&postgres.url(), &[("PGFERRY_QUERY_WAIT_TIMEOUT", "200ms")]);
    assert_eq!(asked.ferry.session().value("select 1"), "1");
    for path in ["/startup", "/live", "/ready"] {
        assert_eq!(asked.get(path).0, 200, "{path}");
    }
    assert!(asked.command(&["health"]).status.success());
    postgres.stop();
    eventually("a client finds it down", || {
        let mut client = asked.ferry.session();
        client.query("select 1");
        asked.get("/ready").0 == 503
    });
    let (_, why) = asked.get("/ready");
    assert!(why.contains("database \"postgres\", user \"trust_user\""), "{why}");
    assert_eq!(asked.get("/live").0, 200, "restarting pgferry would not help");
    let probe = asked.command(&["health"]);
    assert_eq!(probe.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&probe.stderr).contains("user \"trust_user\""), "{probe:?}");
    assert!(asked.command(&["health", "--live"]).status.success());
    postgres.start();
    // Nobody sends clients to what is not ready, so nobody's request may be needed for this.
    eventually("it is ready again", || asked.get("/ready").0 == 200);
    let mut busy = asked.ferry.session();
    busy.query("begin");
    asked.ferry.signal(Signal::SIGTERM);
    eventually("it takes no more clients", || asked.get("/ready") == (503, "shutting down\n".to_owned()));
    assert_eq!(asked.metrics()["pgferry_draining"], 1);
    busy.query("commit");
    assert_eq!(asked.ferry.wait().code(), Some(0));
    assert!(!asked.dir.path().join("admin.sock").exists());
}

#[test]
fn where_it_is_known_who_comes_readiness_is_known_before() {
    let mut postgres = Postgres::start_with(&[]);
    let url = postgres.url().replace("postgres://", "postgres://trust_user@").replace('?', "/postgres?");
    let asked = Asked::start(&url, &[("PGFERRY_AUTH_TYPE", "trust")]);
    eventually("a connection is there before anybody comes", || postgres.backends() == 1);
    assert_eq!(asked.get("/ready").0, 200);
    let wrong = Asked::start(&url.replace("trust_user", "rejected"), &[("PGFERRY_AUTH_TYPE", "trust")]);
    eventually("what is wrong is known before anybody comes", || wrong.get("/ready").0 == 503);
    postgres.stop();
    let down = Asked::start(&url, &[("PGFERRY_AUTH_TYPE", "trust")]);
    eventually("it is not ready", || down.get("/ready").0 == 503);
    postgres.start();
    eventually("now it is", || down.get("/ready").0 == 200);
}

#[test]
fn what_is_not_there_is_not_answered() {
    let asked = Asked::start(&Postgres::shared().url(), &[]);
    assert_eq!(asked.get("/nothing").0, 404);
    assert_eq!(asked.ask("POST", "/metrics", "Content-Length: 0\r\n").0, 405);
    let (status, why) = asked.ask("POST", "/quitquitquit", "Pgferry-Action: quit\r\nContent-Length: 0\r\n");
    assert_eq!(status, 404);
    assert!(why.contains("quit_endpoint"), "{why}");
}

#[test]
fn clients_that_starve_for_want_of_connections_are_seen() {
    let postgres = Postgres::start_with(&["max_connections=10"]);
    let asked = Asked::start(&postgres.url(), &[]);
    let starving = |raw: &mut ProtocolClient| {
        raw.send(&startup(&[("user", "limited"), ("database", "postgres")]));
        raw.read_to_end().pop().expect("a refusal").field(b'C')
    };
    let pool = || {
        let rows = ProtocolClient::logged_in(asked.ferry.raw(), "u", "pgferry").query("show pools");
        let rows = rows.iter().filter(|row| row.tag == b'D').map(crate::harness::Message::columns);
        rows.into_iter().find(|row| row[1] == "limited")
    };
    let held: Vec<_> = (0..7).map(|_| ProtocolClient::tcp(postgres.port).logged_in("limited", "postgres")).collect();
    assert_eq!(asked.get("/ready").0, 200);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(starving(&mut asked.ferry.raw()), "53300"));
        }
        eventually("they are shown", || pool().is_some_and(|row| row[3] == "2"));
    });
    assert!(pool().is_some(), "as long as that is not long ago");
    eventually("it is not ready", || {
        let (status, why) = asked.get("/ready");
        status == 503 && why.contains("no client could be served for ") && why.contains("for want of connections")
    });
    drop(held);
    assert_eq!(ProtocolClient::logged_in(asked.ferry.raw(), "limited", "postgres").value("select 1"), "1");
    assert_eq!(asked.get("/ready").0, 200);
    let metrics = asked.metrics();
    assert_eq!(metrics.get("pgferry_upstream_connections_max"), Some(&10), "{metrics:?}");
}

#[test]
fn a_page_shows_what_happens_and_loads_nothing_from_elsewhere() {
    let asked =
        Asked::start(&Postgres::shared().url(), &[("PGFERRY_POOL_SIZE", "1"), ("PGFERRY_QUERY_WAIT_TIMEOUT", "60s")]);
    let mut holder = asked.ferry.session();
    assert_eq!(holder.value("select 1"), "1");
    let mut waiting = asked.ferry.session();
    waiting.send(&crate::harness::protocol_client::query("select 2"));
    let mut refused = asked.ferry.raw();
    refused.send(&crate::harness::protocol_client::startup(&[("user", "nobody"), ("database", "no<b>where")]));
    refused.read_to_end();
    let (status, page) = asked.get("/");
    assert_eq!(status, 200);
    let foreign = ["src=", "href=", "url(", "@import"];
    assert!(foreign.iter().all(|part| !page.contains(part)), "everything is in the page");
    let figures = || -> serde_json::Value {
        let (status, text) = asked.get("/status.json");
        assert_eq!(status, 200);
        serde_json::from_str(&text).expect("JSON")
    };
    eventually("one waits", || figures()["waiting"].as_array().is_some_and(|all| all.len() == 1));
    let status = figures();
    assert_eq!((&status["ready"], &status["waiting"][0]["user"]), (&true.into(), &"trust_user".into()));
    assert_eq!((&status["pools"][0]["leased"], &status["pools"][0]["waiting"]), (&1.into(), &1.into()));
    let error = status["errors"][0]["text"].as_str().expect("a text");
    assert!(error.contains("role \"nobody\" does not exist"), "{error}");
    assert!(status["samples"].as_array().is_some_and(|samples| !samples.is_empty()));
    assert_eq!(
        status["bounds"].as_array().map(Vec::len),
        Some(status["now"]["query"].as_array().map_or(0, Vec::len) - 1)
    );
    drop(holder);
    waiting.until_ready();
}

#[test]
fn a_job_can_end_its_sidecar() {
    let mut asked = Asked::start(&Postgres::shared().url(), &[("PGFERRY_QUIT_ENDPOINT", "true")]);
    assert_eq!(asked.get("/quitquitquit").0, 405);
    let form =
        "Content-Type: application/x-www-form-urlencoded\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n";
    assert_eq!(asked.ask("POST", "/quitquitquit", form).0, 403, "a page of another site could send that");
    assert_eq!(asked.ask("OPTIONS", "/quitquitquit", "Origin: http://evil.example\r\n").0, 405);
    assert_eq!(asked.ask("POST", "/quitquitquit", "Pgferry-Action: quit\r\nContent-Length: 0\r\n").0, 200);
    assert_eq!(asked.ferry.wait().code(), Some(0));
}

/// Status of a request to a TCP address.
fn status(port: u16, head: &str) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(crate::harness::SOON)).expect("a timeout");
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split(' ').nth(1).expect("a status").parse().expect("a number")
}

#[test]
fn a_name_that_a_site_has_pointed_here_is_not_answered() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let env = [("PGFERRY_ADMIN_LISTEN", listen.as_str()), ("PGFERRY_ADMIN_HOSTS", "pgferry.shop.svc")];
    let _ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &env);
    for path in ["/", "/metrics", "/status.json", "/live", "/ready", "/startup", "/quitquitquit", "/nothing"] {
        for host in ["evil.example", "127.0.0.1.evil.example:80", "localhost@evil.example", ""] {
            assert_eq!(status(port, &format!("GET {path} HTTP/1.1\r\nHost: {host}")), 421, "{host} {path}");
        }
        assert_eq!(status(port, &format!("GET http://evil.example{path} HTTP/1.1\r\nHost: localhost")), 421, "{path}");
        assert_eq!(status(port, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nHost: evil.example")), 421);
    }
    for host in ["localhost", "127.0.0.1:1", "[::1]", "10.0.0.7:9930", "PGFERRY.shop.svc:9930"] {
        assert_eq!(status(port, &format!("GET /metrics HTTP/1.1\r\nHost: {host}")), 200, "{host}");
    }
    assert_eq!(status(port, "GET /live HTTP/1.0"), 200);
}

#[test]
fn half_requests_keep_nobody_out() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &[("PGFERRY_ADMIN_LISTEN", &listen)]);
    let files = ferry.open_files();
    let half: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: local").expect("sent");
            stream
        })
        .collect();
    assert_eq!(status(port, "GET /live HTTP/1.1\r\nHost: localhost"), 200);
    assert_eq!(ferry.session().value("select 1"), "1");
    eventually("the oldest have gone", || ferry.open_files() < files + 50);
    drop(half);
}

#[test]
fn an_app_can_wait_for_its_ferry() {
    let asked = Asked::start(&Postgres::shared().url(), &[]);
    let ran = asked.command(&["wait", "--for", "10s", "--", "echo", "it", "runs"]);
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "it runs\n");
    let host = asked.ferry.host().to_owned();
    let without = pgferry(&["--listen", &host, "wait", "--", "true"], &[]);
    assert!(without.status.success(), "without admin_listen, where clients connect: {without:?}");
    let nobody = tempfile::tempdir().expect("a directory");
    let nobody = nobody.path().to_str().expect("UTF-8");
    let refused = pgferry(&["--listen", nobody, "wait", "--for", "100ms", "--", "echo", "no"], &[]);
    assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(1), &b""[..]));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("not ready within 100ms") && said.contains(".s.PGSQL.5432"), "{said}");
}

#[test]
fn an_address_that_is_taken_or_makes_no_sense_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let listen = dir.path().to_str().expect("UTF-8");
    for (value, expected) in [(address.as_str(), "in use"), ("@admin", "neither"), ("nonsense", "neither")] {
        let output = pgferry(&["--listen", listen], &[("PGFERRY_ADMIN_LISTEN", value)]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("admin_listen") && said.contains(expected), "{said}");
    }
}

/// The figures that a file speaks of.
fn named(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_name(c)).filter(|word| word.starts_with("pgferry_")).collect()
}

#[test]
fn the_dashboard_and_the_alerts_speak_of_figures_that_exist() {
    let mut postgres = Postgres::start_with(&[]);
    let asked = Asked::start(&postgres.url(), &[("PGFERRY_QUERY_WAIT_TIMEOUT", "200ms")]);
    asked.ferry.session().query("select 1");
    // A failure, so that there is one of every figure.
    postgres.stop();
    eventually("a client finds it down", || {
        asked.ferry.session().query("select 1");
        asked.get("/ready").0 == 503
    });
    let figures = asked.metrics();
    let exists: BTreeSet<_> = figures.keys().map(|series| series.split('{').next().unwrap_or_default()).collect();
    let files = [
        ("prometheus-alerts.yml", include_str!("../../config/prometheus-alerts.yml")),
        ("grafana-dashboard.json", include_str!("../../config/grafana-dashboard.json")),
    ];
    for (file, text) in files {
        let names = named(text);
        assert!(names.len() > 5, "{file}");
        let missing: Vec<_> = names.difference(&exists).collect();
        assert!(missing.is_empty(), "{file} speaks of {missing:?}");
    }
}

#[test]
fn requests_for_tls_are_counted() {
    let asked = Asked::start(&Postgres::shared().url(), &[]);
    let mut raw = ProtocolClient::logged_in(asked.ferry.raw().encrypted(), "trust_user", "postgres");
    assert_eq!(raw.value("select 1"), "1");
    let mut broken = asked.ferry.raw();
    broken.send(&packet(SSL_REQUEST, b""));
    assert_eq!(broken.byte(), b'S');
    broken.send(&startup(&[("user", "trust_user")]));
    broken.drain();
    let figures = asked.metrics();
    for (outcome, count) in [("established", 1), ("declined", 0), ("failed", 1)] {
        let name = format!("pgferry_client_tls_requests_total{{outcome=\"{outcome}\"}}");
        assert_eq!(figures.get(&name), Some(&count), "{name}");
    }
}
