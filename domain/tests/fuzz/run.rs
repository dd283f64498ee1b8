//! One target's run: many inputs, counted, and the first that is treated wrongly shown.

use std::env;
use std::fmt::Debug;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::random::Random;

/// Enough to reach far, in a few seconds without optimisation.
const CASES: u64 = 20_000;

/// What the code said of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    Refused,
}

impl Verdict {
    pub(crate) fn of(accepted: bool) -> Self {
        if accepted { Self::Accepted } else { Self::Refused }
    }
}

/// Gives `check` what `generate` makes, until it panics or the cases are through.
///
/// Each case has random numbers of its own, so that it is the same in every run with its seed.
pub(crate) fn fuzz<Input: Debug>(
    target: &str,
    generate: impl Fn(&mut Random) -> Input,
    check: impl Fn(&Input) -> Verdict,
) {
    let cases = number("POSTHORN_FUZZ_CASES").unwrap_or(CASES);
    let seed = number("POSTHORN_FUZZ_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let mut accepted = 0_u64;
    for case in 0..cases {
        let input = generate(&mut Random::of_case(seed, case));
        match catch_unwind(AssertUnwindSafe(|| check(&input))) {
            Ok(verdict) => accepted += u64::from(verdict == Verdict::Accepted),
            Err(panic) => {
                println!("{target}: case {case} of POSTHORN_FUZZ_SEED={seed}: {input:?}");
                resume_unwind(panic);
            }
        }
    }
    println!("{target}: {cases} cases, {accepted} accepted, {} refused, seed {seed}", cases - accepted);
    assert!(0 < accepted && accepted < cases, "{target}: {accepted} of {cases} accepted");
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: expected a whole number, got {text:?}")))
}
