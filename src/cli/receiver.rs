//! A receiver of webhooks for trying things out: verifies, answers as it was told, and says what
//! arrived.
//!
//! Verification is done by an independent implementation of Standard Webhooks, so that what it
//! calls right is right for other receivers too. On loopback only; never meant for real events.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use poem::endpoint::make;
use poem::http::{HeaderMap, StatusCode};
use poem::listener::TcpAcceptor;
use poem::{Request, Response, Server};
use posthorn_domain::limits::PAYLOAD_BYTES_MAX;
use posthorn_domain::signature::{SecretKey, SigningSecret};
use posthorn_domain::time::Timestamp;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Clock;

/// Arrivals that wait to be looked at; beyond, requests wait for their answer.
const ARRIVALS_WAITING_MAX: usize = 1024;

const BODY_SIGNATURE: &str = "x-webhook-signature-256";

/// How to receive and answer.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Port on 127.0.0.1; 0 picks a free one.
    pub port: u16,
    /// The answer's status; 200 where none is given. With `fail_first` that of the failing ones
    /// alone.
    pub status: Option<StatusCode>,
    /// How many requests fail before all others succeed; none: no such thing.
    pub fail_first: Option<u32>,
    /// How long to wait before answering.
    pub delay: Duration,
    /// Value of `Retry-After` in answers other than 2xx, in seconds.
    pub retry_after: Option<u32>,
    /// Verifies `webhook-signature`.
    pub signing_secret: Option<SigningSecret>,
    /// Verifies `X-Webhook-Signature-256`.
    pub secret_key: Option<SecretKey>,
}

/// Whether a request's signatures are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No secret was given to check them with.
    Unchecked,
    /// All that were checked are right.
    Verified,
    /// One is not, and why.
    Wrong(String),
}

/// One request that arrived. Whoever sent it need not be Posthorn, so its headers may be anything,
/// though nothing but visible ASCII.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When.
    pub at: Timestamp,
    /// Its method.
    pub method: String,
    /// Its path, with the query.
    pub path: String,
    /// `webhook-id`.
    pub delivery_id: Option<String>,
    /// `Posthorn-Sequence`.
    pub sequence: Option<String>,
    /// `Posthorn-Attempt`.
    pub attempt: Option<String>,
    /// Its body.
    pub payload: Bytes,
    /// Whether it is signed right.
    pub verdict: Verdict,
    /// What it is answered, after the delay.
    pub status: StatusCode,
}

/// Receives until it is dropped.
pub struct Receiver {
    address: SocketAddr,
    arrivals: mpsc::Receiver<Arrival>,
    _server: AbortOnDropHandle<io::Result<()>>,
}

impl Receiver {
    /// Starts receiving, on loopback.
    pub async fn bind(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
        let address = listener.local_addr()?;
        let acceptor = TcpAcceptor::from_tokio(listener)?;
        let (sender, arrivals) = mpsc::channel(ARRIVALS_WAITING_MAX);
        let answerer = Answerer { options, failed: AtomicU32::new(0), arrivals: sender };
        let answerer = Arc::new(answerer);
        let endpoint = make(move |request| {
            let answerer = Arc::clone(&answerer);
            async move { answerer.answer(request).await }
        });
        let server = tokio::spawn(Server::new_with_acceptor(acceptor).run(endpoint));
        Ok(Self { address, arrivals, _server: AbortOnDropHandle::new(server) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request, as soon as it is here, before it is answered; none where the server
    /// ended. The future may be dropped; nothing is lost.
    pub async fn next(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }
}

struct Answerer {
    options: Options,
    failed: AtomicU32,
    arrivals: mpsc::Sender<Arrival>,
}

impl Answerer {
    async fn answer(&self, request: Request) -> poem::Result<Response> {
        let (parts, body) = request.into_parts();
        let payload = body.into_bytes_limit(PAYLOAD_BYTES_MAX).await?;
        let verdict = self.verify(&parts.headers, &payload);
        let status = match verdict {
            Verdict::Wrong(_) => StatusCode::UNAUTHORIZED,
            Verdict::Unchecked | Verdict::Verified => self.next_status(),
        };
        let header = |name| parts.headers.get(name)?.to_str().ok().map(str::to_owned);
        let arrival = Arrival {
            at: Clock::system().now(),
            method: parts.method.to_string(),
            path: parts.uri.to_string(),
            delivery_id: header("webhook-id"),
            sequence: header("posthorn-sequence"),
            attempt: header("posthorn-attempt"),
            payload,
            verdict,
            status,
        };
        // Told before the delay: a sender that gives up takes this future with it. Where nobody
        // looks, answering is still the point.
        let _ = self.arrivals.send(arrival).await;
        tokio::time::sleep(self.options.delay).await;
        Ok(self.response(status))
    }

    /// Counts one request.
    fn next_status(&self) -> StatusCode {
        let Some(fail_first) = self.options.fail_first else {
            return self.options.status.unwrap_or(StatusCode::OK);
        };
        let count = |failed: u32| (failed < fail_first).then_some(failed + 1);
        match self.failed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) {
            Ok(_) => self.options.status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            Err(_) => StatusCode::OK,
        }
    }

    fn response(&self, status: StatusCode) -> Response {
        let response = Response::builder().status(status);
        match self.options.retry_after {
            Some(seconds) if !status.is_success() => response.header("retry-after", seconds).finish(),
            _ => response.finish(),
        }
    }

    fn verify(&self, headers: &HeaderMap, payload: &[u8]) -> Verdict {
        let delivery =
            self.options.signing_secret.as_ref().map(|secret| verify_delivery(secret, headers, payload));
        let body = self.options.secret_key.as_ref().map(|key| verify_body(key, headers, payload));
        let mut checks = [delivery, body].into_iter().flatten().peekable();
        if checks.peek().is_none() {
            return Verdict::Unchecked;
        }
        checks.collect::<Result<(), String>>().map_or_else(Verdict::Wrong, |()| Verdict::Verified)
    }
}

fn verify_delivery(secret: &SigningSecret, headers: &HeaderMap, payload: &[u8]) -> Result<(), String> {
    Webhook::new(&secret.expose())
        .and_then(|webhook| webhook.verify(payload, headers))
        .map_err(|error| format!("webhook-signature: {error}"))
}

fn verify_body(key: &SecretKey, headers: &HeaderMap, payload: &[u8]) -> Result<(), String> {
    match headers.get(BODY_SIGNATURE) {
        None => Err(format!("{BODY_SIGNATURE}: missing header")),
        Some(value) if key.verify(value.as_bytes(), payload) => Ok(()),
        Some(_) => Err(format!("{BODY_SIGNATURE}: signature invalid")),
    }
}

#[cfg(test)]
mod tests {
    use posthorn_domain::id::DeliveryId;
    use uuid::Uuid;

    use super::*;

    const ID: DeliveryId = DeliveryId(Uuid::from_u128(7));
    const BODY: &str = "{\"order\":17}";

    fn secret(byte: u8) -> SigningSecret {
        SigningSecret::from_random([byte; 32])
    }

    fn key(text: &str) -> SecretKey {
        SecretKey::parse(text).unwrap()
    }

    /// Posts a delivery signed with `secret(1)` and `key("right")`; the answer and what arrived.
    async fn post(receiver: &mut Receiver) -> (reqwest::Response, Arrival) {
        let at = Clock::system().now();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client
            .post(format!("http://{}/hook?a=b", receiver.address()))
            .header("webhook-id", ID.to_string())
            .header("webhook-timestamp", at.as_seconds())
            .header("webhook-signature", secret(1).sign(ID, at, BODY.as_bytes()))
            .header(BODY_SIGNATURE, key("right").sign(BODY.as_bytes()))
            .header("posthorn-sequence", 42)
            .header("posthorn-attempt", 3)
            .body(BODY);
        let both = async { tokio::join!(request.send(), receiver.next()) };
        let (response, arrival) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
        (response.unwrap(), arrival.unwrap())
    }

    async fn check(options: Options, expected: &[u16]) {
        let mut receiver = Receiver::bind(options).await.unwrap();
        for &status in expected {
            let (response, arrival) = post(&mut receiver).await;
            assert_eq!((response.status().as_u16(), arrival.status.as_u16()), (status, status));
        }
    }

    #[tokio::test]
    async fn says_what_arrived() {
        let mut receiver = Receiver::bind(Options::default()).await.unwrap();
        let (response, arrival) = post(&mut receiver).await;
        assert_eq!(response.status(), 200);
        assert_eq!((arrival.method.as_str(), arrival.path.as_str()), ("POST", "/hook?a=b"));
        assert_eq!(arrival.delivery_id, Some(ID.to_string()));
        assert_eq!((arrival.sequence.as_deref(), arrival.attempt.as_deref()), (Some("42"), Some("3")));
        assert_eq!((&arrival.payload[..], arrival.verdict), (BODY.as_bytes(), Verdict::Unchecked));
    }

    #[tokio::test]
    async fn answers_as_it_was_told() {
        let teapot = Some(StatusCode::IM_A_TEAPOT);
        check(Options::default(), &[200, 200]).await;
        check(Options { status: teapot, ..Options::default() }, &[418, 418]).await;
        check(Options { fail_first: Some(2), ..Options::default() }, &[500, 500, 200, 200]).await;
        check(Options { fail_first: Some(1), status: teapot, ..Options::default() }, &[418, 200]).await;
        check(Options { fail_first: Some(0), ..Options::default() }, &[200]).await;
    }

    #[tokio::test]
    async fn retry_after_goes_with_failures() {
        let options = Options { fail_first: Some(1), retry_after: Some(7), ..Options::default() };
        let mut receiver = Receiver::bind(options).await.unwrap();
        let (failed, _) = post(&mut receiver).await;
        assert_eq!(failed.headers().get("retry-after").unwrap(), "7");
        let (succeeded, _) = post(&mut receiver).await;
        assert_eq!(succeeded.headers().get("retry-after"), None);
    }

    #[tokio::test]
    async fn delays_its_answers() {
        let delay = Duration::from_millis(300);
        let mut receiver = Receiver::bind(Options { delay, ..Options::default() }).await.unwrap();
        let begun = std::time::Instant::now();
        post(&mut receiver).await;
        assert!(begun.elapsed() >= delay);
    }

    #[tokio::test]
    async fn wrong_signatures_are_answered_401() {
        let (right, wrong) = (Some(secret(1)), Some(secret(2)));
        let (right_key, wrong_key) = (Some(key("right")), Some(key("wrong")));
        for (signing_secret, secret_key, problem) in [
            (right.clone(), None, None),
            (right.clone(), right_key.clone(), None),
            (None, right_key.clone(), None),
            (wrong.clone(), None, Some("webhook-signature: signature invalid")),
            (wrong, right_key, Some("webhook-signature: signature invalid")),
            (right, wrong_key, Some("x-webhook-signature-256: signature invalid")),
        ] {
            let options = Options { signing_secret, secret_key, ..Options::default() };
            let mut receiver = Receiver::bind(options).await.unwrap();
            let (response, arrival) = post(&mut receiver).await;
            let wrong = problem.map(|text| Verdict::Wrong(text.to_owned()));
            assert_eq!(response.status(), if wrong.is_some() { 401 } else { 200 });
            assert_eq!(arrival.verdict, wrong.unwrap_or(Verdict::Verified));
        }
    }

    #[tokio::test]
    async fn missing_signatures_are_wrong() {
        for (signing_secret, secret_key) in [(Some(secret(1)), None), (None, Some(key("right")))] {
            let options = Options { signing_secret, secret_key, ..Options::default() };
            let mut receiver = Receiver::bind(options).await.unwrap();
            let url = format!("http://{}/", receiver.address());
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let (response, arrival) = tokio::join!(client.get(url).send(), receiver.next());
            assert_eq!(response.unwrap().status(), 401);
            assert!(
                matches!(arrival.unwrap().verdict, Verdict::Wrong(text) if text.contains("missing header"))
            );
        }
    }
}
