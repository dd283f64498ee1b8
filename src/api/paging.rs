//! Pages and cursors.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use posthorn_domain::id::Sequence;
use posthorn_domain::limits::{PAGE_LIMIT_MAX, PAGE_NUMBER_MAX};

use uuid::Uuid;

use crate::http::problem::{Kind, Problem};

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

/// The page of `found`, in which one more than `limit` was asked for, and the cursor where there is another one.
pub(super) fn cut<T>(
    mut found: Vec<T>,
    limit: u32,
    cursor: impl FnOnce(&T) -> String,
) -> (Vec<T>, Option<String>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > limit;
    found.truncate(limit);
    let next_cursor = found.last().filter(|_| more).map(cursor);
    (found, next_cursor)
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
    use proptest::prelude::*;

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
    fn what_was_asked_for_beyond_the_page_tells_of_another() {
        for (found, limit, page, next_cursor) in [
            (&[][..], 2, &[][..], None),
            (&[1, 2], 2, &[1, 2], None),
            (&[1, 2, 3], 2, &[1, 2], Some("2".to_owned())),
        ] {
            assert_eq!(cut(found.to_vec(), limit, i32::to_string), (page.to_vec(), next_cursor), "{found:?}");
        }
    }

    #[test]
    fn junk_is_no_cursor() {
        let zero = write_cursor(Sequence(0));
        let negative = write_cursor(Sequence(-1));
        for junk in ["", "junk", "1", "\0", "AAAAAAAAAAE=", "AAAAAAAAAAEA", &zero, &negative] {
            assert_eq!(read_cursor(junk).unwrap_err().kind(), Kind::InvalidParameter, "{junk}");
        }
    }

    proptest! {
        /// A text leads somewhere only where it is what would be written of that place.
        #[test]
        fn any_cursor_is_one_or_refused(text in prop_oneof![any::<String>(), "[A-Za-z0-9_-]{11}=?", "[A-Za-z0-9_-]{22}=?"]) {
            if let Ok(last) = read_cursor(&text) {
                prop_assert!(last.0 > 0 && write_cursor(last) == text);
            }
            if let Ok(last) = read_id_cursor(&text) {
                prop_assert_eq!(write_id_cursor(last), text);
            }
        }

        #[test]
        fn written_cursors_lead_back(sequence in 1..=i64::MAX, id in any::<u128>().prop_map(Uuid::from_u128)) {
            prop_assert_eq!(read_cursor(&write_cursor(Sequence(sequence))).unwrap(), Sequence(sequence));
            prop_assert_eq!(read_id_cursor(&write_id_cursor(id)).unwrap(), id);
        }

        #[test]
        fn any_number_is_within_bounds_or_refused(number in prop_oneof![any::<i64>(), -2..1_000_002_i64]) {
            let limit = check_limit(Some(number), 20);
            prop_assert_eq!(limit.ok().map(i64::from), Some(number).filter(|n| (1..=100).contains(n)));
            let page = check_page(Some(number));
            prop_assert_eq!(page.ok().map(i64::from), Some(number).filter(|n| (1..=1_000_000).contains(n)));
        }
    }
}
