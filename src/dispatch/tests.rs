//! The actors over a real database and real sockets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use posthorn_domain::address::AddressGuard;
use posthorn_domain::audit::{Action, Actor, Stamp};
use posthorn_domain::circuit::CircuitPolicy;
use posthorn_domain::cluster::Slot;
use posthorn_domain::concurrency::Adaptive;
use posthorn_domain::delivery::DeliveryStatus;
use posthorn_domain::forward::ForwardedHeaders;
use posthorn_domain::hops::Hops;
use posthorn_domain::id::{DeliveryId, SubscriptionId};
use posthorn_domain::retry::RetryPolicy;
use posthorn_domain::signature::SigningSecret;
use posthorn_domain::subscription::{
    Defaults, OnExhausted, RetryOverrides, Subscription, SubscriptionConfig, SubscriptionStatus,
};
use posthorn_domain::target::TargetUrl;
use posthorn_domain::tenant::Tenant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::dispatcher::DispatcherMsg;
use super::{Dispatch, Handle, NewEvent, Settings};
use crate::cache::Caches;
use crate::clock::Clock;
use crate::sender::{self, Sender};
use crate::store::{self, Store};

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_survived_and_unnoticed_by_others() {
    let world = World::new().await;
    let (victim, other) = (world.subscription().await, world.subscription().await);
    world.deliver(victim, 1).await;
    // Its actor rests longer each time, 200 ms, 400 ms, 800 ms, and comes back with what it missed:
    // its mailbox is lost, but what it had to do is in the store.
    for _ in 0..3 {
        world.handle.parts.dispatcher.tell(DispatcherMsg::Panic(victim));
        let next = world.ingest(victim).await;
        world.wait_for(next, DeliveryStatus::Success).await;
    }

    world.handle.parts.dispatcher.tell(DispatcherMsg::Panic(victim));
    let began = Instant::now();
    let next = world.ingest(victim).await;
    world.deliver(other, 20).await;
    assert_eq!(world.receiver.sequences(victim), [1, 2, 3, 4], "the other one waited until it was back");
    world.wait_for(next, DeliveryStatus::Success).await;
    assert!(began.elapsed() >= Duration::from_millis(1600), "it rested {:?}", began.elapsed());
    assert_eq!(world.receiver.sequences(victim), [1, 2, 3, 4, 5]);
    assert_eq!(world.receiver.sequences(other), (1..=20).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_leaves_when_idle_and_comes_back_with_work() {
    let world = World::new().await;
    let id = world.subscription().await;
    world.deliver(id, 3).await;
    // Longer than it lingers: the next event finds no actor, and the order goes on.
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.deliver(id, 3).await;
    assert_eq!(world.receiver.sequences(id), [1, 2, 3, 4, 5, 6]);
}

/// What a search that was given up has found comes when the next one has begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_ended_by_what_it_found_itself() {
    let world = World::new().await;
    let id = world.subscription().await;
    let dispatcher = &world.handle.parts.dispatcher;
    let slots: Vec<_> = Slot::all().collect();
    dispatcher.tell(DispatcherMsg::Lost(slots.clone()));
    let event = world.ingest(id).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(world.receiver.sequences(id).is_empty(), "nobody serves it");

    dispatcher.tell(DispatcherMsg::Acquired(slots));
    dispatcher.tell(DispatcherMsg::Found(0, Vec::new()));
    let began = Instant::now();
    world.wait_for(event, DeliveryStatus::Success).await;
    assert!(began.elapsed() < Duration::from_secs(5), "only found at the next look: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unfinished_goes_on_after_a_restart() {
    let mut world = World::new().await;
    let id = world.subscription().await;
    world.stand(id, SubscriptionStatus::Paused).await;
    let mut last = world.ingest(id).await;
    for _ in 0..600 {
        last = world.ingest(id).await;
    }
    world.stand(id, SubscriptionStatus::Active).await;
    world.restart().await;
    world.wait_for(last, DeliveryStatus::Success).await;
    let seen = world.receiver.sequences(id);
    assert!(seen.is_sorted(), "went backwards: {seen:?}");
    let mut first_sights = seen.clone();
    first_sights.dedup();
    assert_eq!(first_sights, (1..=601).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_records_what_is_in_flight() {
    let mut world = World::new().await;
    let id = world.subscription().await;
    world.receiver.delay(Duration::from_millis(300));
    let first = world.ingest(id).await;
    let second = world.ingest(id).await;
    world.receiver.wait_for_requests(1).await;
    let dispatch = world.dispatch.take().unwrap();
    assert!(dispatch.shut_down(Duration::from_secs(5)).await, "did not drain");
    assert_eq!(world.store.delivery(first).await.unwrap().unwrap().status, DeliveryStatus::Success);
    assert_eq!(world.store.delivery(second).await.unwrap().unwrap().status, DeliveryStatus::Pending);
}

/// The lane may read what was changed before it is told.
#[tokio::test(flavor = "multi_thread")]
async fn retries_are_forgiven_once() {
    let world = World::new().await;
    let id = world.subscription_that_pauses().await;
    world.receiver.answer(500);
    world.ingest(id).await;
    world.receiver.wait_for_requests(2).await;
    world.wait_until_paused(id).await;

    let stamp = Stamp { by: Actor::Anyone, at: Clock::system().now() };
    let resume = |subscription: &mut Subscription| {
        (subscription.status, subscription.status_reason) = (SubscriptionStatus::Active, None);
    };
    let resumed = world.store.update_subscription(id, stamp, Action::SubscriptionResumed, resume).await;
    let resumed = Arc::new(resumed.unwrap().unwrap().after.subscription);
    let dispatcher = &world.handle.parts.dispatcher;
    dispatcher.tell(DispatcherMsg::Refresh(id));
    world.receiver.wait_for_requests(3).await;
    dispatcher.tell(DispatcherMsg::Changed(resumed));
    world.wait_until_paused(id).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.receiver.sequences(id), [1; 4], "one attempt and one retry each time");
}

/// A copy from before its own outcome closed a lane does not open it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_open_before_stays_closed() {
    let world = World::new().await;
    let id = world.subscription_that_pauses().await;
    world.receiver.answer(500);
    let open = world.handle.parts.caches.subscription(id).await.unwrap().unwrap();
    world.ingest(id).await;
    world.receiver.wait_for_requests(1).await;
    // It reads itself again when the outcome of its retry is recorded, and not before there is a turn.
    let turns = u32::try_from(world.handle.parts.loads.available_permits()).unwrap();
    let turns = world.handle.parts.loads.acquire_many(turns).await.unwrap();
    world.receiver.wait_for_requests(2).await;
    world.wait_until_paused(id).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.handle.parts.dispatcher.tell(DispatcherMsg::Changed(open));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.receiver.sequences(id), [1; 2]);
    drop(turns);
    world.stand(id, SubscriptionStatus::Active).await;
    world.receiver.wait_for_requests(3).await;
}

/// Two places, so that four lanes may wait in memory and no further one comes to eight.
#[tokio::test(flavor = "multi_thread")]
async fn very_many_lanes_wait_outside_of_memory() {
    let mut world = World::with_places(2).await;
    // So that few end meanwhile: those stay a little longer.
    world.receiver.delay(Duration::from_millis(200));
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(world.subscription().await);
    }
    for id in ids.iter().chain(&ids) {
        world.ingest(*id).await;
    }
    let in_memory = world.most_in_memory(Duration::from_millis(300)).await;
    assert!((8..=24).contains(&in_memory), "{in_memory} lanes were in memory");
    // What the search at the start finds waits outside as well.
    world.restart().await;
    let in_memory = world.most_in_memory(Duration::from_millis(300)).await;
    assert!((4..=24).contains(&in_memory), "{in_memory} lanes were in memory after a restart");
    world.receiver.delay(Duration::ZERO);
    for id in ids {
        world.deliver(id, 1).await;
        let mut seen = world.receiver.sequences(id);
        seen.dedup();
        assert_eq!(seen, [1, 2, 3]);
    }
}

/// Lanes with much to send make room for one with little.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_outside_has_its_turn() {
    let world = World::with_places(2).await;
    world.receiver.delay(Duration::from_millis(20));
    for _ in 0..14 {
        let id = world.subscription().await;
        for _ in 0..100 {
            world.ingest(id).await;
        }
    }
    let small = world.subscription().await;
    let began = Instant::now();
    world.deliver(small, 1).await;
    // All others together take 14 s.
    assert!(began.elapsed() < Duration::from_secs(9), "it had to wait for {:?}", began.elapsed());
}

fn stamp() -> Stamp {
    Stamp { by: Actor::Anyone, at: Clock::system().now() }
}

struct World {
    dispatch: Option<Dispatch>,
    handle: Handle,
    store: Store,
    receiver: Receiver,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with_places(64).await
    }

    async fn with_places(places: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("posthorn.db").display());
        let store = Store::connect(&store::Settings::at(url)).await.unwrap();
        store.migrate_up().await.unwrap();
        let dispatch = start(&store, places).await;
        let handle = dispatch.handle();
        let receiver = Receiver::start().await;
        Self { dispatch: Some(dispatch), handle, store, receiver, _folder: folder }
    }

    async fn restart(&mut self) {
        self.dispatch.take().unwrap().shut_down(Duration::ZERO).await;
        let places = self.handle.parts.settings.in_flight_max;
        let dispatch = start(&self.store, places).await;
        self.handle = dispatch.handle();
        self.dispatch = Some(dispatch);
    }

    async fn subscription(&self) -> SubscriptionId {
        let id = SubscriptionId(Uuid::now_v7());
        let target = TargetUrl::parse(&format!("{}/{id}", self.receiver.url)).unwrap();
        let (config, secret) = (SubscriptionConfig::new(target), SigningSecret::from_random([7; 32]));
        let now = Clock::system().now();
        let subscription = Subscription::new(id, Tenant::default(), config, secret, now);
        assert!(self.store.insert_subscription(&subscription, None, stamp()).await.unwrap());
        id
    }

    /// Changes a subscription, and tells of it.
    async fn change(
        &self,
        id: SubscriptionId,
        action: Action,
        change: impl Fn(&mut Subscription) + Send + 'static,
    ) {
        let update = self.store.update_subscription(id, stamp(), action, change).await.unwrap().unwrap();
        let after = self.handle.parts.caches.keep_subscription(update.after.subscription).await;
        self.handle.changed(after);
    }

    /// Pauses or resumes a subscription.
    async fn stand(&self, id: SubscriptionId, status: SubscriptionStatus) {
        let action = match status {
            SubscriptionStatus::Active => Action::SubscriptionResumed,
            SubscriptionStatus::Paused | SubscriptionStatus::Disabled => Action::SubscriptionPaused,
        };
        self.change(id, action, move |subscription| {
            (subscription.status, subscription.status_reason) = (status, None);
        })
        .await;
    }

    /// After one retry.
    async fn subscription_that_pauses(&self) -> SubscriptionId {
        let id = self.subscription().await;
        let retry = RetryOverrides {
            max_retries: Some(1),
            on_exhausted: Some(OnExhausted::Pause),
            ..RetryOverrides::default()
        };
        self.change(id, Action::SubscriptionUpdated, move |subscription| subscription.config.retry = retry)
            .await;
        id
    }

    async fn wait_until_paused(&self, id: SubscriptionId) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.store.subscription_view(id).await.unwrap().unwrap().subscription.status;
            if status == SubscriptionStatus::Paused {
                return;
            }
            assert!(Instant::now() < deadline, "still {status:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn ingest(&self, subscription_id: SubscriptionId) -> DeliveryId {
        let event = NewEvent {
            subscription_id,
            tenant: Tenant::default(),
            content_type: "application/json".to_owned(),
            payload: "{}".into(),
            idempotency_key: None,
            ordering_key: None,
            hops: Hops::default(),
            forwarded: ForwardedHeaders::default(),
        };
        self.handle.accept(event).await.unwrap().delivery_id
    }

    /// The most lanes that were in memory at once.
    async fn most_in_memory(&self, watched: Duration) -> usize {
        let (began, mut most) = (Instant::now(), 0);
        while began.elapsed() < watched {
            most = most.max(self.handle.parts.limits.lanes());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        most
    }

    async fn deliver(&self, id: SubscriptionId, count: usize) {
        let mut last = None;
        for _ in 0..count {
            last = Some(self.ingest(id).await);
        }
        self.wait_for(last.unwrap(), DeliveryStatus::Success).await;
    }

    async fn wait_for(&self, id: DeliveryId, status: DeliveryStatus) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let delivery = self.store.delivery(id).await.unwrap().unwrap();
            if delivery.status == status {
                return;
            }
            assert!(Instant::now() < deadline, "still {delivery:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub(crate) async fn start(store: &Store, in_flight_max: u32) -> Dispatch {
    let guard = AddressGuard::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let sender =
        Sender::new(sender::Settings { guard, user_agent: "Posthorn/test".to_owned(), proxy: None }).unwrap();
    let settings = Settings {
        defaults: Defaults {
            retry: RetryPolicy {
                max_retries: 5,
                delay: Duration::from_millis(50),
                delay_max: Duration::from_secs(1),
            },
            timeout: Duration::from_secs(5),
            circuit: CircuitPolicy {
                failure_threshold: 10,
                cool_down: Duration::from_secs(1),
                cool_down_max: Duration::from_secs(10),
            },
            disable_after: None,
            in_flight: Adaptive::DEFAULT,
        },
        backlog_max: 1_000_000,
        quotas: posthorn_domain::tenant::Quotas::default(),
        in_flight_max,
        retention: Duration::from_hours(1),
        audit_retention: Duration::from_hours(1),
        cleanup_interval: Duration::from_mins(1),
        lease: Duration::from_secs(15),
    };
    let caches = Caches::new(store.clone(), None).unwrap();
    Dispatch::start(settings, store.clone(), caches, sender, Clock::system()).await.unwrap()
}

/// Answers 200, if nothing else is said, and remembers which numbers came for which path.
struct Receiver {
    url: String,
    seen: Arc<Mutex<HashMap<String, Vec<i64>>>>,
    reply: Arc<Mutex<(u16, Duration)>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let receiver = Self { url, seen: Arc::default(), reply: Arc::new(Mutex::new((200, Duration::ZERO))) };
        let (seen, reply) = (Arc::clone(&receiver.seen), Arc::clone(&receiver.reply));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&seen), Arc::clone(&reply)));
            }
        });
        receiver
    }

    fn delay(&self, delay: Duration) {
        self.reply.lock().unwrap().1 = delay;
    }

    fn answer(&self, status: u16) {
        self.reply.lock().unwrap().0 = status;
    }

    fn sequences(&self, id: SubscriptionId) -> Vec<i64> {
        self.seen.lock().unwrap().get(&format!("/{id}")).cloned().unwrap_or_default()
    }

    async fn wait_for_requests(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let seen: usize = self.seen.lock().unwrap().values().map(Vec::len).sum();
            if seen >= count {
                return;
            }
            assert!(Instant::now() < deadline, "{seen} of {count} requests");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn answer(
    mut stream: TcpStream,
    seen: Arc<Mutex<HashMap<String, Vec<i64>>>>,
    reply: Arc<Mutex<(u16, Duration)>>,
) {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        head.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&head).to_lowercase();
        // The body is `{}`.
        if !text.ends_with("\r\n\r\n{}") {
            continue;
        }
        let path = text.split(' ').nth(1).unwrap().to_owned();
        let sequence = text.lines().find_map(|line| line.strip_prefix("posthorn-sequence: ")).unwrap();
        seen.lock().unwrap().entry(path).or_default().push(sequence.trim().parse().unwrap());
        let (status, delay) = *reply.lock().unwrap();
        tokio::time::sleep(delay).await;
        let answer = format!("HTTP/1.1 {status} Some\r\ncontent-length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        head.clear();
    }
}
