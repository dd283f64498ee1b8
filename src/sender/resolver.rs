//! Names to addresses, past the guard.
//!
//! What leaves here is dialled as it is: between check and dial there is no second look-up that
//! could say something else. `localhost` and what ends in it mean loopback, whatever the system's
//! resolver says (RFC 6761 §6.3).
//!
//! A look-up costs nobody but its own tenant's: how many run at once is bounded and shared by tenants ([`shares`]),
//! each has a time of its own, and none blocks a thread ([`system`]). Of one name there is one look-up at a time;
//! what it found is used again for as long as the name's servers say, within bounds, and that it found
//! nothing for some seconds. So a name whose servers keep silent is not asked for by each attempt.

mod race;
mod shares;
mod system;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use moka::Expiry;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use posthorn_domain::address::AddressGuard;
use posthorn_domain::egress::EgressProxy;
use posthorn_domain::places::Claim;
use posthorn_domain::target::is_localhost;
use posthorn_domain::tenant::Tenant;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::timeout;

use crate::sender::progress::{self, Waiting};
use race::Race;
use shares::{Permit, Shares};
use system::{Paths, System};

/// How long one look-up takes at most, and the wait for leave to make it: half of an attempt's time-out by default.
/// Name servers that answer at all take a tenth of that.
pub(super) const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Look-ups that may run at once. A silent one holds some four sockets.
const LOOK_UPS_MAX: u32 = 256;

/// How long a name's addresses are used again at least: it spares a burst of new connections its look-ups.
const FOUND_TIME_MIN: Duration = Duration::from_secs(1);
/// And at most, whatever the name's servers say: with the age of a connection it is a minute until a move of
/// an endpoint is noticed.
pub(super) const FOUND_TIME_MAX: Duration = Duration::from_secs(20);

/// How long it is known that a name has no addresses, or that its servers are silent: below the first retry's
/// delay by default.
const NOT_FOUND_TIME: Duration = Duration::from_secs(5);

/// How long it is known that no name server could be asked: that is this machine's fault, not the name's.
const NOT_ASKED_TIME: Duration = Duration::from_millis(500);

/// How long a name whose servers were silent shares its look-ups with others of that kind.
const SILENT_TIME: Duration = Duration::from_mins(10);

/// Names of which something is known at most.
const NAMES_MAX: u64 = 10_000;

/// Why a name cannot be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResolveError {
    /// All its addresses are forbidden.
    #[error("forbidden address")]
    Forbidden,
    /// It has none, or they could not be found out.
    #[error("dns failure")]
    Failed,
    /// Its servers were silent, or so many look-ups ran that there was no time left for it.
    #[error("name not resolved in time")]
    NotInTime,
}

/// What a look-up found: at least one address, with port 0; the client puts the port in.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) addresses: Vec<SocketAddr>,
    /// As the name's servers say.
    pub(super) time_to_live: Duration,
}

/// Why a look-up found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotFound {
    /// There are no addresses, or the name's servers say that they cannot tell.
    Answered,
    /// Nobody answered.
    NotInTime,
    /// Nobody could be asked.
    NotAsked,
}

/// Looks names up.
pub(super) trait LookUp: Send + Sync {
    /// The addresses of a name that needs nobody asked; none where it is another.
    fn at_hand<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Vec<SocketAddr>>;

    /// Asks for a name's addresses. May be dropped.
    fn look_up<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Found, NotFound>>;
}

/// What is known of a name, and for how long.
#[derive(Clone, Debug)]
struct Known {
    answer: Answer,
    time: Duration,
}

type Answer = Result<Arc<[SocketAddr]>, ResolveError>;

/// A look-up under way.
type Flight = Shared<BoxFuture<'static, Answer>>;

/// Gives only addresses that may be dialled.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Core>);

struct Core {
    guard: AddressGuard,
    look_up: Box<dyn LookUp>,
    shares: Arc<Shares>,
    known: Cache<String, Known>,
    silent: Cache<String, ()>,
    /// As many as there are permits.
    flights: Mutex<HashMap<String, Flight>>,
    /// None where nothing is dialled but a proxy.
    race: Option<Race>,
    /// A name that the operator gives.
    proxy: Option<String>,
}

impl Resolver {
    /// By way of the system.
    pub(super) fn of_system(guard: AddressGuard, proxy: Option<&EgressProxy>) -> Self {
        Self::new(guard, System::new(Paths::default()), proxy)
    }

    pub(super) fn new(
        guard: AddressGuard,
        look_up: impl LookUp + 'static,
        proxy: Option<&EgressProxy>,
    ) -> Self {
        let names = || Cache::builder().max_capacity(NAMES_MAX).eviction_policy(EvictionPolicy::lru());
        Self(Arc::new(Core {
            guard,
            look_up: Box::new(look_up),
            shares: Shares::new(LOOK_UPS_MAX),
            known: names().expire_after(ByItsTime).build(),
            silent: Cache::builder().max_capacity(NAMES_MAX).time_to_live(SILENT_TIME).build(),
            flights: Mutex::default(),
            // What is dialled is the proxy: the addresses of others are not tried from here.
            race: proxy.is_none().then(Race::new),
            proxy: proxy.map(|proxy| proxy.host().to_owned()),
        }))
    }

    /// The addresses of `name` that may be dialled; at least one. Whoever asks for a name that is
    /// being looked up waits for that look-up; a look-up that has begun goes on to its end.
    pub(super) async fn addresses(&self, tenant: &Tenant, name: &str) -> Answer {
        let core = &self.0;
        if is_localhost(name) {
            return core.pass(name, &[(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()]);
        }
        if let Some(known) = core.known.get(name).await {
            return known.answer;
        }
        let at_hand = core.look_up.at_hand(name).await;
        if !at_hand.is_empty() {
            return core.pass(name, &at_hand);
        }
        timeout(LOOK_UP_TIMEOUT, core.find(tenant, name)).await.unwrap_or(Err(ResolveError::NotInTime))
    }

    /// An attempt at this name and port got no answer: another address of it may give one.
    pub(super) async fn doubt(&self, name: &str, port: u16) {
        if let Some(race) = &self.0.race {
            race.forget(name, port).await;
        }
    }
}

impl Core {
    async fn find(self: &Arc<Self>, tenant: &Tenant, name: &str) -> Answer {
        let under_way = self.flights().get(name).cloned();
        if let Some(flight) = under_way {
            return flight.await;
        }
        let claim = if self.silent.contains_key(name) { Claim::Doubtful } else { Claim::First };
        let permit = self.shares.permit(tenant, claim).await.ok_or(ResolveError::Failed)?;
        // Another one may have found it since.
        if let Some(known) = self.known.get(name).await {
            return known.answer;
        }
        self.fly(name, permit).await
    }

    /// A look-up of the name: the one under way, or a new one.
    fn fly(self: &Arc<Self>, name: &str, permit: Permit) -> Flight {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(name) {
            return flight.clone();
        }
        let landing = Landing { core: Arc::clone(self), name: name.to_owned() };
        let task = tokio::spawn(async move {
            let (_permit, landing) = (permit, landing);
            landing.core.ask(&landing.name).await
        });
        // A look-up that panicked found nothing.
        let flight = task.map(|ended| ended.unwrap_or(Err(ResolveError::Failed))).boxed().shared();
        flights.insert(name.to_owned(), flight.clone());
        flight
    }

    async fn ask(&self, name: &str) -> Answer {
        let found = timeout(LOOK_UP_TIMEOUT, self.look_up.look_up(name)).await;
        let (answer, time) = match found.unwrap_or(Err(NotFound::NotInTime)) {
            Ok(Found { addresses, time_to_live }) => {
                (self.pass(name, &addresses), time_to_live.clamp(FOUND_TIME_MIN, FOUND_TIME_MAX))
            }
            Err(NotFound::Answered) => (Err(ResolveError::Failed), NOT_FOUND_TIME),
            Err(NotFound::NotInTime) => (Err(ResolveError::NotInTime), NOT_FOUND_TIME),
            Err(NotFound::NotAsked) => (Err(ResolveError::Failed), NOT_ASKED_TIME),
        };
        if answer == Err(ResolveError::NotInTime) {
            self.silent.insert(name.to_owned(), ()).await;
        } else {
            self.silent.invalidate(name).await;
        }
        self.known.insert(name.to_owned(), Known { answer: answer.clone(), time }).await;
        answer
    }

    /// Those that may be dialled: of the proxy all.
    fn pass(&self, name: &str, found: &[SocketAddr]) -> Answer {
        if found.is_empty() {
            return Err(ResolveError::Failed);
        }
        let is_proxy = self.proxy.as_deref() == Some(name);
        let passing = found.iter().filter(|address| is_proxy || self.guard.check(address.ip()).is_ok());
        let passing: Arc<[SocketAddr]> = passing.copied().collect();
        if passing.is_empty() { Err(ResolveError::Forbidden) } else { Ok(passing) }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<String, Flight>> {
        // One entry is put in or taken out under it.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a look-up when it ends, however it does.
struct Landing {
    core: Arc<Core>,
    name: String,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.core.flights().remove(&self.name);
    }
}

/// Each for as long as it says.
struct ByItsTime;

impl Expiry<String, Known> for ByItsTime {
    fn expire_after_create(&self, _: &String, known: &Known, _: Instant) -> Option<Duration> {
        Some(known.time)
    }

    fn expire_after_update(
        &self,
        _: &String,
        known: &Known,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(known.time)
    }
}

/// What the connections of one tenant resolve their names with.
pub(super) struct TenantResolver {
    pub(super) tenant: Tenant,
    pub(super) resolver: Resolver,
}

impl Resolve for TenantResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (tenant, resolver, waiting) = (self.tenant.clone(), self.resolver.clone(), Waiting::begin());
        let port = progress::port();
        Box::pin(async move {
            let addresses = resolver.addresses(&tenant, name.as_str()).await;
            waiting.end();
            let mut addresses = addresses?.to_vec();
            if let Some((port, race)) = port.zip(resolver.0.race.as_ref()) {
                addresses = race.order(name.as_str(), port, &addresses).await;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
