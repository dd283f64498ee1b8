//! Rows by the many, in few statements.

/// Rows of one statement, the largest first. Few sizes, so that each statement is prepared once.
const SIZES: [usize; 4] = [64, 16, 4, 1];

/// How many rows one statement takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows(usize);

impl Rows {
    /// `head VALUES row, row, …`.
    pub(super) fn insert(self, head: &str, row: &str) -> String {
        let mut sql = String::with_capacity(head.len() + 8 + self.0 * (row.len() + 1));
        sql.push_str(head);
        for n in 0..self.0 {
            sql.push_str(if n == 0 { " VALUES " } else { "," });
            sql.push_str(row);
        }
        sql
    }
}

/// Cuts `items` into pieces of 64, 16, 4 and 1.
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
        assert_eq!(sizes, [64, 64, 16, 4, 1, 1]);
        assert!(chunks(&items).flat_map(|(_, chunk)| chunk).eq(&items));
        assert_eq!(Rows(2).insert("INSERT INTO t", "(?)"), "INSERT INTO t VALUES (?),(?)");
    }
}
