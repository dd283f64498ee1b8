//! Under which name a server is asked, and by whose page.
//!
//! A request without a host is malformed (RFC 9112 §3.2). A server without keys listens on loopback, where any
//! page in a browser on the same machine can reach it: under a name of its own that it makes mean 127.0.0.1 (DNS
//! rebinding), or as 127.0.0.1 itself. So such a server answers only where nothing but this machine is named:
//!
//! - `Host`, and the authority of a target in absolute form, are a loopback address or `localhost`;
//! - `Origin`, which browsers add for a page that calls (Fetch, "append a request `Origin` header"), is `http://`
//!   or `https://` and the same;
//! - `Sec-Fetch-Site` (W3C Fetch Metadata), where it is sent, is `same-origin` or `none` (a person typed the
//!   address). Another port of this machine is `same-site`: whatever is served there is not Posthorn's.
//!
//! Texts are read strictly: what is not exactly one of these is refused, whatever a lenient parser makes of it.

use std::net::{Ipv4Addr, Ipv6Addr};

use poem::Request;
use poem::http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use super::problem::{Kind, Problem};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses a request that names no host or two, and on a server without keys one that names another machine's or
/// comes from a page of another's.
pub(crate) fn check(request: &Request, keyless: bool) -> Result<(), Problem> {
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() || (host.is_none() && request.version() == Version::HTTP_11) {
        return Err(Problem::new(Kind::MalformedRequest, "expected one Host header"));
    }
    if !keyless {
        return Ok(());
    }
    let authority = request.uri().authority();
    let names_us = host.is_some_and(|host| is_text(host, is_loopback))
        && authority.is_none_or(|authority| is_loopback(authority.as_str()));
    if !names_us {
        return Err(Problem::new(
            Kind::MisdirectedRequest,
            "without an API key the server answers to loopback addresses and to localhost only",
        ));
    }
    if !all(headers, &header::ORIGIN, is_loopback_origin) || !all(headers, &SEC_FETCH_SITE, is_own_site) {
        return Err(Problem::new(
            Kind::MisdirectedRequest,
            "without an API key the server does not answer to pages of other places",
        ));
    }
    Ok(())
}

fn all(headers: &HeaderMap, name: &HeaderName, check: fn(&str) -> bool) -> bool {
    headers.get_all(name).iter().all(|value| is_text(value, check))
}

fn is_text(value: &HeaderValue, check: fn(&str) -> bool) -> bool {
    value.to_str().is_ok_and(check)
}

/// Whether a request is one of the server's own pages' or a person's.
fn is_own_site(site: &str) -> bool {
    matches!(site, "same-origin" | "none")
}

/// Whether a page that calls comes from this machine. `null` is one that does not say.
fn is_loopback_origin(origin: &str) -> bool {
    let authority = ["http://", "https://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
    authority.is_some_and(is_loopback)
}

/// Whether `authority` is a loopback address or `localhost`, with a port or without, and nothing more.
fn is_loopback(authority: &str) -> bool {
    if let Some((address, port)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return port && address.parse() == Ok(Ipv6Addr::LOCALHOST);
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, is_port(port)),
        None => (authority, true),
    };
    let is_localhost = name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case("localhost");
    // The standard library takes four decimal numbers without leading zeros, and nothing else.
    port && (is_localhost || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback()))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_named() {
        for (authority, loopback) in [
            ("127.0.0.1", true),
            ("127.0.0.1:8000", true),
            ("127.255.3.4:1", true),
            ("[::1]:8000", true),
            ("[::1]", true),
            ("localhost", true),
            ("LocalHost:65535", true),
            ("localhost.:8000", true),
            ("", false),
            (":8000", false),
            ("localhost..", false),
            ("localhost:", false),
            ("localhost:65536", false),
            ("localhost:+80", false),
            ("localhost:80:80", false),
            ("localhost/", false),
            ("localhost,evil.example", false),
            (" localhost", false),
            ("a.localhost", false),
            ("posthorn", false),
            ("posthorn:8000", false),
            ("192.0.2.7", false),
            ("0.0.0.0", false),
            ("10.0.0.1:8000", false),
            ("127.1", false),
            ("0127.0.0.1", false),
            ("2130706433", false),
            ("0x7f.0.0.1", false),
            ("127.0.0.1.", false),
            ("127.0.0.1.evil.example", false),
            ("user:pass@localhost", false),
            ("user@127.0.0.1:8000", false),
            ("127.0.0.1:80@evil.example", false),
            ("localhost@evil.example", false),
            ("rebound.evil.example:8000", false),
            ("localhost.evil.example", false),
            ("[::]", false),
            ("[2001:db8::1]", false),
            ("[::1%lo]", false),
            ("[::ffff:192.0.2.7]", false),
            ("[::1]evil.example", false),
            ("[::1]:80@evil.example", false),
            ("[localhost]", false),
            ("::1", false),
        ] {
            assert_eq!(is_loopback(authority), loopback, "{authority}");
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
            (&["user:pass@localhost"], true, Some(Kind::MisdirectedRequest)),
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
        // Before HTTP/1.1 nobody had to say, and a target in absolute form says it as well.
        let old = Request::builder().version(Version::HTTP_10).finish();
        assert!(check(&old, true).is_err() && check(&old, false).is_ok());
        for (target, ours) in [
            ("http://127.0.0.1:8000/subscriptions", true),
            ("http://evil.example/subscriptions", false),
            ("http://127.0.0.1:80@evil.example/", false),
            ("http://user@localhost/", false),
        ] {
            let request = Request::builder().uri(target.parse().unwrap()).header("host", "localhost");
            assert_eq!(check(&request.finish(), true).is_ok(), ours, "{target}");
        }
    }

    #[test]
    fn keyless_servers_ask_whose_page_calls() {
        let refused = Some(Kind::MisdirectedRequest);
        for (name, values, kind) in [
            ("origin", &[][..], None),
            ("origin", &["http://127.0.0.1:8000"], None),
            ("origin", &["https://localhost:3000"], None),
            ("origin", &["http://[::1]"], None),
            ("origin", &["https://evil.example.com"], refused),
            ("origin", &["http://127.0.0.1.example.com"], refused),
            ("origin", &["http://127.0.0.1:80@evil.example"], refused),
            ("origin", &["http://192.0.2.7"], refused),
            ("origin", &["http://intranet"], refused),
            ("origin", &["http://localhost", "https://evil.example.com"], refused),
            ("origin", &["http://localhost/"], refused),
            ("origin", &["file://"], refused),
            ("origin", &["file://localhost"], refused),
            ("origin", &["chrome-extension://localhost"], refused),
            ("origin", &["moz-extension://127.0.0.1"], refused),
            ("origin", &["null"], refused),
            ("origin", &["localhost"], refused),
            ("origin", &[""], refused),
            ("sec-fetch-site", &["same-origin"], None),
            ("sec-fetch-site", &["none"], None),
            ("sec-fetch-site", &["same-site"], refused),
            ("sec-fetch-site", &["cross-site"], refused),
            ("sec-fetch-site", &["same-origin", "cross-site"], refused),
            ("sec-fetch-site", &["none, cross-site"], refused),
            ("sec-fetch-site", &[""], refused),
        ] {
            let builder = Request::builder().header("host", "127.0.0.1:8000");
            let builder = values.iter().fold(builder, |builder, value| builder.header(name, *value));
            let request = builder.finish();
            let found = check(&request, true).err().map(|problem| problem.kind());
            assert_eq!(found, kind, "{name}: {values:?}");
            assert!(check(&request, false).is_ok(), "with keys whoever has one may call: {values:?}");
        }
    }
}
