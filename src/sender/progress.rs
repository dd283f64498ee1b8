//! What the client does for one request, noted within the task that makes it: the client looks names up and dials
//! within that task, and tells neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tower::util::MapRequestLayer;

tokio::task_local! {
    static PROGRESS: Arc<Progress>;
}

/// How far a request is.
#[derive(Debug)]
pub(super) struct Progress {
    /// Of the target.
    port: u16,
    waits_for_name: AtomicBool,
    dialled: AtomicBool,
}

impl Progress {
    /// Of a request to this port that is still to be made.
    pub(super) fn new(port: u16) -> Arc<Self> {
        Arc::new(Self { port, waits_for_name: AtomicBool::new(false), dialled: AtomicBool::new(false) })
    }

    /// Makes the request. May be dropped.
    pub(super) async fn of<T>(self: &Arc<Self>, request: impl Future<Output = T>) -> T {
        PROGRESS.scope(Arc::clone(self), request).await
    }

    /// Whether it waits for its target's name to be looked up.
    pub(super) fn waits_for_name(&self) -> bool {
        self.waits_for_name.load(Ordering::Relaxed)
    }

    /// Whether a connection was dialled for it. If not, it went out on one that had served another before.
    pub(super) fn has_dialled(&self) -> bool {
        self.dialled.load(Ordering::Relaxed)
    }

    fn current() -> Option<Arc<Self>> {
        PROGRESS.try_with(Arc::clone).ok()
    }
}

/// The port that the request of this task goes to.
pub(super) fn port() -> Option<u16> {
    Progress::current().map(|progress| progress.port)
}

/// Says that a name is waited for, until [`end`](Self::end).
pub(super) struct Waiting(Option<Arc<Progress>>);

impl Waiting {
    pub(super) fn begin() -> Self {
        let progress = Progress::current();
        if let Some(progress) = &progress {
            progress.waits_for_name.store(true, Ordering::Relaxed);
        }
        Self(progress)
    }

    /// The name is found. Not called where the wait is broken off.
    pub(super) fn end(self) {
        if let Some(progress) = self.0 {
            progress.waits_for_name.store(false, Ordering::Relaxed);
        }
    }
}

/// In front of whatever dials: notes that it does.
pub(super) fn dialling<T>() -> MapRequestLayer<fn(T) -> T> {
    MapRequestLayer::new(|destination| {
        if let Some(progress) = Progress::current() {
            progress.dialled.store(true, Ordering::Relaxed);
        }
        destination
    })
}
