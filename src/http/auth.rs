//! Who calls.
//!
//! Every route but the public ones needs an API key. Ingest takes a right signature as well, and decides of it by
//! itself ([`super::ingest`]); who has neither is refused here, with nothing read. On a laptop everyone may do
//! everything until there is a first key; the server then listens on loopback only, and answers to nothing that
//! names another place ([`super::host`]).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use poem::http::{HeaderMap, HeaderName, Method, header};
use poem::{Endpoint, FromRequest, Request, RequestBody, Result};
use posthorn_domain::audit::Actor;
use posthorn_domain::connections::Holder;
use posthorn_domain::header::parse_forwarded_for;

use super::event_signature;
use super::host;
use super::problem::Problem;
use super::server::Client;
use crate::service::{Access, Service};

/// The access that [`guard`] found for the request.
pub(crate) fn access_of(request: &Request) -> Access {
    request.extensions().get().cloned().unwrap_or(Access::Anonymous)
}

/// The key in `Authorization: Bearer <key>` (RFC 6750 §2.1); none where the header comes twice.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    (values.next().is_none() && scheme.eq_ignore_ascii_case(b"Bearer ")).then(|| key.trim_ascii())
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What a path asks of who enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// Nothing.
    Free,
    /// A key, or a right signature.
    Signed,
    /// A key.
    Keyed,
}

impl Door {
    fn of(path: &str) -> Self {
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        match segments.next().unwrap_or_default() {
            "health" | "docs" | "redoc" | "openapi.json" | "openapi.yaml" | "problems" | ".well-known" => {
                Self::Free
            }
            "ingest" => Self::Signed,
            _ => Self::Keyed,
        }
    }
}

/// Tells who calls, and refuses strangers where they may not enter.
pub(crate) async fn guard<E: Endpoint>(
    next: Arc<E>,
    service: Service,
    behind_proxy: bool,
    mut request: Request,
) -> Result<E::Output> {
    let door = Door::of(request.uri().path());
    let open = match door {
        // Nothing is opened here, so nothing is looked up either.
        Door::Free => service.was_open(),
        Door::Signed | Door::Keyed => service.is_open().await.map_err(Problem::from)?,
    };
    host::check(&request, open)?;
    let access = match bearer(request.headers()) {
        _ if open => Access::Admin(Actor::Anyone),
        Some(key) if door != Door::Free => {
            let address = address(&request, behind_proxy);
            service.access_of_key(key, address).await.map_err(Problem::from)?
        }
        _ => Access::Anonymous,
    };
    match door {
        Door::Keyed if access == Access::Anonymous => return Err(Problem::api_key_required().into()),
        Door::Signed if access == Access::Anonymous && !event_signature::is_there(request.headers()) => {
            return Err(Problem::event_not_proved().into());
        }
        Door::Free | Door::Signed | Door::Keyed => {}
    }
    if let Some(client) = request.extensions().get::<Client>() {
        if let Some(holder) = holder(&access, address(&request, behind_proxy)) {
            client.called_by(holder);
        }
        // Lists are read for it: there must be room for what it does not take at once.
        if door == Door::Keyed && request.method() == Method::GET {
            client.room_for_answer().await?;
        }
    }
    request.extensions_mut().insert(access);
    next.call(request).await
}

/// In whose name memory is held for a request; none where nobody knows.
fn holder(access: &Access, address: Option<IpAddr>) -> Option<Holder> {
    match access {
        Access::Admin(_) => Some(Holder::Admin),
        Access::Tenant(tenant, _) => Some(Holder::Tenant(tenant.clone())),
        Access::Ingest(_) | Access::Anonymous => address.map(Holder::of_address),
    }
}

/// Where a request comes from; behind a proxy, where the proxy says so. Only what the proxy itself saw counts, which
/// is the last there is: all before it came with the request.
fn address(request: &Request, behind_proxy: bool) -> Option<IpAddr> {
    let forwarded = request.headers().get_all(FORWARDED_FOR).iter().next_back().filter(|_| behind_proxy);
    let client = forwarded.and_then(|value| parse_forwarded_for(value.as_bytes()));
    client.or_else(|| request.remote_addr().as_socket_addr().map(SocketAddr::ip))
}

impl<'a> FromRequest<'a> for Access {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> Result<Self> {
        Ok(access_of(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_once_and_as_bearers() {
        for (values, key) in [
            (&["Bearer the key"][..], Some("the key")),
            (&["bearer  the key "], Some("the key")),
            (&["Bearer "], Some("")),
            (&[], None),
            (&["Bearer"], None),
            (&["Basic the key"], None),
            (&["the key"], None),
            (&["Bearer the key", "Bearer the key"], None),
        ] {
            let headers: HeaderMap =
                values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap())).collect();
            assert_eq!(bearer(&headers), key.map(str::as_bytes), "{values:?}");
        }
    }

    #[test]
    fn only_a_proxy_in_front_says_who_calls() {
        let request = |values: &[&str]| {
            let mut request = Request::builder().finish();
            let values = values.iter().map(|value| (FORWARDED_FOR, value.parse().unwrap()));
            request.headers_mut().extend(values);
            request
        };
        let client: IpAddr = "192.0.2.7".parse().unwrap();
        for (values, found) in [
            (&["192.0.2.7"][..], Some(client)),
            (&["10.0.0.1, 192.0.2.7"], Some(client)),
            (&["10.0.0.1", "192.0.2.7"], Some(client)),
            (&["192.0.2.7, unknown"], None),
            (&[], None),
        ] {
            assert_eq!(address(&request(values), true), found, "{values:?}");
            assert_eq!(address(&request(values), false), None, "{values:?}");
        }
    }

    #[test]
    fn few_paths_are_free() {
        for (path, door) in [
            ("/health", Door::Free),
            ("/health/ready", Door::Free),
            ("//docs/", Door::Free),
            ("/openapi.json", Door::Free),
            ("/problems/not-found", Door::Free),
            ("/.well-known/webhook-keys/7", Door::Free),
            ("/ingest/7", Door::Signed),
            ("/", Door::Keyed),
            ("/subscriptions", Door::Keyed),
            ("/healthy", Door::Keyed),
            ("/status/stats", Door::Keyed),
            ("/keys", Door::Keyed),
            ("/%68ealth", Door::Keyed),
        ] {
            assert_eq!(Door::of(path), door, "{path}");
        }
    }
}
