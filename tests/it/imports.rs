//! No two files of `src/` import each other, directly or by way of others: whoever reads one need not know the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::layout::{SRC, sources};

/// A file's module: the names of its path.
type Module = Vec<String>;

/// The modules that have files, and their texts without comments and tests.
fn modules() -> BTreeMap<Module, String> {
    let mut modules = BTreeMap::new();
    for path in sources(Path::new(SRC)) {
        let Some(name) = path.strip_prefix(SRC).expect("below src").to_str().and_then(|name| name.strip_suffix(".rs"))
        else {
            continue;
        };
        let mut module: Module = name.split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        if module.len() == 1 && matches!(module[0].as_str(), "lib" | "main" | "internals") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("readable");
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
        modules.insert(module, code);
    }
    modules
}

/// The paths that a `use` tree names.
fn expand(tree: &str) -> Vec<String> {
    let Some((head, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let inner = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    let mut depth = 0;
    let parts = inner.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts: Vec<_> = parts.map(str::trim).filter(|part| !part.is_empty()).collect();
    parts.into_iter().flat_map(|part| expand(&format!("{}{part}", head.trim()))).collect()
}

/// The paths that a text names, in its `use`s and elsewhere.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        if let Some((_, tree)) = statement.rsplit_once("use ") {
            paths.extend(expand(&tree.replace('\n', " ")));
        }
    }
    let is_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    let words = code.split(|c| !is_path(c)).map(|word| word.trim_end_matches(':').to_owned());
    paths.extend(words.filter(|word| word.starts_with("crate::") || word.starts_with("super::")));
    paths
}

/// The module with a file that `path` leads into, said in `from`.
fn resolve(modules: &BTreeMap<Module, String>, from: &Module, path: &str) -> Option<Module> {
    let mut names: Vec<&str> = path.split("::").collect();
    let mut at: Module = match names[0] {
        "crate" => Vec::new(),
        "super" | "self" => from.clone(),
        child if modules.contains_key(&[from.as_slice(), &[child.to_owned()]].concat()) => from.clone(),
        _ => return None,
    };
    while let Some(&name @ ("super" | "self" | "crate")) = names.first() {
        if name == "super" {
            at.pop();
        }
        names.remove(0);
    }
    at.extend(names.into_iter().map(str::to_owned));
    while !at.is_empty() && !modules.contains_key(&at) {
        at.pop();
    }
    (!at.is_empty() && at != *from && !at.starts_with(from)).then_some(at)
}

/// All that can be reached from `from`.
fn reached(imports: &BTreeMap<Module, BTreeSet<Module>>, from: &Module) -> BTreeSet<Module> {
    let mut reached = BTreeSet::new();
    let mut left = vec![from];
    while let Some(module) = left.pop() {
        for next in imports.get(module).into_iter().flatten() {
            if reached.insert(next.clone()) {
                left.push(next);
            }
        }
    }
    reached
}

#[test]
fn no_two_files_import_each_other() {
    let modules = modules();
    let imports: BTreeMap<_, BTreeSet<_>> = modules
        .iter()
        .map(|(module, code)| {
            (module.clone(), paths(code).iter().filter_map(|path| resolve(&modules, module, path)).collect())
        })
        .collect();
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 500, "paths are found");
    let all: BTreeMap<_, _> = imports.keys().map(|module| (module, reached(&imports, module))).collect();
    let cyclic: BTreeMap<String, Vec<String>> = all
        .iter()
        .filter(|(module, reached)| reached.contains(**module))
        .map(|(module, reached)| {
            let with = reached.iter().filter(|other| *other != *module && all[*other].contains(*module));
            (module.join("::"), with.map(|other| other.join("::")).collect())
        })
        .collect();
    assert!(cyclic.is_empty(), "these files import each other: {cyclic:#?}");
}
