//! README.md, docs/ and their neighbours: commands are run, configurations loaded, statements executed, links followed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::harness::pgferry::{command, program};
use crate::harness::{Certs, Pgferry, Postgres, postgres};

const TOP: &str = env!("CARGO_MANIFEST_DIR");

/// The section with the commands of root, which `make systemd` runs in a container.
const AS_A_SERVICE: (&str, &str) = ("docs/install.md", "## As a service");

/// A page: its path from the top, and its text.
struct Page {
    name: String,
    text: String,
}

/// A fenced block of a page.
struct Block {
    page: String,
    language: String,
    text: String,
}

/// README.md, docs/ and the other pages at the top that people read.
fn pages() -> Vec<Page> {
    let docs = fs::read_dir(format!("{TOP}/docs")).expect("docs/");
    let docs = docs.map(|entry| format!("docs/{}", entry.expect("a file").file_name().to_string_lossy()));
    let mut names: Vec<_> =
        docs.filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "md")).collect();
    names.sort();
    let top = ["README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "ARCHITECTURE.md"].map(str::to_owned);
    let names = top.into_iter().chain(names);
    names.map(|name| Page { text: fs::read_to_string(format!("{TOP}/{name}")).expect("readable"), name }).collect()
}

impl Page {
    /// Outside of fences (even) and inside (odd), in turns. A fence may be indented, as a part of a list.
    fn parts(&self) -> impl Iterator<Item = (bool, String)> {
        let mut parts = vec![String::new()];
        for line in self.text.lines() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                parts.push(language.to_owned());
            } else if let Some(part) = parts.last_mut() {
                part.push('\n');
                part.push_str(line);
            }
        }
        parts.into_iter().enumerate().map(|(at, part)| (at % 2 == 1, part))
    }

    fn blocks(&self) -> Vec<Block> {
        let inside = self.parts().filter(|(inside, _)| *inside).map(|(_, part)| part);
        let block = |part: String| {
            let (language, text) = part.split_once('\n').expect("a language");
            Block { page: self.name.clone(), language: language.to_owned(), text: text.to_owned() }
        };
        inside.map(block).collect()
    }

    fn prose(&self) -> String {
        self.parts().filter(|(inside, _)| !inside).map(|(_, part)| part).collect::<Vec<_>>().join("\n")
    }

    /// What stands between backticks and begins with `word`.
    fn spans(&self, word: &str) -> Vec<String> {
        let prose = self.prose();
        let spans = prose.split('`').skip(1).step_by(2);
        spans.filter(|span| span.starts_with(&format!("{word} "))).map(|span| span.replace('\n', " ")).collect()
    }
}

fn blocks() -> Vec<Block> {
    pages().iter().flat_map(Page::blocks).collect()
}

fn blocks_of(language: &str) -> Vec<Block> {
    blocks().into_iter().filter(|block| block.language == language).collect()
}

/// The commands of `console` blocks, without their comments.
fn commands() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for block in blocks_of("console") {
        let lines = block.text.lines().filter_map(|line| line.strip_prefix("$ "));
        all.extend(
            lines.map(|line| (block.page.clone(), line.split("  #").next().unwrap_or_default().trim().to_owned())),
        );
    }
    all
}

/// PostgreSQL with the role and the databases of the examples.
fn postgres_of_the_examples() -> Postgres {
    let postgres = Postgres::start_with(&[]);
    for statement in ["create role app login password 'pw'", "create database shop owner app", "create database app"] {
        postgres.sql(statement);
    }
    postgres.prepend_hba("host all app 127.0.0.1/32 scram-sha-256");
    postgres
}

/// Replaces the examples' places by ours.
fn here(text: &str, postgres: &Postgres, dir: &str, admin: &str) -> String {
    let server = format!("127.0.0.1:{}", postgres.port);
    text.replace("app@db.example/", &format!("app@{server}/"))
        .replace("db.example:5432", &server)
        .replace("127.0.0.1:9930", admin)
        .replace("/etc/pgbouncer/pgbouncer.ini", &format!("{TOP}/tests/import/web.ini"))
        .replace("/run/pgferry", dir)
        .replace("/tmp/pgferry", dir)
        .replace("target/release/pgferry", env!("CARGO_BIN_EXE_pgferry"))
}

/// Runs a command line as a person would in `dir`, with pgferry in the path: its status and what it printed.
fn shell(line: &str, dir: &str, env: &[(&str, &str)]) -> (Option<i32>, String) {
    let bin = Path::new(env!("CARGO_BIN_EXE_pgferry")).parent().expect("a directory").to_str().expect("UTF-8");
    let path = format!("{bin}:{}:{}", postgres::bin(), std::env::var("PATH").unwrap_or_default());
    let output = program("timeout")
        .args(["--kill-after=5", "120", "sh", "-c", line])
        .envs([("PATH", path.as_str()), ("PGFERRY_LISTEN", dir), ("PGPASSWORD", "pw"), ("PGCONNECT_TIMEOUT", "20")])
        .env("PGUSER", "app")
        .envs(env.iter().copied())
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
    let admin = format!("127.0.0.1:{}", crate::harness::postgres::free_port());
    let mut served = None;
    let mut ran = Vec::new();
    for (page, line) in commands() {
        if line.starts_with("make ") || line.starts_with("cargo ") || line.starts_with("git ") {
            continue; // `targets_exist` looks at the first; the others build and test this very tree.
        }
        if line.contains("--upstream") {
            // It goes on for as long as the others need it.
            let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
            let host = dir.path().to_str().expect("UTF-8").to_owned();
            let words: Vec<_> = here(&line, &postgres, &host, &admin).split(' ').skip(1).map(str::to_owned).collect();
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let ferry = Pgferry::spawn(dir, &words, &[("PGFERRY_ADMIN_LISTEN", &admin)]);
            ferry.logs("INFO ready: clients connect with \"host=");
            served = Some(ferry);
        } else {
            let ferry = served.as_ref().expect("README starts pgferry first");
            let server = format!("postgres://127.0.0.1:{}", postgres.port);
            let env = [("PGFERRY_UPSTREAM", server.as_str()), ("PGFERRY_ADMIN_LISTEN", &admin)];
            let (status, said) = shell(&here(&line, &postgres, ferry.host(), &admin), ferry.host(), &env);
            assert_eq!(status, Some(0), "{page}: {line}: {said}");
            if line.contains("PAUSE") {
                assert_eq!(shell("pgferry ctl RESUME shop", ferry.host(), &env).0, Some(0));
            }
        }
        ran.push(line);
    }
    assert!(ran.len() >= 10, "{ran:?}");
}

#[test]
fn every_command_in_the_prose_runs() {
    let postgres = postgres_of_the_examples();
    let ferry = Pgferry::start(&postgres, &[]);
    let host = ferry.host();
    let server = format!("postgres://127.0.0.1:{}", postgres.port);
    let rules = blocks_of("toml").into_iter().find(|block| block.text.contains("[[rule]]"));
    for (name, text) in [("rules.toml", rules.expect("an example of rules").text), ("myapp", "#!/bin/sh\n".to_owned())]
    {
        fs::write(ferry.dir().join(name), text).expect("written");
    }
    let mut ran = 0;
    for page in pages() {
        for line in page.spans("pgferry") {
            // What the pages leave out, since it is said elsewhere.
            let (line, statuses): (_, &[i32]) = match line.as_str() {
                // Their verdict is about this machine.
                _ if line.starts_with("pgferry doctor") => (line.replace("UID", "0"), &[0, 1, 2]),
                "pgferry check --user reports --from tls:10.1.2.3" => (format!("{line} -c rules.toml"), &[0]),
                "pgferry check --user" => (format!("{line} app"), &[0]),
                "pgferry wait --for 30s -- myapp --flag" => (format!("chmod +x myapp && PATH=$PATH:. {line}"), &[0]),
                // It is a message.
                "pgferry can't log in to the upstream server for this user" => continue,
                "pgferry ctl" => ("pgferry ctl SHOW VERSION".to_owned(), &[0]),
                "pgferry completions <shell>" => ("pgferry completions bash".to_owned(), &[0]),
                // It goes on: the tests of reloads run it.
                "pgferry --replace …" => ("pgferry --help | grep -e --replace".to_owned(), &[0]),
                _ => (line, &[0]),
            };
            let line = here(&line, &postgres, host, "");
            let (status, said) = shell(&line, host, &[("PGFERRY_UPSTREAM", &server)]);
            assert!(
                status.is_some_and(|status| statuses.contains(&status)),
                "{}: {line}: {status:?} {said}",
                page.name
            );
            ran += 1;
        }
    }
    assert!(ran >= 15, "{ran}");
}

#[test]
fn every_configuration_loads() {
    let dir = tempfile::tempdir().expect("a directory");
    let certs = Certs::new();
    let (certificate, key) = certs.make_self_signed("tls", &["localhost"]);
    let mut loaded = BTreeMap::<_, usize>::new();
    for block in blocks() {
        let (subcommand, name) = match block.language.as_str() {
            "toml" => (&["check", "-c"][..], "pgferry.toml"),
            "ini" => (&["import-pgbouncer"][..], "pgbouncer.ini"),
            _ => continue,
        };
        let path = dir.path().join(name);
        let text = block.text.replace("/etc/pgferry/tls.crt", &certificate).replace("/etc/pgferry/tls.key", &key);
        fs::write(&path, text).expect("written");
        let mut check = command();
        check.args(subcommand).arg(&path);
        if !block.text.contains("upstream = ") {
            check.env("PGFERRY_UPSTREAM", "postgres://db.example");
        }
        let output = check.output().expect("pgferry");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}\n{}", block.page, block.text);
        *loaded.entry(block.language).or_default() += 1;
    }
    assert!(loaded["toml"] >= 8 && loaded["ini"] >= 1, "{loaded:?}");
    let known = ["console", "toml", "ini", "sql", "sh", "yaml", "text"];
    let other = blocks().into_iter().find(|block| !known.contains(&block.language.as_str()));
    assert!(other.is_none(), "no test runs or loads this block of {}", other.expect("one").page);
}

#[test]
fn every_statement_is_executed_in_transaction_mode() {
    let postgres = postgres_of_the_examples();
    let ferry = Pgferry::start(&postgres, &["--pool-mode", "transaction"]);
    let mut executed = 0;
    for block in blocks_of("sql") {
        let connection = format!("host={} dbname=shop user=app", ferry.host());
        let said = crate::harness::psql(&connection, "pw", &block.text);
        assert!(said.is_ok(), "{}: {said:?}\n{}", block.page, block.text);
        executed += 1;
    }
    assert!(executed >= 1);
}

/// The commands that make a certificate make one that pgferry loads.
#[test]
fn every_script_runs_and_its_certificate_loads() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8");
    let scripts = blocks_of("sh");
    assert_eq!(scripts.len(), 1, "this test knows every script");
    for script in scripts {
        let (status, said) = shell(&script.text, path, &[]);
        assert_eq!(status, Some(0), "{}: {said}", script.page);
    }
    let page = pages().into_iter().find(|page| page.name == "docs/connecting.md").expect("the page");
    let settings = page.spans("client_tls_cert_file").into_iter().chain(page.spans("client_tls_key_file"));
    let settings: Vec<_> = settings.filter(|setting| setting.contains("pgferry.")).collect();
    assert_eq!(settings.len(), 2, "{settings:?}");
    fs::write(dir.path().join("pgferry.toml"), settings.join("\n")).expect("written");
    let (status, said) = shell("pgferry check -c pgferry.toml", path, &[("PGFERRY_UPSTREAM", "postgres://db.example")]);
    assert_eq!(status, Some(0), "{said}");
}

/// Parts of Kubernetes' example are quoted as they are.
#[test]
fn every_manifest_is_a_part_of_the_example() {
    let example = fs::read_to_string(format!("{TOP}/docker/kubernetes.yaml")).expect("readable");
    let parts = blocks_of("yaml");
    assert!(parts.len() >= 2);
    for part in parts {
        assert!(example.contains(part.text.trim_matches('\n')), "{}:\n{}", part.page, part.text);
    }
}

/// Files of this tree that the image is built with are among those that Docker is shown.
#[test]
fn the_image_is_built_of_what_docker_sees() {
    let read = |name: &str| fs::read_to_string(format!("{TOP}/docker/{name}")).expect("readable");
    let ignored = read("Dockerfile.dockerignore");
    let is_seen = |path: &str| {
        let covers =
            |pattern: &str| path == pattern || path.starts_with(&format!("{}/", pattern.trim_end_matches("/*")));
        ignored.lines().rfind(|line| covers(line.trim_start_matches('!'))).is_none_or(|line| line.starts_with('!'))
    };
    let (mut used, file) = (0, read("Dockerfile"));
    let steps = file.lines().filter(|line| !line.starts_with('#') && !line.contains("--from="));
    for word in steps.flat_map(str::split_whitespace).filter(|word| *word != "." && Path::new(TOP).join(word).is_file())
    {
        assert!(is_seen(word), "{word}");
        used += 1;
    }
    assert!(used >= 3, "{used}");
    assert!(is_seen("src/main.rs") && !is_seen("target/release/pgferry") && !is_seen("docker/compose.yaml"));
}

#[test]
fn commands_of_root_stand_where_a_test_runs_them() {
    let page = pages().into_iter().find(|page| page.name == AS_A_SERVICE.0).expect("the page");
    let section = page.text.split(&format!("\n{}\n", AS_A_SERVICE.1)).nth(1).expect("the section").to_owned();
    let section = section.split("\n## ").next().expect("text");
    let mut found = 0;
    for block in blocks_of("console") {
        for line in block.text.lines().filter(|line| line.starts_with("# ")) {
            assert!(section.contains(line), "{}: no test runs {line}", block.page);
            found += 1;
        }
    }
    assert!(found >= 5, "{found}");
    let script = fs::read_to_string(format!("{TOP}/tests/systemd/run.sh")).expect("readable");
    assert!(script.contains(AS_A_SERVICE.0) && script.contains(AS_A_SERVICE.1));
}

#[test]
fn targets_exist() {
    let makefile = fs::read_to_string(format!("{TOP}/Makefile")).expect("readable");
    let lines = commands().into_iter().map(|(_, line)| line).filter(|line| line.starts_with("make "));
    let lines = lines.chain(pages().into_iter().flat_map(|page| page.spans("make")));
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
    let mut connected = 0;
    // README has them as "before" and "after", docs/connecting.md has the second only; `make interop` runs all of it.
    for page in pages().into_iter().filter(|page| ["README.md", "docs/connecting.md"].contains(&page.name.as_str())) {
        let rows = ["| libpq URI", "| libpq keywords", "| psql | unix socket |"];
        let is_ours = |line: &&str| line.contains("/run/pgferry") && rows.iter().any(|row| line.starts_with(row));
        for row in page.text.lines().filter(is_ours) {
            let after = row.split('`').rfind(|part| part.contains("/run/pgferry")).expect("a string");
            let string = here(after, &postgres, ferry.host(), "");
            let said = crate::harness::psql(&string, "pw", "select current_user || ' ' || current_database()");
            assert_eq!(said.as_deref(), Ok("app shop"), "{row}");
            connected += 1;
        }
    }
    assert_eq!(connected, 5);
}

/// `make interop` connects as each row of the page says; here, what it finds on the page.
#[test]
fn every_connection_of_a_driver_is_one_that_interop_makes() {
    let script = format!("{TOP}/tests/interop/connect/connect.py");
    let (status, said) = shell(&format!("/usr/bin/python3 {script} --read"), TOP, &[]);
    assert_eq!(status, Some(0), "{said}");
    let page = pages().into_iter().find(|page| page.name == "docs/connecting.md").expect("the page");
    let tables = page.text.split("\n\n").filter(|part| part.starts_with("| driver | over | connection |"));
    let rows = tables.map(|table| table.trim_end().lines().count() - 2).sum::<usize>();
    let (absent, found): (Vec<_>, Vec<_>) = said.lines().partition(|line| line.contains("not by an abstract socket"));
    assert_eq!(found.len(), rows, "{said}");
    assert!(rows > 60 && absent.len() > 4, "{said}");
}

/// Relative links lead to files, and to headings in them.
#[test]
fn links_lead_somewhere() {
    let anchor = |heading: &str| {
        let lower = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = lower.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
    };
    let mut followed = 0;
    for page in pages() {
        let dir = Path::new(TOP).join(&page.name).parent().expect("a directory").to_owned();
        let prose = page.prose();
        for link in prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or_default()) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
            let path = if file.is_empty() { Path::new(TOP).join(&page.name) } else { dir.join(file) };
            assert!(path.exists(), "{}: {link}", page.name);
            if let Some(heading) = heading {
                let text = fs::read_to_string(&path).expect("readable");
                let known = text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(known, "{}: {link}: no such heading", page.name);
            }
            followed += 1;
        }
    }
    assert!(followed >= 40, "{followed}");
}

#[test]
fn readme_is_short() {
    let text = fs::read_to_string(format!("{TOP}/README.md")).expect("readable");
    assert!(text.lines().count() <= 150, "{} lines", text.lines().count());
    let mut inside = false;
    for line in text.lines() {
        inside ^= line.starts_with("```");
        // What the program prints is not cut.
        assert!(inside || line.chars().count() <= 120, "{line}");
    }
}

/// Settings in backticks that are written as such exist.
#[test]
fn settings_exist() {
    let mut named = 0;
    for page in pages() {
        let prose = page.prose();
        for span in prose.split('`').skip(1).step_by(2) {
            let Some((name, _)) = span.split_once(" = ") else { continue };
            let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !name.is_empty();
            if !is_name || ["cert_name", "method", "panic"].contains(&name) {
                continue;
            }
            assert!(pgferry::internals::config::keys::find(name).is_some(), "{}: {span}", page.name);
            named += 1;
        }
    }
    assert!(named >= 20, "{named}");
}

/// Files of this tree that pages name in backticks are there.
#[test]
fn files_exist() {
    let mut named = 0;
    for page in pages() {
        let prose = page.prose();
        for span in prose.split('`').skip(1).step_by(2) {
            let folders = ["src/", "tests/", "config/", "docs/", "docker/", "fuzz/"];
            let is_file = folders.iter().any(|folder| span.starts_with(folder)) && !span.contains([' ', '*', ':']);
            if is_file {
                assert!(Path::new(TOP).join(span).exists(), "{}: {span}", page.name);
                named += 1;
            }
        }
    }
    assert!(named >= 20, "{named}");
}

/// Whether `text` has `name` as a whole word.
fn has_word(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.split(|c| !is_part(c)).any(|word| word == name)
}

/// Files and items that ARCHITECTURE.md names in backticks are there: files by the end of their path, items by their modules
/// or their type.
#[test]
fn the_architecture_names_what_there_is() {
    let page = pages().into_iter().find(|page| page.name == "ARCHITECTURE.md").expect("the page");
    let folders = ["src", "tests", "docker"].map(|folder| Path::new(TOP).join(folder));
    let paths: Vec<_> = folders.iter().flat_map(|folder| crate::layout::sources(folder)).collect();
    let sources: Vec<_> = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| (path.to_str().expect("UTF-8").to_owned(), fs::read_to_string(path).expect("readable")))
        .collect();
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '/' | '.');
    let (mut files, mut items) = (0, 0);
    for span in page.prose().split('`').skip(1).step_by(2).filter(|span| span.chars().all(is_name)) {
        if let Some(folder) = span.strip_suffix('/') {
            let found = paths.iter().any(|path| path.parent().is_some_and(|parent| parent.ends_with(folder)));
            assert!(found, "{span}: no such folder");
            files += 1;
        } else if [".rs", ".sh", ".md"].iter().any(|end| span.ends_with(end)) {
            let found = paths.iter().any(|path| path.ends_with(span)) || Path::new(TOP).join(span).exists();
            assert!(found, "{span}: no such file");
            files += 1;
        } else if let Some((path, name)) = span.rsplit_once("::") {
            let owner = path.rsplit("::").next().expect("a name");
            let is_type = owner.starts_with(char::is_uppercase);
            let found = sources.iter().any(|(file, text)| {
                let is_its = if is_type {
                    ["enum ", "struct ", "trait "].iter().any(|kind| text.contains(&format!("{kind}{owner}")))
                } else {
                    path.split("::").all(|module| file.contains(&format!("/{module}")))
                };
                let defines = || {
                    ["fn ", "struct ", "enum ", "trait ", "const ", "mod "].iter().any(|kind| {
                        text.split(kind).skip(1).any(|rest| rest.split(|c| !is_name(c)).next() == Some(name))
                    })
                };
                is_its && if is_type { has_word(text, name) } else { defines() }
            });
            assert!(found, "{span}: no such item");
            items += 1;
        } else if span.starts_with(char::is_uppercase) && span.contains(char::is_lowercase) {
            // A type, or a message of the protocol.
            assert!(sources.iter().any(|(_, text)| has_word(text, span)), "{span}: no such word in the sources");
            items += 1;
        }
    }
    assert!(files >= 60 && items >= 15, "{files} files, {items} items");
}

/// Where a page says that something is in a file, the file has it.
#[test]
fn names_are_in_the_files_that_pages_give() {
    let mut found = 0;
    for page in pages() {
        let prose = page.prose().replace('\n', " ");
        let parts: Vec<_> = prose.split('`').collect();
        for (name, between, file) in parts.windows(3).skip(1).step_by(2).map(|three| (three[0], three[1], three[2])) {
            if between != " in " || !file.starts_with("src/") || Path::new(file).extension().is_none_or(|e| e != "rs") {
                continue;
            }
            let text = fs::read_to_string(format!("{TOP}/{file}")).expect("readable");
            let last = name.rsplit("::").next().expect("a name");
            let defined = ["fn ", "const ", "struct "].iter().any(|kind| text.contains(&format!("{kind}{last}")));
            assert!(defined, "{}: {name} in {file}", page.name);
            found += 1;
        }
    }
    assert!(found >= 6, "{found}");
}
