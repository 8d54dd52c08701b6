//! What a client does: writes of one or several messages, and whether it waits for their answers.
//!
//! The notation, in which scripts are printed and read: `[...]` is one write, `|` waits for the answers; `[...]/n` sends
//! only the first n bytes of it, and nothing after them. `Q('…')` simple query, `P(name,'text',oid…)` Parse, `D(S,x)`/`D(P,x)`
//! Describe, `B(portal,name,'param'…)` Bind (`b` for binary results), `O(portal,name,'formats','formats','param'…)` the same with
//! format codes of the parameters and of the result, `E` or `E(portal,limit)` Execute, `C(S,x)` Close, `S` Sync, `H` Flush,
//! `X` Terminate, `d('…')` CopyData, `c` CopyDone, `f('…')` CopyFail, `F(oid,'argument'…)` function call (`F` of none that there is),
//! `R(hex)` bytes as they are. With `~` in it the client waits for its answers behind a write, and then rests for longer than a short time
//! limit allows. `{name=value}` in front is what the startup packet says besides user and database (`database` among them, and `protocol`,
//! which is its version).

use std::fmt;
use std::time::Duration;

/// For how long a client rests, which is longer than a sleep of a second and what [`BRIEF`] allows behind that.
pub const REST: Duration = Duration::from_secs(2);

/// The time that a client allows its statements or itself which it rests for longer than.
pub const BRIEF: &str = "_timeout = '500ms'";

/// What the startup packet's version is said with.
pub const PROTOCOL: &str = "protocol";

/// The OID of no function.
pub const NO_FUNCTION: u32 = 1;

/// A message of the client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The statements of a text.
    Query(Vec<String>),
    Parse {
        name: String,
        text: String,
        /// The types of parameters that are given, by OID.
        types: Vec<u32>,
    },
    Bind {
        portal: String,
        name: String,
        params: Vec<Option<String>>,
        binary: bool,
    },
    /// Bind with any formats of the parameters and of the result.
    Formatted {
        portal: String,
        name: String,
        params: Vec<Option<String>>,
        given: Vec<u16>,
        wanted: Vec<u16>,
    },
    Describe {
        kind: char,
        name: String,
    },
    Execute {
        portal: String,
        limit: u32,
    },
    Close {
        kind: char,
        name: String,
    },
    Sync,
    Flush,
    Terminate,
    CopyData(String),
    CopyDone,
    CopyFail(String),
    /// A call of a function by its OID, with arguments and a result in text.
    Function {
        oid: u32,
        args: Vec<Option<String>>,
    },
    Raw(Vec<u8>),
    /// No message: the client rests behind the write.
    Rest,
}

/// Bytes that are written at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    pub messages: Vec<Message>,
    /// Only so many bytes of them are sent, and nothing more after that.
    pub cut: Option<usize>,
    /// The client waits for all answers that can come.
    pub wait: bool,
}

/// What one client does. After the last write it sends no more, and reads to the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub startup: Vec<(String, String)>,
    pub writes: Vec<Write>,
}

impl Script {
    /// The startup packet for `user`.
    pub fn startup_packet(&self, user: &str) -> Vec<u8> {
        let minor =
            self.startup.iter().find(|(name, _)| name == PROTOCOL).and_then(|(_, said)| said.strip_prefix("3."));
        let minor = minor.and_then(|minor| minor.parse::<i32>().ok()).unwrap_or(0);
        let mut body = (3_i32 << 16 | minor).to_be_bytes().to_vec();
        let mut put = |name: &str, value: &str| {
            for text in [name, value] {
                body.extend_from_slice(text.as_bytes());
                body.push(0);
            }
        };
        put("user", user);
        put("database", self.database());
        let rest = self.startup.iter().filter(|(name, _)| name != "database" && name != PROTOCOL);
        rest.for_each(|(name, value)| put(name, value));
        body.push(0);
        let mut packet = size(body.len() + 4).to_be_bytes().to_vec();
        packet.extend(body);
        packet
    }

    /// The database that it connects to.
    pub fn database(&self) -> &str {
        self.startup.iter().find(|(name, _)| name == "database").map_or("alpha", |(_, value)| value)
    }
}

impl Write {
    /// Whether the client rests behind it.
    pub fn rests(&self) -> bool {
        self.messages.contains(&Message::Rest)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.messages.iter().for_each(|message| message.put(&mut bytes));
        bytes.truncate(self.cut.unwrap_or(usize::MAX));
        bytes
    }
}

fn size(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Message {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Query(statements) => framed(out, b'Q', |out| string(out, &statements.join(";"))),
            Self::Parse { name, text, types } => framed(out, b'P', |out| {
                string(out, name);
                string(out, text);
                out.extend(u16::try_from(types.len()).unwrap_or(u16::MAX).to_be_bytes());
                types.iter().for_each(|oid| out.extend(oid.to_be_bytes()));
            }),
            Self::Bind { portal, name, params, binary } => framed(out, b'B', |out| {
                string(out, portal);
                string(out, name);
                numbers(out, &[]);
                values(out, params);
                numbers(out, if *binary { &[1] } else { &[] });
            }),
            Self::Formatted { portal, name, params, given, wanted } => framed(out, b'B', |out| {
                string(out, portal);
                string(out, name);
                numbers(out, given);
                values(out, params);
                numbers(out, wanted);
            }),
            Self::Describe { kind, name } => framed(out, b'D', |out| kind_and_name(out, *kind, name)),
            Self::Close { kind, name } => framed(out, b'C', |out| kind_and_name(out, *kind, name)),
            Self::Execute { portal, limit } => framed(out, b'E', |out| {
                string(out, portal);
                out.extend(limit.to_be_bytes());
            }),
            Self::Sync => framed(out, b'S', |_| {}),
            Self::Flush => framed(out, b'H', |_| {}),
            Self::Terminate => framed(out, b'X', |_| {}),
            Self::CopyData(data) => framed(out, b'd', |out| out.extend_from_slice(data.as_bytes())),
            Self::CopyDone => framed(out, b'c', |_| {}),
            Self::CopyFail(why) => framed(out, b'f', |out| string(out, why)),
            Self::Function { oid, args } => framed(out, b'F', |out| {
                out.extend(oid.to_be_bytes());
                numbers(out, &[]);
                values(out, args);
                out.extend([0, 0]);
            }),
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::Rest => {}
        }
    }

    /// The same message with `bytes` put into one of its strings, unless it has none: which string and where in it is for `place` to
    /// choose from so many.
    pub fn with_bytes(&self, bytes: &[u8], mut place: impl FnMut(usize) -> usize) -> Option<Self> {
        let (mut from, strings) = match self {
            Self::Query(_) | Self::Execute { .. } => (5, 1),
            Self::Parse { .. } | Self::Bind { .. } | Self::Formatted { .. } => (5, 2),
            Self::Describe { .. } | Self::Close { .. } => (6, 1),
            _ => return None,
        };
        let mut message = Vec::new();
        self.put(&mut message);
        let length = |from: usize| message[from..].iter().position(|byte| *byte == 0);
        for _ in 0..place(strings) {
            from += length(from)? + 1;
        }
        let at = from + place(length(from)? + 1);
        message.splice(at..at, bytes.iter().copied());
        let length = size(message.len() - 1);
        message[1..5].copy_from_slice(&length.to_be_bytes());
        Some(Self::Raw(message))
    }
}

fn framed(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let from = out.len();
    out.extend([tag, 0, 0, 0, 0]);
    fill(out);
    let length = size(out.len() - from - 1);
    out[from + 1..from + 5].copy_from_slice(&length.to_be_bytes());
}

/// Numbers, behind how many they are.
fn numbers(out: &mut Vec<u8>, all: &[u16]) {
    out.extend(u16::try_from(all.len()).unwrap_or(u16::MAX).to_be_bytes());
    all.iter().for_each(|number| out.extend(number.to_be_bytes()));
}

/// Values, behind how many they are.
fn values(out: &mut Vec<u8>, all: &[Option<String>]) {
    out.extend(u16::try_from(all.len()).unwrap_or(u16::MAX).to_be_bytes());
    for value in all {
        match value {
            None => out.extend((-1_i32).to_be_bytes()),
            Some(text) => {
                out.extend(size(text.len()).to_be_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn kind_and_name(out: &mut Vec<u8>, kind: char, name: &str) {
    out.push(u8::try_from(kind).unwrap_or_default());
    string(out, name);
}

/// A text in quotes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n").replace('\t', "\\t");
        write!(f, "'{text}'")
    }
}

/// A name, in quotes only where it needs them.
struct Bare<'a>(&'a str);

impl fmt::Display for Bare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = !self.0.is_empty() && self.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if plain { f.write_str(self.0) } else { Quoted(self.0).fmt(f) }
    }
}

/// Arguments behind others, and the end of them.
fn shown(f: &mut fmt::Formatter<'_>, all: &[Option<String>]) -> fmt::Result {
    for one in all {
        match one {
            Some(text) => write!(f, ",{}", Quoted(text))?,
            None => f.write_str(",null")?,
        }
    }
    f.write_str(")")
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(statements) => write!(f, "Q({})", Quoted(&statements.join(";"))),
            Self::Parse { name, text, types } => {
                write!(f, "P({},{}", Bare(name), Quoted(text))?;
                types.iter().try_for_each(|oid| write!(f, ",{oid}"))?;
                f.write_str(")")
            }
            Self::Bind { portal, name, params, binary } => {
                write!(f, "{}({},{}", if *binary { 'b' } else { 'B' }, Bare(portal), Bare(name))?;
                shown(f, params)
            }
            Self::Formatted { portal, name, params, given, wanted } => {
                let codes = |codes: &[u16]| codes.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
                write!(f, "O({},{},'{}','{}'", Bare(portal), Bare(name), codes(given), codes(wanted))?;
                shown(f, params)
            }
            Self::Describe { kind, name } => write!(f, "D({kind},{})", Bare(name)),
            Self::Close { kind, name } => write!(f, "C({kind},{})", Bare(name)),
            Self::Execute { portal, limit: 0 } if portal.is_empty() => f.write_str("E"),
            Self::Execute { portal, limit } => write!(f, "E({},{limit})", Bare(portal)),
            Self::Sync => f.write_str("S"),
            Self::Flush => f.write_str("H"),
            Self::Terminate => f.write_str("X"),
            Self::CopyData(data) => write!(f, "d({})", Quoted(data)),
            Self::CopyDone => f.write_str("c"),
            Self::CopyFail(why) => write!(f, "f({})", Quoted(why)),
            Self::Function { oid: NO_FUNCTION, args } if args.is_empty() => f.write_str("F"),
            Self::Function { oid, args } => {
                write!(f, "F({oid}")?;
                shown(f, args)
            }
            Self::Rest => f.write_str("~"),
            Self::Raw(bytes) => {
                f.write_str("R(")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (n, message) in self.messages.iter().enumerate() {
            write!(f, "{}{message}", if n > 0 { " " } else { "" })?;
        }
        f.write_str("]")?;
        if let Some(cut) = self.cut {
            write!(f, "/{cut}")?;
        }
        f.write_str(if self.wait { " |" } else { "" })
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.startup {
            writeln!(f, "{{{name}={value}}}")?;
        }
        self.writes.iter().try_for_each(|write| writeln!(f, "{write}"))
    }
}

impl std::str::FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Reader { rest: text }.script()
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, what: &str) -> bool {
        let rest = self.rest.strip_prefix(what);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn need(&mut self, what: &str) -> Result<(), String> {
        if self.eat(what) { Ok(()) } else { Err(format!("{what} expected at {:?}", self.rest)) }
    }

    fn run(&mut self, goes_on: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !goes_on(c)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(end);
        self.rest = rest;
        run
    }

    fn script(mut self) -> Result<Script, String> {
        let mut script = Script::default();
        loop {
            self.skip_blanks();
            if self.rest.is_empty() {
                return Ok(script);
            }
            if self.eat("{") {
                let name = self.run(|c| c != '=').to_owned();
                self.need("=")?;
                let value = self.run(|c| c != '}').to_owned();
                self.need("}")?;
                script.startup.push((name, value));
            } else if self.eat("|") {
                script.writes.last_mut().ok_or("nothing to wait for")?.wait = true;
            } else if self.eat("[") {
                script.writes.push(self.write()?);
            } else {
                // One message is a write of its own.
                let messages = vec![self.message()?];
                script.writes.push(Write { messages, ..Write::default() });
            }
        }
    }

    fn write(&mut self) -> Result<Write, String> {
        let mut write = Write::default();
        loop {
            self.skip_blanks();
            if self.eat("]") {
                break;
            }
            write.messages.push(self.message()?);
        }
        if self.eat("/") {
            write.cut = self.run(|c| c.is_ascii_digit()).parse().ok();
        }
        Ok(write)
    }

    fn message(&mut self) -> Result<Message, String> {
        let kind = self.rest.chars().next().ok_or("a message expected")?;
        self.rest = &self.rest[kind.len_utf8()..];
        let args = if self.eat("(") { self.arguments()? } else { Vec::new() };
        let mut args = args.into_iter();
        let mut next = || args.next().flatten().unwrap_or_default();
        Ok(match kind {
            'Q' => Message::Query(next().split(';').map(str::to_owned).collect()),
            'P' => {
                let (name, text) = (next(), next());
                let types = args.flatten().filter_map(|oid| oid.parse().ok()).collect();
                Message::Parse { name, text, types }
            }
            'B' | 'b' => {
                let (portal, name) = (next(), next());
                Message::Bind { portal, name, params: args.collect(), binary: kind == 'b' }
            }
            'D' => Message::Describe { kind: next().chars().next().unwrap_or('S'), name: next() },
            'C' => Message::Close { kind: next().chars().next().unwrap_or('S'), name: next() },
            'E' => Message::Execute { portal: next(), limit: next().parse().unwrap_or(0) },
            'S' => Message::Sync,
            '~' => Message::Rest,
            'H' => Message::Flush,
            'X' => Message::Terminate,
            'd' => Message::CopyData(next()),
            'c' => Message::CopyDone,
            'f' => Message::CopyFail(next()),
            'F' => Message::Function { oid: next().parse().unwrap_or(NO_FUNCTION), args: args.collect() },
            'O' => {
                let (portal, name) = (next(), next());
                let codes = |text: String| text.split_whitespace().filter_map(|code| code.parse().ok()).collect();
                let (given, wanted) = (codes(next()), codes(next()));
                Message::Formatted { portal, name, params: args.collect(), given, wanted }
            }
            'R' => {
                let hex = next();
                let byte = |at: usize| hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
                Message::Raw((0..hex.len()).step_by(2).filter_map(byte).collect())
            }
            other => return Err(format!("no message is called {other:?}")),
        })
    }

    /// Arguments up to the closing parenthesis; `null` is none.
    fn arguments(&mut self) -> Result<Vec<Option<String>>, String> {
        let mut all = Vec::new();
        loop {
            if self.eat("'") {
                all.push(Some(self.quoted()?));
            } else {
                let bare = self.run(|c| !matches!(c, ',' | ')')).trim();
                all.push((bare != "null").then(|| bare.to_owned()));
            }
            if self.eat(")") {
                return Ok(all);
            }
            self.need(",")?;
        }
    }

    fn quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().peekable();
        while let Some((at, char)) = chars.next() {
            match char {
                '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => {
                    chars.next();
                    text.push('\'');
                }
                '\'' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    other => text.extend(other.map(|(_, char)| char)),
                },
                other => text.push(other),
            }
        }
        Err("a text without an end".to_owned())
    }
}
