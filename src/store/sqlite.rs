//! Rows by the many, in few statements.
//!
//! Of two or more rows of `VALUES` the planner thinks that they are worth an index of their own, and would
//! read a whole table or partial index beside it. So a join names the rows first and the table by `CROSS JOIN`
//! (<https://www.sqlite.org/optoverview.html>, section 8.2), and an update hides the condition of a partial index
//! behind a `+` (section 8).

use posthorn_migration::names::on_sqlite;

/// Rows of one statement, the largest first. Few sizes, so that each statement is prepared once, and
/// each twice the next, so that few make up any number: a statement is a hop to the database's thread and back,
/// which costs more than the row that it writes.
const SIZES: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];

/// How many rows one statement takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows(usize);

impl Rows {
    /// `VALUES row, row, …`; a query names their columns `column1`, `column2`, ….
    pub(super) fn values(self, row: &str) -> String {
        format!("VALUES {}", self.list(row))
    }

    /// `item, item, …`.
    pub(super) fn list(self, item: &str) -> String {
        let mut sql = String::with_capacity(self.0 * (item.len() + 1));
        for n in 0..self.0 {
            if n > 0 {
                sql.push(',');
            }
            sql.push_str(item);
        }
        sql
    }
}

/// The statement with the tables' names.
pub(super) fn named(sql: &str) -> String {
    on_sqlite(sql).into_owned()
}

/// Cuts `items` into pieces of such sizes.
pub(super) fn chunks<T>(mut items: &[T]) -> impl Iterator<Item = (Rows, &[T])> {
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= items.len())?;
        let (chunk, rest) = items.split_at(size);
        items = rest;
        Some((Rows(size), chunk))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_few_and_whole() {
        let items: Vec<usize> = (0..150).collect();
        let sizes: Vec<usize> = chunks(&items).map(|(rows, _)| rows.0).collect();
        assert_eq!(sizes, [64, 64, 16, 4, 2]);
        assert!(chunks(&items).flat_map(|(_, chunk)| chunk).eq(&items));
        assert_eq!(Rows(2).values("(?)"), "VALUES (?),(?)");
    }
}
