//! The connection to Redis, which may be away, slow or out of its mind at any time.
//!
//! A call takes at most [`PATIENCE`]. After one that got no answer none is made, until Redis has answered a
//! look at it ([`Redis::look`]): so one that stands still costs a few callers a moment, and then nobody.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fred::clients::WithOptions;
use fred::prelude::{
    Client, ClientLike as _, Config, ConnectionConfig, Error, ErrorKind, EventInterface as _, FromValue,
    KeysInterface as _, LuaInterface as _, Options, PerformanceConfig, ReconnectPolicy, Value,
};
use fred::types::config::{TcpConfig, UnresponsiveConfig};
use fred::types::{ClusterHash, CustomCommand};
use tokio::sync::Notify;
use tokio::time::error::Elapsed;

/// How long a call may take: a request makes two of them at most.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);
/// How long a connection may take to come about, and how long one may be silent while an answer is due.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(2);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// A call came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

/// One Redis. Of the calls, only [`look`](Self::look) is made while it is away, as it is at first.
#[derive(Debug)]
pub(super) struct Redis {
    client: WithOptions<Client>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    here: AtomicBool,
    changed: Notify,
    /// What the last connection that failed ended with.
    last_error: Mutex<Option<String>>,
}

impl Redis {
    /// Connects in the background, for as long as this lives.
    pub(super) fn connect(url: &str) -> Result<Self, String> {
        let mut config = Config::from_url(url).map_err(|error| error.details().to_owned())?;
        config.fail_fast = false;
        let connection = ConnectionConfig {
            connection_timeout: CONNECTION_PATIENCE,
            internal_command_timeout: CONNECTION_PATIENCE,
            max_command_attempts: 1,
            reconnect_on_auth_error: true,
            tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(CONNECTION_PATIENCE),
                interval: CONNECTION_PATIENCE / 4,
            },
            ..ConnectionConfig::default()
        };
        let pause = u32::try_from(RECONNECT_PAUSE.as_millis()).unwrap_or(u32::MAX);
        let policy = ReconnectPolicy::new_constant(0, pause);
        let client = Client::new(config, Some(PerformanceConfig::default()), Some(connection), Some(policy));
        let state = Arc::new(State::default());
        let reconnected = Arc::clone(&state);
        client.on_reconnect(move |_| {
            // It may be another one, or have forgotten something.
            reconnected.leave();
            async { Ok(()) }
        });
        let failed = Arc::clone(&state);
        client.on_error(move |(error, _)| {
            failed.note(&error);
            async { Ok(()) }
        });
        drop(client.connect());
        let options = Options { max_attempts: Some(1), fail_fast: true, ..Options::default() };
        let client = client.with_options(&options);
        Ok(Self { client, state })
    }

    /// Whether it answered lately.
    pub(super) fn is_here(&self) -> bool {
        self.state.here.load(Ordering::Acquire)
    }

    /// It may be used from now on.
    pub(super) fn use_it(&self) {
        *self.state.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.state.here.store(true, Ordering::Release);
    }

    /// Returns once there is reason to look at it: a call came to nothing, or it was connected to anew. May be
    /// dropped.
    pub(super) async fn changed(&self) {
        self.state.changed.notified().await;
    }

    /// Whether it answers now: the name of its run, which is another after each start of it. Else why not.
    pub(super) async fn look(&self) -> Result<String, String> {
        let reason = |error: Error| error.details().to_owned();
        tokio::time::timeout(CONNECTION_PATIENCE, self.client.wait_for_connect())
            .await
            .map_err(|_| self.state.last_error().unwrap_or_else(|| "no connection".to_owned()))?
            .map_err(reason)?;
        let ask = CustomCommand::new_static("INFO", ClusterHash::Random, false);
        let info = in_time(Box::pin(self.client.custom(ask, vec!["server"]))).await;
        let info: String = info.map_err(|_| "no answer in time".to_owned())?.map_err(reason)?;
        let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).map(str::trim);
        run.filter(|run| !run.is_empty()).map(str::to_owned).ok_or_else(|| "INFO without run_id".to_owned())
    }

    /// The bytes at `key`.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Failed> {
        self.call(Box::pin(self.client.get(key))).await
    }

    /// Runs a script on one key. Its text goes along each time: Redis knows it by its digest, and after a
    /// flush there is nothing to do.
    pub(super) async fn run<T: FromValue>(
        &self,
        script: &'static str,
        key: &str,
        arguments: Vec<Value>,
    ) -> Result<T, Failed> {
        self.call(Box::pin(self.client.eval(script, key, arguments))).await
    }

    /// The client's futures take 20 KiB, so they come boxed: each request would be that large otherwise.
    async fn call<T>(&self, call: Pin<Box<impl Future<Output = Result<T, Error>>>>) -> Result<T, Failed> {
        if !self.is_here() {
            return Err(Failed);
        }
        match in_time(call).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if is_refusal(&error) => {}
            Ok(Err(_)) | Err(_) => self.state.leave(),
        }
        Err(Failed)
    }
}

impl State {
    fn note(&self, error: &Error) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.details().to_owned());
    }

    fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn leave(&self) {
        self.here.store(false, Ordering::Release);
        self.changed.notify_one();
    }
}

/// The client has a time-out of its own, which does not hold while it connects.
async fn in_time<T>(call: impl Future<Output = Result<T, Error>>) -> Result<Result<T, Error>, Elapsed> {
    tokio::time::timeout(PATIENCE, call).await
}

/// Whether it is Redis that said no, to this call: full, read only, a value of another kind.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidCommand | ErrorKind::InvalidArgument | ErrorKind::Unknown | ErrorKind::NotFound
    )
}
