//! Several databases, users with limits, several hosts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::pgferry::command;
use crate::harness::protocol_client::{password, query, startup, tags};
use crate::harness::{Certs, Pgferry, Postgres, ProtocolClient, Signal, eventually};

fn log_in(ferry: &Pgferry, user: &str, database: &str) -> ProtocolClient {
    ProtocolClient::logged_in(ferry.raw(), user, database)
}

/// What a client is told that may not come in.
fn refused(ferry: &Pgferry, user: &str, database: &str) -> crate::harness::Message {
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", user), ("database", database)]));
    raw.read_to_end().pop().expect("a farewell")
}

#[test]
fn databases_may_be_elsewhere_under_another_name_and_role() {
    let (here, there) = (Postgres::start_with(&[]), Postgres::start_with(&[]));
    let certs = Certs::new();
    let file = format!(
        "auth_type = \"scram-sha-256\"\npool_mode = \"transaction\"\nupstream_password = \"x\"\n\
         [users]\ntrust_user = \"p\"\nlimited = \"p\"\n\
         [databases.shop]\nupstream = \"postgres://127.0.0.1:{}\"\ndbname = \"other\"\npool_size = 1\n\
         [databases.reports]\ndbname = \"other\"\nforce_user = \"trust_user\"\npool_mode = \"session\"\n\
         [databases.\"*\"]\ndbname = \"postgres\"\npool_size = 2\n",
        there.port
    );
    let path = certs.write("pgferry.toml", &file);
    let ferry = Pgferry::start_with(&here.url(), &["-c", &path], &[]);
    let ask = |user: &str, database: &str| {
        let connection = format!("host={} user={user} dbname={database}", ferry.host());
        crate::harness::psql(&connection, "p", "select current_database(), current_user, current_setting('port')")
    };
    let expect = |database: &str, user: &str, port: u16| Ok(format!("{database}|{user}|{port}"));
    assert_eq!(ask("trust_user", "shop"), expect("other", "trust_user", there.port));
    assert_eq!(ask("limited", "reports"), expect("other", "trust_user", here.port));
    assert_eq!(ask("limited", "anything"), expect("postgres", "limited", here.port));
    let wrong = format!("host={} user=limited dbname=reports", ferry.host());
    assert!(crate::harness::psql(&wrong, "q", "select 1").is_err(), "who somebody is is proved all the same");
    let mut guest = log_in(&ferry, "u", "pgferry");
    let databases = guest.query("show databases");
    let rows: Vec<_> =
        databases.iter().filter(|message| message.tag == b'D').map(crate::harness::Message::columns).collect();
    let of = |name: &str| rows.iter().find(|row| row[0] == name).expect("a row").clone();
    assert_eq!(
        (of("shop")[2].clone(), of("shop")[3].clone(), of("shop")[5].clone()),
        (there.port.to_string(), "other".to_owned(), "1".to_owned())
    );
    assert_eq!((of("reports")[4].as_str(), of("reports")[9].as_str()), ("trust_user", "session"));
    assert_eq!(of("*")[5], "2");
}

#[test]
fn a_forced_role_needs_another_proof_than_pass_through() {
    let certs = Certs::new();
    let path = certs.write("f.toml", "upstream = \"postgres://db\"\n[databases.shop]\nforce_user = \"app\"\n");
    let output = command().args(["check", "-c", &path]).output().expect("pgferry");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success()
            && said.contains("f.toml:3: databases.shop.force_user")
            && said.contains("pass-through"),
        "{said}"
    );
    let path = certs.write("f.toml", "upstream = \"postgres://db\"\n[users.app]\nmax_user_client_connection = 3\n");
    let output = command().args(["check", "-c", &path]).output().expect("pgferry");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("f.toml:3: users.app.max_user_client_connection")
            && said.contains("\"max_user_client_connections\""),
        "{said}"
    );
}

#[test]
fn users_may_be_limited() {
    let postgres = Postgres::start_with(&[]);
    let file = "[users.trust_user]\nmax_user_client_connections = 2\nmax_user_connections = 1\n[users.limited]\npool_size = 3\n";
    let ferry = Pgferry::start_with_file(&postgres.url(), file, &[], &[]);
    let mut first = log_in(&ferry, "trust_user", "postgres");
    assert_eq!(first.value("select 1"), "1");
    let mut second = log_in(&ferry, "trust_user", "postgres");
    let told = refused(&ferry, "trust_user", "postgres");
    assert_eq!(told.field(b'C'), "53300");
    assert!(told.field(b'M').contains("too many connections for role \"trust_user\""), "{told:?}");
    assert_eq!(log_in(&ferry, "limited", "postgres").value("select 1"), "1", "others may come");
    second.send(&query("select 2"));
    let mut guest = log_in(&ferry, "u", "pgferry");
    let waiting = |guest: &mut ProtocolClient| {
        let rows = guest.query("show pools");
        rows.iter()
            .filter(|message| message.tag == b'D')
            .any(|row| row.columns()[1] == "trust_user" && row.columns()[3] == "1")
    };
    eventually("the second waits for the user's only connection", || waiting(&mut guest));
    drop(first);
    assert_eq!(tags(&second.until_ready()), "TDCZ");
    drop(second);
    // Another of the user's pools takes the place of the one that has idle connections.
    eventually("a place is free", || refused_or_not(&ferry));
    let mut elsewhere = log_in(&ferry, "trust_user", "other");
    assert_eq!(elsewhere.value("select 3"), "3");
    let users = guest.query("show users");
    let row = users
        .iter()
        .filter(|message| message.tag == b'D')
        .map(crate::harness::Message::columns)
        .find(|row| row[0] == "trust_user");
    assert_eq!(row.expect("a row")[4..], ["1", "1", "2", "1"]);
}

#[test]
fn replication_takes_its_users_places() {
    let postgres = Postgres::start_with(&[]);
    let file = "[users.trust_user]\nmax_user_client_connections = 2\n[users.limited]\nmax_user_connections = 1\n";
    let ferry = Pgferry::start_with_file(&postgres.url(), file, &[], &[]);
    postgres.sql("alter role limited replication");
    let replication = |user: &str| {
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", user), ("database", "postgres"), ("replication", "database")]));
        raw
    };
    let told = |mut raw: ProtocolClient| raw.read_to_end().pop().expect("a refusal");
    let mut all: Vec<_> = (0..2).map(|_| replication("trust_user")).collect();
    for raw in &mut all {
        assert!(tags(&raw.until_ready()).ends_with('Z'));
    }
    let refusal = told(replication("trust_user"));
    assert_eq!(refusal.field(b'C'), "53300");
    assert!(refusal.field(b'M').contains("too many connections for role \"trust_user\""), "{refusal:?}");
    assert_eq!(refused(&ferry, "trust_user", "postgres").field(b'C'), "53300", "nor a client that is none");
    drop(all.pop());
    eventually("a place is free", || refused_or_not(&ferry));
    // Its only connection is taken by the session, and the other way round.
    let mut session = log_in(&ferry, "limited", "postgres");
    session.query("begin");
    let refusal = told(replication("limited"));
    assert_eq!(refusal.field(b'C'), "53300");
    assert!(refusal.field(b'H').contains("max_user_connections"), "{refusal:?}");
    session.query("commit");
    drop(session);
    let mut raw = replication("limited");
    assert!(tags(&raw.until_ready()).ends_with('Z'), "an idle connection makes room");
    let guest = log_in(&ferry, "u", "pgferry").query("show users");
    let row = guest.iter().filter(|message| message.tag == b'D').map(crate::harness::Message::columns);
    let row = row.into_iter().find(|row| row[0] == "limited").expect("a row");
    assert_eq!(row[4..], ["1", "1", "0", "1"]);
}

/// A client that names no database means the one of its own name, whatever role it becomes.
#[test]
fn replication_by_a_forced_role_is_in_the_clients_database() {
    let postgres = Postgres::start_with(&[]);
    postgres.sql("alter role limited replication");
    let file = "auth_type = \"trust\"\n[databases.trust_user]\nforce_user = \"limited\"\ndbname = \"postgres\"\n";
    let ferry = Pgferry::start_with_file(&postgres.url().replace("//", "//limited:x@"), file, &[], &[]);
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "trust_user"), ("replication", "database")]));
    let greeting = raw.until_ready();
    assert!(tags(&greeting).ends_with('Z'), "{greeting:?}");
    assert_eq!(raw.query("IDENTIFY_SYSTEM")[1].columns()[3], "postgres");
}

fn refused_or_not(ferry: &Pgferry) -> bool {
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    let fine = tags(&raw.until_ready()).ends_with('Z');
    drop(raw);
    fine
}

#[test]
fn a_primary_is_found_and_followed_through_a_failover() {
    let mut primary = Postgres::start_with(&["wal_keep_size=64MB"]);
    primary.sql("create table written (n int primary key)");
    let standby = primary.standby();
    let url = format!(
        "postgres://127.0.0.1:{},127.0.0.1:{}?sslmode=disable&target_session_attrs=read-write",
        standby.port, primary.port
    );
    let env = [("PGFERRY_QUERY_WAIT_TIMEOUT", "60s"), ("PGFERRY_CLIENT_LOGIN_TIMEOUT", "60s")];
    let ferry = Pgferry::start_with(&url, &["-m", "transaction"], &env);
    assert_eq!(ferry.session().value("show port"), primary.port.to_string(), "the first host is a standby");
    let replica = format!(
        "postgres://127.0.0.1:{},127.0.0.1:{}?sslmode=disable&target_session_attrs=prefer-standby",
        primary.port, standby.port
    );
    let readers = Pgferry::start_with(&replica, &[], &env);
    assert_eq!(readers.session().value("show port"), standby.port.to_string());
    let (next, failed, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let confirmed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let mut client = ferry.session();
                    client.send(&query(&format!("insert into written values ({number})")));
                    match tags(&client.until_ready()).as_str() {
                        "CZ" => confirmed.lock().expect("unpoisoned").push(number),
                        _ => drop(failed.fetch_add(1, Ordering::SeqCst)),
                    }
                }
            });
        }
        let written = || confirmed.lock().expect("unpoisoned").len();
        eventually("rows are written", || written() > 200);
        // As an orderly switch-over does: the standby has all when the primary is gone.
        primary.stop();
        let before = written();
        standby.sql("select pg_promote()");
        eventually("rows are written to the new primary", || written() > before + 200);
        over.store(true, Ordering::SeqCst);
    });
    // What was under way when the primary went away was told so; everybody else waited.
    let failed = failed.into_inner();
    assert!(failed <= 12, "{failed} statements failed");
    let there: usize = standby.sql("select count(*) from written").parse().expect("a number");
    let confirmed = confirmed.into_inner().expect("unpoisoned");
    assert!(there >= confirmed.len() && there <= confirmed.len() + failed, "{there} of {}", confirmed.len());
    assert_eq!(ferry.session().value("show port"), standby.port.to_string());
    assert_eq!(ferry.session().value("select pg_is_in_recovery()"), "f");
}

#[test]
fn a_server_that_becomes_another_kind_is_left() {
    let mut primary = Postgres::start_with(&[]);
    let standby = primary.standby();
    let url = |target: &str| {
        format!(
            "postgres://127.0.0.1:{},127.0.0.1:{}?sslmode=disable&target_session_attrs={target}",
            standby.port, primary.port
        )
    };
    let ferry = Pgferry::start_with(&url("standby"), &[], &[("PGFERRY_QUERY_WAIT_TIMEOUT", "300ms")]);
    assert_eq!(ferry.session().value("show port"), standby.port.to_string());
    // Its clients wait as long as the change takes.
    let locked = Pgferry::start_with(&url("read-write"), &[], &[]);
    assert_eq!(locked.session().value("show port"), primary.port.to_string());
    standby.sql("select pg_promote()");
    if standby.version() >= 14 {
        eventually("there is no standby any more", || {
            let mut client = ferry.session();
            client.send(&query("select 1"));
            let answer = client.until_ready();
            let told = answer.first().map(|message| format!("{}{}", message.field(b'M'), message.field(b'D')));
            told.is_some_and(|told| told.contains("not in hot standby"))
        });
        // The servers tell of that themselves.
        primary.sql("alter system set default_transaction_read_only = on");
        primary.sql("select pg_reload_conf()");
        eventually("it goes where it may write", || locked.session().value("show port") == standby.port.to_string());
    }
}

/// A pgferry whose upstream's name stands for what a file says: it sees that file as /etc/hosts.
struct NamedUpstream {
    dir: tempfile::TempDir,
    child: crate::harness::ChildProcess,
}

impl NamedUpstream {
    /// Starts one whose upstream has `addresses`, and is looked up again after `ttl`.
    fn start(postgres: &Postgres, addresses: &[&str], ttl: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
        let host = dir.path().to_str().expect("UTF-8").to_owned();
        let hosts = dir.path().join("hosts");
        let user: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
        let url = format!("postgres://pg.test:{}?sslmode=disable", postgres.port);
        let mut command = crate::harness::pgferry::program("unshare");
        command
            .args(user)
            .args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""])
            .arg(hosts.to_str().expect("UTF-8"))
            .args([env!("CARGO_BIN_EXE_pgferry"), "-u", &url, "-l", &host])
            .env("PGFERRY_DNS_MAX_TTL", ttl)
            // Where it has a user namespace of its own, nobody outside is an admin without a password.
            .env("PGFERRY_STATS_USERS", "scram_user")
            .stderr(std::fs::File::create(dir.path().join("log")).expect("a file"));
        write_hosts(&hosts, addresses);
        let mut named = Self { child: crate::harness::ChildProcess::spawn(&mut command), dir };
        eventually("it is ready", || {
            assert!(named.child.try_wait().expect("a child").is_none(), "{}", named.log());
            named.log().contains("ready: ")
        });
        named
    }

    /// Gives the name other addresses.
    fn rename(&self, addresses: &[&str]) {
        write_hosts(&self.dir.path().join("hosts"), addresses);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn raw(&self) -> ProtocolClient {
        ProtocolClient::unix(&self.dir.path().join(".s.PGSQL.5432"))
    }

    fn session(&self) -> ProtocolClient {
        self.raw().logged_in("trust_user", "postgres")
    }
}

fn write_hosts(hosts: &std::path::Path, addresses: &[&str]) {
    let lines: Vec<_> = addresses.iter().map(|address| format!("{address} pg.test\n")).collect();
    std::fs::write(hosts, lines.concat()).expect("written");
}

const WHERE_TO: &str = "select host(inet_server_addr())";

fn other_than(address: &str) -> &'static str {
    if address == "127.0.0.1" { "127.0.0.2" } else { "127.0.0.1" }
}

#[test]
fn a_name_is_looked_up_again_and_old_addresses_are_left() {
    let postgres = Postgres::start_with(&["listen_addresses='127.0.0.1,127.0.0.2'"]);
    let mut named = NamedUpstream::start(&postgres, &["127.0.0.1", "127.0.0.2"], "200ms");
    let mut guest = named.raw();
    guest.send(&startup(&[("user", "scram_user"), ("database", "pgferry")]));
    if guest.recv().expect("an authentication request").body == [0, 0, 0, 3] {
        guest.send(&password("pa ss'w\\ord"));
    }
    guest.until_ready();
    let mut lasting = named.session();
    let first = lasting.value(WHERE_TO);
    let pid = lasting.value("select pg_backend_pid()");
    drop(lasting);
    let other = other_than(&first);
    named.rename(&["127.0.0.2", "127.0.0.1", "127.0.0.3"]);
    let shown = |guest: &mut ProtocolClient| {
        let rows = guest.query("show dns_hosts");
        rows.iter().find(|message| message.tag == b'D').map(crate::harness::Message::columns).expect("a row")[2].clone()
    };
    eventually("it was looked up again", || shown(&mut guest).contains("127.0.0.3"));
    assert!(!named.log().contains("no longer"), "another order means nothing: {}", named.log());
    assert_eq!(named.session().value("select pg_backend_pid()"), pid);
    // What the name has stood for is known through a reload.
    crate::harness::signal(named.child.id(), Signal::SIGHUP);
    eventually("the settings are read again", || named.log().contains("settings reloaded"));
    named.rename(&[other]);
    eventually("the address that is gone is left", || named.session().value(WHERE_TO) == other);
    eventually("it is logged", || named.log().contains(&format!("no longer resolves to [{first}:")));
    crate::harness::signal(named.child.id(), Signal::SIGTERM);
    assert!(crate::harness::ends(&mut named.child).success());
    // A second one may have been opened there before the name was looked up again.
    assert!(["moved 1", "moved 2"].iter().any(|moved| named.log().contains(moved)), "{}", named.log());
}

/// Each connection that is opened looks the name up: what it finds counts for those that are open already.
#[test]
fn an_address_that_a_new_connection_finds_gone_is_left() {
    let postgres = Postgres::start_with(&["listen_addresses='127.0.0.1,127.0.0.2'"]);
    let named = NamedUpstream::start(&postgres, &["127.0.0.1"], "3s");
    let mut lasting = named.session();
    assert_eq!(lasting.value(WHERE_TO), "127.0.0.1");
    named.rename(&["127.0.0.2"]);
    lasting.query("begin");
    let mut second = named.session();
    assert_eq!(second.value(WHERE_TO), "127.0.0.2");
    second.query("begin");
    lasting.query("commit");
    drop(lasting);
    eventually("the address that is gone is left", || named.session().value(WHERE_TO) == "127.0.0.2");
}

#[test]
fn where_nobody_will_do_every_reason_is_told() {
    let postgres = Postgres::shared();
    let url =
        format!("postgres://127.0.0.1:1,127.0.0.1:{}?sslmode=disable&target_session_attrs=standby", postgres.port);
    let ferry = Pgferry::start_with(&url, &[], &[("PGFERRY_CLIENT_LOGIN_TIMEOUT", "300ms")]);
    let told = refused(&ferry, "trust_user", "postgres");
    assert_eq!(told.field(b'C'), "08001");
    let alone = format!("{}&target_session_attrs=prefer-standby", postgres.url());
    let alone = Pgferry::start_with(&alone, &[], &[]);
    assert_eq!(alone.session().value("select 1"), "1", "a preference is no condition");
    let message = told.field(b'M');
    assert!(message.contains("127.0.0.1:1: Connection refused"), "{message}");
    assert!(message.contains(&format!("127.0.0.1:{}: server is not in hot standby mode", postgres.port)), "{message}");
}

#[test]
fn a_password_serves_for_whichever_server_is_found() {
    let mut primary = Postgres::start_with(&[]);
    let standby = primary.standby();
    let url = format!(
        "postgres://127.0.0.1:{},127.0.0.1:{}?sslmode=disable&target_session_attrs=primary",
        standby.port, primary.port
    );
    let ferry = Pgferry::start_with(&url, &[], &[]);
    let connection = format!("host={} user=scram_user dbname=postgres", ferry.host());
    let secret = crate::harness::postgres::PASSWORD;
    for _ in 0..2 {
        assert_eq!(crate::harness::psql(&connection, secret, "show port"), Ok(primary.port.to_string()));
    }
    assert!(crate::harness::psql(&connection, "wrong", "show port").is_err());
}
