//! Under which name a server is asked.
//!
//! A request without a host is malformed (RFC 9112 §3.2). A server without keys listens on loopback,
//! where any page in a browser on the same machine can reach it once the page's own name is made to
//! mean 127.0.0.1 (DNS rebinding). The browser then sends that name, so such a server answers to
//! addresses and to names without a dot only: nobody on the internet owns one. A page of the internet can also
//! send a form to 127.0.0.1 as what it is. The browser then names the page in `Origin` (Fetch, "append a request
//! `Origin` header"), and such a page is refused as well.

use std::net::{Ipv4Addr, Ipv6Addr};

use poem::Request;
use poem::http::{HeaderValue, Version, header};

use super::problem::{Kind, Problem};

/// Refuses a request that names no host or two, and on a server without keys one that names another's or comes
/// from a page of another's.
pub(super) fn check(request: &Request, keyless: bool) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() || (host.is_none() && request.version() == Version::HTTP_11) {
        return Err(Problem::new(Kind::MalformedRequest, "expected one Host header"));
    }
    let named = host.map_or(Some(""), |host| host.to_str().ok());
    // A target in absolute form counts over the header (RFC 9112 §3.2.2).
    let named = request.uri().authority().map_or(named, |authority| Some(authority.as_str()));
    if keyless && !named.is_some_and(is_local) {
        return Err(Problem::new(
            Kind::MisdirectedRequest,
            "without an API key the server answers to addresses and to names without a dot",
        ));
    }
    if keyless && !request.headers().get_all(header::ORIGIN).iter().all(is_local_origin) {
        return Err(Problem::new(
            Kind::MisdirectedRequest,
            "without an API key the server does not answer to pages of the internet",
        ));
    }
    Ok(())
}

/// Whether a page that calls comes from an address or a name that nobody on the internet owns. `null` is one that
/// does not say.
fn is_local_origin(origin: &HeaderValue) -> bool {
    let host = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    host.is_some_and(|(_, host)| is_local(host))
}

/// Whether `host`, with a port or without, is an address or a name that nobody on the internet owns.
fn is_local(host: &str) -> bool {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.contains('.') || name.ends_with(".localhost") || name.parse::<Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_internet_are_not_ours() {
        for (host, local) in [
            ("127.0.0.1", true),
            ("127.0.0.1:8000", true),
            ("[::1]:8000", true),
            ("localhost", true),
            ("localhost.:8000", true),
            ("posthorn:8000", true),
            ("a.localhost", true),
            ("192.0.2.7", true),
            ("rebound.example.com", false),
            ("rebound.example.com:8000", false),
            ("127.0.0.1.example.com", false),
            ("localhost.example.com", false),
            ("[rebound.example.com]", false),
        ] {
            assert_eq!(is_local(host), local, "{host}");
        }
    }

    #[test]
    fn keyless_servers_ask_for_the_host() {
        let request = |hosts: &[&str]| {
            let builder =
                hosts.iter().fold(Request::builder(), |builder, host| builder.header("host", *host));
            builder.finish()
        };
        for (hosts, keyless, kind) in [
            (&["example.com"][..], true, Some(Kind::MisdirectedRequest)),
            (&["example.com"], false, None),
            (&["localhost"], true, None),
            (&[], true, Some(Kind::MalformedRequest)),
            (&[], false, Some(Kind::MalformedRequest)),
            (&["localhost", "localhost"], false, Some(Kind::MalformedRequest)),
        ] {
            assert_eq!(
                check(&request(hosts), keyless).err().map(|problem| problem.kind()),
                kind,
                "{hosts:?}"
            );
        }
    }

    #[test]
    fn keyless_servers_ask_whose_page_calls() {
        for (origins, kind) in [
            (&[][..], None),
            (&["http://127.0.0.1:8000"], None),
            (&["http://localhost:3000"], None),
            (&["http://[::1]"], None),
            (&["https://evil.example.com"], Some(Kind::MisdirectedRequest)),
            (&["http://127.0.0.1.example.com"], Some(Kind::MisdirectedRequest)),
            (&["http://localhost", "https://evil.example.com"], Some(Kind::MisdirectedRequest)),
            (&["null"], Some(Kind::MisdirectedRequest)),
            (&[""], Some(Kind::MisdirectedRequest)),
        ] {
            let builder = Request::builder().header("host", "127.0.0.1:8000");
            let builder = origins.iter().fold(builder, |builder, origin| builder.header("origin", *origin));
            let request = builder.finish();
            assert_eq!(check(&request, true).err().map(|problem| problem.kind()), kind, "{origins:?}");
            assert!(check(&request, false).is_ok(), "with keys whoever has one may call: {origins:?}");
        }
    }
}
