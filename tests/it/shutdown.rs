//! How it ends.

use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;

use crate::harness::protocol_client::{CANCEL_REQUEST, SSL_REQUEST, packet, query, startup, tags};
use crate::harness::{ChildProcess, Pgferry, Postgres, Signal, eventually};

#[test]
fn sigterm_lets_transactions_end_and_tells_the_others() {
    let postgres = Postgres::start_with(&["log_disconnections=on"]);
    for mode in ["session", "transaction"] {
        let mut ferry = Pgferry::start(&postgres, &["--pool-mode", mode]);
        let mut idle = ferry.session();
        let mut used = ferry.session();
        assert_eq!(used.value("select 1"), "1");
        let mut busy = ferry.session();
        busy.query("begin");
        let mut running = ferry.session();
        running.send(&query("select pg_sleep(0.5)"));
        eventually("it runs", || {
            postgres
                .sql("select count(*) from pg_stat_activity where query = 'select pg_sleep(0.5)' and state = 'active'")
                == "1"
        });
        ferry.signal(Signal::SIGTERM);
        for raw in [&mut idle, &mut used] {
            let messages = raw.read_to_end();
            assert_eq!(tags(&messages), "E", "{mode}");
            assert_eq!((messages[0].field(b'S').as_str(), messages[0].field(b'C').as_str()), ("FATAL", "57P01"));
        }
        let messages = running.read_to_end();
        assert_eq!(tags(&messages), "TDCZE", "{mode}: its query ends first");
        assert_eq!(busy.value("select 7"), "7", "{mode}: a transaction goes on");
        busy.send(&query("commit"));
        assert_eq!(tags(&busy.read_to_end()), "CZE");
        assert_eq!(ferry.wait().code(), Some(0), "{}", ferry.log());
        assert!(!ferry.socket().exists());
        ferry.logs("upstream_reset=0");
    }
    let log = postgres.log();
    assert!(!log.contains("unexpected EOF") && !log.contains("could not receive data"), "{log}");
}

#[test]
fn the_time_to_drain_is_bounded() {
    let env = [("PGFERRY_DRAIN_TIMEOUT", "200ms")];
    let mut ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &env);
    let mut busy = ferry.session();
    busy.query("begin");
    ferry.signal(Signal::SIGTERM);
    let messages = busy.read_to_end();
    assert_eq!(messages.last().map(|message| message.field(b'C')).as_deref(), Some("57P01"));
    assert_eq!(ferry.wait().code(), Some(0));
    ferry.logs("drain_timeout");
}

#[test]
fn sigint_and_a_second_sigterm_end_it_now() {
    for signals in [
        &[Signal::SIGINT][..],
        &[Signal::SIGTERM, Signal::SIGTERM],
        &[Signal::SIGTERM, Signal::SIGINT],
        &[Signal::SIGQUIT],
    ] {
        let mut ferry = Pgferry::start(Postgres::shared(), &[]);
        let mut busy = ferry.session();
        busy.query("begin");
        ferry.signal(signals[0]);
        if let Some(&second) = signals.get(1) {
            eventually("it drains", || ferry.log().contains("waiting for transactions"));
            ferry.signal(second);
        }
        let messages = busy.read_to_end();
        assert_eq!(messages.last().map(|message| message.field(b'C')).as_deref(), Some("57P01"), "{signals:?}");
        let status = ferry.wait();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{signals:?}");
        assert!(!ferry.socket().exists());
    }
}

#[test]
fn who_waits_to_be_taken_as_it_ends_is_told() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut ferry = Pgferry::start(Postgres::shared(), &[]);
        ferry.signal(Signal::SIGSTOP);
        let clients: Vec<_> = (0..5)
            .map(|_| {
                let mut raw = ferry.raw();
                raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
                raw
            })
            .collect();
        ferry.signal(signal);
        ferry.signal(Signal::SIGCONT);
        for mut raw in clients {
            let messages = raw.read_to_end();
            assert_eq!(tags(&messages).chars().last(), Some('E'), "{signal}: {messages:?}");
        }
        assert_eq!(ferry.wait().code(), Some(0), "{}", ferry.log());
    }
}

/// A login that waits for a server that says nothing is over with the process, and its client is told so.
#[test]
fn a_client_in_the_middle_of_its_login_is_told_of_the_end() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("postgres://{}", silent.local_addr().expect("an address"));
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut ferry = Pgferry::start_with(&url, &[], &[]);
        let mut raw = ferry.raw();
        raw.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
        eventually("it is tried upstream", || ferry.report().get("logins_tried_upstream") == 1);
        ferry.signal(signal);
        let messages = raw.read_to_end();
        assert_eq!(tags(&messages), "E", "{signal}");
        assert_eq!(messages[0].field(b'C'), "57P03", "{messages:?}");
        assert_eq!(ferry.wait().code(), Some(0), "{}", ferry.log());
    }
}

#[test]
fn a_process_that_starts_while_the_one_before_drains_takes_its_place() {
    let mut before = Pgferry::start(Postgres::shared(), &["--pool-mode", "transaction"]);
    let mut busy = before.raw();
    busy.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    let key = busy.until_ready().into_iter().find(|message| message.tag == b'K').expect("a key").body;
    busy.query("begin");
    before.signal(Signal::SIGTERM);
    eventually("it drains", || before.log().contains("waiting for transactions"));
    let log = before.dir().join("log");
    let mut command = crate::harness::pgferry::command();
    command.args(["-u", &Postgres::shared().url(), "-l", before.host()]);
    let mut after = ChildProcess::spawn(command.stderr(std::fs::File::create(&log).expect("a file")));
    eventually("it is ready", || std::fs::read_to_string(&log).unwrap_or_default().contains("ready: "));
    eventually("the one before knows", || before.log().contains("another process takes over"));
    assert_eq!(before.raw().logged_in("trust_user", "postgres").value("select 1"), "1", "new clients are served");
    busy.send(&query("select pg_sleep(60) as left_behind"));
    let mut cancel = before.raw();
    eventually("it runs", || {
        let active = "select count(*) from pg_stat_activity where query like '%left_behind' and state = 'active'";
        Postgres::shared().sql(active) == "1"
    });
    cancel.send(&packet(CANCEL_REQUEST, &key));
    assert!(cancel.recv().is_none());
    assert!(tags(&busy.until_ready()).ends_with("EZ"), "it is cancelled");
    busy.send(&query("rollback"));
    assert_eq!(tags(&busy.read_to_end()), "CZE");
    assert_eq!(before.wait().code(), Some(0));
    assert_eq!(before.raw().logged_in("trust_user", "postgres").value("select 2"), "2", "the socket stays");
    crate::harness::signal(after.id(), Signal::SIGTERM);
    assert!(crate::harness::ends(&mut after).success());
    assert!(!before.socket().exists());
}

#[test]
fn the_console_may_say_it_again() {
    let mut ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut busy = ferry.session();
    busy.query("begin");
    ferry.signal(Signal::SIGTERM);
    eventually("it drains", || ferry.log().contains("waiting for transactions"));
    crate::harness::ProtocolClient::logged_in(ferry.raw(), "u", "pgferry").query("SHUTDOWN");
    assert_eq!(busy.read_to_end().last().map(|message| message.field(b'C')).as_deref(), Some("57P01"));
    assert_eq!(ferry.wait().code(), Some(0));
}

#[test]
fn sigterm_under_load_breaks_no_query() {
    let postgres = Postgres::start_with(&[]);
    for mode in ["session", "transaction"] {
        let mut ferry = Pgferry::start(&postgres, &["--pool-mode", mode, "--pool-size", "4"]);
        let socket = ferry.socket();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut served = 0;
                        // Until nobody listens any more.
                        while let Ok(stream) = std::os::unix::net::UnixStream::connect(&socket) {
                            drop(stream);
                            if !socket.exists() {
                                break;
                            }
                            let Some(mut raw) =
                                std::panic::catch_unwind(|| crate::harness::ProtocolClient::unix(&socket)).ok()
                            else {
                                break;
                            };
                            if !raw.try_send(&startup(&[("user", "trust_user"), ("database", "postgres")])) {
                                break;
                            }
                            let welcome = tags(&raw.until_ready());
                            if !welcome.ends_with('Z') {
                                break;
                            }
                            if !raw.try_send(&query("select 1")) {
                                break;
                            }
                            let answer = raw.until_ready();
                            match tags(&answer).as_str() {
                                "TDCZ" => served += 1,
                                "E" => assert_eq!(answer[0].field(b'C'), "57P01"),
                                "" => {}
                                half => panic!("half an answer: {half}"),
                            }
                        }
                        served
                    })
                })
                .collect();
            eventually("clients are served", || ferry.report().get("clients") > 200);
            ferry.signal(Signal::SIGTERM);
            let served: usize = clients.into_iter().map(|client| client.join().expect("no panic")).sum();
            assert!(served >= 100, "{served}");
        });
        assert_eq!(ferry.wait().code(), Some(0));
    }
}

#[test]
fn the_end_does_not_come_in_the_middle_of_a_message() {
    let mut ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut raw = ferry.session();
    raw.send(&query("select repeat('x', 100000000)"));
    assert_eq!(raw.recv().map(|message| message.tag), Some(b'T'));
    // The row is under way, and nobody reads it: its header is 5 bytes, the count and the length 6.
    eventually("it is held up", || ferry.report().get("leased_now") == 1);
    ferry.signal(Signal::SIGINT);
    let rest = raw.drain();
    assert!(rest.iter().skip(11).all(|&byte| byte == b'x'), "the row is cut off, and nothing stands in its place");
    assert!(ferry.wait().success());
}

#[test]
fn systemd_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(crate::harness::SOON)).expect("a timeout");
    let recv = || {
        let mut buffer = [0; 256];
        let n = socket.recv(&mut buffer).expect("a notification");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let env = [("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))];
    let mut ferry = Pgferry::start_with(&Postgres::shared().url(), &[], &env);
    assert_eq!(recv().trim(), "READY=1");
    ferry.signal(Signal::SIGHUP);
    let reloading = recv();
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(recv().trim(), "READY=1");
    ferry.signal(Signal::SIGTERM);
    assert_eq!(recv().trim(), "STOPPING=1");
    assert!(ferry.wait().success());
}

#[test]
fn the_signal_by_which_pgbouncer_resumes_ends_nothing() {
    let ferry = Pgferry::start(Postgres::shared(), &[]);
    let mut client = ferry.session();
    ferry.signal(Signal::SIGUSR2);
    ferry.logs("SIGUSR2 does nothing here");
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn clients_that_say_nothing_do_not_hold_up_the_end() {
    let postgres = Postgres::shared();
    let env = [("PGFERRY_CLIENT_LOGIN_TIMEOUT", "1min"), ("PGFERRY_DRAIN_TIMEOUT", "1min")];
    let mut ferry = Pgferry::start_with(&postgres.url(), &[], &env);
    let mut silent = ferry.raw();
    let mut encrypts = ferry.raw();
    encrypts.send(&packet(SSL_REQUEST, b""));
    assert_eq!(encrypts.byte(), b'S');
    let mut asked = ferry.raw();
    asked.send(&startup(&[("user", "scram_user"), ("database", "postgres"), ("replication", "database")]));
    assert_eq!(asked.recv().expect("a question").tag, b'R');
    let mut busy = ferry.raw();
    busy.send(&startup(&[("user", "trust_user"), ("database", "postgres")]));
    let welcome = busy.until_ready();
    let key = welcome.iter().find(|message| message.tag == b'K').expect("a key").body.clone();
    busy.send(&query("select pg_sleep(60)"));
    ferry.signal(Signal::SIGTERM);
    for (name, raw) in [("silent", &mut silent), ("asked for its password", &mut asked)] {
        let messages = raw.read_to_end();
        assert_eq!(tags(&messages), "E", "{name}");
        assert_eq!(messages[0].field(b'C'), "57P03", "{name}");
    }
    drop((silent, encrypts, asked));
    // A request to cancel what keeps the process from ending is heard.
    let mut cancels = ferry.raw();
    cancels.send(&packet(CANCEL_REQUEST, &key));
    assert!(tags(&busy.read_to_end()).ends_with("EZE"));
    assert_eq!(ferry.wait().code(), Some(0), "{}", ferry.log());
}
