//! Builds the parts, connects them, and takes them down: the only place that knows them all.

use std::net::SocketAddr;
use std::time::Duration;

use posthorn_domain::address::AddressGuard;
use posthorn_domain::circuit::CircuitPolicy;
use posthorn_domain::concurrency::Adaptive;
use posthorn_domain::limits::TIMEOUT_MAX;
use posthorn_domain::retry::RetryPolicy;
use posthorn_domain::subscription::Defaults;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::api::{self, KeyDigest};
use crate::clock::Clock;
use crate::config::{Config, Profile};
use crate::dispatch::{self, Dispatch};
use crate::sender::{self, Sender};
use crate::store::{self, InstanceLock, Store};

/// How often the lock on the database is looked after.
const LOCK_CHECK: Duration = Duration::from_secs(2);
/// How long clients may take for what they had begun when the server stops.
const CLIENTS_PATIENCE: Duration = Duration::from_secs(5);

/// Why the service could not start or go on; one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("POSTHORN_LISTEN: {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The database.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// The HTTP client.
    #[error("{0}")]
    Sender(#[from] sender::Error),
    /// Signals cannot be listened to.
    #[error("signals: {0}")]
    Signals(std::io::Error),
    /// Another process took the database over.
    #[error("the lock on the database was lost to another posthorn")]
    LockLost,
}

/// The running service.
pub struct App {
    address: SocketAddr,
    dispatch: Dispatch,
    server: AbortOnDropHandle<()>,
    stop_serving: oneshot::Sender<()>,
    store: Store,
    lock: AbortOnDropHandle<()>,
    lock_lost: watch::Receiver<bool>,
}

impl App {
    /// Migrates the database and starts serving.
    pub async fn start(config: &Config) -> Result<Self, Error> {
        let listen = |source| Error::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let store = Store::connect(&store::Settings { url: config.database_url.clone() }).await?;
        let lock = store.lock_instance().await?;
        store.migrate_up().await?;
        let (lost, lock_lost) = watch::channel(false);
        let lock = AbortOnDropHandle::new(tokio::spawn(keep_lock(store.clone(), lock, lost)));

        let guard = AddressGuard::new(config.allowed_private_networks.clone());
        let user_agent = concat!("Posthorn/", env!("CARGO_PKG_VERSION")).to_owned();
        let sender = Sender::new(sender::Settings { guard: guard.clone(), user_agent })?;
        let clock = Clock::system();
        let dispatch = Dispatch::start(dispatch_settings(config), store.clone(), sender, clock).await?;
        let settings = api::Settings {
            payload_bytes_max: config.payload_bytes_max,
            guard,
            admin_key: config.admin_key.as_ref().map(|key| KeyDigest::of(&key.0)),
            clock,
        };
        let (stop_serving, stop) = oneshot::channel::<()>();
        let endpoint = api::routes(dispatch.control(), settings);
        let server = AbortOnDropHandle::new(tokio::spawn(async move {
            // Dropping the sender stops it as well.
            let stop = async { _ = stop.await };
            api::server::serve(listener, endpoint, stop, CLIENTS_PATIENCE).await;
        }));
        if config.profile == Profile::Production {
            warn!("secrets are stored in clear: encryption at rest is not there yet");
        }
        info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
        Ok(Self { address, dispatch, server, stop_serving, store, lock, lock_lost })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until SIGTERM or SIGINT, then takes everything down; a second signal ends the
    /// process at once.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut signals = Signals::new().map_err(Error::Signals)?;
        // Both may be dropped: neither has done anything before it is ready.
        let lost = tokio::select! {
            () = signals.next() => false,
            _ = self.lock_lost.wait_for(|lost| *lost) => true,
        };
        info!("stopping: requests in flight are finished first");
        tokio::select! {
            () = self.shut_down() => {}
            () = signals.next() => {
                warn!("stopped at once: what was in flight goes again at the next start");
                std::process::exit(130);
            }
        }
        info!("stopped");
        if lost { Err(Error::LockLost) } else { Ok(()) }
    }

    /// Stops accepting, finishes what is in flight, and records its outcomes; bounded by the
    /// longest time-out there is.
    pub async fn shut_down(self) {
        self.dispatch.start_nothing();
        let _ = self.stop_serving.send(());
        // Ended or panicked, nobody is served any more.
        let _ = self.server.await;
        if !self.dispatch.shut_down(TIMEOUT_MAX).await {
            warn!("some requests did not end in time; they go again at the next start");
        }
        self.store.close().await;
        drop(self.lock);
    }
}

fn dispatch_settings(config: &Config) -> dispatch::Settings {
    dispatch::Settings {
        defaults: Defaults {
            retry: RetryPolicy {
                max_retries: config.max_retries,
                delay: config.retry_delay,
                delay_max: config.retry_delay_max,
            },
            timeout: config.timeout,
            circuit: CircuitPolicy {
                failure_threshold: config.circuit_failure_threshold,
                cool_down: config.circuit_cool_down,
                cool_down_max: config.retry_delay_max,
            },
            disable_after: config.disable_after,
            in_flight: Adaptive::DEFAULT.within(config.in_flight_max),
        },
        in_flight_max: config.in_flight_max,
        backlog_max: config.backlog_max,
        retention: config.retention,
        cleanup_interval: config.cleanup_interval,
    }
}

/// Looks after the lock: takes it again where its connection broke, and says so where another
/// process was faster.
async fn keep_lock(store: Store, mut lock: InstanceLock, lost: watch::Sender<bool>) {
    loop {
        tokio::time::sleep(LOCK_CHECK).await;
        if lock.is_held().await {
            continue;
        }
        match store.lock_instance().await {
            Ok(again) => lock = again,
            Err(store::Error::Unusable(reason)) => {
                error!(reason, "the database belongs to another process");
                let _ = lost.send(true);
                return;
            }
            Err(reason) => warn!(%reason, "the lock on the database could not be renewed yet"),
        }
    }
}

/// The signals that end the service.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next of them. May be dropped.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
