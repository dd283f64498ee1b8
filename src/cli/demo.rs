//! `posthorn demo`: the main job on one screen.
//!
//! Serves on a database of its own in a temporary folder, with a receiver beside it that fails the
//! first request, hands in a handful of events as any client would, over HTTP, and prints what
//! happens.

#![expect(clippy::indexing_slicing, reason = "a JSON value without the name asked for gives null")]

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use posthorn_domain::signature::{SecretKey, SigningSecret};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::listen::line;
use super::receiver::{Options, Receiver};
use super::{Stop, print_text};
use crate::app::App;
use crate::app::signals::Signals;
use crate::config::{Address, Config};
use crate::telemetry;

/// See it work: serve, receive, and send a handful of events through, one of which fails at first.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// End after the last event: with 0 where all arrived, else with 1.
    #[arg(long)]
    exit: bool,
}

/// Guards ingest in the demo.
const SECRET_KEY: &str = "It's a secret to everybody";
/// Long enough to see that a retry waits, short enough to wait for.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the demo.
pub async fn run(arguments: Arguments) -> Result<(), Stop> {
    let folder = Folder::create().map_err(|error| format!("a folder for the demo: {error}"))?;
    let app = serve(&folder).await?;
    let told = timeout(PATIENCE, tell(app.address())).await;
    let told = told.unwrap_or_else(|_| Err(Stop::failed("not every event arrived in time")));
    if let Err(error) = told {
        app.shut_down().await;
        return Err(error);
    }
    if arguments.exit {
        app.shut_down().await;
        return Ok(());
    }
    print_text(&format!(
        "\nStill serving. Have a look around:\n  http://{0}/docs            the API\n  \
         http://{0}/status/stats    statistics\nEnd with Ctrl-C; what was stored goes with it.",
        app.address()
    ))?;
    let signals = Signals::listen().map_err(|error| format!("signals: {error}"))?;
    app.run(signals).await.map_err(Stop::failed)
}

/// Starts the service on an empty database, on the usual port or, where that is taken, on another.
async fn serve(folder: &Folder) -> Result<App, String> {
    let mut config = Config::load_for_demo().map_err(|error| error.to_string())?;
    config.database_url = Address(format!("sqlite://{}", folder.0.join("posthorn.db").display()));
    config.allowed_private_networks = vec![std::net::IpAddr::from([127, 0, 0, 1]).into()];
    config.retry_delay = RETRY_DELAY;
    config.listen = SocketAddr::from(([127, 0, 0, 1], config.listen.port()));
    // Its own words are the demo's; logs only where something is wrong.
    telemetry::init_quiet().map_err(|error| error.to_string())?;
    if let Ok(app) = App::start(&config).await {
        return Ok(app);
    }
    config.listen.set_port(0);
    App::start(&config).await.map_err(|error| error.to_string())
}

/// Hands the events in and prints what happens to them.
async fn tell(posthorn: SocketAddr) -> Result<(), Stop> {
    let client = Client { http: reqwest::Client::new(), base: format!("http://{posthorn}") };
    // The receiver has to know the secret, which is there once the receiver's address is known.
    let placeholder = json!({ "target_url": "http://127.0.0.1:9/", "secret_key": SECRET_KEY,
        "description": "the demo's endpoint", "tenant": "acme" });
    let created = client.call(reqwest::Method::POST, "/subscriptions/", &placeholder).await?;
    let id = text(&created, "id")?;
    let signing_secret =
        SigningSecret::parse(&text(&created, "signing_secret")?).map_err(|e| e.to_string())?;
    let secret_key = SecretKey::parse(SECRET_KEY).map_err(|error| error.to_string())?;
    let options = Options {
        fail_first: Some(1),
        signing_secret: Some(signing_secret),
        secret_key: Some(secret_key.clone()),
        ..Options::default()
    };
    let mut receiver = Receiver::bind(options).await.map_err(|error| format!("the receiver: {error}"))?;
    let target = format!("http://{}/webhooks", receiver.address());
    let path = format!("/subscriptions/{id}");
    client.call(reqwest::Method::PUT, &path, &json!({ "target_url": target })).await?;
    print_text(&format!("posthorn serves http://{posthorn}, and a receiver listens on {target}"))?;
    print_text(&format!(
        "subscription {id} of tenant acme: strict order, signed, guarded by a secret key\n"
    ))?;

    let events = events();
    for event in &events {
        let body = event.to_string();
        let accepted = client.ingest(&id, body, &secret_key).await?;
        print_text(&format!(
            "  accepted {:18} as {}",
            text(event, "type")?,
            text(&accepted, "delivery_id")?
        ))?;
    }
    print_text(
        "\nThe receiver fails the first request. The retry waits a second, and the others wait for it:\n",
    )?;
    let mut arrived = 0;
    while arrived < events.len() {
        let arrival = receiver.next().await.ok_or("the receiver ended")?;
        print_text(&format!("  {}", line(&arrival)))?;
        arrived += usize::from(arrival.status.is_success());
    }
    client.settled(&id, events.len()).await?;
    let stats = client.get("/status/stats").await?;
    print_text(&format!(
        "\n{} of {} delivered, in order, {} failed, {} pending.",
        stats["recent_success_count"], arrived, stats["recent_failure_count"], stats["pending_deliveries"]
    ))
}

fn events() -> Vec<Value> {
    vec![
        json!({ "type": "order.created", "data": { "order": "A-1042", "total": "59.90", "currency": "EUR" } }),
        json!({ "type": "payment.captured", "data": { "order": "A-1042", "method": "card" } }),
        json!({ "type": "order.packed", "data": { "order": "A-1042", "parcels": 2 } }),
        json!({ "type": "order.shipped", "data": { "order": "A-1042", "carrier": "Thurn & Taxis" } }),
        json!({ "type": "order.delivered", "data": { "order": "A-1042", "signed_by": "M. Mustermann" } }),
    ]
}

struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    async fn call(&self, method: reqwest::Method, path: &str, body: &Value) -> Result<Value, String> {
        let request = self.http.request(method, format!("{}{path}", self.base));
        answer(request.header("content-type", "application/json").body(body.to_string())).await
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        answer(self.http.get(format!("{}{path}", self.base))).await
    }

    async fn ingest(&self, id: &str, body: String, key: &SecretKey) -> Result<Value, String> {
        let signature = key.sign(body.as_bytes());
        let request = self.http.post(format!("{}/ingest/{id}", self.base));
        let request = request.header("content-type", "application/json");
        answer(request.header("x-webhook-signature-256", signature).body(body)).await
    }

    /// Waits until every delivery is recorded as delivered.
    async fn settled(&self, id: &str, count: usize) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = self.get(&format!("/subscriptions/{id}/deliveries?status=success")).await?;
            if page["items"].as_array().is_some_and(|items| items.len() == count) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("not all of {count} deliveries were recorded as delivered"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Value, String> {
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = answer.text().await.map_err(|error| error.to_string())?;
    if !status.is_success() {
        return Err(format!("{status}: {body}"));
    }
    serde_json::from_str(&body).map_err(|error| error.to_string())
}

fn text(value: &Value, field: &str) -> Result<String, String> {
    value[field].as_str().map(str::to_owned).ok_or_else(|| format!("an answer without {field}"))
}

/// A temporary folder; removed with what is in it when dropped.
struct Folder(PathBuf);

impl Folder {
    fn create() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("posthorn-demo-{}", uuid::Uuid::now_v7()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
