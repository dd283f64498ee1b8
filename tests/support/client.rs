//! An HTTP client that holds every answer against the OpenAPI document and the rules for errors.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::document::Document;
use super::wait::{PATIENCE, eventually, within};

/// What would show that an error repeats what a library or the database said.
const INSIDE: &[&str] = &[
    "SELECT ",
    "INSERT ",
    "UPDATE ",
    "sqlx",
    "sqlite",
    "hyper",
    "reqwest",
    "serde",
    "tokio",
    "panicked",
    "error returned from",
    ".rs:",
    "/src/",
    "/tmp/",
    "posthorn_test_",
];

/// Every byte as `%xx`, for a path or a query.
pub(crate) fn percent_encoded(text: &str) -> String {
    text.bytes().flat_map(|byte| format!("%{byte:02x}").into_bytes()).map(char::from).collect()
}

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    address: SocketAddr,
    key: Option<String>,
    document: Arc<Document>,
}

/// A subscription as its creator knows it.
#[derive(Clone, Debug)]
pub(crate) struct Subscribed {
    /// Its id.
    pub(crate) id: String,
    /// What its deliveries are signed with.
    pub(crate) signing_secret: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The call, for failures.
    pub(crate) call: String,
    /// The status code.
    pub(crate) status: u16,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The exact bytes.
    pub(crate) body: Vec<u8>,
    /// The body, where it is JSON; else null.
    pub(crate) json: Value,
}

/// A call being put together.
pub(crate) struct Call<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
}

impl Client {
    /// A client of the server at the address, with the key for `Authorization`.
    pub(crate) async fn connect(address: SocketAddr, key: Option<String>) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .build()
            .expect("a client");
        let document = http.get(format!("http://{address}/openapi.json")).send().await.expect("the document");
        let document =
            serde_json::from_slice(&document.bytes().await.unwrap()).expect("the document is JSON");
        Self { http, address, key, document: Arc::new(Document::new(document)) }
    }

    /// The same client with another key, or none.
    pub(crate) fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// The document that answers are held against.
    pub(crate) fn document(&self) -> &Document {
        &self.document
    }

    /// A call to be put together further.
    pub(crate) fn call(&self, method: Method, path: impl Into<String>) -> Call<'_> {
        let headers = self.key.iter().map(|key| ("authorization".to_owned(), format!("Bearer {key}").into()));
        Call { client: self, method, path: path.into(), headers: headers.collect(), body: None }
    }

    /// GET.
    pub(crate) async fn get(&self, path: impl Into<String>) -> Answer {
        self.call(Method::GET, path).send().await
    }

    /// POST without a body.
    pub(crate) async fn post(&self, path: impl Into<String>) -> Answer {
        self.call(Method::POST, path).send().await
    }

    /// POST of JSON.
    pub(crate) async fn post_json(&self, path: impl Into<String>, body: Value) -> Answer {
        self.call(Method::POST, path).json(&body).send().await
    }

    /// PUT of JSON.
    pub(crate) async fn put_json(&self, path: impl Into<String>, body: Value) -> Answer {
        self.call(Method::PUT, path).json(&body).send().await
    }

    /// DELETE.
    pub(crate) async fn delete(&self, path: impl Into<String>) -> Answer {
        self.call(Method::DELETE, path).send().await
    }

    /// Creates a subscription with further fields.
    pub(crate) async fn subscribe(&self, target_url: &str, fields: Value) -> Subscribed {
        let mut body = json!({"target_url": target_url});
        body.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap_or_default());
        let created = self.post_json("/subscriptions/", body).await.expect(201).json;
        let text =
            |name: &str| created[name].as_str().unwrap_or_else(|| panic!("{name} in {created}")).to_owned();
        Subscribed { id: text("id"), signing_secret: text("signing_secret") }
    }

    /// The subscription as it is now.
    pub(crate) async fn subscription(&self, id: &str) -> Value {
        self.get(format!("/subscriptions/{id}")).await.expect(200).json
    }

    /// Hands a JSON event in and answers the delivery's id.
    pub(crate) async fn ingest(&self, subscription: &str, event: Value) -> String {
        let answer = self.post_json(format!("/ingest/{subscription}"), event).await.expect(202);
        answer.text("delivery_id")
    }

    /// Hands in an event with an ordering key.
    pub(crate) async fn ingest_keyed(&self, subscription: &str, key: &str, event: Value) -> String {
        let call = self.call(Method::POST, format!("/ingest/{subscription}"));
        call.json(&event).header("posthorn-ordering-key", key).send().await.expect(202).text("delivery_id")
    }

    /// The delivery as it is now.
    pub(crate) async fn delivery(&self, id: &str) -> Value {
        self.get(format!("/deliveries/{id}")).await.expect(200).json
    }

    /// The delivery's attempts, oldest first.
    pub(crate) async fn attempts(&self, id: &str) -> Vec<Value> {
        let status = self.get(format!("/status/deliveries/{id}/status")).await.expect(200).json;
        status["attempts"].as_array().expect("attempts").clone()
    }

    /// The delivery, as soon as its status is this one.
    pub(crate) async fn delivery_in(&self, id: &str, status: &str) -> Value {
        let is = |delivery: &Value| delivery["status"] == status;
        self.delivery_once(id, &format!("status {status}"), is).await
    }

    /// The delivery, as soon as the condition holds for it.
    pub(crate) async fn delivery_once(&self, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let probe = || async {
            let delivery = self.delivery(id).await;
            if is(&delivery) { Ok(delivery) } else { Err(delivery.to_string()) }
        };
        eventually(&format!("delivery {id}: {what}"), probe).await
    }

    /// The subscription, as soon as the condition holds for it.
    pub(crate) async fn subscription_once(&self, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let probe = || async {
            let subscription = self.subscription(id).await;
            if is(&subscription) { Ok(subscription) } else { Err(subscription.to_string()) }
        };
        eventually(&format!("subscription {id}: {what}"), probe).await
    }

    /// Writes the bytes to a socket and reads until the server closes it or stays silent: for what
    /// no HTTP client would send. `Connection: close` is the caller's to ask for.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.expect("the server takes connections");
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = within(PATIENCE, "an answer and the connection's end", stream.read_to_end(&mut answer)).await;
        answer
    }
}

impl Call<'_> {
    /// With one header more; bytes, since not all that arrives is text.
    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// With these bytes and this content type.
    pub(crate) fn bytes(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut call = self.header("content-type", content_type);
        call.body = Some(body.into());
        call
    }

    /// With bytes and no content type.
    pub(crate) fn untyped(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// With a JSON body.
    pub(crate) fn json(self, body: &Value) -> Self {
        self.bytes("application/json", body.to_string())
    }

    /// Sends it and holds the answer against the document.
    pub(crate) async fn send(self) -> Answer {
        let Self { client, method, path, headers, body } = self;
        let mut request = client.http.request(method.clone(), format!("http://{}{path}", client.address));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let call = format!("{method} {path}");
        let response = request.send().await.unwrap_or_else(|error| panic!("{call}: {error:?}"));
        let answer = Answer::read(call, response).await;
        client.document.check(&method, &path, answer.status, answer.kind(), &answer.json);
        if answer.status >= 400 {
            answer.check_problem();
        }
        answer
    }

    /// Sends it where the server may be gone; none where no answer came.
    pub(crate) async fn try_send(self) -> Option<Answer> {
        let Self { client, method, path, headers, body } = self;
        let mut request = client.http.request(method.clone(), format!("http://{}{path}", client.address));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.body(body.unwrap_or_default()).send().await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.ok()?.to_vec();
        let json = serde_json::from_slice(&body).unwrap_or_default();
        Some(Answer { call: format!("{method} {path}"), status, headers, body, json })
    }
}

impl Answer {
    async fn read(call: String, response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.unwrap_or_else(|error| panic!("{call}: {error:?}")).to_vec();
        let json = headers.get("content-type").and_then(|kind| kind.to_str().ok()).is_some_and(is_json);
        let json = if json { serde_json::from_slice(&body).unwrap_or_default() } else { Value::Null };
        Self { call, status, headers, body, json }
    }

    /// The content type; empty where there is none.
    pub(crate) fn kind(&self) -> &str {
        self.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default()
    }

    /// The header's value, which must be there.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_else(|| panic!("{}: no {name} in {:?}", self.call, self.headers))
    }

    /// A text field of the body, which must be there.
    pub(crate) fn text(&self, name: &str) -> String {
        let value = self.json[name].as_str();
        value.unwrap_or_else(|| panic!("{}: no {name} in {}", self.call, self.shown())).to_owned()
    }

    /// The answer, whose status must be this one.
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.call, self.shown());
        self
    }

    /// The answer, whose status must be among these.
    pub(crate) fn expect_any(self, statuses: &[u16]) -> Self {
        assert!(statuses.contains(&self.status), "{}: {} {}", self.call, self.status, self.shown());
        self
    }

    /// The answer, a problem with this status that names the field.
    pub(crate) fn refuses_field(self, status: u16, field: &str) -> Self {
        let answer = self.expect(status);
        let faults = answer.json["errors"].as_array().cloned().unwrap_or_default();
        let named = |fault: &Value| {
            let pointer = fault["pointer"].as_str().unwrap_or_default();
            pointer == field || pointer.ends_with(&format!("/{field}"))
        };
        assert!(faults.iter().any(named), "{}: no pointer to {field} in {}", answer.call, answer.shown());
        answer
    }

    /// What every error answer must be: RFC 9457, without anything from inside.
    pub(crate) fn check_problem(&self) {
        let wrong = |what: &str| format!("{}: {} {what}: {}", self.call, self.status, self.shown());
        assert_eq!(self.kind(), "application/problem+json", "{}", wrong("content type"));
        assert!(
            self.json["type"].as_str().is_some_and(|kind| kind.starts_with("/problems/")),
            "{}",
            wrong("type")
        );
        assert_eq!(self.json["status"], self.status, "{}", wrong("status"));
        for field in ["title", "detail"] {
            assert!(self.json[field].as_str().is_some_and(|text| !text.is_empty()), "{}", wrong(field));
        }
        let shown = self.shown();
        let inside = INSIDE.iter().find(|word| shown.contains(*word));
        assert_eq!(inside, None, "{}", wrong("tells what is inside"));
        for fault in self.json["errors"].as_array().into_iter().flatten() {
            let told = fault["pointer"].is_string() && fault["detail"].is_string();
            assert!(told, "{}", wrong("errors need pointer and detail"));
        }
        match self.status {
            // At ingest it is the signature that is missing, for which no scheme is registered.
            401 if !self.call.contains("/ingest/") => {
                assert!(self.header("www-authenticate").starts_with("Bearer"), "{}", wrong("challenge"));
            }
            405 => assert!(!self.header("allow").is_empty(), "{}", wrong("Allow")),
            429 | 503 => {
                assert!(self.header("retry-after").parse::<u32>().is_ok(), "{}", wrong("Retry-After"));
            }
            status => assert_ne!(status, 500, "{}", wrong("is a bug")),
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(2000).collect()
    }
}

fn is_json(kind: &str) -> bool {
    kind.contains("json")
}
