//! The figures as two tables in Markdown.

use std::fmt::{self, Write as _};

use crate::latency::Latency;
use crate::report::{Case, Line, Report};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        f.write_str(RATES_HEAD)?;
        self.lines.iter().try_for_each(|line| f.write_str(&rates(line)))?;
        f.write_str(COSTS_HEAD)?;
        self.lines.iter().try_for_each(|line| f.write_str(&costs(line)))
    }
}

const RATES_HEAD: &str = "\
| case | subscriptions | history | accepted/s | delivered/s in load | delivered/s end to end [range] | drain s | of the forwarder: accepted, delivered | of the base |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
";

const COSTS_HEAD: &str = "
| case | subscriptions | history | ingest p50 / p90 / p99 / max ms | sent to received p50 / p90 / p99 / max ms | CPU µs/event: server, PostgreSQL, bench | machine busy, elsewhere | server RSS peak, end MiB |
| --- | --- | --- | --- | --- | --- | --- | --- |
";

fn rates(line: &Line) -> String {
    let Line { median: run, delivered_per_second_range: [least, most], .. } = line;
    let mut text = format!("| {} ", case(run.case));
    let held =
        if run.held_seconds > 0.0 { format!(" (held {:.1} s)", run.held_seconds) } else { String::new() };
    let _ = write!(text, "| {}{held} ", per_second(run.accepted_per_second));
    let _ = write!(text, "| {} ", per_second(run.delivered_in_load_per_second));
    let _ = write!(text, "| {} ", per_second(run.delivered_per_second));
    let _ = write!(text, "[{}-{}] ", per_second(*least), per_second(*most));
    let _ = write!(text, "| {:.1} ", run.drain_seconds);
    let [accepted, delivered, base] =
        [line.accepted_ratio, line.delivered_ratio, line.base_ratio].map(percent);
    let _ = writeln!(text, "| {accepted}, {delivered} | {base} |");
    text
}

fn costs(line: &Line) -> String {
    let Line { median: run, .. } = line;
    let cost = run.cost;
    let [server, postgres, bench] = [
        cost.server_cpu_micros_per_event,
        cost.postgres_cpu_micros_per_event,
        cost.bench_cpu_micros_per_event,
    ]
    .map(|micros| micros.map_or_else(|| "-".to_owned(), |micros| format!("{micros:.0}")));
    let mib = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| (bytes >> 20).to_string());
    format!(
        "| {} | {} | {} | {server}, {postgres}, {bench} | {}, {} | {}, {} |\n",
        case(run.case),
        milliseconds(&run.ingest),
        milliseconds(&run.delivery),
        percent(cost.machine_busy_share),
        percent(cost.elsewhere_share),
        mib(cost.server_memory_peak_bytes),
        mib(cost.server_memory_end_bytes),
    )
}

fn case(case: Case) -> String {
    let subscriptions = thousands(case.subscriptions.try_into().unwrap_or(u64::MAX));
    format!("{case} | {subscriptions} | {}", thousands(case.history))
}

fn milliseconds(latency: &Latency) -> String {
    let Latency { p50_ms, p90_ms, p99_ms, max_ms } = latency;
    [p50_ms, p90_ms, p99_ms, max_ms]
        .map(|ms| if *ms < 99.95 { format!("{ms:.1}") } else { format!("{ms:.0}") })
        .join(" / ")
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.0} %", ratio * 100.0))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is small and not negative"
)]
fn per_second(rate: f64) -> String {
    thousands(rate.round() as u64)
}

/// A number with a comma between thousands.
fn thousands(number: u64) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", thousands(number / 1000), number % 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Store;
    use crate::report::tests::{outcome, report};

    #[test]
    fn a_case_is_one_row_in_each_table() {
        let mut posthorn = outcome(Store::Postgres, 1_000, 4_321.4);
        posthorn.cost.server_cpu_micros_per_event = Some(86.6);
        posthorn.cost.machine_busy_share = Some(0.98);
        posthorn.cost.server_memory_peak_bytes = Some(64 << 20);
        posthorn.held_seconds = 2.5;
        let text = report(vec![outcome(Store::Forwarder, 1_000, 10_000.0), posthorn]).to_string();
        for row in [
            "| forwarder, strict | 1,000 | 0 | 15,000 | 10,000 | 10,000 [10,000-10,000] | 1.2 | 100 %, 100 % | - |\n",
            "| PostgreSQL, strict | 1,000 | 0 | 6,482 (held 2.5 s) | 4,321 | 4,321 [4,321-4,321] | 1.2 | 43 %, 43 % | - |\n",
            "| PostgreSQL, strict | 1,000 | 0 | 1.0 / 2.0 / 100 / 1234 | 0.0 / 0.0 / 0.0 / 0.0 | 87, -, - | 98 %, - | 64, - |\n",
        ] {
            assert!(text.contains(row), "{row}\nis missing in\n{text}");
        }
    }

    #[test]
    fn thousands_have_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_002_003, "1,002,003")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn milliseconds_show_three_digits() {
        let latency = Latency { p50_ms: 0.04, p90_ms: 9.96, p99_ms: 99.96, max_ms: 100.4 };
        assert_eq!(milliseconds(&latency), "0.0 / 10.0 / 100 / 100");
    }
}
