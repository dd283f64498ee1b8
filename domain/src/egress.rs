//! The proxy that deliveries go through, where the network lets nothing else out.

use std::fmt;

use url::Url;

/// What an operator may write.
pub const EGRESS_PROXY_EXPECTED: &str =
    "http://HOST:PORT or socks5://HOST:PORT, with USER:PASSWORD@ before the host where the proxy asks for it";

/// An HTTP proxy (RFC 9110 §9.3.6, `CONNECT`, for https targets) or one of SOCKS version 5 (RFC 1928).
///
/// Its address may hold a password: `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct EgressProxy(Url);

/// Why a text names no proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {EGRESS_PROXY_EXPECTED}")]
pub struct EgressProxyError;

impl EgressProxy {
    /// Takes an address.
    pub fn parse(text: &str) -> Result<Self, EgressProxyError> {
        let mut url = Url::parse(text).map_err(|_| EgressProxyError)?;
        // As of targets: what parses URLs does so for some schemes alone.
        let host = url.host_str().map(str::to_ascii_lowercase);
        url.set_host(host.as_deref()).map_err(|_| EgressProxyError)?;
        let is_known = ["http", "socks5"].contains(&url.scheme());
        let is_bare = ["", "/"].contains(&url.path()) && url.query().is_none() && url.fragment().is_none();
        let has_host = url.host_str().is_some_and(|host| !host.is_empty());
        let has_port = url.port_or_known_default().is_some();
        if is_known && is_bare && has_host && has_port { Ok(Self(url)) } else { Err(EgressProxyError) }
    }

    /// With the user and the password, if there are any.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Its name or address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

impl fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EgressProxy({}://…)", self.0.scheme())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_named_by_scheme_host_and_port() {
        for (text, host) in [
            ("http://10.0.0.1:3128", Some("10.0.0.1")),
            ("http://proxy", Some("proxy")),
            ("http://user:pass@proxy.internal:3128/", Some("proxy.internal")),
            ("socks5://[::1]:1080", Some("[::1]")),
            ("socks5://User:Pass@Proxy.Internal:1080", Some("proxy.internal")),
            ("http://Proxy.Internal:3128", Some("proxy.internal")),
            ("socks5://proxy", None),
            ("https://proxy:3128", None),
            ("socks5h://proxy:1080", None),
            ("http://proxy:3128/path", None),
            ("http://proxy:3128?x", None),
            ("http://", None),
            ("proxy:3128", None),
            ("", None),
        ] {
            let proxy = EgressProxy::parse(text);
            assert_eq!(proxy.as_ref().ok().map(EgressProxy::host), host, "{text}");
        }
        let secret = EgressProxy::parse("http://user:canary@proxy:1").unwrap();
        assert!(!format!("{secret:?}").contains("canary"));
        assert!(secret.as_str().contains("canary"));
        let spelt = EgressProxy::parse("socks5://User:Pass@Proxy.Internal:1080").unwrap();
        assert_eq!(spelt.as_str(), "socks5://User:Pass@proxy.internal:1080", "the host alone");
    }
}
