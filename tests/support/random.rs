//! Random choices that can be repeated: the seed is printed, and `POSTHORN_TEST_SEED` sets it.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// A generator whose seed stands in the test's output.
pub(crate) fn seeded(test: &str) -> StdRng {
    let seed = match std::env::var("POSTHORN_TEST_SEED") {
        Ok(number) => number.parse().expect("POSTHORN_TEST_SEED: expected a whole number"),
        Err(_) => rand::random(),
    };
    println!("{test}: POSTHORN_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
