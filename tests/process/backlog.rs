//! A backlog has an end: what is beyond it is refused, and taken again once there is room.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Backend, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(
    a_full_backlog_refuses,
    simultaneous_events_do_not_overfill,
    a_backlog_that_ends_is_no_backlog
);

async fn a_full_backlog_refuses(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, &[("POSTHORN_MAX_BACKLOG", "5")]).await;
    let client = posthorn.client().clone();
    let receiver = Receiver::always(Reply::status(200)).await;
    let (id, other) = (
        client.subscribe(&receiver.url("/a"), json!({})).await.id,
        client.subscribe(&receiver.url("/b"), json!({})).await.id,
    );
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let mut deliveries = Vec::new();
    for index in 0..5 {
        deliveries.push(client.ingest(&id, json!(index)).await);
    }
    for path in [format!("/ingest/{id}"), format!("/subscriptions/{id}/test")] {
        let refused = client.post_json(path, json!(5)).await.expect(429);
        assert_eq!(refused.text("type"), "/problems/backlog-full");
        assert!(refused.text("detail").contains("POSTHORN_MAX_BACKLOG"), "{:?}", refused.json);
        assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    let refused = client.post(format!("/deliveries/{}/replay", deliveries[0])).await.expect(429);
    assert_eq!(refused.text("type"), "/problems/backlog-full");
    client.ingest(&other, json!("others have room")).await;

    posthorn.kill().await;
    posthorn.start_again().await;
    let client = posthorn.client();
    client.post_json(format!("/ingest/{id}"), json!(5)).await.expect(429);
    client.post(format!("/deliveries/{}/skip", deliveries[0])).await.expect(200);
    deliveries[0] = client.ingest(&id, json!("in the place of the one that was skipped")).await;
    client.post_json(format!("/ingest/{id}"), json!(5)).await.expect(429);
    client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
    for delivery in &deliveries {
        client.delivery_in(delivery, "success").await;
    }
    let replay = client.post(format!("/deliveries/{}/replay", deliveries[0])).await.expect(202);
    client.delivery_in(&replay.text("delivery_id"), "success").await;
    let sequences: Vec<_> =
        receiver.requests_at("/a").iter().map(crate::support::Received::sequence).collect();
    assert_eq!(sequences, [2, 3, 4, 5, 6, 7], "what was refused leaves no gap");
}

async fn simultaneous_events_do_not_overfill(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[("POSTHORN_MAX_BACKLOG", "50")]).await;
    let client = posthorn.client();
    let id = client.subscribe("http://127.0.0.1:9/", json!({})).await.id;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let posts = (0..200).map(|index| client.post_json(format!("/ingest/{id}"), json!(index)));
    let answers = join_all(posts).await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(accepted, 50, "as many as there is room for, and not one more");
    assert!(answers.iter().all(|answer| [202, 429].contains(&answer.status)));
}

/// Far more events than the limit, but never more than that at once.
async fn a_backlog_that_ends_is_no_backlog(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[("POSTHORN_MAX_BACKLOG", "8")]).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    for round in 0..10 {
        let mut last = String::new();
        for index in 0..8 {
            last = client.ingest(&id, json!([round, index])).await;
        }
        client.delivery_in(&last, "success").await;
    }
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    for index in 0..8 {
        client.ingest(&id, json!(index)).await;
    }
    client.post_json(format!("/ingest/{id}"), json!(8)).await.expect(429);
    client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
    eventually("there is room again", async || {
        let answer = client.post_json(format!("/ingest/{id}"), json!(8)).await;
        if answer.status == 202 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    receiver.ended(89).await;
}
