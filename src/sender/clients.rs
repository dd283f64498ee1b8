//! Whose connections a request goes over.
//!
//! A client has connections of its own, and names are looked up on behalf of whose it is. There is one for
//! each tenant, for each certificate that it shows, and for each hundred requests that are at once on their way to
//! one host over TLS: HTTP/2 sends all requests of one client to one host over one connection, and a server takes
//! only so many of them at once. So who fills a connection with requests that hang fills no other's,
//! and the next hundred dial another one.
//!
//! A client is made when it is needed, which costs some microseconds, and given up after a while with its
//! connections, so that none of them gets old: an endpoint that moves is followed. Those that are kept are bounded by
//! their number; a tenant that sends nothing has none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use posthorn_domain::certificate::ClientCertificate;
use posthorn_domain::egress::EgressProxy;
use posthorn_domain::limits::TIMEOUT_MAX;
use posthorn_domain::tenant::Tenant;
use reqwest::header::HeaderValue;
use reqwest::{Client, Proxy, redirect};
use rustls::ClientConfig;

use crate::sender::client::{
    CONNECTION_WINDOW, HEAD_BYTES_MAX, IDLE_PER_HOST_MAX, IDLE_TIME, PING_AFTER, PONG_WITHIN, STREAM_WINDOW,
};
use crate::sender::progress::dialling;
use crate::sender::resolver::{FOUND_TIME_MAX, Resolver, TenantResolver};
use crate::sender::tls::Trust;
use crate::sender::{Error, Failure, Request};

/// Clients that are kept for the next delivery, at some KiB each beside their connections; more are made anew as they are
/// needed.
const CLIENTS_MAX: u64 = 1024;

/// How old a client gets, and so its connections: with the age of what is known of a name, a minute until a move of
/// an endpoint is noticed. Dialling anew once in that time costs next to nothing.
pub(super) const CONNECTION_AGE_MAX: Duration = Duration::from_secs(40);
const _: () = assert!(CONNECTION_AGE_MAX.as_secs() + FOUND_TIME_MAX.as_secs() <= 60);

/// Requests on their way to one host over one connection, where that is HTTP/2: servers take as many or
/// more (RFC 9113 §6.5.2 asks for no less than 100).
pub(super) const STREAMS_MAX: u16 = 100;

/// Headers of an answer over HTTP/1.1; more of them make it an invalid one.
const HEADERS_MAX: usize = 256;

/// Connections over HTTP/1.1 that a further hundred keeps for one endpoint: they come and go with peaks.
const FURTHER_IDLE_MAX: usize = 8;

/// What clients have in common.
pub(super) struct Setup {
    user_agent: HeaderValue,
    resolver: Resolver,
    trust: Trust,
    /// Of connections on which no certificate is shown; one for all, so that they resume each other's sessions.
    plain: ClientConfig,
    proxy: Option<Proxy>,
}

impl Setup {
    pub(super) fn new(
        user_agent: HeaderValue,
        resolver: Resolver,
        trust: Trust,
        proxy: Option<&EgressProxy>,
    ) -> Result<Self, Error> {
        let plain = trust.config(None)?;
        let proxy = proxy.map(|proxy| Proxy::all(proxy.as_str())).transpose().map_err(|_| Error::Proxy)?;
        Ok(Self { user_agent, resolver, trust, plain, proxy })
    }
}

/// Gives each request its client.
#[derive(Clone)]
pub(super) struct Clients {
    setup: Arc<Setup>,
    kept: Cache<Whose, Client>,
    under_way: Arc<Mutex<UnderWay>>,
}

/// Whose connections: the tenant's, with the certificate that they show, and which hundred of requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Whose {
    tenant: Tenant,
    certificate: Option<[u8; 32]>,
    hundred: usize,
    /// Each request has a connection of its own.
    fresh: bool,
}

/// Per host, the requests on their way over the connections of each hundred.
type UnderWay = HashMap<Host, Vec<u16>>;

/// A tenant's connections to one host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Host {
    tenant: Tenant,
    certificate: Option<[u8; 32]>,
    origin: String,
}

/// A request's place among a hundred, for as long as it is on its way.
pub(super) struct Turn {
    under_way: Arc<Mutex<UnderWay>>,
    host: Host,
    hundred: usize,
}

impl Clients {
    pub(super) fn new(setup: Setup) -> Self {
        let kept = Cache::builder()
            .max_capacity(CLIENTS_MAX)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(CONNECTION_AGE_MAX);
        Self { setup: Arc::new(setup), kept: kept.build(), under_way: Arc::default() }
    }

    /// The client for a request, and what is to be held as long as the request is on its way.
    pub(super) async fn client(&self, request: &Request<'_>) -> Result<(Client, Option<Turn>), Failure> {
        let certificate = request.client_certificate.map(ClientCertificate::id);
        // Without TLS each request has a connection of its own.
        let turn = (request.target.as_url().scheme() == "https").then(|| {
            let origin = request.target.origin();
            Turn::take(&self.under_way, Host { tenant: request.tenant.clone(), certificate, origin })
        });
        let hundred = turn.as_ref().map_or(0, |turn| turn.hundred);
        let idle_max = if hundred == 0 { IDLE_PER_HOST_MAX } else { FURTHER_IDLE_MAX };
        let whose = Whose { tenant: request.tenant.clone(), certificate, hundred, fresh: false };
        Ok((self.kept(request, whose, idle_max).await?, turn))
    }

    /// A client that makes a connection for each request.
    pub(super) async fn fresh_client(&self, request: &Request<'_>) -> Result<Client, Failure> {
        let certificate = request.client_certificate.map(ClientCertificate::id);
        let whose = Whose { tenant: request.tenant.clone(), certificate, hundred: 0, fresh: true };
        self.kept(request, whose, 0).await
    }

    async fn kept(&self, request: &Request<'_>, whose: Whose, idle_max: usize) -> Result<Client, Failure> {
        let build = async { self.setup.client(request.tenant, request.client_certificate, idle_max) };
        self.kept.try_get_with(whose, build).await.map_err(|error| {
            tracing::warn!(%error, "no client for a request");
            Failure::Tls
        })
    }

    /// An attempt at this target got no answer.
    pub(super) async fn doubt(&self, name: &str, port: u16) {
        self.setup.resolver.doubt(name, port).await;
    }
}

impl Turn {
    /// A place in the first hundred that has one.
    fn take(under_way: &Arc<Mutex<UnderWay>>, host: Host) -> Self {
        let mut hosts = lock(under_way);
        let counts = hosts.entry(host.clone()).or_default();
        let hundred = counts.iter().position(|count| *count < STREAMS_MAX).unwrap_or(counts.len());
        match counts.get_mut(hundred) {
            Some(count) => *count += 1,
            None => counts.push(1),
        }
        drop(hosts);
        Self { under_way: Arc::clone(under_way), host, hundred }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut hosts = lock(&self.under_way);
        let Some(counts) = hosts.get_mut(&self.host) else { return };
        if let Some(count) = counts.get_mut(self.hundred) {
            *count = count.saturating_sub(1);
        }
        while counts.last() == Some(&0) {
            counts.pop();
        }
        if counts.is_empty() {
            hosts.remove(&self.host);
        }
    }
}

/// A number is changed under it, which does not panic.
fn lock(under_way: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Setup {
    /// A client with connections of its own, on which `shown` is shown where that is asked.
    fn client(
        &self,
        tenant: &Tenant,
        shown: Option<&ClientCertificate>,
        idle_max: usize,
    ) -> Result<Client, Error> {
        let config = match shown {
            // Sessions belong to whom they were made for.
            Some(_) => self.trust.config(shown)?,
            None => self.plain.clone(),
        };
        let resolver = TenantResolver { tenant: tenant.clone(), resolver: self.resolver.clone() };
        // No `retry`: by default the client sends again just what the endpoint says it has not taken.
        let builder = match &self.proxy {
            Some(proxy) => Client::builder().proxy(proxy.clone()),
            // Nor one of the environment.
            None => Client::builder().no_proxy(),
        };
        builder
            .user_agent(self.user_agent.clone())
            .redirect(redirect::Policy::none())
            .referer(false)
            .tcp_nodelay(true)
            // The status line decides: what comes after it is read with the leniency of curl.
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_max_headers(HEADERS_MAX)
            .connector_layer(dialling())
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
            .pool_max_idle_per_host(idle_max)
            .dns_resolver(Arc::new(resolver))
            .tls_backend_preconfigured(config)
            .build()
            .map_err(|error| Error::Tls(innermost(&error)))
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hundred_with_room_is_taken() {
        let under_way = Arc::new(Mutex::new(UnderWay::new()));
        let host = |tenant: &str| Host {
            tenant: tenant.parse().unwrap(),
            certificate: None,
            origin: "https://example.com".to_owned(),
        };
        let mut turns: Vec<Turn> = (0..250).map(|_| Turn::take(&under_way, host("a"))).collect();
        assert_eq!(turns.iter().map(|turn| turn.hundred).max(), Some(2));
        assert_eq!(Turn::take(&under_way, host("b")).hundred, 0, "another tenant's are its own");
        drop(turns.remove(0));
        assert_eq!(Turn::take(&under_way, host("a")).hundred, 0);
        drop(turns.split_off(99));
        assert_eq!(lock(&under_way).get(&host("a")), Some(&vec![99]));
        drop(turns);
        assert!(lock(&under_way).is_empty());
    }
}
