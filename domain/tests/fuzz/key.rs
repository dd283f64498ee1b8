//! Idempotency and ordering keys.

use posthorn_domain::header::parse_key;

use crate::random::{Bytes, Random};
use crate::run::Verdict;

const WORDS: [&str; 10] = [" ", "  ", "\t", "!", "~", "\u{7f}", "\0", "\r\n", "ä", "\u{a0}"];

pub(crate) fn generate(random: &mut Random) -> Bytes {
    // Lengths on both sides of the longest, and of none.
    let length = if random.one_in(2) { random.within(250..260) } else { random.within(0..12) };
    let mut key: Vec<u8> = (0..length).map(|_| b' ' + random.byte() % 95).collect();
    random.mutate(&mut key, &WORDS);
    Bytes(key)
}

pub(crate) fn check(Bytes(value): &Bytes) -> Verdict {
    let expected = match value.as_slice() {
        [] | [b' ', ..] | [.., b' '] => false,
        bytes => bytes.len() <= 255 && bytes.iter().all(|byte| (0x20..=0x7e).contains(byte)),
    };
    match parse_key(value) {
        Ok(key) => assert!(expected && key.as_bytes() == value),
        Err(_) => assert!(!expected),
    }
    Verdict::of(expected)
}
