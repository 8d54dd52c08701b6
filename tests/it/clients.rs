//! Real clients, with the same connection string but for its host.

use crate::harness::postgres::{PASSWORD, program};
use crate::harness::{Pgferry, Postgres, run};

const MODES: [&str; 2] = ["session", "transaction"];

fn pgbench(ferry: &Pgferry, user: &str, args: &[&str]) -> String {
    let mut all = vec!["-h", ferry.host(), "-U", user, "-n"];
    all.extend_from_slice(args);
    all.push("postgres");
    run(&program("pgbench"), &all, &[("PGPASSWORD", PASSWORD)])
}

#[test]
fn pgbench_with_a_connection_per_transaction() {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("script");
    std::fs::write(&script, "select 1\n").expect("written");
    let script = script.to_str().expect("UTF-8");
    for mode in MODES {
        for user in ["trust_user", "md5_user", "scram_user"] {
            let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "5"]);
            let before = postgres.connections_received();
            let out = pgbench(&ferry, user, &["-M", "simple", "-C", "-c", "100", "-j", "10", "-t", "10", "-f", script]);
            assert!(out.contains("number of transactions actually processed: 1000/1000"), "{out}");
            let opened = postgres.connections_received() - before;
            assert!(opened <= 7, "{mode} {user}: {opened} for a pool of 5");
        }
    }
}

#[test]
fn pgbench_with_lasting_connections_in_every_protocol() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &[]);
    pgbench(&ferry, "scram_user", &["-i", "-s", "1", "-q"]);
    drop(ferry);
    for mode in MODES {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "8"]);
        for protocol in ["simple", "extended", "prepared"] {
            for kind in ["-S", "-N"] {
                let out = pgbench(&ferry, "scram_user", &["-M", protocol, kind, "-c", "8", "-j", "2", "-t", "100"]);
                assert!(out.contains("processed: 800/800"), "{mode} {protocol} {kind}: {out}");
            }
        }
    }
}

#[test]
fn psql_does_what_it_does_directly() {
    let postgres = Postgres::start_with(&[]);
    let script = "\
\\set ON_ERROR_STOP 1
\\conninfo
create table people (id serial primary key, name text);
\\copy people (name) from stdin
Ada
Grace
\\.
\\copy people to stdout
begin;
insert into people (name) values ('Edsger') returning id, name;
savepoint s;
rollback to s;
commit;
\\x on
select * from people order by id;
\\x off
\\dt
prepare find (int) as select name from people where id = $1;
execute find (2);
\\d people
select 7 as seven \\gset
\\encoding latin1
show client_encoding;
drop table people;
";
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("script.sql");
    std::fs::write(&file, script).expect("written");
    let psql = |host: &str, port: u16| {
        let args = [
            "-X",
            "-h",
            host,
            "-p",
            &port.to_string(),
            "-U",
            "scram_user",
            "-d",
            "postgres",
            "-f",
            file.to_str().expect("UTF-8"),
        ];
        let out = run(&program("psql"), &args, &[("PGPASSWORD", PASSWORD)]);
        let own = |line: &&str| line.starts_with("You are connected") || line.starts_with("SSL connection");
        out.lines().filter(|line| !own(line)).collect::<Vec<_>>().join("\n")
    };
    let direct = psql("127.0.0.1", postgres.port);
    assert!(direct.contains("Edsger"));
    for mode in MODES {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
        assert_eq!(psql(ferry.host(), 5432), direct, "{mode}");
    }
}

#[test]
fn pg_dump_gives_the_same_dump() {
    let postgres = Postgres::start_with(&[]);
    let server = postgres.sql("select current_setting('server_version_num')::int / 10000");
    let client = run(&program("pg_dump"), &["--version"], &[]);
    let client = client.split(' ').next_back().and_then(|version| version.trim().split('.').next()).expect("a version");
    if client.parse::<u32>().unwrap_or(0) < server.parse().expect("a number") {
        // pg_dump refuses servers newer than itself.
        return;
    }
    postgres.sql("create table dumped as select n, repeat('x', 1000) as text from generate_series(1, 5000) n");
    let dump = |host: &str, port: u16| {
        let args = ["-h", host, "-p", &port.to_string(), "-U", "scram_user", "postgres"];
        let out = run(&program("pg_dump"), &args, &[("PGPASSWORD", PASSWORD)]);
        // Newer versions protect the dump with a random token.
        out.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
    };
    let direct = dump("127.0.0.1", postgres.port);
    assert!(direct.len() > 5_000_000);
    for mode in MODES {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
        assert!(dump(ferry.host(), 5432) == direct, "{mode}: the dumps differ");
    }
}

#[test]
fn psycopg_in_ordinary_use() {
    let postgres = Postgres::start_with(&[]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/psycopg_ordinary.py");
    for mode in MODES {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "4"]);
        let env =
            [("PGHOST", ferry.host()), ("PGUSER", "scram_user"), ("PGPASSWORD", PASSWORD), ("PGDATABASE", "postgres")];
        let out = run("/usr/bin/python3", &[script], &env);
        assert!(out.contains("all good"), "{mode}: {out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokio_postgres_in_ordinary_use() {
    let postgres = Postgres::start_with(&[]);
    ordinary_use(postgres.connect().await, &postgres).await;
    for mode in MODES {
        let ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "4"]);
        ordinary_use(ferry.connect("trust_user").await, &postgres).await;
    }
}

async fn ordinary_use(mut client: tokio_postgres::Client, postgres: &Postgres) {
    {
        client.batch_execute("create temp table t (id int, name text)").await.expect("created");
        let insert = client.prepare("insert into t values ($1, $2)").await.expect("prepared");
        let transaction = client.transaction().await.expect("begun");
        for n in 0..10i32 {
            transaction.execute(&insert, &[&n, &format!("name {n}")]).await.expect("inserted");
        }
        transaction.commit().await.expect("committed");
        let rows = client.query("select id, name from t where id >= $1 order by id", &[&5i32]).await.expect("rows");
        assert_eq!(rows.len(), 5);
        let error = client.query("select 1/0", &[]).await.expect_err("division by zero");
        assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("22012"));
        let failed = client.transaction().await.expect("begun");
        assert!(failed.query("select nonsense", &[]).await.is_err());
        failed.rollback().await.expect("rolled back");
        // The driver sends Parse, Bind, Execute and Sync, then copy data, then another Sync.
        let sink = client.copy_in::<_, bytes::Bytes>("copy t from stdin").await.expect("copying");
        let mut sink = std::pin::pin!(sink);
        futures_util::SinkExt::send(&mut sink, bytes::Bytes::from_static(b"100\tlast\n")).await.expect("sent");
        assert_eq!(sink.finish().await.expect("finished"), 1);
        let count: i64 = client.query_one("select count(*) from t", &[]).await.expect("a row").get(0);
        assert_eq!(count, 11);
        let pipelined = futures_util::future::join_all((0..50i32).map(|n| {
            let client = &client;
            async move { client.query_one("select $1::int * 2", &[&n]).await.map(|row| row.get::<_, i32>(0)) }
        }));
        for (n, doubled) in (0i32..).zip(pipelined.await) {
            assert_eq!(doubled.expect("a row"), n * 2);
        }
        let cancel = client.cancel_token();
        let (slept, cancelled) = tokio::join!(client.query("select pg_sleep(67)", &[]), async {
            let runs =
                "select count(*) from pg_stat_activity where query = 'select pg_sleep(67)' and wait_event = 'PgSleep'";
            let direct = postgres.connect().await;
            while direct.query_one(runs, &[]).await.expect("a row").get::<_, i64>(0) == 0 {
                tokio::task::yield_now().await;
            }
            cancel.cancel_query(tokio_postgres::NoTls).await
        });
        cancelled.expect("sent");
        assert_eq!(slept.expect_err("cancelled").code().map(tokio_postgres::error::SqlState::code), Some("57014"));
        assert!(client.simple_query("select 1").await.is_ok());
    }
}

#[test]
fn tcp_clients_that_are_idle_are_probed() {
    let port = crate::harness::postgres::free_port();
    let listen = format!("127.0.0.1:{port}");
    let ferry = crate::harness::Pgferry::start(crate::harness::Postgres::shared(), &["-l", &listen]);
    let mut client =
        crate::harness::ProtocolClient::logged_in(crate::harness::ProtocolClient::tcp(port), "trust_user", "postgres");
    assert_eq!(client.value("select 1"), "1");
    crate::harness::eventually("a keepalive timer runs", || crate::harness::probes_a_client(port));
    drop(client);
    drop(ferry);
}
