//! Any text as a target: what is taken means what it says, and reads back the same.

use std::net::IpAddr;

use posthorn_domain::address::AddressGuard;
use posthorn_domain::target::{TargetError, TargetUrl};
use url::{Host, Url};

use crate::address::may_pass;
use crate::random::Random;
use crate::run::Verdict;

// First what is right, then what is not.
const SCHEMES: [&[&str]; 2] =
    [&["http", "https", "HTTP", "Https"], &["ftp", "file", "javascript", "ws", "http+x", ""]];
const SLASHES: [&[&str]; 2] = [&["://"], &[":/", ":", ":///", "//"]];
const USERS: [&[&str]; 2] = [&[""], &["user@", "user:password@", "@", "@@"]];
const HOSTS: [&[&str]; 2] = [
    &[
        "example.com",
        "Hooks.EXAMPLE.com.",
        "münchen.example",
        "xn--mnchen-3ya.example",
        "a_b",
        "localhost",
        "api.LocalHost..",
        "ｌｏｃａｌｈｏｓｔ",
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "0177.0.0.1.",
        "1.1.1.1",
        "127.0.0.1..",
        "[::1]",
        "[2606:4700::1111]",
        "[::ffff:10.0.0.1]",
    ],
    &[
        "xn--a",
        "256.1.1.1",
        "1.2.3.4.5",
        "1.2.3.4x.5",
        "[fe80::1%25eth0]",
        "[::1",
        "%31%32%37.0.0.1",
        "a..0x",
        "",
    ],
];
const PORTS: [&[&str]; 2] = [
    &["", "", ":", ":80", ":443", ":8443", ":00065535"],
    &[":0", ":65536", ":8a", "::80", ":-1", ":+1", ":８"],
];
const ENDS: [&[&str]; 2] = [
    &["", "/", "/hook", "?a=b", "#c", "/ä%41%", "/.././/x", "//user@host", "?q=://example.org", "#/%00<|>"],
    &["/a b", "/\\", "?\t", "#\u{2028}"],
];
const WORDS: [&str; 40] = [
    "/",
    "//",
    "\\",
    "@",
    ":",
    "?",
    "#",
    "%",
    "%2e",
    "%00",
    "%EF%BC%8F",
    ".",
    "..",
    "-",
    "--",
    "xn--",
    "[",
    "]",
    " ",
    "\t",
    "\n",
    "\r",
    "\0",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{ad}",
    "\u{200b}",
    "\u{202e}",
    "\u{2028}",
    "。",
    "／",
    "＠",
    "℀",
    "ß",
    "İ",
    "０",
    "<",
    "|",
    "^",
];

pub(crate) fn generate(random: &mut Random) -> String {
    let mut text: String = match random.within(0..12) {
        0 => String::from_utf8_lossy(&random.bytes(0..60)).into_owned(),
        1 => random.some_of(&[&WORDS[..], HOSTS[0], SLASHES[0], SCHEMES[0]].concat(), 0..12),
        _ => [SCHEMES, SLASHES, USERS, HOSTS, PORTS, ENDS]
            .map(|[right, wrong]| if random.one_in(20) { random.of(wrong) } else { random.of(right) })
            .concat(),
    };
    if random.one_in(20) {
        text.push_str(&random.of(&["a", "ä", "😀", "%"]).repeat(random.within(1_980..2_060)));
    }
    random.mutate_text(text, &WORDS)
}

pub(crate) fn check(text: &String) -> Verdict {
    let Ok(target) = TargetUrl::parse(text) else { return Verdict::Refused };
    let url = target.as_url();

    assert_eq!(target.as_str(), text);
    assert_eq!(Url::parse(text).as_ref(), Ok(url));
    assert_eq!(TargetUrl::parse(target.as_str()).as_ref(), Ok(&target));
    // Its standard form and its origin, which may be too long once encoded, are the same place.
    for (form, same) in [(url.to_string(), url.clone()), (target.origin(), url.join("/").unwrap())] {
        match TargetUrl::parse(&form) {
            Ok(target) => assert_eq!(target.as_url(), &same),
            Err(error) => assert!(error == TargetError::TooLong && form.len() > 2_048),
        }
    }

    assert!(text.chars().count() <= 2_048);
    assert!(!text.contains(|c: char| c <= ' ' || c == '\u{7f}' || c == '\\'));
    let (scheme, authority) = as_read_by_a_person(text);
    let (host, port) = split_port(authority);
    assert_eq!(url.scheme(), scheme);
    let usual = if scheme == "http" { 80 } else { 443 };
    let port = if port.is_empty() { usual } else { port.parse().unwrap() };
    assert_eq!(url.port_or_known_default(), Some(port));
    assert_ne!(port, 0);
    assert!(url.username().is_empty() && url.password().is_none());
    check_host(&target, host);
    Verdict::Accepted
}

/// Scheme and authority (RFC 3986 §3), where nothing had to be mended.
fn as_read_by_a_person(text: &str) -> (String, &str) {
    let (scheme, rest) = text.split_once("://").unwrap();
    let authority = rest.split(['/', '?', '#']).next().unwrap();
    assert!(!authority.contains(['@', '%']));
    (scheme.to_lowercase(), authority)
}

/// The host, with its brackets, and the port.
fn split_port(authority: &str) -> (&str, &str) {
    let end = authority.find(']').map_or(0, |bracket| bracket + 1);
    let colon = authority[end..].find(':').map(|colon| end + colon);
    colon.map_or((authority, ""), |colon| (&authority[..colon], &authority[colon + 1..]))
}

fn check_host(target: &TargetUrl, written: &str) {
    let guard = AddressGuard::new(Vec::new());
    let passes = guard.check_target(target).is_ok();
    match target.as_url().host().unwrap() {
        Host::Domain(name) => {
            if written.is_ascii() {
                assert_eq!(name, written.to_ascii_lowercase());
            }
            // Forbidden in domains: https://url.spec.whatwg.org/#forbidden-domain-code-point
            let forbidden = |c: char| c <= ' ' || !c.is_ascii() || "#/:<>?@[\\]^|%\u{7f}".contains(c);
            assert!(!name.is_empty() && !name.contains(forbidden));
            assert!(name.parse::<IpAddr>().is_err());
            // Nothing that a resolver would read as a number.
            let last = name.strip_suffix('.').unwrap_or(name).rsplit('.').next().unwrap();
            let number = last.strip_prefix("0x").map_or_else(
                || !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
                |hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
            );
            assert!(!number);
            let local = format!(".{name}").trim_end_matches('.').ends_with(".localhost");
            assert_eq!((target.is_localhost(), passes), (local, !local));
        }
        Host::Ipv4(address) => assert_eq!(passes, may_pass(address.into(), &[])),
        Host::Ipv6(address) => {
            assert_eq!(Host::parse(written), Ok(Host::Ipv6(address)));
            assert_eq!(passes, may_pass(address.into(), &[]));
        }
    }
}
