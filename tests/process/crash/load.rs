//! The load under which the server is killed: clients that note what was accepted, and endpoints
//! that fail often.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::{Client, Received, Receiver, Reply};

const CLIENTS: u64 = 6;

/// Where the test itself sends a request, to know that those before it have been read.
const MARK: &str = "/mark";

/// How a subscription orders, and how many requests it may have open.
const KINDS: &[(&str, i64)] = &[
    ("strict", 1),
    ("strict", 1),
    ("strict", 1),
    ("strict", 1),
    ("key", 3),
    ("key", 5),
    ("key", 8),
    ("none", 2),
    ("none", 6),
];

/// One of the subscriptions under load.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) id: String,
    pub(super) path: String,
    pub(super) ordering: &'static str,
    pub(super) max_in_flight: usize,
}

/// One event as its client knows it.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) body: Vec<u8>,
    pub(super) subscription: String,
    pub(super) key: Option<String>,
}

/// The server as it can be reached now.
#[derive(Clone)]
struct Server {
    client: Client,
    /// Whether new events are to be handed in.
    wanted: bool,
}

/// The load while it runs.
pub(super) struct Load {
    subscriptions: Vec<Endpoint>,
    receiver: Receiver,
    server: watch::Sender<Server>,
    clients: JoinSet<Vec<(String, Event)>>,
}

/// What it leaves behind.
pub(super) struct Done {
    pub(super) subscriptions: Vec<Endpoint>,
    pub(super) receiver: Receiver,
    /// Every event answered 202, by its delivery's id.
    pub(super) accepted: HashMap<String, Event>,
    /// Events handed in under a key until they were accepted.
    pub(super) keyed: usize,
}

impl Load {
    /// Creates the subscriptions and begins.
    pub(super) async fn start(client: &Client, seed: u64) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        let receiver = Receiver::start(move |request: &Received| match request.path.as_str() {
            MARK => Reply::status(200),
            _ => answer(&mut random.lock().unwrap()),
        })
        .await;
        let mut subscriptions = Vec::new();
        for (index, (ordering, max_in_flight)) in KINDS.iter().enumerate() {
            let path = format!("/{ordering}/{index}");
            let fields = json!({"ordering": ordering, "max_in_flight": max_in_flight});
            let id = client.subscribe(&receiver.url(&path), fields).await.id;
            let max_in_flight = usize::try_from(*max_in_flight).unwrap();
            subscriptions.push(Endpoint { id, path, ordering, max_in_flight });
        }
        let server = watch::Sender::new(Server { client: client.clone(), wanted: true });
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let random = StdRng::seed_from_u64(seed.wrapping_add(number + 1));
            clients.spawn(hand_in(number, random, subscriptions.clone(), server.subscribe()));
        }
        Self { subscriptions, receiver, server, clients }
    }

    /// The server has been started again.
    pub(super) fn go_on_with(&self, client: &Client) {
        self.server.send_replace(Server { client: client.clone(), wanted: true });
    }

    /// The moment when everything that a dead server sent has been read: what is sent from then on
    /// comes from the next one.
    pub(super) async fn quiet(&self) -> Instant {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mark = http.post(self.receiver.url(MARK)).send().await.expect("the receiver answers");
        assert_eq!(mark.status(), 200);
        let all_ended = |log: &[Received]| log.iter().all(|request| request.closed.is_some());
        self.receiver.until("the end of what the dead server sent", all_ended).await;
        Instant::now()
    }

    /// Ends the load once each client has the answer to its last event.
    pub(super) async fn stop(mut self) -> Done {
        self.server.send_modify(|server| server.wanted = false);
        let mut accepted = HashMap::new();
        let mut keyed = 0;
        while let Some(done) = self.clients.join_next().await {
            for (delivery, event) in done.expect("a client's end") {
                keyed += usize::from(is_keyed(&event));
                let twice = accepted.insert(delivery, event);
                assert!(twice.is_none(), "two events share a delivery: {twice:?}");
            }
        }
        Done { subscriptions: self.subscriptions, receiver: self.receiver, accepted, keyed }
    }
}

impl Done {
    /// What the server sent, in the order of arrival.
    pub(super) fn requests(&self) -> Vec<Received> {
        self.receiver.requests().into_iter().filter(|request| request.path != MARK).collect()
    }
}

/// Every second event of a client is handed in under an idempotency key.
pub(super) fn is_keyed(event: &Event) -> bool {
    String::from_utf8_lossy(&event.body).contains("\"keyed\":true")
}

/// A third fails, some are slow, some break off.
fn answer(random: &mut StdRng) -> Reply {
    let reply = match random.random_range(0..100) {
        0..20 => Reply::status(500),
        20..28 => Reply::reset(),
        28..33 => Reply::header(503, "retry-after", "0"),
        _ => Reply::status(200),
    };
    reply.after(Duration::from_millis(random.random_range(0..8)))
}

/// One client: event after event, the keyed ones again until they are accepted.
async fn hand_in(
    number: u64,
    mut random: StdRng,
    subscriptions: Vec<Endpoint>,
    mut server: watch::Receiver<Server>,
) -> Vec<(String, Event)> {
    let mut accepted = Vec::new();
    for index in 0.. {
        if !server.borrow().wanted {
            break;
        }
        let endpoint = &subscriptions[random.random_range(0..subscriptions.len())];
        let key = (random.random_range(0..4) > 0).then(|| format!("key-{}", random.random_range(0..4)));
        let body = json!({"client": number, "index": index, "keyed": index % 2 == 0}).to_string();
        let event = Event { body: body.into_bytes(), subscription: endpoint.id.clone(), key };
        let idempotency = (index % 2 == 0).then(|| format!("{number}-{index}"));
        if let Some(delivery) = deliver(&mut server, &event, idempotency.as_deref()).await {
            accepted.push((delivery, event));
        }
    }
    accepted
}

/// The delivery's id; none where an event without a key got no answer, whatever became of it.
async fn deliver(
    server: &mut watch::Receiver<Server>,
    event: &Event,
    idempotency: Option<&str>,
) -> Option<String> {
    loop {
        let client = server.borrow_and_update().client.clone();
        let call = client.call(Method::POST, format!("/ingest/{}", event.subscription));
        let mut call = call.bytes("application/json", event.body.clone());
        for (name, value) in
            [("posthorn-ordering-key", event.key.as_deref()), ("idempotency-key", idempotency)]
        {
            if let Some(value) = value {
                call = call.header(name, value);
            }
        }
        match call.try_send().await {
            Some(answer) if answer.status == 202 => return Some(answer.text("delivery_id")),
            Some(answer) => assert_eq!(answer.status, 503, "{}", answer.json),
            // Dead, until another is there or this one after all.
            None => drop(tokio::time::timeout(Duration::from_millis(50), server.changed()).await),
        }
        idempotency?;
    }
}
