//! Nodes on one database under a load, and what their endpoint saw of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::busyness::Busyness;
use crate::support::server::PROGRAM;
use crate::support::{Backend, Client, Database, Posthorn, Received, Receiver, Reply, eventually};

/// Short, so that a test need not wait for long.
pub(super) const LEASE: Duration = Duration::from_secs(3);
pub(super) const SETTINGS: &[(&str, &str)] = &[("POSTHORN_LEASE_SECONDS", "3")];
pub(super) const SUBSCRIPTIONS: usize = 12;
/// Between two events of one subscription.
const PACE: Duration = Duration::from_millis(20);

pub(super) struct World {
    pub(super) database: Arc<Database>,
    pub(super) nodes: Vec<Posthorn>,
    pub(super) receiver: Receiver,
    pub(super) subscriptions: Vec<String>,
    /// Of the nodes that take events now.
    pub(super) clients: watch::Sender<Vec<Client>>,
    busyness: Busyness,
}

/// What the endpoint saw of a load.
pub(super) struct Seen {
    /// Requests for what had come before.
    pub(super) repeats: usize,
    /// Those of them that came after a later one.
    pub(super) late: usize,
    /// The longest time in which nothing came for a subscription.
    pub(super) silence: Duration,
}

pub(super) struct Load {
    wanted: watch::Sender<bool>,
    writers: JoinSet<(String, i64)>,
}

pub(super) fn path(id: &str) -> String {
    format!("/{id}")
}

impl World {
    pub(super) async fn start(nodes: usize) -> Self {
        Self::start_on(Database::create(Backend::Postgres).await, nodes, SETTINGS).await
    }

    pub(super) async fn start_on(database: Database, nodes: usize, settings: &[(&str, &str)]) -> Self {
        Self::start_program(PROGRAM, database, nodes, settings).await
    }

    /// With nodes of another build, by its path.
    pub(super) async fn start_program(
        program: &str,
        database: Database,
        nodes: usize,
        settings: &[(&str, &str)],
    ) -> Self {
        let database = Arc::new(database);
        let mut world = Self {
            nodes: Vec::new(),
            receiver: Receiver::always(Reply::status(200)).await,
            subscriptions: Vec::new(),
            clients: watch::Sender::default(),
            busyness: Busyness::watch(),
            database,
        };
        for _ in 0..nodes {
            let database = Arc::clone(&world.database);
            world.join(Posthorn::start_program(program, database, settings).await);
        }
        let client = world.nodes[0].client();
        for number in 0..SUBSCRIPTIONS {
            let id = client.subscribe(&world.receiver.url("/"), json!({})).await.id;
            let target =
                json!({"target_url": world.receiver.url(&path(&id)), "description": number.to_string()});
            client.put_json(format!("/subscriptions/{id}"), target).await.expect(200);
            world.subscriptions.push(id);
        }
        world
    }

    /// The load reaches this node as well from now on.
    pub(super) fn join(&mut self, node: Posthorn) {
        self.clients.send_modify(|clients| clients.push(node.client().clone()));
        self.nodes.push(node);
    }

    /// Waits until every node has its share of the slots.
    pub(super) async fn balanced(&self) {
        let (count, nodes) = (
            "SELECT count(*) FROM slots WHERE until_ms > extract(epoch FROM now()) * 1000 GROUP BY owner",
            self.nodes.len(),
        );
        eventually("an even share for each node", async || {
            let shares = self.database.numbers(count).await;
            let (least, most) = (shares.iter().min().copied(), shares.iter().max().copied());
            let even =
                shares.len() == nodes && shares.iter().sum::<i64>() == 256 && most <= least.map(|n| n + 1);
            if even { Ok(()) } else { Err(format!("{shares:?}")) }
        })
        .await;
    }

    /// Fails where something took longer than `limit`, as far as the machine did nothing else.
    pub(super) fn check_within(&self, limit: Duration, what: &str, took: Duration) {
        let allowed = self.busyness.allows(limit);
        assert!(took < allowed, "{what} for {took:?}, and at most {allowed:?} is allowed");
    }

    /// Events for all subscriptions until it is ended.
    pub(super) fn load(&self) -> Load {
        let wanted = watch::Sender::new(true);
        let mut writers = JoinSet::new();
        for (number, id) in self.subscriptions.iter().enumerate() {
            writers.spawn(hand_in(number, id.clone(), wanted.subscribe(), self.clients.subscribe()));
        }
        Load { wanted, writers }
    }

    /// Ends the load, waits for everything that was accepted, and checks its order.
    pub(super) async fn end(&self, load: Load) -> Seen {
        load.wanted.send_replace(false);
        let accepted: BTreeMap<String, i64> = load.writers.join_all().await.into_iter().collect();
        for (id, count) in &accepted {
            let last = |log: &[Received]| {
                log.iter().any(|request| request.path == path(id) && request.sequence() == *count)
            };
            self.receiver.until("the last event of each subscription", last).await;
        }
        let log = self.receiver.requests();
        let (mut repeats, mut late, mut silence) = (0, 0, Duration::ZERO);
        for (id, count) in accepted {
            let arrived = self.arrived(&id);
            let mut reached = 0;
            for sequence in &arrived {
                assert!(*sequence <= reached + 1, "{id}: {sequence} after {reached}");
                late += usize::from(*sequence < reached);
                reached = reached.max(*sequence);
            }
            assert_eq!(reached, count);
            repeats += arrived.len() - usize::try_from(count).unwrap();
            let times: Vec<_> = log.iter().filter(|r| r.path == path(&id)).map(|r| r.opened).collect();
            let gaps = times.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0]));
            silence = silence.max(gaps.max().unwrap_or_default());
        }
        println!("{} requests, {repeats} repeats, {late} late, nothing for {silence:?} at most", log.len());
        Seen { repeats, late, silence }
    }

    pub(super) fn arrived(&self, id: &str) -> Vec<i64> {
        let log = self.receiver.requests();
        log.iter().filter(|request| request.path == path(id)).map(Received::sequence).collect()
    }
}

/// Hands in events for one subscription, each to the next node, until they are accepted.
async fn hand_in(
    number: usize,
    id: String,
    wanted: watch::Receiver<bool>,
    clients: watch::Receiver<Vec<Client>>,
) -> (String, i64) {
    let mut count = 0_i64;
    let mut turn = number;
    while *wanted.borrow() {
        count += 1;
        loop {
            turn += 1;
            let client = {
                let clients = clients.borrow();
                clients[turn % clients.len()].clone()
            };
            let call = client.call(Method::POST, format!("/ingest/{id}"));
            let call = call.header("idempotency-key", format!("{count}")).json(&json!({"n": count}));
            match tokio::time::timeout(Duration::from_secs(2), call.try_send()).await {
                Ok(Some(answer)) if answer.status == 202 => break,
                Ok(Some(answer)) => assert_eq!(answer.status, 503, "{}", answer.json),
                Ok(None) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        tokio::time::sleep(PACE).await;
    }
    (id, count)
}
