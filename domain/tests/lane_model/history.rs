//! What may happen to a lane, and how often.

use std::time::Duration;

use posthorn_domain::circuit::CircuitPolicy;
use posthorn_domain::concurrency::{Adaptive, InFlight};
use posthorn_domain::lane::{Policy, Sizes, Verdict};
use posthorn_domain::retry::RetryPolicy;
use posthorn_domain::subscription::{OnExhausted, Ordering, SubscriptionStatus};
use proptest::prelude::*;

use super::store::Edit;

/// Something that happens in the world. Numbers pick one of what there is, counted around.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Accept {
        key: Option<u8>,
        count: usize,
        node: Node,
    },
    /// The lane hears of something that was committed.
    Deliver(usize),
    /// A request ends.
    End {
        nth: usize,
        verdict: Verdict,
        jitter: i16,
    },
    /// A request was not made after all.
    Withdraw(usize),
    /// The first of what is to be recorded is committed.
    Commit,
    /// The lane hears of a committed record.
    Recorded(usize),
    /// A page is read.
    Read,
    /// And handed over.
    Page,
    /// All that was asked for is done and told, but for requests.
    Settle,
    Advance(Duration),
    Tick,
    /// Time goes on to the lane's wake-up.
    Wake,
    Edit(Edit),
    Skip(usize),
    Retry(usize),
    Hold(Brake),
    /// The process dies when so many of its records are committed.
    Crash(usize),
    /// The lane is dropped if it is idle.
    Passivate,
}

/// Which node took a delivery in. Of another one's deliveries only the last number is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Own,
    Other,
}

/// What the gate does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Brake {
    Off,
    Capacity,
    Rate(Duration),
}

pub(super) fn small() -> impl Strategy<Value = Sizes> {
    (2_usize..10, 1_usize..10, 1_usize..10, 1_usize..5)
        .prop_map(|(window, first_page, waiting, key_depth)| Sizes { window, first_page, waiting, key_depth })
}

pub(super) fn policy() -> impl Strategy<Value = Policy> {
    let ordering =
        prop_oneof![2 => Just(Ordering::Strict), 3 => Just(Ordering::Key), 1 => Just(Ordering::None)];
    let on_exhausted = prop_oneof![Just(OnExhausted::Continue), Just(OnExhausted::Pause)];
    let disable_after = prop_oneof![3 => Just(None), 1 => Just(Some(secs(6)))];
    (ordering, in_flight(), 0_u32..4, on_exhausted, 1_u32..6, disable_after).prop_map(
        |(ordering, in_flight, max_retries, on_exhausted, failure_threshold, disable_after)| Policy {
            ordering,
            in_flight: if ordering == Ordering::Strict { InFlight::Fixed(1) } else { in_flight },
            retry: RetryPolicy { max_retries, delay: secs(1), delay_max: secs(3) },
            on_exhausted,
            circuit: CircuitPolicy { failure_threshold, cool_down: secs(2), cool_down_max: secs(5) },
            disable_after,
        },
    )
}

fn in_flight() -> impl Strategy<Value = InFlight> {
    let adaptive = (1_u32..6).prop_flat_map(|max| (1..=max, Just(max)));
    prop_oneof![
        2 => (1_u32..6).prop_map(InFlight::Fixed),
        1 => adaptive.prop_map(|(start, max)| InFlight::Adaptive(Adaptive { start, max })),
    ]
}

pub(super) fn steps(burst_max: usize, count_max: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(burst_max), 1..count_max)
}

fn step(burst_max: usize) -> impl Strategy<Value = Step> {
    let nth = || 0_usize..8;
    prop_oneof![
        12 => (key(), 1..=burst_max, node())
            .prop_map(|(key, count, node)| Step::Accept { key, count, node }),
        12 => nth().prop_map(Step::Deliver),
        16 => (nth(), verdict(), any::<i16>())
            .prop_map(|(nth, verdict, jitter)| Step::End { nth, verdict, jitter }),
        2 => nth().prop_map(Step::Withdraw),
        8 => Just(Step::Commit),
        8 => nth().prop_map(Step::Recorded),
        6 => Just(Step::Read),
        6 => Just(Step::Page),
        10 => Just(Step::Settle),
        5 => (1_u64..3000).prop_map(|ms| Step::Advance(Duration::from_millis(ms))),
        3 => Just(Step::Tick),
        6 => Just(Step::Wake),
        8 => edit().prop_map(Step::Edit),
        3 => nth().prop_map(Step::Skip),
        3 => nth().prop_map(Step::Retry),
        4 => brake().prop_map(Step::Hold),
        2 => (0_usize..4).prop_map(Step::Crash),
        3 => Just(Step::Passivate),
    ]
}

fn key() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![1 => Just(None), 4 => (0_u8..5).prop_map(Some)]
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![3 => Just(Node::Own), 1 => Just(Node::Other)]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let failure =
        |retry_after, gone| Verdict::Failure { retry_after, gone, overloaded: false, given_up: false };
    prop_oneof![
        10 => Just(Verdict::Success),
        10 => Just(failure(None, false)),
        2 => (0_u64..4).prop_map(move |seconds| failure(Some(secs(seconds)), false)),
        1 => Just(failure(None, true)),
        1 => Just(Verdict::Failure { retry_after: None, gone: false, overloaded: false, given_up: true }),
        2 => Just(Verdict::Failure { retry_after: None, gone: false, overloaded: true, given_up: false }),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let status = prop_oneof![
        2 => Just(SubscriptionStatus::Active),
        2 => Just(SubscriptionStatus::Paused),
        1 => Just(SubscriptionStatus::Disabled),
    ];
    prop_oneof![
        5 => status.prop_map(Edit::Status),
        2 => policy().prop_map(Edit::Rules),
        1 => Just(Edit::Target),
    ]
}

fn brake() -> impl Strategy<Value = Brake> {
    prop_oneof![
        3 => Just(Brake::Off),
        1 => Just(Brake::Capacity),
        1 => (1_u64..3000).prop_map(|ms| Brake::Rate(Duration::from_millis(ms))),
    ]
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
