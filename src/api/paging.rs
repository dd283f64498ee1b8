//! Pages and cursors.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use posthorn_domain::id::Sequence;
use posthorn_domain::limits::{PAGE_LIMIT_MAX, PAGE_NUMBER_MAX};

use uuid::Uuid;

use super::problem::{Kind, Problem};

/// `limit`: how many items at most, 1 to 100.
pub(super) fn check_limit(limit: Option<i64>, default: u32) -> Result<u32, Problem> {
    check("limit", limit, default, PAGE_LIMIT_MAX)
}

/// `page`: which one, from 1.
pub(super) fn check_page(page: Option<i64>) -> Result<u32, Problem> {
    check("page", page, 1, PAGE_NUMBER_MAX)
}

fn check(name: &str, value: Option<i64>, default: u32, max: u32) -> Result<u32, Problem> {
    let Some(value) = value else { return Ok(default) };
    match u32::try_from(value) {
        Ok(value) if (1..=max).contains(&value) => Ok(value),
        _ => {
            Err(Problem::new(Kind::InvalidFields, format!("{name}: expected a whole number from 1 to {max}")))
        }
    }
}

/// A cursor is where the page before ended: the number of its last delivery. Clients are told
/// nothing of that, so that it can change.
pub(super) fn write_cursor(last: Sequence) -> String {
    URL_SAFE_NO_PAD.encode(last.0.to_be_bytes())
}

/// See [`write_cursor`].
pub(super) fn read_cursor(text: &str) -> Result<Sequence, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    let sequence = bytes.map(i64::from_be_bytes).filter(|&sequence| sequence > 0);
    sequence.map(Sequence).ok_or_else(not_a_cursor)
}

/// A cursor into what is listed by id: the last one of the page before.
pub(super) fn write_id_cursor(last: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(last.as_bytes())
}

/// See [`write_id_cursor`].
pub(super) fn read_id_cursor(text: &str) -> Result<Uuid, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Uuid::from_slice(&bytes).ok());
    bytes.ok_or_else(not_a_cursor)
}

fn not_a_cursor() -> Problem {
    Problem::new(Kind::InvalidParameter, "cursor: expected the next_cursor of the page before")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_stay_within_bounds() {
        for (value, expected) in [
            (None, Some(20)),
            (Some(1), Some(1)),
            (Some(100), Some(100)),
            (Some(0), None),
            (Some(-1), None),
            (Some(101), None),
            (Some(i64::MAX), None),
        ] {
            assert_eq!(check_limit(value, 20).ok(), expected, "{value:?}");
        }
        assert_eq!(check_page(Some(1_000_000)).unwrap(), 1_000_000);
        assert_eq!(check_page(Some(1_000_001)).unwrap_err().kind(), Kind::InvalidFields);
    }

    #[test]
    fn cursors_lead_back() {
        for sequence in [1, 255, 65_536, i64::MAX] {
            let cursor = write_cursor(Sequence(sequence));
            assert_eq!(read_cursor(&cursor).unwrap(), Sequence(sequence), "{cursor}");
        }
        let zero = write_cursor(Sequence(0));
        let negative = write_cursor(Sequence(-1));
        for junk in ["", "junk", "1", "\0", "AAAAAAAAAAE=", "AAAAAAAAAAEA", &zero, &negative] {
            assert_eq!(read_cursor(junk).unwrap_err().kind(), Kind::InvalidParameter, "{junk}");
        }
    }
}
