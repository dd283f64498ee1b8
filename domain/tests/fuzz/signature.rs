//! `X-Webhook-Signature-256` and `X-Hub-Signature-256` at ingest.

use aws_lc_rs::hmac;
use posthorn_domain::signature::SecretKey;

use crate::random::{Bytes, Random};
use crate::run::Verdict;

#[derive(Debug)]
pub(crate) struct Signed {
    secret: String,
    header: Bytes,
    body: Bytes,
}

const WORDS: [&str; 11] =
    ["sha256=", "SHA256=", "sha1=", "=", ",", " ", "\t", "0", "a", "A", "sha256=sha256="];

pub(crate) fn generate(random: &mut Random) -> Signed {
    let secret = random.some_of(&["a", "B", "7", " ", "ä", "\0", "whsec_", "a longer piece of it"], 1..24);
    let mut body = random.bytes(0..80);
    let mut header = reference(&secret, &body).into_bytes();
    match random.within(0..12) {
        0 => header.make_ascii_uppercase(),
        1 => header[7..].make_ascii_uppercase(),
        2 => header = header.split_off(7),
        3 => random.mutate(&mut body, &["{}", " "]),
        4 => header = reference(&random.some_of(&["a", "B"], 1..3), &body).into_bytes(),
        5 => header = random.bytes(0..100),
        6 => header = (0..71).map(|_| random.byte()).collect(),
        _ => header = random.mutate_header(header, &WORDS),
    }
    Signed { secret, header: Bytes(header), body: Bytes(body) }
}

pub(crate) fn check(Signed { secret, header, body }: &Signed) -> Verdict {
    let key = SecretKey::parse(secret).unwrap();
    let right = reference(secret, &body.0);
    assert_eq!(key.sign(&body.0), right);
    let expected = header.0 == right.as_bytes();
    assert_eq!(key.verify(&header.0, &body.0), expected);
    Verdict::of(expected)
}

/// By another library than the code's.
fn reference(secret: &str, body: &[u8]) -> String {
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body);
    mac.as_ref().iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
