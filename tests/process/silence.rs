//! Connections and sessions that die without being closed, which no error ever tells of: everything that waits for them
//! is got over within seconds, and what was promised of pauses and slots holds meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::database_faults::Line;
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::Server;
use crate::support::proxy::Proxy;
use crate::support::{Backend, Client, Database, Posthorn, Receiver, Reply, eventually, left_out, within};

const LEASE: Duration = Duration::from_secs(3);
const SETTINGS: &[(&str, &str)] = &[("POSTHORN_LEASE_SECONDS", "3")];
/// What accepting an event may cost.
const ACCEPTING: Duration = Duration::from_secs(3);
/// What a lane may cost, from the 202 to receipt.
const LANE: Duration = LEASE.saturating_add(Duration::from_secs(3));
/// After the end of a fault.
const GOES_ON: Duration = Duration::from_secs(5);
/// For a busy machine.
const SLACK: Duration = Duration::from_millis(500);

/// What is done to the way to PostgreSQL.
type Act = fn(&Proxy);

/// A node whose way to PostgreSQL is through a proxy.
async fn through_a_proxy(settings: &[(&str, &str)]) -> (Arc<Database>, Proxy, Posthorn) {
    let database = Arc::new(Database::create(Backend::Postgres).await);
    let (proxy, node) = beside(&database, settings).await;
    (database, proxy, node)
}

async fn beside(database: &Arc<Database>, settings: &[(&str, &str)]) -> (Proxy, Posthorn) {
    let proxy = Proxy::to(&database.url()).await;
    let through = proxy.through(&database.url());
    let settings = [settings, &[("DATABASE_URL", through.as_str())]].concat();
    let node = Posthorn::start_on(Arc::clone(database), &settings).await;
    (proxy, node)
}

/// So many more nodes, straight at the database.
async fn others(database: &Arc<Database>, count: usize, settings: &[(&str, &str)]) -> Vec<Posthorn> {
    join_all((0..count).map(|_| Posthorn::start_on(Arc::clone(database), settings))).await
}

/// Waits until each of so many nodes has its share of the slots.
async fn shared_by(nodes: usize, node: &Posthorn) {
    eventually("each has its share", async || {
        let cluster = node.client().get("/cluster").await.json;
        let shown = cluster["nodes"].as_array().unwrap().iter();
        let slots: Vec<_> = shown.map(|node| node["slots"].as_array().unwrap().len()).collect();
        if slots.len() == nodes && slots.iter().all(|held| *held >= 256 / nodes) {
            Ok(())
        } else {
            Err(cluster.to_string())
        }
    })
    .await;
}

/// One event is accepted and received within what a silent connection may cost.
async fn goes_through(line: &Line, what: &str) {
    let (seen, began) = (line.receiver.requests().len(), Instant::now());
    let accepted = line.ingest().await;
    let took = began.elapsed();
    assert_eq!(accepted.status, 202, "{what}: {}", accepted.json);
    assert!(took < ACCEPTING + SLACK, "{what}: accepted after {took:?}");
    within(LANE + SLACK, what, line.receiver.arrived(seen + 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_die_without_a_word_cost_seconds() {
    let (_database, proxy, posthorn) = through_a_proxy(SETTINGS).await;
    let line = Line::start(&posthorn).await;
    line.accepted(3).await;
    for round in 0..3 {
        proxy.forget();
        let began = Instant::now();
        goes_through(&line, "all of them").await;
        println!("round {round}: all of them cost {:?}", began.elapsed());
    }
    // Each of those that there are by now, whatever it is for.
    let mut tried = 0;
    for number in 0..proxy.made() {
        proxy.forget_one(number);
        goes_through(&line, "one of them").await;
        tried += 1;
    }
    assert!(tried > 5, "{tried} connections");
    eventually("readiness", async || {
        let answer = line.client.get("/health/ready").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.json.to_string()) }
    })
    .await;
    line.in_order();
}

/// Nothing comes through for a while, in either direction or in one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_without_a_word_is_told_once_and_got_over() {
    for direction in ["both", "answers"] {
        let (_database, proxy, posthorn) = through_a_proxy(SETTINGS).await;
        let line = Line::start(&posthorn).await;
        line.accepted(3).await;
        if direction == "both" {
            proxy.cut();
        } else {
            proxy.swallow_answers();
        }
        let began = Instant::now();
        eventually("readiness tells", async || {
            let answer = line.client.get("/health/ready").await;
            if answer.status == 503 { Ok(()) } else { Err(answer.json.to_string()) }
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(5), "{direction}: told after {:?}", began.elapsed());
        line.client.get("/health").await.expect(200);
        tokio::time::sleep(Duration::from_secs(5)).await;
        proxy.heal();
        let healed = Instant::now();
        line.accepted(1).await;
        line.client
            .put_json(format!("/subscriptions/{}", line.id), json!({"description": "new"}))
            .await
            .expect(200);
        eventually("readiness", async || {
            let answer = line.client.get("/health/ready").await;
            if answer.status == 200 { Ok(()) } else { Err(answer.json.to_string()) }
        })
        .await;
        println!("{direction}: went on {:?} after the end", healed.elapsed());
        assert!(
            healed.elapsed() < GOES_ON + SLACK,
            "{direction}: went on {:?} after the end",
            healed.elapsed()
        );
        let log = posthorn.log();
        let count = |words: &str| log.iter().filter(|line| line.contains(words)).count();
        assert_eq!(count("the database does not answer"), 1, "{direction}: {log:#?}");
        assert_eq!(count("the database answers again"), 1, "{direction}: {log:#?}");
        line.in_order();
    }
}

/// The same with two other nodes, and with subscriptions that any of the three sends for: events that are handed in at the
/// node that is struck, and at another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_nodes_is_struck() {
    let (database, proxy, struck) = through_a_proxy(SETTINGS).await;
    let others = others(&database, 2, SETTINGS).await;
    shared_by(3, &struck).await;
    let mut lines = Vec::new();
    for number in 0..12 {
        let node = if number % 2 == 0 { &struck } else { &others[0] };
        lines.push(Line::start(node).await);
    }
    for line in &lines {
        line.accepted(1).await;
    }
    let all_go_through = async |what: &str| {
        join_all(lines.iter().map(|line| goes_through(line, what))).await;
    };
    for _ in 0..2 {
        proxy.forget();
        all_go_through("all of one node's").await;
    }
    for number in 0..proxy.made() {
        proxy.forget_one(number);
        goes_through(&lines[0], "one of one node's").await;
    }
    // For longer than its lease: the others send for what was its own.
    let faults: [(&str, Act, Act); 4] = [
        ("cut off", Proxy::cut, Proxy::heal),
        ("without answers", Proxy::swallow_answers, Proxy::heal),
        ("without answers, and broken off", Proxy::swallow_answers, Proxy::break_off),
        ("late", Proxy::freeze, Proxy::thaw),
    ];
    for (fault, begin, end) in faults {
        shared_by(3, &others[0]).await;
        begin(&proxy);
        // Those with an odd number are handed in at another.
        join_all(lines.iter().skip(1).step_by(2).map(|line| goes_through(line, fault))).await;
        struck.client().get("/health/ready").await.expect(503);
        tokio::time::sleep(LEASE).await;
        // What is handed in at the struck one meanwhile is stored as soon as it can be: maybe before that node has noticed
        // that its slots are another's.
        let handing_in = join_all(lines.iter().step_by(2).map(Line::ingest));
        let ending = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            end(&proxy);
            Instant::now()
        };
        let (answers, ended) = tokio::join!(handing_in, ending);
        for (line, answer) in lines.iter().step_by(2).zip(&answers) {
            if answer.status == 202 {
                line.delivered(answer).await;
            }
        }
        for line in &lines {
            line.accepted(1).await;
        }
        assert!(ended.elapsed() < GOES_ON + SLACK, "{fault}: went on {:?} after the end", ended.elapsed());
    }
    for line in &lines {
        line.in_order();
    }
}

/// Through a pooler, with connections that are silent before it, and broken before it or behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_stands_between() {
    for behind in [false, true] {
        let database = Arc::new(Database::create(Backend::Postgres).await);
        // Posthorn, then a proxy, PgBouncer, another proxy, and PostgreSQL.
        let inner = Proxy::to(&database.url()).await;
        let Some(pooler) = PgBouncer::before(&inner.through(&database.url())) else {
            return left_out("pgbouncer");
        };
        let outer = Proxy::to(&pooler.through(&database.url())).await;
        let (through, direct) = (outer.through(&database.url()), database.url());
        let settings = [
            ("POSTHORN_LEASE_SECONDS", "3"),
            ("DATABASE_URL", through.as_str()),
            ("DATABASE_LISTEN_URL", direct.as_str()),
        ];
        let posthorn = Posthorn::start_on(Arc::clone(&database), &settings).await;
        let line = Line::start(&posthorn).await;
        line.accepted(3).await;
        let proxy = if behind { &inner } else { &outer };
        if !behind {
            // Those behind it are the pooler's: it hands them out one after the other until each was tried.
            for _ in 0..3 {
                proxy.forget();
                let began = Instant::now();
                goes_through(&line, "all of them").await;
                println!("all of them cost {:?}", began.elapsed());
            }
        }
        // Broken in the middle of commits: whatever was accepted arrives, and what was said not to be stored is not.
        let breaking = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                proxy.break_off();
            }
        };
        let handing_in = async {
            let mut certain = 0;
            for _ in 0..100 {
                let answer = line.ingest().await;
                certain += usize::from(answer.status == 202);
                let kind = answer.json["type"].as_str().unwrap_or_default();
                let kinds = ["/problems/outcome-unknown", "/problems/store-unavailable"];
                assert!(answer.status == 202 || kinds.contains(&kind), "{}", answer.json);
            }
            certain
        };
        let ((), certain) = tokio::join!(breaking, handing_in);
        assert!(certain > 0);
        line.accepted(1).await;
        let stored = database.number("SELECT count(*) FROM webhook_deliveries").await;
        eventually("all that is stored arrives", async || {
            let left = database.number("SELECT count(*) FROM webhook_deliveries WHERE status <> 3").await;
            if left == 0 { Ok(()) } else { Err(format!("{left} of {stored} are left")) }
        })
        .await;
        line.in_order();
    }
}

/// Sessions that a standby or a setting left unable to write are not used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_only_read_are_replaced() {
    for nodes in [1, 3] {
        only_read(nodes).await;
    }
}

async fn only_read(nodes: usize) {
    let server = Server::start();
    let database = Arc::new(Database::create_on(server.url().parse().unwrap()).await);
    let posthorn = Posthorn::start_on(Arc::clone(&database), SETTINGS).await;
    let _others = others(&database, nodes - 1, SETTINGS).await;
    shared_by(nodes, &posthorn).await;
    let line = Line::start(&posthorn).await;
    line.accepted(3).await;
    let name = database.url().rsplit_once('/').unwrap().1.to_owned();
    let set = |on: &str| {
        format!("BEGIN READ WRITE; ALTER DATABASE {name} SET default_transaction_read_only = {on}; COMMIT")
    };
    database.execute(&set("on")).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    database.number(end).await;
    eventually("readiness tells", async || {
        let answer = line.client.get("/health/ready").await;
        if answer.status == 503 { Ok(()) } else { Err(answer.json.to_string()) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The sessions of before stay as they are: only new ones can write.
    database.execute(&set("off")).await;
    let began = Instant::now();
    line.accepted(1).await;
    let path = format!("/subscriptions/{}", line.id);
    // The first may find a session that is left, which nobody has tried since.
    eventually("a change", async || {
        let answer = line.client.put_json(path.clone(), json!({"description": "written"})).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.json.to_string()) }
    })
    .await;
    line.client.get("/health/ready").await.expect(200);
    assert!(began.elapsed() < GOES_ON, "it took {:?}", began.elapsed());
    line.in_order();
}

/// The commit goes through, its answer is lost for longer than its client waits, and nobody asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_unheard_is_sent() {
    for (asks_again, nodes) in [(true, 1), (false, 1), (true, 3), (false, 3)] {
        let (database, proxy, posthorn) = through_a_proxy(SETTINGS).await;
        let _others = others(&database, nodes - 1, SETTINGS).await;
        shared_by(nodes, &posthorn).await;
        let line = Line::start(&posthorn).await;
        line.accepted(3).await;
        let other = Line::start(&posthorn).await;
        let path = format!("/ingest/{}", line.id);
        let ingest = async |client: &Client| {
            let call = client.call(reqwest::Method::POST, path.clone()).header("idempotency-key", "once");
            call.json(&json!({"n": 4})).send().await
        };
        // What gets lost may be an answer before the commit's.
        let mut rows: i64 = 3;
        let answer = loop {
            line.accepted(1).await;
            rows += 1;
            proxy.swallow_answers();
            let asked = ingest(&line.client).await;
            if database.number("SELECT count(*) FROM webhook_deliveries").await > rows {
                break asked;
            }
            proxy.break_off();
        };
        assert_eq!((answer.status, answer.text("type").as_str()), (503, "/problems/outcome-unknown"));
        rows += 1;
        proxy.break_off();
        let healed = Instant::now();
        if asks_again {
            eventually("the same event", async || {
                let again = ingest(&line.client).await;
                if again.status == 202 { Ok(()) } else { Err(again.json.to_string()) }
            })
            .await;
        } else {
            other.accepted(1).await;
        }
        line.receiver.arrived(usize::try_from(rows).unwrap()).await;
        let sent = healed.elapsed();
        assert!(sent < GOES_ON, "asks again: {asks_again}, {nodes} nodes: sent after {sent:?}");
        let stored = database.number("SELECT count(*) FROM events").await;
        assert_eq!(stored, rows + i64::from(!asks_again), "once");
        line.in_order();
    }
}

/// A node vanishes in the middle of a transaction that holds slots: another takes all of them over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_of_a_node_that_vanished_are_given_up() {
    for taking_over in [1, 2] {
        vanishes(taking_over).await;
    }
}

async fn vanishes(taking_over: usize) {
    let often = [
        ("POSTHORN_LEASE_SECONDS", "3"),
        ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "1000"),
        ("INITIAL_RETRY_DELAY_SECONDS", "0.005"),
        ("MAX_RETRY_BACKOFF_SECONDS", "0.02"),
        ("WEBHOOK_MAX_RETRIES", "50"),
    ];
    let (database, proxy, mut gone) = through_a_proxy(&often).await;
    let dead = gone.client().get("/cluster").await.expect(200).text("node");
    // Failures change the lane's health, for which it takes a transaction of several statements.
    let receiver = Receiver::always(Reply::status(500)).await;
    let url = receiver.url("/");
    let subscribing = (0..40).map(|_| gone.client().subscribe(&url, json!({})));
    for subscribed in join_all(subscribing).await {
        gone.client().ingest(&subscribed.id, json!(1)).await;
    }
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
                AND state = 'idle in transaction'";
    let mut caught = false;
    for _ in 0..300 {
        proxy.freeze();
        tokio::time::sleep(Duration::from_millis(20)).await;
        caught = database.number(idle).await > 0;
        if caught {
            break;
        }
        proxy.thaw();
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    assert!(caught, "it was never in the middle of a transaction");
    proxy.forget();
    gone.kill().await;
    let began = Instant::now();
    let others = others(&database, taking_over, SETTINGS).await;
    let owned = format!(
        "SELECT count(*) FROM slots WHERE until_ms > extract(epoch FROM now()) * 1000 AND owner <> '{dead}'"
    );
    eventually("all slots are taken", async || {
        let count = database.number(&owned).await;
        if count == 256 { Ok(()) } else { Err(format!("{count} are")) }
    })
    .await;
    println!("all slots were taken after {:?}", began.elapsed());
    assert!(began.elapsed() < LANE + Duration::from_secs(1), "it took {:?}", began.elapsed());
    others[0].client().get("/health/ready").await.expect(200);
}

/// Somebody holds rows of slots that nobody holds: that is told in the log, by readiness, and of each delivery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_cannot_be_taken_are_told_of() {
    let database = Arc::new(Database::create(Backend::Postgres).await);
    let mut first = Posthorn::start_on(Arc::clone(&database), SETTINGS).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = first.client().subscribe(&receiver.url("/"), json!({})).await.id;
    let slot = i64::from_str_radix(&id[34..], 16).unwrap();
    let mut holder = PgConnection::connect(&database.url()).await.unwrap();
    first.kill().await;
    holder
        .execute(&*format!("BEGIN; SELECT FROM posthorn.slots WHERE slot = {slot} FOR UPDATE"))
        .await
        .unwrap();
    let second = Posthorn::start_on(Arc::clone(&database), SETTINGS).await;
    let client = second.client();
    let delivery = client.ingest(&id, json!(1)).await;
    eventually("readiness tells", async || {
        let answer = client.get("/health/ready").await;
        if answer.status == 503 { Ok(answer) } else { Err(answer.json.to_string()) }
    })
    .await;
    let waiting = client.get(format!("/deliveries/{delivery}")).await.expect(200).json["waiting_for"].clone();
    assert_eq!(waiting["reason"], "no_owner", "{waiting}");
    let nobodys = client.get("/cluster").await.expect(200).json["slots_without_node"].clone();
    assert_eq!(nobodys, json!([slot]));
    assert!(
        second.log().iter().any(|line| line.contains("no node holds cannot be taken")),
        "{:#?}",
        second.log()
    );
    holder.execute("ROLLBACK").await.unwrap();
    within(GOES_ON, "the delivery", receiver.arrived(1)).await;
    client.get("/health/ready").await.expect(200);
}

/// The node that sends is cut off from the database, in silence: what is paused or deleted elsewhere holds all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_at_a_node_that_is_cut_off() {
    const SUBSCRIPTIONS: usize = 6;
    // A long lease, so that it is not this that ends the requests.
    let (database, proxy, cut_off) = through_a_proxy(&[("POSTHORN_LEASE_SECONDS", "30")]).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let fields = json!({
        "ordering": "none", "max_in_flight": 200, "rate_limit": {"requests_per_second": 20, "burst": 1}
    });
    let mut ids = Vec::new();
    for _ in 0..SUBSCRIPTIONS {
        ids.push(cut_off.client().subscribe(&receiver.url("/"), fields.clone()).await.id);
    }
    // On it, so that it has their payloads in memory, and all slots.
    for id in &ids {
        join_all((0..250).map(|n| cut_off.client().ingest(id, json!(n)))).await;
    }
    let settings = [("POSTHORN_LEASE_SECONDS", "30")];
    let other = Posthorn::start_on(Arc::clone(&database), &settings).await;
    let shares = "SELECT count(*) FROM slots WHERE owner IS NOT NULL GROUP BY owner ORDER BY 1";
    eventually("two shares", async || {
        let shares = database.numbers(shares).await;
        if shares == [128, 128] { Ok(()) } else { Err(format!("{shares:?}")) }
    })
    .await;
    let seen = receiver.requests().len();
    receiver.arrived(seen + 20).await;
    proxy.cut();
    for (index, id) in ids.iter().enumerate() {
        let client = other.client();
        match index % 3 {
            0 => client.post(format!("/subscriptions/{id}/pause")).await.expect(200),
            1 => client
                .put_json(format!("/subscriptions/{id}"), json!({"target_url": "http://127.0.0.1:9/"}))
                .await
                .expect(200),
            _ => client.delete(format!("/subscriptions/{id}")).await.expect(204),
        };
    }
    let answered = Instant::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let late: Vec<_> = receiver
        .requests()
        .into_iter()
        .map(|request| request.opened.saturating_duration_since(answered))
        .filter(|late| *late > Duration::from_secs(1))
        .collect();
    assert!(
        late.is_empty(),
        "{} requests began too late, the last {:?} after the answer",
        late.len(),
        late.last()
    );
    proxy.heal();
}

/// The connection for notices dies without a word, and a new one could be had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_for_notices_that_died_is_replaced() {
    let database = Arc::new(Database::create(Backend::Postgres).await);
    let proxy = Proxy::to(&database.url()).await;
    let through = proxy.through(&database.url());
    let settings = [SETTINGS, &[("DATABASE_LISTEN_URL", through.as_str())]].concat();
    let hearing = Posthorn::start_on(Arc::clone(&database), &settings).await;
    let _other = Posthorn::start_on(Arc::clone(&database), SETTINGS).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.forget();
    let began = Instant::now();
    eventually("it hears again", async || {
        let log = hearing.log();
        let at = |words: &str| log.iter().position(|line| line.contains(words));
        let again = at("do not come through").zip(at("are heard again"));
        if again.is_some_and(|(lost, again)| lost < again) { Ok(()) } else { Err(format!("{log:#?}")) }
    })
    .await;
    println!("it heard again after {:?}", began.elapsed());
    assert!(began.elapsed() < GOES_ON, "it took {:?}", began.elapsed());
}

/// A start finds no database, waits, and serves once there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_its_database() {
    let server = Server::start();
    let database = Arc::new(Database::create_on(server.url().parse().unwrap()).await);
    server.crash();
    let starting = Posthorn::start_on(Arc::clone(&database), &[]);
    let (posthorn, ()) = tokio::join!(starting, async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        server.come_back();
    });
    Line::start(&posthorn).await.accepted(1).await;
    let told = posthorn.log().iter().filter(|line| line.contains("waiting for the database")).count();
    assert_eq!(told, 1, "{:#?}", posthorn.log());
}
