//! Tokens.

use std::rc::Rc;

use super::super::error::Report;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A word, in lower case.
    Word(Rc<str>),
    /// An identifier in double quotes.
    Quoted(Rc<str>),
    /// A string constant.
    Text(Rc<str>),
    /// A number without a sign.
    Number(Rc<str>),
    /// `$n`.
    Param(usize),
    /// An operator or punctuation.
    Sign(&'static str),
}

/// The longest name, in bytes: `NAMEDATALEN` - 1. Of a longer one this much counts.
pub const LONGEST_NAME: usize = 63;

const SIGNS: [&str; 22] = [
    "::", "||", "<>", "<=", ">=", ":=", "!=", "(", ")", ",", ";", ".", "=", "+", "-", "/", "*", "<", ">", "[", "]", "%",
];

pub fn syntax_error(near: &str) -> Report {
    Report::error("42601", format!("syntax error at or near \"{near}\""))
}

/// Splits `sql` into tokens. With `escapes` a backslash in an ordinary string constant is an escape
/// (`standard_conforming_strings = off`).
pub fn tokens(sql: &str, escapes: bool) -> Result<Vec<Token>, Report> {
    let mut out = Vec::new();
    let bytes = sql.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = &sql[at..];
        let next = bytes.get(at + 1).copied().unwrap_or_default();
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0c => at += 1,
            b'-' if next == b'-' => at += rest.find('\n').unwrap_or(rest.len()),
            b'/' if next == b'*' => at += comment(rest)?,
            b'\'' => {
                let (text, size) = quoted(rest, escapes)?;
                out.push(Token::Text(text.into()));
                at += size;
            }
            b'e' | b'E' if next == b'\'' => {
                let (text, size) = quoted(&rest[1..], true)?;
                out.push(Token::Text(text.into()));
                at += size + 1;
            }
            b'"' => {
                let end = rest[1..].find('"').ok_or_else(|| syntax_error(rest))?;
                if end == 0 {
                    return Err(syntax_error(rest));
                }
                out.push(Token::Quoted(shortened(&rest[1..=end]).into()));
                at += end + 2;
            }
            b'$' if next.is_ascii_digit() => {
                let digits = run(&rest[1..], |b| b.is_ascii_digit());
                out.push(Token::Param(rest[1..=digits].parse().map_err(|_| syntax_error(rest))?));
                at += 1 + digits;
            }
            b'$' => {
                let tag = rest[1..].find('$').ok_or_else(|| syntax_error(rest))? + 2;
                let end = rest[tag..].find(&rest[..tag]).ok_or_else(|| syntax_error(rest))?;
                out.push(Token::Text(rest[tag..tag + end].into()));
                at += end + 2 * tag;
            }
            b'0'..=b'9' => {
                let digits = run(rest, |b| b.is_ascii_digit() || b == b'.');
                out.push(Token::Number(rest[..digits].into()));
                at += digits;
            }
            _ if byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80 => {
                let size = run(rest, |b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80);
                out.push(Token::Word(shortened(&rest[..size]).to_ascii_lowercase().into()));
                at += size;
            }
            _ => {
                let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign)).ok_or_else(|| syntax_error(rest))?;
                out.push(Token::Sign(sign));
                at += sign.len();
            }
        }
    }
    Ok(out)
}

/// What counts of a name.
pub fn shortened(name: &str) -> &str {
    let mut end = name.len().min(LONGEST_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

fn run(text: &str, goes_on: impl Fn(u8) -> bool) -> usize {
    text.bytes().position(|byte| !goes_on(byte)).unwrap_or(text.len())
}

/// The size of the comment that `text` begins with; comments nest.
fn comment(text: &str) -> Result<usize, Report> {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Ok(at);
                }
            }
            _ => at += 1,
        }
    }
    Err(Report::error("42601", "unterminated /* comment"))
}

/// The string constant that `text` begins with, and its size.
fn quoted(text: &str, escapes: bool) -> Result<(String, usize), Report> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => {
                chars.next();
                out.push('\'');
            }
            '\'' => return Ok((out, at + 1)),
            '\\' if escapes => {
                let Some((_, escaped)) = chars.next() else { continue };
                let digits = if escaped == 'U' { 8 } else { 4 };
                let code = (escaped.eq_ignore_ascii_case(&'u')).then(|| text.get(at + 2..at + 2 + digits)).flatten();
                match code.and_then(|code| char::from_u32(u32::from_str_radix(code, 16).ok()?)) {
                    Some(unicode) => {
                        out.push(unicode);
                        chars.by_ref().take(digits).for_each(drop);
                    }
                    None => out.push(escaped),
                }
            }
            other => out.push(other),
        }
    }
    Err(Report::error("42601", "unterminated quoted string"))
}
