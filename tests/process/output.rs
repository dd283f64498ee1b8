//! What comes out of Posthorn: log lines, answers, pages, and what others of the machine see of it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::percent_encoded;
use crate::support::command::run;
use crate::support::reply::Ending;
use crate::support::server::{ADMIN_KEY, ENCRYPTION_KEY, FAST};
use crate::support::{Backend, Client, Database, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(
    every_event_is_one_line_of_the_log,
    pages_of_other_sites_change_nothing,
    errors_speak_their_own_words,
    passwords_of_the_database_stay_secret,
);

const ADMIN: (&str, &str) = (ADMIN_KEY, "canary-admin-key-0123456789abcdef");
const SEALED: (&str, &str) = (ENCRYPTION_KEY, "Y2FuYXJ5LWVuY3J5cHRpb24ta2V5LW9mLTMyLWJ5dGU=");

/// Breaks lines, begins one that looks like ours, colours it, rings the bell and turns the direction of reading.
const FORGED: &str =
    "a\r\n2026-01-01T00:00:00.000000Z  INFO posthorn: forged\u{1b}[31m\u{7}\u{9b}2J\u{7f}\u{202e}\u{2066}";

async fn every_event_is_one_line_of_the_log(backend: Backend) {
    for format in ["text", "json"] {
        let settings = [FAST, &[("RUST_LOG", "trace"), ("POSTHORN_LOG_FORMAT", format), ADMIN]].concat();
        let mut posthorn = Posthorn::start_with(backend, &settings).await;
        forge_everywhere(&posthorn).await;
        posthorn.terminate().await;
        let log = posthorn.log();
        assert!(log.len() > 80, "{} lines are too few to be all", log.len());
        for line in log {
            let whole = match format {
                "json" => {
                    serde_json::from_str::<Value>(&line).is_ok_and(|line| line["timestamp"].is_string())
                }
                _ => line.get(..27).is_some_and(|time| time.starts_with("20") && time.ends_with('Z')),
            };
            assert!(whole, "{format}: no event of its own: {line}");
            assert!(!line.contains(posthorn_domain::terminal::is_steering), "{format}: {line:?}");
            assert!(!line.starts_with(&FORGED[3..20]), "{format}: forged: {line}");
        }
    }
}

/// In whatever a client or an endpoint may say.
async fn forge_everywhere(posthorn: &Posthorn) {
    let client = posthorn.client();
    let encoded = percent_encoded(FORGED);
    for path in ["/subscriptions/", "/deliveries/", "/tenants/", "/problems/", "/", "/subscriptions/?tenant="]
    {
        client.get(format!("{path}{encoded}")).await.expect_any(&[400, 404, 422]);
    }
    let target = "http://127.0.0.1:9/";
    for (field, value) in [
        ("target_url", json!(format!("{target}{FORGED}"))),
        ("tenant", json!(FORGED)),
        ("description", json!(FORGED)),
        ("secret_key", json!(FORGED)),
        ("ordering", json!(FORGED)),
        ("headers", json!({"x-a": FORGED})),
        ("headers", json!({FORGED: "1"})),
        (FORGED, json!(1)),
    ] {
        let mut body = json!({"target_url": target});
        body[field] = value;
        client.post_json("/subscriptions/", body).await.expect(422);
    }
    client.post_json("/keys", json!({"name": FORGED})).await.expect(422);
    client.with_key(Some("a\tkey")).get("/cluster").await.expect(401);
    client.raw(format!("GET /{FORGED} HTTP/1.1\r\n{FORGED}: {FORGED}\r\n\r\n").as_bytes()).await;

    let body =
        format!("HTTP/1.1 500 a\tb\r\nx-odd: a\tb\r\ncontent-length: {}\r\n\r\n{FORGED}", FORGED.len());
    let odd = Receiver::always(Reply::raw(body.as_bytes(), Ending::Close)).await;
    let none = Receiver::always(Reply::raw(FORGED.as_bytes(), Ending::Close)).await;
    for url in [odd.url(&format!("/{encoded}")), none.url("/"), none.url("/").replace("http:", "https:")] {
        let fields = json!({"retry": {"max_retries": 1}, "headers": {"x-a": "a\tb"}, "timeout_seconds": 1});
        let id = client.subscribe(&url, fields).await.id;
        let delivery = client.ingest(&id, json!(FORGED)).await;
        client.delivery_in(&delivery, "failed").await;
    }
}

/// What a page in somebody's browser can do to a server that asks for no key, and to one that does.
async fn pages_of_other_sites_change_nothing(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let operations = || client.document().operations().into_keys();
    // By its own name for this machine, and from the page as what it is.
    for (name, value) in [
        ("host", "rebound.example.com"),
        ("host", "127.0.0.1.example.com:8000"),
        ("host", "user:pass@localhost"),
        ("host", "intranet"),
        ("host", "192.0.2.7:8000"),
        ("origin", "https://evil.example.com"),
        ("origin", "http://192.0.2.7"),
        ("origin", "http://intranet"),
        ("origin", "http://127.0.0.1:80@evil.example.com/"),
        ("origin", "file://"),
        ("origin", "chrome-extension://localhost"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        for (method, template) in operations() {
            let call = client.call(method.parse().unwrap(), fill(&template, &id));
            let call = if method == "GET" { call } else { call.json(&json!({})) };
            let refused = call.header(name, value).send().await.expect(421);
            assert_eq!(
                refused.json["type"], "/problems/misdirected-request",
                "{name} {value}: {method} {template}"
            );
        }
    }
    for target in ["http://evil.example.com/keys", "http://127.0.0.1:80@evil.example.com/keys"] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = client.raw(request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 4") && !answer.contains("items"), "{target}: {answer}");
    }
    // What a form may be; the browser says whose it is, but none is believed without a JSON type either.
    for kind in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"] {
        for (method, path) in [
            (Method::POST, "/subscriptions/".to_owned()),
            (Method::POST, "/keys".to_owned()),
            (Method::POST, format!("/ingest/{id}")),
            (Method::PUT, format!("/subscriptions/{id}")),
        ] {
            let body = format!("{{\"target_url\": \"{}\"}}", receiver.url("/"));
            client.call(method, path).bytes(kind, body).send().await.expect(415);
        }
    }
    assert_eq!(client.subscription(&id).await["status"], "active");
    // Its own pages may call it.
    let own = format!("http://{}", posthorn.address());
    client
        .call(Method::POST, format!("/subscriptions/{id}/pause"))
        .header("origin", own)
        .header("sec-fetch-site", "same-origin")
        .send()
        .await
        .expect(200);

    let keyed = Posthorn::start_with(backend, &[ADMIN]).await;
    let stranger = keyed.client().with_key(None);
    for (name, value) in [
        ("cookie", format!("authorization=Bearer {}; key={0}; session={0}", ADMIN.1)),
        ("x-api-key", ADMIN.1.to_owned()),
        ("proxy-authorization", format!("Bearer {}", ADMIN.1)),
        ("authorization", format!("Basic {}", ADMIN.1)),
    ] {
        stranger.call(Method::GET, "/subscriptions/").header(name, value).send().await.expect(401);
    }
    for query in ["key", "api_key", "access_token", "token", "authorization", "Bearer"] {
        stranger.get(format!("/subscriptions/?{query}={}", ADMIN.1)).await.expect(401);
    }
    for client in [client, keyed.client()] {
        for (method, path) in [("OPTIONS", "/subscriptions/"), ("GET", "/health"), ("GET", "/openapi.json")] {
            let call = client.call(method.parse().unwrap(), path).header("origin", "http://localhost:3000");
            let call = call.header("access-control-request-method", "PUT");
            let answer = call.send().await;
            let opened = answer.headers.keys().any(|name| name.as_str().starts_with("access-control-"));
            assert!(!opened, "{method} {path}: {:?}", answer.headers);
        }
    }
}

/// The path with an id where it asks for one.
fn fill(template: &str, id: &str) -> String {
    let Some((before, rest)) = template.split_once('{') else { return template.to_owned() };
    format!("{before}{id}{}", rest.split_once('}').unwrap().1)
}

/// Scripts stay text, and what shows a page lets only the page's own scripts run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_run_nothing_but_their_own() {
    let posthorn = Posthorn::start(Backend::Sqlite).await;
    let client = posthorn.client();
    let problem = client.get("/nowhere").await.expect(404).text("type");
    for path in ["/docs", "/redoc", &problem] {
        let page = client.get(path).await.expect(200);
        assert!(page.kind().starts_with("text/html"), "{path}");
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        let scripts = policy.split("script-src").nth(1).unwrap_or_default();
        assert!(!scripts.contains("unsafe") && !scripts.contains('*'), "{path}: {policy}");
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(page.header("cross-origin-resource-policy"), "same-origin", "{path}");
    }
    let script = "</script><script>alert(1)</script>";
    client.post_json("/subscriptions/", json!({"target_url": "javascript:alert(1)"})).await.expect(422);
    let receiver = Receiver::always(Reply::body(200, script.as_bytes())).await;
    let id = client.subscribe(&receiver.url("/"), json!({"description": script})).await.id;
    let delivery = client.ingest(&id, json!(script)).await;
    client.delivery_in(&delivery, "success").await;
    for path in [
        format!("/subscriptions/{id}"),
        format!("/deliveries/{delivery}/payload"),
        format!("/status/deliveries/{delivery}/status"),
        format!("/problems/{}", "%3Cscript%3Ealert(1)%3C%2Fscript%3E"),
        "/%3Cscript%3Ealert(1)%3C%2Fscript%3E".to_owned(),
    ] {
        let answer = client.get(path).await;
        let kind = answer.kind().to_owned();
        assert!(
            kind.starts_with("application/json") || kind == "application/problem+json",
            "{}: {kind}",
            answer.call
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{}", answer.call);
        let policy = answer.header("content-security-policy");
        assert_eq!(policy, "default-src 'none'; frame-ancestors 'none'; sandbox", "{}", answer.call);
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin", "{}", answer.call);
        assert!(!answer.headers.contains_key("strict-transport-security"), "in clear it means nothing");
    }
}

/// An attempt's failure is told by its kind, and nothing of the target or of a library is repeated.
async fn errors_speak_their_own_words(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let close = |bytes: &[u8]| Reply::raw(bytes, Ending::Close);
    let receivers = [
        (Reply::reset(), &["connection reset"][..]),
        (close(b""), &["connection closed without an answer", "connection reset"]),
        (close(b"no HTTP\r\n\r\n"), &["invalid response"]),
        (close(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"), &["invalid response"]),
        (Reply::stall(), &["timeout"]),
        (Reply::status(418), &["unexpected status 418"]),
    ];
    let mut cases = vec![
        (format!("http://{nobody}"), &["connection refused"][..]),
        // Where no name server answers in time.
        ("http://canary-name.invalid".to_owned(), &["dns failure", "timeout"]),
    ];
    let mut held = Vec::new();
    for (reply, errors) in receivers {
        let receiver = Receiver::always(reply).await;
        cases.push((receiver.url(""), errors));
        held.push(receiver);
    }
    for (origin, errors) in cases {
        let target = format!("{origin}/canary-path?canary-query=1");
        let fields =
            json!({"retry": {"max_retries": 0}, "timeout_seconds": 1, "headers": {"x-a": "canary-header"}});
        let id = client.subscribe(&target, fields).await.id;
        let delivery = client.ingest(&id, json!("canary-payload")).await;
        client.delivery_in(&delivery, "failed").await;
        let attempts = client.attempts(&delivery).await;
        let error = attempts[0]["error_message"].as_str().unwrap();
        assert!(errors.contains(&error), "{origin}: {error}");
        let activity = client.get("/status/activity?limit=100").await.expect(200).json.to_string();
        assert!(!activity.contains("canary-path") && !activity.contains("canary-query"), "{activity}");
    }
}

/// In the log at whatever level, in errors, and in what the machine's other users see.
async fn passwords_of_the_database_stay_secret(backend: Backend) {
    let database = std::sync::Arc::new(Database::create(backend).await);
    let mut url = url::Url::parse(&database.url()).unwrap();
    // SQLite has none; PostgreSQL takes any where it trusts the machine.
    let _ = url.set_password(Some("canary-password"));
    let settings = [("DATABASE_URL", url.as_str()), ("RUST_LOG", "trace"), ADMIN, SEALED];
    let mut posthorn = Posthorn::start_on(std::sync::Arc::clone(&database), &settings).await;
    let shown = std::fs::read(format!("/proc/{}/cmdline", posthorn.process_id())).unwrap();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.ends_with("\0serve\0") && !shown.contains("canary"), "{shown:?}");
    check_answers(posthorn.client()).await;
    posthorn.terminate().await;
    let log = posthorn.log();
    let told = log.iter().find(|line| line.contains("canary") || line.contains(SEALED.1));
    assert_eq!(told, None);

    for (arguments, settings) in [
        (
            &["serve"][..],
            &[
                ("DATABASE_URL", "postgres://posthorn:canary-password@127.0.0.1:1/none"),
                ("POSTHORN_START_PATIENCE_SECONDS", "0.1"),
            ][..],
        ),
        (&["serve"], &[("DATABASE_URL", "postgres://posthorn:canary-password@:99999/none")]),
        (&["serve"], &[("DATABASE_URL", "mysql://posthorn:canary-password@127.0.0.1:1/none")]),
        (&["serve"], &[("DATABASE_LISTEN_URL", "canary-password")]),
        (&["serve"], &[("REDIS_URL", "canary-password")]),
        (&["serve"], &[(ENCRYPTION_KEY, "canary-password")]),
        (&["migrate", "status"], &[("DATABASE_URL", "postgres://posthorn:canary-password@127.0.0.1:1/none")]),
        (&["keys", "list"], &[("DATABASE_URL", "postgres://posthorn:canary-password@127.0.0.1:1/none")]),
        (&["--help"], &[ADMIN, ("DATABASE_URL", "canary-password")]),
        (&["serve", "--help"], &[ADMIN, SEALED]),
        (
            &["listen", "--help"],
            &[("WEBHOOK_SIGNING_SECRET", "whsec_canary"), ("WEBHOOK_SECRET_KEY", "canary")],
        ),
        (&["keys", "create", "--help"], &[ADMIN]),
        (&["openapi"], &[ADMIN, SEALED]),
        (&["--canary-no-such"], &[ADMIN]),
    ] {
        let ran = run(&database, arguments, settings).await;
        let all = format!("{} {}", ran.stdout, ran.stderr.join("\n"));
        let secret = all.contains("canary-password") || all.contains(ADMIN.1) || all.contains(SEALED.1);
        assert!(!secret && !all.contains("whsec_canary"), "{arguments:?}: {all:.2000}");
    }
}

/// What the document shows as examples is nobody's.
async fn check_answers(client: &Client) {
    for path in
        ["/openapi.json", "/openapi.yaml", "/docs", "/redoc", "/keys", "/cluster", "/health/ready", "/audit"]
    {
        let answer = client.get(path).await.expect(200);
        let text = String::from_utf8_lossy(&answer.body);
        assert!(!text.contains("canary") && !text.contains(SEALED.1), "{path}");
        for secret in text.split("whsec_").skip(1).chain(text.split("posthorn_").skip(1)) {
            let secret: String = secret.chars().take_while(char::is_ascii_alphanumeric).collect();
            // Something of a secret's length that is no placeholder.
            let placeholder =
                secret.len() < 24 || secret.starts_with("EXAMPLE") || secret.bytes().all(|c| c == b'0');
            assert!(placeholder, "{path}: {secret}");
        }
    }
}
