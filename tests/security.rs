//! docs/security.md names tests, and they are there.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

const TABLE: &str = include_str!("../docs/security.md");

#[test]
fn every_test_that_is_named_exists() {
    let named: BTreeSet<(&str, &str)> = TABLE
        .split('`')
        .filter_map(|text| text.split_once("::"))
        .filter(|(file, _)| is_source(file))
        .collect();
    assert!(named.len() > 60, "{} are too few to be all", named.len());
    let missing: Vec<_> = named.iter().filter(|(file, test)| !has_test(file, test)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

fn is_source(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "rs")
}

/// As an attribute's function, or as one of those that run on both databases.
fn has_test(file: &str, test: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        if ["#[test]", "#[tokio::test"].iter().any(|mark| line.starts_with(mark)) {
            marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ") {
            if marked && rest.split('(').next() == Some(test) {
                return true;
            }
            marked = false;
        }
    }
    let both = source.split("on_both_databases!(").skip(1).filter_map(|list| list.split(')').next());
    both.flat_map(|list| list.split(',')).any(|name| name.trim() == test)
}
