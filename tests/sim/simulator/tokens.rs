//! Scripts of which it can be told what must have been carried out: each insert's row names itself.

use crate::random::Random;
use crate::script::{Message, Script, Write};

/// Inserts that are carried out together or not at all, and are told so together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Their rows.
    pub tokens: Vec<String>,
    /// How many `ReadyForQuery` answer them.
    pub readies: usize,
}

fn query(text: &str) -> Message {
    Message::Query(text.split(';').map(str::to_owned).collect())
}

fn insert(token: &str) -> String {
    format!("insert into u values ('{token}', 1)")
}

fn bind(name: &str, token: &str) -> Message {
    Message::Bind { portal: String::new(), name: name.to_owned(), params: vec![Some(token.to_owned())], binary: false }
}

const PREPARED: &str = "insert into u(token) values ($1)";

/// The script of `seed`, and what it inserts.
pub fn script(seed: u64, client: usize) -> (Script, Vec<Unit>) {
    let mut random = Random::new(seed ^ 0x70ce);
    let mut script = Script::default();
    let mut count = 0;
    let mut token = || {
        count += 1;
        format!("tok{client}_{count}")
    };
    let parse = |name: &str, text: String| Message::Parse { name: name.to_owned(), text, types: Vec::new() };
    let execute = || Message::Execute { portal: String::new(), limit: 0 };
    script.writes.push(Write {
        messages: vec![parse("s", PREPARED.to_owned()), Message::Sync],
        cut: None,
        wait: random.chance(50),
    });
    for _ in 0..2 + random.below(10) {
        let mut write = Write { wait: random.chance(60), ..Write::default() };
        let out = &mut write.messages;
        match random.below(9) {
            0 | 1 => out.push(query(&insert(&token()))),
            2 => out.push(query(&format!("{};{}", insert(&token()), insert(&token())))),
            3 | 4 => out.extend([
                parse("", insert(&token())),
                Message::Bind { portal: String::new(), name: String::new(), params: vec![], binary: false },
                execute(),
                Message::Sync,
            ]),
            5 => out.extend([bind("s", &token()), execute(), Message::Sync]),
            6 => out.extend([bind("s", &token()), execute(), bind("s", &token()), execute(), Message::Sync]),
            7 => out.extend([query("begin"), query(&insert(&token())), query(&insert(&token())), query("commit")]),
            _ => out.extend([
                query("copy u(token) from stdin"),
                Message::CopyData(format!("{}\n", token())),
                Message::CopyDone,
            ]),
        }
        script.writes.push(write);
    }
    let units = units_of(&script);
    (script, units)
}

/// What a script of this kind inserts.
pub fn units_of(script: &Script) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut unit = Unit { tokens: Vec::new(), readies: 0 };
    let mut block = false;
    for message in script.writes.iter().flat_map(|write| &write.messages) {
        let text = match message {
            Message::Query(statements) => statements.join(";"),
            Message::Parse { text, .. } => text.clone(),
            Message::Bind { params, .. } => params.iter().flatten().cloned().collect(),
            Message::CopyData(text) => text.clone(),
            _ => String::new(),
        };
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        unit.tokens.extend(words.filter(|word| word.starts_with("tok") && word.contains('_')).map(str::to_owned));
        block = (block || text == "begin") && text != "commit";
        if matches!(message, Message::Query(_) | Message::Sync) {
            unit.readies += 1;
            let copies = text.starts_with("copy");
            if !block && !copies {
                units.push(std::mem::replace(&mut unit, Unit { tokens: Vec::new(), readies: 0 }));
            }
        }
        if matches!(message, Message::CopyDone) {
            units.push(std::mem::replace(&mut unit, Unit { tokens: Vec::new(), readies: 0 }));
        }
    }
    if unit.readies > 0 || !unit.tokens.is_empty() {
        units.push(unit);
    }
    units
}
