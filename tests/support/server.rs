//! The real binary, started, killed and started again on the same data.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::client::Client;
use super::database::{Backend, Database};
use super::wait::{PATIENCE, within};

/// The admin key, where a test sets one.
pub(crate) const ADMIN_KEY: &str = "POSTHORN_ADMIN_KEY";

/// What secrets are encrypted with, where a test sets it.
pub(crate) const ENCRYPTION_KEY: &str = "POSTHORN_ENCRYPTION_KEY";

/// Settings under which retries take milliseconds and circuits stay closed.
pub(crate) const FAST: &[(&str, &str)] = &[
    ("INITIAL_RETRY_DELAY_SECONDS", "0.02"),
    ("MAX_RETRY_BACKOFF_SECONDS", "0.1"),
    ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "1000000"),
];

/// The binary of this build.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_posthorn");

/// A running server; it is killed with its owner.
pub(crate) struct Posthorn {
    program: String,
    /// What it stores in.
    pub(crate) database: Arc<Database>,
    settings: Vec<(String, String)>,
    process: Process,
    address: SocketAddr,
    client: Client,
}

impl Posthorn {
    /// With the defaults of the contract.
    pub(crate) async fn start(backend: Backend) -> Self {
        Self::start_with(backend, &[]).await
    }

    /// With these settings in its environment.
    pub(crate) async fn start_with(backend: Backend, settings: &[(&str, &str)]) -> Self {
        let database = Arc::new(Database::create(backend).await);
        Self::start_on(database, settings).await
    }

    /// On a database that exists already.
    pub(crate) async fn start_on(database: Arc<Database>, settings: &[(&str, &str)]) -> Self {
        Self::start_program(PROGRAM, database, settings).await
    }

    /// Another build, by its path.
    pub(crate) async fn start_program(
        program: &str,
        database: Arc<Database>,
        settings: &[(&str, &str)],
    ) -> Self {
        let program = program.to_owned();
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let mut process = Process::spawn_program(&program, &database, &settings, &["serve"]);
        let address = process.listening().await;
        let client = Client::connect(address, key(&settings)).await;
        Self { program, database, settings, process, address, client }
    }

    /// A client of it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its number while it runs.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.child.id().expect("it runs")
    }

    /// Everything it logged, a line each.
    pub(crate) fn log(&self) -> Vec<String> {
        self.process.log.lines()
    }

    /// Sends the signal without waiting for what comes of it.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// SIGKILL, and its end.
    pub(crate) async fn kill(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.ended().await;
    }

    /// SIGTERM, and how it ended.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::SIGTERM);
        self.process.ended().await
    }

    /// How it ended; it must be ending already.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.process.ended().await
    }

    /// The same again on the same data, after its end.
    pub(crate) async fn start_again(&mut self) {
        let mut process = Process::spawn_program(&self.program, &self.database, &self.settings, &["serve"]);
        self.address = process.listening().await;
        self.process = process;
        self.client = Client::connect(self.address, key(&self.settings)).await;
    }

    /// SIGTERM, and then on the same data with these settings beside its own.
    pub(crate) async fn restart_with(&mut self, settings: &[(&str, &str)]) {
        let ended = self.terminate().await;
        assert!(
            ended.success(),
            "SIGTERM should end it with 0, not {ended}; log:\n{}",
            self.log().join("\n")
        );
        self.settings.extend(settings.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        self.start_again().await;
    }
}

impl Drop for Posthorn {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the server:\n{}", self.log().join("\n"));
        }
    }
}

fn key(settings: &[(String, String)]) -> Option<String> {
    settings.iter().rfind(|(name, _)| name == ADMIN_KEY).map(|(_, value)| value.clone())
}

/// A process of the binary with what it prints.
pub(crate) struct Process {
    child: Child,
    /// Its standard error.
    pub(crate) log: Lines,
    /// Its standard output.
    pub(crate) output: Lines,
}

impl Process {
    /// Starts the binary in the database's directory with nothing in its environment but the
    /// settings; port 0 and the database's address are given where the settings don't say otherwise.
    pub(crate) fn spawn(database: &Database, settings: &[(String, String)], arguments: &[&str]) -> Self {
        Self::spawn_program(PROGRAM, database, settings, arguments)
    }

    fn spawn_program(
        program: &str,
        database: &Database,
        settings: &[(String, String)],
        arguments: &[&str],
    ) -> Self {
        // As the contract has it, beside PostgreSQL; POSTHORN_TEST_WITHOUT_REDIS leaves it out.
        let redis_url = std::env::var("POSTHORN_TEST_REDIS_URL").ok();
        let redis_url = redis_url.filter(|_| {
            database.url().starts_with("postgres")
                && std::env::var_os("POSTHORN_TEST_WITHOUT_REDIS").is_none()
        });
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(database.directory())
            .env_clear()
            .envs(std::env::var("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)))
            .env("POSTHORN_LISTEN", "127.0.0.1:0")
            .env("DATABASE_URL", database.url())
            .envs(redis_url.map(|url| ("REDIS_URL", url)))
            // What a killed process held is free after so long.
            .env("POSTHORN_LEASE_SECONDS", "2")
            .envs(settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let log = Lines::read(child.stderr.take().expect("piped"));
        let output = Lines::read(child.stdout.take().expect("piped"));
        Self { child, log, output }
    }

    /// The address from its log, as soon as it listens; fails where it ends before.
    pub(crate) async fn listening(&mut self) -> SocketAddr {
        let found = self.log.find(PATIENCE, |line| {
            if !line.contains("listening") {
                return None;
            }
            // `address=127.0.0.1:1` in text, `"address":"127.0.0.1:1"` in JSON.
            let after = line.split("address").nth(1)?.trim_start_matches(['=', '"', ':']);
            after.split(['"', ' ']).next()?.parse().ok()
        });
        match found.await {
            Some(address) => address,
            None => panic!("the server does not listen; log:\n{}", self.log.lines().join("\n")),
        }
    }

    /// Sends the signal, if the process still runs.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(id) = self.child.id() {
            let id = Pid::from_raw(id.try_into().expect("a process id"));
            nix::sys::signal::kill(id, signal).expect("the process can be signalled");
        }
    }

    /// How it ended, its output read to the end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = within(PATIENCE, "the process's end", self.child.wait()).await.expect("an exit status");
        self.log.complete().await;
        self.output.complete().await;
        ended
    }
}

/// Lines as they are printed.
#[derive(Clone)]
pub(crate) struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    /// Changes with each line; closed at the end of the stream.
    changed: watch::Receiver<()>,
}

impl Lines {
    fn read(stream: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, changed) = watch::channel(());
        let into = Arc::clone(&lines);
        tokio::spawn(async move {
            let mut reader = BufReader::new(stream).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                into.lock().unwrap().push(line);
                sender.send_replace(());
            }
        });
        Self { lines, changed }
    }

    /// All so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// What the function makes of the first line it takes; none where the stream ends or the time
    /// is over before.
    pub(crate) async fn find<T>(&self, limit: Duration, take: impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut changed = self.changed.clone();
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            // Seen before it is read, so that no line falls between.
            changed.mark_unchanged();
            if let Some(found) = self.lines.lock().unwrap().iter().find_map(|line| take(line)) {
                return Some(found);
            }
            match tokio::time::timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return self.lines.lock().unwrap().iter().find_map(|line| take(line)),
                Err(_) => return None,
            }
        }
    }

    /// Waits until the stream has ended.
    async fn complete(&self) {
        let mut changed = self.changed.clone();
        let end = async { while changed.changed().await.is_ok() {} };
        within(PATIENCE, "the end of the output", end).await;
    }
}
