//! docs/troubleshooting.md has every message that the source has for clients, with its SQLSTATE.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const TOP: &str = env!("CARGO_MANIFEST_DIR");

/// A place in the source where a client is told something: the SQLSTATE's name, if it is there, and the message's text.
#[derive(Debug)]
struct ErrorMessage {
    place: String,
    code: Option<String>,
    message: String,
}

/// The string literal at the start of `text`, with its quotes and line continuations undone.
fn literal(text: &str) -> Option<String> {
    let mut read = String::new();
    let mut chars = text.strip_prefix('"')?.chars().peekable();
    loop {
        match chars.next()? {
            '"' => return Some(read),
            '\\' => match chars.next()? {
                '\n' => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                other => read.push(other),
            },
            other => read.push(other),
        }
    }
}

/// What stands between the parenthesis at the start of `text` and the one that closes it.
fn arguments(text: &str) -> Option<&str> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match (quoted, c) {
            _ if escaped => escaped = false,
            (true, '\\') => escaped = true,
            (_, '"') => quoted = !quoted,
            (false, '(') => depth += 1,
            (false, ')') => {
                depth -= 1;
                if depth == 0 {
                    return text.get(1..at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The literal that the variable given last in `given` was set to in the same function, of which `before` is the part in front
/// of the call.
fn variable(before: &str, given: &str) -> Option<String> {
    let name = given.split(',').next_back().unwrap_or_default().trim();
    let set = before.rfind(&format!("let {name} = "))?;
    let function = ["\nfn ", "\nasync fn ", "\npub ", "\npub ", " fn ", " async fn "];
    // A parameter is looked at where it is given.
    let begins = function.iter().filter_map(|word| before.rfind(word)).max();
    if begins.is_some_and(|begins| begins > set) {
        return None;
    }
    let quote = before[set..].find('"')?;
    literal(&before[set + quote..])
}

/// Every message for clients in the source: the first literal of a call that makes an error, or where the call is given a
/// variable, the literal that the variable was given last. Functions that make errors of their parameter count as calls.
fn messages() -> Vec<ErrorMessage> {
    const CALLS: [&str; 10] = [
        "ClientError::fatal(",
        "ClientError::error(",
        "ClientError::violation(",
        "ScramError::Binding(",
        "ScramError::Unsupported(",
        "ScramError::Malformed(",
        " refusal(",
        "(refusal(",
        "(refused(",
        "(unsupported(",
    ];
    let mut all = Vec::new();
    let mut folders = vec![Path::new(TOP).join("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs"));
    // One is the half of SCRAM that speaks with the server, the other gives a DETAIL.
    files.retain(|path| !path.ends_with("scram/client.rs") && !path.ends_with("scram/message.rs"));
    for path in files {
        let source = fs::read_to_string(&path).expect("readable");
        let source = source.split("#[cfg(test)]\nmod tests").next().expect("text");
        for (at, call) in CALLS.iter().flat_map(|call| source.match_indices(call)) {
            let Some(given) = arguments(&source[at + call.len() - 1..]) else { continue };
            let line = source[..at].matches('\n').count() + 1;
            let place = format!("{}:{line}", path.strip_prefix(TOP).expect("inside").display());
            let code = given
                .split("sqlstate::")
                .nth(1)
                .map(|rest| rest.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect::<String>());
            let message =
                given.find('"').map_or_else(|| variable(&source[..at], given), |quote| literal(&given[quote..]));
            all.extend(message.map(|message| ErrorMessage { place, code, message }));
        }
    }
    all
}

#[test]
fn every_error_is_in_the_catalogue() {
    let page = fs::read_to_string(format!("{TOP}/docs/troubleshooting.md")).expect("readable");
    let rows: Vec<Vec<&str>> =
        page.lines().filter(|line| line.starts_with("| ")).map(|line| line.split(" | ").collect()).collect();
    let source = fs::read_to_string(format!("{TOP}/src/error.rs")).expect("readable");
    let codes: BTreeMap<&str, &str> = source
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once("const ")?.1.split_once(": &str = ")?;
            Some((name, value.trim_matches(|c| c == '"' || c == ';')))
        })
        .collect();
    let all = messages();
    assert!(all.len() >= 60, "{} messages found", all.len());
    let mut missing = Vec::new();
    for ErrorMessage { place, code, message } in &all {
        // The catalogue has "…" for what is filled in.
        let mut parts = Vec::new();
        let mut rest = message.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            parts.push(before);
            rest = after.split_once('}').map_or("", |(_, after)| after);
        }
        parts.push(rest);
        let code = code.as_ref().map(|name| *codes.get(name.as_str()).unwrap_or_else(|| panic!("{place}: {name}")));
        let fits = |row: &Vec<&str>| {
            let said = row.get(1).copied().unwrap_or_default();
            let has_code = code.is_none_or(|code| row[0].trim_start_matches("| ") == code);
            has_code && parts.iter().all(|part| said.contains(part.trim()))
        };
        if !rows.iter().any(fits) {
            missing.push(format!("{place}: {code:?} {message}"));
        }
    }
    assert!(missing.is_empty(), "docs/troubleshooting.md lacks:\n{}", missing.join("\n"));
    // And no row is of a SQLSTATE that pgferry does not raise.
    for row in rows.iter().filter(|row| row[0].len() == 7 && row[0].ends_with(|c: char| c.is_ascii_alphanumeric())) {
        let code = row[0].trim_start_matches("| ");
        assert!(codes.values().any(|known| *known == code), "{code}: {row:?}");
    }
}
