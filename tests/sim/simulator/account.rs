//! The account that a client keeps of the protocol: each message of the server's must be one that answers what the client has sent, and
//! at the end it is owed nothing. It needs no other run to compare with, so it also holds where faults change what clients are told.

use crate::transcript::Seen;

/// What the server still owes a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    Nothing,
    /// Nothing yet: it has asked for none of the answers that are due, or the data of its copy is to come.
    Unasked,
    /// The answer to this message, up to its `ReadyForQuery`.
    Answer(u8),
    /// It can't be told from this side: half a message, one without a meaning, or a copy with a `Sync` ahead of its data.
    Unknown,
}

/// The longest message that is taken for one.
const LONGEST: usize = 1 << 20;

/// What is owed to a client that has sent the bytes `sent` behind its startup packet, and has been `told` this behind its login.
///
/// # Errors
/// A message that answers nothing.
pub fn owed(sent: &[u8], told: &[Seen]) -> Result<Owed, String> {
    let (messages, whole) = messages(sent);
    let mut account = Account { messages, at: 0, copied: 0, skips: false };
    for (number, seen) in told.iter().enumerate() {
        match account.take(seen) {
            _ if seen.tag == b'E' && seen.body.starts_with(b"FATAL") => return Ok(Owed::Nothing),
            Taken::Answer => {}
            Taken::Unknown => return Ok(Owed::Unknown),
            Taken::OfNothing if !whole => return Ok(Owed::Unknown),
            Taken::OfNothing => return Err(account.complaint(number, seen)),
        }
    }
    Ok(if whole { account.rest() } else { Owed::Unknown })
}

/// The messages that are answered, each with what answers it, as far as that can be told.
pub fn answers<'s>(sent: &'s [u8], told: &'s [Seen]) -> impl Iterator<Item = (Sent<'s>, &'s Seen)> {
    let mut account = Account { messages: messages(sent).0, at: 0, copied: 0, skips: false };
    told.iter()
        .map_while(move |seen| {
            let message = account.next().map(|message| Sent { tag: message.tag, body: message.body });
            let is_of_none = matches!(seen.tag, b'N' | b'A' | b'S');
            matches!(account.take(seen), Taken::Answer).then_some(())?;
            Some(message.filter(|_| !is_of_none).map(|message| (message, seen)))
        })
        .flatten()
}

/// A message that the client has sent.
pub struct Sent<'a> {
    pub tag: u8,
    pub body: &'a [u8],
}

impl Sent<'_> {
    /// Whether it is answered where the server neither copies nor skips.
    fn is_answered(&self) -> bool {
        match self.tag {
            b'd' | b'c' | b'f' => false,
            b'H' => !self.body.is_empty(),
            _ => true,
        }
    }

    /// Whether the server has no errors for it.
    fn cannot_fail(&self) -> bool {
        let name = self.body.strip_suffix(b"\0").and_then(|body| body.split_first());
        let is_name = |name: &[u8]| !name.contains(&0) && std::str::from_utf8(name).is_ok();
        self.tag == b'C' && name.is_some_and(|(kind, name)| matches!(kind, b'S' | b'P') && is_name(name))
    }
}

/// The messages that are whole, and whether there is nothing else: half a message, or one without a meaning.
fn messages(sent: &[u8]) -> (Vec<Sent<'_>>, bool) {
    let mut messages = Vec::new();
    let mut rest = sent;
    while let Some((head, _)) = rest.split_first_chunk::<5>() {
        let tag = head[0];
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..LONGEST).contains(&length) || !b"QFSPBDECHdcfX".contains(&tag) {
            return (messages, false);
        }
        let Some(body) = rest.get(5..=length) else { break };
        if tag == b'X' {
            return (messages, true);
        }
        messages.push(Sent { tag, body });
        rest = &rest[length + 1..];
    }
    let whole = rest.is_empty();
    (messages, whole)
}

enum Taken {
    Answer,
    OfNothing,
    Unknown,
}

struct Account<'a> {
    messages: Vec<Sent<'a>>,
    /// The message that is answered next.
    at: usize,
    /// Where the messages behind the last copy of a simple query begin.
    copied: usize,
    /// Everything up to a `Sync` is discarded.
    skips: bool,
}

impl<'a> Account<'a> {
    /// Goes on to a message that is answered.
    fn next(&mut self) -> Option<&Sent<'a>> {
        while let Some(message) = self.messages.get(self.at) {
            if self.skips && message.tag == b'S' {
                self.skips = false;
            }
            if !self.skips && message.is_answered() {
                break;
            }
            self.at += 1;
        }
        self.messages.get(self.at)
    }

    fn take(&mut self, seen: &Seen) -> Taken {
        if matches!(seen.tag, b'N' | b'A' | b'S') {
            return Taken::Answer;
        }
        let Some(message) = self.next() else { return Taken::OfNothing };
        let cannot_fail = message.cannot_fail();
        match (message.tag, seen.tag) {
            (b'Q', b'G') => return self.copies(),
            (b'E', b'G') => return Taken::Unknown,
            (b'Q' | b'F' | b'S', b'Z') => self.at += 1,
            (b'Q', b'T' | b'D' | b'C' | b'I' | b'E' | b'H' | b'd' | b'c') | (b'F', b'V' | b'E') | (b'S', b'E') => {}
            // A cancel request or a time limit may strike what pgferry has put in front of it.
            (b'C', b'E') if cannot_fail && *seen.body != *b"ERROR 57014" => return Taken::OfNothing,
            (b'P' | b'B' | b'D' | b'E' | b'C' | b'H', b'E') => {
                self.skips = true;
                self.at += 1;
            }
            (b'D', b't') | (b'E', b'D' | b'H' | b'd' | b'c') => {}
            (b'P', b'1') | (b'B', b'2') | (b'C', b'3') | (b'D', b'T' | b'n') | (b'E', b'C' | b'I' | b's') => {
                self.at += 1;
            }
            _ => return Taken::OfNothing,
        }
        Taken::Answer
    }

    /// The query that is answered next copies what is sent behind it.
    fn copies(&mut self) -> Taken {
        self.copied = self.copied.max(self.at + 1);
        while let Some(message) = self.messages.get(self.copied) {
            match message.tag {
                b'd' | b'H' => self.copied += 1,
                b'c' | b'f' => {
                    self.copied += 1;
                    return Taken::Answer;
                }
                _ => return Taken::Unknown,
            }
        }
        // The rest of its data is to come.
        self.copied = usize::MAX;
        Taken::Answer
    }

    /// What is owed at the end.
    fn rest(&mut self) -> Owed {
        if self.copied == usize::MAX {
            return Owed::Unasked;
        }
        if self.next().is_none() {
            return Owed::Nothing;
        }
        let due = self.messages[self.at..].iter().find(|message| matches!(message.tag, b'Q' | b'F' | b'S' | b'H'));
        due.map_or(Owed::Unasked, |message| Owed::Answer(message.tag))
    }

    fn complaint(&mut self, number: usize, seen: &Seen) -> String {
        let answered = self.next().map_or('-', |message| char::from(message.tag));
        format!("message {number} behind the login, {seen}, does not answer {answered}")
    }
}

#[cfg(test)]
mod tests {
    use super::{Owed, owed};
    use crate::script::Script;
    use crate::transcript::Seen;

    fn account(script: &str, told: &str) -> Result<Owed, String> {
        let script: Script = script.parse()?;
        let sent: Vec<u8> = script.writes.iter().flat_map(crate::script::Write::bytes).collect();
        let told: Vec<Seen> = told.bytes().map(|tag| Seen { tag, body: Box::default() }).collect();
        owed(&sent, &told)
    }

    #[test]
    fn what_is_owed_is_told_from_the_messages() {
        assert_eq!(account("Q('a') S", "TDCZZ"), Ok(Owed::Nothing));
        assert_eq!(account("Q('a') S", "TDCZ"), Ok(Owed::Answer(b'S')));
        assert_eq!(account("P('','a') B('','') D(P,'') E", "12TDC"), Ok(Owed::Nothing));
        assert_eq!(account("P('','a') B('','')", "1"), Ok(Owed::Unasked));
        assert_eq!(account("P('','a') H", ""), Ok(Owed::Answer(b'H')));
        assert_eq!(account("P('','a') Q('b')", "E"), Ok(Owed::Nothing));
        assert_eq!(account("P('','a') Q('b') S", "E"), Ok(Owed::Answer(b'S')));
        assert_eq!(account("C(S,a) Q('b')", "3EZ"), Ok(Owed::Nothing));
        assert_eq!(account("Q('copy') d('x') c S", "GCZZ"), Ok(Owed::Nothing));
        assert_eq!(account("Q('copy') d('x')", "G"), Ok(Owed::Unasked));
        assert_eq!(account("Q('copy') d('x') S c", "G"), Ok(Owed::Unknown));
    }

    #[test]
    fn what_answers_nothing_is_complained_about() {
        for (script, told) in [("C(S,a) Q('b')", "E"), ("S", "ZZ"), ("P('','a') S", "2"), ("H", "Z"), ("Q('a')", "1")] {
            assert!(account(script, told).is_err(), "{script}");
        }
    }
}
