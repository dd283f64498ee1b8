//! Dependencies point one way, as `ARCHITECTURE.md` draws them.
//!
//! Reads the `use crate::` and `crate::` paths of every source file and fails on an arrow that is
//! not drawn. A new arrow is a change of design.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may use what. `main` sees the crate from outside, and `app` may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("cli", &["app", "config", "store", "telemetry", "clock"]),
    // The contract knows neither the store nor the actors.
    ("api", &["http", "service", "clock"]),
    ("http", &["service"]),
    ("service", &["dispatch", "store", "cache", "clock"]),
    ("dispatch", &["store", "cache", "sender", "clock"]),
    ("cache", &["store"]),
    ("store", &[]),
    ("sender", &[]),
    ("config", &[]),
    ("telemetry", &[]),
    ("clock", &[]),
];

#[test]
fn arrows_point_one_way() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    find_sources(&source, &mut files);
    assert!(files.len() > 20, "{} files are too few to be all", files.len());
    let mut wrong = BTreeSet::new();
    for file in files {
        let module = module_of(&source, &file);
        if ["app", "main", "lib"].contains(&module.as_str()) {
            continue;
        }
        let (_, allowed) = ARROWS
            .iter()
            .find(|(from, _)| *from == module)
            .unwrap_or_else(|| panic!("{module} is not drawn"));
        for used in uses(&fs::read_to_string(&file).unwrap()) {
            if used != module && !allowed.contains(&used.as_str()) {
                wrong.insert(format!(
                    "{module} -> {used} in {}",
                    file.strip_prefix(&source).unwrap().display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that are not drawn: {wrong:#?}");
}

#[test]
fn only_the_app_reads_the_configuration() {
    let readers: Vec<_> =
        ARROWS.iter().filter(|(_, to)| to.contains(&"config")).map(|(from, _)| *from).collect();
    assert_eq!(readers, ["cli"], "beside the app and the commands, layers are handed their settings");
}

#[test]
fn uses_are_found() {
    let text = "use crate::store::Store;\n// crate::api::X in a comment\nlet x = crate::cache::y();\n\
                use super::z;\n use crate::{clock::Clock, sender};";
    assert_eq!(uses(text).into_iter().collect::<Vec<_>>(), ["cache", "clock", "sender", "store"]);
}

fn find_sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The top-level module that a file belongs to.
fn module_of(source: &Path, file: &Path) -> String {
    let first = file.strip_prefix(source).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The top-level modules that `text` names after `crate::`.
fn uses(text: &str) -> BTreeSet<String> {
    let code =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap();
                found.extend(list.split(',').map(|item| first_name(item.trim())));
            }
            None => {
                found.insert(first_name(rest));
            }
        }
    }
    found.remove("");
    found
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}
