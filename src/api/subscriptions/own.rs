//! Whether a target is this server's own ingest: an event sent there would come in again, and go out again.
//!
//! Told as far as it can be known: by the address that the server listens on, and by the name under which the
//! client called it. What leads back through another name or another system is told by `Posthorn-Hops`.

use std::net::{IpAddr, SocketAddr};

use poem::Request;
use poem::http::header::HOST;
use poem::http::uri::Authority;
use posthorn_domain::target::TargetUrl;
use uuid::Uuid;

/// Where this server is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own<'a> {
    /// What it listens on.
    pub(super) listen: SocketAddr,
    /// As what the client called it: a host, with a port or without.
    pub(super) host: Option<&'a str>,
}

impl<'a> Own<'a> {
    pub(super) fn new(listen: SocketAddr, request: &'a Request) -> Self {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        // A target in absolute form counts over the header (RFC 9112 §3.2.2).
        let host = request.uri().authority().map(Authority::as_str).or(host);
        Self { listen, host }
    }

    /// Whether events sent to `target` come in here.
    pub(super) fn takes_in(&self, target: &TargetUrl) -> bool {
        leads_to_ingest(target) && (self.listens_at(target) || self.is_called_as(target))
    }

    fn listens_at(&self, target: &TargetUrl) -> bool {
        let ip = self.listen.ip();
        let here = ip.is_loopback() || ip.is_unspecified();
        let named = target.literal().map_or(target.is_localhost() && here, |literal| {
            let literal = literal.to_canonical();
            // What is sent to no address in particular arrives at this machine.
            literal == ip.to_canonical()
                || literal.is_unspecified() && here
                || is_loopback(literal) && ip.is_unspecified()
        });
        named && target.as_url().port_or_known_default() == Some(self.listen.port())
    }

    fn is_called_as(&self, target: &TargetUrl) -> bool {
        let Some(called) = self.host.and_then(|host| host.parse::<Authority>().ok()) else { return false };
        let name = |host: &str| host.trim_end_matches('.').to_ascii_lowercase();
        let url = target.as_url();
        url.host_str().map(name) == Some(name(called.host()))
            && url.port() == explicit_port(&called, url.scheme())
    }
}

/// The port, unless the scheme says it already.
fn explicit_port(called: &Authority, scheme: &str) -> Option<u16> {
    let usual = if scheme == "https" { 443 } else { 80 };
    called.port_u16().filter(|port| *port != usual)
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// `/ingest/{id}`; more slashes make no difference.
fn leads_to_ingest(target: &TargetUrl) -> bool {
    let mut segments = target.as_url().path().split('/').filter(|segment| !segment.is_empty());
    let parts = (segments.next(), segments.next(), segments.next());
    matches!(parts, (Some("ingest"), Some(id), None) if Uuid::try_parse(id).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_ingest_is_known() {
        const ID: &str = "01938d1e-7c00-7000-8000-000000000001";
        let on =
            |listen: &'static str, host: Option<&'static str>| Own { listen: listen.parse().unwrap(), host };
        let (loopback, six) = (on("127.0.0.1:8000", None), on("[::1]:8000", None));
        let everywhere = on("0.0.0.0:8000", None);
        let behind_proxy = on("10.0.0.7:8000", Some("Hooks.Example.com"));
        let with_port = on("10.0.0.7:8000", Some("hooks.example.com:8443"));
        for (own, origin, known) in [
            (loopback, "http://127.0.0.1:8000", true),
            (loopback, "http://2130706433:8000", true),
            (loopback, "http://[::ffff:127.0.0.1]:8000", true),
            (loopback, "http://0.0.0.0:8000", true),
            (loopback, "http://localhost:8000", true),
            (loopback, "http://a.localhost.:8000", true),
            (loopback, "https://localhost:8000", true),
            (loopback, "http://127.0.0.1:8001", false),
            (loopback, "http://127.0.0.1", false),
            (loopback, "http://127.0.0.2:8000", false),
            (loopback, "http://example.com:8000", false),
            (six, "http://[::1]:8000", true),
            (six, "http://127.0.0.1:8000", false),
            (everywhere, "http://127.0.0.2:8000", true),
            (everywhere, "http://localhost:8000", true),
            (everywhere, "http://10.0.0.7:8000", false),
            (behind_proxy, "http://10.0.0.7:8000", true),
            (behind_proxy, "http://localhost:8000", false),
            (behind_proxy, "https://hooks.example.com", true),
            (behind_proxy, "https://hooks.example.com.:443", true),
            (behind_proxy, "https://hooks.example.com:8443", false),
            (behind_proxy, "https://other.example.com", false),
            (with_port, "https://hooks.example.com:8443", true),
            (with_port, "https://hooks.example.com", false),
        ] {
            let target = |path: &str| TargetUrl::parse(&format!("{origin}{path}")).unwrap();
            assert_eq!(own.takes_in(&target(&format!("/ingest/{ID}"))), known, "{origin} of {own:?}");
            assert_eq!(own.takes_in(&target(&format!("//ingest/{ID}/?a=b"))), known, "{origin} of {own:?}");
            for path in ["/", "/ingest", "/ingest/hook", "/hooks/ingest", &format!("/ingest/{ID}/more")] {
                assert!(!own.takes_in(&target(path)), "{origin}{path} of {own:?}");
            }
        }
    }
}
