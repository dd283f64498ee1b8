//! Targets that are an address, in any of its spellings: read as that address, and judged as it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use posthorn_domain::address::AddressGuard;
use posthorn_domain::target::TargetUrl;

use crate::random::Random;
use crate::run::Verdict;

#[derive(Debug)]
pub(crate) struct Spelled {
    address: IpAddr,
    text: String,
    allowed: Vec<&'static str>,
}

/// What is not public (the IANA special-purpose registries; multicast), as an operator would write it.
const V4_SPECIAL: [&str; 15] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

const V6_PUBLIC: &str = "2000::/3";
/// Within what is public, and some beyond it, where addresses are to come from.
const V6_SPECIAL: [&str; 16] = [
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "::/96",
    "::/128",
    "::1/128",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

const METADATA: [&str; 9] = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
];

/// A translator's own, of any layout (RFC 8215).
const LOCAL_NAT64: &str = "64:ff9b:1::/48";

/// Where an IPv6 address holds an IPv4 one: the network, the first of its 32 bits, and whether they
/// are turned over.
const EMBEDDING: [(&str, u32, bool); 7] = [
    ("::/96", 96, false),
    ("::ffff:0:0/96", 96, false),
    ("::ffff:0:0:0/96", 96, false),
    ("64:ff9b::/96", 96, false),
    ("2002::/16", 16, false),
    ("2001::/32", 32, false),
    ("2001::/32", 96, true),
];

const ALLOWED: [&str; 12] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "192.168.0.0/16",
    "fc00::/7",
    "0.0.0.0/0",
    "::/0",
    "::/8",
    "64:ff9b::/16",
    "2001::/16",
    "2002::/16",
    "168.63.129.16/32",
];

pub(crate) fn generate(random: &mut Random) -> Spelled {
    let address = address(random);
    let host = match address {
        IpAddr::V4(address) => v4(random, address),
        IpAddr::V6(address) => format!("[{}]", v6(random, address)),
    };
    let scheme = random.of(&["http", "https", "HTTP", "hTTpS"]);
    let rest = random.of(&["", "/", ":/", ":8080", ":00443/", "?a=/b", "#@", "/a/../b?c@d", ":80/%7f"]);
    let text = format!("{scheme}://{host}{rest}");
    Spelled { address, text, allowed: (0..random.within(0..4)).map(|_| random.of(&ALLOWED)).collect() }
}

fn address(random: &mut Random) -> IpAddr {
    match random.within(0..8) {
        0 => Ipv4Addr::from_bits(random.bits_32()).into(),
        1 | 2 => near(random, &V4_SPECIAL),
        3 => near(random, &METADATA),
        4 => Ipv6Addr::from_bits(random.bits_128() >> random.within(0..128)).into(),
        5 => near(random, &[&[V6_PUBLIC][..], &V6_SPECIAL].concat()),
        _ => embedding(random),
    }
}

/// One of `networks`, at its edges, beside them or anywhere within.
fn near(random: &mut Random, networks: &[&str]) -> IpAddr {
    let (network, size, length) = network(random.of(networks));
    let hosts = (u128::MAX >> (128 - size)).checked_shr(length).unwrap_or(0);
    let bits = match random.within(0..5) {
        0 => network,
        1 => network.wrapping_sub(1),
        2 => network | hosts,
        3 => (network | hosts).wrapping_add(1),
        _ => network | random.bits_128() & hosts,
    };
    of_bits(bits & u128::MAX >> (128 - size), size)
}

/// An IPv6 address that holds an interesting IPv4 one.
fn embedding(random: &mut Random) -> IpAddr {
    let inner = match random.of(&[&V4_SPECIAL[..], &METADATA[..6]]) {
        networks if random.one_in(4) => near(random, &[networks, &["0.0.0.0/0"]].concat()),
        networks => near(random, networks),
    };
    let (inner, ..) = bits_of(inner);
    if random.one_in(8) {
        return translated(random, inner);
    }
    let (within, first, inverted) = *random.of(&EMBEDDING.each_ref());
    let (network, _, length) = network(within);
    let around = network | random.bits_128() & u128::MAX.checked_shr(length).unwrap_or(0);
    let shift = 96 - first;
    let inner = if inverted { inner ^ 0xffff_ffff } else { inner };
    of_bits(around & !(0xffff_ffff << shift) | inner << shift, 128)
}

/// `inner` behind a translator of one's own, in one of the layouts of RFC 6052 §2.2: its bits stand behind a prefix of
/// so many, but for bits 64 to 71, which are zero.
fn translated(random: &mut Random, inner: u128) -> IpAddr {
    let (network, _, length) = network(LOCAL_NAT64);
    let prefix = *random.of(&[&48_u32, &56, &64, &96]);
    let around = network | random.bits_128() & (u128::MAX >> length) & !(u128::MAX >> prefix);
    let behind = inner << 96 >> prefix;
    let high = behind & u128::MAX << 64;
    let low = if prefix == 96 { behind } else { (behind & (u128::MAX >> 64)) >> 8 };
    of_bits(around | high | low, 128)
}

/// One to four numbers in any base, in any digits that Unicode takes for the same
/// (<https://url.spec.whatwg.org/#concept-ipv4-parser>, after UTS #46).
fn v4(random: &mut Random, address: Ipv4Addr) -> String {
    let bits = address.to_bits();
    let count = random.within(1..5);
    let mut numbers: Vec<u32> = address.octets()[..count - 1].iter().map(|octet| u32::from(*octet)).collect();
    numbers.push(bits & u32::MAX >> (8 * (count - 1)));
    let numbers: Vec<_> = numbers
        .into_iter()
        .map(|number| {
            let zeros = "0".repeat(random.within(0..3) * random.within(0..3));
            match random.within(0..5) {
                0 => format!("0x{zeros}{number:x}"),
                1 => format!("0X{zeros}{number:X}"),
                2 => format!("0{zeros}{number:o}"),
                _ => format!("{number}"),
            }
        })
        .collect();
    let text = format!("{}{}", numbers.join("."), random.of(&["", "", "."]));
    if random.one_in(2) { text } else { text.chars().map(|c| disguised(random, c)).collect() }
}

/// Another character for `c`, or one beside it that means nothing.
fn disguised(random: &mut Random, c: char) -> String {
    let at = |first: char, offset: u32| char::from_u32(u32::from(first) + offset).unwrap().to_string();
    let nothing = random.of(&["\u{ad}", "\u{200b}", "\u{2060}", "\u{2064}", "\u{fe0f}"]);
    match (random.within(0..8), c.to_digit(10)) {
        (0 | 1, _) if c != '.' => at('！', u32::from(c) - u32::from('!')),
        (0 | 1, _) => random.of(&["。", "．", "｡"]).to_owned(),
        (2, Some(digit)) => at('𝟎', digit),
        (3, Some(digit)) => at('𝟘', digit),
        (4, Some(digit @ 1..)) => at('①', digit - 1),
        (4, Some(_)) => "⓪".to_owned(),
        (5, Some(digit @ 4..)) => at('⁴', digit - 4),
        (6, _) => format!("{c}{nothing}"),
        _ => c.to_string(),
    }
}

/// Groups with and without zeros in front, in either case, any run of zeros left out, the end as
/// an IPv4 address (RFC 4291 §2.2).
fn v6(random: &mut Random, address: Ipv6Addr) -> String {
    let segments = address.segments();
    let mut groups: Vec<String> = segments
        .iter()
        .map(|group| match random.within(0..4) {
            0 => format!("{group:04x}"),
            1 => format!("{group:X}"),
            2 => format!("{group:03X}"),
            _ => format!("{group:x}"),
        })
        .collect();
    if random.one_in(3) {
        groups.truncate(6);
        groups.push(Ipv4Addr::from_bits(low_32(address.to_bits())).to_string());
    }
    let whole = if groups.len() == 7 { 6 } else { 8 };
    let start = random.within(0..whole);
    let zeros = segments[start..whole].iter().take_while(|group| **group == 0).count();
    if zeros == 0 || random.one_in(3) {
        return groups.join(":");
    }
    let end = start + random.within(1..zeros + 1);
    format!("{}::{}", groups[..start].join(":"), groups[end..].join(":"))
}

pub(crate) fn check(Spelled { address, text, allowed }: &Spelled) -> Verdict {
    let target = TargetUrl::parse(text).unwrap();
    assert_eq!(target.literal(), Some(*address));
    let networks: Vec<IpNet> = allowed.iter().map(|network| network.parse().unwrap()).collect();
    let guard = AddressGuard::new(networks);
    let expected = may_pass(*address, allowed);
    assert_eq!(guard.check(*address).is_ok(), expected);
    assert_eq!(guard.check_target(&target).is_ok(), expected);
    Verdict::of(expected)
}

/// The rule itself: nothing that the address means is a metadata service, and all of it is public
/// or allowed.
pub(crate) fn may_pass(address: IpAddr, allowed: &[&str]) -> bool {
    let public = |address| match address {
        IpAddr::V4(_) => !is_in_one_of(address, &V4_SPECIAL),
        IpAddr::V6(_) => is_in(address, V6_PUBLIC) && !is_in_one_of(address, &V6_SPECIAL),
    };
    if is_in(address, LOCAL_NAT64) {
        return false;
    }
    let mut meant = vec![address];
    if !is_in_one_of(address, &["::/128", "::1/128"]) {
        for (_, first, inverted) in EMBEDDING.into_iter().filter(|(network, ..)| is_in(address, network)) {
            let inner = low_32(bits_of(address).0 >> (96 - first));
            meant.push(Ipv4Addr::from_bits(if inverted { !inner } else { inner }).into());
        }
    }
    meant.into_iter().all(|address| {
        !is_in_one_of(address, &METADATA) && (public(address) || is_in_one_of(address, allowed))
    })
}

fn is_in_one_of(address: IpAddr, networks: &[&str]) -> bool {
    networks.iter().any(|network| is_in(address, network))
}

/// Whether the first bits are the same; an address of the other kind never is within.
fn is_in(address: IpAddr, text: &str) -> bool {
    let ((bits, size), (within, within_size, length)) = (bits_of(address), network(text));
    size == within_size && (bits ^ within).checked_shr(size - length).unwrap_or(0) == 0
}

/// `a.b.c.d/length` or `a:b::/length`, or an address alone: its bits, how many those are, and the
/// length.
fn network(text: &str) -> (u128, u32, u32) {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let (bits, size) = bits_of(address.parse().unwrap());
    (bits, size, length.parse().unwrap_or(size))
}

fn bits_of(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

fn of_bits(bits: u128, size: u32) -> IpAddr {
    if size == 32 { Ipv4Addr::from_bits(low_32(bits)).into() } else { Ipv6Addr::from_bits(bits).into() }
}

fn low_32(bits: u128) -> u32 {
    u32::try_from(bits & 0xffff_ffff).unwrap()
}
