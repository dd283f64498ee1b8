//! What must hold after any number of crashes: the invariants by their numbers, from the tables and
//! from the receiver's log.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use super::load::{Done, Endpoint, is_keyed};
use crate::support::receiver::summary;
use crate::support::{Database, Received};

/// I2 and I7: everything answered 202 is stored, and arrived as it was handed in. Of keyed events
/// there is one delivery each, however often they were handed in (I21).
pub(super) async fn check_stored(database: &Database, load: &Done) {
    let rows = database
        .rows("SELECT id, CAST(sequence AS BIGINT), CAST(status AS BIGINT), CAST(0 AS BIGINT) FROM webhook_deliveries");
    let stored: HashMap<String, i64> =
        rows.await.into_iter().map(|(id, sequence, _, _)| (id.to_string(), sequence)).collect();
    let mut bodies: HashMap<String, Vec<u8>> = HashMap::new();
    for request in load.requests() {
        let body = bodies.entry(request.delivery_id().to_owned()).or_insert(request.body.clone());
        assert_eq!(*body, request.body, "one delivery, two bodies");
        assert_eq!(stored.get(request.delivery_id()), Some(&request.sequence()), "as stored: {request:?}");
    }
    for (delivery, event) in &load.accepted {
        assert!(stored.contains_key(delivery), "{delivery} was accepted and is lost");
        assert_eq!(bodies.get(delivery), Some(&event.body), "{delivery} did not arrive as it was handed in");
    }
    let arrived: HashSet<_> = bodies.values().collect();
    assert_eq!(arrived.len(), bodies.len(), "an event arrived under two deliveries");
    let keyed = load.accepted.values().filter(|event| is_keyed(event)).count();
    let stored =
        database.number("SELECT count(*) FROM webhook_deliveries WHERE idempotency_key IS NOT NULL").await;
    assert_eq!((keyed, i64::try_from(load.keyed).unwrap()), (load.keyed, stored));
}

/// I3, I8, I10, I12 and I24, as far as the tables tell.
pub(super) async fn check_tables(database: &Database) {
    for (what, from) in [
        (
            "I3: sequence numbers without gap",
            "(SELECT subscription_id FROM webhook_deliveries GROUP BY subscription_id \
             HAVING min(sequence) <> 1 OR max(sequence) <> count(*) OR count(DISTINCT sequence) <> count(*)) AS x",
        ),
        (
            "I10: attempt_count is the rows of the log",
            "webhook_deliveries AS d WHERE attempt_count <> \
             (SELECT count(*) FROM delivery_attempts AS a WHERE a.delivery_id = d.id)",
        ),
        ("I10: at most one attempt and the retries", "webhook_deliveries WHERE attempt_count > 101"),
        (
            "I10: attempt numbers are 1 to n",
            "(SELECT delivery_id FROM delivery_attempts GROUP BY delivery_id HAVING min(attempt_number) <> 1 \
             OR max(attempt_number) <> count(*) OR count(DISTINCT attempt_number) <> count(*)) AS x",
        ),
        (
            "I10: the last attempt's outcome agrees with the status",
            "webhook_deliveries AS d WHERE status = 3 AND NOT EXISTS (SELECT 1 FROM delivery_attempts AS a \
             WHERE a.delivery_id = d.id AND a.attempt_number = d.attempt_count AND a.status_code BETWEEN 200 AND 299)",
        ),
        (
            "I12: one success each, and it is final",
            "(SELECT delivery_id FROM delivery_attempts WHERE status_code BETWEEN 200 AND 299 \
             GROUP BY delivery_id HAVING count(*) > 1) AS x",
        ),
        (
            "I12: completed_at exactly when finished",
            "webhook_deliveries WHERE (completed_at_ms IS NULL) <> (status NOT IN (3, 4))",
        ),
        (
            "I12: next_attempt_at exactly in failed_attempt",
            "webhook_deliveries WHERE (next_attempt_at_ms IS NULL) <> (status <> 2)",
        ),
        (
            "each event has its payload",
            "webhook_deliveries AS d WHERE NOT EXISTS (SELECT 1 FROM events AS e WHERE e.id = d.event_id)",
        ),
    ] {
        database.check_none(what, from).await;
    }
}

/// I4 and I5: what a strict endpoint, or one key, sees never goes backwards, and never two at once.
pub(super) fn check_order(endpoint: &Endpoint, load: &Done, received: &[Received]) {
    let mut lines: BTreeMap<Option<&str>, Vec<&Received>> = BTreeMap::new();
    for request in received {
        let key = match endpoint.ordering {
            "strict" => Some(""),
            // An event whose answer was lost has a key that is not known here.
            "key" => load.accepted.get(request.delivery_id()).and_then(|event| event.key.as_deref()),
            _ => None,
        };
        lines.entry(key).or_default().push(request);
    }
    for (key, line) in lines.into_iter().filter_map(|(key, line)| Some((key?, line))) {
        for pair in line.windows(2) {
            let at = || format!("{} {key}: {}", endpoint.path, summary(&[pair[0].clone(), pair[1].clone()]));
            assert!(pair[0].sequence() <= pair[1].sequence(), "goes backwards at {}", at());
            assert!(
                pair[0].closed.is_some_and(|closed| closed <= pair[1].opened),
                "two open at once at {}",
                at()
            );
        }
    }
}

/// Between two kills no attempt is seen twice, but for one that the endpoint broke off without an answer: on a kept
/// connection that goes once more at once. Over a kill at most what was in flight is seen again.
pub(super) fn check_repeats(endpoint: &Endpoint, received: &[Received], kills: &[Instant]) {
    let life = |request: &Received| kills.iter().filter(|kill| **kill < request.opened).count();
    // The life in which each was seen last, and whether it may be seen there again.
    let mut seen: HashMap<(&str, i64), (usize, bool)> = HashMap::new();
    let mut repeats: BTreeMap<usize, usize> = BTreeMap::new();
    for request in received {
        let attempt = (request.delivery_id(), request.attempt());
        let may_come_again = !request.answered;
        match seen.insert(attempt, (life(request), may_come_again)) {
            Some((before, true)) if before == life(request) => {
                seen.insert(attempt, (before, false));
            }
            Some((before, _)) => {
                let sights = || summary(&of_delivery(received, request.delivery_id()));
                assert!(before < life(request), "{attempt:?} twice without a crash between: {}", sights());
                *repeats.entry(life(request)).or_default() += 1;
            }
            None => {}
        }
    }
    // In sum, since what was in flight at one kill may be sent again only after the next.
    let mut sum = 0;
    for (life, count) in repeats {
        sum += count;
        let most = life * endpoint.max_in_flight;
        assert!(sum <= most, "{}: {sum} repeats after {life} kills, at most {most}", endpoint.path);
    }
}

fn of_delivery(received: &[Received], delivery: &str) -> Vec<Received> {
    received.iter().filter(|request| request.delivery_id() == delivery).cloned().collect()
}

/// I8: all attempts of a delivery bear one sequence number, and their own never falls.
pub(super) fn check_attempts(received: &[Received]) {
    let mut last: HashMap<&str, (i64, i64)> = HashMap::new();
    for request in received {
        let (sequence, attempt) = (request.sequence(), request.attempt());
        let before = last.insert(request.delivery_id(), (sequence, attempt)).unwrap_or((sequence, 0));
        assert_eq!(before.0, sequence, "two numbers: {request:?}");
        assert!(
            (before.1..=before.1 + 1).contains(&attempt),
            "attempt {attempt} after {}: {request:?}",
            before.1
        );
    }
}
