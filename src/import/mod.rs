//! Moving from PgBouncer: its configuration, said in pgferry's words.
//!
//! [`ini`] reads PgBouncer's files, `general` says what becomes of each setting, `defaults` of those that are left out, `databases`
//! of `[databases]` and `[users]`, `access` of the rules of logins. What has no counterpart becomes a comment that says why.

pub(crate) mod access;
mod databases;
mod defaults;
mod general;
pub(crate) mod ini;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use ini::Ini;

/// The result of an import.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The configuration file.
    pub text: String,
    /// Restrictions of PgBouncer's configuration that are not in it.
    pub missing: Vec<String>,
}

/// The configuration file that says what PgBouncer's at `path` says.
///
/// # Errors
/// What can't be read or makes no sense, with file and line.
pub(crate) fn import(path: &Path) -> Result<Imported, String> {
    let ini = Ini::read(path)?;
    let mut out = Toml::default();
    out.comment(&format!(
        "Made from {} by pgferry import-pgbouncer. Settings without a counterpart are explained in comments.",
        path.display()
    ));
    general::write(&ini, &mut out);
    defaults::write(&ini, &mut out);
    let upstream = databases::general_upstream(&ini, &mut out);
    access::write(&ini, &mut out);
    databases::write(&ini, &upstream, &mut out);
    let missing = std::mem::take(&mut out.missing);
    Ok(Imported { text: out.text(), missing })
}

/// A configuration file in the making: settings first, tables behind them.
#[derive(Debug, Default)]
struct Toml {
    settings: Vec<String>,
    tables: Vec<(String, Vec<String>)>,
    rules: Vec<Vec<String>>,
    missing: Vec<String>,
}

impl Toml {
    fn comment(&mut self, text: &str) {
        self.settings.push(format!("# {text}"));
    }

    /// A setting that has no counterpart, and why.
    fn without(&mut self, name: &str, value: &str, why: &str) {
        self.comment(&format!("{name} = {}: {why}", one_line(value)));
    }

    /// A restriction that is to be written by hand.
    fn missing(&mut self, text: String) {
        self.comment(&text);
        self.missing.push(text);
    }

    fn set(&mut self, key: &str, value: &str) {
        self.settings.push(format!("{key} = {value}"));
    }

    fn text(self) -> String {
        let mut text = self.settings.join("\n");
        text.push('\n');
        let rules = self.rules.into_iter().map(|rule| ("[[rule]]".to_owned(), rule));
        for (name, lines) in rules.chain(self.tables) {
            // Writing to a string does not fail; neither below.
            let _ = write!(text, "\n{name}\n{}\n", lines.join("\n"));
        }
        text
    }
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => drop(write!(out, "\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A number as TOML writes it; what is none is quoted, for the reader of the result to refuse by name.
fn number(text: &str) -> String {
    match text.parse::<u64>() {
        Ok(number) => number.to_string(),
        Err(_) => quoted(text),
    }
}

fn list(items: &[String]) -> String {
    let items: Vec<_> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Words of `name=value` as connection strings have them.
type Words = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_toml_has_it() {
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c\\u000Ad\"");
        assert_eq!(list(&["a".into(), "b c".into()]), "[\"a\", \"b c\"]");
    }
}
