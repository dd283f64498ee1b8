//! How much of a plain forwarder's speed is left when every event is stored first, and what it costs.
//!
//! One run on one machine measures three servers under the same load: a forwarder that stores
//! nothing (the ceiling), Posthorn on SQLite and Posthorn on PostgreSQL, each with one strict subscription and
//! with a thousand; other orderings, an open loop, a database with a history and a second build to compare
//! with on demand. Callers and receiver are this process; each server is a child of its own. A run fails
//! when one accepted event does not arrive, or arrives out of order.
//!
//! ```text
//! cargo build --release && cargo run --release --example posthorn-bench
//! ```

mod case;
mod client;
mod clock;
mod database;
mod event;
mod forwarder;
mod history;
mod latency;
mod load;
mod ordering;
mod receiver;
mod report;
mod table;
mod tally;
mod target;
mod usage;

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Parser, Subcommand};
use url::Url;

use crate::case::Plan;
use crate::load::Pace;
use crate::ordering::Ordering;
use crate::report::{Case, Outcome, Report, Store};

/// Runs of one case that are discarded before the machine counts as too busy.
const DISCARDED_MAX: u32 = 50;

/// Measures Posthorn against a forwarder that stores nothing.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values = ["forwarder", "sqlite", "postgres"])]
    cases: Vec<Store>,
    /// How subscriptions order their deliveries
    #[arg(long, value_delimiter = ',', default_values = ["strict"])]
    orderings: Vec<Ordering>,
    /// Numbers of subscriptions
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000])]
    subscriptions: Vec<u32>,
    /// Numbers of nodes on one database, with PostgreSQL
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u8).range(1..))]
    nodes: Vec<u8>,
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Length of each JSON payload
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(128..=262_144))]
    payload_bytes: u32,
    /// Load that is measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// So many times, with a line for each time: shows what becomes of a database in use
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    stretches: u32,
    /// Finished deliveries older than this are removed [default: as the server's]
    #[arg(long)]
    retention_seconds: Option<f64>,
    /// Load before it
    #[arg(long, default_value_t = 2.0)]
    warm_up_seconds: f64,
    /// Measure each case again with events that come at this part of the rate just delivered (open loop)
    #[arg(long)]
    open_loop: Option<f64>,
    /// Finished deliveries that are in the database already
    #[arg(long, value_delimiter = ',', default_values_t = [0])]
    history: Vec<u64>,
    /// Callers wait while so many accepted events have not arrived
    #[arg(long, default_value_t = 100_000)]
    backlog_max: u64,
    /// The longest wait for accepted events to arrive
    #[arg(long, default_value_t = 300.0)]
    drain_seconds: f64,
    /// Runs of each case, on a fresh database each; the table shows the median
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Run a case again where a larger part of the machine worked for something else
    #[arg(long, default_value_t = 1.0)]
    elsewhere_max: f64,
    /// The server's program [default: `posthorn` of the same build]
    #[arg(long)]
    posthorn: Option<PathBuf>,
    /// Another build of it: each case is measured with both, in turns
    #[arg(long)]
    base: Option<PathBuf>,
    /// Measure each case also with an API key, encrypted secrets, and events that are signed
    #[arg(long)]
    guarded: bool,
    /// A PostgreSQL server where databases may be created
    #[arg(
        long,
        env = "POSTHORN_TEST_POSTGRES_URL",
        default_value = "postgres://root@127.0.0.1:5432/postgres"
    )]
    postgres: Url,
    /// A Redis for the nodes on PostgreSQL
    #[arg(long)]
    redis: Option<Url>,
    /// Where SQLite's files lie for the time of the run; a file system in memory makes its commits too cheap
    /// [default: beside this program]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Where to write the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Serves as the forwarder; the benchmark starts itself like this
    #[command(hide = true)]
    Forwarder {
        #[arg(long)]
        queue_max: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Forwarder { queue_max }) => forwarder::serve(queue_max).await,
        None => benchmark(&arguments).await,
    }
}

async fn benchmark(arguments: &Arguments) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("this program's path")?;
    let examples = program.parent().context("this program's directory")?;
    let posthorn = arguments.posthorn.clone().unwrap_or_else(|| examples.join("../posthorn"));
    let posthorn = fs::canonicalize(&posthorn)
        .or_else(|error| if arguments.needs_posthorn() { Err(error) } else { Ok(posthorn.clone()) })
        .with_context(|| {
            format!("{}: build it first, or name another with --posthorn", posthorn.display())
        })?;
    // A server is started in a directory of its own.
    let base = arguments
        .base
        .as_ref()
        .map(|path| fs::canonicalize(path).with_context(|| format!("--base: {}", path.display())));
    let base = base.transpose()?;
    let mut plan = Plan {
        connections: arguments.connections.into(),
        payload_bytes: arguments.payload_bytes.try_into()?,
        warm_up: seconds("--warm-up-seconds", arguments.warm_up_seconds)?,
        stretches: arguments.stretches,
        retention_seconds: arguments.retention_seconds,
        pace: arguments.pace(None)?,
        drain_max: seconds("--drain-seconds", arguments.drain_seconds)?,
        posthorn: &posthorn,
        base: base.as_deref(),
        postgres: &arguments.postgres,
        redis: arguments.redis.as_ref(),
        directory: arguments.directory.as_deref().unwrap_or(examples),
    };
    let mut runs = Vec::new();
    for _ in 0..arguments.repeat {
        for case in arguments.all_cases()? {
            plan.pace = arguments.pace(None)?;
            let run = arguments.measure_alone(&plan, case).await?;
            let delivered = run.delivered_per_second;
            runs.push(run);
            if let Some(part) = arguments.open_loop {
                plan.pace = arguments.pace(Some(part * delivered))?;
                runs.push(arguments.measure_alone(&plan, Case { open_loop: true, ..case }).await?);
            }
        }
    }
    let postgres_version = if arguments.cases.contains(&Store::Postgres) {
        Some(database::postgres_version(&arguments.postgres).await?)
    } else {
        None
    };
    arguments.hand_out(&Report::new(usage::machine_name(), postgres_version, command(), runs))
}

impl Arguments {
    fn needs_posthorn(&self) -> bool {
        self.cases.iter().any(|store| *store != Store::Forwarder)
    }

    /// Each case once; those that differ in nodes or build only, one right after the other.
    fn all_cases(&self) -> anyhow::Result<Vec<Case>> {
        let mut cases = Vec::new();
        for &ordering in &self.orderings {
            for subscriptions in &self.subscriptions {
                let subscriptions = usize::try_from(*subscriptions)?;
                for &history in &self.history {
                    for &store in &self.cases {
                        let history = if store == Store::Forwarder { 0 } else { history };
                        let (nodes, base, guarded, open_loop) = (1, false, false, false);
                        cases.extend(self.variants(Case {
                            store,
                            base,
                            guarded,
                            nodes,
                            ordering,
                            subscriptions,
                            history,
                            open_loop,
                        }));
                    }
                }
            }
        }
        // The forwarder has no history.
        let mut seen = Vec::new();
        cases.retain(|case| !seen.contains(case) && (seen.push(*case), true).1);
        Ok(cases)
    }

    /// A case with each number of nodes and each build that it is to be measured with.
    fn variants(&self, case: Case) -> Vec<Case> {
        let nodes = if case.store == Store::Postgres { self.nodes.as_slice() } else { &[1] };
        let builds = if self.base.is_some() && case.store != Store::Forwarder { 2 } else { 1 };
        let with = |nodes: &u8| {
            let nodes = usize::from(*nodes);
            let builds = [false, true].into_iter().take(builds).map(move |base| Case { base, nodes, ..case });
            let guarded = self.guarded && case.store != Store::Forwarder;
            builds.chain(guarded.then_some(Case { guarded, nodes, ..case }))
        };
        nodes.iter().flat_map(with).collect()
    }

    /// As fast as events are answered, or with so many a second.
    fn pace(&self, rate: Option<f64>) -> anyhow::Result<Pace> {
        let interval = rate.map(|rate| {
            ensure!(rate > 0.0, "--open-loop: expected a part above 0");
            Ok(Duration::try_from_secs_f64(f64::from(self.connections) / rate)?)
        });
        Ok(Pace {
            duration: seconds("--seconds", self.seconds)?,
            backlog_max: self.backlog_max,
            interval: interval.transpose()?,
        })
    }

    /// Runs a case again while too much of the machine worked for something else.
    async fn measure_alone(&self, plan: &Plan<'_>, case: Case) -> anyhow::Result<Outcome> {
        let what = format!("{case}, subscriptions: {}, history: {}", case.subscriptions, case.history);
        for discarded in 0..DISCARDED_MAX {
            let mut run = plan.measure(case).await.with_context(|| what.clone())?;
            let elsewhere = run.cost.elsewhere_share.unwrap_or(0.0);
            let verdict = if elsewhere > self.elsewhere_max { "discarded" } else { "kept" };
            let (rate, percent) = (run.delivered_per_second, elsewhere * 100.0);
            say(&format!("{what}: {rate:.0} events/s end to end, {percent:.0} % elsewhere: {verdict}"))?;
            if elsewhere <= self.elsewhere_max {
                run.discarded = discarded;
                return Ok(run);
            }
        }
        bail!("{what}: {DISCARDED_MAX} runs in a row had more than --elsewhere-max of the machine elsewhere")
    }

    fn hand_out(&self, report: &Report) -> anyhow::Result<()> {
        write!(std::io::stdout(), "\n{report}")?;
        match &self.json {
            Some(path) => fs::write(path, serde_json::to_vec_pretty(report)?)
                .with_context(|| format!("--json: writing {}", path.display())),
            None => Ok(()),
        }
    }
}

fn seconds(name: &str, value: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(value).with_context(|| format!("{name}: expected seconds, got {value}"))
}

fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "{line}")
}

/// How this program was called, without its path.
fn command() -> String {
    let arguments = std::env::args().skip(1);
    ["posthorn-bench".to_owned()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}
