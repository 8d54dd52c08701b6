//! Scripts from a seed: what clients do in every order and at every place.

use crate::random::Random;
use crate::script::{BRIEF, Message, NO_FUNCTION, PROTOCOL, Script, Write};

/// What scripts may hold.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The most writes.
    pub writes: usize,
    /// What makes the tokens of different clients different.
    pub client: usize,
    /// Whether locks, tables and tokens are used that other clients use too, so that they wait for each other.
    pub contend: bool,
    /// Whether results tell what differs from one run to another with several clients: sequences' values, counts of rows.
    pub global: bool,
    /// Whether sequences are used a lot.
    pub sequences: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { writes: 12, client: 0, contend: false, global: true, sequences: false }
    }
}

/// The script of `seed`.
pub fn script(seed: u64, options: Options) -> Script {
    let mut random = Random::new(seed);
    let long = random.chance(12);
    let (names, portals) = if long { (LONG_NAMES, LONG_PORTALS) } else { (NAMES, PORTALS) };
    let cursors = [portals[2], "w"];
    let encodings: &[&str] = match random.below(16) {
        0 => &["latin1", "'LATIN1'", "utf8", "default"],
        1 => &["latin1", "sql_ascii", "'UTF8'", "unicode"],
        _ => &[],
    };
    Generator { random, options, token: 0, names, portals, cursors, encodings }.script()
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const PORTALS: [&str; 3] = ["p", "q", "k"];

/// Two of them are the same to PostgreSQL, which compares 63 bytes.
const LONG_NAMES: [&str; 3] = [
    "a",
    "long_nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn_1",
    "long_nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn_2",
];
const LONG_PORTALS: [&str; 3] = [
    "p",
    "wide_nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn_1",
    "wide_nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn_2",
];
const SAVEPOINTS: [&str; 2] = ["s", "r"];
const TEMPS: [&str; 2] = ["x", "v"];
const CHANNELS: [&str; 2] = ["m", "n"];
const KEYS: [&str; 2] = ["1", "2"];
/// What is no text in UTF-8 wherever it stands, also where half a character comes in front of a zero.
const NO_TEXT: [&[u8]; 4] = [b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80"];
const ZONES: [&str; 4] = ["UTC", "Asia/Tokyo", "Europe/Berlin", "Nowhere/Land"];

struct Generator {
    random: Random,
    options: Options,
    token: usize,
    /// Names of statements.
    names: [&'static str; 3],
    portals: [&'static str; 3],
    cursors: [&'static str; 2],
    /// The encodings that its client says it has.
    encodings: &'static [&'static str],
}

fn query(statements: &[&str]) -> Message {
    Message::Query(statements.iter().map(|&text| text.to_owned()).collect())
}

fn parse(name: &str, text: String) -> Message {
    Message::Parse { name: name.to_owned(), text, types: Vec::new() }
}

fn describe(kind: char, name: &str) -> Message {
    Message::Describe { kind, name: name.to_owned() }
}

fn close(kind: char, name: &str) -> Message {
    Message::Close { kind, name: name.to_owned() }
}

fn execute(portal: &str, limit: u32) -> Message {
    Message::Execute { portal: portal.to_owned(), limit }
}

impl Generator {
    fn script(&mut self) -> Script {
        let mut script = Script { startup: self.startup(), writes: Vec::new() };
        let count = 1 + self.random.below(self.options.writes);
        while script.writes.len() < count {
            let mut write = Write::default();
            for _ in 0..=self.random.pick(&[0, 0, 0, 0, 1, 1, 2, 4]) {
                self.act(&mut write.messages);
            }
            write.wait = self.random.chance(60);
            // A client rests behind a write, not within one.
            while let Some(at) = write.messages.iter().position(|message| *message == Message::Rest) {
                let rest = write.messages.split_off(at + 1);
                let messages = std::mem::replace(&mut write.messages, rest);
                script.writes.push(Write { messages, cut: None, wait: true });
            }
            script.writes.push(write);
        }
        match self.random.below(12) {
            0 => script.writes.push(Write { messages: vec![Message::Terminate], ..Write::default() }),
            1 => {
                if let Some(last) = script.writes.last_mut() {
                    last.cut = Some(self.random.below(last.bytes().len() + 1));
                    last.wait = false;
                }
            }
            2 => script.writes.push(Write { messages: vec![self.malformed()], ..Write::default() }),
            _ => Self::probe(&mut script),
        }
        script
    }

    fn startup(&mut self) -> Vec<(String, String)> {
        let mut startup = Vec::new();
        let mut put = |name: &str, value: &str| startup.push((name.to_owned(), value.to_owned()));
        if self.random.chance(20) {
            put("database", "beta");
        }
        if self.random.chance(15) {
            put("DateStyle", self.random.pick(&["German", "ISO", "sql, dmy"]));
        }
        if self.random.chance(15) {
            put("application_name", self.random.pick(&["mine", "it''s \\ me"]));
        }
        if self.random.chance(10) {
            put("TimeZone", self.random.pick(&ZONES));
        }
        if self.random.chance(6) {
            let (name, value) = self.random.pick(&[
                ("default_transaction_read_only", "on"),
                ("default_transaction_read_only", "false"),
                ("default_transaction_isolation", "serializable"),
                ("IntervalStyle", "ISO_8601"),
                ("extra_float_digits", "2"),
            ]);
            put(name, value);
        }
        if self.random.chance(10) {
            put(
                "options",
                self.random.pick(&[
                    "-c search_path=one",
                    "-c a.b=started",
                    "--work_mem=5MB -csearch_path=two,public",
                    "-c default_transaction_read_only=on",
                ]),
            );
        }
        if self.random.chance(5) {
            // Named twice.
            let (name, values) = self.random.pick(&[
                ("options", ["-c search_path=one -c a.b=first", "-c work_mem=5MB"]),
                ("options", ["-c a.b=first", "-c search_path=two"]),
                ("application_name", ["first", "second"]),
                ("DateStyle", ["German", "ISO, DMY"]),
                ("TimeZone", ["Asia/Tokyo", "Europe/Berlin"]),
            ]);
            values.iter().for_each(|value| put(name, value));
        }
        if !self.encodings.is_empty() && self.random.chance(40) {
            put("client_encoding", self.random.pick(&["LATIN1", "latin-1", "UTF8", "utf-8"]));
        }
        if self.random.chance(5) {
            put("search_path", self.random.pick(&["one, public", "two"]));
        }
        if self.random.chance(4) {
            put(PROTOCOL, self.random.pick(&["3.2", "3.2", "3.9", "3.0"]));
        }
        if self.random.chance(3) {
            put(self.random.pick(&["_pq_.one", "_pq_.two"]), "on");
        }
        startup
    }

    /// A look at the session at the end.
    fn probe(script: &mut Script) {
        for messages in [
            vec![Message::Sync],
            vec![query(&["rollback"])],
            vec![query(&[
                "show search_path",
                "show datestyle",
                "show client_encoding",
                "show timezone",
                "show application_name",
                "show work_mem",
                "show synchronous_commit",
                "show statement_timeout",
                "show standard_conforming_strings",
                "show default_transaction_read_only",
                "show default_transaction_isolation",
                "show intervalstyle",
                "show extra_float_digits",
            ])],
            vec![query(&[
                "select current_setting('a.b', true), current_setting('c.d', true), current_user",
                "select exists (select from pg_prepared_statements), exists (select from pg_cursors where is_holdable)",
                "select exists (select from pg_listening_channels())",
                "select a from v",
            ])],
        ] {
            script.writes.push(Write { messages, cut: None, wait: true });
        }
    }

    fn malformed(&mut self) -> Message {
        let bytes: &[u8] = self.random.pick::<&[u8]>(&[
            b"y\0\0\0\x04",
            b"Q\0\0\0\x08abcd",
            b"Q\0\0\0\x03",
            b"S\0\0\0\x05x",
            b"D\0\0\0\x07Zx\0",
            b"C\0\0\0\x07Zx\0",
            b"E\0\0\0\x05\0",
            b"B\0\0\0\x06\0\0",
            b"P\0\0\0\x07xxx",
            b"H\0\0\x80\0",
            b"d\0\0\0\x04",
            b"\0\0\0\0\0",
            b"D\0\0\0\x04",
        ]);
        Message::Raw(bytes.to_vec())
    }

    /// One or several messages that belong together.
    fn act(&mut self, out: &mut Vec<Message>) {
        if !self.options.contend && self.random.below(200) == 0 {
            return self.outlast(out);
        }
        if self.options.contend && self.random.chance(40) {
            let statement = self.contended();
            return out.push(Message::Query(vec![statement]));
        }
        match self.random.below(32) {
            0..=6 => {
                let several = self.random.pick(&[1, 1, 1, 1, 2, 3, 4]);
                let statements = (0..several).map(|_| self.statement()).collect();
                out.push(Message::Query(statements));
            }
            7..=11 => {
                self.extended(out);
                out.push(Message::Sync);
            }
            12 => {
                for _ in 0..2 + self.random.below(3) {
                    self.extended(out);
                }
                if self.random.chance(80) {
                    out.push(Message::Sync);
                }
            }
            13..=14 => {
                let name = self.name();
                let text = self.prepared_text();
                let types = self.types(&text);
                out.push(Message::Parse { name: name.to_owned(), text, types });
                if self.random.chance(60) {
                    out.push(describe('S', name));
                }
                self.end(out);
            }
            15..=17 => {
                let name = self.name();
                self.run(out, name);
                self.end(out);
            }
            18 => {
                let kind = self.random.pick(&['S', 'S', 'P']);
                let name = if kind == 'S' { self.name() } else { self.portal() };
                out.push(close(kind, name));
                self.end(out);
            }
            19 => self.limited(out),
            20..=21 => self.copy(out),
            22 => {
                let stray = match self.random.below(9) {
                    0 => Message::Flush,
                    1 | 2 => Message::Sync,
                    3 => describe('S', "nothing"),
                    4 => execute("nothing", 0),
                    5 => self.call(),
                    6 => Message::CopyDone,
                    7 => Message::CopyData("late\n".to_owned()),
                    _ => self.malformed_body(),
                };
                out.push(stray);
            }
            // In another encoding what is no text in UTF-8 is one, or frees what it should not: a stated limit.
            23 if self.encodings.is_empty() => self.without_encoding(out),
            23 => out.push(Message::Query(vec![self.encoded()])),
            26 => self.whole_in_two_phases(out),
            27 => self.session_pipeline(out),
            24 => self.without_sync(out),
            28 => self.formatted(out),
            29 => self.walk(out),
            30 => out.push(self.call()),
            _ => {
                // A whole transaction.
                let begin = self.random.pick(&["begin", "begin", "start transaction"]);
                out.push(query(&[begin]));
                for _ in 0..self.random.below(4) {
                    let statement = self.statement();
                    out.push(Message::Query(vec![statement]));
                }
                out.push(query(&[self.random.pick(&["commit", "commit", "rollback", "end", "commit and chain"])]));
            }
        }
    }

    /// A time limit, and what takes longer: a statement, a transaction that nothing is done in, or one at all.
    fn outlast(&mut self, out: &mut Vec<Message>) {
        let limit = self.random.pick(&["statement", "statement", "idle_in_transaction_session", "transaction"]);
        let begin = query(&[self.random.pick(&["begin", "begin", "select 1", "begin;select 1/0"])]);
        let set = query(&[&format!("set {limit}{BRIEF}")]);
        out.extend(if self.random.chance(50) { [begin, set] } else { [set, begin] });
        match self.random.below(if limit == "statement" { 3 } else { 6 }) {
            // Not by a simple query: the model waits in front of the columns, and the server behind them.
            0..=2 => {
                out.push(parse("", "select pg_sleep(1)".to_owned()));
                out.push(Message::Bind { portal: String::new(), name: String::new(), params: vec![], binary: false });
                out.push(execute("", 0));
                self.end(out);
            }
            3 => {
                // Between two messages of a pipeline.
                out.push(parse("", "select 1".to_owned()));
                self.end(out);
            }
            _ => {}
        }
        out.push(Message::Rest);
        if self.random.chance(50) {
            out.push(query(&[&format!("set {limit}_timeout = 0")]));
        } else {
            out.push(query(&["select 1"]));
            out.push(query(&["rollback"]));
            out.push(query(&[&format!("reset {limit}_timeout")]));
        }
    }

    /// What changes a session, in one pipeline with what may end the transaction or fail.
    fn session_pipeline(&mut self, out: &mut Vec<Message>) {
        for _ in 0..2 + self.random.below(3) {
            let text = match self.random.below(8) {
                0 | 1 => format!("set {}", self.setting()),
                2 => format!("set local {}", self.setting()),
                3 => format!("reset {}", self.setting_name()),
                4 if !self.options.contend && self.random.chance(50) => self.committing_block(),
                4 | 5 => self.random.pick(&["call code.finish()", "call code.finish()", "call code.undo()"]).to_owned(),
                6 => self.random.pick(&["commit", "rollback", "begin", "select 1/0"]).to_owned(),
                _ => self.statement(),
            };
            out.push(parse("", text));
            out.push(Message::Bind { portal: String::new(), name: String::new(), params: vec![], binary: false });
            out.push(execute("", 0));
        }
        self.end(out);
    }

    /// A transaction that is prepared, and what finishes it.
    fn whole_in_two_phases(&mut self, out: &mut Vec<Message>) {
        self.token += 1;
        let (client, token) = (self.options.client, self.token);
        let begin = self.random.pick(&["begin", "begin read write"]);
        out.push(query(&[begin]));
        for _ in 0..=self.random.below(3) {
            let statement = match self.random.below(4) {
                0 => self.statement(),
                1 => format!("insert into u values ('k{client}_{token}', 2)"),
                2 => format!("set {}", self.setting()),
                _ => format!("set local {}", self.setting()),
            };
            out.push(Message::Query(vec![statement]));
        }
        let name = format!("two{client}_{token}");
        let finish = self.random.pick(&["commit prepared", "commit prepared", "rollback prepared"]);
        for text in [format!("prepare transaction '{name}'"), format!("{finish} '{name}'")] {
            match self.random.below(4) {
                0 => {
                    out.push(parse("", text));
                    out.push(Message::Bind {
                        portal: String::new(),
                        name: String::new(),
                        params: vec![],
                        binary: false,
                    });
                    out.extend([execute("", 0), Message::Sync]);
                }
                _ => out.push(Message::Query(vec![text])),
            }
        }
    }

    /// A call of a function by its OID: mostly of one that there is, with what it takes.
    fn call(&mut self) -> Message {
        let client = self.options.client;
        let key = if self.options.contend { self.random.pick(&KEYS).to_owned() } else { format!("{}", 100 + client) };
        let number = |random: &mut Random| random.pick(&["1", "1", "2", "0", "x", "2147483647"]).to_owned();
        let random = &mut self.random;
        let (oid, mut args) = match random.below(16) {
            0 => (NO_FUNCTION, vec![]),
            1 | 2 => (177, vec![number(random), number(random)]),
            3 => (154, vec![number(random), number(random)]),
            4 => (871, vec!["up".to_owned()]),
            5 => (954, vec!["0".to_owned(), "1".to_owned()]),
            6 => (1574, vec![random.pick(&[&format!("code.seq{client}"), "nope"]).to_owned()]),
            7 => (1575, vec![format!("code.seq{client}")]),
            8 => (2077, vec![random.pick(&["a.b", "timezone", "work_mem", "nope"]).to_owned()]),
            9 => (2559, vec![]),
            10 => (2880, vec![key]),
            11 => (2884, vec![key]),
            12 => (2892, vec![]),
            13 => (3036, vec![random.pick(&CHANNELS).to_owned(), "p".to_owned()]),
            _ => {
                let mut args: Vec<String> = self.setting_params().into_iter().flatten().take(2).collect();
                args.push(self.random.pick(&["false", "false", "true", "maybe"]).to_owned());
                (2078, args)
            }
        };
        match self.random.below(20) {
            0 => args.truncate(1),
            1 => args.push("1".to_owned()),
            _ => {}
        }
        let nothing = oid != 2078 && self.random.chance(5);
        let args = args.into_iter().map(|arg| (!nothing).then_some(arg)).collect();
        Message::Function { oid, args }
    }

    /// Bind with formats, as many as there are values or not, in front of what runs it.
    fn formatted(&mut self, out: &mut Vec<Message>) {
        const CODES: [&[u16]; 9] = [&[], &[], &[0], &[1], &[0, 0], &[1, 0], &[0, 1], &[2], &[0, 1, 0]];
        let text = self.random.pick(&[
            "select $1::text",
            "select $1::int + 1 as n, 'x' as y",
            "select $1::int8, $2::text",
            "select $1::bool",
            "show work_mem",
            "insert into u(token, n) values ('counted', $1)",
            "select n from generate_series(1, 3) n",
            "begin",
            "",
        ]);
        let name = if self.random.chance(70) { "" } else { self.name() };
        if self.random.chance(85) {
            out.push(parse(name, text.to_owned()));
        }
        let most = (1..=2).filter(|n| text.contains(&format!("${n}"))).count();
        let count = self.random.pick(&[most, most, most, most, most + 1, 0, 1]);
        let values = ["7", "7", "t", "\0\0\0\u{7}", "\0\0\0\0\0\0\0\u{7}", "\u{1}", ""];
        let params = (0..count)
            .map(|_| if self.random.chance(15) { None } else { Some(self.random.pick(&values).to_owned()) })
            .collect();
        let portal = self.portal().to_owned();
        let (given, wanted) = (self.random.pick(&CODES).to_vec(), self.random.pick(&CODES).to_vec());
        out.push(Message::Formatted { portal: portal.clone(), name: name.to_owned(), params, given, wanted });
        if self.random.chance(50) {
            out.push(describe('P', &portal));
        }
        out.push(execute(&portal, self.random.pick(&[0, 0, 2])));
        self.end(out);
    }

    /// A cursor or portal that is walked through in a transaction, in several pipelines.
    fn walk(&mut self, out: &mut Vec<Message>) {
        out.push(query(&["begin"]));
        let cursor = self.random.pick(&self.cursors);
        let bound = self.random.chance(40);
        if bound {
            let text =
                self.random.pick(&["select n from generate_series(1, 6) n", "show work_mem", "select 5 as five"]);
            let name = if self.random.chance(50) { "" } else { self.name() };
            out.push(parse(name, text.to_owned()));
            let name = name.to_owned();
            out.push(Message::Bind { portal: cursor.to_owned(), name, params: vec![], binary: false });
        } else {
            let declare = self.declare(cursor);
            out.push(Message::Query(vec![declare]));
        }
        for _ in 0..=self.random.below(5) {
            match self.random.below(6) {
                0..=2 => {
                    out.push(execute(cursor, self.random.pick(&[1, 2, 2, 0])));
                    self.end(out);
                }
                3 => {
                    let fetch = self.fetch(cursor);
                    out.push(Message::Query(vec![fetch]));
                }
                4 => {
                    let fetch = self.fetch(cursor);
                    out.push(parse("", fetch));
                    out.push(Message::Bind {
                        portal: String::new(),
                        name: String::new(),
                        params: vec![],
                        binary: false,
                    });
                    out.push(execute("", self.random.pick(&[0, 0, 1])));
                    self.end(out);
                }
                _ => {
                    let statement = self.statement();
                    out.push(Message::Query(vec![statement]));
                }
            }
        }
        if self.random.chance(30) {
            out.push(close('P', cursor));
            self.end(out);
        }
        if self.random.chance(80) {
            out.push(query(&[self.random.pick(&[
                "commit",
                "commit",
                "rollback",
                "commit and chain",
                "close all;end",
            ])]));
        }
    }

    /// A message with a length that is right and a body that is not.
    fn malformed_body(&mut self) -> Message {
        let bytes: &[u8] = self.random.pick::<&[u8]>(&[
            b"D\0\0\0\x07Zx\0",
            b"C\0\0\0\x07Zx\0",
            b"E\0\0\0\x05\0",
            b"P\0\0\0\x07xxx",
            b"Q\0\0\0\x08abcd",
            b"H\0\0\0\x05x",
            b"P\0\0\0\x11\0select 1\0\0\0x",
            b"P\0\0\0\x12a\0select 1\0\0\0x",
            b"C\0\0\0\x08Sa\0x",
        ]);
        Message::Raw(bytes.to_vec())
    }

    /// A few messages, one of which has a text or name that is none in the client's encoding.
    fn without_encoding(&mut self, out: &mut Vec<Message>) {
        let mut messages = Vec::new();
        match self.random.below(6) {
            0 | 1 => {
                let several = self.random.pick(&[1, 1, 2]);
                messages.push(Message::Query((0..several).map(|_| self.statement()).collect()));
            }
            2 | 3 => self.extended(&mut messages),
            4 => {
                let name = self.name();
                self.run(&mut messages, name);
            }
            _ => {
                let of_statement = self.random.chance(60);
                let (kind, name) = if of_statement { ('S', self.name()) } else { ('P', self.portal()) };
                messages.push(if self.random.chance(50) { describe(kind, name) } else { close(kind, name) });
            }
        }
        let (at, bytes) = (self.random.below(messages.len()), self.random.pick(&NO_TEXT));
        if let Some(without) = messages[at].with_bytes(bytes, |among| self.random.below(among)) {
            messages[at] = without;
        }
        out.append(&mut messages);
        self.end(out);
    }

    /// A query or a call behind messages that no Sync ends, as some drivers send them.
    fn without_sync(&mut self, out: &mut Vec<Message>) {
        for _ in 0..=self.random.pick(&[0, 0, 0, 1, 2]) {
            let (name, portal) = (self.name(), self.portal());
            match self.random.below(8) {
                0..=2 => out.push(close('S', name)),
                3 => out.push(close('P', portal)),
                4 => out.push(Message::Flush),
                5 => out.push(describe('S', name)),
                _ => {
                    let text = self.prepared_text();
                    out.push(parse(name, text));
                }
            }
        }
        if self.random.chance(85) {
            let several = self.random.pick(&[1, 1, 1, 2]);
            let statements = (0..several).map(|_| self.statement()).collect();
            out.push(Message::Query(statements));
        } else {
            out.push(self.call());
        }
    }

    /// How a few extended messages end: mostly with a Sync.
    fn end(&mut self, out: &mut Vec<Message>) {
        match self.random.below(20) {
            0..=13 => out.push(Message::Sync),
            14..=15 => out.push(Message::Flush),
            _ => {}
        }
    }

    fn name(&mut self) -> &'static str {
        if self.random.chance(35) { "" } else { self.random.pick(&self.names) }
    }

    fn portal(&mut self) -> &'static str {
        if self.random.chance(75) { "" } else { self.random.pick(&self.portals) }
    }

    /// The types that a Parse gives of its parameters, if any: of all of them, of some, or of one too many.
    fn types(&mut self, text: &str) -> Vec<u32> {
        if !self.random.chance(if text.contains('$') { 25 } else { 2 }) {
            return Vec::new();
        }
        let first = match text {
            _ if text.contains("set_config($1") => {
                return vec![25, 25, 16][..2 + usize::from(text.contains("$3"))].to_vec();
            }
            _ if ["set_config", "current_setting", "pg_notify"].iter().any(|name| text.contains(name)) => {
                return vec![25];
            }
            _ if text.contains("advisory") => [0, 20, 23],
            _ if text.contains("::int") || text.contains(" u") => [0, 23, 20],
            _ if text.contains("token") || text.contains("::text") || text.contains("'x'") => [0, 25, 25],
            _ => [23, 25, 20],
        };
        let mut types = vec![self.random.pick(&first)];
        if self.random.chance(20) {
            types.push(self.random.pick(&first));
        }
        types
    }

    fn params(&mut self, text: &str, given: usize) -> Vec<Option<String>> {
        if text.contains("set_config($1") {
            return self.setting_params();
        }
        let count = (1..=2).filter(|n| text.contains(&format!("${n}"))).count().max(given);
        (0..count).map(|_| self.param(text)).collect()
    }

    /// The name of a setting, a value, and whether it is for the transaction.
    fn setting_params(&mut self) -> Vec<Option<String>> {
        let (name, value) = self.random.pick(&[
            ("a.b", "bound"),
            ("a.b", ""),
            ("timezone", "Asia/Tokyo"),
            ("TimeZone", "Europe/Berlin"),
            ("application_name", "bound"),
            ("search_path", "one, public"),
            ("work_mem", "5MB"),
            ("work_mem", "none"),
            ("default_transaction_read_only", "on"),
            ("default_transaction_read_only", "off"),
            ("DateStyle", "german"),
            ("role", "deputy"),
            ("role", "none"),
        ]);
        let mut params = vec![Some(name.to_owned()), Some(value.to_owned())];
        if self.random.chance(25) {
            params.push(Some(self.random.pick(&["true", "false"]).to_owned()));
        }
        params
    }

    fn param(&mut self, text: &str) -> Option<String> {
        if text.contains("set_config('") {
            let values = match text {
                _ if text.contains("'work_mem'") => ["5MB", "4MB", "one"],
                _ => ["one", "public", "two"],
            };
            return Some(self.random.pick(&values).to_owned());
        }
        if text.contains("current_setting($1)") {
            let name = self.random.pick(&["a.b", "timezone", "work_mem", "nope"]);
            return Some(name.to_owned());
        }
        if text.contains("pg_notify($1") {
            return Some(self.random.pick(&CHANNELS).to_owned());
        }
        if text.contains("token") && !text.contains(" u") {
            return Some(self.token());
        }
        let value = self.random.pick(&["7", "7", "7", "x", "1", ""]);
        if text.contains('é') {
            return Some(self.random.pick(&["é", "é", "€", "x"]).to_owned());
        }
        if self.random.chance(5) { None } else { Some(value.to_owned()) }
    }

    /// Parse, Bind, Describe, Execute of something new.
    fn extended(&mut self, out: &mut Vec<Message>) {
        let name = if self.random.chance(80) { "" } else { self.name() };
        let text = self.prepared_text();
        let types = self.types(&text);
        let params = self.params(&text, types.len());
        out.push(Message::Parse { name: name.to_owned(), text, types });
        if self.random.chance(15) {
            out.push(describe('S', name));
        }
        let portal = self.portal();
        let binary = self.random.chance(10);
        out.push(Message::Bind { portal: portal.to_owned(), name: name.to_owned(), params, binary });
        if self.random.chance(50) {
            out.push(describe('P', portal));
        }
        out.push(execute(portal, 0));
        if self.random.chance(8) {
            out.push(execute(portal, 0));
        }
        if self.random.chance(10) {
            out.push(close('P', portal));
        }
        if self.random.chance(10) {
            out.push(Message::Flush);
        }
    }

    /// Bind and Execute of what has been prepared, perhaps.
    fn run(&mut self, out: &mut Vec<Message>, name: &str) {
        let portal = self.portal();
        let params = if self.random.chance(60) { vec![] } else { vec![self.param("$1")] };
        let binary = self.random.chance(10);
        out.push(Message::Bind { portal: portal.to_owned(), name: name.to_owned(), params, binary });
        if self.random.chance(50) {
            out.push(describe('P', portal));
        }
        out.push(execute(portal, 0));
    }

    /// A portal that is read in parts.
    fn limited(&mut self, out: &mut Vec<Message>) {
        let text = self.random.pick(&[
            "select n from generate_series(1, 5) n",
            "select n, repeat('z', 90) from generate_series(1, 200) n",
            "select token from t order by token",
            "insert into t(token) values ('lim1'), ('lim2') returning token",
            "show work_mem",
            "fetch 3 from k",
            "select 1",
        ]);
        let portal = self.random.pick(&["", self.portals[0]]);
        out.push(parse("", text.to_owned()));
        let name = String::new();
        out.push(Message::Bind { portal: portal.to_owned(), name, params: vec![], binary: false });
        for _ in 0..=self.random.below(4) {
            out.push(execute(portal, self.random.pick(&[1, 2, 2, 3, 0])));
            if self.random.chance(20) {
                out.push(
                    self.random
                        .pick(&[Some(Message::Sync), Some(Message::Flush)].each_ref())
                        .clone()
                        .unwrap_or(Message::Sync),
                );
            }
        }
        self.end(out);
    }

    fn copy(&mut self, out: &mut Vec<Message>) {
        let text = self.random.pick(&[
            "copy t from stdin",
            "copy t(token) from stdin",
            "copy u from stdin",
            "copy nope from stdin",
        ]);
        let simple = self.random.chance(60);
        if simple {
            let mut statements = vec![text.to_owned()];
            if self.random.chance(20) {
                statements.push(self.statement());
            }
            if self.random.chance(20) {
                statements.insert(0, self.statement());
            }
            out.push(Message::Query(statements));
        } else {
            out.push(parse("", text.to_owned()));
            out.push(Message::Bind { portal: String::new(), name: String::new(), params: vec![], binary: false });
            out.push(execute("", 0));
            if self.random.chance(40) {
                out.push(self.random.pick(&[&Message::Sync, &Message::Flush]).clone());
            }
        }
        let two = text.contains(" u ");
        for _ in 0..self.random.below(4) {
            let token = self.token();
            let data = match self.random.below(12) {
                0 => format!("{token}\t1\t2\n"),
                1 => format!("{token}\n"),
                2 => "half".to_owned(),
                3 => format!("{token}\tnumber\n"),
                _ if two => format!("{token}\t5\n"),
                _ => format!("{token}\n"),
            };
            out.push(Message::CopyData(data));
            if self.random.chance(15) {
                out.push(self.random.pick(&[&Message::Sync, &Message::Flush]).clone());
            }
        }
        match self.random.below(12) {
            0 => out.push(Message::CopyFail("no more".to_owned())),
            1 => {}
            2 => out.push(query(&["select 1"])),
            _ => out.push(Message::CopyDone),
        }
        if !simple {
            self.end(out);
        }
    }

    /// A new token, or one that may be there already.
    fn token(&mut self) -> String {
        if self.random.chance(if self.options.contend { 50 } else { 15 }) {
            let other = if self.options.contend { 0 } else { self.options.client };
            return format!("dup{other}_{}", self.random.below(2));
        }
        self.token += 1;
        format!("k{}_{}", self.options.client, self.token)
    }

    /// A text to be prepared: with parameters, perhaps.
    fn prepared_text(&mut self) -> String {
        match self.random.below(17) {
            14 => format!("select set_config($1, $2, {})", self.random.pick(&["false", "false", "true", "$3"])),
            15 => format!(
                "select set_config('{}', $1, {})",
                self.random.pick(&["a.b", "application_name", "search_path", "work_mem"]),
                self.random.pick(&["false", "true"])
            ),
            16 => self
                .random
                .pick(&[
                    "select current_setting($1)",
                    "select pg_try_advisory_xact_lock($1)",
                    "select pg_notify($1, 'p')",
                ])
                .to_owned(),
            13 => "insert into u(token, n) values ('counted', $1)".to_owned(),
            12 => self.random.pick(&["select 'a\\qb' as s", "select 'it\\'s'"]).to_owned(),
            0 => "select $1::text".to_owned(),
            1 => "select $1::int + 1 as n".to_owned(),
            2 => "insert into t(token) values ($1)".to_owned(),
            3 => "select * from v".to_owned(),
            4 => self.random.pick(&["select $1", "select $1, current_setting('timezone')"]).to_owned(),
            5 => self
                .random
                .pick(&["", "select 'a' where $1 = 'x'", "select $2::int", "delete from t where token = $1"])
                .to_owned(),
            6 => "insert into t(token) values ($1) returning token, 5".to_owned(),
            _ => self.statement(),
        }
    }

    /// What says an encoding, or depends on it.
    fn encoded(&mut self) -> String {
        let encoding = self.random.pick(self.encodings);
        match self.random.below(12) {
            0 | 1 => format!("set {}client_encoding = {encoding}", self.random.pick(&["", "", "local "])),
            2 => format!("set names '{}'", encoding.trim_matches('\'').replace("default", "utf8")),
            3 => self.random.pick(&["show client_encoding", "reset client_encoding"]).to_owned(),
            4 => format!(
                "select set_config('client_encoding', '{}', {})",
                self.random.pick(&["latin1", "utf8"]),
                self.random.pick(&["false", "true"])
            ),
            5 => self
                .random
                .pick(&[
                    "select code.set('client_encoding', 'latin1')",
                    "select code.reset('client_encoding')",
                    "do $$ begin reset client_encoding; end $$",
                ])
                .to_owned(),
            6 | 7 => format!("set a.b = '{}'", self.random.pick(&["é", "€", "Ã©"])),
            8 => "select current_setting('a.b')".to_owned(),
            9 => "select $1::text, 'é'".to_owned(),
            _ => format!("select '{}'", self.random.pick(&["é", "é", "€"])),
        }
    }

    fn setting(&mut self) -> String {
        if !self.encodings.is_empty() && self.random.chance(25) {
            return format!("client_encoding = {}", self.random.pick(self.encodings));
        }
        let random = &mut self.random;
        match random.below(17) {
            13 => format!(
                "default_transaction_read_only {}",
                random.pick(&["= on", "to yes", "= off", "to default", "= 'maybe'", "= 1"])
            ),
            14 => format!(
                "default_transaction_isolation = {}",
                random.pick(&["'repeatable read'", "serializable", "default", "'READ committed'", "none"])
            ),
            15 => {
                format!("intervalstyle = {}", random.pick(&["iso_8601", "'ISO_8601'", "sql_standard", "default", "x"]))
            }
            16 => format!("extra_float_digits = {}", random.pick(&["3", "0", "'-1'", "1", "9"])),
            11 | 12 => format!(
                "synchronous_commit {}",
                random.pick(&["= local", "to local", "= LOCAL", "= off", "= 'local'", "to default"])
            ),
            10 => format!("default_text_search_config = {}", random.pick(&["mine", "'mine'", "simple", "nothing"])),
            0 => format!("timezone = '{}'", random.pick(&ZONES)),
            1 => format!(
                "datestyle = {}",
                random.pick(&["german", "iso", "'sql, ymd'", "sql, dmy", "'nonsense'", "default"])
            ),
            2 => format!("application_name = {}", random.pick(&["'me'", "you", "''"])),
            3 => format!(
                "search_path = {}",
                random.pick(&["one", "two, public", "public", "'one, two'", "nowhere", "default", "pg_temp, one"])
            ),
            4 => format!("statement_timeout = {}", random.pick(&["'60s'", "90000", "'zz'", "0"])),
            5 => format!("work_mem to {}", random.pick(&["'5MB'", "2048", "1", "'1GB'"])),
            6 => format!("standard_conforming_strings = {}", random.pick(&["on", "off"])),
            7 => format!("lock_timeout to {}", random.pick(&["'30s'", "'zz'"])),
            8 => "no_such_setting = 1".to_owned(),
            _ => format!("{} = {}", random.pick(&["a.b", "a.b", "c.d"]), random.pick(&["one", "two", "'x y'", "7"])),
        }
    }

    /// What later sessions begin with.
    fn beginning(&mut self) -> String {
        let random = &mut self.random;
        let of = random.pick(&[
            "database alpha",
            "database beta",
            "role trust_user",
            "role trust_user",
            "role trust_user in database alpha",
        ]);
        let what = random.pick(&[
            "set timezone = 'Asia/Tokyo'",
            "set timezone to 'Europe/Berlin'",
            "set datestyle = german",
            "set datestyle to sql, dmy",
            "set work_mem = '5MB'",
            "set search_path = two, public",
            "set extra_float_digits to 0",
            "set intervalstyle to iso_8601",
            "set timezone = 'Nowhere/Land'",
            "set work_mem to default",
            "reset timezone",
            "reset all",
        ]);
        format!("alter {of} {what}")
    }

    fn setting_name(&mut self) -> &'static str {
        self.random.pick(&[
            "timezone",
            "datestyle",
            "application_name",
            "search_path",
            "work_mem",
            "a.b",
            "standard_conforming_strings",
            "synchronous_commit",
            "default_transaction_read_only",
            "default_transaction_isolation",
            "intervalstyle",
        ])
    }

    fn select(&mut self) -> String {
        let random = &mut self.random;
        match random.below(18) {
            0 | 1 => format!("select {}", random.pick(&["1", "'a', 2", "'x' as y", "null::int", "1 + 2", "'it''s'"])),
            2 | 3 => "select token from t order by token".to_owned(),
            4 => "select count(*) from t".to_owned(),
            5 | 6 => "select * from v".to_owned(),
            7 => "select a from v".to_owned(),
            8 => "select b from v".to_owned(),
            9 => "select n from generate_series(1, 4) n".to_owned(),
            10 => "select n, repeat('y', 100) from generate_series(1, 150) n".to_owned(),
            11 => format!(
                "select current_setting('{}')",
                random.pick(&["a.b", "timezone", "timezone", "search_path", "work_mem", "default_text_search_config"])
            ),
            12 => format!("select * from {}", random.pick(&TEMPS)),
            13 => "select 1 from t where token = 'nobody'".to_owned(),
            14 => "select current_user, session_user, current_database()".to_owned(),
            15 | 16 => format!(
                "select set_config({}, {})",
                random.pick(&[
                    "'a.b', 'x y'",
                    "'a.b', ''",
                    "'search_path', 'one, public'",
                    "'search_path', 'pg_temp, one'",
                    "'work_mem', '5MB'",
                    "'work_mem', '4MB'",
                    "'work_mem', 'zz'",
                    "'timezone', 'GMT'",
                    "'default_text_search_config', 'mine'",
                ]),
                random.pick(&["false", "false", "true"])
            ),
            _ => self
                .random
                .pick(&[
                    "select 5/n from generate_series(0, 2) n",
                    "copy (select token from t where token = 'nobody') to stdout",
                    "copy (select n, 'x' as y from generate_series(1, 3) n) to stdout",
                    "copy (select 5/n from generate_series(0, 2) n) to stdout",
                ])
                .to_owned(),
        }
    }

    /// One statement.
    fn statement(&mut self) -> String {
        if !self.encodings.is_empty() && self.random.chance(25) {
            return self.encoded();
        }
        if self.options.contend && self.random.chance(40) {
            return self.contended();
        }
        if self.options.sequences && self.random.chance(15) {
            return self.sequence();
        }
        match self.random.below(70) {
            59 | 60 => self.function(),
            64 if !self.options.contend && self.random.chance(25) => self.beginning(),
            64..=66 => self.characteristics(),
            67 => self.role(),
            68 => self.two_phases(),
            0..=9 => self.select(),
            10..=14 => self.write(),
            15..=17 => "begin".to_owned(),
            18..=20 => self.random.pick(&["commit", "commit", "end", "commit and chain"]).to_owned(),
            21..=22 => self.random.pick(&["rollback", "rollback", "abort", "rollback and chain"]).to_owned(),
            23..=26 => {
                let name = self.random.pick(&SAVEPOINTS);
                self.random
                    .pick(
                        &[
                            format!("savepoint {name}"),
                            format!("rollback to {name}"),
                            format!("release {name}"),
                            format!("savepoint {name}"),
                        ]
                        .each_ref(),
                    )
                    .clone()
            }
            27..=31 => {
                let how = self.random.pick(&["set", "set", "set local", "set session"]);
                format!("{how} {}", self.setting())
            }
            32..=33 => match self.random.below(4) {
                0 => "reset all".to_owned(),
                _ => format!("reset {}", self.setting_name()),
            },
            34 => self
                .random
                .pick(&["discard all", "discard all", "discard temp", "discard plans", "discard sequences"])
                .to_owned(),
            35..=36 => {
                let name = self.random.pick(&self.names);
                self.random
                    .pick(
                        &[
                            format!("deallocate {name}"),
                            "deallocate all".to_owned(),
                            format!("deallocate prepare {name}"),
                        ]
                        .each_ref(),
                    )
                    .clone()
            }
            37..=38 => {
                let name = self.random.pick(&self.names);
                let body = self.random.pick(&[
                    "select 'sql'",
                    "select $1::text",
                    "select * from v",
                    "insert into u(token) values ('prepared')",
                    "select nope",
                ]);
                format!("prepare {name} as {body}")
            }
            39..=40 => {
                let name = self.random.pick(&self.names);
                format!("execute {name}{}", self.random.pick(&["", "", "('v')"]))
            }
            41..=45 => self.cursor(),
            46..=48 => self.temporary(),
            49..=50 => self.listening(),
            51..=53 => self.hidden(),
            54 | 55 => self.sequence(),
            56 => self.lock(),
            57 => format!("show {}", self.setting_name()),
            58 => self.block(),
            _ => self.wrong(),
        }
    }

    /// What a transaction may be, or those that come.
    fn characteristics(&mut self) -> String {
        let random = &mut self.random;
        let modes = random.pick(&[
            "read only",
            "read write",
            "read write",
            "isolation level serializable",
            "isolation level repeatable read, read only",
            "isolation level read committed",
        ]);
        match random.below(12) {
            0..=2 => format!("begin {modes}"),
            3 => format!("start transaction {modes}"),
            4 | 5 => format!("set transaction {modes}"),
            6 => format!("set session characteristics as transaction {modes}"),
            7 => "set transaction snapshot '00000003-0000001B-1'".to_owned(),
            8 => "show transaction_isolation".to_owned(),
            9 => "show default_transaction_isolation".to_owned(),
            10 => "show default_transaction_read_only".to_owned(),
            _ => "show transaction_read_only".to_owned(),
        }
    }

    fn role(&mut self) -> String {
        let text = self.random.pick(&[
            "set role deputy",
            "set role deputy",
            "set local role deputy",
            "set role none",
            "reset role",
            "set role to nobody_there",
            "set session authorization default",
            "reset session authorization",
            "select set_config('role', 'deputy', false)",
            "select set_config('role', 'deputy', true)",
            "show is_superuser",
        ]);
        text.to_owned()
    }

    /// A transaction that is committed in two phases.
    fn two_phases(&mut self) -> String {
        let name = format!("two{}_{}", self.options.client, self.random.below(2));
        // What nothing finishes would have its own client wait.
        let first = if self.options.global { "prepare transaction" } else { "commit prepared" };
        let verb = self.random.pick(&[first, "commit prepared", "rollback prepared"]);
        format!("{verb} '{name}'")
    }

    /// One statement that others may have to wait for.
    fn contended(&mut self) -> String {
        match self.random.below(10) {
            0 => self.lock(),
            1 => format!("select pg_advisory_lock({})", self.random.pick(&KEYS)),
            2..=4 => self.write(),
            5 | 6 => "begin".to_owned(),
            7 => self.random.pick(&["lock table t", "lock table v", "alter table v add column extra text"]).to_owned(),
            8 => "update u set n = 4 where token = 'dup0_0'".to_owned(),
            _ => self.listening(),
        }
    }

    fn write(&mut self) -> String {
        let token = self.token();
        match self.random.below(10) {
            0..=4 => format!("insert into t(token) values ('{token}')"),
            5 => format!("insert into t values ('{token}'), ('{}')", self.token()),
            6 => format!("insert into t(token) values ('{token}') returning token, 1 as one"),
            7 => format!("delete from t where token = '{token}'"),
            8 => format!(
                "update t set token = '{token}' where token = 'dup{}_0'",
                if self.options.contend { 0 } else { self.options.client }
            ),
            _ => format!("insert into u values ('{token}', 3)"),
        }
    }

    fn cursor(&mut self) -> String {
        let name = self.random.pick(&self.cursors);
        match self.random.below(10) {
            0..=3 => self.declare(name),
            4..=7 => self.fetch(name),
            8 => format!("close {name}"),
            _ => "close all".to_owned(),
        }
    }

    fn declare(&mut self, name: &str) -> String {
        let how = self.random.pick(&["", "", "", "scroll ", "no scroll ", "insensitive "]);
        let hold = self.random.pick(&["", "", "with hold ", "with hold ", "without hold "]);
        let select = self.random.pick(&[
            "select token from t order by token",
            "select n from generate_series(1, 5) n",
            "select n, 'x' as y from generate_series(1, 5) n",
            "select * from v",
            "select 1 as one",
        ]);
        format!("declare {name} {how}cursor {hold}for {select}")
    }

    fn fetch(&mut self, name: &str) -> String {
        let to = self.random.pick(&[
            "1",
            "2",
            "all",
            "next",
            "1",
            "2",
            "all",
            "next",
            "0",
            "prior",
            "first",
            "last",
            "absolute 2",
            "absolute -2",
            "absolute 0",
            "relative 2",
            "relative -1",
            "relative 0",
            "forward 2",
            "forward all",
            "backward",
            "backward 2",
            "backward all",
            "-1",
        ]);
        format!("{} {to} from {name}", self.random.pick(&["fetch", "fetch", "fetch", "move"]))
    }

    fn temporary(&mut self) -> String {
        let name = self.random.pick(&TEMPS);
        match self.random.below(10) {
            0..=1 => format!("create temp table {name} (a int, b text)"),
            2 => format!("create temp table if not exists {name} (a text)"),
            3 => format!("create temp table {name} (token text) on commit drop"),
            4 => format!("create temp table {name} as select 'temporary' as a"),
            5 => format!("drop table {}{name}", self.random.pick(&["if exists pg_temp.", "pg_temp.", "pg_temp."])),
            6 => format!("insert into {name}(a) values ({})", self.random.pick(&["1", "'2'"])),
            7 => format!("alter table pg_temp.{name} add column c int"),
            8 if !self.options.contend && self.options.global => self
                .random
                .pick(&["alter table v add column extra text", "alter table u alter column n type bigint"])
                .to_owned(),
            _ => format!("alter table pg_temp.{name} alter column a type text"),
        }
    }

    fn listening(&mut self) -> String {
        if !self.options.contend && self.random.chance(60) {
            self.token += 1;
            let payload = format!("k{}_{}", self.options.client, self.token);
            return match self.random.below(6) {
                0 | 1 => "listen everyone".to_owned(),
                2 => self.random.pick(&["unlisten everyone", "unlisten *", "listen everyone"]).to_owned(),
                3 => format!("select pg_notify('everyone', '{payload}')"),
                _ => format!("notify everyone, '{payload}'"),
            };
        }
        let channel = self.random.pick(&CHANNELS);
        match self.random.below(6) {
            0 | 1 => format!("listen {channel}"),
            2 => format!("unlisten {}", self.random.pick(&["*", channel])),
            3 => format!("notify {channel}, 'p'"),
            4 => format!("select pg_notify('{channel}', 'q')"),
            _ => format!("notify {channel}"),
        }
    }

    /// Code in the database that does what no text shows.
    fn hidden(&mut self) -> String {
        let token = self.token();
        match self.random.below(15) {
            13 if !self.options.contend && self.random.chance(50) => format!("call code.twice('{token}')"),
            13 => "call code.finish()".to_owned(),
            14 => "call code.undo()".to_owned(),
            0..=1 => format!("select code.set('{}', 'hid')", self.random.pick(&["a.b", "application_name"])),
            2 => "select code.set('timezone', 'Asia/Tokyo') as z".to_owned(),
            3 => "select code.deallocate()".to_owned(),
            4 => "select code.temp()".to_owned(),
            5 => "select code.lock(3)".to_owned(),
            6 => format!("select code.next('code.seq{}')", self.options.client),
            9..=11 => format!("select code.reset('{}')", self.setting_name()),
            12 => "select code.reset_all()".to_owned(),
            7 => "select code.listen()".to_owned(),
            8 => self
                .random
                .pick(&[
                    "select code.fail('on purpose')",
                    "select code.note('by the way')",
                    "select n, code.note('row') from generate_series(1, 3) n",
                ])
                .to_owned(),
            _ => format!("select code.insert('{token}')"),
        }
    }

    /// Each client has a sequence of its own, so that values are what they are alone.
    fn sequence(&mut self) -> String {
        let client = self.options.client;
        match self.random.below(8) {
            0..=2 => format!("select nextval('code.seq{client}')"),
            3 | 4 => format!("select currval('code.seq{client}')"),
            5 => "select lastval()".to_owned(),
            6 => format!("select setval('code.seq{client}', {})", self.random.pick(&[30, 70])),
            _ if self.options.global => "insert into numbered(token) values ('n') returning id".to_owned(),
            _ => "insert into u(token) values ('counted')".to_owned(),
        }
    }

    /// The making of a function, in whose body semicolons end no statement of the text.
    fn function(&mut self) -> String {
        let name =
            if self.random.chance(50) { "pg_temp.f".to_owned() } else { format!("code.own{}", self.options.client) };
        let body = self.random.pick(&[
            "select 1",
            "select 1;select 2",
            "select 'reset all'::text;select 3",
            "select 5 as end1",
        ]);
        format!("create or replace function {name}() returns int language sql begin atomic {body};end")
    }

    /// Code that is sent as a text, and ends transactions.
    fn committing_block(&mut self) -> String {
        let client = self.options.client;
        let mut block = String::from("do $$ begin ");
        for _ in 0..=self.random.below(4) {
            let statement = match self.random.below(9) {
                0..=2 => "commit".to_owned(),
                3 => "rollback".to_owned(),
                4 | 5 => format!("insert into t(token) values ('{}')", self.token()),
                6 => format!("set {}", self.setting()),
                7 => self
                    .random
                    .pick(&["perform set_config('work_mem', '5MB', false)", "perform set_config('a.b', 'do', false)"])
                    .to_owned(),
                _ => self
                    .random
                    .pick(&["perform 1/0", "perform nope", &format!("perform nextval('code.seq{client}')")])
                    .to_owned(),
            };
            block.push_str(&statement);
            block.push(';');
        }
        block.push_str(" end $$");
        block
    }

    /// Code that is sent as a text.
    fn block(&mut self) -> String {
        if !self.options.contend && self.random.chance(50) {
            return self.committing_block();
        }
        let statement = match self.random.below(6) {
            0 => "reset all".to_owned(),
            1 | 2 => format!("reset {}", self.setting_name()),
            3 => format!("set {}", self.setting()),
            4 => "listen hidden".to_owned(),
            _ => "deallocate all".to_owned(),
        };
        format!("do $$ begin {statement}; end $$")
    }

    fn lock(&mut self) -> String {
        let key = if self.options.contend {
            self.random.pick(&KEYS).to_owned()
        } else {
            format!("{}", 100 + self.options.client)
        };
        match self.random.below(6) {
            0 => format!("select pg_advisory_lock({key})"),
            1 => format!("select pg_try_advisory_lock({key})"),
            2 | 3 => format!("select pg_advisory_unlock({key})"),
            4 => format!("select pg_advisory_xact_lock({key})"),
            _ => "select pg_advisory_unlock_all()".to_owned(),
        }
    }

    fn wrong(&mut self) -> String {
        let text = self.random.pick(&[
            "select 1/0",
            "selec nonsense",
            "select nope",
            "select * from nope",
            "select 'x'::int",
            "select code.fail('x')",
            "select $1",
            "select nope()",
            "",
        ]);
        text.to_owned()
    }
}
