//! What one connection is at, and whose it is.
//!
//! The stream tells of bytes, the service of requests and answers, and the handlers of who calls. From that follow
//! until when the client must have done something, and whether the connection may give way to another.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use posthorn_domain::connections::Holder;
use posthorn_domain::transfer::{Pace, Transfer};
use tokio::task::AbortHandle;

use super::connections::{Connections, Room};
use crate::http::problem::Problem;

/// How long a client's request waits for room in memory, before it is told to come again.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is tried again where nobody tells that there is room.
const ROOM_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes of a body or an answer that need no room: each connection has buffers of that size in any case.
const FREE_BYTES: u64 = 4096;
/// What an answer is taken for until it is there: most lists.
const ANSWER_BYTES_EXPECTED: u64 = 64 * 1024;

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// For the head of a request, from its first byte on; for the first, from the connection's beginning on.
    pub(super) head: Duration,
    /// Between requests.
    pub(super) idle: Duration,
    /// For answers.
    pub(super) answer: Pace,
}

/// A connection, as those see it who serve it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    id: u64,
    times: Times,
    connections: Connections,
    task: OnceLock<AbortHandle>,
    state: Mutex<State>,
}

struct State {
    /// Whose the connection is.
    holder: Holder,
    /// Whose the request is.
    caller: Holder,
    phase: Phase,
    /// A body that is waited for.
    body: Option<Transfer>,
    /// What waits to be taken.
    writing: Option<Transfer>,
    /// Memory held for the request, its head and its answer.
    rooms: Vec<Room>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Before the first request.
    New(Instant),
    /// Between requests.
    Idle(Instant),
    /// In a head, which began then, with so many bytes.
    Head(Instant, usize),
    /// A request is served.
    Serving,
    /// The answer is handed over; whether all of it.
    Answering { whole: bool },
}

impl Client {
    pub(super) fn new(id: u64, holder: Holder, times: Times, connections: Connections, now: Instant) -> Self {
        let state = State {
            caller: holder.clone(),
            holder,
            phase: Phase::New(now),
            body: None,
            writing: None,
            rooms: Vec::new(),
        };
        Self(Arc::new(Inner { id, times, connections, task: OnceLock::new(), state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    /// Whose the connection is.
    pub(super) fn holder(&self) -> Holder {
        self.state().holder.clone()
    }

    /// What ends it from outside.
    pub(super) fn runs_in(&self, task: AbortHandle) {
        // It is set once, by who spawned it.
        let _ = self.0.task.set(task);
    }

    /// Ends the connection, unless its client waits for us by now; whether it ends.
    pub(super) fn cut_off(&self) -> bool {
        let task = self.0.task.get().filter(|_| self.waits_since().is_some());
        task.inspect(|task| task.abort()).is_some()
    }

    /// Since when it waits for its client, as far as that is too slow; none where the client waits.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let state = self.state();
        let pace = &self.0.times.answer;
        match state.phase {
            Phase::New(since) | Phase::Idle(since) | Phase::Head(since, _) => Some(since),
            Phase::Serving => state.body.map(|body| body.on_pace_until(pace)),
            Phase::Answering { .. } => state.writing.map(|writing| writing.on_pace_until(pace)),
        }
    }

    /// Whose the memory is that it holds, and how much.
    pub(super) fn held(&self) -> Option<(Holder, u64)> {
        let state = self.state();
        let holder = state.rooms.first()?.holder().clone();
        Some((holder, state.rooms.iter().map(Room::bytes).sum()))
    }

    /// When the connection ends unless its client does something before; none where the client waits.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let Times { head, idle, answer } = &self.0.times;
        let state = self.state();
        let reading = match state.phase {
            Phase::New(since) | Phase::Head(since, _) => Some(since + *head),
            Phase::Idle(since) => Some(since + *idle),
            Phase::Serving | Phase::Answering { .. } => None,
        };
        reading.into_iter().chain(state.writing.map(|writing| writing.deadline(answer))).min()
    }

    /// So many bytes came. Of those of a head, how many there are.
    pub(super) fn received(&self, bytes: usize, now: Instant) -> usize {
        let mut state = self.state();
        let (since, before) = match state.phase {
            Phase::New(since) => (since, 0),
            Phase::Idle(_) => (now, 0),
            Phase::Head(since, before) => (since, before),
            Phase::Serving | Phase::Answering { .. } => return 0,
        };
        let all = before.saturating_add(bytes);
        state.phase = Phase::Head(since, all);
        all
    }

    /// Bytes of a head so far.
    pub(super) fn head_bytes(&self) -> usize {
        match self.state().phase {
            Phase::Head(_, bytes) => bytes,
            _ => 0,
        }
    }

    /// Room for more of a head, where there is some now.
    pub(super) fn room_for_head(&self, bytes: u64, now: Instant) -> bool {
        let holder = self.holder();
        let room = self.0.connections.try_room(&holder, bytes, now);
        let some = room.is_some();
        self.state().rooms.extend(room);
        some
    }

    /// A head is whole: its request is served from now on.
    pub(super) fn serves(&self) {
        let mut state = self.state();
        state.phase = Phase::Serving;
        state.caller = state.holder.clone();
    }

    /// The answer of so many bytes begins to go out.
    pub(super) fn answers(&self, bytes: u64) {
        let mut state = self.state();
        state.phase = Phase::Answering { whole: false };
        state.body = None;
        // Given back before the size that is known is taken in its place.
        state.rooms.retain(|room| !room.is_for_answer());
        let caller = state.caller.clone();
        drop(state);
        if bytes > FREE_BYTES {
            let room = self.0.connections.room_anyway(&caller, bytes);
            self.state().rooms.push(room);
        }
    }

    /// The whole answer was handed over, if not all of it taken.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        if let Phase::Answering { whole } = &mut state.phase {
            *whole = true;
        }
    }

    /// Bytes wait to be taken.
    pub(super) fn writes(&self, now: Instant) {
        self.state().writing.get_or_insert(Transfer::new(now));
    }

    /// So many bytes were taken.
    pub(super) fn wrote(&self, bytes: usize, now: Instant) {
        if let Some(writing) = &mut self.state().writing {
            writing.progress(bytes, now);
        }
    }

    /// All bytes that waited were taken.
    pub(super) fn flushed(&self, now: Instant) {
        let mut state = self.state();
        state.writing = None;
        if let Phase::Answering { whole: true } = state.phase {
            state.phase = Phase::Idle(now);
            drop(std::mem::take(&mut state.rooms));
        }
    }

    /// Who calls: memory for the request is held in its name. Where a key proved it, the connection is its own.
    pub(crate) fn called_by(&self, caller: Holder) {
        if caller.is_proved() {
            self.prove(caller.clone());
        }
        self.state().caller = caller;
    }

    /// A key or a signature proved whose the connection is.
    pub(crate) fn prove(&self, holder: Holder) {
        let before = std::mem::replace(&mut self.state().holder, holder);
        if !before.is_proved() {
            self.0.connections.proved(self.0.id);
        }
    }

    /// Waits for room for an answer whose size nobody knows yet.
    pub(crate) async fn room_for_answer(&self) -> Result<(), Problem> {
        self.room(ANSWER_BYTES_EXPECTED, true).await
    }

    /// Waits for room for `bytes` of the request.
    async fn room(&self, bytes: u64, for_answer: bool) -> Result<(), Problem> {
        let caller = self.state().caller.clone();
        let connections = &self.0.connections;
        let wait = async {
            loop {
                // Registered before it is tried, so that nothing falls between.
                let freed = connections.freed();
                if let Some(room) = connections.try_room(&caller, bytes, now()) {
                    return room;
                }
                // Either is as good: then it is tried again.
                let _ = tokio::time::timeout(ROOM_POLL_INTERVAL, freed).await;
            }
        };
        match tokio::time::timeout(ROOM_TIMEOUT, wait).await {
            Ok(room) => {
                self.state().rooms.push(if for_answer { room.for_answer() } else { room });
                Ok(())
            }
            Err(_) => Err(Problem::no_room()),
        }
    }

    /// A body is waited for.
    pub(crate) fn takes_body(&self) -> TakingBody<'_> {
        self.state().body = Some(Transfer::new(now()));
        TakingBody { client: self, room: FREE_BYTES }
    }
}

/// While a body is waited for.
pub(crate) struct TakingBody<'a> {
    client: &'a Client,
    /// So many bytes there is room for.
    room: u64,
}

impl TakingBody<'_> {
    /// So many bytes came.
    pub(crate) fn received(&self, bytes: usize) {
        if let Some(body) = &mut self.client.state().body {
            body.progress(bytes, now());
        }
    }

    /// Waits until there is room for a body of `bytes`.
    pub(crate) async fn room_for(&mut self, bytes: usize) -> Result<(), Problem> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if bytes <= self.room {
            return Ok(());
        }
        // While it waits for us it does not give way.
        let body = self.client.state().body.take();
        let begun = now();
        let found = self.client.room(bytes - self.room, false).await;
        let waited = begun.elapsed();
        self.client.state().body = body.map(|mut body| {
            body.excuse(waited);
            body
        });
        found?;
        self.room = bytes;
        Ok(())
    }
}

impl Drop for TakingBody<'_> {
    fn drop(&mut self) {
        self.client.state().body = None;
    }
}

/// Now, also where a test holds the time still.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
