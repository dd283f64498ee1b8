//! What a tenant notices of another one: its times beside the other against its times alone, in the same run.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Client;

/// What is allowed in any case. Without optimisation the attack, the server and the client that measures use up two
/// cores among them, beside other tests, so that only a release build is held to what is promised.
pub(crate) const ALLOWED: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1000 } else { 50 });

/// The median beside is at most twice that alone, and the 99th of a hundred at most five times; or within what is
/// allowed in any case.
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
        median_beside <= (2 * median).max(ALLOWED),
        "{what}: median {median:?} alone, {median_beside:?} beside"
    );
    assert!(most_beside <= (5 * most).max(ALLOWED), "{what}: p99 {most:?} alone, {most_beside:?} beside");
}

/// How long each of so many events took to be accepted, one after the other; none is refused.
pub(crate) async fn ingest(client: &Client, id: &str, events: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(events);
    for event in 0..events {
        let began = Instant::now();
        client.post_json(format!("/ingest/{id}"), json!(event)).await.expect(202);
        times.push(began.elapsed());
    }
    times
}
