//! Where a delivery may go, judged as text.

use std::net::IpAddr;

/// An absolute http or https address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetUrl(url::Url);

/// Why a text is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not an absolute http or https address.
    #[error("expected an absolute http or https URL")]
    Malformed,
}

impl TargetUrl {
    /// Takes an absolute http or https address.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        url::Url::parse(text).map(Self).map_err(|_| TargetError::Malformed)
    }

    /// The whole address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The address as the HTTP client wants it.
    #[must_use]
    pub fn as_url(&self) -> &url::Url {
        &self.0
    }

    /// The host, where it is an address and not a name.
    #[must_use]
    pub fn literal(&self) -> Option<IpAddr> {
        match self.0.host()? {
            url::Host::Ipv4(ip) => Some(ip.into()),
            url::Host::Ipv6(ip) => Some(ip.into()),
            url::Host::Domain(_) => None,
        }
    }
}
