//! A Redis of its own, to be stopped, frozen and spoilt.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::wait::eventually;

/// A running server; it is killed with its owner.
pub(crate) struct Redis {
    port: u16,
    directory: tempfile::TempDir,
    process: Option<Child>,
}

impl Redis {
    /// Keeps nothing on disk unless it is [told to](Self::ask).
    pub(crate) async fn start() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let directory = tempfile::tempdir().expect("a directory");
        let mut redis = Self { port, directory, process: None };
        redis.come_back().await;
        redis
    }

    /// What `REDIS_URL` says.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// SIGKILL, and its end.
    pub(crate) async fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().await.expect("it can be killed");
    }

    /// Starts it anew at the same address, with what it saved last.
    pub(crate) async fn come_back(&mut self) {
        let port = self.port.to_string();
        let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let process = Command::new("redis-server")
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is installed");
        self.process = Some(process);
        eventually("an answer of Redis", async || {
            self.try_ask(&["PING"]).filter(|answer| answer == "+PONG").ok_or_else(|| "none".to_owned())
        })
        .await;
    }

    /// Sends the signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.process.as_ref().and_then(Child::id).expect("it runs");
        nix::sys::signal::kill(Pid::from_raw(id.try_into().expect("a process id")), signal).expect("it runs");
    }

    /// What it answers to a command: the first line, and for a text the text.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).expect("Redis answers")
    }

    fn try_ask(&self, words: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let texts: Vec<_> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        // The end of the connection is the answer's.
        let command = format!("*{}\r\n{}*1\r\n$4\r\nQUIT\r\n", words.len(), texts.concat());
        stream.write_all(command.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let answer = answer.strip_suffix("+OK\r\n")?;
        Some(match answer.strip_prefix('$') {
            Some(text) => text.split_once("\r\n")?.1.trim_end().to_owned(),
            None => answer.trim_end().to_owned(),
        })
    }

    /// A counter of `INFO stats`.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let stats = self.ask(&["INFO", "stats"]);
        let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.expect("a counter").trim().parse().expect("a number")
    }
}
