//! What strangers write, against the code that reads it: random input, most of it nearly right.
//!
//! Each target generates an input, hands it to the code, and compares what that says with a
//! reference that is slow and obvious. A target that accepts everything or nothing has not reached
//! far, and fails.
//!
//! `POSTHORN_FUZZ_CASES` sets how many inputs each target gets, and `POSTHORN_FUZZ_SEED` makes a
//! run that is the same again; `scripts/fuzz` sets both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may panic, and prints what it counted"
)]

mod address;
mod forwarded_for;
mod json;
mod json_reference;
mod key;
mod random;
mod retry_after;
mod run;
mod signature;
mod target;

use run::fuzz;

#[test]
fn targets_read_as_they_are_written() {
    fuzz("target", target::generate, target::check);
}

#[test]
fn addresses_get_one_verdict_however_they_are_spelled() {
    fuzz("address", address::generate, address::check);
}

#[test]
fn body_signatures_have_one_spelling() {
    fuzz("signature", signature::generate, signature::check);
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    fuzz("retry_after", retry_after::generate, retry_after::check);
}

#[test]
fn forwarded_for_ends_in_an_address() {
    fuzz("forwarded_for", forwarded_for::generate, forwarded_for::check);
}

#[test]
fn keys_are_printable() {
    fuzz("key", key::generate, key::check);
}

#[test]
fn payloads_are_json() {
    fuzz("json", json::generate, json::check);
}
