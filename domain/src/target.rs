//! Where a delivery may go, judged as text; [`crate::address`] judges the address behind it.
//!
//! Two readings must agree: the text as a person wrote it, and what the `url` crate makes of it.
//! That crate follows the WHATWG URL Standard and mends much in silence (`http:host`, `http:\\host`,
//! a tab within the host, percent-encoded digits), so that a text can mean another place than it
//! seems to. What it would mend is refused here; what it reads is what is dialled.
//!
//! A target is kept as it was written, so that it reads back the same, and so that parsing what was
//! stored gives the same target again.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use crate::limits::TARGET_URL_CHARS_MAX;

/// An absolute http or https address without userinfo, of at most 2,048 characters.
///
/// `Debug` shows its [`origin`](Self::origin) only: paths and queries hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct TargetUrl {
    text: String,
    url: Url,
}

/// Why a text is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Longer than [`TARGET_URL_CHARS_MAX`].
    #[error("expected an http or https URL of at most {TARGET_URL_CHARS_MAX} characters")]
    TooLong,
    /// White space, a control character or a backslash.
    #[error("expected a URL without spaces, control characters and backslashes")]
    Character,
    /// Not an absolute http or https address.
    #[error("expected an absolute URL that begins with http:// or https:// and a host")]
    Malformed,
    /// A user name or a password before the host.
    #[error("expected a URL without a user name or password; credentials go into a static header")]
    Userinfo,
    /// A percent sign in the host: an encoded character, or an IPv6 zone.
    #[error("expected a host without percent-encoded characters or a zone")]
    EncodedHost,
    /// Port 0, which nothing listens on.
    #[error("expected a port from 1 to 65535")]
    Port,
}

impl TargetUrl {
    /// Takes an absolute http or https address.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        // In bytes first: a text of megabytes is not walked.
        if text.len() > 4 * TARGET_URL_CHARS_MAX || text.chars().count() > TARGET_URL_CHARS_MAX {
            return Err(TargetError::TooLong);
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(TargetError::Character);
        }
        check_authority(authority(text).ok_or(TargetError::Malformed)?)?;
        let url = Url::parse(text).map_err(|_| TargetError::Malformed)?;
        if url.port() == Some(0) {
            return Err(TargetError::Port);
        }
        if url.host().is_none() {
            return Err(TargetError::Malformed);
        }
        Ok(Self { text: text.to_owned(), url })
    }

    /// The whole address, as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The address as the HTTP client wants it.
    #[must_use]
    pub fn as_url(&self) -> &Url {
        &self.url
    }

    /// The host, where it is an address and not a name.
    #[must_use]
    pub fn literal(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Ipv4(ip) => Some(ip.into()),
            Host::Ipv6(ip) => Some(ip.into()),
            Host::Domain(_) => None,
        }
    }

    /// Scheme, host and port, for logs: `https://example.com:8443`. Ports that go without saying
    /// are left out.
    #[must_use]
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Whether the host [is a name of this machine](is_localhost).
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        matches!(self.url.host(), Some(Host::Domain(name)) if is_localhost(name))
    }
}

/// Whether `name`, in lower case, always means this machine: `localhost` and what ends in it
/// (RFC 6761 §6.3).
#[must_use]
pub fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

impl fmt::Debug for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TargetUrl({}…)", self.origin())
    }
}

/// What stands between `//` and the path, query or fragment (RFC 3986 §3.2).
fn authority(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    rest.split(['/', '?', '#']).next().filter(|authority| known && !authority.is_empty())
}

fn check_authority(authority: &str) -> Result<(), TargetError> {
    if authority.contains('@') {
        Err(TargetError::Userinfo)
    } else if authority.contains('%') {
        Err(TargetError::EncodedHost)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn targets_read_back_as_they_were_written() {
        for text in [
            "http://example.com",
            "https://example.com/",
            "HTTPS://Example.COM:8443/Hooks/%41?a=b c".replace(' ', "+").as_str(),
            "http://[2001:4860::8888]:8080/x",
            "http://127.0.0.1:9/@/a@b",
            "https://münchen.example/ä?ö#ü",
            "http://example.com?//user@host",
            "http://example.com:",
        ] {
            let target = TargetUrl::parse(text).unwrap();
            assert_eq!(target.as_str(), text);
        }
    }

    #[test]
    fn what_would_be_mended_is_refused() {
        use TargetError::{Character, EncodedHost, Malformed, Port, Userinfo};
        for (text, error) in [
            ("", Malformed),
            ("example.com", Malformed),
            ("/path", Malformed),
            ("//example.com/", Malformed),
            ("http:example.com", Malformed),
            ("http:/example.com", Malformed),
            ("http:///example.com", Malformed),
            ("http://", Malformed),
            ("http://?q", Malformed),
            ("http://:80/", Malformed),
            ("ftp://example.com/", Malformed),
            ("file:///etc/passwd", Malformed),
            ("javascript://example.com/", Malformed),
            ("https+x://example.com/", Malformed),
            ("http://256.1.1.1/", Malformed),
            ("http://1.2.3.4.5/", Malformed),
            ("http://[::1", Malformed),
            ("http://example.com:99999/", Malformed),
            ("http://exa<mple.com/", Malformed),
            ("http://example.com:0/", Port),
            ("http://127.0.0.1:00/", Port),
            ("http://user@example.com/", Userinfo),
            ("http://user:password@example.com/", Userinfo),
            ("http://@example.com/", Userinfo),
            ("http://example.com:80@127.0.0.1/", Userinfo),
            ("http://%3127.0.0.1/", EncodedHost),
            ("http://example%2ecom/", EncodedHost),
            ("http://[fe80::1%25eth0]/", EncodedHost),
            ("http:\\\\example.com\\", Character),
            ("http://example.com\\@127.0.0.1/", Character),
            (" http://example.com/", Character),
            ("http://example.com/ ", Character),
            ("http://exam\tple.com/", Character),
            ("http://example.com/\r\nx: y", Character),
            ("http://example.com/\0", Character),
            ("http://example.com/a b", Character),
            ("http://example.com/\u{a0}", Character),
            ("http://example.com/\u{2028}", Character),
        ] {
            assert_eq!(TargetUrl::parse(text).err(), Some(error), "{text:?}");
        }
    }

    #[test]
    fn length_is_counted_in_characters() {
        let of = |chars: usize| format!("http://example.com/{}", "ä".repeat(chars - 19));
        assert!(TargetUrl::parse(&of(TARGET_URL_CHARS_MAX)).is_ok());
        assert_eq!(TargetUrl::parse(&of(TARGET_URL_CHARS_MAX + 1)), Err(TargetError::TooLong));
        assert_eq!(TargetUrl::parse(&of(1_000_000)), Err(TargetError::TooLong));
    }

    #[test]
    fn logs_see_neither_path_nor_query() {
        for (text, origin) in [
            ("https://example.com/secret?token=1", "https://example.com"),
            ("https://example.com:443/secret", "https://example.com"),
            ("http://Example.com:443?secret", "http://example.com:443"),
            ("http://[::1]:80/secret", "http://[::1]"),
        ] {
            let target = TargetUrl::parse(text).unwrap();
            assert_eq!(target.origin(), origin);
            assert_eq!(format!("{target:?}"), format!("TargetUrl({origin}…)"));
        }
    }

    #[test]
    fn names_of_this_machine_are_known() {
        for (host, local) in [
            ("localhost", true),
            ("LOCALHOST.", true),
            ("a.b.localhost", true),
            ("ｌｏｃａｌｈｏｓｔ", true),
            ("localhost.example.com", false),
            ("notlocalhost", false),
            ("127.0.0.1", false),
        ] {
            let target = TargetUrl::parse(&format!("http://{host}:1/")).unwrap();
            assert_eq!(target.is_localhost(), local, "{host}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_taken_leads_back(
            text in prop_oneof![".{0,60}", "https?:/{0,3}[a-z0-9.:@%\\\\\\[\\] \t]{0,30}(/.{0,20})?"]
        ) {
            if let Ok(target) = TargetUrl::parse(&text) {
                prop_assert_eq!(TargetUrl::parse(target.as_str()), Ok(target.clone()));
                prop_assert!(matches!(target.as_url().scheme(), "http" | "https"));
                prop_assert!(target.as_url().username().is_empty() && target.as_url().password().is_none());
                // What the standard's form of it says is the same place.
                let standard = TargetUrl::parse(target.as_url().as_str());
                prop_assert_eq!(standard.map(|target| target.url), Ok(target.url));
            }
        }
    }
}
