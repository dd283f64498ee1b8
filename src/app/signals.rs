//! What signals mean to the service.
//!
//! SIGTERM, SIGINT, SIGQUIT and SIGPWR stop it, with what is in flight finished first. All others that would end a
//! process, and that a process can take, are logged and change nothing: none kills it by the way.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

/// Those that stop the service.
const STOPPING: [(&str, i32); 4] = [
    ("SIGTERM", libc::SIGTERM),
    ("SIGINT", libc::SIGINT),
    ("SIGQUIT", libc::SIGQUIT),
    ("SIGPWR", libc::SIGPWR),
];

/// Those that end a process which does not take them. SIGHUP asks some services to read their files again: this one
/// looks at its certificate by itself, and reads everything else at the start alone. With SIGXFSZ taken, a write beyond
/// the limit of a file's size is an error like that of a full disk.
const IGNORED: [(&str, i32); 10] = [
    ("SIGHUP", libc::SIGHUP),
    ("SIGUSR1", libc::SIGUSR1),
    ("SIGUSR2", libc::SIGUSR2),
    ("SIGALRM", libc::SIGALRM),
    ("SIGVTALRM", libc::SIGVTALRM),
    ("SIGPROF", libc::SIGPROF),
    ("SIGIO", libc::SIGIO),
    ("SIGSTKFLT", libc::SIGSTKFLT),
    ("SIGXCPU", libc::SIGXCPU),
    ("SIGXFSZ", libc::SIGXFSZ),
];

/// The signals of this process, taken as long as this lives.
pub struct Signals {
    stopping: mpsc::Receiver<&'static str>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Signals {
    /// Takes the signals from now on.
    pub fn listen() -> std::io::Result<Self> {
        // Two are all that is ever asked for.
        let (sender, stopping) = mpsc::channel(2);
        let mut tasks = Vec::with_capacity(STOPPING.len() + IGNORED.len());
        for (name, number) in STOPPING {
            let mut signals = signal(SignalKind::from_raw(number))?;
            let sender = sender.clone();
            tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    // A third is no news.
                    let _ = sender.try_send(name);
                }
            })));
        }
        for (name, number) in IGNORED {
            let mut signals = signal(SignalKind::from_raw(number))?;
            tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    info!(
                        signal = name,
                        "ignored: nothing is read again on a signal, and SIGTERM stops the service"
                    );
                }
            })));
        }
        Ok(Self { stopping, _tasks: tasks })
    }

    /// The name of the next signal that stops the service. May be dropped.
    pub(super) async fn next(&mut self) -> &'static str {
        match self.stopping.recv().await {
            Some(name) => name,
            // The tasks, which have the senders, live as long as this.
            None => std::future::pending().await,
        }
    }
}
