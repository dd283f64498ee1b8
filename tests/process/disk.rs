//! The disk fails under SQLite: what was answered is there afterwards, and nothing is built on what may not be.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::{Backend, Database, Posthorn, Received, Receiver, Reply, left_out, within};

/// No sync succeeds any more: the event is not accepted, and the process ends. The next one goes on from what it finds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_ends_the_process() {
    let mut posthorn = Posthorn::start(Backend::Sqlite).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    let mut accepted = Vec::new();
    for n in 0..20 {
        accepted.push(posthorn.client().ingest(&id, json!(n)).await);
    }
    receiver.arrived(accepted.len()).await;
    let Some(_tracer) = failing_syncs(posthorn.process_id()).await else { return };
    let call = posthorn.client().call(reqwest::Method::POST, format!("/ingest/{id}")).json(&json!(20));
    if let Some(answer) = call.try_send().await {
        assert_eq!((answer.status, &answer.json["type"]), (503, &json!("/problems/outcome-unknown")));
    }
    let ended = posthorn.ended().await;
    assert_eq!(ended.code(), Some(1));
    // Other tasks may still say that they could not write.
    let log = posthorn.log();
    assert!(log.iter().any(|line| line.contains("the disk failed to confirm what was written")), "{log:#?}");

    posthorn.start_again().await;
    accepted.push(posthorn.client().ingest(&id, json!(21)).await);
    for delivery in &accepted {
        posthorn.client().delivery_in(delivery, "success").await;
    }
    let sequences: Vec<_> = receiver.requests().iter().map(Received::sequence).collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
}

/// The file was damaged while the process was down, which did not end by itself: the next start says so and ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_found_after_a_kill() {
    let mut posthorn = Posthorn::start(Backend::Sqlite).await;
    let id = posthorn.client().subscribe("http://127.0.0.1:9/", json!({})).await.id;
    posthorn.client().post(format!("/subscriptions/{id}/pause")).await.expect(200);
    for n in 0..100 {
        posthorn.client().ingest(&id, json!({"n": n, "text": "x".repeat(2000)})).await;
    }
    // Ended by itself, so that all is in the file, and killed, so that there is a log.
    posthorn.terminate().await;
    posthorn.start_again().await;
    posthorn.client().ingest(&id, json!(100)).await;
    posthorn.kill().await;
    let url = posthorn.database.url();
    let path = PathBuf::from(url.strip_prefix("sqlite://").unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    // The heads of pages in the middle, which hold payloads.
    let middle = bytes.len() / 2 / 4096 * 4096;
    for page in 0..8 {
        bytes[middle + page * 4096..][..64].fill(0xee);
    }
    std::fs::write(&path, bytes).unwrap();
    let settings = [("DATABASE_URL".to_owned(), url)];
    let mut process = crate::support::server::Process::spawn(&posthorn.database, &settings, &["serve"]);
    assert_eq!(process.ended().await.code(), Some(1));
    let log = process.log.lines();
    assert!(log.iter().any(|line| line.contains("the database file is damaged")), "{log:#?}");
}

/// Makes each sync of a process fail, by strace, for as long as what is returned lives; none where strace is not
/// installed, which under `CI=true` is a failure.
async fn failing_syncs(process_id: u32) -> Option<Child> {
    let tracer = Command::new("strace")
        .args(["-f", "-p", &process_id.to_string(), "-o", "/dev/null"])
        .args(["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"])
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut tracer = match tracer {
        Ok(tracer) => tracer,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            left_out("strace");
            return None;
        }
        Err(error) => panic!("strace: {error}"),
    };
    let mut said = BufReader::new(tracer.stderr.take().expect("piped")).lines();
    let attached = async {
        loop {
            let line = said.next_line().await.expect("text").expect("strace attaches");
            if line.contains("attached") {
                return;
            }
        }
    };
    within(Duration::from_secs(10), "strace attaching", attached).await;
    // It is still reading; a full pipe would stop it.
    tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
    Some(tracer)
}

/// A full disk keeps events out and loses none; with room again everything goes on, and what was refused was not stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_out() {
    let database = Arc::new(Database::create(Backend::Sqlite).await);
    let Some(disk) = SmallDisk::mount(database.directory()) else { return };
    let mut posthorn = Posthorn::start_on(database, &[]).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    let event = json!("x".repeat(100_000));
    let mut accepted = 0;
    loop {
        let answer = posthorn.client().post_json(format!("/ingest/{id}"), event.clone()).await;
        if answer.status != 202 {
            assert_eq!((answer.status, &answer.json["type"]), (503, &json!("/problems/store-unavailable")));
            assert!(answer.headers.contains_key("retry-after"));
            break;
        }
        accepted += 1;
        assert!(accepted < 200, "more than the disk takes");
    }
    assert!(accepted > 10, "{accepted}");
    posthorn.client().get("/status/stats").await.expect(200);
    posthorn.client().get(format!("/subscriptions/{id}/deliveries")).await.expect(200);

    disk.grow();
    let last = posthorn.client().ingest(&id, json!(1)).await;
    posthorn.client().delivery_in(&last, "success").await;
    let mut sequences: Vec<_> = receiver.requests().iter().map(Received::sequence).collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
    sequences.dedup();
    assert_eq!(sequences, (1..=accepted + 1).collect::<Vec<_>>());
    assert!(posthorn.terminate().await.success());
    let broken = "pragma_integrity_check WHERE integrity_check <> 'ok'";
    posthorn.database.check_none("pages that are not whole", broken).await;
}

/// A disk of 8 MiB in place of a folder.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where the right to mount is missing.
    fn mount(folder: &Path) -> Option<Self> {
        let mounted = Self::run("mount", &["-t", "tmpfs", "-o", "size=8m", "none"], folder);
        if !mounted {
            println!("left out: no right to mount a small disk");
        }
        mounted.then(|| Self(folder.to_owned()))
    }

    fn grow(&self) {
        assert!(Self::run("mount", &["-o", "remount,size=64m"], &self.0), "it was mounted before");
    }

    fn run(program: &str, arguments: &[&str], folder: &Path) -> bool {
        let done =
            std::process::Command::new(program).args(arguments).arg(folder).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since the server may still run.
        Self::run("umount", &["-l"], &self.0);
    }
}
