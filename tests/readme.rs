//! The README says what is: its commands run, and its table is the configuration's.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

const README: &str = include_str!("../README.md");
const CONFIGURATION: &str = include_str!("../src/config.rs");

#[test]
fn every_variable_has_a_row() {
    let rows: BTreeSet<&str> = README
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(is_variable)
        .collect();
    let read: BTreeSet<&str> = CONFIGURATION
        .lines()
        .filter_map(|line| line.trim().strip_prefix("/// `")?.split('`').next())
        .filter(is_variable)
        .collect();
    assert!(read.len() > 10, "{read:?}");
    assert_eq!(rows, read);
}

fn is_variable(name: &&str) -> bool {
    name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

#[test]
fn the_commands_by_hand_work() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver =
        Process::start(&["listen", "--port", "0", "--secret-key", "It is a secret"], folder.path());
    let receiver_address = receiver.address();
    let mut service = Process::start(&["serve"], folder.path());
    let service_address = service.address();

    let script = README.split("<!-- a test runs this -->\n```sh\n").nth(1).unwrap();
    let script = script.split("```").next().unwrap();
    let script =
        script.replace("127.0.0.1:8000", &service_address).replace("127.0.0.1:9000", &receiver_address);
    let ran = Command::new("bash").args(["-euo", "pipefail", "-c", &script]).output().unwrap();
    let (output, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{output}\n{errors}");
    assert!(output.contains(r#""status":"pending""#) && output.contains(r#""next_cursor":"#), "{output}");

    let line = receiver.next_line();
    assert!(line.contains("POST /hook") && line.contains("verified") && line.ends_with("200"), "{line}");
}

/// A `posthorn` of its own; ends with the test.
struct Process {
    child: Child,
    lines: Box<dyn Iterator<Item = std::io::Result<String>>>,
}

impl Process {
    fn start(arguments: &[&str], folder: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_posthorn"))
            .args(arguments)
            .current_dir(folder)
            .env("POSTHORN_LISTEN", "127.0.0.1:0")
            .env_remove("DATABASE_URL")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // `listen` speaks on standard output, the service on standard error.
        let lines: Box<dyn Iterator<Item = _>> = if arguments[0] == "listen" {
            Box::new(BufReader::new(child.stdout.take().unwrap()).lines())
        } else {
            Box::new(BufReader::new(child.stderr.take().unwrap()).lines())
        };
        Self { child, lines }
    }

    fn next_line(&mut self) -> String {
        self.lines.next().unwrap_or_else(|| panic!("no line")).unwrap()
    }

    /// The address that it says it listens on.
    fn address(&mut self) -> String {
        loop {
            let line = self.next_line();
            if let (true, Some(at)) = (line.contains("listening"), line.find("127.0.0.1:")) {
                return line[at..].split_whitespace().next().unwrap().to_owned();
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
