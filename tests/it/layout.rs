//! Who may import whom: ARCHITECTURE.md's table, held against the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

pub const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// The table in ARCHITECTURE.md: `| name | what | imports |`.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md")).expect("readable");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells[0].trim_matches('`').trim_end_matches('/').trim_end_matches(".rs").to_owned();
        let imports =
            cells[2].split(',').map(|cell| cell.trim().trim_matches('`').to_owned()).filter(|cell| cell != "nothing");
        (name, imports.collect())
    })
    .collect()
}

pub fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The top-level room that a file belongs to.
fn room(path: &Path) -> String {
    let first = path.strip_prefix(SRC).expect("below src").components().next().expect("a name");
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn imports_keep_to_the_table() {
    let table = table();
    assert!(table.len() >= 9, "{table:?}");
    for path in sources(Path::new(SRC)) {
        let room = room(&path);
        if room == "lib" || room == "main" {
            continue;
        }
        let allowed = table.get(&room).unwrap_or_else(|| panic!("{room} is not in ARCHITECTURE.md's table"));
        let text = fs::read_to_string(&path).expect("readable");
        for (nth, line) in text.lines().enumerate() {
            for import in line.match_indices("crate::").map(|(at, _)| &line[at + 7..]) {
                let end = import.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(import.len());
                let imported = &import[..end];
                let fine = imported == room || allowed.contains(imported);
                assert!(fine, "{}:{}: {room} may not import {imported}", path.display(), nth + 1);
            }
        }
    }
}

#[test]
fn there_is_no_global_state_and_no_unsafe() {
    for path in sources(Path::new(SRC)) {
        let text = fs::read_to_string(&path).expect("readable");
        for (nth, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default().trim_start();
            let global =
                code.starts_with("static ") || code.starts_with("pub static ") || code.contains("thread_local!");
            assert!(!global && !code.contains("unsafe "), "{}:{}: {line}", path.display(), nth + 1);
        }
    }
}

/// A bare Debian has no procps, and no test needs it: signals are sent by the library, processes are read in /proc.
#[test]
fn tests_run_no_program_of_procps() {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    for path in sources(Path::new(tests)).into_iter().filter(|path| path.extension() == Some("rs".as_ref())) {
        let text = fs::read_to_string(&path).expect("readable");
        for program in ["kill", "pkill", "pgrep", "ps", "top", "free", "watch"] {
            let call = ["run(", "bounded(", "Command::new("].map(|call| format!("{call}\"{program}\""));
            assert!(!call.iter().any(|call| text.contains(call)), "{} runs {program}", path.display());
        }
    }
}

#[test]
fn files_keep_to_one_concept() {
    for path in sources(Path::new(SRC)) {
        let text = fs::read_to_string(&path).expect("readable");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().count();
        assert!(lines <= 500, "{} has {lines} lines: what is its one concept?", path.display());
    }
}

/// The packages that are compiled for size are dependencies, and none of them carries the data path.
#[test]
fn packages_compiled_for_size_are_known_and_off_the_data_path() {
    let read = |name| fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).expect("readable");
    let (manifest, lock) = (read("Cargo.toml"), read("Cargo.lock"));
    let names = manifest.lines().filter_map(|line| line.strip_prefix("[profile.release.package."));
    let names: BTreeSet<_> = names.filter_map(|rest| rest.split(']').next()).collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in &names {
        assert!(lock.contains(&format!("name = \"{name}\"")), "{name} is no dependency");
    }
    for name in ["atomic-waker", "arc-swap", "bytes", "deadpool", "memchr", "mio", "rustix", "rustls", "tokio"] {
        assert!(!names.contains(name), "{name} carries the data path");
    }
}

/// Doc comments say what an item is or does: they open with a noun or a verb.
#[test]
fn doc_comments_open_with_a_noun_or_a_verb() {
    const OTHERS: [&str; 10] = ["What", "How", "Whether", "Where", "When", "Why", "Which", "That", "Those", "Who"];
    for path in sources(Path::new(SRC)).iter().filter(|path| path.extension().is_some_and(|ext| ext == "rs")) {
        let text = fs::read_to_string(path).expect("readable");
        let mut inside = false;
        for (nth, line) in text.lines().enumerate() {
            let doc = line.trim_start().strip_prefix("///").map(str::trim_start);
            let opens = doc.filter(|_| !inside).and_then(|doc| doc.split([' ', '.', ':']).next());
            assert!(!opens.is_some_and(|word| OTHERS.contains(&word)), "{}:{}: {line}", path.display(), nth + 1);
            inside = doc.is_some();
        }
    }
}

/// Comments are lines that fit beside other code.
#[test]
fn comments_are_no_longer_than_150_columns() {
    for path in sources(Path::new(SRC)) {
        let text = fs::read_to_string(&path).expect("readable");
        for (nth, line) in text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//")) {
            assert!(line.chars().count() <= 150, "{}:{}: {line}", path.display(), nth + 1);
        }
    }
}

/// The code's prose names clients, tasks and servers by their nouns. People may be "who" in documents.
#[test]
fn prose_has_no_pronouns_for_things() {
    const PRONOUNS: [&str; 6] = ["who", "whoever", "nobody", "somebody", "anybody", "whose"];
    for path in sources(Path::new(SRC)).iter().filter(|path| path.extension().is_some_and(|ext| ext == "rs")) {
        let text = fs::read_to_string(path).expect("readable");
        for (nth, line) in text.lines().enumerate() {
            let found = line
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .find(|word| PRONOUNS.contains(&word.to_lowercase().as_str()));
            assert!(found.is_none(), "{}:{}: {line}", path.display(), nth + 1);
        }
    }
}
