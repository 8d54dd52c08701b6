//! What a client has been told, without what differs from session to session; and how two of them differ.

use std::fmt::{self, Write as _};

/// The reported settings that are compared: the others are the server's own.
const COMPARED: [&[u8]; 11] = [
    b"application_name",
    b"client_encoding",
    b"DateStyle",
    b"default_transaction_read_only",
    b"in_hot_standby",
    b"IntervalStyle",
    b"is_superuser",
    b"search_path",
    b"session_authorization",
    b"standard_conforming_strings",
    b"TimeZone",
];

/// A message of the server's: of errors and notices severity and SQLSTATE, no OIDs of tables, no pids.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seen {
    pub tag: u8,
    pub body: Box<[u8]>,
}

/// What a client has been told, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    pub seen: Vec<Seen>,
    /// How many messages had come whenever the client waited for answers.
    pub waits: Vec<usize>,
    /// The server has ended the connection.
    pub closed: bool,
    partial: Vec<u8>,
}

impl Transcript {
    /// Bytes that the server has sent. Messages may come in pieces.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let partial = std::mem::take(&mut self.partial);
        let mut rest = partial.as_slice();
        while let Some((head, _)) = rest.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let Some(body) = rest.get(5..=length) else { break };
            self.note(head[0], body);
            rest = &rest[length + 1..];
        }
        self.partial = rest.to_vec();
    }

    /// Notes that the client has waited for answers.
    pub fn waited(&mut self) {
        self.waits.push(self.seen.len());
    }

    fn note(&mut self, tag: u8, body: &[u8]) {
        if tag == b'N' && [&b"42622"[..], b"22P06"].iter().any(|code| report(body).ends_with(code)) {
            // That a name was cut, or that a backslash is no standard: said as often as a text is read, and of the names it has then.
            return;
        }
        let body = match tag {
            b'E' | b'N' => report(body),
            b'T' => columns(body),
            b'A' => body.get(4..).unwrap_or_default().into(),
            // Its length.
            b'K' => Box::from([u8::try_from(body.len()).unwrap_or_default()]),
            b'S' => {
                let name = body.split(|&byte| byte == 0).next().unwrap_or_default();
                if !COMPARED.contains(&name) {
                    return;
                }
                body.into()
            }
            _ => body.into(),
        };
        self.seen.push(Seen { tag, body });
        if tag == b'S' {
            // In which order several settings are reported is the server's own affair.
            let others = self.seen.iter().rposition(|seen| seen.tag != b'S').map_or(0, |at| at + 1);
            self.seen[others..].sort_by(|a, b| setting(a).cmp(setting(b)));
        }
    }

    /// Whether there is an error with this SQLSTATE.
    pub fn has_error(&self, code: &str) -> bool {
        self.seen.iter().any(|seen| seen.tag == b'E' && seen.body.ends_with(code.as_bytes()))
    }

    /// Whether it ends in the middle of a message, behind which nothing can be said.
    pub fn is_cut(&self) -> bool {
        !self.partial.is_empty()
    }

    /// How many ReadyForQuery have come.
    pub fn readies(&self) -> usize {
        self.seen.iter().filter(|seen| seen.tag == b'Z').count()
    }

    /// Where `self` and `other` differ first, told.
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        let at = (0..self.seen.len().max(other.seen.len())).find(|&at| self.seen.get(at) != other.seen.get(at));
        let at = match at {
            Some(at) => at,
            None if self.closed != other.closed => self.seen.len(),
            None => return None,
        };
        Some(Difference { at, left: self.around(at), right: other.around(at) })
    }

    fn around(&self, at: usize) -> String {
        let from = at.saturating_sub(6);
        let mut text = String::new();
        if from > 0 {
            text.push_str("… ");
        }
        for (n, seen) in self.seen.iter().enumerate().skip(from).take(12) {
            let _ = write!(text, "{}{seen} ", if n == at { "» " } else { "" });
        }
        if self.seen.len() <= at {
            text.push_str("» ");
        }
        if self.seen.len() > from + 12 {
            text.push('…');
        } else if self.closed {
            text.push_str("end");
        }
        text
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, seen) in self.seen.iter().enumerate() {
            if self.waits.contains(&n) && n > 0 {
                f.write_str("| ")?;
            }
            write!(f, "{seen} ")?;
        }
        f.write_str(if self.closed { "end" } else { "" })
    }
}

/// Where two transcripts differ first.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The number of the message.
    pub at: usize,
    pub left: String,
    pub right: String,
}

/// The name of the setting that is reported.
fn setting(seen: &Seen) -> &[u8] {
    seen.body.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Severity and SQLSTATE.
fn report(body: &[u8]) -> Box<[u8]> {
    let field = |kind: u8| {
        let found = body.split(|&byte| byte == 0).find(|field| field.first() == Some(&kind));
        found.and_then(|field| field.get(1..)).unwrap_or_default()
    };
    [field(b'V'), b" ", field(b'C')].concat().into()
}

/// A RowDescription's columns without the OIDs of tables.
fn columns(body: &[u8]) -> Box<[u8]> {
    let mut out = body.to_vec();
    let mut at = 2;
    while let Some(end) = out.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0)) {
        let oid = at + end + 1;
        if let Some(oid) = out.get_mut(oid..oid + 4) {
            oid.fill(0);
        }
        at = oid + 18;
    }
    out.into()
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char(char::from(self.tag))?;
        let text = match self.tag {
            b'D' => fields(&self.body),
            b'T' => names(&self.body),
            b'E' | b'N' | b'C' | b'Z' | b'd' | b'A' | b'S' => {
                String::from_utf8_lossy(&self.body).trim_end_matches('\0').replace('\0', "=").replace('\n', "\\n")
            }
            b't' => format!("{} parameters", self.body.get(1).copied().unwrap_or_default()),
            _ => return Ok(()),
        };
        if text.chars().count() > 80 {
            return write!(f, "({}… {} bytes)", text.chars().take(60).collect::<String>(), self.body.len());
        }
        write!(f, "({})", text.trim_end())
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn fields(body: &[u8]) -> String {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut text = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).ok();
        let field = length.and_then(|length| tail.get(..length));
        text.push(field.map_or("NULL".to_owned(), |field| field.escape_ascii().to_string()));
        rest = tail.get(length.unwrap_or(0)..).unwrap_or_default();
    }
    text.join(",")
}

/// Names, types and formats of a RowDescription's columns.
fn names(body: &[u8]) -> String {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut text = Vec::new();
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        let name = String::from_utf8_lossy(&rest[..end]).into_owned();
        let facts = rest.get(end + 1..end + 19).unwrap_or_default();
        let oid = facts.get(6..10).map_or(0, |oid| oid.iter().fold(0_u32, |all, &byte| all << 8 | u32::from(byte)));
        let column = facts.get(5).copied().unwrap_or_default();
        let binary = if facts.last() == Some(&1) { " binary" } else { "" };
        text.push(format!("{name}:{oid}.{column}{binary}"));
        rest = rest.get(end + 19..).unwrap_or_default();
    }
    text.join(",")
}
