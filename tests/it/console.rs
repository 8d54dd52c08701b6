//! The console: PgBouncer's commands and tables, who may say what, and when.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::harness::pgferry::run_pgferry;
use crate::harness::postgres::{PASSWORD, free_port};
use crate::harness::protocol_client::{
    bind, close, describe, execute, message, parse, password, query, startup, sync, tags,
};
use crate::harness::{Certs, Message, Pgferry, Postgres, ProtocolClient, SOON, Signal, eventually, psql};

/// A guest by the unix socket, who is pgferry's own user.
fn guest(ferry: &Pgferry) -> ProtocolClient {
    ProtocolClient::logged_in(ferry.raw(), "anybody", "pgferry")
}

/// The rows of a table.
fn rows(guest: &mut ProtocolClient, sql: &str) -> Vec<Vec<String>> {
    let messages = guest.query(sql);
    assert!(tags(&messages).ends_with("CZ"), "{sql}: {messages:?}");
    messages.iter().filter(|message| message.tag == b'D').map(Message::columns).collect()
}

/// The row of a table whose first cell is `first`.
fn row(guest: &mut ProtocolClient, sql: &str, first: &str) -> Vec<String> {
    let all = rows(guest, sql);
    all.iter().find(|row| row[0] == first).unwrap_or_else(|| panic!("{sql}: no {first} in {all:?}")).clone()
}

/// The names and type OIDs of a result's columns.
fn columns(messages: &[Message]) -> Vec<(String, u32)> {
    let description = messages.iter().find(|message| message.tag == b'T').expect("a description");
    let mut rest = &description.body[2..];
    let mut columns = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|&b| b == 0).expect("a name's end");
        let name = String::from_utf8_lossy(&rest[..end]).into_owned();
        let oid = rest[end + 7..end + 11].try_into().expect("four bytes");
        columns.push((name, u32::from_be_bytes(oid)));
        rest = &rest[end + 19..];
    }
    columns
}

/// PgBouncer 1.25's columns, with the letters of its manual for types: s text, i int4, q int8, N numeric.
const PGBOUNCER: [(&str, &str); 17] = [
    (
        "stats",
        "database s, total_server_assignment_count N, total_xact_count N, total_query_count N, total_received N, \
         total_sent N, total_xact_time N, total_query_time N, total_wait_time N, total_client_parse_count N, \
         total_server_parse_count N, total_bind_count N, total_client_login_count N, avg_server_assignment_count N, \
         avg_xact_count N, avg_query_count N, avg_recv N, avg_sent N, avg_xact_time N, avg_query_time N, \
         avg_wait_time N, avg_client_parse_count N, avg_server_parse_count N, avg_bind_count N, \
         avg_client_login_count N",
    ),
    (
        "stats_totals",
        "database s, server_assignment_count N, xact_count N, query_count N, bytes_received N, bytes_sent N, \
         xact_time N, query_time N, wait_time N, client_parse_count N, server_parse_count N, bind_count N, \
         client_login_count N",
    ),
    (
        "stats_averages",
        "database s, server_assignment_count N, xact_count N, query_count N, bytes_received N, bytes_sent N, \
         xact_time N, query_time N, wait_time N, avg_client_parse_count N, avg_server_parse_count N, \
         avg_bind_count N, avg_client_login_count N",
    ),
    ("totals", "name s, value N"),
    (
        "pools",
        "database s, user s, cl_active i, cl_waiting i, cl_active_cancel_req i, cl_waiting_cancel_req i, \
         sv_active i, sv_active_cancel i, sv_being_canceled i, sv_idle i, sv_used i, sv_tested i, sv_login i, \
         maxwait i, maxwait_us i, pool_mode s, load_balance_hosts s",
    ),
    ("clients", CONNECTION),
    ("servers", CONNECTION),
    (
        "databases",
        "name s, host s, port i, database s, force_user s, pool_size i, min_pool_size i, reserve_pool_size i, \
         server_lifetime i, pool_mode s, load_balance_hosts s, max_connections i, current_connections i, \
         max_client_connections i, current_client_connections i, paused i, disabled i",
    ),
    (
        "users",
        "name s, pool_size s, reserve_pool_size s, pool_mode s, max_user_connections i, current_connections i, \
         max_user_client_connections i, current_client_connections i",
    ),
    ("lists", "list s, items i"),
    ("config", "key s, value s, default s, changeable s"),
    ("mem", "name s, size i, used i, free i, memtotal i"),
    ("state", "key s, value s"),
    ("dns_hosts", "hostname s, ttl q, addrs s"),
    ("dns_zones", "zonename s, serial q, count i"),
    ("peers", "peer_id i, host s, port i, pool_size i"),
    ("peer_pools", "peer_id i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active_cancel i, sv_login i"),
];

const CONNECTION: &str = "type s, user s, database s, replication s, state s, addr s, port i, local_addr s, \
     local_port i, connect_time s, request_time s, wait i, wait_us i, close_needed i, ptr s, link s, remote_pid i, \
     tls s, application_name s, prepared_statements i, id i";

#[test]
fn tables_are_pgbouncers_column_for_column() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut guest = guest(&ferry);
    assert_eq!(ferry.session().value("select 1"), "1");
    for (table, expected) in PGBOUNCER {
        let expected: Vec<_> = expected
            .split(", ")
            .map(|column| {
                let (name, letter) = column.split_once(' ').expect("a name and a letter");
                let oid = match letter {
                    "s" => 25,
                    "i" => 23,
                    "q" => 20,
                    _ => 1700,
                };
                (name.to_owned(), oid)
            })
            .collect();
        let messages = guest.query(&format!("show {table};"));
        assert_eq!(columns(&messages), expected, "{table}");
        let complete = messages.iter().find(|message| message.tag == b'C').expect("complete");
        assert_eq!(complete.body, b"SHOW\0");
    }
    assert_eq!(columns(&guest.query("SHOW VERSION")), [("version".to_owned(), 25)]);
    assert_eq!(columns(&guest.query("show sockets")).len(), 28);
    for alias in ["pgbouncer", "pgferry"] {
        assert!(ProtocolClient::logged_in(ferry.raw(), "u", alias).value("show version").starts_with("pgferry "));
    }
    let help = guest.query("SHOW HELP");
    assert_eq!(tags(&help), "NCZ");
    assert!(help[0].field(b'D').contains("KILL_CLIENT id"), "{help:?}");
}

#[test]
fn figures_in_tables_are_what_happened() {
    let ferry = Pgferry::start(Postgres::shared(), &["--pool-mode", "transaction"]);
    let mut guest = guest(&ferry);
    let mut client = ferry.raw();
    let asked = [("user", "trust_user"), ("database", "postgres"), ("application_name", "it's me")];
    client.send(&startup(&asked));
    client.until_ready();
    for _ in 0..3 {
        client.query("select 1");
    }
    let stats = eventually_row(&mut guest, "show stats_totals", "postgres", |row| row[3] == "3");
    assert_eq!((stats[1].as_str(), stats[2].as_str(), stats[12].as_str()), ("3", "3", "1"), "{stats:?}");
    client.query("begin");
    let pool = row(&mut guest, "show pools", "postgres");
    assert_eq!(pool[..8], ["postgres", "trust_user", "1", "0", "0", "0", "1", "0"], "{pool:?}");
    assert_eq!(pool[15], "transaction");
    let clients = rows(&mut guest, "show clients");
    let me = clients.iter().find(|row| row[2] == "postgres").expect("a client");
    assert_eq!((me[1].as_str(), me[4].as_str(), me[5].as_str()), ("trust_user", "active", "unix"), "{me:?}");
    assert_eq!(me[16], std::process::id().to_string(), "remote_pid is SO_PEERCRED's");
    assert_eq!(me[18], "it's me");
    let servers = rows(&mut guest, "show servers");
    assert_eq!(servers.len(), 1, "{servers:?}");
    assert_eq!((servers[0][4].as_str(), &servers[0][15], &me[15]), ("active", &me[14], &servers[0][14]));
    let pid = client.value("select pg_backend_pid()");
    assert_eq!(servers[0][16], pid);
    client.query("set application_name = 'another'");
    client.query("commit");
    eventually_row(&mut guest, "show clients", "C", |row| row[2] == "postgres" && row[18] == "another");
    assert_eq!(rows(&mut guest, "show servers")[0][4], "idle");
    client.query("select pg_advisory_lock(1)");
    let pin = eventually_row(&mut guest, "show pins", "lock", |row| row[2] == "1");
    assert_eq!(pin[1], "1");
    client.query("select pg_advisory_unlock(1)");
    eventually_row(&mut guest, "show pins", "lock", |row| row[2] == "0");
    let database = row(&mut guest, "show databases", "postgres");
    assert_eq!((&*database[1], &*database[5], &*database[15]), ("127.0.0.1", "20", "0"), "{database:?}");
    assert_eq!(row(&mut guest, "show lists", "used_clients")[1], "2");
    assert_eq!(row(&mut guest, "show logins", "accepted")[1], "1");
    let ports = rows(&mut guest, "show ports");
    assert_eq!((ports.len(), ports[0][1].as_str()), (1, "1"), "{ports:?}");
    assert_eq!(row(&mut guest, "show config", "max_client_conn")[3], "yes");
    let upstream = row(&mut guest, "show config", "upstream");
    assert!(upstream[1].contains("127.0.0.1") && upstream[3] == "no", "{upstream:?}");
}

fn eventually_row(guest: &mut ProtocolClient, sql: &str, first: &str, fits: impl Fn(&[String]) -> bool) -> Vec<String> {
    crate::harness::eventually_some(sql, || rows(guest, sql).into_iter().find(|row| row[0] == first && fits(row)))
}

#[test]
fn the_extended_protocol_works_too() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut guest = guest(&ferry);
    let all =
        [parse("s", "show lists"), describe(b'S', "s"), bind("", "s", &[]), execute("", 2), execute("", 0), sync()];
    guest.send(&all.concat());
    let messages = guest.until_ready();
    assert_eq!(tags(&messages).replace('D', ""), "1tT2sCZ", "{messages:?}");
    assert_eq!(messages.iter().filter(|message| message.tag == b'D').count(), 14);
    guest.send(&[parse("", "nonsense"), bind("", "", &[]), execute("", 0), sync()].concat());
    let messages = guest.until_ready();
    assert_eq!(tags(&messages), "EZ", "what follows an error is skipped");
    assert_eq!(messages[0].field(b'C'), "42601");
    guest.send(&[close(b'S', "s"), bind("", "s", &[]), sync()].concat());
    let messages = guest.until_ready();
    assert_eq!((tags(&messages).as_str(), messages[1].field(b'C').as_str()), ("3EZ", "26000"));
    guest.send(&[parse("", ""), bind("", "", &[]), execute("", 0), sync()].concat());
    assert_eq!(tags(&guest.until_ready()), "12IZ");
    assert_eq!(tags(&guest.query("show version; show state")), "TDCTDDDDCZ");
    assert_eq!(
        tags(&guest.query("set application_name = 'shop'; set extra_float_digits = 3; show client_encoding; select 1")),
        "CCTDCTDCZ"
    );
    assert_eq!(guest.error("select 2").field(b'C'), "42601");
}

#[tokio::test]
async fn drivers_that_want_binary_results_get_them() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let config = format!("host={} user=u dbname=pgferry", ferry.host());
    let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await.expect("a connection");
    let task = tokio::spawn(connection);
    let lists = client.query("show lists", &[]).await.expect("rows");
    let used = lists.iter().find(|row| row.get::<_, &str>(0) == "used_clients").expect("a row");
    assert_eq!(used.get::<_, i32>(1), 1);
    let hosts = client.query("show dns_hosts", &[]).await.expect("rows");
    assert!(hosts.is_empty());
    let error = client.query("show nothing", &[]).await.expect_err("no such table");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("42601"));
    drop(client);
    task.await.expect("no panic").expect("a good end");
}

#[test]
fn a_pause_lets_work_end_and_holds_what_comes() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start_with(
        &postgres.url(),
        &["--pool-mode", "transaction"],
        &[("PGFERRY_QUERY_WAIT_TIMEOUT", "300ms"), ("PGFERRY_MIN_POOL_SIZE", "2")],
    );
    let mut busy = ferry.session();
    busy.query("begin");
    let mut other = ferry.session();
    assert_eq!(other.value("select 1"), "1");
    let mut pausing = guest(&ferry);
    pausing.send(&query("PAUSE postgres"));
    let mut looking = guest(&ferry);
    eventually_row(&mut looking, "show databases", "postgres", |row| row[15] == "1");
    assert_eq!(row(&mut looking, "show databases", "postgres")[6], "2", "min_pool_size");
    other.send(&query("select 2"));
    eventually_row(&mut looking, "show pools", "postgres", |row| row[3] == "1");
    assert_eq!(busy.value("select 3"), "3", "a transaction goes on");
    busy.query("commit");
    assert_eq!(tags(&pausing.until_ready()), "CZ", "the last connection is gone");
    assert_eq!(postgres.backends(), 0);
    assert_eq!(row(&mut looking, "show pools", "postgres")[6..10], ["0", "0", "0", "0"]);
    // Longer than query_wait_timeout: whoever pauses knows for how long.
    let mut late = ferry.session();
    late.send(&query("select 4"));
    eventually("both have waited for longer than they would", || {
        let waiting = rows(&mut looking, "show clients");
        waiting.iter().filter(|row| row[4] == "waiting" && row[12].parse::<u32>().expect("a number") > 400_000).count()
            == 2
    });
    assert_eq!(tags(&looking.query("RESUME postgres")), "CZ");
    for (client, value) in [(&mut other, "2"), (&mut late, "4")] {
        let answer = client.until_ready();
        assert_eq!(tags(&answer), "TDCZ", "{answer:?}");
        assert_eq!(answer[1].columns(), [value]);
    }
    let error = looking.error("RESUME");
    assert_eq!((error.field(b'C').as_str(), error.field(b'M').as_str()), ("55000", "nothing is paused"));
    assert_eq!(looking.error("PAUSE shpo").field(b'C'), "3D000");
}

/// A client that has waited for a connection before the pause waits on behind it, for as long as any other.
#[test]
fn who_waits_when_a_pause_begins_waits_for_its_end() {
    let env = [("PGFERRY_QUERY_WAIT_TIMEOUT", "3s")];
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &["--pool-size", "1"], &env);
    let mut busy = ferry.session();
    busy.query("begin");
    let mut waits = ferry.session();
    waits.send(&query("select 2"));
    let (mut pausing, mut looking) = (guest(&ferry), guest(&ferry));
    eventually_row(&mut looking, "show pools", "postgres", |row| row[3] == "1");
    pausing.send(&query("PAUSE postgres"));
    eventually_row(&mut looking, "show databases", "postgres", |row| row[15] == "1");
    drop(busy);
    assert_eq!(tags(&pausing.until_ready()), "CZ");
    eventually("it has waited for longer than it would", || {
        let waiting = rows(&mut looking, "show clients");
        waiting.iter().any(|row| row[4] == "waiting" && row[11].parse::<u32>().expect("a number") > 3)
    });
    assert_eq!(tags(&looking.query("RESUME postgres")), "CZ");
    let answer = waits.until_ready();
    assert_eq!(tags(&answer), "TDCZ", "{answer:?}");
}

#[test]
fn waiting_for_a_pause_can_be_cancelled() {
    let ferry = Pgferry::start(Postgres::shared(), &["--pool-mode", "transaction"]);
    let mut busy = ferry.session();
    busy.query("begin");
    let mut pausing = ferry.raw();
    pausing.send(&startup(&[("user", "u"), ("database", "pgferry")]));
    let welcome = pausing.until_ready();
    let key = &welcome.iter().find(|message| message.tag == b'K').expect("a key").body;
    pausing.send(&query("PAUSE"));
    let mut looking = guest(&ferry);
    eventually_row(&mut looking, "show state", "paused", |row| row[1] == "yes");
    let mut cancel = ferry.raw();
    cancel.send(&[&16_u32.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), key].concat());
    cancel.read_to_end();
    let answer = pausing.until_ready();
    assert_eq!((tags(&answer).as_str(), answer[0].field(b'C').as_str()), ("EZ", "57014"));
    assert!(answer[0].field(b'H').contains("the pause stays in force until RESUME"), "{answer:?}");
    assert_eq!(tags(&looking.query("RESUME")), "CZ");
    busy.query("commit");
}

#[test]
fn prepared_commands_are_bounded_in_number_and_length() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut guest = guest(&ferry);
    let mut prepare = |name: &str, text: &str| {
        guest.send(&[parse(name, text), sync()].concat());
        let said = guest.until_ready();
        said.iter().find(|message| message.tag == b'E').map(|error| error.field(b'C'))
    };
    assert_eq!(prepare("", "SHOW VERSION"), None);
    for nth in 0..999 {
        assert_eq!(prepare(&format!("s{nth}"), "SHOW VERSION"), None);
    }
    assert_eq!(prepare("more", "SHOW VERSION").as_deref(), Some("53300"));
    assert_eq!(prepare("", "SHOW STATE"), None, "it takes the former one's place");
    assert_eq!(prepare(&"x".repeat(10_000), "SHOW VERSION").as_deref(), Some("54000"));
    assert_eq!(prepare("", &format!("SET log_level = '{}'", "x".repeat(10_000))).as_deref(), Some("54000"));
}

#[test]
fn databases_and_clients_are_put_out() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &[]);
    let mut guest = guest(&ferry);
    let mut client = ferry.session();
    assert_eq!(client.value("select 1"), "1");
    for slip in ["DISABLE postgre", "ENABLE postgre"] {
        assert_eq!(guest.query(slip)[0].field(b'C'), "3D000", "{slip}");
    }
    assert_eq!(tags(&guest.query("DISABLE postgres")), "CZ");
    let mut late = ferry.raw();
    late.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    let told = late.read_to_end();
    assert_eq!(told[0].field(b'C'), "57P03");
    assert!(told[0].field(b'M').contains("is disabled"), "{told:?}");
    assert_eq!(client.value("select 2"), "2", "who is in stays in");
    guest.query("ENABLE postgres");
    let mut other = ferry.session();
    other.send(&query("select pg_sleep(60)"));
    eventually_row(&mut guest, "show pools", "postgres", |row| row[2] == "2" && row[6] == "2");
    let id = rows(&mut guest, "show clients").into_iter().filter(|row| row[2] == "postgres").map(|row| row[20].clone());
    let ids: Vec<_> = id.collect();
    assert_eq!(tags(&guest.query(&format!("KILL_CLIENT {}", ids[1]))), "CZ");
    let told = other.read_to_end();
    assert_eq!(told[0].field(b'C'), "57P01", "{told:?}");
    eventually("its statement is cancelled", || {
        postgres.sql("select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'")
            == "0"
    });
    assert_eq!(client.value("select 3"), "3");
    assert_eq!(guest.error("KILL_CLIENT 999999").field(b'C'), "55000");
    assert_eq!(tags(&guest.query("KILL postgres")), "CZ");
    assert_eq!(client.read_to_end()[0].field(b'C'), "57P01");
    assert_eq!(row(&mut guest, "show databases", "postgres")[15], "1", "it is paused, as PgBouncer does it");
    eventually("no connection is left", || postgres.backends() == 0);
    guest.query("RESUME postgres");
    assert_eq!(ferry.session().value("select 4"), "4");
}

#[test]
fn a_client_in_the_middle_of_a_message_that_is_dropped_is_put_out() {
    let mut ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut guest = guest(&ferry);
    // Copy data behind the end of a COPY, of which the kernel holds only part: pgferry has begun to drop it.
    let half = || {
        let mut client = ferry.session();
        client.send(&message(b'd', &vec![0; 4 << 20])[..3 << 20]);
        client
    };
    let mut client = half();
    let clients = rows(&mut guest, "show clients");
    let id = &clients.iter().find(|row| row[2] == "postgres").expect("the client")[20];
    assert_eq!(tags(&guest.query(&format!("KILL_CLIENT {id}"))), "CZ");
    assert_eq!(client.read_to_end()[0].field(b'C'), "57P01");
    let mut client = half();
    ferry.signal(Signal::SIGTERM);
    assert_eq!(client.read_to_end()[0].field(b'C'), "57P01");
    assert!(ferry.wait().success());
    assert!(!ferry.log().contains("transactions did not end"), "{}", ferry.log());
}

#[test]
fn connections_are_replaced_as_they_come_free() {
    let postgres = Postgres::start_with(&[]);
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction"]);
    let mut client = ferry.session();
    client.query("begin");
    let before = client.value("select pg_backend_pid()");
    let mut guest = guest(&ferry);
    assert_eq!(tags(&guest.query("RECONNECT")), "CZ");
    let server = row(&mut guest, "show servers", "S");
    assert_eq!((server[13].as_str(), &server[16]), ("1", &before), "close_needed");
    guest.send(&query("WAIT_CLOSE postgres"));
    assert_eq!(client.value("select pg_backend_pid()"), before, "its transaction goes on");
    client.query("commit");
    assert_eq!(tags(&guest.until_ready()), "CZ");
    assert_ne!(client.value("select pg_backend_pid()"), before);
    assert!(ferry.report().text("close_reasons").contains("command 1"));
}

/// A way to the server at `port` on which a connection gets through when it is let: its port, what tells of each connection, and what
/// lets the next one through.
fn way_that_waits(port: u16) -> (u16, Receiver<()>, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let here = listener.local_addr().expect("an address").port();
    let ((came, comes), (go, goes)) = (channel(), channel());
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            if came.send(()).is_err() || goes.recv().is_err() {
                return;
            }
            let far = TcpStream::connect(("127.0.0.1", port)).expect("a server");
            let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
            for (mut from, mut to) in [(copy(&near), copy(&far)), (copy(&far), copy(&near))] {
                std::thread::spawn(move || {
                    // Its end is that of the connection.
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (here, comes, go)
}

#[test]
fn a_connection_that_is_being_opened_is_replaced_as_well() {
    let (port, comes, go) = way_that_waits(Postgres::shared().port);
    let url = format!("postgres://trust_user@127.0.0.1:{port}?sslmode=disable");
    let ferry = Pgferry::start_with_file(&url, "auth_type = \"trust\"\n", &["--pool-mode", "transaction"], &[]);
    let mut waiting = ferry.raw();
    waiting.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    comes.recv_timeout(SOON).expect("it is being opened");
    assert_eq!(tags(&guest(&ferry).query("RECONNECT")), "CZ");
    (0..2).for_each(|_| go.send(()).expect("a connection"));
    assert!(tags(&waiting.until_ready()).ends_with('Z'));
    assert_eq!(comes.try_iter().count(), 1, "another is opened in its place");
    assert!(ferry.report().text("close_reasons").contains("command 1"));
}

#[test]
fn each_command_needs_its_right() {
    let postgres = Postgres::shared();
    let certs = Certs::new();
    let port = free_port();
    let file = format!(
        "listen = [\"127.0.0.1:{port}\"]\nadmin_users = [\"scram_user\"]\nstats_users = \"md5_user, trust_user\"\n"
    );
    let path = certs.write("pgferry.toml", &file);
    let dir = tempfile::tempdir().expect("a directory");
    let ferry = Pgferry::spawn(dir, &["-u", &postgres.url(), "-c", &path], &[]);
    let as_user = |user: &str| format!("host=127.0.0.1 port={port} user={user} dbname=pgbouncer");
    let refused = psql(&as_user("plain_user"), PASSWORD, "show pools").expect_err("nobody knows it");
    assert!(refused.contains("may not use pgferry's console") && refused.contains("admin_users"), "{refused}");
    let refused = psql(&as_user("plain_user"), "wrong", "show pools").expect_err("nor does it know the password");
    assert!(refused.contains("password authentication failed"), "who is listed is nobody else's business: {refused}");
    let refused = psql(&as_user("scram_user"), "wrong", "show pools").expect_err("a wrong password");
    assert!(refused.contains("password authentication failed"), "{refused}");
    assert_eq!(psql(&as_user("scram_user"), PASSWORD, "reload"), Ok("RELOAD".to_owned()));
    assert!(psql(&as_user("md5_user"), PASSWORD, "show version").is_ok());
    for sql in
        ["reload", "pause", "kill_client 1", "set log_level = debug", "shutdown", "take_over", "cancel 1 1 00000000"]
    {
        let refused = psql(&as_user("md5_user"), PASSWORD, sql).expect_err(sql);
        assert!(refused.contains("permission denied for user \"md5_user\""), "{sql}: {refused}");
    }
    let refused = psql(&as_user("trust_user"), "", "show version").expect_err("nothing proves who it is");
    assert!(refused.contains("nothing proves"), "{refused}");
    drop(ferry);
}

#[test]
fn it_answers_when_nobody_else_is_served() {
    let ferry = Pgferry::start_with(
        &Postgres::shared().url(),
        &["--pool-size", "1"],
        &[("PGFERRY_MAX_CLIENT_CONN", "2"), ("PGFERRY_QUERY_WAIT_TIMEOUT", "60s")],
    );
    let mut holder = ferry.session();
    assert_eq!(holder.value("select 1"), "1");
    let mut waiting = ferry.session();
    waiting.send(&query("select 2"));
    let mut guest = guest(&ferry);
    eventually_row(&mut guest, "show pools", "postgres", |row| row[3] == "1" && row[6] == "1");
    holder.query("begin");
    ferry.signal(Signal::SIGTERM);
    eventually_row(&mut guest, "show state", "ending", |row| row[1] == "yes");
    let mut late = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry");
    assert_eq!(late.value("show version"), concat!("pgferry ", env!("CARGO_PKG_VERSION")));
    let mut client = ferry.raw();
    client.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    assert_eq!(client.read_to_end()[0].field(b'C'), "57P03", "others are told");
    let error = late.error("RELOAD");
    assert!(error.field(b'M').contains("the process is ending"), "{error:?}");
    holder.query("commit");
    drop(holder);
    let mut ferry = ferry;
    // Guests are not waited for.
    assert_eq!(ferry.wait().code(), Some(0));
    assert_eq!(late.read_to_end()[0].field(b'C'), "57P01");
}

#[test]
fn a_shutdown_waits_for_what_it_is_told_to_wait_for() {
    for (command, waits_for) in
        [("SHUTDOWN", ""), ("SHUTDOWN WAIT_FOR_SERVERS", "the transaction"), ("SHUTDOWN WAIT_FOR_CLIENTS", "clients")]
    {
        let mut ferry = Pgferry::start(Postgres::shared(), &["--pool-mode", "transaction"]);
        let mut busy = ferry.session();
        busy.query("begin");
        let mut idle = ferry.session();
        assert_eq!(idle.value("select 1"), "1");
        let mut guest = guest(&ferry);
        guest.send(&query(command));
        match waits_for {
            "" => assert_eq!(busy.read_to_end()[0].field(b'C'), "57P01"),
            "the transaction" => {
                assert_eq!(idle.read_to_end()[0].field(b'C'), "57P01");
                assert_eq!(busy.value("select 2"), "2");
                busy.send(&query("commit"));
                assert_eq!(tags(&busy.read_to_end()), "CZE");
            }
            _ => {
                eventually("no more clients", || ferry.log().contains("waiting for clients"));
                assert_eq!(idle.value("select 3"), "3", "it goes on as long as it likes");
                busy.query("commit");
                drop((idle, busy));
            }
        }
        assert_eq!(ferry.wait().code(), Some(0), "{command}");
    }
}

#[test]
fn no_psql_is_needed() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    assert_eq!(ferry.session().value("select 1"), "1");
    let said = |args: &[&str]| {
        let output = run_pgferry(&[&["-l", ferry.host()], args].concat(), &[]);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    };
    let (fine, table) = said(&["show", "pools"]);
    assert!(fine && table.starts_with(" database |") && table.contains(" postgres | trust_user |"), "{table}");
    let (fine, json) = said(&["show", "lists", "--json"]);
    let parsed: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(fine && parsed.as_array().expect("rows").iter().any(|row| row["list"] == "pools" && row["items"] == 1));
    assert_eq!(said(&["ctl", "PAUSE postgres"]), (true, "PAUSE\n".to_owned()));
    assert_eq!(said(&["ctl", "resume", "postgres"]), (true, "RESUME\n".to_owned()));
    let (fine, text) = said(&["ctl", "PAUZE"]);
    assert!(
        !fine && text.contains("invalid command \"PAUZE\"") && text.contains("hint: Did you mean PAUSE?"),
        "{text}"
    );
    let (fine, text) = said(&["show", "pool"]);
    assert!(!fine && text.contains("pools"), "{text}");
    let nobody = tempfile::tempdir().expect("a directory");
    let output = run_pgferry(&["-l", nobody.path().to_str().expect("UTF-8"), "show"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no pgferry listens at"), "{output:?}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut guest = guest(&ferry);
    guest.send(b"?\0\0\0\x04");
    let told = guest.read_to_end();
    assert_eq!((told[0].field(b'S').as_str(), told[0].field(b'C').as_str()), ("FATAL", "08P01"));
    let mut long = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry");
    long.send(b"Q\x7f\xff\xff\xff");
    assert_eq!(long.read_to_end()[0].field(b'C'), "08P01");
    let mut with_parameter = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry");
    with_parameter.send(&[parse("", "show version"), bind("", "", &["x"]), sync()].concat());
    let told = with_parameter.until_ready();
    assert_eq!((tags(&told).as_str(), told[1].field(b'C').as_str()), ("1EZ", "0A000"));
    let mut copying = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry");
    copying.send(&password("x"));
    assert_eq!(copying.read_to_end()[0].field(b'C'), "08P01");
}

#[test]
fn a_database_that_only_a_refused_client_has_named_is_not_known() {
    let postgres = Postgres::shared();
    let ferry = Pgferry::start(postgres, &[]);
    let refused = ferry.raw().try_log_in(&[("user", "trust_user"), ("database", "mistyped")], "");
    assert_eq!(refused.last().map(|error| error.field(b'C')), Some("3D000".into()), "{refused:?}");
    let mut console = ProtocolClient::logged_in(ferry.raw(), "u", "pgferry");
    for verb in ["PAUSE", "KILL", "DISABLE", "ENABLE", "RESUME", "RECONNECT", "WAIT_CLOSE"] {
        assert_eq!(console.error(&format!("{verb} mistyped")).field(b'C'), "3D000", "{verb}");
    }
}

#[test]
fn portals_end_with_the_sync_and_are_few_over_all_sessions() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let (mut first, mut second) = (guest(&ferry), guest(&ferry));
    let suspended = |name: &str| [bind(name, "s", &[]), execute(name, 1)].concat();
    first.send(&parse("s", "show lists"));
    (0..16).for_each(|nth| first.send(&suspended(&format!("p{nth}"))));
    let mut rest = 16;
    while rest > 0 {
        rest -= usize::from(first.recv().expect("a message").tag == b's');
    }
    let mut ask = || {
        second.send(&[parse("s", "show lists"), suspended("p"), sync()].concat());
        second.until_ready()
    };
    assert_eq!(ask().iter().find(|message| message.tag == b'E').map(|error| error.field(b'C')), Some("53300".into()));
    first.send(&sync());
    first.until_ready();
    assert_eq!(tags(&ask()), "12DsZ");
    first.send(&[execute("p1", 0), sync()].concat());
    assert_eq!(first.until_ready()[0].field(b'C'), "34000");
}
