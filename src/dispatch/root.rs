//! The root of the tree: starts the others, and starts anew what dies.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use posthorn_domain::cluster::Slot;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::task::JoinHandle;
use tracing::{error, warn};

use super::backoff::doubled;
use super::dispatcher::Dispatcher;
use super::worker::{Body, Worker};
use super::{
    Handle, Parts, Settings, arrivals, deletions, ears, ingest_writer, janitor, membership, outcome_writer,
    quota,
};
use crate::cache::Caches;
use crate::clock::Clock;
use crate::sender::Sender;
use crate::store::{Error, Store};

/// For giving back slots in which nothing is in flight any more.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(3);
const RESTART_PAUSE: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);

/// The running tree.
pub struct Dispatch {
    parts: Arc<Parts>,
    root: ActorRef<Restart>,
    ended: JoinHandle<()>,
}

impl Dispatch {
    /// Starts the tree; what is unfinished goes on from the store.
    pub async fn start(
        settings: Settings,
        store: Store,
        caches: Caches,
        sender: Sender,
        clock: Clock,
    ) -> Result<Self, Error> {
        if !store.is_shared() {
            let all: Vec<_> = Slot::all().collect();
            let interrupted = store.reset_interrupted(&all, clock.now()).await?;
            if interrupted > 0 {
                warn!(interrupted, "requests were in flight when the last process ended; they go again");
            }
        }
        let parts = Parts::new(settings, store, caches, sender, clock);
        let (root, ended) = Actor::spawn(None, Root, Arc::clone(&parts))
            .await
            .map_err(|error| Error::Unusable(format!("the actors could not be started: {error}")))?;
        Ok(Self { parts, root, ended })
    }

    /// The face of dispatch.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { parts: Arc::clone(&self.parts) }
    }

    /// Starts no request from now on.
    pub fn start_nothing(&self) {
        self.parts.admission.close();
        self.parts.membership.leave();
    }

    /// Starts no request any more, waits until those in flight are recorded, and ends the tree.
    /// Returns false where some did not end within `patience`: they go again at the next start.
    pub async fn shut_down(self, patience: Duration) -> bool {
        self.start_nothing();
        let drained = self.parts.admission.drained(patience).await;
        if !self.parts.membership.left(HAND_OVER_PATIENCE).await {
            warn!("not all slots could be given back; their leases will end");
        }
        self.root.stop(None);
        // It panicked or it ended; either way it is over.
        let _ = self.ended.await;
        drained
    }
}

/// The actors right below the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Child {
    OutcomeWriter,
    IngestWriter,
    Dispatcher,
    Janitor,
    /// Ends what deleted subscriptions had still to send.
    Deletions,
    Membership,
    Arrivals,
    Ears,
    /// Looks after what the nodes share through Redis.
    SharedCache,
    /// Asks Redis for turns of the tenants' paces.
    Quotas,
}

impl Child {
    /// In the order in which they start: notices are heard before slots are taken.
    const ALL: [Self; 10] = [
        Self::OutcomeWriter,
        Self::IngestWriter,
        Self::Dispatcher,
        Self::SharedCache,
        Self::Quotas,
        Self::Arrivals,
        Self::Ears,
        Self::Membership,
        Self::Janitor,
        Self::Deletions,
    ];
}

/// It is time to start one of them anew.
pub(super) struct Restart(Child);

pub(super) struct Root;

pub(super) struct State {
    parts: Arc<Parts>,
    children: HashMap<ActorId, Child>,
    /// How often each died so far.
    deaths: u32,
}

impl Actor for Root {
    type Msg = Restart;
    type State = State;
    type Arguments = Arc<Parts>;

    async fn pre_start(
        &self,
        myself: ActorRef<Restart>,
        parts: Arc<Parts>,
    ) -> Result<State, ActorProcessingErr> {
        let mut state = State { parts, children: HashMap::new(), deaths: 0 };
        for child in Child::ALL {
            state.start(&myself, child).await?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Restart>,
        Restart(child): Restart,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.start(&myself, child).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Restart>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, reason) = match &event {
            SupervisionEvent::ActorFailed(actor, reason) => (actor, reason.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                (actor, reason.clone().unwrap_or_default())
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        if let Some(child) = state.children.remove(&actor.get_id()) {
            let pause = doubled(RESTART_PAUSE, state.deaths, RESTART_PAUSE_MAX);
            state.deaths = state.deaths.saturating_add(1);
            error!(?child, reason, pause_ms = pause.as_millis(), "an actor died and is started anew");
            drop(myself.send_after(pause, move || Restart(child)));
        }
        Ok(())
    }
}

impl State {
    async fn start(&mut self, myself: &ActorRef<Restart>, child: Child) -> Result<(), ActorProcessingErr> {
        let body: Body = match child {
            Child::OutcomeWriter => |parts| Box::pin(outcome_writer::run(parts)),
            Child::IngestWriter => |parts| Box::pin(ingest_writer::run(parts)),
            Child::Janitor => |parts| Box::pin(janitor::run(parts)),
            Child::Deletions => |parts| Box::pin(deletions::run(parts)),
            Child::Membership => |parts| Box::pin(membership::run(parts)),
            Child::Arrivals => |parts| Box::pin(arrivals::run(parts)),
            Child::Ears => |parts| Box::pin(ears::run(parts)),
            Child::Quotas => |parts| Box::pin(quota::answer_all(parts)),
            Child::SharedCache => |parts| Box::pin(async move { parts.caches.watch().await }),
            Child::Dispatcher => {
                let parts = Arc::clone(&self.parts);
                let (actor, _) = Actor::spawn_linked(None, Dispatcher, parts, myself.get_cell()).await?;
                self.children.insert(actor.get_id(), child);
                return Ok(());
            }
        };
        let arguments = (body, Arc::clone(&self.parts));
        let (actor, _) = Actor::spawn_linked(None, Worker, arguments, myself.get_cell()).await?;
        self.children.insert(actor.get_id(), child);
        Ok(())
    }
}
