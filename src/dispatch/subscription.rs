//! The actor of one busy subscription: a shell around its [`Lane`].
//!
//! It turns messages into the lane's events and the lane's actions into tasks; it decides nothing.
//! Whatever it knows comes from the store, so that after a panic a new one starts from there. When
//! the lane has been idle for a while it offers to leave; the dispatcher stops it unless more was
//! sent meanwhile.

mod gate;
mod messages;
mod read;
mod record;
mod shell;

use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_domain::id::{Sequence, SubscriptionId};
use posthorn_domain::lane::{Action, Event};
use posthorn_domain::subscription::Subscription;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::messages::{Arguments, LaneMsg};

use self::messages::Opened;
use self::shell::Shell;
use super::Parts;
use super::admission::Invitation;
use super::dispatcher::{DispatcherMsg, Rest};

/// How long an actor stays when it has nothing to do, and how far its next wake-up must lie for
/// that to be worth a read of the store.
const LINGER: Duration = Duration::from_secs(2);

/// How often a lane whose secrets cannot be read looks whether they can: who mends them may be a command beside the
/// service, of which nobody hears.
const UNREADABLE_INTERVAL: Duration = Duration::from_secs(10);

/// With so many lanes in memory none lingers: each has work too seldom for that to spare reads.
const LINGERING_UP_TO: usize = 4096;

pub(super) struct SubscriptionActor;

/// What was told before the subscription was read, and may have happened after it was read.
#[derive(Default)]
struct Early {
    changed: Option<Arc<Subscription>>,
    /// Deliveries up to this number are there. A first page that is full would not look beyond what was there
    /// when the subscription was read.
    last: Option<Sequence>,
    /// The subscription has this version, at least.
    version: i64,
    /// Somebody else changed it.
    refresh: bool,
}

pub(super) struct State {
    id: SubscriptionId,
    parts: Arc<Parts>,
    /// Messages from the dispatcher so far; with its own count it knows whether one is under way.
    seen: u64,
    shell: Option<Shell>,
    /// What came before the subscription was read.
    early: Early,
    /// For the gate, once there is one.
    invitation: Option<Invitation>,
    closed: bool,
    /// Reading what the lane needs; ends with the actor.
    reading: Option<AbortOnDropHandle<()>>,
}

impl Early {
    fn note(&mut self, message: LaneMsg) {
        match message {
            LaneMsg::Changed(after)
                if self.changed.as_ref().is_none_or(|known| known.version < after.version) =>
            {
                self.changed = Some(after);
            }
            LaneMsg::Accepted(queued) => self.last = self.last.max(Some(queued.ticket.sequence)),
            LaneMsg::Stored(last) => self.last = self.last.max(Some(last)),
            LaneMsg::Found(last, version) => {
                self.last = self.last.max(Some(last));
                self.version = self.version.max(version);
            }
            LaneMsg::Refresh => self.refresh = true,
            // What is read from here on, the lane's pages, shows what these did.
            _ => {}
        }
    }
}

impl Actor for SubscriptionActor {
    type Msg = LaneMsg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<LaneMsg>,
        Arguments { id, parts, invitation }: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let reading = AbortOnDropHandle::new(tokio::spawn(read::open(Arc::clone(&parts), id, myself)));
        Ok(State {
            id,
            parts,
            seen: 0,
            shell: None,
            early: Early::default(),
            invitation,
            closed: false,
            reading: Some(reading),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<LaneMsg>,
        message: LaneMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.count(&message);
        match (message, &mut state.shell) {
            (LaneMsg::Opened(found), _) => state.opened(&myself, found),
            (LaneMsg::Close, _) => state.close(),
            (message, Some(shell)) => {
                let now = Instant::now();
                if let Some(event) = shell.take_in(&state.parts, message, now, &myself) {
                    shell.lane.handle(event, now);
                }
            }
            (message, None) => state.early.note(message),
        }
        state.drive(&myself)
    }
}

impl State {
    /// Counts what the dispatcher sent.
    fn count(&mut self, message: &LaneMsg) {
        match message {
            LaneMsg::Accepted(_)
            | LaneMsg::Skipped(_)
            | LaneMsg::RetryNow(_)
            | LaneMsg::Changed(_)
            | LaneMsg::Close
            | LaneMsg::Stored(_)
            | LaneMsg::Found(..)
            | LaneMsg::Refresh
            | LaneMsg::Explain(..) => self.seen += 1,
            LaneMsg::Opened(_)
            | LaneMsg::Loaded(_)
            | LaneMsg::Attempted(..)
            | LaneMsg::Withdrawn(_)
            | LaneMsg::Recorded(_)
            | LaneMsg::Refreshed(..)
            | LaneMsg::Place(_)
            | LaneMsg::Wake => {}
            #[cfg(test)]
            LaneMsg::Panic => panic!("a test wants it so"),
        }
    }

    fn opened(&mut self, myself: &ActorRef<LaneMsg>, found: Option<Box<Opened>>) {
        self.reading = None;
        self.parts.dispatcher.tell(DispatcherMsg::Opened(self.id));
        let found = found.map(|found| *found).filter(|_| !self.closed);
        let Some(opened) = found else {
            // There is nothing to do, ever.
            self.offer_to_leave(myself, Rest::Asleep { until: None, deaf: false, last: Sequence::ZERO });
            return;
        };
        self.shell = Some(Shell::new(&self.parts, myself, opened, self.invitation.take()));
        let Some(shell) = &mut self.shell else { return };
        let Early { changed, last, version, refresh } = std::mem::take(&mut self.early);
        let now = Instant::now();
        if let Some(after) = changed {
            let event = shell.changed(&self.parts, after);
            shell.lane.handle(event, now);
        }
        let found = last.map(|last| LaneMsg::Found(last, version));
        for message in found.into_iter().chain(refresh.then_some(LaneMsg::Refresh)) {
            if let Some(event) = shell.take_in(&self.parts, message, now, myself) {
                shell.lane.handle(event, now);
            }
        }
    }

    fn close(&mut self) {
        self.closed = true;
        if let Some(shell) = &mut self.shell {
            shell.lane.handle(Event::Closed, Instant::now());
        }
    }

    /// Carries out what the lane wants, and sees to it that it is asked again in time.
    fn drive(&mut self, myself: &ActorRef<LaneMsg>) -> Result<(), ActorProcessingErr> {
        let Some(shell) = &mut self.shell else { return Ok(()) };
        let now = Instant::now();
        shell.tell_clearance();
        while let Some(action) = shell.lane.poll(now, &mut shell.gate) {
            match action {
                Action::Start { ticket, attempt } => shell.start(&self.parts, myself, ticket, attempt)?,
                Action::Record(record) => shell.record(&self.parts, myself, &record)?,
                Action::Load(load) => {
                    let task = read::page(Arc::clone(&self.parts), self.id, load, myself.clone());
                    self.reading = Some(AbortOnDropHandle::new(tokio::spawn(task)));
                }
            }
        }
        shell.gate.rest();
        shell.shown.show(shell.lane.in_flight_limit());
        let wake_up = shell.lane.next_wakeup();
        let leave = shell.lane.is_idle()
            && shell.news.is_none()
            && wake_up.is_none_or(|at| at > now + LINGER)
            && shell.gate.is_replenished(now);
        if !leave {
            shell.idle_since = None;
            // An idle lane whose pace has to recover looks again when it may have.
            let again = shell.lane.is_idle().then(|| now + LINGER);
            shell.set_timer(myself, wake_up.or(again));
            return Ok(());
        }
        let since = *shell.idle_since.get_or_insert(now);
        let outside = shell.gate.outside();
        let lingers = shell.has_sent
            && !self.closed
            && outside.is_none()
            && self.parts.limits.lanes() < LINGERING_UP_TO;
        if lingers && now < since + LINGER {
            shell.set_timer(myself, Some(since + LINGER));
            return Ok(());
        }
        let rest = match outside {
            Some((tenant, claim)) => Rest::Outside(tenant, claim),
            None => Rest::Asleep {
                until: wake_up.or_else(|| shell.is_unreadable().then(|| now + UNREADABLE_INTERVAL)),
                deaf: shell.lane.is_deaf() && !self.closed,
                last: shell.lane.last(),
            },
        };
        shell.idle_since = None;
        shell.timer = None;
        self.offer_to_leave(myself, rest);
        Ok(())
    }

    fn offer_to_leave(&self, myself: &ActorRef<LaneMsg>, rest: Rest) {
        let (id, actor, seen) = (self.id, myself.get_id(), self.seen);
        self.parts.dispatcher.tell(DispatcherMsg::Idle { id, actor, seen, rest });
    }
}
