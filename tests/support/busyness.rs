//! How busy the machine is with other things while a test runs: a limit of time that holds on a quiet machine is held
//! against that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A thread works for so long, again and again: longer than the system lets one run while others wait.
const WORK: Duration = Duration::from_millis(10);
/// And rests so long between: what it takes from the test is a tenth of a core.
const REST: Duration = Duration::from_millis(90);
/// The waits of so many pieces of work count together.
const WINDOW: usize = 5;

/// Watches the machine from its creation on.
pub(crate) struct Busyness {
    /// The most wall-clock time that a piece of work took, as so many thousandths of its own time.
    worst: Arc<AtomicU64>,
    wanted: Arc<AtomicBool>,
}

impl Busyness {
    pub(crate) fn watch() -> Self {
        let (worst, wanted) = (Arc::new(AtomicU64::new(1000)), Arc::new(AtomicBool::new(true)));
        let (seen, on) = (Arc::clone(&worst), Arc::clone(&wanted));
        thread::spawn(move || {
            while on.load(Ordering::Relaxed) {
                let (mut own, mut kept_waiting) = (Duration::ZERO, Duration::ZERO);
                for _ in 0..WINDOW {
                    thread::sleep(REST);
                    let (began, before) = (Instant::now(), waiting());
                    loop {
                        let wait = waiting().saturating_sub(before);
                        let worked = began.elapsed().saturating_sub(wait);
                        if worked >= WORK {
                            own += worked;
                            kept_waiting += wait;
                            break;
                        }
                        (0..10_000_u32).for_each(|n| {
                            std::hint::black_box(n);
                        });
                    }
                }
                let share = (own + kept_waiting).as_nanos() * 1000 / own.as_nanos().max(1);
                seen.fetch_max(share.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { worst, wanted }
    }

    /// As long as what takes `limit` on a quiet machine may have taken here.
    pub(crate) fn allows(&self, limit: Duration) -> Duration {
        let worst = self.worst.load(Ordering::Relaxed);
        limit.mul_f64(f64::from(u32::try_from(worst).unwrap_or(u32::MAX)) / 1000.0)
    }
}

impl Drop for Busyness {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
    }
}

/// How long this thread has waited for a processor since it began, as Linux says (`/proc/PID/schedstat`, its second
/// number); nothing where it does not.
fn waiting() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited = text.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}
