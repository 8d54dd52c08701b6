//! The model held against a real PostgreSQL: the same scripts must give the same transcripts, and leave the same rows.
//!
//! `SIM_SECONDS=600` runs scripts for ten minutes instead of a fixed number of them, or fewer where the machine is busy,
//! `SIM_SEED=7` runs the script of one seed.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::alone::{self, USER};
use crate::decoration;
use crate::generator::{self, Options};
use crate::harness::{Message, Postgres, ProtocolClient, protocol_client};
use crate::model::{self, Cluster};
use crate::random::Random;
use crate::script::Script;
use crate::shrink::shrink;
use crate::together::{self, Moment, Played, Story};
use crate::transcript::{Difference, Transcript};

const SETUP: &str = include_str!("setup.sql");
const DATABASES: [&str; 2] = ["alpha", "beta"];

/// The tables whose rows are compared at the end.
const TABLES: [(&str, &str); 6] =
    [("public", "t"), ("public", "u"), ("public", "numbered"), ("public", "v"), ("one", "v"), ("two", "v")];

/// What makes tables and sequences as they were, unless they were altered.
const EMPTY: &str = "delete from public.t; delete from public.u; delete from public.numbered; \
    select setval(name, 1, false) from unnest(array['code.seq', 'code.seq0', 'code.seq1', 'code.seq2', 'code.seq3', 'code.numbers']) name";

/// How long the server may take to say what the model says.
const SOON: Duration = Duration::from_secs(3);

/// A real server, and a connection to each database to prepare and look at it.
struct Real {
    postgres: Postgres,
    admins: Vec<ProtocolClient>,
    /// The databases that have their tables.
    built: BTreeSet<String>,
}

/// A transcript, and the rows at the end.
type Outcome = (Transcript, Vec<String>);

/// What is said in SQL so that sessions begin as at first.
const BEGIN_AS_AT_FIRST: &str = "alter role trust_user reset all; alter role trust_user in database alpha reset all; \
    alter role trust_user in database beta reset all; alter database alpha reset all; alter database beta reset all";

impl Real {
    fn start() -> Self {
        let postgres = Postgres::start_with(&[
            "max_connections=300",
            "timezone='UTC'",
            "deadlock_timeout=10ms",
            "max_prepared_transactions=20",
            "log_min_messages=log",
        ]);
        for database in DATABASES {
            postgres.sql(&format!("create database {database}"));
        }
        let admin = |database: &&str| ProtocolClient::tcp(postgres.port).logged_in(USER, database);
        let admins = DATABASES.iter().map(admin).collect();
        Self { postgres, admins, built: BTreeSet::new() }
    }

    /// Makes the database of `script` as new; all of it only if a script before may have changed more than rows.
    fn reset(&mut self, script: &Script) {
        let built = !self.built.insert(script.database().to_owned());
        self.drop_prepared();
        let answers = self.ask(script, if built { EMPTY } else { SETUP });
        assert!(answers.iter().all(|message| message.tag != b'E'), "{answers:?}");
    }

    /// Has no transaction stay prepared.
    fn drop_prepared(&mut self) {
        for database in DATABASES {
            let there = Script { startup: vec![("database".to_owned(), database.to_owned())], writes: Vec::new() };
            let left = self.ask(&there, "select gid from pg_prepared_xacts where database = current_database()");
            for gid in left.iter().filter(|message| message.tag == b'D').map(|row| row.columns().remove(0)) {
                self.ask(&there, &format!("rollback prepared '{gid}'"));
            }
        }
    }

    /// Asks the server something in the database of `script`, which may have found what crashes a server.
    fn ask(&mut self, script: &Script, sql: &str) -> Vec<Message> {
        let at = DATABASES.iter().position(|database| *database == script.database()).unwrap_or(0);
        let admin = &mut self.admins[at];
        let sent = admin.try_send(&protocol_client::query(sql));
        let answers = if sent { admin.until_ready() } else { Vec::new() };
        assert!(!answers.is_empty(), "the server is gone:\n{script}{}", self.postgres.log());
        answers
    }

    /// Runs `script` on the server; reads as many messages as `model` has wherever the client waits.
    fn run(&mut self, script: &Script, model: &Transcript) -> Outcome {
        self.reset(script);
        let transcript = self.converse(script, model);
        let rows = self.rows(script);
        let views = rows.iter().filter(|row| row.starts_with('v')).count();
        if views != TABLES.iter().filter(|(_, table)| *table == "v").count() || alters_tables(&script.to_string()) {
            self.built.remove(script.database());
        }
        (transcript, rows)
    }

    /// Runs `script` on the server as it is.
    fn converse(&self, script: &Script, model: &Transcript) -> Transcript {
        let mut socket = self.connect();
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
            if write.rests() {
                wait(&mut socket, &mut transcript);
            }
            if write.wait || write.rests() {
                wait(&mut socket, &mut transcript);
            }
            if write.cut.is_some() {
                break;
            }
        }
        let _ = socket.shutdown(Shutdown::Write);
        while receive(&mut socket, &mut transcript) {}
        transcript
    }

    fn rows(&mut self, script: &Script) -> Vec<String> {
        // One may hold a lock that a reader waits for, and shows no rows.
        self.drop_prepared();
        let mut all = Vec::new();
        for (schema, table) in TABLES {
            let answer = self.ask(script, &format!("select * from {schema}.{table}"));
            all.extend(answer.iter().filter(|m| m.tag == b'D').map(|m| format!("{table}: {}", m.columns().join(","))));
        }
        all.sort();
        all
    }
}

impl Real {
    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.postgres.port)).expect("a connection");
        socket.set_nodelay(true).expect("no delay");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        socket
    }

    /// Plays `story` as the model did: after each step everybody has seen as much, and as many wait for locks.
    fn play(&mut self, story: &Story, model: &Played) -> (Vec<Transcript>, Vec<String>) {
        let alpha = Script::default();
        self.reset(&alpha);
        let mut clients: Vec<(TcpStream, Transcript)> =
            story.startups.iter().map(|_| (self.connect(), Transcript::default())).collect();
        let (logins, rest) = model.moments.split_at(clients.len());
        for (client, moment) in logins.iter().enumerate() {
            let _ = clients[client].0.write_all(&story.startup_packet(client));
            self.wait_for(&mut clients, moment);
        }
        for moment in rest {
            if let Some((client, write)) = story.steps.get(moment.step) {
                let _ = clients[*client].0.write_all(&write.bytes());
                if write.cut.is_some() {
                    let _ = clients[*client].0.shutdown(Shutdown::Write);
                }
            } else {
                let client = moment.step - story.steps.len();
                let _ = clients[client].0.shutdown(Shutdown::Write);
            }
            self.wait_for(&mut clients, moment);
        }
        let mut transcripts = Vec::new();
        for (mut socket, mut transcript) in clients {
            while receive(&mut socket, &mut transcript) {}
            transcripts.push(transcript);
        }
        let rows = self.rows(&alpha);
        if alters_tables(&story.to_string()) || rows.iter().filter(|row| row.starts_with('v')).count() != 3 {
            self.built.clear();
        }
        (transcripts, rows)
    }

    fn wait_for(&mut self, clients: &mut [(TcpStream, Transcript)], moment: &Moment) {
        for ((socket, transcript), (enough, closed)) in clients.iter_mut().zip(moment.seen.iter().zip(&moment.closed)) {
            // A session that has ended holds its locks until its connection has.
            while (transcript.seen.len() < *enough || (*closed && !transcript.closed)) && receive(socket, transcript) {}
        }
        // A client that waits must have begun to before the next one does anything.
        let deadline = Instant::now() + SOON;
        while moment.waiting > 0 && Instant::now() < deadline {
            let answer = self.ask(&Script::default(), "select count(distinct pid) from pg_locks where not granted");
            let waiting = answer.iter().find(|message| message.tag == b'D').map(|row| row.columns().remove(0));
            if waiting.as_deref() == Some(&moment.waiting.to_string()) {
                return;
            }
        }
    }
}

/// Returns whether a table may have other columns behind a script, in whatever letters and blanks that is said.
fn alters_tables(script: &str) -> bool {
    script.to_ascii_lowercase().contains("alter table")
}

/// Whether later sessions may begin with other settings behind a script.
fn alters_beginnings(script: &str) -> bool {
    let script = script.to_ascii_lowercase();
    ["alter role", "alter database"].iter().any(|alter| script.contains(alter))
}

/// A look at what sessions of each database begin with, and go back to.
fn looks() -> Vec<Script> {
    let shows = "show timezone;show datestyle;show work_mem;show search_path;show intervalstyle;select current_setting(''a.b'', true)";
    let sets = "set timezone = ''GMT'';set datestyle = sql;set work_mem = ''1MB'';set search_path = two;set a.b = ''now'';reset all";
    let look = |database: &&str| {
        let text = format!("{{database={database}}} [Q('{shows}')] | [Q('{sets}')] | [Q('{shows}')] |");
        text.parse().expect("a script")
    };
    DATABASES.iter().map(look).collect()
}

/// How two transcripts differ. A server that ends with input unread has the kernel reset the connection, and whether its last word
/// still arrives is a matter of time.
fn told_apart(model: &Transcript, server: &Transcript) -> Option<Difference> {
    let last_is_lost = server.closed
        && model.seen.split_last().is_some_and(|(last, before)| {
            last.tag == b'E' && last.body.starts_with(b"FATAL") && *before == *server.seen
        });
    if last_is_lost { None } else { model.difference(server) }
}

/// How the model and the server differ on `story`.
fn story_difference(real: &mut Real, story: &Story) -> Option<String> {
    let mut cluster = cluster(real.postgres.version());
    let model = together::play(&mut cluster, story);
    // Which of those in a deadlock fails depends on who looks for one first; what goes on at once has no order.
    if cluster.raced()
        || !cluster.beyond().is_empty()
        || model.transcripts.iter().any(|transcript| transcript.has_error("40P01"))
    {
        return None;
    }
    let model_rows = model_rows(&cluster, "alpha");
    let (server, server_rows) = real.play(story, &model);
    for (client, (model, server)) in model.transcripts.iter().zip(&server).enumerate() {
        if let Some(difference) = told_apart(model, server) {
            let Difference { at, left, right } = difference;
            return Some(format!("client {client}, message {at}\n model: {left}\nserver: {right}"));
        }
    }
    // Prepared transactions are rolled back before the rows are read, and let those go on that wait for them.
    (!cluster.has_prepared() && model_rows != server_rows)
        .then(|| format!("rows\n model: {model_rows:?}\nserver: {server_rows:?}"))
}

/// The shortest story found that still shows a difference.
fn shrink_story(mut story: Story, mut fails: impl FnMut(&Story) -> bool) -> Story {
    let mut chunk = story.steps.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at + chunk <= story.steps.len() {
            let mut candidate = story.clone();
            candidate.steps.drain(at..at + chunk);
            if fails(&candidate) {
                story = candidate;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    for step in (0..story.steps.len()).rev() {
        for message in (0..story.steps[step].1.messages.len()).rev() {
            let mut candidate = story.clone();
            candidate.steps[step].1.messages.remove(message);
            if fails(&candidate) {
                story = candidate;
            }
        }
    }
    story
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

fn cluster(version: u32) -> Cluster {
    Cluster::new(&model::Options { version, ..model::Options::default() })
}

/// What the model makes of a script.
struct Modelled {
    transcript: Transcript,
    rows: Vec<String>,
    /// What sessions behind it are told.
    looks: Vec<(Script, Transcript)>,
}

/// What the model makes of `script`, unless that is beyond it.
fn modelled(script: &Script, version: u32) -> Option<Modelled> {
    let mut cluster = cluster(version);
    let transcript = alone::run(&mut cluster, script);
    assert!(cluster.is_quiet(), "locks are left:\n{script}");
    let rows = model_rows(&cluster, script.database());
    let beyond = cluster.beyond().is_empty();
    let looks = if alters_beginnings(&script.to_string()) { looks() } else { Vec::new() };
    let looks = looks.into_iter().map(|look| {
        let told = alone::run(&mut cluster, &look);
        (look, told)
    });
    let looks = looks.collect();
    beyond.then_some(Modelled { transcript, rows, looks })
}

fn model_rows(cluster: &Cluster, database: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (schema, table) in TABLES {
        for row in cluster.rows(database, schema, table) {
            let cells: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
            all.push(format!("{table}: {}", cells.join(",")));
        }
    }
    all.sort();
    all
}

/// How the model and the server differ on `script`.
fn difference(real: &mut Real, script: &Script) -> Option<String> {
    let Modelled { transcript: model, rows: model_rows, looks } = modelled(script, real.postgres.version())?;
    let (server, server_rows) = real.run(script, &model);
    let looked: Vec<_> = looks.iter().map(|(look, model)| real.converse(look, model)).collect();
    if !looks.is_empty() {
        real.ask(script, BEGIN_AS_AT_FIRST);
    }
    for ((look, model), server) in looks.iter().zip(&looked) {
        if let Some(Difference { left, right, .. }) = told_apart(model, server) {
            return Some(format!("a session behind it, {}\n model: {left}\nserver: {right}", look.database()));
        }
    }
    if let Some(difference) = told_apart(&model, &server) {
        return Some(format!("message {}\n model: {}\nserver: {}", difference.at, difference.left, difference.right));
    }
    (model_rows != server_rows).then(|| format!("rows\n model: {model_rows:?}\nserver: {server_rows:?}"))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn check_story(real: &mut Real, seed: u64) -> Option<String> {
    let story = Story::of(seed, 2 + usize::from(seed.is_multiple_of(3)));
    if number("SIM_VERBOSE").is_some() {
        eprintln!("seed {seed}\n{story}");
    }
    story_difference(real, &story)?;
    let smallest = shrink_story(story, |candidate| story_difference(real, candidate).is_some());
    let differs = story_difference(real, &smallest).unwrap_or_default();
    Some(format!("seed {seed}\n{smallest}{differs}\n"))
}

fn check(real: &mut Real, seed: u64) -> Option<String> {
    let mut script = generator::script(seed, Options::default());
    decoration::decorate(&mut script, &mut Random::new(seed));
    if number("SIM_VERBOSE").is_some() {
        eprintln!("seed {seed}\n{script}");
    }
    difference(real, &script)?;
    let smallest = shrink(script, 300, |candidate| difference(real, candidate).is_some());
    let differs = difference(real, &smallest).unwrap_or_default();
    Some(format!("seed {seed}\n{smallest}{differs}\n"))
}

/// The longest that a fixed number of scripts takes: a busy machine runs fewer of them.
const LONG: Duration = Duration::from_secs(120);

/// Checks the first `seeds`, unless that takes long, or seed after seed for as long as the environment says.
fn check_many(seeds: u64, mut check: impl FnMut(&mut Real, u64) -> Option<String>) {
    let mut real = Real::start();
    if let Some(seed) = number("SIM_SEED") {
        let difference = check(&mut real, seed).unwrap_or_default();
        assert!(difference.is_empty(), "\n{difference}");
        return;
    }
    let (seeds, limit) =
        number("SIM_SECONDS").map_or((seeds, LONG), |seconds| (u64::MAX, Duration::from_secs(seconds)));
    let most = number("SIM_DIFFERENCES").unwrap_or(1);
    let start = Instant::now();
    let first = number("SIM_FROM").unwrap_or(1);
    let (mut seed, mut found) = (first, 0);
    while seed - first < seeds && start.elapsed() < limit && found < most {
        if let Some(difference) = check(&mut real, seed) {
            eprintln!("{difference}");
            found += 1;
        }
        seed += 1;
    }
    println!("{} seeds in {:?}", seed - first, start.elapsed());
    assert_eq!(found, 0, "differences, which are told above");
}

#[test]
fn one_client_is_told_what_the_server_tells_it() {
    check_many(4000, check);
}

#[test]
fn several_clients_are_told_what_the_server_tells_them() {
    check_many(2000, check_story);
}
