//! One case from an empty database to its figures: warm up, load, drain, check.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use crate::client::{self, Client};
use crate::clock::Clock;
use crate::database::Database;
use crate::event::Filler;
use crate::history;
use crate::latency::Latency;
use crate::load::{Callers, Pace, Run, Stretch};
use crate::receiver::Receiver;
use crate::report::{Case, Cost, Outcome, Spent, Store};
use crate::tally::Tally;
use crate::target::Target;
use crate::usage;

/// Start, subscriptions, history and removal; everything else has its own limit.
const SETUP_PATIENCE: Duration = Duration::from_mins(20);
/// Of a guarded server: the base64 of 32 bytes.
const ENCRYPTION_KEY: &str = "LfptA4XiQAv3INzX++8RCLcPWlOKORTMuBFjMxCnk6A=";
/// The warm-up leaves no more than this behind, so that its drain is short.
const WARM_UP_BACKLOG_MAX: u64 = 1_000;
/// A drain in which nothing arrives for so long has stopped.
const STALL_PATIENCE: Duration = Duration::from_secs(30);
/// Several nodes share the subscriptions evenly by then: each looks at the others once a second.
const BALANCE_PATIENCE: Duration = Duration::from_secs(4);
const DRAIN_PAUSE: Duration = Duration::from_millis(20);

/// What all cases have in common.
pub(crate) struct Plan<'args> {
    pub(crate) connections: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) warm_up: Duration,
    pub(crate) pace: Pace,
    pub(crate) stretches: u32,
    /// Finished deliveries older than this are removed.
    pub(crate) retention_seconds: Option<f64>,
    pub(crate) drain_max: Duration,
    pub(crate) posthorn: &'args Path,
    /// What it is compared with.
    pub(crate) base: Option<&'args Path>,
    pub(crate) postgres: &'args Url,
    pub(crate) redis: Option<&'args Url>,
    pub(crate) directory: &'args Path,
}

impl Plan<'_> {
    /// Runs one case; whatever happens, its database and its server are gone afterwards.
    pub(crate) async fn measure(&self, case: Case) -> anyhow::Result<Outcome> {
        let database = match case.store {
            Store::Forwarder => Database::none(self.directory)?,
            Store::Sqlite => Database::sqlite(self.directory)?,
            Store::Postgres => Database::postgres(self.directory, self.postgres).await?,
        };
        let load = self.pace.duration * self.stretches;
        let limit = SETUP_PATIENCE + self.warm_up + load + self.drain_max * 2;
        let measured = tokio::select! {
            measured = timeout(limit, self.measure_on(&database, case)) => measured,
            () = interrupted() => Ok(Err(anyhow::anyhow!("interrupted"))),
        };
        let removed = database.remove().await;
        let outcome = measured.with_context(|| format!("not done after {limit:?}"))??;
        removed?;
        Ok(outcome)
    }

    async fn measure_on(&self, database: &Database, case: Case) -> anyhow::Result<Outcome> {
        let mut targets = Vec::with_capacity(case.nodes);
        for _ in 0..case.nodes {
            targets.push(Target::start(self.command(database, case)?).await?);
        }
        if case.nodes > 1 {
            sleep(BALANCE_PATIENCE).await;
        }
        let outcome = self.measure_targets(&targets, database, case).await;
        let outcome = outcome.with_context(|| {
            let logs: Vec<_> = targets.iter().map(Target::log).collect();
            format!("the server's log ends with\n{}", logs.join("\n"))
        });
        for target in targets {
            target.end().await?;
        }
        outcome
    }

    /// The server's process, with nothing of this process's own settings.
    fn command(&self, database: &Database, case: Case) -> anyhow::Result<Command> {
        let mut command = if let Some(url) = database.url() {
            let mut command = Command::new(self.base.filter(|_| case.base).unwrap_or(self.posthorn));
            command.env_clear().arg("serve").env("DATABASE_URL", url);
            command.env("POSTHORN_LISTEN", "127.0.0.1:0").env("NO_COLOR", "1");
            if case.guarded {
                command.env("POSTHORN_ADMIN_KEY", client::ADMIN_KEY);
                command.env("POSTHORN_ENCRYPTION_KEY", ENCRYPTION_KEY);
            }
            if let Some(redis) = self.redis.filter(|_| case.store == Store::Postgres) {
                command.env("REDIS_URL", redis.as_str());
            }
            if let Some(seconds) = self.retention_seconds {
                command.env("LOG_RETENTION_HOURS", (seconds / 3600.0).to_string());
                command.env("CLEANUP_INTERVAL_SECONDS", "1");
            }
            command
        } else {
            let share = self.pace.backlog_max / u64::try_from(case.subscriptions)?.max(1);
            let mut command = Command::new(std::env::current_exe().context("this program's path")?);
            // Some spare, since not every subscription's share is used up at the same time.
            command.env_clear().arg("forwarder").arg("--queue-max").arg((share * 2 + 1_000).to_string());
            command
        };
        command.current_dir(database.directory());
        Ok(command)
    }

    async fn measure_targets(
        &self,
        targets: &[Target],
        database: &Database,
        case: Case,
    ) -> anyhow::Result<Outcome> {
        let clock = Clock::start();
        let Case { ordering, subscriptions, .. } = case;
        let tally = Tally::new(self.connections, subscriptions, ordering.stride(self.connections))?;
        let tally = Arc::new(tally);
        let receiver = Receiver::start(Arc::clone(&tally), clock).await?;
        let first = targets.first().context("a server")?;
        let urls: Vec<_> = (0..subscriptions).map(|index| receiver.target_url(index)).collect();
        let paths = first.subscribe(case.guarded, ordering, &urls).await?;
        if let Some(url) = database.url() {
            history::add(&url, case.history, subscriptions, self.payload_bytes).await?;
        }
        let filler = Filler::for_payload(self.payload_bytes);
        let run = Arc::new(Run { clock, filler, paths, ordering, tally, accepted: AtomicU64::new(0) });
        let mut connections = Vec::with_capacity(self.connections);
        for target in targets.iter().cycle().take(self.connections) {
            connections.push(Client::connect(target.address(), case.guarded).await?);
        }
        let callers = Callers::new(&run, connections);

        let warm_up = Pace { duration: self.warm_up, backlog_max: WARM_UP_BACKLOG_MAX, interval: None };
        let (callers, _) = callers.run(warm_up).await.context("warm-up")?;
        drain(&run, self.drain_max).await.context("drain of the warm-up")?;

        run.tally.restart();
        let (before, arrived_before) = (Used::now(targets, database), run.tally.arrived());
        let (callers, stretch) = self.load(callers, &run, first, database).await.context("load")?;
        let delivered_in_load = run.tally.arrived() - arrived_before;
        drain(&run, self.drain_max).await.context("drain")?;
        let after = Used::now(targets, database);
        run.tally.check_complete(&callers.accepted())?;
        let cost = after.cost_since(&before, stretch.accepted);
        let callers = self.connections;
        Ok(Measured { case, callers, stretch, delivered_in_load, cost }.outcome(&run.tally))
    }
}

impl Plan<'_> {
    /// All stretches of the load; each of several is told when it ends.
    async fn load(
        &self,
        mut callers: Callers,
        run: &Run,
        target: &Target,
        database: &Database,
    ) -> anyhow::Result<(Callers, Stretch)> {
        let mut whole = Stretch::empty()?;
        for number in 1..=self.stretches {
            let (arrived, began) = (run.tally.arrived(), Instant::now());
            let (back, stretch) = callers.run(self.pace).await?;
            callers = back;
            whole.add(&stretch);
            if self.stretches > 1 {
                let seconds = began.elapsed().as_secs_f64();
                let accepted = crate::report::rate(stretch.accepted, seconds);
                let delivered = crate::report::rate(run.tally.arrived() - arrived, seconds);
                let stored = database.bytes().await? >> 20;
                let memory = usage::memory(target.pid()).map_or(0, |memory| memory.now_bytes >> 20);
                crate::say(&format!(
                    "  stretch {number}: {accepted:.0} accepted/s, {delivered:.0} delivered/s, \
                     {stored} MiB stored, {memory} MiB of memory"
                ))?;
            }
        }
        Ok((callers, whole))
    }
}

/// Waits for SIGINT or SIGTERM, whose default would leave the server and its database behind.
async fn interrupted() {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}

/// Waits until everything that was accepted has arrived.
async fn drain(run: &Run, patience: Duration) -> anyhow::Result<()> {
    let accepted = run.accepted.load(std::sync::atomic::Ordering::Relaxed);
    let begin = Instant::now();
    let (mut arrived, mut moved) = (run.tally.arrived(), Instant::now());
    while arrived < accepted {
        run.tally.check()?;
        if begin.elapsed() > patience || moved.elapsed() > STALL_PATIENCE {
            bail!("{arrived} of {accepted} events have arrived, {:.0?} after the load", begin.elapsed());
        }
        sleep(DRAIN_PAUSE).await;
        let now = run.tally.arrived();
        if now > arrived {
            (arrived, moved) = (now, Instant::now());
        }
    }
    run.tally.check()
}

/// What was used up to some moment.
struct Used {
    server: Option<Duration>,
    postgres: Option<Duration>,
    bench: Option<Duration>,
    memory: Option<usage::Memory>,
    machine: Option<usage::Machine>,
}

impl Used {
    fn now(targets: &[Target], database: &Database) -> Self {
        let pids = || targets.iter().map(Target::pid);
        Self {
            server: pids().map(usage::cpu).sum(),
            postgres: database.postgres_name().and_then(usage::cpu_of_postgres),
            bench: usage::cpu(std::process::id()),
            memory: pids().filter_map(usage::memory).max_by_key(|memory| memory.peak_bytes),
            machine: usage::machine_time(),
        }
    }

    fn cost_since(&self, before: &Self, events: u64) -> Cost {
        let between = |after: Option<Duration>, before: Option<Duration>| after?.checked_sub(before?);
        let machine =
            |of: fn(usage::Machine) -> Duration| between(self.machine.map(of), before.machine.map(of));
        Cost::new(
            events,
            Spent {
                server: between(self.server, before.server),
                postgres: between(self.postgres, before.postgres),
                bench: between(self.bench, before.bench),
                busy: machine(|machine| machine.busy),
                whole: machine(|machine| machine.whole),
                memory: self.memory,
            },
        )
    }
}

/// The raw figures of one case.
struct Measured {
    case: Case,
    callers: usize,
    stretch: Stretch,
    delivered_in_load: u64,
    cost: Cost,
}

impl Measured {
    fn outcome(self, tally: &Tally) -> Outcome {
        let (stretch, arrivals) = (self.stretch, tally.arrivals());
        let since_first =
            |nanos: u64| Duration::from_nanos(nanos.saturating_sub(stretch.first_accept_nanos)).as_secs_f64();
        let load_seconds = since_first(stretch.last_accept_nanos);
        let whole_seconds = since_first(arrivals.last_arrival_nanos).max(load_seconds);
        let waited = stretch.held.as_secs_f64() / f64::from(u32::try_from(self.callers).unwrap_or(u32::MAX));
        Outcome {
            case: self.case,
            discarded: 0,
            accepted: stretch.accepted,
            refused: stretch.refused,
            repeated: arrivals.repeated,
            load_seconds,
            drain_seconds: whole_seconds - load_seconds,
            held_seconds: waited,
            accepted_per_second: crate::report::rate(stretch.accepted, load_seconds),
            delivered_in_load_per_second: crate::report::rate(self.delivered_in_load, load_seconds),
            delivered_per_second: crate::report::rate(stretch.accepted, whole_seconds),
            ingest: Latency::of(&stretch.latency),
            delivery: Latency::of(&arrivals.latency),
            cost: self.cost,
        }
    }
}
