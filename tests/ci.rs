//! `.ci/run` says what it did not check.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

const BANNER: &str = "ADVISORIES WERE NOT CHECKED";

/// Runs the part about advisories with a `cargo` that can fetch their database or not.
fn run(fetches: bool, required: Option<&str>) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let cargo = folder.path().join("cargo");
    let code = i32::from(!fetches);
    let script = format!("#!/bin/sh\n[ \"$2\" != fetch ] || exit {code}\necho \"checked: $*\"\n");
    fs::write(&cargo, script).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/run"));
    command.arg("advisories").env("PATH", path).env_remove("POSTHORN_REQUIRE_ADVISORIES");
    if let Some(required) = required {
        command.env("POSTHORN_REQUIRE_ADVISORIES", required);
    }
    command.output().unwrap()
}

#[test]
fn advisories_that_were_not_checked_are_told_at_the_end() {
    let output = run(false, None);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches(BANNER).count(), 2, "where it happens, and at the end: {said}");
    let last: Vec<_> = said.lines().rev().take(8).collect();
    assert!(last.iter().any(|line| line.contains(BANNER)), "{said}");
}

#[test]
fn advisories_can_be_required() {
    let output = run(false, Some("true"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(BANNER), "{output:?}");
    assert!(run(false, Some("false")).status.success());
}

#[test]
fn advisories_that_were_checked_need_no_banner() {
    for required in [None, Some("true")] {
        let output = run(true, required);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("checked: deny --locked check") && !said.contains(BANNER), "{said}");
    }
}
