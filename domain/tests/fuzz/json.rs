//! Payloads at ingest.

use posthorn_domain::payload::check_json;

use crate::json_reference::is_json;
use crate::random::{Bytes, Random};
use crate::run::Verdict;

const WORDS: [&str; 42] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "\\u",
    "\\ud800",
    "\\udc00\\ud800",
    "\\u0000",
    "\\x",
    "\\\"",
    " ",
    "\t",
    "\n",
    "\r",
    "\u{b}",
    "\u{c}",
    "\0",
    "\u{a0}",
    "\u{feff}",
    "\u{2028}",
    "0",
    "00",
    "-",
    "+",
    ".",
    "e",
    "E+",
    "1e400",
    "-0",
    "null",
    "true",
    "fals",
    "NaN",
    "Infinity",
    "//",
    "/**/",
    "'",
    "{}",
];

pub(crate) fn generate(random: &mut Random) -> Bytes {
    let mut bytes = match random.within(0..10) {
        0 => random.bytes(0..12),
        1 => random.some_of(&WORDS, 0..8).into_bytes(),
        2 => nested(random).into_bytes(),
        3 => string_of_bytes(random),
        _ => format!("{}{}{}", space(random), value(random, 4), space(random)).into_bytes(),
    };
    random.mutate(&mut bytes, &WORDS);
    Bytes(bytes)
}

/// Arrays and objects in each other, closed as often as they are opened, or not quite.
fn nested(random: &mut Random) -> String {
    let (open, close) = *random.of(&[&("[", "]"), &("{\"\":", "}"), &("[[],{\"a\":", "}]")]);
    let depth = random.within(0..150);
    let closed = if random.one_in(4) { random.within(0..150) } else { depth };
    format!("{}0{}", open.repeat(depth), close.repeat(closed))
}

/// In and around UTF-8: bytes that it begins and goes on with.
fn string_of_bytes(random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![b'"'];
    for _ in 0..random.within(0..3) {
        let mut character = [0; 4];
        let code = u32::try_from(random.bits() >> random.within(43..57) & 0x1f_ffff).unwrap();
        bytes.extend(char::from_u32(code).unwrap_or('\u{ffff}').encode_utf8(&mut character).as_bytes());
        if random.one_in(4) {
            let (first, second) = *random.of(&[&(0xe0, 0x9f), &(0xed, 0xa0), &(0xf0, 0x8f), &(0xf4, 0x90)]);
            let nudge = u8::from(random.one_in(2));
            let second = if matches!(first, 0xed | 0xf4) { second - nudge } else { second + nudge };
            bytes.extend([first, second, 0x80]);
            bytes.extend(std::iter::repeat_n(0xbf, usize::from(first >= 0xf0)));
        }
    }
    bytes.push(b'"');
    bytes
}

fn value(random: &mut Random, depth: usize) -> String {
    match random.within(0..if depth == 0 { 4 } else { 7 }) {
        0 => random.of(&["null", "true", "false", "0", "-0", "\"\""]).to_owned(),
        1 => number(random),
        2 | 3 => string(random),
        4 => format!("{{{}}}", joined(random, |random| member(random, depth - 1))),
        _ => format!("[{}]", joined(random, |random| value(random, depth - 1))),
    }
}

fn member(random: &mut Random, depth: usize) -> String {
    format!("{}{}:{}{}", string(random), space(random), space(random), value(random, depth))
}

fn joined(random: &mut Random, mut item: impl FnMut(&mut Random) -> String) -> String {
    let mut items = Vec::new();
    for _ in 0..random.within(0..4) {
        items.push(format!("{}{}{}", space(random), item(random), space(random)));
    }
    if items.is_empty() { space(random) } else { items.join(",") }
}

fn number(random: &mut Random) -> String {
    let whole = random.bits() >> random.within(0..64);
    let sign = random.of(&["", "", "-"]);
    let fraction = random.of(&["", "", ".0", ".25", ".000000000000000000000001"]);
    let exponent = random.of(&["", "", "e1", "E400", "e-400", "E+00"]);
    format!("{sign}{whole}{fraction}{exponent}")
}

fn string(random: &mut Random) -> String {
    let pieces = [
        "a",
        "Z",
        " ",
        "/",
        "\\\\",
        "\\\"",
        "\\/",
        "\\b",
        "\\n",
        "\\u00e4",
        "\\uD800",
        "\\udfff",
        "\u{7f}",
        "ä",
        "€",
        "\u{2028}",
        "😀",
        "\u{10ffff}",
        "'",
        "{",
        "]",
        ",",
    ];
    format!("\"{}\"", random.some_of(&pieces, 0..5))
}

fn space(random: &mut Random) -> String {
    if random.one_in(4) { random.some_of(&[" ", "\t", "\n", "\r\n"], 1..3) } else { String::new() }
}

pub(crate) fn check(Bytes(bytes): &Bytes) -> Verdict {
    let answer = check_json(bytes);
    assert_eq!(answer.is_ok(), is_json(bytes), "{answer:?}");
    assert!(answer.is_ok() || answer.is_err_and(|error| !error.0.is_empty()));
    Verdict::of(is_json(bytes))
}
