//! The server under test: a process of its own, that ends with its owner.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::future::try_join_all;
use hyper::{StatusCode, Uri};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::client::{self, Client};
use crate::ordering::Ordering;

/// What a start may take: migrating an empty database and binding a port.
const START_PATIENCE: Duration = Duration::from_mins(1);
const END_PATIENCE: Duration = Duration::from_secs(10);
/// Connections that create subscriptions.
const SUBSCRIBERS: usize = 16;
/// Lines of its log that a failure shows.
const LOG_LINES_MAX: usize = 40;

/// A running server.
pub(crate) struct Target {
    child: Child,
    pid: u32,
    address: SocketAddr,
    log: Log,
}

#[derive(Deserialize)]
struct Created {
    id: String,
}

impl Target {
    /// Starts it and waits for the line of its log that says where it listens.
    pub(crate) async fn start(mut command: Command) -> anyhow::Result<Self> {
        let program = command.as_std().get_program().display().to_string();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let pid = child.id().context("a process id")?;
        let mut log = Log::follow(child.stderr.take().context("its stderr")?);
        let Ok(address) = timeout(START_PATIENCE, log.address()).await else {
            bail!("{program} did not listen within {START_PATIENCE:?}\n{}", log.tail());
        };
        let address = address.with_context(|| format!("{program} ended\n{}", log.tail()))?;
        Ok(Self { child, pid, address, log })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The last lines of its log.
    pub(crate) fn log(&self) -> String {
        self.log.tail()
    }

    /// Creates a subscription for each target, over several connections; the paths that take their
    /// events, in the order of the targets.
    pub(crate) async fn subscribe(
        &self,
        guarded: bool,
        ordering: Ordering,
        targets: &[String],
    ) -> anyhow::Result<Vec<Uri>> {
        let share = targets.len().div_ceil(SUBSCRIBERS).max(1);
        let parts = targets.chunks(share).map(|targets| subscribe(self.address, guarded, ordering, targets));
        let parts: Vec<Vec<Uri>> = try_join_all(parts).await?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Ends it at once: what it would finish is of no use any more.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        timeout(END_PATIENCE, self.child.kill())
            .await
            .context("the server did not end")?
            .context("ending the server")
    }
}

async fn subscribe(
    address: SocketAddr,
    guarded: bool,
    ordering: Ordering,
    targets: &[String],
) -> anyhow::Result<Vec<Uri>> {
    let mut client = Client::connect(address, guarded).await?;
    let mut paths = Vec::with_capacity(targets.len());
    for target_url in targets {
        let body = serde_json::json!({
            "target_url": target_url,
            "ordering": ordering,
            "secret_key": guarded.then_some(client::SECRET_KEY),
        })
        .to_string();
        let answer = client.post(&Uri::from_static("/subscriptions/"), None, Bytes::from(body)).await?;
        if answer.status != StatusCode::CREATED {
            bail!("POST /subscriptions/: {answer}");
        }
        let created: Created = serde_json::from_slice(&answer.body).context("POST /subscriptions/")?;
        paths.push(format!("/ingest/{}", created.id).parse()?);
    }
    Ok(paths)
}

/// The last lines of a process's stderr, read as long as it writes any.
struct Log {
    lines: Arc<Mutex<VecDeque<String>>>,
    address: watch::Receiver<Option<SocketAddr>>,
    _task: AbortOnDropHandle<()>,
}

impl Log {
    fn follow(stderr: ChildStderr) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (found, address) = watch::channel(None);
        let task = tokio::spawn(read(stderr, Arc::clone(&lines), found));
        Self { lines, address, _task: AbortOnDropHandle::new(task) }
    }

    async fn address(&mut self) -> Option<SocketAddr> {
        *self.address.wait_for(Option::is_some).await.ok()?
    }

    fn tail(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().flat_map(|line| ["  | ", line, "\n"]).collect()
    }
}

async fn read(
    stderr: ChildStderr,
    lines: Arc<Mutex<VecDeque<String>>>,
    found: watch::Sender<Option<SocketAddr>>,
) {
    let mut reader = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        if let Some(address) = listening_address(&line) {
            found.send_replace(Some(address));
        }
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back(line);
        if lines.len() > LOG_LINES_MAX {
            lines.pop_front();
        }
    }
}

/// The address in a line such as `… listening address=127.0.0.1:8000`, as text or as JSON.
fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.contains("listening").then(|| line.split_once("address"))??;
    let rest = rest.trim_start_matches(['=', '"', ':', ' ']);
    rest.split(['"', ' ', ',', '}']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_text_and_in_json() {
        let address = Some(SocketAddr::from(([127, 0, 0, 1], 40123)));
        for (line, expected) in [
            ("2026-01-01T00:00:00Z  INFO posthorn: listening address=127.0.0.1:40123 profile=x", address),
            ("listening address=127.0.0.1:40123", address),
            (r#"{"message":"listening","address":"127.0.0.1:40123"}"#, address),
            ("INFO posthorn: connected address=127.0.0.1:5432", None),
            ("INFO posthorn: listening soon", None),
        ] {
            assert_eq!(listening_address(line), expected, "{line}");
        }
    }
}
