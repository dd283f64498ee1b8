//! Events that come back to where they were: counted in `Posthorn-Hops`, and ended.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::proxy::Proxy;
use crate::support::server::ADMIN_KEY;
use crate::support::{Answer, Backend, Client, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(hops_travel_and_are_kept, a_loop_ends, the_own_ingest_is_no_target);

const HOPS: &str = "posthorn-hops";

async fn hops_travel_and_are_kept(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let client = posthorn.client().clone();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    for (case, values, status) in [
        ("none", &[][..], 202),
        ("the first", &["0"], 202),
        ("one in between", &["3"], 202),
        ("the last", &["8"], 202),
        ("one too many", &["9"], 422),
        ("very many", &["99999999999999999999"], 422),
        ("no number", &["two"], 400),
        ("less than none", &["-1"], 400),
        ("nothing", &[""], 400),
        ("twice", &["1", "1"], 400),
    ] {
        let answer = ingest(&client, &id, values).await;
        assert_eq!(answer.status, status, "{case}: {}", answer.json);
        if status == 422 {
            assert_eq!(answer.json["type"], "/problems/event-loop", "{case}: {}", answer.json);
        }
    }
    let hops = |received: &[crate::support::Received]| -> Vec<String> {
        received.iter().map(|request| request.header(HOPS).to_owned()).collect()
    };
    assert_eq!(hops(&receiver.ended(4).await), ["1", "1", "4", "9"]);

    // In the database, too.
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let held = ingest(&client, &id, &["5"]).await.expect(202).text("delivery_id");
    posthorn.kill().await;
    posthorn.start_again().await;
    let client = posthorn.client();
    client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
    client.delivery_in(&held, "success").await;
    client.post(format!("/deliveries/{held}/replay")).await.expect(202);
    assert_eq!(hops(&receiver.ended(6).await)[4..], ["6", "6"]);
}

/// Through another system, so that nobody can know it at the creation.
async fn a_loop_ends(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[("WEBHOOK_MAX_RETRIES", "0")]).await;
    let client = posthorn.client();
    let around = Proxy::to(&format!("http://{}", posthorn.address())).await;
    let id = client.subscribe("http://127.0.0.1:9/", json!({})).await.id;
    let target = format!("http://127.0.0.1:{}/ingest/{id}", around.port);
    client.put_json(format!("/subscriptions/{id}"), json!({"target_url": target})).await.expect(200);
    client.ingest(&id, json!("goes round")).await;

    let failed = ended(client, &id, 9, 1).await;
    let attempts = client.attempts(&failed[0]).await;
    assert_eq!((attempts.len(), &attempts[0]["status_code"]), (1, &json!(422)), "{attempts:?}");
    assert!(attempts[0]["response_body"].to_string().contains("/problems/event-loop"), "{attempts:?}");

    // A replay has come as far as what it repeats.
    client.post(format!("/deliveries/{}/replay", failed[0])).await.expect(202);
    ended(client, &id, 10, 2).await;
}

async fn the_own_ingest_is_no_target(backend: Backend) {
    // With a key: without one, names other than localhost are not served.
    let posthorn = Posthorn::start_with(backend, &[(ADMIN_KEY, "4f9c1e77a2b84d03956ed7c81fb2a60e")]).await;
    let client = posthorn.client();
    let port = posthorn.address().port();
    let id = client.subscribe(&format!("http://127.0.0.1:{port}/hook"), json!({})).await.id;
    for host in ["127.0.0.1", "localhost", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        let body = json!({"target_url": format!("http://{host}:{port}/ingest/{id}")});
        // Of some the address is refused already.
        client.post_json("/subscriptions/", body.clone()).await.refuses_field(422, "target_url");
        client.put_json(format!("/subscriptions/{id}"), body).await.refuses_field(422, "target_url");
    }
    let named = json!({"target_url": format!("https://posthorn/ingest/{id}")});
    let call = client.call(Method::POST, "/subscriptions/").header("host", "posthorn").json(&named);
    let answer = call.send().await.refuses_field(422, "target_url");
    assert!(answer.json["detail"].to_string().contains("loop"), "{}", answer.json);
    let elsewhere = json!({"target_url": format!("http://127.0.0.1:9/ingest/{id}")});
    client.put_json(format!("/subscriptions/{id}"), elsewhere).await.expect(200);
}

async fn ingest(client: &Client, id: &str, hops: &[&str]) -> Answer {
    let call = client.call(Method::POST, format!("/ingest/{id}")).json(&json!(1));
    hops.iter().fold(call, |call, value| call.header(HOPS, value)).send().await
}

/// Waits until so many deliveries are there and all of them have ended; those that failed.
async fn ended(client: &Client, id: &str, all: usize, failed: usize) -> Vec<String> {
    eventually("the loop's end", || async {
        let page = client.get(format!("/subscriptions/{id}/deliveries?limit=100")).await.expect(200).json;
        let items = page["items"].as_array().unwrap();
        let with =
            |status: &str| items.iter().filter(|item| item["status"] == status).collect::<Vec<&Value>>();
        if (items.len(), with("failed").len(), with("success").len()) == (all, failed, all - failed) {
            Ok(with("failed").iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect())
        } else {
            Err(page.to_string())
        }
    })
    .await
}
