//! Where deliveries never go: judged when a subscription is made, when it is changed, and again at each connect
//! (P8, I18).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::support::reply::Ending;
use crate::support::server::FAST;
use crate::support::{Backend, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(
    forbidden_addresses_are_refused,
    nothing_opens_a_metadata_service,
    what_is_stored_is_judged_again_at_each_connect,
    errors_do_not_scan_ports,
    answers_lead_nowhere_else,
    proxies_of_the_environment_are_ignored,
    headers_that_could_break_out_are_refused,
);

const NETWORKS: &str = "POSTHORN_ALLOWED_PRIVATE_NETWORKS";

/// Where one address that nobody uses is allowed, and so nothing else that is private.
const STRICT: (&str, &str) = (NETWORKS, "10.255.255.255/32");
const EVERYTHING: (&str, &str) = (NETWORKS, "0.0.0.0/0,::/0");

/// This machine, in every way that a URL may write it.
const THIS_MACHINE: &[&str] = &[
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0x7F000001",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "api.localhost",
    "１２７.０.０.１",
    "127。0。0。1",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
];

/// The first and the last address of each network that is no public one.
const PRIVATE: &[&str] = &[
    "0.0.0.1",
    "0.255.255.255",
    "10.0.0.0",
    "10.255.255.254",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.0",
    "127.255.255.255",
    "169.254.0.0",
    "169.254.255.255",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.0",
    "192.0.0.255",
    "192.0.2.0",
    "192.0.2.255",
    "192.88.99.0",
    "192.88.99.255",
    "192.168.0.0",
    "192.168.255.255",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.0",
    "198.51.100.255",
    "203.0.113.0",
    "203.0.113.255",
    "224.0.0.0",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.255",
    "[::2]",
    "[::127.0.0.1]",
    "[::8.8.8.8]",
    "[::ffff:8.8.8.8]",
    "[::ffff:10.0.0.1]",
    "[64:ff9b::8.8.8.8]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::8.8.8.8]",
    "[100::1]",
    "[1fff:ffff::1]",
    "[2001::1]",
    "[2001:1ff:ffff::1]",
    "[2001:db8::1]",
    "[2002:808:808::1]",
    "[2002:7f00:1::1]",
    "[3fff::1]",
    "[3fff:fff::1]",
    "[4000::1]",
    "[5f00::1]",
    "[fc00::1]",
    "[fdff:ffff::1]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[febf::1]",
    "[fec0::1]",
    "[ff00::1]",
    "[ff02::1]",
];

/// Where clouds hand out credentials.
const METADATA: &[&str] = &[
    "169.254.169.254",
    "0xa9fea9fe",
    "169.254.170.2",
    "169.254.170.23",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "[fd00:ec2::254]",
    "[fd00:ec2::23]",
    "[fd20:ce::254]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[64:ff9b:1:0:a9:fea9:fe00:0]",
    "[64:ff9b:1:a9:fe:a9fe::]",
    "[64:ff9b:1:a9fe:a9:fe00::]",
    "[2002:a9fe:a9fe::1]",
];

async fn forbidden_addresses_are_refused(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[STRICT]).await;
    let client = posthorn.client();
    let id = client.subscribe("http://10.255.255.255/", json!({})).await.id;
    let own = posthorn.address().to_string();
    for host in [THIS_MACHINE, PRIVATE, METADATA, &[own.as_str()]].concat() {
        let body = json!({"target_url": format!("http://{host}/")});
        client.post_json("/subscriptions/", body.clone()).await.refuses_field(422, "target_url");
        client.put_json(format!("/subscriptions/{id}"), body).await.refuses_field(422, "target_url");
    }
    for host in ["1.1.1.1", "[2606:4700::1111]", "example.com"] {
        client.subscribe(&format!("https://{host}/"), json!({})).await;
    }
}

async fn nothing_opens_a_metadata_service(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[EVERYTHING]).await;
    let client = posthorn.client();
    let id = client.subscribe("http://169.254.169.253/", json!({})).await.id;
    for host in METADATA {
        let body = json!({"target_url": format!("http://{host}/")});
        client.post_json("/subscriptions/", body.clone()).await.refuses_field(422, "target_url");
        client.put_json(format!("/subscriptions/{id}"), body).await.refuses_field(422, "target_url");
    }
}

/// A port that counts who connects, over IPv4 and IPv6.
async fn counting() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("[::]:0").await.expect("a free port");
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    (port, count)
}

/// Subscriptions that were made while everything was allowed, and are no longer.
async fn what_is_stored_is_judged_again_at_each_connect(backend: Backend) {
    let settings = [FAST, &[EVERYTHING, ("WEBHOOK_MAX_RETRIES", "0")]].concat();
    let mut posthorn = Posthorn::start_with(backend, &settings).await;
    let (port, connections) = counting().await;
    let mut ids = Vec::new();
    for host in THIS_MACHINE {
        ids.push(posthorn.client().subscribe(&format!("http://{host}:{port}/"), json!({})).await.id);
    }
    for id in &ids {
        failed(&posthorn, id).await;
    }
    assert!(connections.load(Ordering::SeqCst) >= ids.len(), "all of them lead there");

    posthorn.restart_with(&[STRICT]).await;
    connections.store(0, Ordering::SeqCst);
    for (id, host) in ids.iter().zip(THIS_MACHINE) {
        let attempt = failed(&posthorn, id).await;
        assert_eq!(attempt["error_message"], "forbidden address", "{host}: {attempt}");
    }
    // Connections wait in a queue that is in order: this one is counted last.
    TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    eventually("the test's own connection", async || match connections.load(Ordering::SeqCst) {
        0 => Err("none".to_owned()),
        count => {
            assert_eq!(count, 1, "nobody else connected");
            Ok(())
        }
    })
    .await;
}

/// The only attempt of an event for the subscription, which fails.
async fn failed(posthorn: &Posthorn, id: &str) -> Value {
    let client = posthorn.client();
    let delivery = client.ingest(id, json!(1)).await;
    client.delivery_in(&delivery, "failed").await;
    client.attempts(&delivery).await.remove(0)
}

/// What somebody learns of ports behind a guard that forbids them: nothing, not even whether they are open. Where
/// they are allowed, the kind of failure and no more.
async fn errors_do_not_scan_ports(backend: Backend) {
    let settings = [FAST, &[EVERYTHING, ("WEBHOOK_MAX_RETRIES", "0")]].concat();
    let mut posthorn = Posthorn::start_with(backend, &settings).await;
    let (open, _) = counting().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let own = posthorn.address().port();
    let mut ids = Vec::new();
    for (port, error) in [
        (open, "connection closed without an answer"),
        (closed, "connection refused"),
        (own, "unexpected status 405"),
    ] {
        let target = format!("http://127.0.0.1:{port}/subscriptions/{}", uuid::Uuid::nil());
        let id = posthorn.client().subscribe(&target, json!({})).await.id;
        posthorn.client().post(format!("/subscriptions/{id}/test")).await.expect(202);
        let attempt = failed(&posthorn, &id).await;
        // Closing with bytes unread may reset.
        let either = [error, "connection reset"].contains(&attempt["error_message"].as_str().unwrap());
        assert!(either, "{attempt}");
        ids.push(id);
    }
    posthorn.restart_with(&[STRICT]).await;
    for id in &ids {
        posthorn.client().post(format!("/subscriptions/{id}/test")).await.expect(202);
        let attempt = failed(&posthorn, id).await;
        assert_eq!(attempt["error_message"], "forbidden address", "{attempt}");
        assert_eq!((&attempt["status_code"], &attempt["response_body"]), (&Value::Null, &Value::Null));
    }
}

async fn answers_lead_nowhere_else(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let elsewhere = Receiver::always(Reply::status(200)).await;
    let away = elsewhere.url("/");
    let authority = away.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let replies = [301, 302, 303, 307, 308, 401, 500, 200].map(|status| {
        let head = format!(
            "HTTP/1.1 {status} Elsewhere\r\nlocation: {away}\r\ncontent-location: {away}\r\nrefresh: 0; url={away}\r\n\
             link: <{away}>; rel=preload\r\nalt-svc: http/1.1=\"{authority}\"; ma=60, h2=\"{authority}\"\r\n\
             content-length: 0\r\n\r\n"
        );
        Reply::raw(head.as_bytes(), Ending::KeepAlive)
    });
    let receiver = Receiver::script(replies).await;
    let id = client.subscribe(&receiver.url("/"), json!({"retry": {"max_retries": 10}})).await.id;
    let led_away = client.ingest(&id, json!(1)).await;
    client.delivery_in(&led_away, "success").await;
    let after = client.ingest(&id, json!(2)).await;
    client.delivery_in(&after, "success").await;
    assert_eq!((receiver.requests().len(), elsewhere.connections()), (9, 0));
}

async fn proxies_of_the_environment_are_ignored(backend: Backend) {
    let proxy = Receiver::always(Reply::status(200)).await;
    let url = proxy.url("");
    let names = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    let settings: Vec<_> = names.iter().map(|name| (*name, url.as_str())).collect();
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    let delivery = posthorn.client().ingest(&id, json!(1)).await;
    posthorn.client().delivery_in(&delivery, "success").await;
    assert_eq!((receiver.connections(), proxy.connections()), (1, 0));
}

async fn headers_that_could_break_out_are_refused(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let target = "http://127.0.0.1:9/hook";
    let id = client.subscribe(target, json!({})).await.id;
    let many = |count: usize, bytes: usize| {
        let headers = (0..count).map(|index| (format!("x-{index}"), json!("v".repeat(bytes))));
        Value::Object(headers.collect())
    };
    let mut cases = vec![many(33, 1), many(200, 1), many(1, 4097), many(1, 64 * 1024)];
    for text in
        ["a\r\nx-b: 1", "a\nb", "a\rb", "\r\n\r\nGET / HTTP/1.1", "a\0b", "\0", "a\u{1b}[31m", "a\u{7f}", "é"]
    {
        cases.push(json!({"x-a": text}));
        cases.push(json!({format!("x-a{text}"): "1"}));
    }
    for name in [
        "host",
        "connection",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "content-length",
        "content-type",
        "content-encoding",
        "user-agent",
        "webhook_signature",
        "Webhook_ID",
        "webhook.timestamp",
        "posthorn_sequence",
        "content_length",
        "transfer_encoding",
        "keep_alive",
        "x_webhook_signature_256",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
        "posthorn-sequence",
        "x-webhook-signature-256",
    ] {
        let mixed = |(index, c): (usize, char)| if index % 2 == 0 { c.to_ascii_uppercase() } else { c };
        let mixed: String = name.char_indices().map(mixed).collect();
        cases.extend([name, &name.to_uppercase(), &mixed].map(|name| json!({name: "1"})));
    }
    for name in ["", " ", ":", ":path", "a b", "a:", "a,b", "x-a "] {
        cases.push(json!({name: "1"}));
    }
    cases.push(json!({"x-a": "1", "X-A": "2"}));
    for headers in cases {
        let body = json!({"target_url": target, "headers": headers});
        for answer in [
            client.post_json("/subscriptions/", body.clone()).await,
            client.put_json(format!("/subscriptions/{id}"), body).await,
        ] {
            let answer = answer.expect(422);
            let errors = answer.json["errors"].as_array().unwrap();
            let pointed =
                errors.iter().all(|error| error["pointer"].as_str().unwrap().starts_with("/headers"));
            assert!(pointed && !errors.is_empty(), "{headers:.200}: {}", answer.json);
        }
    }
    client.subscribe(target, json!({"headers": many(32, 4096)})).await;
}
