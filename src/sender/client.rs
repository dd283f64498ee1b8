//! One attempt: guard, request, head, body.

use std::sync::Arc;
use std::time::Duration;

use posthorn_domain::address::AddressGuard;
use posthorn_domain::egress::EgressProxy;
use posthorn_domain::header::{parse_date, parse_retry_after};
use posthorn_domain::limits::{RESPONSE_BODY_KEPT_BYTES, RESPONSE_BODY_READ_BYTES, RESPONSE_BODY_READ_TIME};
use posthorn_domain::target::TargetUrl;
use posthorn_domain::time::Timestamp;
use reqwest::header::{CONNECTION, DATE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Version};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout_at};
use url::Origin;

use crate::sender::clients::{Clients, Setup};
use crate::sender::failure::{self, Failure};
use crate::sender::headers::headers_of;
use crate::sender::progress::Progress;
use crate::sender::resolver::Resolver;
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
pub(super) const STREAM_WINDOW: u32 = 64 * 1024;
const _: () = assert!(STREAM_WINDOW as usize == RESPONSE_BODY_READ_BYTES);

/// HTTP/2: bytes of bodies that one connection may hold unread, of all its answers together. Also
/// what lets a thousand answers of a few bytes each come at once: of small unread frames the client
/// takes half of this, at 256 bytes each.
pub(super) const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;

/// HTTP/2: the head of an answer. Four times as much, or more frames than it needs, ends the
/// connection. (Over HTTP/1.1 the client's buffer is the limit, at some 400 KiB.)
pub(super) const HEAD_BYTES_MAX: u32 = 64 * 1024;

/// HTTP/2: after this silence the endpoint is asked whether it is still there (PING).
pub(super) const PING_AFTER: Duration = Duration::from_secs(5);

/// HTTP/2: a connection on which that is not answered for so long is given up, with all that waits
/// on it. As long as an attempt has by default: a server that is merely busy gets that much.
pub(super) const PONG_WITHIN: Duration = Duration::from_secs(10);

/// Ends what is kept of a body that is longer.
const CUT: &str = "…";

/// What a [`Sender`] is handed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Judges every address before it is dialled.
    pub guard: AddressGuard,
    /// Value of `User-Agent`: `Posthorn/<version>`.
    pub user_agent: String,
    /// Everything goes through it, where there is one.
    pub proxy: Option<EgressProxy>,
}

/// Makes attempts; cheap to clone, and all clones share their connections.
#[derive(Clone)]
pub struct Sender {
    pub(super) clients: Clients,
    guard: Arc<AddressGuard>,
    proxy: Option<EgressProxy>,
}

impl Sender {
    /// A sender with connections of its own.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let resolver = Resolver::of_system(settings.guard.clone(), settings.proxy.as_ref());
        Self::build(settings, resolver, Vec::new())
    }

    /// As [`new`](Self::new), with names of one's own, and certificates that are trusted beside the system's.
    pub(super) fn build(
        settings: Settings,
        resolver: Resolver,
        trusted: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        let user_agent = HeaderValue::try_from(settings.user_agent).map_err(|_| Error::UserAgent)?;
        let setup = Setup::new(user_agent, resolver, Trust::new(trusted)?, settings.proxy.as_ref())?;
        Ok(Self { clients: Clients::new(setup), guard: Arc::new(settings.guard), proxy: settings.proxy })
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
                answered(response, deadline, duration, request).await
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

    /// Sends the request and waits for the head of the answer.
    async fn head(&self, request: &Request<'_>, deadline: Instant) -> Result<Response, Failure> {
        // The client asks the resolver for names only; literals it dials as they are.
        if let Some(address) = request.target.literal() {
            self.guard.check(address).map_err(|_| Failure::ForbiddenAddress)?;
        }
        // The guard lets the proxy's name pass, for the connection to it alone.
        let host = request.target.as_url().host_str();
        if self.proxy.as_ref().is_some_and(|proxy| Some(proxy.host()) == host) {
            return Err(Failure::ForbiddenAddress);
        }
        // Held until the head is here: from then on nothing is waited for.
        let (client, _turn) = self.clients.client(request).await?;
        let port = request.target.as_url().port_or_known_default().unwrap_or_default();
        let progress = Progress::new(port);
        let is_proxied = self.proxy.is_some();
        let sent = send(client, request, &progress, deadline, is_proxied).await;
        let is_stale = match &sent {
            Ok(response) => says_idle(response),
            Err(failed) => failed.connection_ended,
        };
        if is_stale && !progress.has_dialled() {
            // It went out on a kept connection that was being closed, and no byte of an answer came: that says nothing
            // of the endpoint.
            let progress = Progress::new(port);
            let client = self.clients.fresh_client(request).await?;
            let sent = send(client, request, &progress, deadline, is_proxied).await;
            return sent.map_err(|failed| failed.failure);
        }
        if matches!(&sent, Err(Failed { failure: Failure::Timeout, .. }))
            && let Some(name) = request.target.as_url().domain()
        {
            self.clients.doubt(name, port).await;
        }
        sent.map_err(|failed| failed.failure)
    }
}

/// Whether it is what servers say of a connection over HTTP/1.1 on which nothing came for a while, and close it
/// (RFC 9110 §15.5.9).
fn says_idle(response: &Response) -> bool {
    let closes = response
        .headers()
        .get(CONNECTION)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    response.status() == StatusCode::REQUEST_TIMEOUT && closes && response.version() <= Version::HTTP_11
}

/// A request that came to nothing.
struct Failed {
    failure: Failure,
    /// The connection ended, and not the request alone.
    connection_ended: bool,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, connection_ended: false }
    }
}

async fn send(
    client: Client,
    request: &Request<'_>,
    progress: &Arc<Progress>,
    deadline: Instant,
    is_proxied: bool,
) -> Result<Response, Failed> {
    let mut outgoing = reqwest::Request::new(Method::POST, request.target.as_url().clone());
    *outgoing.headers_mut() = headers_of(request).ok_or(Failure::InvalidRequest)?;
    *outgoing.body_mut() = Some(request.payload.clone().into());
    match timeout_at(deadline, progress.of(client.execute(outgoing))).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(Failed {
            failure: if is_proxied { Failure::of_proxied(&error) } else { Failure::of(&error) },
            connection_ended: failure::has_ended_connection(&error),
        }),
        Err(_) if progress.waits_for_name() => Err(Failure::NameNotInTime.into()),
        Err(_) => Err(Failure::Timeout.into()),
    }
}

async fn answered(response: Response, deadline: Instant, duration: Duration, request: &Request<'_>) -> Reply {
    let status = response.status();
    let error = (!status.is_success()).then(|| failed(status, response.headers(), request.target));
    let retry_after = retry_after(status, response.headers(), request.at.plus(duration));
    let body = read_body(response, deadline).await;
    Reply { status_code: Some(status.as_u16()), body: Some(body), error, retry_after, duration }
}

/// Why an answer of this status is a failure.
fn failed(status: StatusCode, headers: &HeaderMap, target: &TargetUrl) -> Failure {
    let location = headers.get(LOCATION).filter(|_| status.is_redirection());
    let location =
        location.and_then(|location| target.as_url().join(str::from_utf8(location.as_bytes()).ok()?).ok());
    // Only schemes that name a host have an origin to tell.
    match location.map(|url| url.origin()).filter(Origin::is_tuple) {
        Some(origin) => Failure::Redirect { status: status.as_u16(), origin: origin.ascii_serialization() },
        None => Failure::UnexpectedStatus(status.as_u16()),
    }
}

/// What a 429 or 503 asks; several values at once ask nothing certain. A date is one by the endpoint's clock, which its
/// `Date` tells.
fn retry_after(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let mut values = headers.get_all(RETRY_AFTER).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let of_endpoint = headers.get(DATE).and_then(|date| parse_date(date.as_bytes()));
    parse_retry_after(value.as_bytes(), of_endpoint.unwrap_or(now))
}

/// The start of the body, as far as it comes; where there is more than that it ends with [`CUT`]. A body read to its end
/// frees its connection for the next delivery; any other closes it or, on HTTP/2, its stream.
async fn read_body(mut response: Response, deadline: Instant) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut read = 0;
    while read < RESPONSE_BODY_READ_BYTES {
        // Neither a time-out nor an error changes what the head decided.
        let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await else { break };
        read += chunk.len();
        // One more than is kept tells whether there are more.
        let missing = RESPONSE_BODY_KEPT_BYTES + 1 - kept.len();
        kept.extend(chunk.into_iter().take(missing));
    }
    if kept.len() > RESPONSE_BODY_KEPT_BYTES {
        cut(&mut kept);
    }
    kept
}

/// Shortens a body to what is kept, the mark at its end included, without cutting a character of UTF-8 in two.
fn cut(body: &mut Vec<u8>) {
    let is_within_character = |byte: &u8| byte & 0b1100_0000 == 0b1000_0000;
    let end = RESPONSE_BODY_KEPT_BYTES - CUT.len();
    // No character has more bytes behind its first.
    let start = (end - 3..=end).rev().find(|at| body.get(*at).is_some_and(|byte| !is_within_character(byte)));
    body.truncate(start.unwrap_or(end));
    body.extend_from_slice(CUT.as_bytes());
}
