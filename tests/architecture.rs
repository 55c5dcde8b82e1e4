//! Holds the invariants of ARCHITECTURE.md that a text search can hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// From the ground up; who stands in one line may know those in the lines above it, and its own.
const FLOORS: &[&[&str]] = &[
    &["account", "token", "denial", "message", "clock", "store"],
    &["failure", "state"],
    &["event"],
    &["error"],
    &["origin"],
    &["refresher", "offline"],
    &["session"],
    &["layer"],
    &["adapters", "outbox"],
    &["guide"],
];

/// What decides, and so does no I/O and takes the time as an argument.
const PURE: &[&str] = &[
    "clock/mark.rs",
    "failure.rs",
    "state.rs",
    "denial.rs",
    "layer/exchange.rs",
    "store/file/envelope.rs",
    "layer/challenge.rs",
    "session/plan.rs",
    "session/cooldown.rs",
    "refresher/answer.rs",
    "offline/policy/mod.rs",
    "offline/policy/decide.rs",
    "offline/policy/document.rs",
    "offline/policy/embedded.rs",
    "offline/policy/read.rs",
    "offline/policy/words.rs",
    "offline/policy/explain.rs",
];

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    found
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs") && !path.ends_with("lib.rs"))
        .filter(|path| !path.starts_with(root.join("session/model"))) // tests
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let code = code.split("#[cfg(all(test").next().unwrap_or_default();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>();
            // What a macro names is its caller's business.
            (path.strip_prefix(&root).unwrap().display().to_string(), lines.join("\n").replace("$crate::", "$"))
        })
        .collect()
}

/// The words behind `prefix` in `code`: `crate::WORD`, and each WORD of `super::{WORD::…, WORD}`.
fn words_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let ident = |text: &str| text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for rest in code.split(prefix).skip(1) {
        match rest.strip_prefix('{') {
            None => {
                found.insert(ident(rest));
            }
            Some(group) => {
                let (mut depth, mut start) = (0, true);
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            found.insert(ident(&group[at..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found.remove("");
    found
}

fn floor(module: &str) -> usize {
    let at = FLOORS.iter().position(|names| names.contains(&module));
    at.unwrap_or_else(|| panic!("{module} has no floor: add it to FLOORS and to ARCHITECTURE.md"))
}

#[test]
fn modules_know_downwards_only() {
    for (file, code) in sources() {
        let module = file.trim_end_matches(".rs").split('/').next().unwrap().to_owned();
        for known in words_after(&code, "crate::") {
            let allowed =
                known == module || floor(&known) < floor(&module) || (floor(&known) == 0 && floor(&module) == 0);
            assert!(allowed, "{file} knows `{known}`, which stands above it");
        }
    }
}

/// No two files of the session, nor of the layer, import each other, directly or in a circle.
#[test]
fn no_circle_between_the_files_of_a_module() {
    for module in ["clock", "session", "layer", "refresher", "store", "offline"] {
        let mut graph = BTreeMap::new();
        for (file, code) in sources() {
            if let Some(name) = file.strip_prefix(&format!("{module}/"))
                && name != "mod.rs"
                && !name.contains('/')
            {
                graph.insert(name.trim_end_matches(".rs").to_owned(), words_after(&code, "super::"));
            }
        }
        // Takes away what knows nobody who is left, until nothing is left, or a circle is.
        while !graph.is_empty() {
            let names = graph.keys().cloned().collect::<BTreeSet<_>>();
            let free = graph.iter().find(|(name, known)| !known.iter().any(|k| k != *name && names.contains(k)));
            let Some(name) = free.map(|(name, _)| name.clone()) else { panic!("a circle in {module}/: {names:?}") };
            graph.remove(&name);
        }
    }
}

#[test]
fn what_decides_is_pure() {
    let sources = sources();
    for pure in PURE {
        let (_, code) = sources.iter().find(|(file, _)| file == pure).unwrap_or_else(|| panic!("{pure} is gone"));
        for word in ["tokio", "futures", "async ", ".await", "Instant", "SystemTime::now"] {
            assert!(!code.contains(word), "{pure} is not pure: `{word}`");
        }
    }
}

#[test]
fn http_clients_are_named_in_one_place() {
    for (file, code) in sources() {
        if !file.starts_with("refresher/") && !file.starts_with("adapters/") {
            for client in ["use hyper", "hyper_util::", "use rustls", "use reqwest", "use tonic"] {
                assert!(!code.contains(client), "{file} names {client}");
            }
        }
    }
}

/// An adapter is a driver: what a request or an answer means is asked of the layer, and never decided once more.
#[test]
fn adapters_are_small_and_decide_nothing() {
    let adapters: Vec<_> = sources().into_iter().filter(|(file, _)| file.starts_with("adapters/")).collect();
    assert!(adapters.len() > 3);
    let lines: usize = adapters.iter().map(|(_, code)| code.lines().count()).sum();
    assert!(lines < 500, "{lines} lines of code");
    for (file, code) in adapters {
        let known = words_after(&code, "crate::");
        for decides in ["session", "origin", "offline", "state", "denial", "clock"] {
            assert!(!known.contains(decides), "{file} knows `{decides}`");
        }
        for word in ["AUTHORIZATION", "WWW_AUTHENTICATE", "UNAUTHORIZED", "401", "retry"] {
            assert!(!code.contains(word), "{file} says {word}");
        }
    }
}

#[test]
fn files_can_be_read_in_one_sitting() {
    for (file, code) in sources() {
        assert!(code.lines().count() <= 420, "{file} has {} lines of code", code.lines().count());
    }
}

/// The checks check: each of these would be found.
#[test]
fn the_search_finds_what_it_looks_for() {
    let code = "use super::{\n    cooldown::{self, CoolDown},\n    desk,\n    snapshot::Snapshot,\n};\nuse crate::error::X; crate::token::y()";
    assert_eq!(words_after(code, "super::").into_iter().collect::<Vec<_>>(), ["cooldown", "desk", "snapshot"]);
    assert_eq!(words_after(code, "crate::").into_iter().collect::<Vec<_>>(), ["error", "token"]);
    assert!(floor("session") > floor("refresher"));
}
