//! `X-Forwarded-For`, as a proxy in front writes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use posthorn_domain::header::parse_forwarded_for;

use crate::random::{Bytes, Random};
use crate::run::Verdict;

const WORDS: [&str; 22] = [
    ",", ", ", " ", "\t", "\u{a0}", "[", "]", "[]", ":", "::", ":80", ":0", ":65536", ":+1", ".", "0",
    "127.1", "0x7f", "%1", "%eth0", "unknown", "for=",
];

pub(crate) fn generate(random: &mut Random) -> Bytes {
    if random.one_in(8) {
        let noise = random.bytes(0..40);
        return Bytes(random.mutate_header(noise, &WORDS));
    }
    let entries: Vec<_> = (0..random.within(1..4)).map(|_| entry(random)).collect();
    let list = entries.join(random.of(&[",", ", ", " ,\t"]));
    Bytes(random.mutate_header(list, &WORDS))
}

fn entry(random: &mut Random) -> String {
    let v4 = Ipv4Addr::from_bits(random.bits_32());
    let v6 = Ipv6Addr::from_bits(random.bits_128() >> random.within(0..128) << random.within(0..100));
    let port = random.bits_16();
    match random.within(0..13) {
        0..3 => format!("{v4}"),
        3..5 => format!("{v4}:{port}"),
        5 => format!("{v6}"),
        6 => format!("[{v6}]"),
        7 => format!("[{v6}]:{port}"),
        8 => format!("::ffff:{v4}"),
        9 => format!("[{v6}%{port}]:{port}"),
        10 => format!("[{v4}]:{port}"),
        11 => format!("[{v4}]"),
        _ => random.some_of(&WORDS, 0..5),
    }
}

pub(crate) fn check(Bytes(value): &Bytes) -> Verdict {
    let address = parse_forwarded_for(value);
    assert_eq!(address, reference(value));
    Verdict::of(address.is_some())
}

/// What stands behind the last comma, less spaces and tabs around it: `v4`, `v6`, `[v6]`, and with a
/// port `v4:port`, `[v6]:port` or, as a socket address is printed that has a zone, `[v6%zone]:port`.
fn reference(value: &[u8]) -> Option<IpAddr> {
    let last = value.rsplit(|byte| *byte == b',').next()?;
    // Whatever is no text is no address.
    let last = std::str::from_utf8(last).ok()?.trim_matches([' ', '\t']);
    let v6 = |text: &str| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    if let Some(rest) = last.strip_prefix('[') {
        let (address, behind) = rest.split_once(']')?;
        let Some(port) = behind.strip_prefix(':') else { return v6(address).filter(|_| behind.is_empty()) };
        let (address, zone) = address.split_once('%').unwrap_or((address, "0"));
        return v6(address).filter(|_| is_number(port, u16::MAX.into()) && is_number(zone, u32::MAX));
    }
    let (address, port) = last.split_once(':').unwrap_or((last, "0"));
    let v4 = address.parse::<Ipv4Addr>().ok().filter(|_| is_number(port, u16::MAX.into())).map(IpAddr::V4);
    v4.or_else(|| v6(last))
}

fn is_number(text: &str, most: u32) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u32>().is_ok_and(|number| number <= most)
}
