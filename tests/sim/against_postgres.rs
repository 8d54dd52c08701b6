//! The model held against a real PostgreSQL: the same scripts must give the same transcripts, and leave the same rows.
//!
//! `SIM_SECONDS=600` runs scripts for ten minutes instead of one, `SIM_SEED=7` runs the script of one seed.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::alone::{self, USER};
use crate::generator::{self, Options};
use crate::harness::{Postgres, Raw};
use crate::model::Cluster;
use crate::script::Script;
use crate::shrink::shrink;
use crate::transcript::Transcript;

const SETUP: &str = include_str!("setup.sql");
const DATABASES: [&str; 2] = ["alpha", "beta"];

/// The tables whose rows are compared at the end.
const TABLES: [(&str, &str); 6] =
    [("public", "t"), ("public", "u"), ("public", "numbered"), ("public", "v"), ("one", "v"), ("two", "v")];

/// What makes tables and sequences as they were, unless they were altered.
const EMPTY: &str = "delete from public.t; delete from public.u; delete from public.numbered; \
    select setval('code.seq', 1, false), setval('code.numbers', 1, false)";

/// How long the server may take to say what the model says.
const SOON: Duration = Duration::from_secs(1);

/// A real server, and a connection to each database to prepare and look at it.
struct Real {
    port: u16,
    admins: Vec<Raw>,
    /// The databases that have their tables.
    built: BTreeSet<String>,
}

/// A transcript, and the rows at the end.
type Outcome = (Transcript, Vec<String>);

impl Real {
    fn start() -> (Self, Postgres) {
        let postgres = Postgres::start_with(&["max_connections=300", "timezone='UTC'", "log_min_messages=fatal"]);
        for database in DATABASES {
            postgres.sql(&format!("create database {database}"));
        }
        let admin = |database: &&str| Raw::tcp(postgres.port).logged_in(USER, database);
        (Self { port: postgres.port, admins: DATABASES.iter().map(admin).collect(), built: BTreeSet::new() }, postgres)
    }

    /// Makes the database of `script` as new; all of it only if a script before may have changed more than rows.
    fn reset(&mut self, script: &Script) {
        let built = !self.built.insert(script.database().to_owned());
        let answers = self.admin(script).query(if built { EMPTY } else { SETUP });
        assert!(answers.iter().all(|message| message.tag != b'E'), "{answers:?}");
    }

    fn admin(&mut self, script: &Script) -> &mut Raw {
        let at = DATABASES.iter().position(|database| *database == script.database()).unwrap_or(0);
        &mut self.admins[at]
    }

    /// Runs `script` on the server; reads as many messages as `model` has wherever the client waits.
    fn run(&mut self, script: &Script, model: &Transcript) -> Outcome {
        self.reset(script);
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        socket.set_nodelay(true).expect("no delay");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        let mut transcript = Transcript::default();
        let mut waits = model.waits.iter();
        // A server that has ended the connection takes no more.
        let _ = socket.write_all(&script.startup_packet(USER));
        let mut wait = |socket: &mut TcpStream, transcript: &mut Transcript| {
            let enough = waits.next().copied().unwrap_or_default();
            while transcript.seen.len() < enough && receive(socket, transcript) {}
            transcript.waited();
        };
        wait(&mut socket, &mut transcript);
        for write in &script.writes {
            let _ = socket.write_all(&write.bytes());
            if write.wait {
                wait(&mut socket, &mut transcript);
            }
            if write.cut.is_some() {
                break;
            }
        }
        let _ = socket.shutdown(Shutdown::Write);
        while receive(&mut socket, &mut transcript) {}
        let rows = self.rows(script);
        let views = rows.iter().filter(|row| row.starts_with('v')).count();
        if views != TABLES.iter().filter(|(_, table)| *table == "v").count() || script.to_string().contains("alter table") {
            self.built.remove(script.database());
        }
        (transcript, rows)
    }

    fn rows(&mut self, script: &Script) -> Vec<String> {
        let admin = self.admin(script);
        let mut all = Vec::new();
        for (schema, table) in TABLES {
            let answer = admin.query(&format!("select * from {schema}.{table}"));
            all.extend(answer.iter().filter(|m| m.tag == b'D').map(|m| format!("{table}: {}", m.columns().join(","))));
        }
        all.sort();
        all
    }
}

/// Receives something. Says whether there may be more.
fn receive(socket: &mut TcpStream, transcript: &mut Transcript) -> bool {
    let mut buffer = [0; 16 * 1024];
    match socket.read(&mut buffer) {
        Ok(0) => {
            transcript.closed = true;
            false
        }
        Ok(n) => {
            transcript.feed(&buffer[..n]);
            true
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(_) => {
            transcript.closed = true;
            false
        }
    }
}

/// What the model makes of `script`, unless that is beyond it.
fn modelled(script: &Script) -> Option<Outcome> {
    let mut cluster = Cluster::new(&DATABASES);
    let transcript = alone::run(&mut cluster, script);
    assert!(cluster.is_quiet(), "locks are left:\n{script}");
    let mut all = Vec::new();
    for (schema, table) in TABLES {
        for row in cluster.rows(script.database(), schema, table) {
            let cells: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
            all.push(format!("{table}: {}", cells.join(",")));
        }
    }
    all.sort();
    let beyond = cluster.beyond().is_empty();
    beyond.then_some((transcript, all))
}

/// How the model and the server differ on `script`.
fn difference(real: &mut Real, script: &Script) -> Option<String> {
    let (model, model_rows) = modelled(script)?;
    let (server, server_rows) = real.run(script, &model);
    if let Some(difference) = model.difference(&server) {
        return Some(format!("message {}\n model: {}\nserver: {}", difference.at, difference.left, difference.right));
    }
    (model_rows != server_rows).then(|| format!("rows\n model: {model_rows:?}\nserver: {server_rows:?}"))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn check(real: &mut Real, seed: u64) -> Option<String> {
    let script = generator::script(seed, Options::default());
    difference(real, &script)?;
    let smallest = shrink(script, 300, |candidate| difference(real, candidate).is_some());
    let differs = difference(real, &smallest).unwrap_or_default();
    Some(format!("seed {seed}\n{smallest}{differs}\n"))
}

#[test]
fn the_model_says_what_the_server_says() {
    let (mut real, _postgres) = Real::start();
    if let Some(seed) = number("SIM_SEED") {
        let difference = check(&mut real, seed).unwrap_or_default();
        assert!(difference.is_empty(), "\n{difference}");
        return;
    }
    let limit = Duration::from_secs(number("SIM_SECONDS").unwrap_or(45));
    let most = usize::try_from(number("SIM_DIFFERENCES").unwrap_or(1)).unwrap_or(1);
    let start = Instant::now();
    let (mut seed, mut found) = (number("SIM_FROM").unwrap_or(1), Vec::new());
    while start.elapsed() < limit && found.len() < most {
        if let Some(difference) = check(&mut real, seed) {
            eprintln!("{difference}");
            found.push(difference);
        }
        seed += 1;
    }
    println!("{seed} scripts in {:?}", start.elapsed());
    assert!(found.is_empty(), "{} differences, which are told above", found.len());
    assert!(seed > 100, "only {seed} scripts");
}
