//! The ceiling: takes events and hands them on in order, and remembers nothing.
//!
//! Same HTTP server, signature and client as Posthorn, and the same ordering: one request in flight for
//! each strict subscription, and for each of 64 queues of any other. No database, no retries, no
//! limits, no checks: 202 as soon as the event is in a bounded queue in memory. What a restart or a
//! failing endpoint loses is lost.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use poem::http::{HeaderMap, HeaderValue, StatusCode, header};
use poem::listener::{Acceptor as _, Listener as _, TcpListener};
use poem::web::{Data, Json, Path};
use poem::{Body, EndpointExt as _, Response, Route, Server, handler, post};
use posthorn_domain::id::DeliveryId;
use posthorn_domain::signature::SigningSecret;
use posthorn_domain::time::Timestamp;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::client::ORDERING_KEY;
use crate::ordering::Ordering;

const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Of a subscription that is not strict; as many requests it may have in flight, as Posthorn's.
const QUEUES: usize = 64;
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

struct Forwarder {
    client: reqwest::Client,
    /// Events that may wait for each subscription.
    queue_max: usize,
    lanes: RwLock<Lanes>,
}

#[derive(Default)]
struct Lanes {
    queues: HashMap<Uuid, Queues>,
    tasks: JoinSet<()>,
}

/// Of one subscription: one where it is strict.
struct Queues {
    queues: Vec<mpsc::Sender<Delivery>>,
    turn: AtomicUsize,
}

struct Delivery {
    id: DeliveryId,
    payload: Bytes,
}

/// Serves until its process ends, with so many places in each subscription's queue.
pub(crate) async fn serve(queue_max: usize) -> anyhow::Result<()> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(DELIVERY_TIMEOUT)
        .build()?;
    let forwarder = Arc::new(Forwarder { client, queue_max, lanes: RwLock::default() });
    let routes = Route::new().at("/subscriptions/", post(subscribe)).at("/ingest/:id", post(ingest));
    let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await?;
    let address = acceptor.local_addr().into_iter().find_map(|address| address.as_socket_addr().copied());
    writeln!(std::io::stderr(), "listening address={}", address.context("an address of its own")?)?;
    Server::new_with_acceptor(acceptor).run(routes.data(forwarder)).await.context("serving")
}

#[derive(Deserialize)]
struct Subscription {
    target_url: String,
    ordering: Ordering,
}

#[handler]
fn subscribe(
    Json(subscription): Json<Subscription>,
    Data(forwarder): Data<&Arc<Forwarder>>,
) -> poem::Result<Response> {
    let target = subscription.target_url.parse().map_err(poem::error::BadRequest)?;
    let id = Uuid::now_v7();
    let count = if subscription.ordering == Ordering::Strict { 1 } else { QUEUES };
    let mut lanes = forwarder.lanes.write().unwrap_or_else(PoisonError::into_inner);
    let mut queues = Vec::with_capacity(count);
    for _ in 0..count {
        let (sender, queue) = mpsc::channel(forwarder.queue_max);
        queues.push(sender);
        lanes.tasks.spawn(deliver(queue, forwarder.client.clone(), reqwest::Url::clone(&target)));
    }
    lanes.queues.insert(id, Queues { queues, turn: AtomicUsize::new(0) });
    let body = serde_json::json!({ "id": id.to_string() }).to_string();
    Ok(Response::builder().status(StatusCode::CREATED).content_type("application/json").body(body))
}

#[handler]
async fn ingest(
    Path(id): Path<String>,
    headers: &HeaderMap,
    body: Body,
    forwarder: Data<&Arc<Forwarder>>,
) -> poem::Result<Response> {
    let payload = body.into_bytes_limit(PAYLOAD_BYTES_MAX).await?;
    let delivery = Delivery { id: DeliveryId(Uuid::now_v7()), payload };
    let accepted = answer(delivery.id);
    let id = id.parse().map_err(poem::error::BadRequest)?;
    let lanes = forwarder.lanes.read().unwrap_or_else(PoisonError::into_inner);
    let queue = lanes.queues.get::<Uuid>(&id).and_then(|queues| queues.of(headers.get(ORDERING_KEY)));
    let Some(queue) = queue else { return Err(StatusCode::NOT_FOUND.into()) };
    match queue.try_send(delivery) {
        Ok(()) => Ok(accepted),
        Err(_) => Ok(StatusCode::TOO_MANY_REQUESTS.into()),
    }
}

impl Queues {
    /// The queue of a key; those without one go to the queues in turns.
    fn of(&self, key: Option<&HeaderValue>) -> Option<&mpsc::Sender<Delivery>> {
        let place = match key {
            Some(key) => {
                let mut hasher = DefaultHasher::new();
                key.as_bytes().hash(&mut hasher);
                usize::try_from(hasher.finish() >> 32).unwrap_or_default()
            }
            None => self.turn.fetch_add(1, Relaxed),
        };
        self.queues.get(place % self.queues.len().max(1))
    }
}

fn answer(id: DeliveryId) -> Response {
    Response::builder()
        .status(StatusCode::ACCEPTED)
        .header(header::LOCATION, format!("/status/deliveries/{id}/status"))
        .content_type("application/json")
        .body(format!("{{\"delivery_id\":\"{id}\",\"status\":\"pending\"}}"))
}

async fn deliver(mut queue: mpsc::Receiver<Delivery>, client: reqwest::Client, target: reqwest::Url) {
    let secret = SigningSecret::from_random(rand::random());
    let mut sequence = 0_u64;
    while let Some(delivery) = queue.recv().await {
        sequence += 1;
        if let Err(error) = attempt(&client, target.clone(), &secret, sequence, delivery).await {
            // The receiver misses the event and the benchmark fails; this says why.
            let _ = writeln!(std::io::stderr(), "lost: {error}");
        }
    }
}

async fn attempt(
    client: &reqwest::Client,
    target: reqwest::Url,
    secret: &SigningSecret,
    sequence: u64,
    Delivery { id, payload }: Delivery,
) -> reqwest::Result<()> {
    let now = now();
    let request = client
        .post(target)
        .header("content-type", "application/json")
        .header("user-agent", "Posthorn/bench")
        .header("webhook-id", id.to_string())
        .header("webhook-timestamp", now.as_seconds().to_string())
        .header("webhook-signature", secret.sign(id, now, &payload))
        .header("posthorn-sequence", sequence.to_string())
        .header("posthorn-attempt", "1")
        .body(payload);
    request.send().await?.error_for_status()?.bytes().await.map(drop)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
