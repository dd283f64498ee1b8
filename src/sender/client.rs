//! One attempt: guard, request, head, body.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use posthorn_domain::address::AddressGuard;
use posthorn_domain::certificate::ClientCertificate;
use posthorn_domain::header::parse_retry_after;
use posthorn_domain::limits::{
    RESPONSE_BODY_KEPT_BYTES, RESPONSE_BODY_READ_BYTES, RESPONSE_BODY_READ_TIME, TIMEOUT_MAX,
};
use posthorn_domain::time::Timestamp;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, redirect};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout_at};

use crate::sender::failure::Failure;
use crate::sender::headers::headers_of;
use crate::sender::resolver::{Resolver, look_up};
use crate::sender::tls::Trust;
use crate::sender::{Error, Reply, Request};

/// How long a connection is kept for the next delivery: below the 2 to 5 s after which common
/// servers close theirs. One closed just as a request goes out makes that attempt fail.
///
/// HTTP/2 counts it from the start of the last attempt. It is what bounds the kept ones of all
/// endpoints together, for which the client has no number: each served an attempt, which had a place
/// in flight, within this time and as much again until it is cleared away.
pub(super) const IDLE_TIME: Duration = Duration::from_millis(1500);

/// Connections kept for one endpoint; more would hoard its sockets and ours. Of HTTP/2 it is one.
pub(super) const IDLE_PER_HOST_MAX: usize = 128;

/// HTTP/2: how long an answer's body may be that needs no further leave to come: all that is read.
const STREAM_WINDOW: u32 = 64 * 1024;
const _: () = assert!(STREAM_WINDOW as usize == RESPONSE_BODY_READ_BYTES);

/// HTTP/2: bytes of bodies that one connection may hold unread, of all its answers together. Also
/// what lets a thousand answers of a few bytes each come at once: of small unread frames the client
/// takes half of this, at 256 bytes each.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;

/// HTTP/2: the head of an answer. Four times as much, or more frames than it needs, ends the
/// connection. (Over HTTP/1.1 the client's buffer is the limit, at some 400 KiB.)
const HEAD_BYTES_MAX: u32 = 64 * 1024;

/// HTTP/2: after this silence the endpoint is asked whether it is still there (PING).
pub(super) const PING_AFTER: Duration = Duration::from_secs(5);

/// HTTP/2: a connection on which that is not answered for so long is given up, with all that waits
/// on it. As long as an attempt has by default: a server that is merely busy gets that much.
pub(super) const PONG_WITHIN: Duration = Duration::from_secs(10);

/// What a [`Sender`] is handed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Judges every address before it is dialled.
    pub guard: AddressGuard,
    /// Value of `User-Agent`: `Posthorn/<version>`.
    pub user_agent: String,
}

/// Clients with a certificate of their own that are kept, with their connections, for the next delivery; more are made
/// anew as they are needed.
const IDENTIFIED_MAX: u64 = 256;
/// How long after its last use.
const IDENTIFIED_TIME: Duration = Duration::from_mins(1);

/// Makes attempts; cheap to clone, and all clones share their connections.
#[derive(Clone)]
pub struct Sender {
    /// Shows no certificate.
    pub(super) client: Client,
    /// By the certificate that they show.
    identified: Cache<[u8; 32], Client>,
    setup: Setup,
}

/// What clients have in common.
#[derive(Clone)]
struct Setup {
    guard: AddressGuard,
    user_agent: HeaderValue,
    resolver: Arc<Resolver>,
    trust: Trust,
}

impl Sender {
    /// A sender with connections of its own.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let resolver = Resolver::new(settings.guard.clone(), look_up);
        Self::build(settings, resolver, Vec::new())
    }

    /// As [`new`](Self::new), with names of one's own, and certificates that are trusted beside the system's.
    pub(super) fn build(
        settings: Settings,
        resolver: Resolver,
        trusted: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        let setup = Setup {
            guard: settings.guard,
            user_agent: HeaderValue::try_from(settings.user_agent).map_err(|_| Error::UserAgent)?,
            resolver: Arc::new(resolver),
            trust: Trust::new(trusted)?,
        };
        let identified = Cache::builder().max_capacity(IDENTIFIED_MAX).time_to_idle(IDENTIFIED_TIME).build();
        Ok(Self { client: setup.client(None)?, identified, setup })
    }

    /// Makes one attempt. Dropping the future gives the attempt up, and closes its connection or, on
    /// HTTP/2, its stream.
    pub async fn attempt(&self, request: &Request<'_>) -> Reply {
        let start = Instant::now();
        let deadline = start + request.timeout;
        match self.head(request, deadline).await {
            Ok(response) => {
                let duration = start.elapsed();
                let deadline = deadline.min(Instant::now() + RESPONSE_BODY_READ_TIME);
                answered(response, deadline, duration, request.at).await
            }
            Err(failure) => Reply {
                status_code: None,
                body: None,
                error: Some(failure),
                retry_after: None,
                duration: start.elapsed(),
            },
        }
    }

    async fn client_that_shows(&self, shown: Option<&ClientCertificate>) -> Result<Client, Failure> {
        let Some(shown) = shown else { return Ok(self.client.clone()) };
        let client = self.identified.try_get_with(shown.id(), async { self.setup.client(Some(shown)) }).await;
        client.map_err(|error| {
            tracing::warn!(%error, "no client for a certificate");
            Failure::Tls
        })
    }

    /// Sends the request and waits for the head of the answer.
    async fn head(&self, request: &Request<'_>, deadline: Instant) -> Result<Response, Failure> {
        // The client asks the resolver for names only; literals it dials as they are.
        if let Some(address) = request.target.literal() {
            self.setup.guard.check(address).map_err(|_| Failure::ForbiddenAddress)?;
        }
        let mut outgoing = reqwest::Request::new(Method::POST, request.target.as_url().clone());
        *outgoing.headers_mut() = headers_of(request).ok_or(Failure::InvalidRequest)?;
        *outgoing.body_mut() = Some(request.payload.clone().into());
        let client = self.client_that_shows(request.client_certificate).await?;
        match timeout_at(deadline, client.execute(outgoing)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(_) => Err(Failure::Timeout),
        }
    }
}

impl Setup {
    /// A client with connections of its own, on which `shown` is shown where that is asked.
    fn client(&self, shown: Option<&ClientCertificate>) -> Result<Client, Error> {
        // No `retry`: by default the client sends again just what the endpoint says it has not taken.
        Client::builder()
            .user_agent(self.user_agent.clone())
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .tcp_nodelay(true)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_header_list_size(HEAD_BYTES_MAX)
            .http2_keep_alive_interval(PING_AFTER)
            .http2_keep_alive_timeout(PONG_WITHIN)
            // Else one that can't get its last bytes out would stay open after its attempts are over.
            .http2_keep_alive_while_idle(true)
            // Attempts have their own time-outs; this ends what outlives them in the background.
            .connect_timeout(TIMEOUT_MAX)
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .dns_resolver(self.resolver.clone())
            .tls_backend_preconfigured(self.trust.config(shown)?)
            .build()
            .map_err(|error| Error::Tls(innermost(&error)))
    }
}

async fn answered(response: Response, deadline: Instant, duration: Duration, at: Timestamp) -> Reply {
    let status = response.status();
    let error = (!status.is_success()).then_some(Failure::UnexpectedStatus(status.as_u16()));
    let retry_after = retry_after(status, response.headers(), at.plus(duration));
    let body = read_body(response, deadline).await;
    Reply { status_code: Some(status.as_u16()), body: Some(body), error, retry_after, duration }
}

/// What a 429 or 503 asks; several values at once ask nothing certain.
fn retry_after(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let mut values = headers.get_all(RETRY_AFTER).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    parse_retry_after(value.as_bytes(), now)
}

/// The start of the body, as far as it comes. A body read to its end frees its connection for the
/// next delivery; any other closes it or, on HTTP/2, its stream.
async fn read_body(mut response: Response, deadline: Instant) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut read = 0;
    while read < RESPONSE_BODY_READ_BYTES {
        // Neither a time-out nor an error changes what the head decided.
        let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await else { break };
        read += chunk.len();
        let missing = RESPONSE_BODY_KEPT_BYTES - kept.len();
        kept.extend(chunk.into_iter().take(missing));
    }
    kept
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
