//! Header values that come in or are sent along.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};

use secrecy::{ExposeSecret as _, SecretString};

use crate::limits::{
    KEY_CHARS_MAX, RETRY_DELAY_MAX, STATIC_HEADER_BYTES_MAX, STATIC_HEADER_NAME_BYTES_MAX, STATIC_HEADERS_MAX,
};
use crate::time::Timestamp;

/// Headers that a subscription sends along with each delivery, by name in lower case.
///
/// At most 32, none twice, values of at most 4 KiB of printable ASCII.
/// Values may be secrets: `Debug` does not show them, and they are wiped from memory when they are dropped.
#[derive(Clone, Debug, Default)]
pub struct StaticHeaders(BTreeMap<String, SecretString>);

impl PartialEq for StaticHeaders {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for StaticHeaders {}

/// Why a header may not be sent along.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct StaticHeaderError {
    /// The name at fault, as it came in; empty where it is their number.
    pub name: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl StaticHeaders {
    /// Takes names and values.
    pub fn parse(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, StaticHeaderError> {
        Self::parse_with(pairs, check_name)
    }

    /// Headers as they were stored. Takes other spellings of refused names (`content_length`), which releases up to
    /// 0.1 let pass: what a subscription sends does not change with an upgrade.
    pub fn from_stored(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, StaticHeaderError> {
        Self::parse_with(pairs, check_spelling)
    }

    fn parse_with(
        pairs: impl IntoIterator<Item = (String, String)>,
        check_name: fn(&str) -> Result<(), &'static str>,
    ) -> Result<Self, StaticHeaderError> {
        let mut headers = BTreeMap::new();
        for (name, value) in pairs {
            if headers.len() == STATIC_HEADERS_MAX {
                return Err(StaticHeaderError {
                    name: String::new(),
                    problem: "expected at most 32 headers",
                });
            }
            let lower = name.to_ascii_lowercase();
            if let Err(problem) = check_name(&lower).and_then(|()| check_value(&value)) {
                return Err(StaticHeaderError { name, problem });
            }
            if headers.insert(lower, value.into()).is_some() {
                return Err(StaticHeaderError {
                    name,
                    problem: "expected each name once, whatever its case",
                });
            }
        }
        Ok(Self(headers))
    }

    /// The names alone, each with an empty value.
    #[must_use]
    pub fn without_values(self) -> Self {
        Self(self.0.into_keys().map(|name| (name, SecretString::default())).collect())
    }

    /// Names in lower case, with their values; in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.expose_secret()))
    }
}

/// Whether a subscription may set `name`, which is in lower case. Many servers hand headers on as variables, in which
/// each character other than a letter or digit is `_` (RFC 3875 §4.1.18): to them `webhook_signature` and
/// `webhook.signature` are `webhook-signature`.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    check_spelling(name)?;
    let one_spelling: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    check_spelling(&one_spelling)
}

/// As [`check_name`], of this spelling alone.
fn check_spelling(name: &str) -> Result<(), &'static str> {
    check_token(name)?;
    if is_of_connection(name)
        || OWN_NAMES.contains(&name)
        || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    {
        return Err(
            "expected a name that is neither set by Posthorn nor part of the connection's own business",
        );
    }
    Ok(())
}

/// Whether it can be the name of a header.
pub(crate) fn check_token(name: &str) -> Result<(), &'static str> {
    if !(1..=STATIC_HEADER_NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_token_byte) {
        return Err("expected a header name: 1 to 128 letters, digits and !#$%&'*+-.^_`|~");
    }
    Ok(())
}

/// Whether a header of this name, which is in lower case, is the connection's own business.
pub(crate) fn is_of_connection(name: &str) -> bool {
    CONNECTION_NAMES.contains(&name)
}

pub(crate) fn check_value(value: &str) -> Result<(), &'static str> {
    if value.len() > STATIC_HEADER_BYTES_MAX {
        return Err("expected a value of at most 4096 bytes");
    }
    // RFC 9110 §5.5: what is not ASCII means nothing certain to receivers, and space around a value
    // is not part of it.
    let printable = value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    if printable && value.trim_ascii() == value {
        Ok(())
    } else {
        Err("expected a value of printable ASCII characters, without space around it")
    }
}

/// RFC 9110 §5.6.2, "token".
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Names of the connection (RFC 9110 §7.6.1 and what older texts add), and those that say how the body is framed or
/// awaited.
const CONNECTION_NAMES: [&str; 12] = [
    "connection",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What Posthorn says itself.
const OWN_NAMES: [&str; 2] = ["user-agent", "x-webhook-signature-256"];
const OWN_PREFIXES: [&str; 3] = ["content-", "posthorn-", "webhook-"];

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {KEY_CHARS_MAX} printable ASCII characters")]
pub struct KeyError;

/// An idempotency or ordering key: 1 to 255 characters from `!` to `~`, and spaces between them
/// (HTTP itself takes those around a value away).
pub fn parse_key(value: &[u8]) -> Result<&str, KeyError> {
    let printable = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if printable && value.trim_ascii() == value && (1..=KEY_CHARS_MAX).contains(&value.len()) {
        std::str::from_utf8(value).map_err(|_| KeyError)
    } else {
        Err(KeyError)
    }
}

/// How long `Retry-After` asks to wait (RFC 9110 §10.2.3): seconds, or a date in any of HTTP's three forms, which is
/// read against `now`. Decimals, which some servers send, are rounded up. At most [`RETRY_DELAY_MAX`]; zero where the
/// date is past; `None` where the value is anything else.
#[must_use]
pub fn parse_retry_after(value: &[u8], now: Timestamp) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    let delay = seconds(text).or_else(|| Some(parse_date(value)?.since(now)))?;
    Some(delay.min(RETRY_DELAY_MAX))
}

/// Seconds with or without decimals, rounded up.
fn seconds(text: &str) -> Option<Duration> {
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    if !is_number(whole) || !is_number(decimals) {
        return None;
    }
    // More digits than fit are a long time, too.
    let whole: u64 = whole.parse().unwrap_or(u64::MAX);
    let begun = u64::from(decimals.bytes().any(|digit| digit != b'0'));
    Some(Duration::from_secs(whole.saturating_add(begun)))
}

/// A date in any of HTTP's three forms (RFC 9110 §5.6.7), such as an answer's `Date`; `None` before 1970.
#[must_use]
pub fn parse_date(value: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(i64::try_from(since.as_millis()).ok()?))
}

/// Whom the last proxy that wrote `X-Forwarded-For` was called by: the last entry, an address with or without a port
/// (as load balancers write it, for want of a standard); none where it is anything else.
#[must_use]
pub fn parse_forwarded_for(value: &[u8]) -> Option<IpAddr> {
    // What stands before it came with the request and may be anything, text or not.
    let last = value.rsplit(|byte| *byte == b',').next()?;
    let last = std::str::from_utf8(last).ok()?.trim_matches([' ', '\t']);
    let in_brackets = || last.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || last.parse().ok().map(|address: SocketAddr| address.ip());
    last.parse().ok().or_else(in_brackets).or_else(with_port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<StaticHeaders, StaticHeaderError> {
        StaticHeaders::parse(pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[test]
    fn headers_are_kept_in_lower_case() {
        let headers = parse(&[("X-Team", "a b\tc"), ("Authorization", "Bearer x"), ("x-empty", "")]).unwrap();
        let expected = [("authorization", "Bearer x"), ("x-empty", ""), ("x-team", "a b\tc")];
        assert!(headers.iter().eq(expected));
    }

    #[test]
    fn names_of_others_are_refused_in_any_case() {
        for name in [
            "Host",
            "CONNECTION",
            "Keep-Alive",
            "Transfer-Encoding",
            "TE",
            "Trailer",
            "Upgrade",
            "Proxy-Authorization",
            "Expect",
            "Content-Length",
            "content-type",
            "Content-Anything",
            "Webhook-Id",
            "webhook-",
            "Posthorn-Sequence",
            "X-Webhook-Signature-256",
            "User-Agent",
            "webhook_signature",
            "Webhook_Id",
            "webhook.timestamp",
            "posthorn_sequence",
            "content_length",
            "Content_Type",
            "transfer_encoding",
            "keep_alive",
            "proxy_authorization",
            "http2_settings",
            "user_agent",
            "x_webhook_signature_256",
            "x-webhook_signature.256",
            "",
            "a b",
            "a:",
            "a\r\nb",
            "ä",
            ":path",
            &"a".repeat(129),
        ] {
            let error = parse(&[("x-fine", "1"), (name, "1")]).unwrap_err();
            assert_eq!(error.name, name);
        }
        for name in [
            "x-host",
            "contents",
            "x-webhook-id",
            "x_team",
            "_content_type",
            "!#$%&'*+-.^_`|~0",
            &"a".repeat(128),
        ] {
            assert!(parse(&[(name, "1")]).is_ok(), "{name}");
        }
    }

    #[test]
    fn stored_headers_keep_their_spelling() {
        let stored = |name: &str| StaticHeaders::from_stored([(name.to_owned(), "1".to_owned())]);
        for name in ["content_type", "webhook_signature", "x-team"] {
            assert!(stored(name).is_ok_and(|headers| headers.iter().eq([(name, "1")])), "{name}");
        }
        for name in ["content-type", "webhook-signature", "a b", ""] {
            assert!(stored(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_last_proxy_is_believed() {
        for (value, address) in [
            ("192.0.2.7", Some("192.0.2.7")),
            ("10.0.0.1, 192.0.2.7 ", Some("192.0.2.7")),
            ("192.0.2.7:4711", Some("192.0.2.7")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:4711", Some("2001:db8::1")),
            ("[192.0.2.7]", None),
            ("192.0.2.7\u{a0}", None),
            ("192.0.2.7,", None),
            ("192.0.2.7, unknown", None),
            ("_hidden", None),
            ("", None),
        ] {
            let expected = address.map(|address| address.parse::<IpAddr>().unwrap());
            assert_eq!(parse_forwarded_for(value.as_bytes()), expected, "{value}");
        }
        assert_eq!(parse_forwarded_for(b"\xff"), None);
        assert_eq!(parse_forwarded_for(b"192.0.2.7\xff"), None);
        assert_eq!(parse_forwarded_for(b"\xff, 192.0.2.7"), Some(IpAddr::from([192, 0, 2, 7])));
    }

    #[test]
    fn values_cannot_break_out() {
        for value in
            ["a\r\nx: y", "a\n", "\ra", "a\0", "\x7f", "\x1b[2J", "ä", " a", "a\t", &"a".repeat(4097)]
        {
            assert!(parse(&[("x-a", value)]).is_err(), "{value:?}");
        }
        assert!(parse(&[("x-a", &"a".repeat(4096))]).is_ok());
    }

    #[test]
    fn headers_are_few_and_none_comes_twice() {
        let many = |count| StaticHeaders::parse((0..count).map(|n| (format!("x-{n}"), String::new())));
        assert!(many(STATIC_HEADERS_MAX).is_ok());
        assert_eq!(many(STATIC_HEADERS_MAX + 1).unwrap_err().name, "");
        assert_eq!(parse(&[("X-A", "1"), ("x-a", "2")]).unwrap_err().name, "x-a");
    }

    #[test]
    fn keys_are_printable() {
        for key in ["a", "!", "~", "order 17", "e7b0c1b4-0000", &"k".repeat(255)] {
            assert_eq!(parse_key(key.as_bytes()), Ok(key));
        }
        let long = "k".repeat(256);
        for key in
            [&b""[..], b" ", b" a", b"a ", b"a\tb", b"a\0", b"\x7f", b"\xe4", "ä".as_bytes(), long.as_bytes()]
        {
            assert_eq!(parse_key(key), Err(KeyError), "{key:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110 §5.6.7, less half a minute.
        let now = Timestamp::from_millis(784_111_777_000 - 30_000);
        let seconds = |n| Some(Duration::from_secs(n));
        for (value, delay) in [
            ("0", seconds(0)),
            ("120", seconds(120)),
            (" 7\t", seconds(7)),
            ("007", seconds(7)),
            ("86401", Some(RETRY_DELAY_MAX)),
            ("99999999999", Some(RETRY_DELAY_MAX)),
            ("99999999999999999999999999", Some(RETRY_DELAY_MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", seconds(30)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", seconds(30)),
            ("Sun Nov  6 08:49:37 1994", seconds(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", seconds(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(RETRY_DELAY_MAX)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", seconds(2)),
            ("1.0", seconds(1)),
            ("0.001", seconds(1)),
            ("99999999999999999999999999.9", Some(RETRY_DELAY_MAX)),
            ("1.", None),
            (".5", None),
            ("1.5.1", None),
            ("1,5", None),
            ("1, 2", None),
            ("1s", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("1994-11-06T08:49:37Z", None),
            ("Thu, 01 Jan 1960 00:00:00 GMT", None),
        ] {
            assert_eq!(parse_retry_after(value.as_bytes(), now), delay, "{value:?}");
        }
        assert_eq!(parse_retry_after(b"\xff", now), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_them_panic(value in any::<Vec<u8>>(), text in ".{0,40}", now in any::<i64>()) {
            let _ = parse_key(&value);
            let now = Timestamp::from_millis(now);
            for value in [&value[..], text.as_bytes()] {
                prop_assert!(parse_retry_after(value, now).is_none_or(|delay| delay <= RETRY_DELAY_MAX));
            }
        }

        #[test]
        fn dates_say_how_long(offset in 0_u64..86_400, start in 0_u64..4_000_000_000) {
            let date = UNIX_EPOCH + Duration::from_secs(start + offset);
            let now = Timestamp::from_millis(i64::try_from(start * 1000).unwrap());
            let delay = parse_retry_after(httpdate::fmt_http_date(date).as_bytes(), now);
            prop_assert_eq!(delay, Some(Duration::from_secs(offset)));
        }

        #[test]
        fn whatever_is_taken_is_a_safe_header(name in ".{0,20}", value in ".{0,20}") {
            if let Ok(headers) = StaticHeaders::parse([(name, value)]) {
                for (name, value) in headers.iter() {
                    prop_assert!(name.bytes().all(is_token_byte) && !name.is_empty());
                    prop_assert!(!value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t'));
                }
            }
        }
    }
}
