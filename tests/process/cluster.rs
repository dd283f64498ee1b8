//! Several nodes on one database behave as one, and any of them may die.
//!
//! The load hands events for strict subscriptions to all nodes in turns, each under an idempotency key until
//! it is accepted. What is checked is what the endpoint saw: everything that was accepted, each subscription's
//! in order and never backwards, how much of it twice, and for how long nothing came.

mod upgrades;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::RngExt as _;
use serde_json::json;

use self::world::{LEASE, SETTINGS, SUBSCRIPTIONS, World, path};
use crate::support::postgres::Server;
use crate::support::proxy::Proxy;
use crate::support::random::seeded;
use crate::support::redis::Redis;
use crate::support::wall_clock::WallClock;
use crate::support::{Backend, Database, Posthorn, Reply, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_share_the_work_and_repeat_nothing() {
    let mut world = World::start(3).await;
    world.balanced().await;
    let load = world.load();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let seen = world.end(load).await;
    assert_eq!((seen.repeats, seen.late), (0, 0));
    world.check_within(Duration::from_secs(1), "nothing came", seen.silence);
    for node in &mut world.nodes {
        assert!(node.terminate().await.success());
    }
    assert_eq!(world.database.number("SELECT count(*) FROM nodes").await, 0);
    assert_eq!(world.database.number("SELECT count(*) FROM slots WHERE owner IS NOT NULL").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_node_had_goes_on_elsewhere() {
    let mut world = World::start(3).await;
    world.balanced().await;
    let load = world.load();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.nodes[1].kill().await;
    world.clients.send_modify(|clients| drop(clients.remove(1)));
    tokio::time::sleep(LEASE + Duration::from_secs(3)).await;
    let seen = world.end(load).await;
    assert_eq!(seen.late, 0);
    world.check_within(LEASE + Duration::from_secs(2), "nothing came", seen.silence);
    assert!(seen.repeats <= SUBSCRIPTIONS, "{} repeats: at most one of each was in flight", seen.repeats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_comes_back_and_changes_nothing() {
    let world = World::start(3).await;
    world.balanced().await;
    // Slow, so that each lane has a request in flight when its node stops.
    world.receiver.answer(|_| Reply::status(200).after(Duration::from_millis(30)));
    let load = world.load();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.nodes[1].signal(Signal::SIGSTOP);
    let all = world.clients.borrow().clone();
    world.clients.send_modify(|clients| drop(clients.remove(1)));
    tokio::time::sleep(LEASE * 3).await;
    world.nodes[1].signal(Signal::SIGCONT);
    world.clients.send_replace(all);
    tokio::time::sleep(Duration::from_secs(2)).await;
    // What stood between the last look at the leases and the network when it stopped may come as late as it
    // likes; it was in flight.
    let seen = world.end(load).await;
    assert!(seen.repeats <= SUBSCRIPTIONS, "{} repeats: at most one of each was in flight", seen.repeats);
    // Of each attempt that counts there is one row, whoever made it.
    let twice =
        "(SELECT delivery_id FROM delivery_attempts GROUP BY delivery_id HAVING count(*) > 1) AS twice";
    world.database.check_none("attempts beside the one that was recorded", twice).await;
    world.balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_is_not_noticed() {
    let mut world = World::start(3).await;
    world.balanced().await;
    let load = world.load();
    for index in 0..world.nodes.len() {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let ended = world.nodes[index].terminate().await;
        assert!(ended.success(), "{ended}");
        world.nodes[index].start_again().await;
        let client = world.nodes[index].client().clone();
        world.clients.send_modify(|clients| clients[index] = client);
        world.balanced().await;
    }
    let seen = world.end(load).await;
    assert_eq!(seen.repeats, 0);
    world.check_within(Duration::from_secs(1), "nothing came", seen.silence);
}

/// Sessions end at random, and then the whole server, as a crash ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_the_database_costs_time_only() {
    let server = Server::start();
    let database = Database::create_on(server.url().parse().unwrap()).await;
    let world = World::start_on(database, 3, SETTINGS).await;
    world.balanced().await;
    let load = world.load();
    let mut random = seeded("sessions that end");
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let end_some = format!(
            "SELECT pg_terminate_backend(pid)::int::bigint FROM (SELECT pid FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() \
             ORDER BY md5(pid::text || '{}') LIMIT 3) AS chosen",
            random.random::<u32>()
        );
        assert!(!world.database.numbers(&end_some).await.is_empty());
    }
    let down = Instant::now();
    server.crash();
    server.come_back();
    let down = down.elapsed();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let seen = world.end(load).await;
    // What was in flight when its outcome could not be written in time.
    assert!(seen.repeats <= SUBSCRIPTIONS, "{} repeats", seen.repeats);
    assert_eq!(seen.late, 0);
    let most = down + LEASE + Duration::from_secs(2);
    assert!(seen.silence < most, "nothing came for {:?}, {down:?} of it without a server", seen.silence);
    world.balanced().await;
}

/// Its connection for notices stands still, open: what others take for it and what they change is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hears_nothing_looks_for_itself() {
    let database = Database::create(Backend::Postgres).await;
    let proxy = Proxy::to(&database.url()).await;
    let through = proxy.through(&database.url());
    let settings = [SETTINGS, &[("DATABASE_LISTEN_URL", through.as_str())]].concat();
    let mut world = World::start_on(database, 1, SETTINGS).await;
    let deaf = Posthorn::start_on(Arc::clone(&world.database), &settings).await;
    world.nodes.push(deaf);
    world.balanced().await;
    let (one, deaf) = (world.nodes[0].client(), world.nodes[1].client());
    let cluster = deaf.get("/cluster").await.expect(200).json;
    let nodes = cluster["nodes"].as_array().unwrap();
    let own = nodes.iter().find(|node| node["id"] == cluster["node"]).unwrap();
    let is_own = |id: &&String| {
        let slot = i64::from_str_radix(&id[34..], 16).unwrap();
        own["slots"].as_array().unwrap().contains(&json!(slot))
    };
    let lanes: Vec<_> = world.subscriptions.iter().filter(is_own).collect();
    assert!(!lanes.is_empty(), "a lane of the other node");
    proxy.cut();
    for id in lanes {
        let began = Instant::now();
        let delivery = one.ingest(id, json!({"n": 1})).await;
        world.receiver.until("the event", |log| log.iter().any(|r| r.delivery_id() == delivery)).await;
        world.check_within(Duration::from_millis(1500), "nothing came", began.elapsed());
        one.post(format!("/subscriptions/{id}/pause")).await.expect(200);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let held = one.ingest(id, json!({"n": 2})).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(world.arrived(id), [1], "{id} is paused");
        one.post(format!("/subscriptions/{id}/resume")).await.expect(200);
        one.delivery_in(&held, "success").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_redis_is_not_noticed() {
    let mut redis = Redis::start().await;
    let url = redis.url();
    let settings = [SETTINGS, &[("REDIS_URL", url.as_str())]].concat();
    let world = World::start_on(Database::create(Backend::Postgres).await, 3, &settings).await;
    world.balanced().await;
    let load = world.load();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        redis.kill().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.come_back().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.signal(Signal::SIGSTOP);
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.signal(Signal::SIGCONT);
    }
    let seen = world.end(load).await;
    assert_eq!((seen.repeats, seen.late), (0, 0));
    world.check_within(Duration::from_secs(1), "nothing came", seen.silence);
}

/// `JOIN=9 cargo test --test process cluster::many` lets as many join as a server of a hundred connections
/// bears when nothing else uses it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_join_at_once_share_evenly() {
    let mut world = World::start(1).await;
    world.balanced().await;
    let database = &world.database;
    let join = std::env::var("JOIN").map_or(4, |text| text.parse().expect("a number"));
    let joined = (0..join).map(|_| Posthorn::start_on(Arc::clone(database), SETTINGS));
    let joined = futures_util::future::join_all(joined);
    world.nodes.extend(joined.await);
    let began = Instant::now();
    world.balanced().await;
    world.check_within(LEASE * 2, "not balanced", began.elapsed());
    let cluster = world.nodes[3].client().get("/cluster").await.expect(200).json;
    let shares =
        cluster["nodes"].as_array().unwrap().iter().map(|node| node["slots"].as_array().unwrap().len());
    let shares: Vec<_> = shares.collect();
    assert_eq!(shares.iter().sum::<usize>(), 256, "{shares:?}");
    let even = 256 / (join + 1);
    assert!(shares.iter().all(|share| [even, even + 1].contains(share)), "{shares:?}");
}

/// Two of three nodes have a clock that is ten minutes off: leases are none of its business, and what they leave to
/// others waits no longer for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_need_not_agree() {
    let (Some(fast), Some(slow)) = (WallClock::new(), WallClock::new()) else { return };
    let settings = [SETTINGS, &[("INITIAL_RETRY_DELAY_SECONDS", "1")]].concat();
    let mut world = World::start_on(Database::create(Backend::Postgres).await, 1, &settings).await;
    for (clock, offset) in [(&fast, 600), (&slow, -600)] {
        clock.set(offset);
        let settings = [settings.as_slice(), &clock.settings()].concat();
        world.join(Posthorn::start_on(Arc::clone(&world.database), &settings).await);
    }
    world.balanced().await;
    let load = world.load();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let seen = world.end(load).await;
    assert_eq!((seen.repeats, seen.late), (0, 0));
    world.check_within(Duration::from_secs(1), "nothing came", seen.silence);

    world.receiver.answer(|request| Reply::status(if request.attempt() == 1 { 500 } else { 200 }));
    let client = world.nodes[0].client().clone();
    let mut waiting = Vec::new();
    for id in &world.subscriptions {
        let delivery = client.ingest(id, json!({"n": 0})).await;
        client.delivery_in(&delivery, "failed_attempt").await;
        waiting.push(delivery);
    }
    for node in &mut world.nodes[1..] {
        node.kill().await;
    }
    let killed = Instant::now();
    for delivery in waiting {
        client.delivery_in(&delivery, "success").await;
    }
    assert!(killed.elapsed() < LEASE + Duration::from_secs(2), "it took {:?}", killed.elapsed());
}

/// What a person changes on one node holds for a lane that runs on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_reach_the_node_that_sends() {
    let world = World::start(2).await;
    world.balanced().await;
    let clients = world.clients.borrow().clone();
    let [one, other] = &clients[..] else { panic!("two nodes") };
    for id in &world.subscriptions {
        one.ingest(id, json!({"n": 1})).await;
        world.receiver.until("the first", |log| log.iter().any(|r| r.path == path(id))).await;
        other.post(format!("/subscriptions/{id}/pause")).await.expect(200);
        // Told with the commit, so the lane knows before long.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let held = one.ingest(id, json!({"n": 2})).await;
        let skipped = other.ingest(id, json!({"n": 3})).await;
        other.post(format!("/deliveries/{skipped}/skip")).await.expect(200);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(world.arrived(id), [1], "{id} is paused");
        one.post(format!("/subscriptions/{id}/resume")).await.expect(200);
        other.delivery_in(&held, "success").await;
        assert_eq!(world.arrived(id), [1, 2]);
        other.delete(format!("/subscriptions/{id}")).await.expect(204);
        assert_eq!(one.get(format!("/subscriptions/{id}")).await.status, 404);
    }
}

crate::support::on_both_databases!(one_node_holds_everything);

async fn one_node_holds_everything(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let cluster = eventually("all slots", async || {
        let cluster = posthorn.client().get("/cluster").await.expect(200).json;
        let slots = cluster["nodes"][0]["slots"].as_array().map(Vec::len);
        if slots == Some(256) { Ok(cluster) } else { Err(cluster.to_string()) }
    })
    .await;
    let [node] = &cluster["nodes"].as_array().unwrap()[..] else { panic!("{cluster}") };
    assert_eq!(node["id"], cluster["node"]);
    assert_eq!((&node["version"], &node["leaving"]), (&json!(env!("CARGO_PKG_VERSION")), &json!(false)));
    assert!(node["heartbeat_age_seconds"].as_f64().unwrap() < 10.0, "{node}");
}
