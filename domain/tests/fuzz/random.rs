//! Random numbers that a seed repeats on every machine, and what is made of them.

use std::ops::Range;

/// `SplitMix64` (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
pub(crate) struct Random(u64);

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

impl Random {
    /// The numbers of one case; mixed, since those of the next must not be the same a step on.
    pub(crate) fn of_case(seed: u64, case: u64) -> Self {
        Self(mix(mix(seed ^ GOLDEN_GAMMA).wrapping_add(mix(case ^ GOLDEN_GAMMA))))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        mix(self.0)
    }

    pub(crate) fn bits_128(&mut self) -> u128 {
        u128::from(self.bits()) << 64 | u128::from(self.bits())
    }

    pub(crate) fn bits_32(&mut self) -> u32 {
        u32::try_from(self.bits() >> 32).unwrap()
    }

    pub(crate) fn bits_16(&mut self) -> u16 {
        u16::try_from(self.bits() >> 48).unwrap()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.bits().to_le_bytes()[0]
    }

    /// One of `range`, which is not empty; that the first are a little likelier does not matter.
    pub(crate) fn within(&mut self, range: Range<usize>) -> usize {
        let size = u64::try_from(range.len()).unwrap();
        range.start + usize::try_from(self.bits() % size).unwrap()
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.within(0..n) == 0
    }

    pub(crate) fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.within(0..choices.len())]
    }

    pub(crate) fn bytes(&mut self, length: Range<usize>) -> Vec<u8> {
        (0..self.within(length)).map(|_| self.byte()).collect()
    }

    /// Some of `choices` in a row.
    pub(crate) fn some_of(&mut self, choices: &[&str], count: Range<usize>) -> String {
        (0..self.within(count)).map(|_| self.of(choices)).collect()
    }

    /// None to four small changes: of bytes, of bits, of parts that go, come twice or come from
    /// `words`. Half the time there is none, so that what is right comes, too.
    pub(crate) fn mutate(&mut self, bytes: &mut Vec<u8>, words: &[&str]) {
        if self.one_in(2) {
            return;
        }
        for _ in 0..self.within(1..5) {
            self.change(bytes, words);
        }
    }

    fn change(&mut self, bytes: &mut Vec<u8>, words: &[&str]) {
        let start = self.within(0..bytes.len() + 1);
        let end = (start + self.within(0..4)).min(bytes.len());
        let replacement = match self.within(0..5) {
            0 => Vec::new(),
            1 => vec![self.byte()],
            2 => bytes[start..end].repeat(2),
            3 => bytes[start..end].iter().map(|byte| byte ^ 1 << self.within(0..8)).collect(),
            _ => self.of(words).as_bytes().to_vec(),
        };
        let end = if self.one_in(2) { end } else { start };
        bytes.splice(start..end, replacement);
    }

    /// As [`mutate`](Self::mutate), of text.
    pub(crate) fn mutate_text(&mut self, text: String, words: &[&str]) -> String {
        let mut bytes = text.into_bytes();
        self.mutate(&mut bytes, words);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// As [`mutate`](Self::mutate), of a header's value, which holds no control characters but tabs
    /// (RFC 9110 §5.5).
    pub(crate) fn mutate_header(&mut self, value: impl Into<Vec<u8>>, words: &[&str]) -> Vec<u8> {
        let mut bytes = value.into();
        self.mutate(&mut bytes, words);
        bytes.retain(|byte| !byte.is_ascii_control() || *byte == b'\t');
        bytes
    }
}

/// Bytes that show as text where they are text.
#[derive(PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}
