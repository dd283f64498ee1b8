//! What JSON is: the grammar of RFC 8259 word for word, over bytes in UTF-8 (RFC 3629 §4).
//!
//! Each rule takes what it is at the start of its input and gives back the rest. It recurses, so
//! what is nested deeper than the stack is not for it.

type Rest<'a> = Option<&'a [u8]>;

/// Whether `bytes` are one JSON text (§2).
pub(crate) fn is_json(bytes: &[u8]) -> bool {
    value(space(bytes)).is_some_and(|rest| space(rest).is_empty())
}

/// `ws` (§2).
fn space(mut bytes: &[u8]) -> &[u8] {
    while let [0x20 | 0x09 | 0x0a | 0x0d, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// §3.
fn value(bytes: &[u8]) -> Rest<'_> {
    match bytes {
        [b'{', rest @ ..] => list(rest, b'}', member),
        [b'[', rest @ ..] => list(rest, b']', value),
        [b'"', rest @ ..] => characters(rest),
        [b'-', rest @ ..] => number(rest),
        [b'0'..=b'9', ..] => number(bytes),
        _ => [&b"true"[..], b"false", b"null"].iter().find_map(|word| bytes.strip_prefix(*word)),
    }
}

/// What objects (§4) and arrays (§5) have in common, after their opening.
fn list(bytes: &[u8], end: u8, item: fn(&[u8]) -> Rest<'_>) -> Rest<'_> {
    let mut rest = space(bytes);
    if let [first, rest @ ..] = rest
        && *first == end
    {
        return Some(rest);
    }
    loop {
        rest = match space(item(rest)?) {
            [b',', rest @ ..] => space(rest),
            [other, rest @ ..] if *other == end => return Some(rest),
            _ => return None,
        };
    }
}

/// `member` (§4).
fn member(bytes: &[u8]) -> Rest<'_> {
    let name = characters(bytes.strip_prefix(b"\"")?)?;
    value(space(space(name).strip_prefix(b":")?))
}

/// `number` (§6), after its sign.
fn number(bytes: &[u8]) -> Rest<'_> {
    let mut rest = match bytes {
        [b'0', rest @ ..] => rest,
        _ => digits(bytes)?,
    };
    if let [b'.', fraction @ ..] = rest {
        rest = digits(fraction)?;
    }
    match rest {
        [b'e' | b'E', b'+' | b'-', exponent @ ..] | [b'e' | b'E', exponent @ ..] => digits(exponent),
        _ => Some(rest),
    }
}

/// `1*DIGIT`.
fn digits(bytes: &[u8]) -> Rest<'_> {
    let count = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 { None } else { bytes.get(count..) }
}

/// `*char quotation-mark` (§7).
fn characters(mut bytes: &[u8]) -> Rest<'_> {
    loop {
        bytes = match bytes {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', rest @ ..] => escaped(rest)?,
            // `unescaped`, less what UTF-8 writes in several bytes.
            [0x20..=0x7f, rest @ ..] => rest,
            _ => beyond_ascii(bytes)?,
        }
    }
}

/// What may follow an `escape` (§7).
fn escaped(bytes: &[u8]) -> Rest<'_> {
    match bytes {
        [b'u', a, b, c, d, rest @ ..] => [a, b, c, d].iter().all(|x| x.is_ascii_hexdigit()).then_some(rest),
        [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// `UTF8-2 / UTF8-3 / UTF8-4` (RFC 3629 §4).
fn beyond_ascii(bytes: &[u8]) -> Rest<'_> {
    match bytes {
        [0xc2..=0xdf, 0x80..=0xbf, rest @ ..]
        | [0xe0, 0xa0..=0xbf, 0x80..=0xbf, rest @ ..]
        | [0xe1..=0xec | 0xee..=0xef, 0x80..=0xbf, 0x80..=0xbf, rest @ ..]
        | [0xed, 0x80..=0x9f, 0x80..=0xbf, rest @ ..]
        | [0xf0, 0x90..=0xbf, 0x80..=0xbf, 0x80..=0xbf, rest @ ..]
        | [0xf1..=0xf3, 0x80..=0xbf, 0x80..=0xbf, 0x80..=0xbf, rest @ ..]
        | [0xf4, 0x80..=0x8f, 0x80..=0xbf, 0x80..=0xbf, rest @ ..] => Some(rest),
        _ => None,
    }
}
