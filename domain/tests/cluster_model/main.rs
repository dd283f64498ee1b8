//! Two nodes on one database whose answers get lost and whose sessions fall silent: random histories in virtual time.
//!
//! The [`database`] is the truth. A [`node`] does what this program's nodes do, by the same pure rules (`standing`,
//! `may_start`): it renews and takes slots, hears notices, starts requests, records outcomes until it hears that they
//! are written, and may stand still at any moment. The [`world`] chooses who does what next and what is lost, and checks
//! at each start of a request that
//!
//! - what an endpoint sees never goes backwards,
//! - nothing starts later than a second after a pause was answered,
//! - no outcome counts twice, and none that began under an older epoch counts.
//!
//! Then all faults end, and within some leases each slot has an owner and each delivery is finished.
//!
//! `CLUSTER_HISTORIES` sets how many histories there are (10,000 by default), `CLUSTER_SEED` the first.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

mod database;
mod node;
mod world;

use world::{Rule, Rules, World};

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn nothing_goes_backwards_or_starts_after_a_pause_and_no_slot_stays_without_owner() {
    let first = from_environment("CLUSTER_SEED", 1);
    let mut starts = 0;
    for seed in first..first + from_environment("CLUSTER_HISTORIES", 10_000) {
        match World::run(seed, Rules { without: None }) {
            Ok(made) => starts += made,
            Err(broken) => panic!("CLUSTER_SEED={seed}: {broken}"),
        }
    }
    assert!(starts > 0);
}

/// Each rule is needed: without it some history breaks what was promised. So the model can fail.
#[test]
fn without_a_rule_a_history_breaks() {
    for rule in [Rule::Fence, Rule::LeaseEndsEarly, Rule::KnowledgeAges, Rule::OutcomesCountOnce] {
        let broken = (1..=20_000).find_map(|seed| World::run(seed, Rules { without: Some(rule) }).err());
        println!("without {rule:?}: {broken:?}");
        assert!(broken.is_some(), "without {rule:?} nothing breaks");
    }
}
