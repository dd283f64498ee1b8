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
use posthorn_domain::api_key::{Access, Scope};
use posthorn_domain::audit::Actor;
use posthorn_domain::connections::Holder;
use posthorn_domain::header::parse_forwarded_for;
use posthorn_domain::tenant::Tenant;

use super::event_signature;
use super::host;
use super::keyring::Keyring;
use super::problem::Problem;
use super::server::Client;

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Has a key, or needs none.
    Known(Access, Actor),
    /// Has no valid key.
    Stranger,
}

impl Caller {
    /// Whoever the guard let pass; a stranger where none did.
    pub(crate) fn of_request(request: &Request) -> Self {
        request.extensions().get().cloned().unwrap_or(Self::Stranger)
    }

    /// Whose things it sees.
    pub(crate) const fn scope(&self) -> Scope<'_> {
        match self {
            Self::Known(access, _) => access.scope(),
            Self::Stranger => Scope::Nothing,
        }
    }

    /// The tenant whose share of what is bounded by tenant it uses; `None`: that of whoever is not a tenant.
    pub(crate) const fn payer(&self) -> Option<&Tenant> {
        match self.scope() {
            Scope::Tenant(tenant) => Some(tenant),
            Scope::All | Scope::Nothing => None,
        }
    }

    /// Whether what is `tenant`'s is there for it.
    pub(crate) fn sees(&self, tenant: &Tenant) -> bool {
        self.scope().sees(tenant)
    }

    pub(crate) fn is_admin(&self) -> bool {
        matches!(self, Self::Known(Access::Admin, _))
    }

    /// Who it is to the audit log.
    pub(crate) const fn actor(&self) -> Actor {
        match self {
            Self::Known(_, actor) => *actor,
            Self::Stranger => Actor::Anyone,
        }
    }

    /// Refuses who does not see everything.
    pub(crate) fn check_admin(&self) -> Result<(), Problem> {
        if self.is_admin() { Ok(()) } else { Err(Problem::forbidden()) }
    }
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
    keyring: Keyring,
    behind_proxy: bool,
    mut request: Request,
) -> Result<E::Output> {
    let door = Door::of(request.uri().path());
    let open = match door {
        // Nothing is opened here, so nothing is looked up either.
        Door::Free => keyring.was_open(),
        Door::Signed | Door::Keyed => keyring.is_open().await?,
    };
    host::check(&request, open)?;
    let caller = match bearer(request.headers()) {
        _ if open => Caller::Known(Access::Admin, Actor::Anyone),
        Some(key) if door != Door::Free => {
            let known = keyring.access(key, address(&request, behind_proxy)).await?;
            known.map_or(Caller::Stranger, |(access, actor)| Caller::Known(access, actor))
        }
        _ => Caller::Stranger,
    };
    match door {
        Door::Keyed if caller == Caller::Stranger => return Err(Problem::api_key_required().into()),
        Door::Signed if caller == Caller::Stranger && !event_signature::is_there(request.headers()) => {
            return Err(Problem::event_not_proved().into());
        }
        Door::Free | Door::Signed | Door::Keyed => {}
    }
    if let Some(client) = request.extensions().get::<Client>() {
        if let Some(holder) = holder(&caller, address(&request, behind_proxy)) {
            client.called_by(holder);
        }
        // Lists are read for it: there must be room for what it does not take at once.
        if door == Door::Keyed && request.method() == Method::GET {
            client.room_for_answer().await?;
        }
    }
    request.extensions_mut().insert(caller);
    next.call(request).await
}

/// In whose name memory is held for a request of `caller`; none where nobody knows.
fn holder(caller: &Caller, address: Option<IpAddr>) -> Option<Holder> {
    match caller {
        Caller::Known(Access::Admin, _) => Some(Holder::Admin),
        Caller::Known(Access::Tenant(tenant), _) => Some(Holder::Tenant(tenant.clone())),
        Caller::Stranger => address.map(Holder::of_address),
    }
}

/// Where a request comes from; behind a proxy, where the proxy says so. Only what the proxy itself saw counts, which
/// is the last there is: all before it came with the request.
fn address(request: &Request, behind_proxy: bool) -> Option<IpAddr> {
    let forwarded = request.headers().get_all(FORWARDED_FOR).iter().next_back().filter(|_| behind_proxy);
    let client = forwarded.and_then(|value| parse_forwarded_for(value.as_bytes()));
    client.or_else(|| request.remote_addr().as_socket_addr().map(SocketAddr::ip))
}

impl<'a> FromRequest<'a> for Caller {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> Result<Self> {
        Ok(Self::of_request(request))
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

    #[test]
    fn only_an_admin_is_one() {
        let tenant = Caller::Known(Access::Tenant(Tenant::default()), Actor::Anyone);
        for (caller, admin) in
            [(Caller::Known(Access::Admin, Actor::Anyone), true), (tenant, false), (Caller::Stranger, false)]
        {
            assert_eq!(caller.check_admin().is_ok(), admin, "{caller:?}");
        }
        assert!(!Caller::Stranger.sees(&Tenant::default()));
        assert_eq!(Caller::Stranger.scope(), Scope::Nothing, "no tenant is not all tenants");
    }
}
