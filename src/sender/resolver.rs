//! Names to addresses, past the guard.
//!
//! What leaves here is dialled as it is: between check and dial there is no second look-up that
//! could say something else. `localhost` and what ends in it mean loopback, whatever the system's
//! resolver says (RFC 6761 §6.3).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use posthorn_domain::address::AddressGuard;
use posthorn_domain::target::is_localhost;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

/// Look-ups that may run at once. Each takes one of tokio's 512 threads for blocking work, for as
/// long as a name server keeps silent; the others stay free.
const LOOK_UPS_MAX: usize = 256;

/// How long a name's addresses are used again: it spares a burst of new connections its look-ups,
/// and a moved endpoint does not wait for long.
const KNOWN_TIME: Duration = Duration::from_secs(5);

/// Names whose addresses are held at most.
const KNOWN_MAX: u64 = 10_000;

/// Asks the system for a name's addresses; blocks.
pub(super) type LookUp = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// The system's resolver. The client puts the port in.
pub(super) fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((name, 0).to_socket_addrs()?.collect())
}

/// Why a name cannot be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResolveError {
    /// All its addresses are forbidden.
    #[error("forbidden address")]
    Forbidden,
    /// It has none, or they could not be found out.
    #[error("dns failure")]
    Failed,
}

/// Gives only addresses that may be dialled.
#[derive(Clone)]
pub(super) struct Resolver {
    guard: Arc<AddressGuard>,
    look_up: LookUp,
    look_ups: Arc<Semaphore>,
    known: Cache<String, Vec<SocketAddr>>,
}

impl Resolver {
    pub(super) fn new(guard: AddressGuard, look_up: LookUp) -> Self {
        Self {
            guard: Arc::new(guard),
            look_up,
            look_ups: Arc::new(Semaphore::new(LOOK_UPS_MAX)),
            known: Cache::builder().max_capacity(KNOWN_MAX).time_to_live(KNOWN_TIME).build(),
        }
    }

    /// The addresses of `name` that may be dialled; at least one. Whoever asks for a name that is
    /// being looked up waits for that look-up.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let addresses = self.known.try_get_with_by_ref(name, self.pass(name)).await;
        addresses.map_err(|error| *error)
    }

    async fn pass(&self, name: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let found = if is_localhost(name) {
            vec![(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()]
        } else {
            self.ask(name.to_owned()).await?
        };
        let passing = found.into_iter().filter(|address| self.guard.check(address.ip()).is_ok());
        let passing: Vec<_> = passing.collect();
        if passing.is_empty() { Err(ResolveError::Forbidden) } else { Ok(passing) }
    }

    async fn ask(&self, name: String) -> Result<Vec<SocketAddr>, ResolveError> {
        let permit = Arc::clone(&self.look_ups).acquire_owned().await.map_err(|_| ResolveError::Failed)?;
        let look_up = self.look_up;
        // The permit goes along: a look-up that nobody waits for any more still has its thread.
        let answer = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            look_up(&name)
        });
        match answer.await {
            Ok(Ok(found)) if !found.is_empty() => Ok(found),
            _ => Err(ResolveError::Failed),
        }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.addresses(name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the test: each is the list of its addresses.
    fn listed(name: &str) -> io::Result<Vec<SocketAddr>> {
        let address = |text: &str| text.replace('_', ":").parse().map(|ip| SocketAddr::new(ip, 0));
        name.split('+').map(|text| address(text).map_err(io::Error::other)).collect()
    }

    async fn check(name: &str, expected: Result<&[&str], ResolveError>) {
        let guard = AddressGuard::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let found = Resolver::new(guard, listed).addresses(name).await;
        let found = found.map(|found| found.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>());
        let expected = expected.map(|list| list.iter().map(|&text| text.to_owned()).collect());
        assert_eq!(found, expected, "{name}");
    }

    #[tokio::test]
    async fn only_addresses_that_pass_are_given() {
        check("1.1.1.1", Ok(&["1.1.1.1"])).await;
        check("10.0.0.1+1.1.1.1+fe80__1+127.0.0.1", Ok(&["1.1.1.1", "127.0.0.1"])).await;
        check("10.0.0.1+192.168.0.1", Err(ResolveError::Forbidden)).await;
        check("169.254.169.254", Err(ResolveError::Forbidden)).await;
        check("unknown", Err(ResolveError::Failed)).await;
    }

    #[tokio::test]
    async fn localhost_is_loopback_without_a_question() {
        for name in ["localhost", "localhost.", "api.localhost"] {
            check(name, Ok(&["127.0.0.1", "::1"])).await;
        }
        let strict = Resolver::new(AddressGuard::new(Vec::new()), listed);
        assert_eq!(strict.addresses("localhost").await, Err(ResolveError::Forbidden));
    }

    #[tokio::test]
    async fn nothing_found_is_a_failure() {
        let resolver = Resolver::new(AddressGuard::new(Vec::new()), |_| Ok(Vec::new()));
        assert_eq!(resolver.addresses("empty.example").await, Err(ResolveError::Failed));
    }
}
