//! The figures of a run, its medians, and what they are beside the forwarder's.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::latency::Latency;
use crate::ordering::Ordering;
use crate::usage::Memory;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Store {
    /// The forwarder that stores nothing: the ceiling.
    Forwarder,
    /// Posthorn on SQLite.
    Sqlite,
    /// Posthorn on PostgreSQL.
    Postgres,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forwarder => "forwarder",
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        })
    }
}

/// What one run measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    pub(crate) store: Store,
    /// The build that is compared with, not the one under test.
    pub(crate) base: bool,
    /// With an API key, encrypted secrets, and events that are signed.
    pub(crate) guarded: bool,
    /// Processes on one database.
    pub(crate) nodes: usize,
    pub(crate) ordering: Ordering,
    pub(crate) subscriptions: usize,
    /// Finished deliveries that are in the database already.
    pub(crate) history: u64,
    /// Events come at a rate of their own, whatever becomes of those before.
    pub(crate) open_loop: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, base, guarded, nodes, ordering, open_loop, .. } = self;
        write!(f, "{store}{}", if *base { " (base)" } else { "" })?;
        if *nodes > 1 {
            write!(f, " with {nodes} nodes")?;
        }
        f.write_str(if *guarded { ", guarded" } else { "" })?;
        write!(f, ", {ordering}")?;
        f.write_str(if *open_loop { ", open loop" } else { "" })
    }
}

/// The figures of one run of one case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    #[serde(flatten)]
    pub(crate) case: Case,
    /// Runs before this one that were not counted, since the machine worked for something else too.
    pub(crate) discarded: u32,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) repeated: u64,
    /// From the first 202 to the last.
    pub(crate) load_seconds: f64,
    /// From the last 202 to the last delivery.
    pub(crate) drain_seconds: f64,
    /// Time that the average caller waited because the backlog was at its limit.
    pub(crate) held_seconds: f64,
    pub(crate) accepted_per_second: f64,
    pub(crate) delivered_in_load_per_second: f64,
    /// From the first 202 to the last delivery.
    pub(crate) delivered_per_second: f64,
    /// From the ingest request to its 202.
    pub(crate) ingest: Latency,
    /// From the ingest request to the receipt of the delivery.
    pub(crate) delivery: Latency,
    #[serde(flatten)]
    pub(crate) cost: Cost,
}

/// What a case used; `None` where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Cost {
    pub(crate) server_cpu_seconds: Option<f64>,
    pub(crate) server_cpu_micros_per_event: Option<f64>,
    pub(crate) postgres_cpu_seconds: Option<f64>,
    pub(crate) postgres_cpu_micros_per_event: Option<f64>,
    pub(crate) bench_cpu_micros_per_event: Option<f64>,
    /// The part of the machine's processor time that was spent, by whomever: 1 is saturated.
    pub(crate) machine_busy_share: Option<f64>,
    /// The part that was spent on nothing of the above: what else ran, and the kernel's interrupts.
    pub(crate) elsewhere_share: Option<f64>,
    pub(crate) server_memory_peak_bytes: Option<u64>,
    pub(crate) server_memory_end_bytes: Option<u64>,
}

/// Processor time that went by during a case, and the server's memory at its end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) server: Option<Duration>,
    pub(crate) postgres: Option<Duration>,
    pub(crate) bench: Option<Duration>,
    /// On anything, by all processors.
    pub(crate) busy: Option<Duration>,
    /// That, and what they rested.
    pub(crate) whole: Option<Duration>,
    pub(crate) memory: Option<Memory>,
}

impl Cost {
    /// For so many events.
    pub(crate) fn new(events: u64, spent: Spent) -> Self {
        let Spent { server, postgres, bench, busy, whole, memory } = spent;
        let micros = |time: Duration| rate_inverse(time, events);
        let whole = whole.filter(|whole| !whole.is_zero());
        let share = |part: Option<Duration>| Some(part?.as_secs_f64() / whole?.as_secs_f64());
        let known = [server, postgres, bench].into_iter().flatten().sum();
        Self {
            server_cpu_seconds: server.map(|time| time.as_secs_f64()),
            server_cpu_micros_per_event: server.map(micros),
            postgres_cpu_seconds: postgres.map(|time| time.as_secs_f64()),
            postgres_cpu_micros_per_event: postgres.map(micros),
            bench_cpu_micros_per_event: bench.map(micros),
            machine_busy_share: share(busy),
            elsewhere_share: share(busy.map(|busy| busy.saturating_sub(known))),
            server_memory_peak_bytes: memory.map(|memory| memory.peak_bytes),
            server_memory_end_bytes: memory.map(|memory| memory.now_bytes),
        }
    }
}

/// One line of the report: the median of a case's runs.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    #[serde(flatten)]
    pub(crate) median: Outcome,
    /// Least and most events per second end to end among the runs.
    pub(crate) delivered_per_second_range: [f64; 2],
    /// Accepted per second, as a part of the forwarder's at as many subscriptions of the same ordering.
    pub(crate) accepted_ratio: Option<f64>,
    /// Delivered per second end to end, likewise.
    pub(crate) delivered_ratio: Option<f64>,
    /// Delivered per second end to end, as a multiple of what the base delivered in the same case; where it is
    /// guarded, of what it delivered without that.
    pub(crate) base_ratio: Option<f64>,
}

/// Everything that is reported.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    pub(crate) postgres_version: Option<String>,
    pub(crate) command: String,
    pub(crate) lines: Vec<Line>,
    /// Every run, in the order they were made.
    pub(crate) runs: Vec<Outcome>,
}

impl Report {
    /// Groups the runs by case, takes the medians and sets them beside the forwarder.
    pub(crate) fn new(
        machine: String,
        postgres_version: Option<String>,
        command: String,
        runs: Vec<Outcome>,
    ) -> Self {
        let mut cases: Vec<Case> = Vec::new();
        for run in &runs {
            if !cases.contains(&run.case) {
                cases.push(run.case);
            }
        }
        let medians: Vec<_> = cases.into_iter().filter_map(|case| median(&runs, case)).collect();
        let lines = medians.iter().map(|(outcome, range)| line(outcome, *range, &medians)).collect();
        Self { machine, postgres_version, command, lines, runs }
    }
}

/// The run in the middle by events per second end to end, and the range of that.
fn median(runs: &[Outcome], case: Case) -> Option<(Outcome, [f64; 2])> {
    let mut same: Vec<_> = runs.iter().filter(|run| run.case == case).collect();
    same.sort_by(|a, b| a.delivered_per_second.total_cmp(&b.delivered_per_second));
    let (first, middle, last) = (same.first()?, same.get(same.len() / 2)?, same.last()?);
    Some(((*middle).clone(), [first.delivered_per_second, last.delivered_per_second]))
}

fn line(outcome: &Outcome, range: [f64; 2], medians: &[(Outcome, [f64; 2])]) -> Line {
    let of_case =
        |case: Case| medians.iter().map(|(outcome, _)| outcome).find(|outcome| outcome.case == case);
    let part_of = |whole: Option<&Outcome>, of: fn(&Outcome) -> f64| {
        whole.map(of).filter(|of| *of > 0.0).map(|whole| of(outcome) / whole)
    };
    let ceiling = Case {
        store: Store::Forwarder,
        base: false,
        guarded: false,
        nodes: 1,
        history: 0,
        open_loop: false,
        ..outcome.case
    };
    let ceiling = of_case(ceiling).filter(|_| !outcome.case.open_loop);
    let compared = match outcome.case {
        case @ Case { guarded: true, .. } => Some(Case { guarded: false, ..case }),
        case @ Case { base: false, .. } => Some(Case { base: true, ..case }),
        Case { base: true, .. } => None,
    };
    let base = compared.and_then(of_case);
    let delivered = |outcome: &Outcome| outcome.delivered_per_second;
    Line {
        median: outcome.clone(),
        delivered_per_second_range: range,
        accepted_ratio: part_of(ceiling, |outcome| outcome.accepted_per_second),
        delivered_ratio: part_of(ceiling, delivered),
        base_ratio: part_of(base, delivered),
    }
}

/// Events per second; zero where no time passed.
#[expect(clippy::cast_precision_loss, reason = "a count of events stays far below 2^52")]
pub(crate) fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// Microseconds for each event; zero where there was none.
#[expect(clippy::cast_precision_loss, reason = "a count of events stays far below 2^52")]
fn rate_inverse(time: Duration, events: u64) -> f64 {
    if events > 0 { time.as_secs_f64() * 1e6 / events as f64 } else { 0.0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run with one interesting figure.
    pub(crate) fn outcome(store: Store, subscriptions: usize, delivered_per_second: f64) -> Outcome {
        let (ordering, history) = (Ordering::Strict, 0);
        Outcome {
            case: Case {
                store,
                base: false,
                guarded: false,
                nodes: 1,
                ordering,
                subscriptions,
                history,
                open_loop: false,
            },
            discarded: 0,
            accepted: 100_000,
            refused: 0,
            repeated: 0,
            load_seconds: 10.0,
            drain_seconds: 1.25,
            held_seconds: 0.0,
            accepted_per_second: delivered_per_second * 1.5,
            delivered_in_load_per_second: delivered_per_second,
            delivered_per_second,
            ingest: Latency { p50_ms: 1.0, p90_ms: 2.04, p99_ms: 99.96, max_ms: 1234.5 },
            delivery: Latency::default(),
            cost: Cost::default(),
        }
    }

    /// A report on these runs.
    pub(crate) fn report(runs: Vec<Outcome>) -> Report {
        Report::new("a machine".to_owned(), None, "posthorn-bench".to_owned(), runs)
    }

    #[test]
    fn medians_stand_beside_the_forwarder_of_as_many_subscriptions() {
        let report = report(vec![
            outcome(Store::Forwarder, 1, 8_000.0),
            outcome(Store::Sqlite, 1, 900.0),
            outcome(Store::Sqlite, 1_000, 5_000.0),
            outcome(Store::Forwarder, 1, 12_000.0),
            outcome(Store::Sqlite, 1, 1_100.0),
            outcome(Store::Forwarder, 1, 10_000.0),
            outcome(Store::Sqlite, 1, 1_000.0),
        ]);
        let figures: Vec<_> = report
            .lines
            .iter()
            .map(|line| {
                let Line { median, delivered_per_second_range: range, delivered_ratio, .. } = line;
                let case = (median.case.store, median.case.subscriptions);
                (case, median.delivered_per_second, *range, *delivered_ratio)
            })
            .collect();
        let expected = [
            ((Store::Forwarder, 1), 10_000.0, [8_000.0, 12_000.0], Some(1.0)),
            ((Store::Sqlite, 1), 1_000.0, [900.0, 1_100.0], Some(0.1)),
            ((Store::Sqlite, 1_000), 5_000.0, [5_000.0, 5_000.0], None),
        ];
        assert_eq!(figures, expected);
        assert_eq!(report.runs.len(), 7);
    }

    #[test]
    fn a_build_stands_beside_its_base_and_open_loops_beside_nothing() {
        let mut base = outcome(Store::Sqlite, 1, 1_000.0);
        base.case.base = true;
        let mut open = outcome(Store::Sqlite, 1, 500.0);
        open.case.open_loop = true;
        let mut guarded = outcome(Store::Sqlite, 1, 1_200.0);
        guarded.case.guarded = true;
        let forwarder = outcome(Store::Forwarder, 1, 10_000.0);
        let report = report(vec![forwarder, outcome(Store::Sqlite, 1, 1_500.0), base, guarded, open]);
        let ratios: Vec<_> =
            report.lines.iter().map(|line| (line.delivered_ratio, line.base_ratio)).collect();
        assert_eq!(
            ratios,
            [
                (Some(1.0), None),
                (Some(0.15), Some(1.5)),
                (Some(0.1), None),
                (Some(0.12), Some(0.8)),
                (None, None)
            ]
        );
    }

    #[test]
    fn cost_is_per_event_and_absent_where_unknown() {
        let memory = Some(Memory { peak_bytes: 2, now_bytes: 1 });
        let (server, bench) = (Some(Duration::from_millis(90)), Some(Duration::ZERO));
        let cost = Cost::new(1_000, Spent { server, bench, memory, ..Spent::default() });
        assert_eq!(cost.server_cpu_micros_per_event, Some(90.0));
        assert_eq!((cost.postgres_cpu_seconds, cost.postgres_cpu_micros_per_event), (None, None));
        assert_eq!(cost.bench_cpu_micros_per_event, Some(0.0));
        assert_eq!((cost.server_memory_peak_bytes, cost.server_memory_end_bytes), (Some(2), Some(1)));
    }

    #[test]
    fn what_ran_beside_the_measurement_shows() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let (server, postgres, bench) = (seconds(4), seconds(2), seconds(1));
        let spent = Spent { server, postgres, bench, busy: seconds(12), whole: seconds(20), memory: None };
        let cost = Cost::new(1, spent);
        assert_eq!((cost.machine_busy_share, cost.elsewhere_share), (Some(0.6), Some(0.25)));
        let cost = Cost::new(1, Spent { whole: seconds(0), ..spent });
        assert_eq!((cost.machine_busy_share, cost.elsewhere_share), (None, None));
    }

    #[test]
    fn nothing_in_no_time_is_no_rate() {
        assert_eq!((rate(100, 2.0), rate(100, 0.0)), (50.0, 0.0));
        let server = Some(Duration::from_secs(1));
        let cost = Cost::new(0, Spent { server, ..Spent::default() });
        assert_eq!(cost.server_cpu_micros_per_event, Some(0.0));
    }
}
