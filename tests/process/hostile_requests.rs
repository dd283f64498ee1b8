//! What clients send to bring a server down, or to make it read one request as two: bounded, refused, or taken as
//! what it is (P10).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::open_circuits::memory;
use crate::support::client::percent_encoded;
use crate::support::signature::sha256_signature;
use crate::support::{
    Backend, Client, Gate, Posthorn, Receiver, Reply, eventually, on_both_databases, within,
};

on_both_databases!(
    lengths_are_not_believed,
    one_request_is_never_two,
    control_characters_are_refused_everywhere,
    wildcards_mean_themselves,
    many_keys_and_tenants_cost_little,
);

/// Nothing listens there.
const TARGET: &str = "http://127.0.0.1:9/hook";
const MEBIBYTE: u64 = 1024 * 1024;

/// What would mean something to SQL, to a pattern or to a template.
const WILD: &[&str] =
    &["%", "_", "a%", "\\", "'", "' OR 1=1--", "'; DROP TABLE events;--", "\"", "$1", "?", "{}"];

/// A subscription that holds what it is given.
async fn holding(client: &Client) -> String {
    let id = client.subscribe(TARGET, json!({"ordering": "none"})).await.id;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    id
}

fn head(subscription: &str) -> String {
    format!("POST /ingest/{subscription} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
}

/// Clients that declare much and send little cost what they send.
async fn lengths_are_not_believed(backend: Backend) {
    let largest = ("POSTHORN_MAX_PAYLOAD_BYTES", "16777216");
    let posthorn = Posthorn::start_with(backend, &[largest]).await;
    let client = posthorn.client();
    let id = holding(client).await;
    let before = memory(posthorn.process_id(), "VmSize:");
    let mut open = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(posthorn.address()).await.unwrap();
        let request = format!("{}content-length: 16777216\r\n\r\n\"", head(&id));
        stream.write_all(request.as_bytes()).await.unwrap();
        open.push(stream);
    }
    // Chunks declare a length as well.
    for _ in 0..200 {
        let mut stream = TcpStream::connect(posthorn.address()).await.unwrap();
        let request = format!("{}transfer-encoding: chunked\r\n\r\nfffff0\r\n\"", head(&id));
        stream.write_all(request.as_bytes()).await.unwrap();
        open.push(stream);
    }
    client.get("/health").await.expect(200);
    let grown = memory(posthorn.process_id(), "VmSize:").saturating_sub(before);
    println!("{grown} bytes of address space for 6.2 GiB that were declared");
    assert!(grown < 1024 * MEBIBYTE, "{grown} bytes");
    // They leave before they have sent what they declared.
    drop(open);
    for (case, rest, statuses) in [
        ("more than is allowed", "content-length: 16777217\r\n\r\n\"".to_owned(), "413"),
        ("more than fits a number", format!("content-length: {}\r\n\r\n\"", "9".repeat(30)), "400"),
        ("less than is sent", "connection: close\r\ncontent-length: 1\r\n\r\n1234".to_owned(), "202"),
        ("less than a value", "connection: close\r\ncontent-length: 1\r\n\r\n\"a\"".to_owned(), "400"),
        (
            "too much, and asks first",
            "expect: 100-continue\r\ncontent-length: 16777217\r\n\r\n".to_owned(),
            "413",
        ),
    ] {
        let answer = client.raw(format!("{}{rest}", head(&id)).as_bytes()).await;
        assert_eq!(statuses_of(&answer), statuses, "{case}: {}", String::from_utf8_lossy(&answer));
    }
    let stored = posthorn.database.number("SELECT count(*) FROM webhook_deliveries").await;
    assert_eq!(stored, 1, "what was not whole is not stored");
}

/// The statuses of all answers, separated by blanks.
fn statuses_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let codes = text.split("HTTP/1.1 ").skip(1).map(|answer| answer.chars().take(3).collect::<String>());
    codes.collect::<Vec<_>>().join(" ")
}

/// Whatever a proxy in front may make of it: a request that is odd is refused or is one, and its connection ends.
async fn one_request_is_never_two(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = holding(client).await;
    let (plain, chunked) = ("content-length: 1\r\n", "transfer-encoding: chunked\r\n");
    let close = "connection: close\r\n";
    let hidden = format!("{}content-length: 1\r\n\r\n2", head(&id));
    let after = format!("1\r\n1\r\n0\r\n\r\n{hidden}");
    let long = "x".repeat(1024 * 1024);
    let mut taken = 0;
    for (case, head, body, statuses) in [
        ("two lengths", head(&id) + plain + "content-length: 2\r\n", "12".to_owned(), "400"),
        ("a list of lengths", head(&id) + "content-length: 1, 2\r\n", "12".to_owned(), "400"),
        ("a signed length", head(&id) + "content-length: +1\r\n", "1".to_owned(), "400"),
        ("a folded header", head(&id) + "x: a\r\n b\r\n" + plain, "1".to_owned(), "400"),
        ("a blank before the colon", head(&id) + "content-length : 1\r\n", "1".to_owned(), "400"),
        ("a name with a blank", head(&id) + "x y: 1\r\n" + plain, "1".to_owned(), "400"),
        ("a NUL in a value", head(&id) + "x: a\0b\r\n" + plain, "1".to_owned(), "400"),
        ("length and chunked", head(&id) + "content-length: 6\r\n" + chunked, after.clone(), "202"),
        ("chunked and length", head(&id) + chunked + "content-length: 6\r\n", after.clone(), "202"),
        ("chunked, then more", head(&id) + "transfer-encoding: chunked, gzip\r\n", after.clone(), "400"),
        ("almost chunked", head(&id) + "transfer-encoding: xchunked\r\n", after.clone(), "400"),
        ("an extension of 1 MiB", head(&id) + chunked, format!("1;{long}\r\n1\r\n0\r\n\r\n{hidden}"), "400"),
        (
            "1 MiB of trailers",
            head(&id) + chunked,
            format!("1\r\n1\r\n0\r\nx: {long}\r\n\r\n{hidden}"),
            "400",
        ),
        ("no size of a chunk", head(&id) + chunked, format!("zz\r\n{hidden}"), "400"),
        (
            "a size beyond numbers",
            head(&id) + chunked,
            format!("{}1\r\n1\r\n{hidden}", "f".repeat(17)),
            "400",
        ),
        ("chunks of bare LF", head(&id) + chunked, format!("1\n1\n0\n\n{hidden}"), "400"),
        (
            "trailers",
            head(&id) + close + chunked,
            "1\r\n1\r\n0\r\nidempotency-key: k\r\n\r\n".to_owned(),
            "202",
        ),
        (
            "trailers again",
            head(&id) + close + chunked,
            "1\r\n1\r\n0\r\nidempotency-key: k\r\n\r\n".to_owned(),
            "202",
        ),
        ("bare LF", (head(&id) + close + plain).replace("\r\n", "\n"), "1".to_owned(), "400"),
        ("bare LF after one header", head(&id) + "x: y\n" + plain, "1".to_owned(), "400"),
        (
            "bare LF in trailers",
            head(&id) + chunked,
            format!("1\r\n1\r\n0\r\nx: y\nz: 1\r\n\r\n{hidden}"),
            "400",
        ),
        (
            "compressed, then chunked",
            head(&id) + "transfer-encoding: gzip, chunked\r\n",
            after.clone(),
            "400",
        ),
        ("chunked twice", head(&id) + "transfer-encoding: chunked, chunked\r\n", after.clone(), "400"),
        ("chunked in two headers", head(&id) + chunked + chunked, after.clone(), "400"),
        ("no host", head(&id).replace("host: localhost\r\n", "") + close + plain, "1".to_owned(), "400"),
        ("two hosts", head(&id) + "host: other\r\n" + close + plain, "1".to_owned(), "400"),
    ] {
        let end = if head.contains("\r\n") { "\r\n" } else { "\n" };
        let answer = client.raw(format!("{head}{end}{body}").as_bytes()).await;
        let shown = String::from_utf8_lossy(&answer);
        assert_eq!(statuses_of(&answer), statuses, "{case}: {shown}");
        assert!(
            !shown.to_lowercase().contains("idempotent-replayed"),
            "{case}: a trailer is no header: {shown}"
        );
        taken += i64::from(statuses == "202");
    }
    let stored = posthorn.database.number("SELECT count(*) FROM webhook_deliveries").await;
    assert_eq!(stored, taken, "each that was taken is there once, and nothing else");
}

/// What no text of the API may hold.
const CONTROLS: &[&str] = &["\u{0}", "\u{1}", "\n", "\r\n", "\u{1b}[31m", "\u{7f}", "\u{85}"];

/// In every path, query, header and text field of the document.
async fn control_characters_are_refused_everywhere(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = holding(client).await;
    let mut tried = 0;
    for ((method, template), operation) in client.document().operations() {
        let method: Method = method.parse().unwrap();
        let path = |value: &str| {
            let (before, rest) = template.split_once('{').unwrap_or((&template, ""));
            let (_, after) = rest.split_once('}').unwrap_or_default();
            format!("{before}{}{after}", if rest.is_empty() { "" } else { value })
        };
        for encoded in ["%00", "%01", "a%0d%0ab", "%1b%5b31m", "%7f", "%c2%85", "%ff", "%ed%a0%80"] {
            let mut paths = Vec::new();
            if template.contains('{') {
                paths.push(path(encoded));
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "query" {
                    paths.push(format!("{}?{}={encoded}", path(&id), parameter["name"].as_str().unwrap()));
                }
            }
            for path in paths {
                let call = client.call(method.clone(), path);
                let call = if method == Method::GET { call } else { call.json(&json!({})) };
                call.send().await.expect_any(&[400, 422]);
                tried += 1;
            }
        }
    }
    assert!(tried > 200, "{tried} are too few to be all");

    for text in CONTROLS {
        for field in ["target_url", "tenant", "description", "secret_key", "ordering", "headers", "x"] {
            // A description may have lines.
            if field == "description" && text.chars().all(|c| matches!(c, '\n' | '\r' | '\t')) {
                continue;
            }
            let mut body = json!({"target_url": TARGET});
            body[field] = match field {
                "target_url" => json!(format!("{TARGET}{text}")),
                "headers" => json!({"x-a": format!("a{text}b")}),
                _ => json!(format!("a{text}b")),
            };
            client.post_json("/subscriptions/", body.clone()).await.expect(422);
            client.put_json(format!("/subscriptions/{id}"), body).await.expect(422);
        }
        for body in [json!({"headers": {format!("x{text}"): "1"}}), json!({format!("x{text}"): "1"})] {
            client.put_json(format!("/subscriptions/{id}"), body).await.expect(422);
        }
        for field in ["name", "tenant", "expires_at"] {
            client.post_json("/keys", json!({field: format!("a{text}b")})).await.expect(422);
        }
        // What no client sends of itself.
        for (place, request) in [
            (
                "path",
                format!("GET /subscriptions/{text} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"),
            ),
            (
                "key",
                format!(
                    "GET /cluster HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer a{text}b\r\nconnection: close\r\n\r\n"
                ),
            ),
            (
                "idempotency key",
                format!(
                    "{}idempotency-key: a{text}b\r\nconnection: close\r\ncontent-length: 1\r\n\r\n1",
                    head(&id)
                ),
            ),
            (
                "ordering key",
                format!(
                    "{}posthorn-ordering-key: a{text}b\r\nconnection: close\r\ncontent-length: 1\r\n\r\n1",
                    head(&id)
                ),
            ),
            (
                "content type",
                format!(
                    "POST /ingest/{id} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json{text}\r\nconnection: close\r\ncontent-length: 1\r\n\r\n1"
                ),
            ),
        ] {
            let answer = client.raw(request.as_bytes()).await;
            let status = statuses_of(&answer);
            // A line's end after a value that is whole ends the header, and what follows is another. Bytes beyond
            // ASCII may stand in a key, which nobody has; here everybody may come in.
            let harmless = (place == "key" && (*text == "\u{85}" || *text == "\u{7f}"))
                || (text.ends_with('\n') && place == "content type");
            let refused = ["400", "415"].contains(&&*status);
            assert!(refused || harmless, "{place} with {text:?}: {status}");
            assert!(!status.starts_with('5'), "{place} with {text:?}: {status}");
        }
    }
}

/// `%`, `_`, `\` and quotes are matched as they are, wherever something is looked up by them.
async fn wildcards_mean_themselves(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    for tenant in ["a_b", "axb", "a.b", "a-b", "A_B"] {
        client.subscribe(TARGET, json!({"tenant": tenant})).await;
    }
    for tenant in ["a_b", "axb", "a.b", "a-b", "A_B"] {
        let found = client.get(format!("/subscriptions/?tenant={tenant}")).await.expect(200).json;
        assert_eq!((&found["total"], &found["items"][0]["tenant"]), (&json!(1), &json!(tenant)), "{found}");
        assert_eq!(client.get(format!("/tenants/{tenant}")).await.expect(200).json["tenant"], *tenant);
    }
    for text in WILD {
        let encoded = percent_encoded(text);
        let named = client.get(format!("/subscriptions/?tenant={encoded}")).await.expect_any(&[200, 422]);
        assert!(named.status == 422 || (*text == "_" && named.json["total"] == 0), "{text}: {}", named.json);
        client.get(format!("/subscriptions/?status={encoded}")).await.expect_any(&[400, 422]);
        client.get(format!("/subscriptions/{encoded}")).await.expect(400);
        client.get(format!("/deliveries/{encoded}")).await.expect(400);
        let fields = json!({"description": text, "secret_key": text, "headers": {"x-a": text}});
        let id = client.subscribe(TARGET, fields).await.id;
        assert_eq!(client.subscription(&id).await["description"], *text);
        client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
        let listed = client.get(format!("/subscriptions/{id}/deliveries?cursor={encoded}")).await;
        listed.expect(400);
        let mut deliveries = Vec::new();
        for key in WILD {
            let call = client.call(Method::POST, format!("/ingest/{id}")).bytes("application/json", "1");
            let call = call.header("x-webhook-signature-256", sha256_signature(text, b"1"));
            let call = call.header("idempotency-key", key).header("posthorn-ordering-key", key);
            let answer = call.send().await.expect(202);
            assert!(!answer.headers.contains_key("idempotent-replayed"), "{key} is no other");
            deliveries.push(answer.text("delivery_id"));
        }
        for (delivery, key) in deliveries.iter().zip(WILD) {
            assert_eq!(client.delivery(delivery).await["ordering_key"], *key);
        }
    }
}

/// As many lines as keys, and as many tenants: what nobody is sent for costs next to nothing.
async fn many_keys_and_tenants_cost_little(backend: Backend) {
    let patient = [("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", "120")];
    let posthorn = Posthorn::start_with(backend, &patient).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let stalled = Receiver::always(Reply::status(200).behind(&gate)).await;
    let id = client.subscribe(&stalled.url("/"), json!({"ordering": "key", "max_in_flight": 8})).await.id;
    client.ingest_keyed(&id, "first", json!(0)).await;
    stalled.arrived(1).await;
    let before = memory(posthorn.process_id(), "VmRSS:");
    for round in 0..40 {
        let keyed = (0..100).map(|n| {
            let (key, id) = (format!("{round}-{n}-{}", "k".repeat(200)), &id);
            async move { client.ingest_keyed(id, &key, json!(1)).await }
        });
        join_all(keyed).await;
        let tenants = (0..10).map(|n| async move {
            let tenant = format!("tenant-{round}-{n}");
            client.get(format!("/tenants/{tenant}")).await.expect(200);
            let id =
                client.subscribe(TARGET, json!({"tenant": tenant, "retry": {"max_retries": 0}})).await.id;
            client.ingest(&id, json!(1)).await;
        });
        join_all(tenants).await;
    }
    let grown = memory(posthorn.process_id(), "VmRSS:").saturating_sub(before);
    println!("{grown} bytes for 4,000 keys and 400 tenants");
    assert!(grown < 96 * MEBIBYTE, "{grown} bytes");
    let in_flight = stalled.requests().len();
    assert!(in_flight <= 8, "{in_flight} at once");
    gate.open();
}

/// `Upgrade` is not taken up, another version of HTTP not spoken, and who asks a thousand times at once is answered
/// a thousand times, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_and_floods_change_nothing() {
    let posthorn = Posthorn::start(Backend::Sqlite).await;
    let client = posthorn.client();
    let get = "GET /health HTTP/1.1\r\nhost: localhost\r\n";
    let long = format!("{get}x: {}\r\n\r\n", "y".repeat(128 * 1024));
    let many = format!("{get}{}\r\n", "x: y\r\n".repeat(101));
    let settings = "http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    let rapid_reset: Vec<u8> = (0..1000_u32)
        .flat_map(|n| {
            let stream = (2 * n + 1).to_be_bytes();
            // HEADERS that end head and stream, and at once RST_STREAM (RFC 9113 §6.2, §6.4).
            let headers = [&[0, 0, 1, 1, 5][..], &stream, &[0x82]].concat();
            [headers, [&[0, 0, 4, 3, 0][..], &stream, &[0, 0, 0, 8]].concat()].concat()
        })
        .collect();
    let http2 = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &rapid_reset[..]].concat();
    for (case, request, statuses) in [
        ("HTTP/2 in clear", format!("{get}connection: upgrade, http2-settings, close\r\nupgrade: h2c\r\n{settings}\r\n").into_bytes(), "200"),
        ("a web socket", format!("{get}connection: upgrade, close\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").into_bytes(), "200"),
        ("a tunnel", b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: 127.0.0.1:22\r\nconnection: close\r\n\r\n".to_vec(), "404"),
        ("a mirror", b"TRACE /health HTTP/1.1\r\nhost: localhost\r\nx: canary\r\nconnection: close\r\n\r\n".to_vec(), "405"),
        ("HTTP/2, reset rapidly", http2, ""),
        ("a head of 128 KiB", long.into_bytes(), "431"),
        ("101 headers", many.into_bytes(), "431"),
    ] {
        let answer = client.raw(&request).await;
        let shown = String::from_utf8_lossy(&answer);
        assert_eq!(statuses_of(&answer), statuses, "{case}: {shown}");
        assert!(!shown.contains("canary"), "{case}: {shown}");
    }

    let before = memory(posthorn.process_id(), "VmRSS:");
    let pipelined = format!("{get}\r\n").repeat(20_000) + get + "connection: close\r\n\r\n";
    let (mut reading, mut writing) = TcpStream::connect(posthorn.address()).await.unwrap().into_split();
    let sending = tokio::spawn(async move {
        writing.write_all(pipelined.as_bytes()).await.unwrap();
        writing
    });
    let mut answers = Vec::new();
    within(Duration::from_secs(30), "all answers", reading.read_to_end(&mut answers)).await.unwrap();
    let count = String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 OK").count();
    assert_eq!(count, 20_001);
    drop(sending.await.unwrap());

    // Who never reads is not read from for long either.
    let mut greedy = TcpStream::connect(posthorn.address()).await.unwrap();
    let requests = format!("{get}\r\n").repeat(1000);
    let mut sent = 0;
    while timeout(Duration::from_secs(1), greedy.write_all(requests.as_bytes())).await.is_ok() {
        sent += requests.len();
        assert!(sent < 64 << 20, "it reads on and on");
    }
    let grown = memory(posthorn.process_id(), "VmRSS:").saturating_sub(before);
    println!("{sent} bytes were taken from who does not read; {grown} bytes more in memory");
    assert!(grown < 64 * MEBIBYTE, "{grown} bytes");
    client.get("/health").await.expect(200);
}

/// Heads have 10 s, bodies 30 s where they come slowly, however steadily.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_let_go() {
    let posthorn = Posthorn::start(Backend::Sqlite).await;
    let client = posthorn.client();
    let id = holding(client).await;
    let address = posthorn.address();
    let head = head(&id);
    let (silent, half, body) = tokio::join!(
        drip(address, String::new(), ""),
        drip(address, "GET /health HTTP/1.1\r\nhost: localhost\r\nx: ".to_owned(), "y"),
        drip(address, format!("{head}content-length: 1000\r\n\r\n\""), "x"),
    );
    for (case, (took, answer), seconds, statuses) in
        [("silent", silent, 10, ""), ("half a head", half, 10, ""), ("half a body", body, 30, "408")]
    {
        assert_eq!(statuses_of(&answer), statuses, "{case}: {}", String::from_utf8_lossy(&answer));
        let expected = Duration::from_secs(seconds - 1)..Duration::from_secs(seconds + 4);
        assert!(expected.contains(&took), "{case}: {took:?}");
    }
    assert_eq!(posthorn.database.number("SELECT count(*) FROM webhook_deliveries").await, 0);
}

/// Sends `start`, then `part` each second, until the server closes; how long that took, and what it answered.
async fn drip(address: SocketAddr, start: String, part: &'static str) -> (Duration, Vec<u8>) {
    let (mut reading, mut writing) = TcpStream::connect(address).await.unwrap().into_split();
    let begun = Instant::now();
    let dripping = tokio::spawn(async move {
        writing.write_all(start.as_bytes()).await.unwrap();
        let mut pace = tokio::time::interval(Duration::from_secs(1));
        while !part.is_empty() && writing.write_all(part.as_bytes()).await.is_ok() {
            pace.tick().await;
        }
        writing
    });
    let mut answer = Vec::new();
    let end = reading.read_to_end(&mut answer);
    // A connection with bytes unread may be reset.
    let _ = within(Duration::from_mins(1), "the connection's end", end).await;
    let took = begun.elapsed();
    dripping.abort();
    (took, answer)
}

/// One address has a fifth of the places, all that have proved nothing four fifths; beyond, the one that waits longest
/// gives way, so that who comes is answered at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_capped_and_give_way() {
    const CAP: usize = 8000;
    const OF_ADDRESS: usize = 2000;
    let limit = open_files_max();
    if limit < 14_000 {
        println!("left out: a process may open {limit} files here");
        return;
    }
    let posthorn = Posthorn::start(Backend::Sqlite).await;
    let before = memory(posthorn.process_id(), "VmRSS:");
    let mut idle = open_from(posthorn.address(), 1, OF_ADDRESS + 100).await;
    let of_address = connections_of(posthorn.process_id());
    println!("{of_address} connections of one address");
    assert!(of_address <= OF_ADDRESS + 100, "{of_address} connections");
    let begun = Instant::now();
    for host in 2..=6 {
        idle.extend(open_from(posthorn.address(), host, OF_ADDRESS).await);
    }
    eventually("all places are taken", async || match connections_of(posthorn.process_id()) {
        count if count >= CAP * 9 / 10 => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
    for host in [1, 6, 7] {
        let mut stream = open_from(posthorn.address(), host, 1).await.remove(0);
        stream
            .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        within(Duration::from_secs(5), "an answer beside them", read).await.unwrap();
        assert_eq!(statuses_of(&answer), "200");
    }
    let grown = memory(posthorn.process_id(), "VmRSS:").saturating_sub(before);
    println!("answered within {:?}; {grown} bytes more in memory", begun.elapsed());
    assert!(grown < 400 * MEBIBYTE, "{grown} bytes");
    let most = connections_of(posthorn.process_id());
    assert!(most <= CAP + 100, "{most} connections");
}

/// So many connections from one address of this machine.
pub(crate) async fn open_from(to: SocketAddr, host: u8, count: usize) -> Vec<TcpStream> {
    let mut open = Vec::new();
    while open.len() < count {
        let some = (0..(count - open.len()).min(100)).map(|_| async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 1, host], 0))).unwrap();
            socket.connect(to).await.unwrap()
        });
        open.extend(within(Duration::from_secs(20), "a hundred connections", join_all(some)).await);
    }
    open
}

/// Sockets that the process has open.
fn connections_of(process: u32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let sockets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    sockets.filter(|to| to.to_string_lossy().starts_with("socket:")).count()
}

/// How many files a process may open (proc(5), `/proc/pid/limits`).
pub(crate) fn open_files_max() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap_or(u64::MAX)
}
