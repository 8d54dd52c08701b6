//! Where passwords come from that no client brings, and what becomes of them when they change.

use std::os::unix::fs::PermissionsExt;

use crate::harness::postgres::PASSWORD;
use crate::harness::protocol_client::startup;
use crate::harness::{Certs, Message, Pgferry, Postgres, ProtocolClient, eventually};

/// pgferry that trusts its clients and logs in by itself.
fn ferry(postgres: &Postgres, user: &str, file: &str, env: &[(&str, &str)]) -> Pgferry {
    let at = if user.is_empty() { String::new() } else { format!("{user}@") };
    let url = format!("postgres://{at}127.0.0.1:{}", postgres.port);
    Pgferry::start_with_file(&url, file, &["--auth-type", "trust"], env)
}

fn log_in(ferry: &Pgferry, user: &str) -> Result<ProtocolClient, Message> {
    ferry.raw().log_in(user, "postgres", "")
}

fn fresh_connections(postgres: &Postgres) {
    postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename <> 'trust_user'");
    eventually("they are gone", || postgres.backends() == 0);
}

fn set_password(postgres: &Postgres, password: &str) {
    postgres.sql(&format!("alter role scram_user password '{password}'"));
    fresh_connections(postgres);
}

#[test]
fn a_file_is_read_whenever_a_connection_is_opened() {
    let postgres = Postgres::start_with(&[]);
    let certs = Certs::new();
    let secret = certs.write("secret", &format!("{PASSWORD}\n"));
    let ferry = ferry(&postgres, "scram_user", "", &[("PGFERRY_UPSTREAM_PASSWORD_FILE", &secret)]);
    assert!(log_in(&ferry, "scram_user").is_ok());
    for password in ["second", "third"] {
        // As Kubernetes does it: another file under the same name.
        certs.write("next", password);
        std::fs::rename(certs.path("next"), &secret).expect("renamed");
        set_password(&postgres, password);
        let mut raw = log_in(&ferry, "scram_user").expect("in");
        assert_eq!(raw.value("select 1"), "1");
    }
    std::fs::remove_file(&secret).expect("there");
    fresh_connections(&postgres);
    let mut raw = log_in(&ferry, "scram_user").expect("welcomes need no connection");
    let error = raw.error("select 1");
    assert!(error.field(b'D').contains("upstream_password_file"), "{error:?}");
}

#[test]
fn a_file_that_is_never_read_to_its_end_holds_no_connections_place() {
    let postgres = Postgres::shared();
    let certs = Certs::new();
    let secret = certs.path("secret");
    nix::unistd::mkfifo(secret.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let env = [("PGFERRY_UPSTREAM_PASSWORD_FILE", secret.as_str()), ("PGFERRY_SERVER_CONNECT_TIMEOUT", "1s")];
    let ferry = ferry(postgres, "scram_user", "", &env);
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| log_in(&ferry, "scram_user").err().expect("a wrong password"));
        // It is refused, and looked up once more.
        std::fs::write(&secret, "wrong").expect("read once");
        eventually("the attempt ends", || ferry.report().get("upstream_failed") > 0);
        assert_eq!(refused.join().expect("no panic").field(b'C'), "28P01");
    });
    eventually("it gives its place back", || ferry.report().get("upstream_now") == 0);
    // What still reads it is let go.
    std::fs::write(&secret, PASSWORD).expect("read again");
}

#[test]
fn pgpass_is_looked_up_as_by_libpq() {
    let postgres = Postgres::start_with(&[]);
    let certs = Certs::new();
    let port = postgres.port;
    let escaped = PASSWORD.replace('\\', "\\\\");
    let lines = format!("other:*:*:*:no\n127.0.0.1:{port}:postgres:scram_user:{escaped}\n*:*:*:md5_user:{escaped}\n");
    let path = certs.write("pgpass", &lines);
    let open = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    open(0o600);
    let ferry = ferry(&postgres, "", "", &[("PGPASSFILE", &path)]);
    for user in ["scram_user", "md5_user"] {
        assert_eq!(log_in(&ferry, user).expect("in").value("select current_user"), user);
    }
    let error = log_in(&ferry, "plain_user").err().expect("no line");
    assert!(error.field(b'M').contains("asks for a password and there is none"), "{error:?}");
    open(0o644);
    fresh_connections(&postgres);
    let error = log_in(&ferry, "md5_user").expect("a welcome").error("select 1");
    assert!(error.field(b'M').contains("there is none"), "{error:?}");
    // What it says is read by a thread of the harness's.
    ferry.logs("group or world access");
}

#[test]
fn a_program_prints_the_password() {
    let postgres = Postgres::start_with(&["log_connections=on"]);
    let certs = Certs::new();
    certs.write("password", PASSWORD);
    let script = format!(
        "#!/bin/sh\necho \"for $PGUSER@$PGHOST:$PGPORT/$PGDATABASE\" >&2\necho run >> {}\ncat {}\n",
        certs.path("runs"),
        certs.path("password")
    );
    let program = certs.write("program", &script);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let file = format!("password_command = [\"{program}\", \"an argument\"]\npool_size = 5");
    let ferry = ferry(&postgres, "scram_user", &file, &[]);
    let runs = || std::fs::read_to_string(certs.path("runs")).unwrap_or_default().lines().count();
    let mut held: Vec<_> = (0..3).map(|_| log_in(&ferry, "scram_user").expect("in")).collect();
    for raw in &mut held {
        assert_eq!(raw.value("select 1"), "1");
    }
    assert_eq!(runs(), 1, "it is kept");
    ferry.logs(&format!("for scram_user@127.0.0.1:{}/postgres", postgres.port));
    drop(held);
    // A token that has run out: the program is asked once more before anybody is told.
    certs.write("password", "next");
    set_password(&postgres, "next");
    let before = postgres.connections_received();
    assert_eq!(log_in(&ferry, "scram_user").expect("in").value("select 1"), "1");
    assert_eq!(runs(), 2);
    assert!(postgres.connections_received() - before <= 2, "the one that is refused, and the one that is not");
    // What goes on being refused is not tried twice each time.
    postgres.sql("alter role scram_user password 'another'");
    fresh_connections(&postgres);
    let error = log_in(&ferry, "scram_user").expect("a welcome").error("select 1");
    assert_eq!(error.field(b'C'), "28P01", "{error:?}");
    assert!(!ferry.log().contains(PASSWORD));
}

#[test]
fn a_program_that_hangs_for_one_user_holds_up_no_other() {
    let postgres = Postgres::shared();
    let certs = Certs::new();
    let password = certs.write("password", PASSWORD);
    let hold = certs.write("hold", "");
    let hangs = format!("echo it hangs >&2; while [ -e {hold} ]; do sleep 0.1; done");
    let script = format!("#!/bin/sh\nif [ $PGUSER = scram_user ]; then {hangs}; fi\ncat {password}\n");
    let program = certs.write("program", &script);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let ferry = ferry(postgres, "", &format!("password_command = [\"{program}\"]"), &[]);
    let mut waits = ferry.raw();
    waits.send(&startup(&[("user", "scram_user"), ("database", "postgres")]));
    ferry.logs("it hangs");
    assert_eq!(log_in(&ferry, "md5_user").expect("in").value("select current_user"), "md5_user");
    std::fs::remove_file(hold).expect("there");
    let end = waits.until_ready();
    assert!(matches!(end.last().map(|message| message.tag), Some(b'Z' | b'E')), "{end:?}");
}

#[test]
fn programs_that_fail_are_named() {
    let postgres = Postgres::shared();
    for (command, reason) in [
        ("[\"/bin/false\"]", "exit status: 1"),
        ("[\"/bin/true\"]", "printed nothing"),
        ("[\"/no/such/program\"]", "No such file"),
        ("[\"sh\", \"-c\", \"echo no token today >&2; exit 3\"]", "exit status: 3"),
        (
            "[\"sleep\", \"2\"]\nserver_connect_timeout = \"300ms\"",
            "no password was found within 0.3 s (server_connect_timeout)",
        ),
        ("[\"sh\", \"-c\", \"head -c 70000 /dev/zero | tr '\\\\\\\\0' x\"]", "more than 65535 bytes"),
    ] {
        let ferry = ferry(postgres, "scram_user", &format!("password_command = {command}"), &[]);
        let error = log_in(&ferry, "scram_user").err().expect("no password");
        assert!(error.field(b'D').contains(reason), "{command}: {error:?}");
        if command.contains("today") {
            ferry.logs("password_command: no token today");
            assert!(!error.field(b'D').contains("today"), "it is the log's: {error:?}");
        }
    }
}

#[test]
fn a_long_token_is_a_password() {
    let postgres = Postgres::start_with(&[]);
    // Before PostgreSQL 14 the message with the password has 1,000 bytes at most.
    let token = "t".repeat(if postgres.version() < 14 { 900 } else { 8000 });
    postgres.sql(&format!("alter role plain_user password '{token}'"));
    let certs = Certs::new();
    let path = certs.write("token", &token);
    let file = format!("password_command = [\"cat\", \"{path}\"]");
    let ferry = ferry(&postgres, "plain_user", &file, &[]);
    assert_eq!(log_in(&ferry, "plain_user").expect("in").value("select 1"), "1");
}

#[test]
fn secrets_that_are_stored_log_in_clients_that_bring_none() {
    let postgres = Postgres::start_with(&[]);
    let certs = Certs::new();
    let escaped = PASSWORD.replace('\\', "\\\\").replace('"', "\\\"");
    let file = certs.write("userlist", &format!("\"md5_user\" \"{}\"\n", PASSWORD.replace('"', "\"\"")));
    let written = format!("auth_file = \"{file}\"\n[users]\nscram_user = \"{escaped}\"\n");
    // A user in the URL is who clients are without a secret of their own.
    for user in ["", "trust_user"] {
        let own = self::ferry(&postgres, user, &written, &[]);
        for role in ["scram_user", "md5_user"] {
            let mut client = log_in(&own, role).expect("in");
            assert_eq!(client.value("select current_user"), role);
        }
    }
    let forced = ferry(&postgres, "", &format!("force_user = \"scram_user\"\n{written}"), &[]);
    assert_eq!(log_in(&forced, "anybody").expect("in").value("select current_user"), "scram_user");
    fresh_connections(&postgres);
    assert_eq!(log_in(&forced, "md5_user").expect("in").value("select current_user"), "scram_user");
}

#[test]
fn somebody_elses_password_is_not_used() {
    let postgres = Postgres::shared();
    let certs = Certs::new();
    // The URL's password is scram_user's; md5_user, who comes in by a secret of its own, has another.
    let path = certs.write("f.toml", "auth_type = \"password\"\n[users]\nmd5_user = \"its own\"\nscram_user = \"x\"");
    let url = format!("postgres://scram_user:pa%20ss'w%5Cord@127.0.0.1:{}", postgres.port);
    let ferry = Pgferry::start_with(&url, &["-c", &path], &[]);
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "md5_user"), ("database", "postgres")]));
    raw.recv().expect("a question");
    raw.send(&crate::harness::protocol_client::password("its own"));
    let said = raw.read_to_end();
    assert_eq!(said.last().expect("an error").field(b'C'), "28P01", "{said:?}");
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", "scram_user"), ("database", "postgres")]));
    raw.recv().expect("a question");
    raw.send(&crate::harness::protocol_client::password("x"));
    assert_eq!(raw.until_ready().last().expect("a welcome").tag, b'Z', "with the URL's");
}
