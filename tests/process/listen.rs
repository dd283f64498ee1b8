//! `posthorn listen`: what it prints of requests that anybody on the machine may send.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::server::Process;
use crate::support::{Backend, Database};

/// A test that takes this long has failed.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Each payload breaks lines, forges one of `listen`'s own, and steers the terminal: escapes, C1 controls in UTF-8 and
/// as bare bytes, direction marks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_leave_the_terminal_alone() {
    let database = Database::create(Backend::Sqlite).await;
    let process = Process::spawn(&database, &[], &["listen", "--port", "0"]);
    let address =
        process.output.find(TIMEOUT, |line| line.strip_prefix("listening on http://").map(str::to_owned));
    let address = address.await.expect("it listens");
    let forged = "2026-11-25T09:25:14.007Z POST /forged 2 bytes verified -> 200";
    let mut payload =
        format!("{{}}\r\n{forged}\n\u{1b}]0;title\u{7}\u{9b}2J\u{85}\u{7f}\u{202e}\u{2066}").into_bytes();
    payload.extend(b"\x9b\x84\xff\nlast");
    // What the server refuses by itself is never printed.
    for (path, id) in [("/hook", "7"), ("/\u{9b}2J\u{202e}", "7"), ("/hook", "\u{9b}2J"), ("/hook", "a\tb")] {
        send(&address, path, id, &payload).await;
    }
    send(&address, "/end", "8", b"{}").await;
    process.output.find(TIMEOUT, |line| line.contains("/end").then_some(())).await.expect("the last request");

    let lines = process.output.lines();
    assert!(lines.iter().any(|line| line.trim_end() == "    last"), "the payload is shown: {lines:#?}");
    for line in &lines {
        let steers = |c: char| c != '\t' && posthorn_domain::terminal::is_steering(c);
        assert!(!line.contains(steers), "{line:?}");
        assert!(!line.starts_with(forged), "forged: {lines:#?}");
    }
}

async fn send(address: &str, path: &str, id: &str, body: &[u8]) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nwebhook-id: {id}\r\nposthorn-attempt: {id}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.expect("it takes connections");
    stream.write_all(&[head.as_bytes(), body].concat()).await.expect("it takes a request");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut answer)).await;
    read.expect("it answers in time").expect("it answers");
}
