//! Which addresses may be dialled.
//!
//! - An address passes where it is public or an operator's allowed network covers it.
//! - IPv4 addresses that stand inside an IPv6 one (mapped, compatible, NAT64, 6to4, Teredo) must
//!   pass by themselves too: a translator on the way would lead there.
//! - Metadata services of clouds, which give credentials to whoever asks, never pass, even where an
//!   allowed network covers them.
//! - Nor does a local NAT64 prefix, `64:ff9b:1::/48` (RFC 8215). A translator's prefix within it may be a /48, a /56, a
//!   /64 or a /96, and each puts the IPv4 address elsewhere (RFC 6052 §2.2), so that the address alone does not say
//!   where it leads.
//!
//! Addresses are judged as numbers, never as text, at the creation of a subscription and again on
//! every dial: in between, a name can come to mean another place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::target::TargetUrl;

/// Judges every address before it is dialled.
#[derive(Clone, Debug)]
pub struct AddressGuard {
    allowed: Vec<IpNet>,
}

/// The address lies where nothing may be delivered; its text is the attempt log's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("forbidden address")]
pub struct ForbiddenAddress;

impl ForbiddenAddress {
    /// The text for whoever sets a target: what the field takes, and what would allow more.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        "expected a public address, or one in a network that POSTHORN_ALLOWED_PRIVATE_NETWORKS names"
    }
}

impl AddressGuard {
    /// Public addresses pass, and those private ones that `allowed` covers.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Whether `address` may be dialled.
    pub fn check(&self, address: IpAddr) -> Result<(), ForbiddenAddress> {
        let mut meant = meant_by(address);
        if is_ambiguous(address) {
            return Err(ForbiddenAddress);
        }
        if meant.all(|address| !is_metadata(address) && (is_public(address) || self.is_allowed(address))) {
            Ok(())
        } else {
            Err(ForbiddenAddress)
        }
    }

    /// Whether `target` may be stored: its address where it is a literal; names are judged when
    /// they are dialled, but for those that mean this machine (RFC 6761 §6.3).
    pub fn check_target(&self, target: &TargetUrl) -> Result<(), ForbiddenAddress> {
        if target.is_localhost() {
            // Dialled are those of its addresses that pass; one is enough.
            return self
                .check(Ipv4Addr::LOCALHOST.into())
                .or_else(|_| self.check(Ipv6Addr::LOCALHOST.into()));
        }
        target.literal().map_or(Ok(()), |address| self.check(address))
    }

    fn is_allowed(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|network| network.contains(&address))
    }
}

/// The address itself and those inside it.
fn meant_by(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let embedded = match address {
        IpAddr::V4(_) => [None, None],
        IpAddr::V6(address) => embedded_ipv4(address),
    };
    std::iter::once(address).chain(embedded.into_iter().flatten().map(IpAddr::V4))
}

/// The IPv4 addresses inside an IPv6 address; Teredo holds two.
fn embedded_ipv4(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let ipv4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // `::` and `::1` are addresses of their own, not 0.0.0.0 and 0.0.0.1.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // Compatible and mapped (RFC 4291 §2.5.5), translated (RFC 2765 §2.1), NAT64 (RFC 6052 §2.1)
        // and 6to4 (RFC 3056 §2).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => [ipv4(high, low), None],
        // Teredo: the server, and the client with its bits turned over (RFC 4380 §4).
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            [ipv4(server_high, server_low), ipv4(!high, !low)]
        }
        _ => [None, None],
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !IPV4_SPECIAL.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => {
            IPV6_GLOBAL.contains(&address) && !IPV6_SPECIAL.iter().any(|network| network.contains(&address))
        }
    }
}

/// Whether it leads to an IPv4 address that it does not name for certain.
fn is_ambiguous(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if IPV6_LOCAL_NAT64.contains(&address))
}

fn is_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => IPV4_METADATA.contains(&address),
        IpAddr::V6(address) => IPV6_METADATA.contains(&address),
    }
}

const fn ipv4_net(a: u8, b: u8, c: u8, d: u8, prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_len)
}

const fn ipv6_net(a: u16, b: u16, prefix_len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix_len)
}

/// What is not public of IPv4 (the IANA special-purpose registry, RFC 6890; multicast, RFC 5771).
const IPV4_SPECIAL: [Ipv4Net; 15] = [
    ipv4_net(0, 0, 0, 0, 8),
    ipv4_net(10, 0, 0, 0, 8),
    ipv4_net(100, 64, 0, 0, 10),
    ipv4_net(127, 0, 0, 0, 8),
    ipv4_net(169, 254, 0, 0, 16),
    ipv4_net(172, 16, 0, 0, 12),
    ipv4_net(192, 0, 0, 0, 24),
    ipv4_net(192, 0, 2, 0, 24),
    ipv4_net(192, 88, 99, 0, 24),
    ipv4_net(192, 168, 0, 0, 16),
    ipv4_net(198, 18, 0, 0, 15),
    ipv4_net(198, 51, 100, 0, 24),
    ipv4_net(203, 0, 113, 0, 24),
    ipv4_net(224, 0, 0, 0, 4),
    ipv4_net(240, 0, 0, 0, 4),
];

/// All that IANA gives out as global unicast so far; beyond it nothing is public.
const IPV6_GLOBAL: Ipv6Net = ipv6_net(0x2000, 0, 3);

/// What is not public within [`IPV6_GLOBAL`]: protocol assignments with Teredo, documentation
/// twice, 6to4.
const IPV6_SPECIAL: [Ipv6Net; 4] =
    [ipv6_net(0x2001, 0, 23), ipv6_net(0x2001, 0xdb8, 32), ipv6_net(0x2002, 0, 16), ipv6_net(0x3fff, 0, 20)];

/// For translators of one's own (RFC 8215).
const IPV6_LOCAL_NAT64: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48);

/// AWS and most others; AWS containers, twice; Alibaba; Azure (a public range); Oracle.
const IPV4_METADATA: [Ipv4Addr; 6] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// AWS; AWS containers; Google.
const IPV6_METADATA: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guard(allowed: &[&str]) -> AddressGuard {
        AddressGuard::new(allowed.iter().map(|network| network.parse().unwrap()).collect())
    }

    fn check(allowed: &[&str], expected: bool, addresses: &[&str]) {
        for address in addresses {
            let passes = guard(allowed).check(address.parse().unwrap()).is_ok();
            assert_eq!(passes, expected, "{address} with {allowed:?}");
        }
    }

    #[test]
    fn public_addresses_pass() {
        check(&[], true, &["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"]);
        check(&[], true, &["126.255.255.255", "128.0.0.0", "169.253.255.255", "172.15.255.255"]);
        check(&[], true, &["172.32.0.0", "192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0"]);
        check(&[], true, &["198.17.255.255", "198.20.0.0", "203.0.112.255", "223.255.255.255"]);
        check(&[], true, &["2001:200::1", "2003::1", "2606:4700::1111", "3fff:1000::1", "2a00::"]);
    }

    #[test]
    fn special_ipv4_is_refused() {
        check(&[], false, &["0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "127.0.0.1"]);
        check(&[], false, &["127.255.255.255", "100.64.0.0", "100.127.255.255", "169.254.0.1"]);
        check(&[], false, &["172.16.0.0", "172.31.255.255", "192.0.0.1", "192.0.2.255", "192.88.99.1"]);
        check(&[], false, &["192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255"]);
        check(&[], false, &["198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"]);
        check(&[], false, &["255.255.255.255"]);
    }

    #[test]
    fn special_ipv6_is_refused() {
        check(&[], false, &["::", "::1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8"]);
        check(&[], false, &["64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "2001::1", "2001:1ff::1"]);
        check(&[], false, &["2001:db8::1", "2002:808:808::1", "3fff::1", "3fff:fff::1", "5f00::1"]);
        check(&[], false, &["1fff:ffff::1", "4000::1", "fc00::1", "fdff::1", "fe80::1", "fec0::1"]);
        check(&[], false, &["ff02::1"]);
    }

    #[test]
    fn allowed_networks_pass_and_no_more() {
        check(&["127.0.0.0/8", "::1/128"], true, &["127.0.0.1", "127.9.9.9", "::1", "1.1.1.1"]);
        check(&["127.0.0.0/8", "::1/128"], false, &["10.0.0.1", "::", "0.0.0.0", "::2"]);
        check(&["10.1.0.0/16"], true, &["10.1.2.3"]);
        check(&["10.1.0.0/16"], false, &["10.2.0.0"]);
        check(&["fc00::/7"], true, &["fd12::1"]);
    }

    #[test]
    fn what_is_embedded_must_pass_too() {
        let translators = &["::/8", "64:ff9b::/16", "2001::/16", "2002::/16"];
        check(translators, true, &["64:ff9b::8.8.8.8", "::ffff:8.8.8.8"]);
        check(translators, true, &["2002:808:808::1", "2001:0:808:808::f7f7:f7f7"]);
        check(translators, false, &["64:ff9b::10.0.0.1", "::ffff:127.0.0.1"]);
        check(translators, false, &["::127.0.0.1", "::ffff:0:127.0.0.1", "2002:7f00:1::1"]);
        // Teredo: a private server; a private client behind a public server.
        check(translators, false, &["2001:0:a00:1::f7f7:f7f7", "2001:0:808:808::80ff:fffe"]);
        check(&["::ffff:0:0/96", "127.0.0.0/8"], true, &["::ffff:127.0.0.1"]);
    }

    /// 10.0.0.1 and 8.8.8.8 in each layout of RFC 6052 §2.2: /96, /64, /56, /48.
    #[test]
    fn local_translators_never_pass() {
        for allowed in [&["::/0", "0.0.0.0/0"][..], &["64:ff9b:1::/48", "10.0.0.0/8"], &[]] {
            check(allowed, false, &["64:ff9b:1::10.0.0.1", "64:ff9b:1:0:a:0:100:0", "64:ff9b:1:a:0:1::"]);
            check(allowed, false, &["64:ff9b:1:a00:0:100::", "64:ff9b:1::8.8.8.8", "64:ff9b:1:808:8:800::"]);
            check(allowed, false, &["64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"]);
        }
        check(&["::/0"], true, &["64:ff9b:0:ffff:ffff:ffff:ffff:ffff", "64:ff9b:2::"]);
    }

    #[test]
    fn metadata_never_passes() {
        let everything = &["0.0.0.0/0", "::/0"];
        check(everything, true, &["169.254.169.253", "168.63.129.15", "fd00:ec2::1", "::ffff:10.0.0.1"]);
        check(everything, false, &["169.254.169.254", "169.254.170.2", "169.254.170.23"]);
        check(everything, false, &["100.100.100.200", "168.63.129.16", "192.0.0.192"]);
        check(everything, false, &["fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"]);
        check(everything, false, &["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "::169.254.169.254"]);
        check(everything, false, &["2002:a9fe:a9fe::1", "2001:0:808:808::5601:5601"]);
    }

    #[test]
    fn targets_are_judged_by_literal_and_by_the_names_of_this_machine() {
        for (host, strict, development) in [
            ("localhost", false, true),
            ("localhost.", false, true),
            ("api.localhost", false, true),
            ("127.1", false, true),
            ("2130706433", false, true),
            ("0x7f.1", false, true),
            ("0177.0.0.1", false, true),
            ("１２７.０.０.１", false, true),
            ("127。0。0。1", false, true),
            ("127.0.0.1.", false, true),
            ("0", false, false),
            ("[::1]", false, true),
            ("[::]", false, false),
            ("[::ffff:7f00:1]", false, false),
            ("169.254.169.254", false, false),
            ("1.1.1.1", true, true),
            ("example.com", true, true),
        ] {
            let target = TargetUrl::parse(&format!("http://{host}/")).unwrap();
            assert_eq!(guard(&[]).check_target(&target).is_ok(), strict, "{host}");
            let loopback = guard(&["127.0.0.0/8", "::1/128"]);
            assert_eq!(loopback.check_target(&target).is_ok(), development, "{host}");
        }
        let ipv6_only = guard(&["::1/128"]);
        assert_eq!(ipv6_only.check_target(&TargetUrl::parse("http://localhost/").unwrap()), Ok(()));
    }

    /// Spellings of one IPv4 address that the URL Standard knows ("ends in a number").
    fn spellings(address: Ipv4Addr) -> Vec<String> {
        let [a, b, c, d] = address.octets();
        let (number, low24, low16) =
            (u32::from(address), u32::from_be_bytes([0, b, c, d]), u32::from_be_bytes([0, 0, c, d]));
        vec![
            format!("{a}.{b}.{c}.{d}"),
            format!("{a}.{b}.{c}.{d}."),
            format!("{number}"),
            format!("{number:#x}"),
            format!("{number:#X}").replace("0X", "0X0"),
            format!("0{number:o}"),
            format!("{a}.{low24}"),
            format!("{a:#x}.0{b:o}.{low16}"),
            format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
            format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
            full_width(&format!("{a}.{b}.{c}.{d}")),
        ]
    }

    fn full_width(text: &str) -> String {
        let wide = |c: char| char::from_u32(u32::from(c) - u32::from('!') + 0xff01).unwrap();
        text.chars().map(wide).collect()
    }

    proptest! {
        #[test]
        fn all_spellings_of_an_address_give_one_verdict(
            number in prop_oneof![any::<u32>(), 0x7f00_0000_u32..0x7f00_0100, 0xa9fe_0000_u32..0xa9ff_0000]
        ) {
            let address = Ipv4Addr::from(number);
            let guard = guard(&["127.0.0.0/8"]);
            for spelling in spellings(address) {
                let target = TargetUrl::parse(&format!("http://{spelling}/")).unwrap();
                prop_assert_eq!(target.literal(), Some(address.into()), "{}", spelling);
                prop_assert_eq!(guard.check_target(&target), guard.check(address.into()));
            }
        }

        #[test]
        fn all_spellings_of_an_ipv6_address_give_one_verdict(number in any::<u128>()) {
            let address = Ipv6Addr::from(number);
            let long = address.segments().map(|segment| format!("{segment:04X}")).join(":");
            for spelling in [address.to_string(), long] {
                let target = TargetUrl::parse(&format!("http://[{spelling}]/")).unwrap();
                prop_assert_eq!(target.literal(), Some(address.into()), "{}", spelling);
            }
        }

        /// However an address hides another, it passes nowhere where the hidden one does not.
        #[test]
        fn hiding_an_address_gains_nothing(number in any::<u32>(), all in any::<bool>()) {
            let hidden = Ipv4Addr::from(number);
            let guard = guard(if all { &["::/0"] } else { &[] });
            let bits = u128::from(number);
            for address in [
                bits | 0xffff << 32,
                bits | 0xffff << 48,
                bits | 0x64_ff9b << 96,
                bits | 0x64_ff9b_0001 << 80,
                bits << 80 | 0x2002 << 112,
                u128::from(!number) | 0x2001_0000_0808_0808 << 64,
            ] {
                let outer = guard.check(Ipv6Addr::from(address).into());
                prop_assert!(outer.is_err() || guard.check(hidden.into()).is_ok(), "{:x}", address);
            }
        }
    }
}
