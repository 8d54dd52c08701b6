//! PgBouncer's files: sections of `key = value`, with `%include`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::permission::{Attempt, describe};
use crate::small_file;

use super::Words;

/// Depth to which files may include each other, as in PgBouncer.
const MAX_INCLUDE_DEPTH: usize = 10;

/// An entry, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The section, in lower case.
    pub section: String,
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// File and line.
    pub place: String,
}

/// Contents of a file and those that it includes, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ini {
    /// All entries.
    pub entries: Vec<Entry>,
    /// The section that lines belong to, in lower case: as in PgBouncer, also those of files that are included, and those behind the
    /// line that includes them. `None` before the first.
    section: Option<String>,
}

impl Ini {
    /// Reads a file.
    ///
    /// # Errors
    /// What can't be read or makes no sense, with file and line.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let mut ini = Self::default();
        ini.include(path, MAX_INCLUDE_DEPTH)?;
        Ok(ini)
    }

    fn include(&mut self, path: &Path, depth: usize) -> Result<(), String> {
        let shown = path.display();
        let text = small_file::read_text(path).map_err(|error| describe(Attempt::Read, &shown, &error))?;
        self.text(&shown.to_string(), &text, &mut |ini, name, place| {
            if depth == 0 {
                return Err(format!("{place}: files include each other more than {MAX_INCLUDE_DEPTH} deep"));
            }
            let included = included(path, Path::new(name));
            let found = std::fs::File::open(&included).map(drop);
            found.map_err(|error| format!("{place}: {}", describe(Attempt::Read, &included.display(), &error)))?;
            ini.include(&included, depth - 1)
        })
    }

    /// Reads a file's content; `include` reads what it includes, by name and the place that says so.
    ///
    /// # Errors
    /// As [`Ini::read`].
    pub(crate) fn text(
        &mut self,
        path: &str,
        text: &str,
        include: &mut dyn FnMut(&mut Self, &str, &str) -> Result<(), String>,
    ) -> Result<(), String> {
        for (nth, line) in (1..).zip(text.lines()) {
            let place = format!("{path}:{nth}");
            let line = line.trim();
            if line.is_empty() || line.starts_with([';', '#']) {
                continue;
            }
            if let Some(name) = line.strip_prefix("%include").filter(|name| name.starts_with(char::is_whitespace)) {
                include(self, name.trim(), &place)?;
            } else if let Some(name) = line.strip_prefix('[') {
                let name = name.strip_suffix(']').ok_or_else(|| format!("{place}: a section lacks its \"]\""))?;
                self.section = Some(name.trim().to_ascii_lowercase());
            } else {
                let (key, value) = entry(line).ok_or_else(|| format!("{place}: neither a section nor key = value"))?;
                let section = self.section.clone().ok_or_else(|| format!("{place}: a value without a section"))?;
                self.entries.push(Entry { section, key, value, place });
            }
        }
        Ok(())
    }

    /// The last value of a setting in `[pgbouncer]`.
    #[must_use]
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let mine = |entry: &&Entry| entry.section == "pgbouncer" && entry.key == key;
        self.entries.iter().rev().find(mine).map(|entry| entry.value.as_str())
    }

    /// The entries of a section, of each key the last: it holds, as in PgBouncer.
    pub(crate) fn section(&self, name: &str) -> impl Iterator<Item = &Entry> + use<'_> {
        let mut later = HashSet::new();
        let backwards = self.entries.iter().rev().filter(|entry| entry.section == name && later.insert(&entry.key));
        let mut last: Vec<_> = backwards.collect();
        last.reverse();
        last.into_iter()
    }
}

/// The file that `path` includes as `name`. PgBouncer takes a relative name from the directory that it runs in; where there is no such
/// file here, it is looked for beside `path`.
fn included(path: &Path, name: &Path) -> PathBuf {
    if name.exists() { name.to_owned() } else { path.parent().unwrap_or(Path::new(".")).join(name) }
}

/// `key = value`; the key may be in double quotes.
fn entry(line: &str) -> Option<(String, String)> {
    let (key, rest) = if let Some(quoted) = line.strip_prefix('"') {
        let (key, rest) = unquote(quoted, '"')?;
        (key, rest.trim_start().strip_prefix('=')?)
    } else {
        let (key, rest) = line.split_once('=')?;
        (key.trim().to_owned(), rest)
    };
    Some((key, rest.trim().to_owned()))
}

/// Splits `text` at the closing `quote`; a doubled one is part of the first half.
fn unquote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut inside = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once(quote)?;
        inside.push_str(before);
        match after.strip_prefix(quote) {
            Some(more) => {
                inside.push(quote);
                rest = more;
            }
            None => return Some((inside, after)),
        }
    }
}

/// The words of a connection string: `name=value`, values in single quotes where they have blanks, doubled ones
/// standing for themselves.
///
/// # Errors
/// What makes no sense.
pub(crate) fn words(text: &str) -> Result<Words, String> {
    let mut words = Words::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(|| format!("\"{rest}\" is not name=value"))?;
        let after = after.trim_start();
        let (value, after) = if let Some(quoted) = after.strip_prefix('\'') {
            unquote(quoted, '\'').ok_or("a value lacks its closing quote")?
        } else {
            let end = after.find(char::is_whitespace).unwrap_or(after.len());
            (after[..end].to_owned(), &after[end..])
        };
        words.insert(name.trim().to_owned(), value);
        rest = after.trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Ini, String> {
        let mut ini = Ini::default();
        ini.text("p.ini", text, &mut |ini, name, _| {
            ini.entries.push(Entry {
                section: String::new(),
                key: "%include".into(),
                value: name.into(),
                place: String::new(),
            });
            Ok(())
        })?;
        Ok(ini)
    }

    #[test]
    fn entries_in_pgbouncers_form() {
        let text = "; a comment\n[databases]\n# another\n* = host=h\n\"we\"\"ird = name\" = port=1\n[PgBouncer]\n\
                    pool_mode=session\n%include more.ini\nauth_query = SELECT a = b\npool_mode = transaction\n";
        let ini = read(text).expect("good");
        let shown: Vec<_> =
            ini.entries.iter().map(|e| (e.section.as_str(), e.key.as_str(), e.value.as_str())).collect();
        assert_eq!(shown[0], ("databases", "*", "host=h"));
        assert_eq!(shown[1], ("databases", "we\"ird = name", "port=1"));
        assert_eq!(shown[3], ("", "%include", "more.ini"));
        assert_eq!(ini.get("pool_mode"), Some("transaction"));
        assert_eq!(ini.get("auth_query"), Some("SELECT a = b"));
        assert_eq!(read("[x\n"), Err("p.ini:1: a section lacks its \"]\"".into()));
        assert_eq!(read("\nnonsense\n"), Err("p.ini:2: neither a section nor key = value".into()));
        assert_eq!(read("[x]\n%includes y = z\n").expect("good").entries[0].key, "%includes y");
        assert_eq!(read("pool_mode = session\n"), Err("p.ini:1: a value without a section".into()));
    }

    #[test]
    fn lines_belong_to_the_section_at_hand_whichever_file_it_began_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let main = dir.path().join("pgbouncer.ini");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        write(
            "pgbouncer.ini",
            "[databases]\n%include databases.ini\nb = host=b\n%include users.ini\nc = pool_mode=session\n",
        );
        write("databases.ini", "a = host=a\n");
        write("users.ini", "[users]\nd = pool_mode=session\n");
        let ini = Ini::read(&main).expect("good");
        let keys = |section| ini.section(section).map(|entry| entry.key.as_str()).collect::<Vec<_>>().join(" ");
        assert_eq!((keys("databases"), keys("users")), ("a b".to_owned(), "d c".to_owned()));
    }

    #[test]
    fn connection_strings() {
        let found = words("host=h  port = 5 password='it''s me' connect_query='SELECT 1'").expect("good");
        assert_eq!(found["password"], "it's me");
        assert_eq!((found["port"].as_str(), found["connect_query"].as_str()), ("5", "SELECT 1"));
        assert!(words("").expect("nothing").is_empty());
        assert!(words("host").is_err() && words("a='b").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in ".{0,80}") {
            let _ = read(&text);
            let _ = words(&text);
        }
    }
}
