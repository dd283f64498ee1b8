//! Which of a name's addresses is dialled first.
//!
//! The client itself races the two families (RFC 8305), but dials the addresses of one family one after the other: one
//! that swallows what is sent to it would use up the attempt's time. So where a family has several, they are tried
//! here beforehand, each a quarter of a second after the one before it, and the first that answers leads for a minute.
//! That costs the endpoint a connection without a request now and then.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use moka::future::Cache;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long one address has for itself before the next is tried (RFC 8305 §5: "Connection Attempt Delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How many are tried.
const ADDRESSES_MAX: usize = 8;
/// How long all of them may take. Where none answers, the attempt is left to find that out.
const RACE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the first address to answer is dialled first. An attempt that times out ends this early.
const LEADER_TIME: Duration = Duration::from_mins(1);
/// Of how many names and ports that is known.
const LEADERS_MAX: u64 = 10_000;

/// Knows who answered first.
pub(super) struct Race {
    leaders: Cache<(String, u16), SocketAddr>,
}

impl Race {
    pub(super) fn new() -> Self {
        Self { leaders: Cache::builder().max_capacity(LEADERS_MAX).time_to_live(LEADER_TIME).build() }
    }

    /// The name's addresses, the one to dial first in front.
    pub(super) async fn order(&self, name: &str, port: u16, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut ordered = addresses.to_vec();
        if !is_ambiguous(addresses) {
            return ordered;
        }
        let racing =
            async { timeout(RACE_TIMEOUT, race(&interleaved(addresses), port)).await.ok().flatten() };
        let leader = self.leaders.optionally_get_with((name.to_owned(), port), racing).await;
        let place = leader.and_then(|leader| ordered.iter().position(|address| *address == leader));
        if let Some(place) = place {
            let address = ordered.remove(place);
            ordered.insert(0, address);
        }
        ordered
    }

    /// Forgets which address is dialled first: it may be dead.
    pub(super) async fn forget(&self, name: &str, port: u16) {
        self.leaders.invalidate(&(name.to_owned(), port)).await;
    }
}

/// Whether a family has several.
fn is_ambiguous(addresses: &[SocketAddr]) -> bool {
    let of_v6 = addresses.iter().filter(|address| address.is_ipv6()).count();
    of_v6 > 1 || addresses.len() - of_v6 > 1
}

/// The families in turns, each in its own order, the first address's family first (RFC 8305 §4).
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let of = |v6: bool| addresses.iter().copied().filter(move |address| address.is_ipv6() == v6);
    let (mut leading, mut other) = (of(first), of(!first));
    let mut mixed = Vec::with_capacity(addresses.len());
    while mixed.len() < addresses.len() {
        mixed.extend(leading.next());
        mixed.extend(other.next());
    }
    mixed
}

/// The first address that takes a connection. May be dropped.
async fn race(addresses: &[SocketAddr], port: u16) -> Option<SocketAddr> {
    let mut waiting = addresses.iter().take(ADDRESSES_MAX);
    let mut dialling = FuturesUnordered::new();
    loop {
        if let Some(&address) = waiting.next() {
            dialling.push(async move {
                let dialled = TcpStream::connect(SocketAddr::new(address.ip(), port)).await;
                dialled.is_ok().then_some(address)
            });
        } else if dialling.is_empty() {
            return None;
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(ended) = dialling.next() => if ended.is_some() { return ended },
            () = sleep(ATTEMPT_DELAY), if more => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::TcpListener;

    use super::super::tests::Swallowing;
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect()
    }

    #[test]
    fn families_take_turns() {
        let all = addresses(&["::1", "::2", "::3", "1.1.1.1", "1.1.1.2"]);
        assert_eq!(interleaved(&all), addresses(&["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"]));
        assert_eq!(interleaved(&[]), []);
    }

    #[test]
    fn only_a_family_of_several_is_raced() {
        for (texts, expected) in [
            (&[][..], false),
            (&["1.1.1.1"], false),
            (&["::1", "1.1.1.1"], false),
            (&["1.1.1.1", "1.1.1.2"], true),
            (&["::1", "1.1.1.1", "::2"], true),
        ] {
            assert_eq!(is_ambiguous(&addresses(texts)), expected, "{texts:?}");
        }
    }

    #[tokio::test]
    async fn who_answers_leads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let _silent = Swallowing::on(([127, 0, 0, 2], port).into()).await;
        let (race, begun) = (Race::new(), Instant::now());
        // Nothing listens at 127.0.0.3.
        let all = addresses(&["127.0.0.2", "127.0.0.3", "127.0.0.1", "127.0.0.4"]);
        let ordered = race.order("name", port, &all).await;
        assert_eq!(ordered, addresses(&["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]));
        assert!(begun.elapsed() >= ATTEMPT_DELAY && begun.elapsed() < RACE_TIMEOUT, "{:?}", begun.elapsed());
        // It is known, though it is gone, until somebody finds that out.
        drop(listener);
        assert_eq!(race.order("name", port, &all).await, ordered);
        race.forget("name", port).await;
        let refused = addresses(&["127.0.0.1", "127.0.0.3"]);
        assert_eq!(race.order("name", port, &refused).await, refused, "nobody answers");
    }
}
