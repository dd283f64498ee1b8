//! Output that cannot be written, from the start or at some time: it costs lines, and nothing else.

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::client::Client;
use crate::support::server::PROGRAM;
use crate::support::{Backend, Database, Receiver, Reply, eventually};

/// Long enough for any end of a process, on a busy machine too.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// The program with nothing in its environment but where its database is.
fn program(database: &Database, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    beside(database, command.args(arguments));
    command
}

fn beside<'a>(database: &Database, command: &'a mut Command) -> &'a mut Command {
    command.current_dir(database.directory()).env_clear().env("DATABASE_URL", database.url());
    command.stdin(Stdio::null()).stdout(Stdio::null())
}

/// A server whose standard error is `stderr`; where it listens is known beforehand.
struct Serving {
    child: Child,
    client: Client,
    _database: Arc<Database>,
}

impl Serving {
    async fn start(stderr: impl Into<Stdio>) -> Self {
        let database = Arc::new(Database::create(Backend::Sqlite).await);
        Self::start_as(Command::new(PROGRAM).arg("serve").stderr(stderr), database).await
    }

    async fn start_as(command: &mut Command, database: Arc<Database>) -> Self {
        let address: SocketAddr = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap()
        };
        let child = beside(&database, command).env("POSTHORN_LISTEN", address.to_string()).spawn().unwrap();
        eventually("it listens", async || {
            tokio::net::TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self { child, client: Client::connect(address, None).await, _database: database }
    }

    /// Takes events in and delivers them.
    async fn works(&self, events: usize) {
        let receiver = Receiver::always(Reply::status(200)).await;
        let id = self.client.subscribe(&receiver.url("/"), json!({})).await.id;
        for event in 0..events {
            self.client.ingest(&id, json!({ "n": event })).await;
        }
        receiver.arrived(events).await;
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// SIGTERM, and how it ends.
    fn terminate(mut self) {
        self.signal(Signal::SIGTERM);
        let begun = Instant::now();
        while begun.elapsed() < ENDS_WITHIN {
            if let Some(ended) = self.child.try_wait().unwrap() {
                assert_eq!(ended.code(), Some(0), "{ended}");
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("SIGTERM did not end it within {ENDS_WITHIN:?}");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_a_full_disk_stops_nothing() {
    let serving = Serving::start(full()).await;
    serving.works(20).await;
    serving.terminate();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_reader_left_stops_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    let serving = Serving::start(writer).await;
    serving.works(5).await;
    drop(reader);
    serving.works(20).await;
    serving.terminate();
}

/// A file that may not grow is a disk that is full, until it is emptied. The database is elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lost_is_told_once_there_is_room_again() {
    let database = Arc::new(Database::create(Backend::Postgres).await);
    let path = database.directory().join("log");
    let shell = "ulimit -f 8; exec \"$0\" serve 2>>log";
    let serving = Serving::start_as(Command::new("bash").args(["-c", shell, PROGRAM]), database).await;
    let log = || std::fs::read_to_string(&path).unwrap();
    let signalled = async || {
        serving.signal(Signal::SIGUSR1);
        // Signals of a kind that come at once are one.
        tokio::time::sleep(Duration::from_millis(5)).await;
        log()
    };
    eventually("the file is full", async || {
        let length = signalled().await.len();
        if length == 8 * 1024 { Ok(()) } else { Err(format!("{length} bytes")) }
    })
    .await;
    for _ in 0..20 {
        signalled().await;
    }
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    eventually("the loss is told", async || {
        let log = signalled().await;
        let told = log.lines().find(|line| line.contains("log lines are lost"));
        let lost = told.and_then(|line| line.rsplit_once("lines=")?.1.parse::<u64>().ok());
        lost.filter(|lost| *lost >= 10).ok_or(log)
    })
    .await;
    let log = log();
    let whole = |line: &str| line.starts_with("20") || line.is_empty();
    assert!(log.lines().skip(1).all(whole), "no line goes on in another: {log}");
    serving.works(5).await;
    serving.terminate();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_ever_reads_does_not_hold_up_the_end() {
    let (reader, writer) = std::io::pipe().unwrap();
    let serving = Serving::start(writer).await;
    serving.works(100).await;
    serving.terminate();
    drop(reader);
}

/// What is wrong before there is a log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complaint_that_nobody_hears_changes_no_exit_code() {
    let database = Database::create(Backend::Sqlite).await;
    for arguments in [&["serve"][..], &["keys", "list"], &["no-such-command"]] {
        let mut command = program(&database, arguments);
        let ended = command.env("POSTHORN_LISTEN", "nonsense").stderr(full()).status().unwrap();
        assert!(matches!(ended.code(), Some(1 | 2)), "{arguments:?}: {ended}");
    }
}

/// As `posthorn … | head -c 1`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_reader_left_ends_quietly() {
    let database = Database::create(Backend::Sqlite).await;
    for arguments in [
        &["openapi"][..],
        &["openapi", "--yaml"],
        &["migrate", "up"],
        &["keys", "create"],
        &["keys", "list"],
        &["--help"],
    ] {
        for bytes in [0, 1] {
            let (mut reader, writer) = std::io::pipe().unwrap();
            let child = program(&database, arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
            reader.read_exact(&mut vec![0; bytes]).unwrap();
            drop(reader);
            let Output { status, stderr, .. } = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&stderr);
            assert_eq!((status.code(), &*stderr), (Some(0), ""), "{arguments:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_output_is_full_says_so() {
    let database = Database::create(Backend::Sqlite).await;
    for arguments in [&["openapi"][..], &["keys", "create"], &["keys", "list"], &["migrate", "status"]] {
        let Output { status, stderr, .. } =
            program(&database, arguments).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(1), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("posthorn: standard output: No space left on device"), "{stderr}");
    }
}
