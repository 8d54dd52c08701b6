//! Scripts for several clients, which must see the same through pgferry as on connections of their own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::harness::raw::{bind, execute, query, startup, sync, terminate};
use crate::harness::{Ferry, Message, Postgres, Raw, Received};

/// The longest time that a script waits for a message.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// The same once something has been found, so that the rest of a table is not waited for that long.
const IMPATIENCE: Duration = Duration::from_millis(700);

/// The clients of a script.
pub const A: usize = 0;
pub const B: usize = 1;

/// Parameters of a startup packet, beside user and database.
pub type Params = &'static [(&'static str, &'static str)];

#[derive(Clone)]
enum Step {
    /// Sends bytes in one write.
    Send(usize, Vec<u8>),
    /// Reads up to this many messages of a type.
    Until(usize, u8, usize),
    /// Reads to the end of the connection.
    End(usize),
    /// Reads to the end of the connection, and notes only that it came.
    Gone(usize),
    /// Says that no more will come, and goes on reading.
    HalfClose(usize),
    /// Says goodbye and closes.
    Leave(usize),
    /// Closes without a word.
    Vanish(usize),
    /// Runs SQL past pgferry, and notes what it returns.
    Aside(String),
    /// Runs SQL past pgferry until it returns what is expected.
    Eventually(String, String),
}

/// What several clients do, one after the other.
#[derive(Clone)]
pub struct Script {
    name: String,
    params: BTreeMap<usize, Params>,
    steps: Vec<Step>,
}

impl Script {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), params: BTreeMap::new(), steps: Vec::new() }
    }

    /// Has `client` come with `params`; it comes when it first does something.
    pub fn comes_with(mut self, client: usize, params: Params) -> Self {
        self.params.insert(client, params);
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub fn send(self, client: usize, parts: &[Vec<u8>]) -> Self {
        self.step(Step::Send(client, parts.concat()))
    }

    pub fn until(self, client: usize, tag: u8) -> Self {
        self.step(Step::Until(client, tag, 1))
    }

    pub fn ready(self, client: usize, count: usize) -> Self {
        self.step(Step::Until(client, b'Z', count))
    }

    /// Sends everything in one write and waits for one ReadyForQuery.
    pub fn ask(self, client: usize, parts: &[Vec<u8>]) -> Self {
        self.send(client, parts).ready(client, 1)
    }

    /// Runs a simple query.
    pub fn sql(self, client: usize, sql: &str) -> Self {
        self.ask(client, &[query(sql)])
    }

    pub fn end(self, client: usize) -> Self {
        self.step(Step::End(client))
    }

    /// Reads to the end of the connection, whose last words are the server's own affair.
    pub fn gone(self, client: usize) -> Self {
        self.step(Step::Gone(client))
    }

    pub fn half_close(self, client: usize) -> Self {
        self.step(Step::HalfClose(client))
    }

    pub fn leave(self, client: usize) -> Self {
        self.step(Step::Leave(client))
    }

    pub fn vanish(self, client: usize) -> Self {
        self.step(Step::Vanish(client))
    }

    pub fn aside(self, sql: &str) -> Self {
        self.step(Step::Aside(sql.to_owned()))
    }

    pub fn eventually(self, sql: &str, expected: &str) -> Self {
        self.step(Step::Eventually(sql.to_owned(), expected.to_owned()))
    }

    /// All steps so far, `times` times.
    pub fn again(mut self, times: usize) -> Self {
        self.steps = std::iter::repeat_n(self.steps, times).flatten().collect();
        self
    }
}

/// Bind, Execute and Sync of a prepared statement.
pub fn run(name: &str, params: &[&str]) -> Vec<u8> {
    [bind("", name, params), execute("", 0), sync()].concat()
}

/// Parse, Bind and Execute of the unnamed statement, without a Sync.
pub fn step(sql: &str) -> Vec<u8> {
    [crate::harness::raw::parse("", sql), bind("", "", &[]), execute("", 0)].concat()
}

/// How pgferry runs.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub mode: &'static str,
    pub reset: &'static str,
    pub pool: &'static str,
}

impl Setup {
    pub fn start(self, postgres: &Postgres) -> Ferry {
        self.start_with(&postgres.url(), &[])
    }

    pub fn start_with(self, url: &str, env: &[(&str, &str)]) -> Ferry {
        let args = ["--pool-mode", self.mode, "--reset", self.reset, "--pool-size", self.pool];
        Ferry::start_with(url, &args, &[&[("PGFERRY_QUERY_WAIT_TIMEOUT", "5s")], env].concat())
    }
}

const fn setup(mode: &'static str, reset: &'static str, pool: &'static str) -> Setup {
    Setup { mode, reset, pool }
}

/// Transaction mode, over one connection and over two, with every kind of reset.
pub const TRANSACTION: [Setup; 6] = [
    setup("transaction", "always", "1"),
    setup("transaction", "always", "2"),
    setup("transaction", "on_change", "1"),
    setup("transaction", "on_change", "2"),
    setup("transaction", "never", "1"),
    setup("transaction", "never", "2"),
];

/// Transaction mode for clients of which two hold a connection at a time.
pub const TRANSACTION_TWO: [Setup; 3] = [TRANSACTION[1], TRANSACTION[3], TRANSACTION[5]];

/// Session mode for one client at a time, and for two.
pub const SESSION: [Setup; 4] = [
    setup("session", "always", "1"),
    setup("session", "always", "2"),
    setup("session", "on_change", "1"),
    setup("session", "on_change", "2"),
];

/// Session mode for two clients at a time.
pub const SESSION_TWO: [Setup; 2] = [SESSION[1], SESSION[3]];

/// Both modes with the default reset, over one connection and over two.
pub const DEFAULTS: [Setup; 4] = [SESSION[0], SESSION[1], TRANSACTION[0], TRANSACTION[1]];

/// A message without what differs from session to session and from version to version: OIDs of tables, pids, the line of
/// the source that an error comes from.
pub fn shown(message: &Message) -> String {
    match message.tag {
        b'E' | b'N' => {
            let field = |field: u8| (message.field(field), char::from(field));
            let fields = b"SCMDHPW".iter().map(|&kind| field(kind)).filter(|(text, _)| !text.is_empty());
            let fields: Vec<_> = fields.map(|(text, kind)| format!("{kind} {text}")).collect();
            format!("{} {}", char::from(message.tag), fields.join("; "))
        }
        _ => crate::differential::shown(message),
    }
}

/// The state of a script's run.
struct Stage<'a> {
    connect: &'a dyn Fn() -> Raw,
    aside: &'a mut Raw,
    patience: Duration,
    /// The server is older than PostgreSQL 14.
    reports_at_once: bool,
    clients: BTreeMap<usize, Raw>,
    seen: Vec<String>,
}

/// A wait that was in vain.
struct Hang;

impl Stage<'_> {
    fn play(&mut self, script: &Script) {
        for step in &script.steps {
            if self.step(script, step).is_err() {
                return;
            }
        }
        // Goodbyes, so that nothing is left when the next script begins.
        for (_, mut raw) in std::mem::take(&mut self.clients) {
            raw.try_send(&terminate());
        }
    }

    fn step(&mut self, script: &Script, step: &Step) -> Result<(), Hang> {
        match step {
            Step::Send(client, bytes) => {
                // A script may go on sending to a connection that the server has ended.
                self.client(script, *client)?.try_send(bytes);
            }
            Step::Until(client, tag, count) => {
                for _ in 0..*count {
                    self.read(script, *client, Some(*tag))?;
                }
            }
            Step::End(client) => self.read(script, *client, None)?,
            Step::Gone(client) => {
                let before = self.seen.len();
                self.read(script, *client, None)?;
                self.seen.drain(before..self.seen.len() - 1);
            }
            Step::HalfClose(client) => self.client(script, *client)?.end(),
            Step::Leave(client) => {
                self.client(script, *client)?.try_send(&terminate());
                self.clients.remove(client);
            }
            Step::Vanish(client) => {
                self.clients.remove(client);
            }
            Step::Aside(sql) => {
                let answer = self.aside.query(sql);
                let rows = answer.iter().filter(|message| matches!(message.tag, b'D' | b'E'));
                self.seen.extend(rows.map(|message| format!("aside: {}", shown(message))));
            }
            Step::Eventually(sql, expected) => self.eventually(sql, expected)?,
        }
        Ok(())
    }

    fn client(&mut self, script: &Script, client: usize) -> Result<&mut Raw, Hang> {
        if !self.clients.contains_key(&client) {
            let mut raw = (self.connect)();
            let mine = script.params.get(&client).copied().unwrap_or_default();
            let mut params = vec![("user", "trust_user"), ("database", "postgres")];
            params.retain(|(name, _)| mine.iter().all(|(own, _)| own != name));
            params.extend_from_slice(mine);
            raw.send(&startup(&params));
            self.clients.insert(client, raw);
            let greeting = self.seen.len();
            self.read(script, client, Some(b'Z'))?;
            // Which settings a client is told, and its key, are other tests' business.
            if self.seen.last().is_some_and(|last| last.contains(": Z ")) {
                self.seen.truncate(greeting);
            }
        }
        Ok(self.clients.get_mut(&client).expect("just come"))
    }

    fn read(&mut self, script: &Script, client: usize, last: Option<u8>) -> Result<(), Hang> {
        let name = char::from(b"ab"[client]);
        let patience = self.patience;
        let mut messages = Vec::new();
        let ending = loop {
            match self.client(script, client)?.receive(patience) {
                Received::Message(message) => {
                    let tag = message.tag;
                    messages.push(message);
                    if Some(tag) == last {
                        break None;
                    }
                }
                Received::End => break Some(format!("{name}: the end")),
                Received::Nothing => {
                    let wanted = last.map_or("the end".to_owned(), |tag| char::from(tag).to_string());
                    break Some(format!("{name}: HANGS: nothing within {patience:?} where it waits for {wanted}"));
                }
            }
        };
        // Before PostgreSQL 14 settings are reported whenever they are set, also to what they are.
        if self.reports_at_once {
            messages.retain(|message| message.tag != b'S');
        }
        // In which order several settings are reported is the server's own affair.
        for reports in messages.chunk_by_mut(|a, b| a.tag == b'S' && b.tag == b'S') {
            reports.sort_by(|a, b| a.body.cmp(&b.body));
        }
        self.seen.extend(messages.iter().map(|message| {
            let shown = shown(message);
            if shown.len() > 300 {
                format!("{name}: {}… {}", &shown[..200], message.body.len())
            } else {
                format!("{name}: {shown}")
            }
        }));
        let hangs = ending.as_ref().is_some_and(|ending| ending.contains("HANGS"));
        self.seen.extend(ending);
        if hangs { Err(Hang) } else { Ok(()) }
    }

    fn eventually(&mut self, sql: &str, expected: &str) -> Result<(), Hang> {
        let deadline = Instant::now() + self.patience;
        loop {
            let value = self.aside.value(sql);
            if value == expected {
                return Ok(());
            }
            if Instant::now() > deadline {
                self.seen.push(format!("HANGS: {value} where {expected} is waited for: {sql}"));
                return Err(Hang);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn play(script: &Script, connect: &dyn Fn() -> Raw, aside: &mut Raw, patience: Duration) -> Vec<String> {
    let version: u32 = aside.value("show server_version_num").parse().expect("a number");
    let reports_at_once = version < 140_000;
    let mut stage = Stage { connect, aside, patience, reports_at_once, clients: BTreeMap::new(), seen: Vec::new() };
    stage.play(script);
    stage.seen
}

/// What was found to differ, over a whole table of scripts, and under which setups.
#[derive(Default)]
pub struct Findings(Vec<(String, Vec<String>)>);

/// Waits in vain that a test puts up with before it gives up the rest of its table.
const HANGS_AT_MOST: usize = 6;

impl Findings {
    pub fn add(&mut self, finding: String) {
        self.add_under(finding, String::new());
    }

    fn add_under(&mut self, finding: String, setup: String) {
        match self.0.iter_mut().find(|(known, _)| *known == finding) {
            Some((_, setups)) => setups.push(setup),
            None => self.0.push((finding, vec![setup])),
        }
        let hangs = self.0.iter().filter(|(finding, _)| finding.contains("HANGS"));
        assert!(hangs.map(|(_, setups)| setups.len()).sum::<usize>() < HANGS_AT_MOST, "given up after {}", self.text());
    }

    pub fn patience(&self) -> Duration {
        if self.0.is_empty() { PATIENCE } else { IMPATIENCE }
    }

    fn text(&self) -> String {
        let line = |(finding, setups): &(String, Vec<String>)| format!("{finding}\n  {}", setups.join("\n  "));
        format!("{} differences\n\n{}", self.0.len(), self.0.iter().map(line).collect::<Vec<_>>().join("\n\n"))
    }

    /// Fails if anything was found.
    pub fn report(self) {
        assert!(self.0.is_empty(), "{}", self.text());
    }
}

/// Runs each script directly and, for each setup, through pgferry.
pub fn compare(postgres: &Postgres, setups: &[Setup], scripts: &[Script]) {
    compare_with(postgres, setups, &[], scripts);
}

/// Like [`compare`], with settings in pgferry's environment.
pub fn compare_with(postgres: &Postgres, setups: &[Setup], env: &[(&str, &str)], scripts: &[Script]) {
    let mut aside = Raw::tcp(postgres.port).logged_in("trust_user", "postgres");
    let mut findings = Findings::default();
    let direct: Vec<_> =
        scripts.iter().map(|script| play(script, &|| Raw::tcp(postgres.port), &mut aside, PATIENCE)).collect();
    for (script, seen) in scripts.iter().zip(&direct) {
        assert!(seen.iter().all(|line| !line.contains("HANGS")), "{}, directly: {seen:#?}", script.name);
    }
    for setup in setups {
        let mut ferry = setup.start_with(&postgres.url(), env);
        for (script, direct) in scripts.iter().zip(&direct) {
            let mut ferried = play(script, &|| ferry.raw(), &mut aside, findings.patience());
            if &ferried == direct {
                ferried.extend(left_behind(&ferry));
            }
            if let Some(difference) = difference(direct, &ferried) {
                findings.add_under(format!("{}: {difference}", script.name), format!("{setup:?}"));
                // Before the next finding, which may be the last.
                ferry.give_up();
                ferry = setup.start_with(&postgres.url(), env);
            }
        }
        ferry.assert_quiet();
    }
    findings.report();
}

/// Clients and leases that stay when all clients have gone.
fn left_behind(ferry: &Ferry) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let report = ferry.report();
        if report.get("clients_now") == 0 && report.get("leased_now") == 0 {
            return None;
        }
        if Instant::now() > deadline {
            return Some(format!("left behind: {report:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn difference(direct: &[String], ferried: &[String]) -> Option<String> {
    let at = (0..direct.len().max(ferried.len())).find(|&at| direct.get(at) != ferried.get(at))?;
    let around =
        |seen: &[String]| seen.iter().skip(at.saturating_sub(3)).take(7).cloned().collect::<Vec<_>>().join("\n    ");
    Some(format!("message {at}\n  direct:\n    {}\n  ferried:\n    {}", around(direct), around(ferried)))
}
