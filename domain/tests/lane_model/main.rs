//! A lane against a slow, obvious reference: thousands of random histories in virtual time.
//!
//! The [`world`] does what a lane wants with any delay, in any order, and sometimes dies; the
//! [`store`] is the truth; the [`reference`] says at each step what may happen, from the store and
//! from what the lane was told. At the end everything goes well, and all that was accepted must be
//! finished.
//!
//! `LANE_HISTORIES` sets how many histories there are. What once failed is tried first, from
//! `regressions.txt`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod history;
mod reference;
mod store;
mod world;

use posthorn_domain::lane::{Policy, Sizes};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use history::{Step, policy, small, steps};
use world::World;

fn histories(share: u32) -> ProptestConfig {
    let all: u32 = std::env::var("LANE_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(3000);
    ProptestConfig {
        cases: (all / share).max(1),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/lane_model/regressions.txt",
        ))),
        ..ProptestConfig::default()
    }
}

fn check(sizes: Sizes, policy: Policy, steps: &[Step]) {
    let mut world = World::new(sizes, policy);
    for step in steps {
        world.step(step);
    }
    world.finish();
}

proptest! {
    #![proptest_config(histories(1))]

    /// Windows so small that a few deliveries fill them.
    #[test]
    fn small_windows(sizes in small(), policy in policy(), steps in steps(6, 100)) {
        check(sizes, policy, &steps);
    }
}

proptest! {
    #![proptest_config(histories(40))]

    /// The window that is used, and more deliveries than it holds.
    #[test]
    fn the_real_window(policy in policy(), steps in steps(300, 60)) {
        check(Sizes::DEFAULT, policy, &steps);
    }
}
