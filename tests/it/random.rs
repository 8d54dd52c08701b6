//! Random sequences of what changes a session, from several clients over few connections: every answer must be the one
//! that the same client gets on a private direct connection. `TEST_SEEDS=60` tells sixty times as many stories, `TEST_SEED`
//! one.

use std::fmt::Write as _;

use crate::differential::shown;
use crate::harness::protocol_client::{bind, close, describe, execute, parse, query, sync};
use crate::harness::{Pgferry, Postgres, ProtocolClient};

/// A small generator of our own, so that a seed means the same for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("small") % n
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

/// One client, twice: through pgferry, and directly.
struct Twin {
    ferried: ProtocolClient,
    direct: ProtocolClient,
    /// The transaction status.
    status: u8,
    /// It may have left state that keeps it on its connection.
    pinned: bool,
}

const STATE: &str = "select current_setting('search_path'), current_setting('work_mem'), current_setting('timezone'), \
    coalesce(current_setting('a.b', true), ''), coalesce(current_setting('c.d', true), ''), \
    current_setting('datestyle'), current_setting('application_name'), current_user, \
    (select count(*) from pg_prepared_statements where from_sql), (select count(*) from pg_cursors where is_holdable), \
    pg_my_temp_schema() <> 0 and exists (select from pg_class where relnamespace = pg_my_temp_schema()), \
    (select count(*) from pg_listening_channels())";

const TEXTS: [&str; 8] = [
    "select 1",
    "select $1::text",
    "select v from things",
    "select current_setting('timezone'), $1::text",
    "selec nonsense",
    "set a.b = prepared",
    "select 1/0",
    "rollback",
];

/// A step, and whether it may leave state that keeps its client on the connection.
fn step(random: &mut Random) -> (Vec<u8>, bool) {
    let plain = |sql: &str| (query(sql), false);
    let pins = |sql: &str| (query(sql), true);
    match random.below(31) {
        0 => plain(&format!("set a.b = {}", random.pick(&["one", "two", "'x y'"]))),
        1 => plain(&format!(
            "set search_path = {}",
            random.pick(&["first", "second", "\"$user\", public", "first, second"])
        )),
        2 => plain(&format!("set timezone = '{}'", random.pick(&["UTC", "Asia/Tokyo", "Europe/Berlin"]))),
        3 => plain(random.pick(&[
            "set datestyle = german",
            "set datestyle = sql",
            "set work_mem = '5MB'",
            "set application_name = 'me'",
        ])),
        4 => plain(&format!("set local {} = {}", random.pick(&["a.b", "c.d"]), random.pick(&["l", "m"]))),
        5 => plain(&format!("reset {}", random.pick(&["a.b", "search_path", "timezone", "all", "work_mem"]))),
        6 => plain("discard all"),
        7 | 8 => plain("begin"),
        9 | 10 => plain("commit"),
        11 => plain("rollback"),
        12 => plain(&format!("savepoint {}", random.pick(&["s", "t"]))),
        13 => plain(&format!("rollback to {}", random.pick(&["s", "t"]))),
        14 => plain(&format!("release {}", random.pick(&["s", "t"]))),
        15 => plain("select 1/0"),
        16 => pins(&format!("begin; set a.b = {}; savepoint s; set c.d = x", random.pick(&["five", "six"]))),
        17 => pins(random.pick(&["prepare p as select 'sql'", "execute p", "deallocate p", "prepare q as select 2"])),
        18 => pins(random.pick(&[
            "create temp table things as select 'temporary' as v",
            "discard temp",
            "create temp table tt (a int)",
            "drop table tt",
        ])),
        19 => pins(random.pick(&[
            "listen x",
            "unlisten x",
            "unlisten *",
            "set role limited",
            "reset role",
            "select set_config('role', 'limited', false)",
        ])),
        20 => pins(random.pick(&[
            "select pg_try_advisory_lock(5)",
            "select pg_advisory_unlock(5)",
            "select pg_advisory_unlock_all()",
        ])),
        21 => pins(random.pick(&["declare c cursor with hold for select 1", "fetch 1 from c", "close c", "close all"])),
        22..=24 => {
            let text = TEXTS[random.below(TEXTS.len())];
            ([parse(random.pick(&["a", "b", ""]), text), sync()].concat(), false)
        }
        25..=27 => {
            let name = random.pick(&["a", "b", ""]);
            let params: &[&str] = if random.below(2) == 0 { &[] } else { &["x"] };
            ([bind("", name, params), describe(b'P', ""), execute("", 0), sync()].concat(), true)
        }
        29 => ([close(b'S', random.pick(&["a", "b"])), sync()].concat(), false),
        28 => pins("select 1; set a.b = several"),
        _ => pins(random.pick(&["deallocate all", "deallocate a", "execute a", "select v from things"])),
    }
}

/// Several steps in one write, now and then.
fn steps(random: &mut Random) -> (Vec<u8>, usize, bool) {
    let several = if random.below(4) == 0 { 1 + random.below(4) } else { 1 };
    let mut all = (Vec::new(), 0, false);
    for _ in 0..several {
        let (bytes, pins) = step(random);
        all = ([all.0, bytes].concat(), all.1 + 1, all.2 | pins);
    }
    all
}

impl Twin {
    fn new(ferry: &Pgferry, port: u16) -> Self {
        Self {
            ferried: ferry.raw().logged_in("trust_user", "ferried"),
            direct: ProtocolClient::tcp(port).logged_in("trust_user", "direct"),
            status: b'I',
            pinned: false,
        }
    }

    fn say(&mut self, bytes: &[u8], answers: usize, story: &mut String) {
        let _ = writeln!(story, "{}", String::from_utf8_lossy(bytes).replace('\0', "·"));
        let mut sides = [Vec::new(), Vec::new()];
        for (raw, seen) in [&mut self.direct, &mut self.ferried].into_iter().zip(&mut sides) {
            raw.send(bytes);
            for _ in 0..answers {
                for message in raw.until_ready() {
                    if message.tag == b'Z' {
                        self.status = message.body[0];
                    }
                    // When a changed setting is reported is the server's own affair; that it is, the state shows.
                    match message.tag {
                        b'S' | b'T' => {}
                        // Not where in the server's source it was raised.
                        b'E' => seen.push(format!("E {:?}", [b'S', b'C', b'M', b'D', b'H'].map(|f| message.field(f)))),
                        _ => seen.push(shown(&message)),
                    }
                    // In a failed transaction the wrong number of parameters may be noticed before or after that.
                    if let Some(last) = seen.last_mut()
                        && ["bind message supplies", "25P02", "42P05", "42601"].iter().any(|part| last.contains(part))
                    {
                        *last = "refused".into();
                    }
                }
            }
        }
        let [direct, ferried] = sides;
        assert_eq!(ferried, direct, "after the story above");
    }
}

/// What has happened so far: told when the test fails.
struct Story(String);

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let told: Vec<_> = self.0.lines().filter(|line| !line.contains("current_setting('search_path')")).collect();
            eprintln!("{}\n…\n{}", told[0], told[told.len().saturating_sub(60)..].join("\n"));
        }
    }
}

fn tell(seed: u64, reset: &str, postgres: &Postgres) {
    let args = ["--pool-mode", "transaction", "--pool-size", "2", "--reset", reset];
    let ferry = Pgferry::start_with(&postgres.url(), &args, &[("PGFERRY_QUERY_WAIT_TIMEOUT", "2s")]);
    let mut random = Random(seed);
    let mut story = Story(format!("seed {seed}, reset {reset}\n"));
    let mut twins: Vec<_> = (0..3).map(|_| Twin::new(&ferry, postgres.port)).collect();
    for _ in 0..150 {
        let mut who = random.below(twins.len());
        let holding = |twin: &Twin| twin.pinned || twin.status != b'I';
        let others = twins.iter().enumerate().filter(|(at, twin)| *at != who && holding(twin)).count();
        if others >= 2 && !holding(&twins[who]) {
            // There are two connections only: somebody has to give one up first.
            who = twins.iter().position(holding).expect("somebody holds one");
            let _ = write!(story.0, "client {who}: ");
            twins[who].say(&query("rollback"), 1, &mut story.0);
            let _ = write!(story.0, "client {who}: ");
            twins[who].say(&query("discard all"), 1, &mut story.0);
            twins[who].pinned = false;
            continue;
        }
        let (bytes, answers, pins) = steps(&mut random);
        let _ = write!(story.0, "client {who}: ");
        twins[who].say(&bytes, answers, &mut story.0);
        twins[who].pinned |= pins;
        if twins[who].status != b'E' {
            twins[who].say(&query(STATE), 1, &mut story.0);
        }
    }
}

fn tell_many(reset: &str, seeds: std::ops::Range<u64>) {
    let postgres = Postgres::start_with(&[]);
    for database in ["ferried", "direct"] {
        postgres.sql(&format!("create database {database}"));
        let port = postgres.port;
        let mut raw = ProtocolClient::tcp(port).logged_in("trust_user", database);
        raw.query("create table things as select 'public' as v");
        for schema in ["first", "second"] {
            raw.query(&format!("create schema {schema}"));
            raw.query(&format!("create table {schema}.things as select '{schema}' as v"));
            raw.query(&format!(
                "grant usage on schema {schema} to public; grant select on {schema}.things, things to public"
            ));
        }
    }
    if let Some(seed) = std::env::var("TEST_SEED").ok().and_then(|n| n.parse().ok()) {
        return tell(seed, reset, &postgres);
    }
    let more = std::env::var("TEST_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for seed in seeds.start..seeds.start + (seeds.end - seeds.start) * more {
        tell(seed, reset, &postgres);
    }
}

#[test]
fn with_resets() {
    tell_many("always", 1..9);
}

#[test]
fn with_resets_on_change() {
    tell_many("on_change", 101..109);
}
