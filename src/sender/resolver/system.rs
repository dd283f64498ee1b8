//! The system's way to look names up: its hosts file, and its name servers over the network.
//!
//! As the C library does it, without a thread for each that blocks: first `/etc/hosts`, then the name servers of
//! `/etc/resolv.conf`, with its search domains, `ndots`, `timeout` and `attempts`. Both files are read again when
//! they change. What else `nsswitch.conf` may name (mDNS, LDAP) is not asked.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use tokio::time::Instant;

use super::{Found, LOOK_UP_TIMEOUT, LookUp, NotFound};

/// How often it is looked whether the files changed.
const CHECK_PERIOD: Duration = Duration::from_secs(5);

/// For how long the name servers are asked before they are asked anew; within it a question that got lost is sent
/// again. A server that answers for one of IPv4 and IPv6 only is waited for twice as long.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);
const ROUNDS_MAX: usize = 2;
const _: () = assert!(ROUND_TIMEOUT.as_millis() * 2 < LOOK_UP_TIMEOUT.as_millis());

/// Where the system's settings are.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) config: PathBuf,
    pub(super) hosts: PathBuf,
    /// Of the name servers; the files do not say it.
    pub(super) port: u16,
}

impl Default for Paths {
    fn default() -> Self {
        Self { config: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into(), port: 53 }
    }
}

/// Looks names up as the system does.
pub(super) struct System {
    paths: Paths,
    state: Mutex<State>,
}

struct State {
    files: Arc<Files>,
    checked: Instant,
}

/// What the files say.
struct Files {
    stamp: Stamp,
    hosts: Hosts,
    /// None where what they say cannot be used.
    resolver: Option<TokioResolver>,
}

/// When both files were changed, and their sizes.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl System {
    /// Reads the files.
    pub(super) fn new(paths: Paths) -> Self {
        let files = Arc::new(Files::read(&paths));
        Self { paths, state: Mutex::new(State { files, checked: Instant::now() }) }
    }

    /// What the files say, as of some seconds ago at most.
    async fn files(&self) -> Arc<Files> {
        let files = {
            let mut state = self.state();
            if state.checked.elapsed() < CHECK_PERIOD {
                return Arc::clone(&state.files);
            }
            // Whoever comes meanwhile takes what is at hand.
            state.checked = Instant::now();
            Arc::clone(&state.files)
        };
        let (paths, stamp) = (self.paths.clone(), files.stamp);
        let changed = move || (paths.stamp() != stamp).then(|| Files::read(&paths));
        let Ok(Some(changed)) = tokio::task::spawn_blocking(changed).await else { return files };
        let changed = Arc::new(changed);
        self.state().files = Arc::clone(&changed);
        changed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Two fields are set under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LookUp for System {
    fn at_hand<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Vec<SocketAddr>> {
        async move {
            let Ok(name) = Name::from_ascii(name) else { return Vec::new() };
            let files = self.files().await;
            let of_kind = |kind| files.hosts.lookup_static_host(&Query::query(name.clone(), kind));
            let found = [RecordType::AAAA, RecordType::A].into_iter().filter_map(of_kind);
            let addresses = |lookup: hickory_resolver::lookup::Lookup| -> Vec<_> {
                lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect()
            };
            found.flat_map(addresses).map(|ip| SocketAddr::new(ip, 0)).collect()
        }
        .boxed()
    }

    fn look_up<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Found, NotFound>> {
        async move {
            // IDNA was applied by whoever parsed the URL; underscores are no host names, and in use.
            let name = Name::from_ascii(name).map_err(|_| NotFound::Answered)?;
            let files = self.files().await;
            let resolver = files.resolver.as_ref().ok_or(NotFound::NotAsked)?;
            let found = resolver.lookup_ip(name).await.map_err(|error| not_found(&error))?;
            let time_to_live = found.valid_until().saturating_duration_since(Instant::now().into_std());
            Ok(Found { addresses: found.iter().map(|ip| SocketAddr::new(ip, 0)).collect(), time_to_live })
        }
        .boxed()
    }
}

fn not_found(error: &NetError) -> NotFound {
    match error {
        NetError::Dns(_) => NotFound::Answered,
        NetError::Timeout => NotFound::NotInTime,
        _ => NotFound::NotAsked,
    }
}

impl Paths {
    fn stamp(&self) -> Stamp {
        [&self.config, &self.hosts].map(|path| {
            let data = fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        })
    }
}

impl Files {
    fn read(paths: &Paths) -> Self {
        let stamp = paths.stamp();
        let mut hosts = Hosts::default();
        // What is there before a line that cannot be read counts.
        let read = fs::File::open(&paths.hosts).and_then(|file| hosts.read_hosts_conf(file));
        if let Err(error) = read {
            tracing::warn!(path = %paths.hosts.display(), %error, "the hosts file could not be read");
        }
        let resolver = resolver(paths)
            .inspect_err(|error| {
                tracing::error!(path = %paths.config.display(), %error, "no name servers: names cannot be looked up");
            })
            .ok();
        Self { stamp, hosts, resolver }
    }
}

fn resolver(paths: &Paths) -> Result<TokioResolver, NetError> {
    let (config, given) = read_config(paths)?;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    *options = given;
    options.timeout = options.timeout.min(ROUND_TIMEOUT);
    // The library counts those after the first.
    options.attempts = options.attempts.clamp(1, ROUNDS_MAX) - 1;
    // Both are done here.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

/// What the file says; where it names no server, the one of this machine (resolv.conf(5)).
fn read_config(paths: &Paths) -> Result<(ResolverConfig, ResolverOpts), NetError> {
    let mut text = fs::read(&paths.config).unwrap_or_default();
    let (config, options) = parse_resolv_conf(&text).or_else(|_| {
        text.extend_from_slice(b"\nnameserver 127.0.0.1\n");
        parse_resolv_conf(&text)
    })?;
    // The library asks in the host's own domain beside those that are listed.
    let search = match config.search() {
        [] => config.domain().cloned().into_iter().collect(),
        listed => listed.to_vec(),
    };
    let mut servers = config.name_servers().to_vec();
    for connection in servers.iter_mut().flat_map(|server| &mut server.connections) {
        connection.port = paths.port;
    }
    Ok((ResolverConfig::from_parts(None, search, servers), options))
}

#[cfg(test)]
impl System {
    /// Looks at the files with the next question.
    pub(super) fn look_now(&self) {
        self.state().checked -= CHECK_PERIOD;
    }
}
