//! What the tables are called.
//!
//! In the texts of this program each has its everyday name. On PostgreSQL that is its name, in a schema of the
//! program's own. SQLite has no schemas, and other programs may have tables in the same file: there each is called
//! `posthorn_…`, and [`on_sqlite`] puts these names into a text.

use std::borrow::Cow;

/// All tables but that of the steps, in the order of their names.
pub const TABLES: [&str; 15] = [
    "api_keys",
    "audit_log",
    "deletions",
    "delivery_attempts",
    "events",
    "lane_health",
    "lanes",
    "nodes",
    "secret_sealing",
    "shared_cache",
    "slots",
    "stats_minutes",
    "subscriptions",
    "tenants",
    "webhook_deliveries",
];

/// What stands before the names of tables and indexes on SQLite.
pub const PREFIX: &str = "posthorn_";

/// The same statement with the tables' names on SQLite. Text in single quotes stays as it is; no column is called like
/// a table.
#[must_use]
pub fn on_sqlite(sql: &str) -> Cow<'_, str> {
    let mut named: Option<String> = None;
    let mut copied = 0;
    for (start, word) in words(sql) {
        if TABLES.binary_search(&word).is_ok() {
            let text = named.get_or_insert_with(|| String::with_capacity(sql.len() + 64));
            text.push_str(sql.get(copied..start).unwrap_or_default());
            text.push_str(PREFIX);
            copied = start;
        }
    }
    match named {
        None => Cow::Borrowed(sql),
        Some(mut text) => {
            text.push_str(sql.get(copied..).unwrap_or_default());
            Cow::Owned(text)
        }
    }
}

/// The words of a statement that stand outside of single quotes, with their places.
fn words(sql: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_of_a_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let mut place = 0;
    let mut is_quoted = false;
    std::iter::from_fn(move || {
        loop {
            let rest = sql.as_bytes().get(place..)?;
            let length = rest.iter().take_while(|byte| is_of_a_word(byte)).count();
            if length == 0 {
                is_quoted ^= *rest.first()? == b'\'';
                place += 1;
                continue;
            }
            let start = place;
            place += length;
            if !is_quoted {
                return Some((start, sql.get(start..place)?));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_found_by_halving() {
        assert!(TABLES.is_sorted());
    }

    #[test]
    fn only_tables_get_the_prefix() {
        for (sql, named) in [
            ("SELECT 1", "SELECT 1"),
            ("SELECT * FROM events", "SELECT * FROM posthorn_events"),
            (
                "SELECT \"tenants\".\"name\" FROM \"tenants\"",
                "SELECT \"posthorn_tenants\".\"name\" FROM \"posthorn_tenants\"",
            ),
            (
                "DELETE FROM events WHERE lanes.x = 'lanes' AND event_id=1",
                "DELETE FROM posthorn_events WHERE posthorn_lanes.x = 'lanes' AND event_id=1",
            ),
            (
                "UPDATE lane_health SET a = 'it''s events' -- é\n, b = 'é'",
                "UPDATE posthorn_lane_health SET a = 'it''s events' -- é\n, b = 'é'",
            ),
            (
                "SELECT max_subscriptions, events_by FROM posthorn_events",
                "SELECT max_subscriptions, events_by FROM posthorn_events",
            ),
            ("", ""),
        ] {
            assert_eq!(on_sqlite(sql), named);
        }
    }
}
