//! `Retry-After`.

use std::time::Duration;

use chrono::NaiveDateTime;
use posthorn_domain::header::parse_retry_after;
use posthorn_domain::limits::RETRY_DELAY_MAX;
use posthorn_domain::time::Timestamp;

use crate::random::{Bytes, Random};
use crate::run::Verdict;

#[derive(Debug)]
pub(crate) struct Answer {
    value: Bytes,
    now_ms: i64,
}

/// HTTP's three forms (RFC 9110 §5.6.7), the last with the first days of a month in either way.
const FORMS: [&str; 4] =
    ["%a, %d %b %Y %H:%M:%S GMT", RFC_850, "%a %b %e %H:%M:%S %Y", "%a %b %d %H:%M:%S %Y"];
const RFC_850: &str = "%A, %d-%b-%y %H:%M:%S GMT";

const WORDS: [&str; 24] = [
    "0", "9", "-", "+", ".", ",", ":", " ", "\t", "GMT", "UTC", "+0000", "Sun", "Monday", "Feb", "29", "30",
    "31", "60", "24", "1969", "9999", "10000", "\u{661}",
];

/// The first second after the year 9999, to which HTTP's dates go.
const YEAR_10000: u64 = 253_402_300_800;

pub(crate) fn generate(random: &mut Random) -> Answer {
    let now = random.bits() % YEAR_10000;
    let value = match random.within(0..10) {
        0 => String::from_utf8_lossy(&random.bytes(0..40)).into_owned(),
        1 => random.some_of(&WORDS, 0..8),
        2 if random.one_in(3) => {
            format!("{}.{}", random.bits() >> random.within(0..64), random.bits() % 1000)
        }
        2 => (random.bits() >> random.within(0..64)).to_string(),
        3 => random.some_of(&["0", "1", "5", "9", "99999999"], 1..8),
        form => {
            // Around now, or ever.
            let spread = if random.one_in(4) { YEAR_10000 } else { 200_000 };
            let date = (now + random.bits() % spread).saturating_sub(100_000) % YEAR_10000;
            let date = chrono::DateTime::from_timestamp_secs(i64::try_from(date).unwrap()).unwrap();
            date.format(FORMS[form % FORMS.len()]).to_string()
        }
    };
    let now_ms = match random.within(0..20) {
        0 => random.bits().cast_signed(),
        _ => i64::try_from(now).unwrap() * 1000 + i64::from(random.byte()),
    };
    Answer { value: Bytes(random.mutate_header(value, &WORDS)), now_ms }
}

pub(crate) fn check(Answer { value, now_ms }: &Answer) -> Verdict {
    let delay = parse_retry_after(&value.0, Timestamp::from_millis(*now_ms));
    assert_eq!(delay, reference(&value.0, *now_ms));
    Verdict::of(delay.is_some())
}

fn reference(value: &[u8], now_ms: i64) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    let parts: Vec<_> = text.split('.').collect();
    let is_number = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty();
    let wait_ms = if parts.len() <= 2 && parts.iter().all(is_number) {
        // Up to 20 digits fit by far; longer ones that are not all zeros in front are beyond the most.
        let digits = parts[0].trim_start_matches('0');
        let begun = parts.get(1).is_some_and(|decimals| decimals.contains(|digit| digit != '0'));
        let whole = format!("0{digits}").get(..=20.min(digits.len())).unwrap().parse::<i128>().unwrap();
        if digits.len() > 20 { i128::MAX } else { (whole + i128::from(begun)) * 1000 }
    } else {
        FORMS.iter().find_map(|form| date_ms(text, form)).map(|date_ms| date_ms - i128::from(now_ms))?
    };
    let most_ms = i128::try_from(RETRY_DELAY_MAX.as_millis()).unwrap();
    Some(Duration::from_millis(u64::try_from(wait_ms.clamp(0, most_ms)).unwrap()))
}

/// The date that `text` writes in `form`, exactly as the form has it, with the right day of the week:
/// chrono reads leniently, so what it reads is written again and compared.
fn date_ms(text: &str, form: &str) -> Option<i128> {
    let mut text = text.to_owned();
    if form == RFC_850 && text.is_ascii() {
        // The code does not look at what stands between date and time here.
        let between = text.find(", ").map_or(0, |comma| comma + ", 06-Nov-94".len());
        text.get(between..=between)?;
        text.replace_range(between..=between, " ");
    }
    let date = NaiveDateTime::parse_from_str(&text, form).ok()?.and_utc();
    // Leap seconds are not in POSIX time, no date before its beginning can be meant, and a year has
    // four digits.
    let exact = date.format(form).to_string() == text && date.timestamp_subsec_nanos() == 0;
    let seconds = u64::try_from(date.timestamp()).ok()?;
    (exact && seconds < YEAR_10000).then(|| i128::from(date.timestamp_millis()))
}
