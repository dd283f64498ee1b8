//! Documents: the OpenAPI document, the pages that show it, and that they need no internet.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::support::{Backend, Posthorn, left_out, on_both_databases, within};

on_both_databases!(document_describes_every_route, pages_need_no_internet);

/// Every route of the contract that clients are generated for.
const ROUTES: &[(&str, &str)] = &[
    ("POST", "/subscriptions"),
    ("GET", "/subscriptions"),
    ("GET", "/subscriptions/{}"),
    ("PUT", "/subscriptions/{}"),
    ("DELETE", "/subscriptions/{}"),
    ("POST", "/subscriptions/{}/pause"),
    ("POST", "/subscriptions/{}/resume"),
    ("POST", "/subscriptions/{}/enable"),
    ("POST", "/subscriptions/{}/disable"),
    ("POST", "/subscriptions/{}/test"),
    ("GET", "/subscriptions/{}/signing-secret"),
    ("POST", "/subscriptions/{}/signing-secret/rotate"),
    ("GET", "/subscriptions/{}/deliveries"),
    ("POST", "/ingest/{}"),
    ("GET", "/health"),
    ("GET", "/health/ready"),
    ("GET", "/status/deliveries/{}/status"),
    ("GET", "/status/subscriptions/{}/attempts"),
    ("GET", "/status/stats"),
    ("GET", "/status/activity"),
    ("GET", "/deliveries/{}"),
    ("GET", "/deliveries/{}/payload"),
    ("POST", "/deliveries/{}/retry"),
    ("POST", "/deliveries/{}/replay"),
    ("POST", "/deliveries/{}/skip"),
    ("GET", "/tenants/{}"),
    ("PUT", "/tenants/{}"),
    ("POST", "/keys"),
    ("GET", "/keys"),
    ("DELETE", "/keys/{}"),
    ("GET", "/audit"),
    ("GET", "/cluster"),
    ("GET", "/.well-known/webhook-keys/{}"),
];

async fn document_describes_every_route(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let document = posthorn.client().document();
    assert!(document.root()["openapi"].as_str().is_some_and(|version| version.starts_with("3.0.")));
    let mut operations = document.operations();
    let mut names = BTreeSet::new();
    for (method, route) in ROUTES {
        let place = operations.keys().find(|(named, path)| named == method && bare(path) == *route).cloned();
        let place = place.unwrap_or_else(|| panic!("{method} {route} is not in the document"));
        let operation = operations.remove(&place).unwrap();
        check_operation(method, route, operation, &document.root()["security"]);
        let name = operation["operationId"].as_str().unwrap_or_default().to_owned();
        assert!(names.insert(name.clone()), "{name} stands twice");
    }
    assert!(operations.is_empty(), "more than the contract knows: {:?}", operations.keys());
    check_schemas(document.root());
}

/// The path with bare parameters and no slash at its end.
fn bare(path: &str) -> String {
    let parts = path.trim_end_matches('/').split('/');
    parts.map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
}

fn check_operation(method: &str, route: &str, operation: &Value, inherited: &Value) {
    let at = format!("{method} {route}");
    let name = operation["operationId"].as_str().unwrap_or_default();
    let shaped =
        name.chars().next().is_some_and(char::is_lowercase) && name.chars().all(char::is_alphanumeric);
    assert!(shaped, "{at}: operationId {name:?} is no camelCase");
    assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{at}: one tag");
    let summary = operation["summary"].as_str().or(operation["description"].as_str()).unwrap_or_default();
    assert!(!summary.is_empty(), "{at}: says nothing");
    let health = route.starts_with("/health");
    for (status, answer) in operation["responses"].as_object().unwrap() {
        let Some(content) = answer["content"].as_object().filter(|content| !content.is_empty()) else {
            continue;
        };
        let problem = content.keys().any(|kind| kind == "application/problem+json");
        assert!(problem || health || status.as_str() < "400", "{at}: {status} is no problem: {content:?}");
    }
    if !health && !route.starts_with("/.well-known") {
        assert!(operation["responses"].get("401").is_some(), "{at}: 401 is missing");
        let security = [&operation["security"], inherited].into_iter().find(|security| security.is_array());
        assert!(security.is_some(), "{at}: says nothing of its security");
    }
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        assert_ne!(parameter["schema"], Value::Null, "{at}: {parameter}");
    }
}

/// References lead somewhere, and numbers have bounds or a format.
fn check_schemas(root: &Value) {
    let mut open = vec![root];
    while let Some(value) = open.pop() {
        if let Some(reference) = value["$ref"].as_str() {
            assert!(root.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
        }
        if matches!(value["type"].as_str(), Some("integer" | "number")) {
            let bound = value["format"].is_string() || value["maximum"].is_number();
            assert!(bound, "a number without format and bounds: {value}");
        }
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(members) => open.extend(members.values()),
            _ => {}
        }
    }
}

async fn pages_need_no_internet(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    for path in ["/docs", "/redoc"] {
        let page = client.get(path).await.expect(200);
        assert!(page.kind().starts_with("text/html"), "{path}: {}", page.kind());
        let text = String::from_utf8_lossy(&page.body).into_owned();
        for attribute in
            ["src=\"http", "src='http", "href=\"http", "href='http", "@import", "fonts.googleapis.com"]
        {
            let links =
                text.match_indices(attribute).map(|(at, _)| text[at..].chars().take(80).collect::<String>());
            // What a reader may click is no load; stylesheets and scripts are.
            let loads: Vec<_> =
                links.filter(|link| attribute != "href=\"http" || link.contains(".css")).collect();
            assert!(loads.is_empty(), "{path} loads {loads:?}");
        }
    }
    let yaml = client.get("/openapi.yaml").await.expect(200);
    assert!(
        String::from_utf8_lossy(&yaml.body).lines().any(|line| line.starts_with("openapi: ")),
        "{}",
        yaml.kind()
    );
    let json = client.get("/openapi.json").await.expect(200);
    assert!(json.kind().starts_with("application/json"), "{}", json.kind());
}

/// What `/docs` and `/redoc` are in a real browser: every operation is shown, and nothing breaks the
/// page's policy, which lets nothing be fetched from outside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_render_in_a_browser() {
    let posthorn = Posthorn::start(Backend::Sqlite).await;
    let document = posthorn.client().document();
    for (path, id) in [("/docs", "operations-{tag}-{name}"), ("/redoc", "tag/{tag}/operation/{name}")] {
        let url = format!("http://{}{path}", posthorn.address());
        let Some((page, console)) = browse(&url, posthorn.database.directory()).await else {
            left_out("chromium");
            return;
        };
        let console: Vec<_> = console.lines().filter(|line| line.contains("CONSOLE")).collect();
        assert!(console.is_empty(), "{path}: {console:#?}");
        // The scripts hold the document, too; what they made of it stands beside them.
        let shown: String = page
            .split("<script")
            .map(|part| part.split_once("</script>").map_or(part, |(_, rest)| rest))
            .collect();
        for ((method, route), operation) in document.operations() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (tag, name) = (text(&operation["tags"][0]), text(&operation["operationId"]));
            let id = id.replace("{tag}", &tag).replace("{name}", &name);
            assert!(shown.contains(&id), "{path} does not show {method} {route}:\n{shown:.2000}");
        }
        // Its own server is the one that the policy lets a page call.
        assert!(!shown.contains("127.0.0.1:8000"), "{path} calls another server");
    }
}

/// The page as the browser has it once its scripts have run, and what the browser logged; none
/// without a browser.
async fn browse(url: &str, scratch: &Path) -> Option<(String, String)> {
    let profile = tempfile::tempdir_in(scratch).expect("a directory");
    let browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        // Not even the browser itself looks for anybody else.
        .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000", "--dump-dom", url])
        .kill_on_drop(true)
        .output();
    match within(Duration::from_mins(1), "the browser", browser).await {
        Ok(output) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert!(output.status.success(), "chromium: {}: {}", output.status, text(&output.stderr));
            Some((text(&output.stdout), text(&output.stderr)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("chromium: {error}"),
    }
}
