//! What processes use, read from Linux's `/proc`; nothing where there is none.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Linux counts processor time in hundredths of a second for every program (`USER_HZ`, proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// Processor time of one process, threads and all.
pub(crate) fn cpu(pid: u32) -> Option<Duration> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Processor time of PostgreSQL's processes that work for `database` or for all databases;
/// `None` where none is seen, as on another machine or in a container.
///
/// Best effort: a process that ended between two looks is missing in the second.
pub(crate) fn cpu_of_postgres(database: &str) -> Option<Duration> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let counted = processes.filter(|process| works_for(&process.path(), database).unwrap_or(false));
    let times =
        counted.filter_map(|process| parse_stat(&fs::read_to_string(process.path().join("stat")).ok()?));
    times.reduce(|sum, time| sum + time)
}

fn works_for(process: &Path, database: &str) -> Option<bool> {
    if fs::read_to_string(process.join("comm")).ok()?.trim_end() != "postgres" {
        return Some(false);
    }
    Some(title_names(&fs::read_to_string(process.join("cmdline")).ok()?, database))
}

fn title_names(title: &str, database: &str) -> bool {
    [database, "walwriter", "checkpointer", "background writer"].iter().any(|name| title.contains(name))
}

/// utime + stime of `/proc/<pid>/stat`: fields 14 and 15, counted behind the name, which may hold spaces.
fn parse_stat(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_ascii_whitespace().skip(11).map(str::parse::<u32>);
    let (user, system) = (ticks.next()?.ok()?, ticks.next()?.ok()?);
    Some(TICK * user.checked_add(system)?)
}

/// What all processors of the machine did so far, whoever asked for it; grows by one second a second
/// for each processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Work, the kernel's included, and what a hypervisor took away.
    pub(crate) busy: Duration,
    /// Work and rest.
    pub(crate) whole: Duration,
}

/// What the machine did so far: shows whether something else ran beside a measurement.
pub(crate) fn machine_time() -> Option<Machine> {
    parse_machine(&fs::read_to_string("/proc/stat").ok()?)
}

/// user, nice, system, idle, iowait, irq, softirq, steal: the first line of `/proc/stat`.
fn parse_machine(stat: &str) -> Option<Machine> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().take(8);
    let ticks = numbers.map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()?;
    let [user, nice, system, idle, waiting, irq, softirq, steal] = ticks.try_into().ok()?;
    let sum = |ticks: &[u32]| ticks.iter().map(|ticks| TICK * *ticks).sum::<Duration>();
    let busy = sum(&[user, nice, system, irq, softirq, steal]);
    Some(Machine { busy, whole: busy + sum(&[idle, waiting]) })
}

/// Memory of one process that is in RAM, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) peak_bytes: u64,
    pub(crate) now_bytes: u64,
}

/// Memory of one process.
pub(crate) fn memory(pid: u32) -> Option<Memory> {
    parse_status(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse_status(status: &str) -> Option<Memory> {
    Some(Memory { peak_bytes: kib(status, "VmHWM:")? * 1024, now_bytes: kib(status, "VmRSS:")? * 1024 })
}

/// The number in the line of this name, in KiB.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The machine, as a report should name it.
pub(crate) fn machine_name() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let memory_mib = kib(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) / 1024;
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!("{cores} cores ({model}), {memory_mib} MiB, Linux {}", kernel.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_stands_behind_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 250 50 7 8 20 0 17";
        for name in ["posthorn", "a name) (of sorts"] {
            assert_eq!(parse_stat(&format!("17 ({name}) {fields}")), Some(Duration::from_secs(3)), "{name}");
        }
        for wrong in ["", "17 (posthorn", "17 (posthorn) S 1 2"] {
            assert_eq!(parse_stat(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_machine_is_busy_with_all_but_rest() {
        let stat = "cpu  100 200 300 4000 50 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let (busy, whole) = (Duration::from_millis(6_210), Duration::from_millis(46_710));
        assert_eq!(parse_machine(stat), Some(Machine { busy, whole }));
        for wrong in ["", "cpu0 1 2 3 4 5 6 7 8", "cpu  1 2 3", "cpu  1 2 3 x 5 6 7 8"] {
            assert_eq!(parse_machine(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn memory_is_read_by_name() {
        let status = "Name:\tposthorn\nVmHWM:\t  2048 kB\nVmRSS:\t   1024 kB\n";
        assert_eq!(parse_status(status), Some(Memory { peak_bytes: 2 << 20, now_bytes: 1 << 20 }));
        assert_eq!(parse_status("Name:\tposthorn\n"), None);
    }

    #[test]
    fn only_backends_of_the_database_and_shared_writers_count() {
        for (title, counts) in [
            ("postgres: root posthorn_bench_1 127.0.0.1(40112) idle", true),
            ("postgres: 15/main: walwriter ", true),
            ("postgres: root other 127.0.0.1(40112) idle", false),
            ("postgres: 15/main: logical replication launcher ", false),
        ] {
            assert_eq!(title_names(title, "posthorn_bench_1"), counts, "{title}");
        }
    }
}
