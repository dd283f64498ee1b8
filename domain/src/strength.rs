//! Which keys are easy to guess, as far as a key shows it.
//!
//! No program can tell that bytes are random. It can tell some that are not: patterns, well-known words, and texts
//! that are too short for [`KEY_BITS_MIN`] bits even if each character is drawn at random. What passes here may
//! still be weak.

use std::collections::BTreeSet;

/// What a key must hold at least, in bits: nobody tries 2^128 keys.
pub const KEY_BITS_MIN: u32 = 128;

/// The shortest text that can hold [`KEY_BITS_MIN`]: 22 letters and digits, as 128 bits in base64 have.
pub const KEY_CHARS_MIN: usize = 22;

/// Fewer different characters than this are a pattern. Of 32 random hex digits at least 6 differ but in one case of
/// 10^12.
const DIFFERENT_MIN: usize = 6;

/// What people write where a key belongs, until somebody puts one there. In lower case.
const WELL_KNOWN: [&str; 12] = [
    "changeme",
    "change-me",
    "change_me",
    "replaceme",
    "replace-me",
    "replace_me",
    "placeholder",
    "password",
    "passw0rd",
    "letmein",
    "qwerty",
    "your-admin-key",
];

/// Whether bytes that should be random follow a pattern or spell a well-known word.
#[must_use]
pub fn is_patterned(bytes: &[u8]) -> bool {
    let different = bytes.iter().collect::<BTreeSet<_>>().len();
    different < DIFFERENT_MIN
        || repeats(bytes)
        || counts(bytes)
        || without_well_known(bytes).len() < bytes.len()
}

/// Whether a key that is a text is easy to guess. A well-known word in it counts for nothing.
#[must_use]
pub fn is_guessable(text: &str) -> bool {
    let rest = without_well_known(text.as_bytes());
    rest.len() < chars_min(&rest) || is_patterned(&rest)
}

/// A piece of at most half the length, over and over.
fn repeats(bytes: &[u8]) -> bool {
    (1..=bytes.len() / 2).any(|period| bytes.iter().zip(bytes.iter().skip(period)).all(|(a, b)| a == b))
}

/// Three of four bytes are the one before, or the next one up or down.
fn counts(bytes: &[u8]) -> bool {
    let steps = bytes.iter().zip(bytes.iter().skip(1)).filter(|(a, b)| a.abs_diff(**b) <= 1).count();
    steps * 4 >= bytes.len().saturating_sub(1) * 3
}

/// In lower case, and without the well-known words.
fn without_well_known(bytes: &[u8]) -> Vec<u8> {
    let mut rest = bytes.to_ascii_lowercase();
    let mut kept = bytes.to_vec();
    for word in WELL_KNOWN.map(str::as_bytes) {
        while let Some(at) = rest.windows(word.len()).position(|part| part == word) {
            rest.drain(at..at + word.len());
            kept.drain(at..at + word.len());
        }
    }
    kept
}

/// How many characters such as these hold [`KEY_BITS_MIN`], each drawn at random from its alphabet.
fn chars_min(text: &[u8]) -> usize {
    let has = |class: fn(&u8) -> bool| text.iter().any(class);
    let (digits, lower, upper) =
        (has(u8::is_ascii_digit), has(u8::is_ascii_lowercase), has(u8::is_ascii_uppercase));
    let others = text.iter().any(|byte| !byte.is_ascii_alphanumeric());
    let cases = usize::from(lower) + usize::from(upper);
    match (others, digits, cases) {
        // Six bits each, and more.
        (true, ..) | (_, true, 2) => KEY_CHARS_MIN,
        // 52 letters: 5.7 bits.
        (_, false, 2) => 23,
        // 16 digits: 4 bits.
        (_, true, 1) if text.iter().all(u8::is_ascii_hexdigit) => 32,
        // 36 characters: 5.17 bits.
        (_, true, 1) => 25,
        // 26 letters: 4.7 bits.
        (_, false, _) => 28,
        // Ten digits: 3.32 bits.
        (_, true, _) => 39,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;
    use crate::api_key::ApiKey;

    #[test]
    fn patterns_are_seen() {
        let counting: Vec<u8> = (7..39).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        let every_seventh: Vec<u8> = (0..32).map(|n: u8| n.wrapping_mul(7)).collect();
        for (bytes, patterned) in [
            (&[0; 32][..], true),
            (&[0xff; 32], true),
            (b"secretsecretsecretsecretsecretse", true),
            (b"0123456789abcdef0123456789abcdef", true),
            (b"0a1b2c3d4e0a1b2c3d4e0a1b2c3d4e0a", true),
            (b"changemechangemechangemechangeme", true),
            (b"an-odd-text-with-changeme-inside", true),
            (&counting, true),
            (&falling, true),
            (b"canary-encryption-key-of-32-byte", false),
            // Three bytes of four must be neighbours: this is a pattern that is not looked for.
            (&every_seventh, false),
        ] {
            assert_eq!(is_patterned(bytes), patterned, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn guessable_texts_are_seen() {
        for (text, guessable) in [
            ("", true),
            ("short", true),
            ("0123456789abcdef", true),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", true),
            ("abcabcabcabcabcabcabcabcabcabcabcabcabcabc", true),
            ("0123456789abcdef0123456789abcdef", true),
            ("abcdefghijklmnopqrstuvwxyzabcd", true),
            ("changemechangemechangemechangeme", true),
            ("CHANGEME-changeme-Change_Me-password!", true),
            ("changeme-a7Gk", true),
            ("a7Gk2mQz9XbW4cVr1LpTs", true),
            ("a7Gk2mQz9XbW4cVr1LpTsE", false),
            ("3b7e151628aed2a6abf7158809cf4f3", true),
            ("3b7e151628aed2a6abf7158809cf4f3c", false),
            ("changeme3b7e151628aed2a6abf7158809cf4f3c", false),
            ("271828182845904523536028747135266249775", false),
            ("an-admin-key-of-some-length", false),
        ] {
            assert_eq!(is_guessable(text), guessable, "{text:?}");
        }
    }

    proptest! {
        /// What tools for keys print passes.
        #[test]
        fn random_keys_pass(bytes: [u8; 32]) {
            prop_assert!(!is_patterned(&bytes));
            let hex = ApiKey::from_random(bytes).expose().replace("posthorn_", "");
            for text in [&hex, &hex.to_uppercase(), &STANDARD.encode(bytes), &URL_SAFE_NO_PAD.encode(bytes)] {
                prop_assert!(!is_guessable(text), "{}", text);
            }
        }
    }
}
