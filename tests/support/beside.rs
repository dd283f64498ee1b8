//! What a tenant notices of another one: its times beside the other against its times alone, in the same run.

use std::time::Duration;

/// What a machine that is busy with other tests may add.
const SLACK: Duration = Duration::from_millis(50);

/// The median beside is at most twice that alone, and the 99th of a hundred at most five times; or within what a
/// busy machine adds.
pub(crate) fn is_unnoticed(what: &str, alone: &[Duration], beside: &[Duration]) {
    let at = |times: &[Duration], percent: usize| {
        let mut times = times.to_vec();
        times.sort_unstable();
        times[(times.len() * percent / 100).min(times.len() - 1)]
    };
    let (median, median_beside) = (at(alone, 50), at(beside, 50));
    let (most, most_beside) = (at(alone, 99), at(beside, 99));
    println!("{what}: median {median:?} alone, {median_beside:?} beside; p99 {most:?} and {most_beside:?}");
    assert!(
        median_beside <= (2 * median).max(SLACK),
        "{what}: median {median:?} alone, {median_beside:?} beside"
    );
    assert!(most_beside <= (5 * most).max(SLACK), "{what}: p99 {most:?} alone, {most_beside:?} beside");
}
