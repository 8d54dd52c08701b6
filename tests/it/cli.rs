//! The command line, the configuration file, and what a person reads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use pgferry::internals::config::keys::KEYS;

use crate::harness::pgferry::{command, run_pgferry};
use crate::harness::{ChildProcess, Pgferry, Postgres, Signal, run};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn mistakes_are_explained_and_exit_with_1() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pgferry.toml");
    fs::write(&file, "upstream = \"postgres://db\"\n\npool_sise = 3\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    for (args, env, parts) in [
        (&["check"][..], &[][..], &["no upstream", "--upstream"][..]),
        (&["check", "-u", "db:5432"], &[], &["--upstream: upstream: not a connection URI"]),
        (&["check", "-c", file], &[], &["pgferry.toml:3: pool_sise", "did you mean \"pool_size\""]),
        (&["check", "-c", "/nonexistent"], &[], &["/nonexistent: No such file"]),
        (
            &["check", "-u", "postgres://db", "-m", "statement"],
            &[],
            &["--pool-mode: pool_mode: \"statement\" is not one of session, transaction"],
        ),
        (&["check", "-u", "postgres://a,b/?port=1,2,3"], &[], &["could not match 3 port numbers to 2 hosts"]),
        (&["check", "-u", "postgres://db", "-l", "0.0.0.0:5432"], &[], &["allow_remote"]),
        (
            &["check", "-u", "postgres://db"],
            &[("PGFERRY_POOL_SIZE", "many")],
            &["PGFERRY_POOL_SIZE: pool_size: \"many\""],
        ),
        (&["-u", "postgres://db", "-l", "/proc/nowhere"], &[], &["/proc/nowhere"]),
        (&["-u", "postgres://db", "-l", &format!("/tmp/{}", "x".repeat(120))], &[], &["107"]),
    ] {
        let output = run_pgferry(args, env);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        for part in parts {
            assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
        }
    }
    let output = run_pgferry(&["--pool-sise", "3"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--pool-size"), "{}", stderr(&output));
}

/// With other characters in their place, a password would be another one.
#[test]
fn variables_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let value = std::ffi::OsStr::from_bytes(b"secret\xff");
    let mut check = command();
    check.args(["check", "-u", "postgres://db"]).env("PGFERRY_UPSTREAM_PASSWORD", value);
    let output = check.output().expect("pgferry");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("PGFERRY_UPSTREAM_PASSWORD: it is no text in UTF-8"), "{}", stderr(&output));
}

#[test]
fn what_is_hardly_meant_is_told_before_a_client_meets_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, empty) = (dir.path().join("pgferry.toml"), dir.path().join("empty"));
    fs::write(&empty, "").expect("written");
    let config = file.to_str().expect("UTF-8");
    let is_empty = format!("upstream_password_file: {} is empty", empty.display());
    for (text, warning) in [
        ("min_pool_size = 30", "min_pool_size = 30 is more than pool_size = 20: pools keep 20 connections at most"),
        (
            "upstream_password_file = \"/nonexistent\"",
            "upstream_password_file: /nonexistent: No such file or directory",
        ),
        (&format!("upstream_password_file = {empty:?}"), &is_empty),
        ("passfile = \"/nonexistent\"", "passfile: /nonexistent: No such file or directory"),
        ("password_command = [\"no-such-program\"]", "password_command: no-such-program: there is no such program"),
    ] {
        fs::write(&file, format!("{text}\n")).expect("written");
        let output = run_pgferry(&["check", "-u", "postgres://db", "-c", config], &[]);
        assert!(output.status.success(), "{text}: {}", stderr(&output));
        assert!(stderr(&output).contains(&format!("warning: {warning}")), "{text}: {}", stderr(&output));
        let ferry = Pgferry::start(Postgres::shared(), &["-c", config]);
        ferry.logs(warning);
    }
    fs::write(&file, "password_command = [\"sh\"]\nmin_pool_size = 20\n").expect("written");
    let output = run_pgferry(&["check", "-u", "postgres://db", "-c", config], &[]);
    assert_eq!(stderr(&output), "");
    // Without a PATH as well it is found where `execvp` looks.
    let mut without_path = command();
    without_path.args(["check", "-u", "postgres://db", "-c", config]).env_remove("PATH");
    assert_eq!(stderr(&without_path.output().expect("pgferry")), "");
    let ferry = Pgferry::start(Postgres::shared(), &["-c", config]);
    fs::write(&file, "password_command = [\"sh\"]\nmin_pool_size = 21\n").expect("written");
    ferry.signal(Signal::SIGHUP);
    ferry.logs("min_pool_size = 21 is more than");
}

#[test]
fn mistakes_in_files_name_their_setting() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pgferry.toml");
    for (text, parts) in [
        ("sslrootcert = \"/nonexistent\"", &["sslrootcert: /nonexistent: No such file"][..]),
        ("sslmode = \"verify-full\"\nsslrootcert = \"FILE\"", &["sslrootcert: ", "no certificate in PEM format"]),
        ("sslcert = \"/nonexistent\"\nsslkey = \"FILE\"", &["sslcert: /nonexistent: No such file"]),
        ("client_tls_cert_file = \"FILE\"\nclient_tls_key_file = \"FILE\"", &["client_tls_cert_file: "]),
        (
            "client_tls_cert_file = \"FILE\"",
            &["pgferry.toml:2: client_tls_cert_file: client_tls_key_file is needed with it"],
        ),
        ("unix_socket_group = \"no such group\"", &["unix_socket_group: there is no group"]),
        ("POOL_SIZE = 5", &["pgferry.toml:2: POOL_SIZE", "did you mean \"pool_size\"?"]),
        ("[server]\nport = 5", &["pgferry.toml:2: server", "settings stand at the top of the file"]),
        ("[databases.shop]\npool_mode = \"statement\"", &["pgferry.toml:3: databases.shop.pool_mode: \"statement\""]),
        ("pool_size = 0\n[databases.shop]\npin = \"auto\"", &["pgferry.toml:2: pool_size: \"0\""]),
        ("listen = \"*:6432\"", &["pgferry.toml:2: listen: \"*:6432\" has no host: 127.0.0.1:6432"]),
    ] {
        let path = file.to_str().expect("UTF-8");
        let text = format!("upstream = \"postgres://db\"\n{}\n", text.replace("FILE", path));
        fs::write(&file, &text).expect("written");
        let output = run_pgferry(&["check", "-c", path], &[]);
        assert_eq!(output.status.code(), Some(1), "{text}: {}", stderr(&output));
        for part in parts {
            assert!(stderr(&output).contains(part), "{text}: {}", stderr(&output));
        }
    }
}

#[test]
fn output_that_is_not_read_to_its_end_is_no_error() {
    let config = ["check", "-u", "postgres://db"];
    for args in [&["settings"][..], &config, &["completions", "bash"], &["doctor", "-u", "postgres://%2Ftmp/x"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = command().args(args).stdout(writer).output().expect("pgferry");
        assert_eq!(stderr(&output), "", "{args:?}");
        assert!(output.status.code() < Some(2), "{args:?}: {output:?}");
    }
    let full = fs::File::options().write(true).open("/dev/full").expect("a full device");
    let output = command().arg("settings").stdout(full).output().expect("pgferry");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("standard output: No space left on device"), "{}", stderr(&output));
}

/// pgferry without the right of root to go past permissions, whoever runs the tests.
fn without_override(args: &[&str]) -> Output {
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut setpriv = crate::harness::pgferry::program("setpriv");
        setpriv.args(["--bounding-set", "-dac_override,-dac_read_search", env!("CARGO_BIN_EXE_pgferry")]);
        setpriv
    } else {
        command()
    };
    command.args(args).output().expect("pgferry")
}

#[test]
fn denied_permissions_name_the_user_and_the_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).expect("made");
    fs::write(closed.join("file"), "").expect("written");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("chmod");
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let at = |name: &str| closed.join(name).display().to_string();
    let (file, inner, url) = (at("file"), at("inner"), "postgres://me:pw@127.0.0.1:1");
    let install = format!("install -d -o {uid} -g {gid} {inner}; or listen in a directory of your own: --listen ");
    let with_key = format!("{url}?sslcert={file}&sslkey={file}");
    for (args, part) in [
        (&["-u", url, "-l", &inner][..], install.as_str()),
        (&["-c", &file, "check"], "chmod"),
        (&["-u", &with_key, "check"], "chmod"),
        (&["import-pgbouncer", &file], "chmod"),
        (&["-u", url, "-l", &inner, "health"], "unix_socket_mode"),
        (&["-u", url, "-l", &inner, "show", "pools"], "unix_socket_mode"),
    ] {
        let output = without_override(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(&format!("pgferry runs as uid {uid}, gid {gid}\n  hint: ")), "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: {said}");
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("chmod");
}

#[test]
fn check_prints_the_settings_in_force_without_secrets() {
    let dir = tempfile::tempdir().expect("a directory");
    let secret = dir.path().join("url");
    fs::write(&secret, "postgres://me:hunter2@db.example/shop\n").expect("written");
    let env = [("PGFERRY_UPSTREAM_FILE", secret.to_str().expect("UTF-8")), ("PGFERRY_POOL_SIZE", "7")];
    let output = run_pgferry(&["check", "-m", "transaction"], &env);
    let text = stdout(&output);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        text.contains("upstream = \"postgres://me:(hidden)@db.example:5432/shop\" # PGFERRY_UPSTREAM_FILE"),
        "{text}"
    );
    assert!(text.contains("pool_size = 7") && text.contains("# PGFERRY_POOL_SIZE"), "{text}");
    assert!(text.contains("pool_mode = \"transaction\"") && text.contains("# --pool-mode"), "{text}");
    assert!(text.contains("query_wait_timeout = \"10s\""), "{text}");
    assert!(!text.contains("hunter2"));
    let output = run_pgferry(&["-s", "9", "check"], &[("DATABASE_URL", "postgres://db")]);
    assert!(stdout(&output).contains("pool_size = 9"), "flags may stand before the subcommand");
    assert!(stdout(&output).contains("# DATABASE_URL"));
}

/// The file that is shipped says of every key what its default is.
#[test]
fn check_says_which_rule_a_client_would_meet() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f.toml");
    let text = "upstream = \"postgres://db\"\n[[rule]]\nuid = 7\nmethod = \"reject\"\n\
                [[rule]]\ntransport = \"tcp\"\naddress = \"10.0.0.0/8\"\nmethod = \"pass-through\"\n";
    fs::write(&path, text).expect("written");
    let path = path.to_str().expect("UTF-8");
    for (args, expected) in [
        (&["--uid", "7"][..], "rule 1 of 2: uid = 7, method = \"reject\""),
        (&["--from", "tcp:10.1.1.1"], "rule 2 of 2: transport = [\"tcp\"], address = [\"10.0.0.0/8\"], method"),
        (&["--from", "tls:10.1.1.1"], "refused: no [[rule]] fits"),
        (&["--uid", "8"], "refused: no [[rule]] fits"),
    ] {
        let output = run_pgferry(&[&["check", "-c", path, "--user", "app"], args].concat(), &[]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(expected), "{args:?}: {said} {}", stderr(&output));
    }
    let output = run_pgferry(&["check", "-u", "postgres://db", "--user", "app"], &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "auth_type = \"pass-through\"\n");
    for (args, part) in [
        (&["check", "-u", "postgres://db", "--user", "app", "--from", "pigeon"][..], "unix, abstract, tcp, tls"),
        (&["check", "-u", "postgres://db", "--user", "app", "--from", "unix:1.2.3.4"], "has no address"),
        (&["check", "-u", "postgres://db?sslrootcert=/no/such/file"], "/no/such/file"),
        (&["check", "-u", "postgres://db?sslmode=verify-ca"], "sslrootcert"),
    ] {
        let output = run_pgferry(args, &[]);
        assert!(!output.status.success() && stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn the_shipped_configuration_is_the_defaults() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/pgferry.toml");
    let shipped = fs::read_to_string(path).expect("readable");
    for key in KEYS {
        let line = match key.default {
            Some(default) => format!("\n{} = {default}\n", key.name),
            None => format!("\n#{} = ", key.name),
        };
        if key.name == "upstream" {
            assert!(shipped.contains("\nupstream = \""), "the one key that must be set");
        } else if key.name == "databases" {
            assert!(shipped.contains("\n#[databases.shop]\n"));
        } else if key.name == "rule" {
            assert!(shipped.contains("\n#[[rule]]\n"));
        } else if key.name == "users" {
            assert!(shipped.contains("\n#[users]\n"));
        } else if key.name == "peer" {
            assert!(shipped.contains("\n#[[peer]]\n"));
        } else {
            assert!(shipped.contains(&line), "config/pgferry.toml lacks: {line}");
        }
        assert!(
            shipped.contains(&format!("# {}\n", key.doc)),
            "config/pgferry.toml says something else of {}: {}",
            key.name,
            key.doc
        );
    }
    let output = run_pgferry(&["check", "-c", path], &[]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn the_reference_is_what_the_program_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/REFERENCE.md");
    let written = fs::read_to_string(path).expect("readable");
    assert_eq!(stdout(&run_pgferry(&["settings"], &[])), written, "run: pgferry settings >config/REFERENCE.md");
    for key in KEYS {
        assert!(written.contains(&format!("\n| `{}` |", key.name)));
    }
}

#[test]
fn help_and_version() {
    let output = run_pgferry(&["--help"], &[]);
    let text = stdout(&output);
    for part in ["--upstream", "--listen", "--pool-mode", "PGFERRY_", "DATABASE_URL", "Examples:", "check", "doctor"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(stdout(&run_pgferry(&["--version"], &[])).trim(), concat!("pgferry ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_first_line_says_what_a_newcomer_must_know() {
    let postgres = Postgres::shared();
    let ferry = Pgferry::start(postgres, &[]);
    let log = ferry.log();
    let dsn = format!("\"host={} port=5432\"", ferry.host());
    assert!(log.contains(&dsn) && log.contains(&format!("127.0.0.1:{}", postgres.port)), "{log}");
    let inside = dsn.trim_matches('"');
    let out = run("psql", &["-X", &format!("{inside} user=trust_user dbname=postgres"), "-Atc", "select 1"], &[]);
    assert_eq!(out.trim(), "1");
}

#[test]
fn logs_as_json() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8").to_owned();
    let url = Postgres::shared().url();
    let mut ferry = Pgferry::spawn(dir, &["-u", &url, "-l", &path, "--log-format", "json"], &[]);
    ferry.signal(Signal::SIGTERM);
    assert!(ferry.wait().success());
    let log = ferry.log();
    assert!(
        log.starts_with('{') && log.contains("\"level\":\"INFO\"") && log.contains("\"message\":\"ready: "),
        "{log}"
    );
}

#[test]
fn socket_mode_and_group_are_applied() {
    let group = nix::unistd::getegid().to_string();
    let env = [("PGFERRY_UNIX_SOCKET_MODE", "0750"), ("PGFERRY_UNIX_SOCKET_GROUP", group.as_str())];
    let ferry = Pgferry::start_with(&Postgres::shared().url(), &["--port", "5433"], &env);
    let socket = ferry.dir().join(".s.PGSQL.5433");
    assert_eq!(fs::metadata(&socket).expect("there").permissions().mode() & 0o777, 0o750);
    let second = run_pgferry(&["-u", "postgres://db", "-l", ferry.host(), "-p", "5433"], &[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains(&format!("in use by process {}", ferry.pid())), "{}", stderr(&second));
    assert!(socket.exists());
}

#[test]
fn a_stale_socket_is_taken_over() {
    let postgres = Postgres::shared();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8").to_owned();
    let url = postgres.url();
    let mut command = command();
    let killed = ChildProcess::spawn(command.args(["-u", &url, "-l", &path]).stderr(std::process::Stdio::null()));
    crate::harness::eventually("it listens", || dir.path().join(".s.PGSQL.5432").exists());
    drop(killed);
    assert!(dir.path().join(".s.PGSQL.5432").exists(), "nobody has cleaned up");
    let ferry = Pgferry::spawn(dir, &["-u", &url, "-l", &path], &[]);
    assert_eq!(ferry.session().value("select 1"), "1");
}

#[test]
fn running_out_of_descriptors_ends_nothing() {
    let postgres = Postgres::shared();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8").to_owned();
    let url = postgres.url();
    // More clients than descriptors: those beyond wait in the backlog.
    let mut command = crate::harness::pgferry::program("sh");
    command
        .args(["-c", "ulimit -n 40; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_pgferry"), "-u", &url, "-l", &path])
        .env("PGFERRY_MAX_CLIENT_CONN", "1000")
        .stderr(std::process::Stdio::null());
    let _child = ChildProcess::spawn(&mut command);
    let socket = dir.path().join(".s.PGSQL.5432");
    crate::harness::eventually("it listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let mut held: Vec<_> = (0..60).map(|_| crate::harness::ProtocolClient::unix(&socket)).collect();
    held.clear();
    crate::harness::eventually("clients are served again", || {
        let mut raw = crate::harness::ProtocolClient::unix(&socket);
        raw.send(&crate::harness::protocol_client::startup(&[("user", "trust_user"), ("database", "postgres")]));
        raw.until_ready().last().is_some_and(|message| message.tag == b'Z')
    });
}

#[test]
fn open_files_suffice_for_clients_and_for_as_many_connections_as_the_server_has() {
    let postgres = Postgres::start_with(&["max_connections=180"]);
    for (files, server_conns) in [(1000, 180), (400, 100)] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_str().expect("UTF-8").to_owned();
        let limit = format!("ulimit -n {files}; exec \"$@\"");
        let url = postgres.url();
        let mut command = crate::harness::pgferry::program("sh");
        command
            .args(["-c", &limit, "sh", env!("CARGO_BIN_EXE_pgferry"), "-u", &url, "-l", &path])
            .args(["--port", "5432"])
            .stderr(std::process::Stdio::null());
        let _child = ChildProcess::spawn(&mut command);
        let socket = dir.path().join(".s.PGSQL.5432");
        crate::harness::eventually("it listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        let config = |name: &str| -> usize {
            let connection = format!("host={path} port=5432 user=pgferry dbname=pgferry");
            let table = crate::harness::psql(&connection, "", "show config").expect("a table");
            let prefix = format!("{name}|");
            let row = table.lines().find_map(|line| line.strip_prefix(&prefix)).expect("a row");
            row.split('|').next().and_then(|value| value.parse().ok()).expect("a number")
        };
        let before = config("max_client_conn");
        let mut raw = crate::harness::ProtocolClient::unix(&socket).logged_in("trust_user", "postgres");
        assert_eq!(raw.value("select 1"), "1");
        crate::harness::eventually("the number of clients follows the server's", || {
            config("max_client_conn") + 2 * server_conns == before + 2 * 100
        });
    }
}

#[test]
fn completions_know_every_command() {
    let help = run_pgferry(&["--help"], &[]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let commands: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split(' ').next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() >= 9, "{commands:?}");
    for shell in ["bash", "fish", "zsh"] {
        let script = run_pgferry(&["completions", shell], &[]);
        let script = String::from_utf8_lossy(&script.stdout).into_owned();
        assert!(commands.iter().all(|name| script.contains(name)) && script.contains("pool-mode"), "{shell}: {script}");
    }
    assert_eq!(run_pgferry(&["completions", "tcsh"], &[]).status.code(), Some(2));
}
