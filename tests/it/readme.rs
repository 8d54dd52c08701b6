//! README.md: its commands are run, its configurations loaded.

use std::fs;
use std::path::Path;

use crate::harness::pgferry::{command, program};
use crate::harness::{Pgferry, Postgres, postgres};

/// A fenced block: its language and its text.
type Block = (String, String);

fn readme() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("readable")
}

fn blocks() -> Vec<Block> {
    let text = readme();
    // Outside and inside take turns.
    let inside = text.split("\n```").skip(1).step_by(2);
    inside.map(|block| block.split_once('\n').expect("a language")).map(|(l, b)| (l.to_owned(), b.to_owned())).collect()
}

/// The commands of all `console` blocks, without their comments.
fn commands() -> Vec<String> {
    let consoles: Vec<_> = blocks().into_iter().filter(|(language, _)| language == "console").collect();
    let lines = consoles.iter().flat_map(|(_, text)| text.lines()).filter_map(|line| line.strip_prefix("$ "));
    lines.map(|line| line.split("  #").next().unwrap_or_default().trim().to_owned()).collect()
}

/// What stands between backticks and begins with `word`.
fn spans(word: &str) -> Vec<String> {
    let text = readme();
    let prose: String = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    let spans = prose.split('`').skip(1).step_by(2);
    spans.filter(|span| span.starts_with(&format!("{word} "))).map(|span| span.replace('\n', " ")).collect()
}

/// PostgreSQL with the role and the databases of README's examples.
fn postgres_of_the_examples() -> Postgres {
    let postgres = Postgres::start_with(&[]);
    for statement in ["create role app login password 'pw'", "create database shop owner app", "create database app"] {
        postgres.sql(statement);
    }
    postgres.prepend_hba("host all app 127.0.0.1/32 scram-sha-256");
    postgres
}

/// Replaces README's places by ours.
fn here(text: &str, postgres: &Postgres, dir: &str) -> String {
    let server = format!("127.0.0.1:{}", postgres.port);
    text.replace("app@db.example/", &format!("app@{server}/"))
        .replace("db.example:5432", &server)
        .replace("/run/pgferry", dir)
        .replace("/tmp/pgferry", dir)
        .replace("target/release/pgferry", env!("CARGO_BIN_EXE_pgferry"))
}

/// Runs a command line as a person would in `dir`, with pgferry in the path: its status and what it printed.
fn shell(line: &str, dir: &str) -> (Option<i32>, String) {
    let bin = Path::new(env!("CARGO_BIN_EXE_pgferry")).parent().expect("a directory").to_str().expect("UTF-8");
    let path = format!("{bin}:{}:{}", postgres::bin(), std::env::var("PATH").unwrap_or_default());
    let output = program("timeout")
        .args(["--kill-after=5", "120", "sh", "-c", line])
        .envs([("PATH", path.as_str()), ("PGFERRY_LISTEN", dir), ("PGPASSWORD", "pw"), ("PGCONNECT_TIMEOUT", "20")])
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("sh");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn every_command_runs() {
    let postgres = postgres_of_the_examples();
    let mut served = None;
    let mut ran = Vec::new();
    for line in commands() {
        if line.starts_with("make ") {
            continue; // `targets_exist` looks at these.
        }
        let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
        if line.contains("--upstream") {
            // It goes on for as long as the others need it.
            let host = dir.path().to_str().expect("UTF-8").to_owned();
            let words: Vec<_> = here(&line, &postgres, &host).split(' ').skip(1).map(str::to_owned).collect();
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let ferry = Pgferry::spawn(dir, &words, &[]);
            ferry.logs("INFO ready: clients connect with \"host=");
            served = Some(ferry);
        } else {
            let ferry = served.as_ref().expect("README starts pgferry first");
            let (status, said) = shell(&here(&line, &postgres, ferry.host()), ferry.host());
            assert_eq!(status, Some(0), "{line}: {said}");
            if line.contains("PAUSE") {
                assert_eq!(shell("pgferry ctl RESUME shop", ferry.host()).0, Some(0));
            }
        }
        ran.push(line);
    }
    assert!(ran.len() >= 5, "{ran:?}");
}

#[test]
fn every_command_in_the_prose_runs() {
    let postgres = postgres_of_the_examples();
    let ferry = Pgferry::start(&postgres, &[]);
    let host = ferry.host();
    let server = format!("postgres://127.0.0.1:{}", postgres.port);
    let rules = blocks().into_iter().find(|(language, text)| language == "toml" && text.contains("[[rule]]"));
    let ini = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import/web.ini");
    for (name, text) in [("rules.toml", rules.expect("an example of rules").1), ("myapp", "#!/bin/sh\n".to_owned())] {
        fs::write(ferry.dir().join(name), text).expect("written");
    }
    for line in spans("pgferry") {
        // What README leaves out, since it is said elsewhere on the page.
        let (line, statuses): (_, &[i32]) = match line.as_str() {
            "pgferry check" => (format!("PGFERRY_UPSTREAM={server} pgferry check"), &[0]),
            // Its verdict is about this machine.
            "pgferry doctor -u postgres://app@db.example/shop" => (line, &[0, 1, 2]),
            "pgferry check --user reports --from tls:10.1.2.3" => (format!("{line} -c rules.toml"), &[0]),
            "pgferry health" => (format!("PGFERRY_UPSTREAM={server} {line}"), &[0]),
            "pgferry wait --for 30s -- myapp --flag" => {
                (format!("chmod +x myapp && PATH=$PATH:. PGFERRY_UPSTREAM={server} {line}"), &[0])
            }
            "pgferry import-pgbouncer /etc/pgbouncer/pgbouncer.ini >pgferry.toml" => {
                (line.replace("/etc/pgbouncer/pgbouncer.ini", ini), &[0])
            }
            "pgferry ctl" => ("pgferry ctl SHOW VERSION".to_owned(), &[0]),
            // It goes on: the tests of reloads run it.
            "pgferry --replace …" => ("pgferry --help | grep -e --replace".to_owned(), &[0]),
            _ => (line, &[0]),
        };
        let (status, said) = shell(&here(&line, &postgres, host), host);
        assert!(status.is_some_and(|status| statuses.contains(&status)), "{line}: {status:?} {said}");
    }
}

#[test]
fn every_configuration_loads() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut loaded = 0;
    for (language, text) in blocks() {
        if language == "toml" {
            let path = dir.path().join("pgferry.toml");
            fs::write(&path, &text).expect("written");
            let output = command().args(["check", "-c", path.to_str().expect("UTF-8")]).output().expect("pgferry");
            assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
            loaded += 1;
        }
    }
    assert!(loaded >= 2, "{loaded}");
    let known = ["console", "toml", "text"];
    let other: Vec<_> = blocks().into_iter().filter(|(language, _)| !known.contains(&language.as_str())).collect();
    assert!(other.is_empty(), "no test runs or loads these: {other:?}");
}

/// `make systemd` takes the commands of root from this section and runs them in a container.
#[test]
fn commands_of_root_stand_where_a_test_runs_them() {
    let text = readme();
    let section = text.split("\n## As a service\n").nth(1).expect("the section").split("\n## ").next().expect("text");
    let mut found = 0;
    for (_, block) in blocks().into_iter().filter(|(language, _)| language == "console") {
        for line in block.lines().filter(|line| line.starts_with("# ")) {
            assert!(section.contains(line), "no test runs {line}");
            found += 1;
        }
    }
    assert!(found >= 5, "{found}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/run.sh");
    assert!(fs::read_to_string(script).expect("readable").contains("## As a service"));
}

#[test]
fn targets_exist() {
    let makefile = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Makefile")).expect("readable");
    let lines = commands().into_iter().filter(|line| line.starts_with("make ")).chain(spans("make"));
    let targets: Vec<_> = lines.map(|line| line.split(' ').nth(1).expect("a target").to_owned()).collect();
    assert!(targets.len() >= 8, "{targets:?}");
    for target in targets {
        assert!(makefile.contains(&format!("\n{target}: ")), "make {target}");
    }
}

#[test]
fn libpqs_connection_strings_connect() {
    let postgres = postgres_of_the_examples();
    let ferry = Pgferry::start(&postgres, &[]);
    let text = readme();
    let mut connected = 0;
    for row in text.lines().filter(|line| line.starts_with("| libpq ")) {
        let after = row.split('`').nth(3).expect("a connection string");
        let string = here(after, &postgres, ferry.host());
        let said = crate::harness::psql(&string, "pw", "select current_user || ' ' || current_database()");
        assert_eq!(said.as_deref(), Ok("app shop"), "{row}");
        connected += 1;
    }
    assert_eq!(connected, 2);
}
