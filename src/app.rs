//! Builds the parts, connects them, and takes them down: the only place that knows them all.

pub mod signals;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use posthorn_domain::address::AddressGuard;
use posthorn_domain::api_key::{KeyDigest, LastAdminKey};
use posthorn_domain::circuit::CircuitPolicy;
use posthorn_domain::concurrency::Adaptive;
use posthorn_domain::limits::TIMEOUT_MAX;
use posthorn_domain::retry::RetryPolicy;
use posthorn_domain::subscription::{Defaults, RateLimit};
use posthorn_domain::tenant::Quotas;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::api;
use crate::cache::Caches;
use crate::clock::Clock;
use crate::config::{self, Config, Profile};
use crate::dispatch::{self, Dispatch};
use crate::http::tls::Tls;
use crate::http::{server, tls};
use crate::sender::{self, Sender};
use crate::service::{self, Service};
use crate::store::{self, InstanceLock, Sealed, Store};
use crate::telemetry::output;
use signals::Signals;

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
    /// What the configuration and the database together must be.
    #[error("{0}")]
    Config(#[from] config::Error),
    /// The API's certificate.
    #[error("{0}")]
    Tls(#[from] tls::Error),
    /// The database.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// The HTTP client.
    #[error("{0}")]
    Sender(#[from] sender::Error),
    /// The disk failed under SQLite.
    #[error("the disk failed to confirm what was written: stopped, so that nothing is built on it")]
    DiskFailed,
    /// Signals cannot be listened to.
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

/// How long connections to the database may take to close when the server stops.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two tries to open the database.
const START_PAUSE: Duration = Duration::from_millis(500);

/// Serves until a signal stops it.
pub async fn serve(config: &Config) -> Result<(), Error> {
    let mut signals = Signals::listen().map_err(Error::Signals)?;
    let app = tokio::select! {
        app = App::start(config) => app?,
        // Nothing was accepted yet.
        signal = signals.next() => {
            info!(signal, "stopped before it served");
            return Ok(());
        }
    };
    app.run(signals).await
}

/// The running service.
pub struct App {
    address: SocketAddr,
    dispatch: Dispatch,
    server: AbortOnDropHandle<()>,
    stop_serving: oneshot::Sender<()>,
    store: Store,
    /// On an SQLite file, no second process.
    lock: Option<InstanceLock>,
}

impl App {
    /// Migrates the database and starts serving.
    pub async fn start(config: &Config) -> Result<Self, Error> {
        let tls = match tls_files(config) {
            Some(files) => Some(Tls::open(files).await?),
            None => None,
        };
        let (store, lock) = open_store(config).await?;
        let lock = Some(lock).filter(|_| !store.is_shared());
        let sealed = store.check_secrets().await?;
        let has_keys = store.has_keys(false).await?;
        config.check_keys(has_keys, store.has_keys(true).await?)?;
        match (sealed, &config.encryption_key) {
            (Sealed::InPart, _) => {
                warn!(
                    "some secrets are not encrypted with POSTHORN_ENCRYPTION_KEY: run posthorn secrets rotate"
                );
            }
            (Sealed::ClearRefused, _) => {
                warn!(
                    "some secrets stand in clear although all were encrypted: they are not used; see posthorn secrets rotate --help"
                );
            }
            (Sealed::AsConfigured, None) => {
                info!("secrets are stored in clear: POSTHORN_ENCRYPTION_KEY is not set");
            }
            (Sealed::AsConfigured, Some(_)) => {}
        }
        let listen = |source| Error::Listen { address: config.listen, source };
        let listener = server::listen(config.listen).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let guard = AddressGuard::new(config.allowed_private_networks.clone());
        let user_agent = concat!("Posthorn/", env!("CARGO_PKG_VERSION")).to_owned();
        let sender = Sender::new(sender::Settings {
            guard: guard.clone(),
            user_agent,
            proxy: config.egress_proxy.clone(),
        })?;
        let clock = Clock::system();
        if config.redis_url.is_some() && !store.is_shared() {
            warn!("REDIS_URL is not used on SQLite: there is nobody to share with");
        }
        let caches = Caches::new(store.clone(), config.redis_url.as_ref().map(|url| url.0.as_str()))?;
        let dispatch =
            Dispatch::start(dispatch_settings(config), store.clone(), caches.clone(), sender, clock).await?;
        let service =
            Service::new(service_settings(config, has_keys), store.clone(), caches, dispatch.handle(), clock);
        let settings = api::Settings {
            payload_bytes_max: config.payload_bytes_max,
            guard,
            listen: address,
            behind_proxy: config.behind_proxy,
            clock,
        };
        let serving = server::Settings {
            idle_timeout: config.idle_timeout,
            behind_proxy: config.behind_proxy,
            payload_bytes_max: config.payload_bytes_max,
        };
        let (stop_serving, stop) = oneshot::channel::<()>();
        let endpoint = api::routes(service, settings);
        let server = AbortOnDropHandle::new(tokio::spawn(async move {
            // Dropping the sender stops it as well.
            let stop = async { _ = stop.await };
            server::serve(serving, listener, tls, endpoint, stop, CLIENTS_PATIENCE).await;
        }));
        info!(database = store.describe().await?, "the database answers");
        info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
        Ok(Self { address, dispatch, server, stop_serving, store, lock })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until a signal stops it, then takes everything down; a second signal ends the process at once. An error
    /// as soon as the disk fails, with nothing taken down.
    pub async fn run(self, mut signals: Signals) -> Result<(), Error> {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            () = self.store.disk_failed() => return Err(Error::DiskFailed),
        };
        info!(signal, "stopping: requests in flight are finished first");
        tokio::select! {
            () = self.shut_down() => {}
            signal = signals.next() => {
                warn!(signal, "stopped at once: what was in flight goes again at the next start");
                output::flush();
                std::process::exit(130);
            }
        }
        info!("stopped");
        Ok(())
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
        if timeout(STORE_CLOSE_TIMEOUT, self.store.close()).await.is_err() {
            warn!("connections to the database did not close in time; they end with the process");
        }
        drop(self.lock);
    }
}

/// Opens the database and brings its schema up to date; waits for one that is not there yet.
async fn open_store(config: &Config) -> Result<(Store, InstanceLock), Error> {
    let (begun, mut told) = (Instant::now(), false);
    loop {
        let error = match try_to_open(config).await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let may_pass = matches!(
            error,
            Error::Store(
                store::Error::Unavailable(_) | store::Error::SessionLost(_) | store::Error::OutcomeUnknown(_)
            )
        );
        if !may_pass || begun.elapsed() >= config.start_patience {
            return Err(error);
        }
        if !std::mem::replace(&mut told, true) {
            warn!(reason = %error, patience = ?config.start_patience, "waiting for the database");
        }
        tokio::time::sleep(START_PAUSE).await;
    }
}

async fn try_to_open(config: &Config) -> Result<(Store, InstanceLock), Error> {
    let store = Store::connect(&store_settings(config)).await?;
    store.check_version().await?;
    let lock = store.lock_instance().await?;
    if let Err(error) = store.check_durability().await {
        match config.profile {
            Profile::Production => return Err(error.into()),
            Profile::Development => warn!(%error, "not durable"),
        }
    }
    store.settle_log().await?;
    store.check_file().await?;
    store.migrate_up().await?;
    Ok((store, lock))
}

/// Where the database is.
pub fn store_settings(config: &Config) -> store::Settings {
    store::Settings {
        url: config.database_url.0.clone(),
        direct_url: config.database_listen_url.as_ref().map(|url| url.0.clone()),
        connections: config.database_connections,
        schema: config.database_schema.clone(),
        lease: config.lease,
        encryption_key: config.encryption_key.clone(),
        previous_encryption_key: config.previous_encryption_key.clone(),
    }
}

/// Whether the last key in the database that opens everything may be revoked. `POSTHORN_ADMIN_KEY` counts as one.
pub fn last_admin_key(config: &Config) -> LastAdminKey {
    match config.profile {
        Profile::Production if config.admin_key.is_none() => LastAdminKey::Stays,
        Profile::Production | Profile::Development => LastAdminKey::MayGo,
    }
}

/// Where the API's certificate is. The configuration has both files or none.
fn tls_files(config: &Config) -> Option<tls::Files> {
    Some(tls::Files { certificate: config.tls_certificate.clone()?, key: config.tls_key.clone()? })
}

fn service_settings(config: &Config, has_keys: bool) -> service::Settings {
    service::Settings {
        admin_key: config.admin_key.as_ref().map(|key| KeyDigest::of(key.0.as_bytes())),
        is_open: config.may_be_open() && !has_keys,
        last_admin_key: last_admin_key(config),
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
        audit_retention: config.audit_retention,
        cleanup_interval: config.cleanup_interval,
        lease: config.lease,
        quotas: Quotas {
            max_subscriptions: config.tenant_subscriptions_max,
            max_stored_bytes: config.tenant_stored_bytes_max,
            // The configuration has both or neither.
            control_limit: config
                .tenant_control_rate
                .zip(config.tenant_control_burst)
                .map(|(requests_per_second, burst)| RateLimit { requests_per_second, burst }),
        },
    }
}
