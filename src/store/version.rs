//! Which database this is, and whether its version keeps what it was given.

use sea_orm::{ConnectionTrait as _, DbBackend, Statement};

use super::{Error, Store};

/// SQLite from the first to before the second of these may lose committed writes: where two connections checkpoint
/// while a third commits, the log may be begun anew beneath that commit
/// (<https://sqlite.org/wal.html#walresetbug>). The two releases between have the mend, too.
const SQLITE_LOSES_WRITES: (Version, Version) = ((3, 7, 0), (3, 51, 3));
const SQLITE_MENDED: [(Version, Version); 2] = [((3, 44, 6), (3, 45, 0)), ((3, 50, 7), (3, 51, 0))];

type Version = (u32, u32, u32);

impl Store {
    /// The database and its version, for people: `SQLite 3.54.1`.
    pub async fn describe(&self) -> Result<String, Error> {
        let (name, ask) = match self.orm.get_database_backend() {
            DbBackend::Postgres => ("PostgreSQL", "SHOW server_version"),
            DbBackend::Sqlite | DbBackend::MySql => ("SQLite", "SELECT sqlite_version()"),
        };
        let ask = Statement::from_string(self.orm.get_database_backend(), ask);
        let row = self.orm.query_one(ask).await?.ok_or_else(|| Error::corrupt("version", "no row"))?;
        Ok(format!("{name} {}", row.try_get_by_index::<String>(0)?))
    }

    /// An error where the SQLite that this program was built with may lose what it committed.
    pub async fn check_version(&self) -> Result<(), Error> {
        let described = self.describe().await?;
        match described.strip_prefix("SQLite ") {
            Some(version) if may_lose_writes(version) => Err(Error::Unusable(format!(
                "DATABASE_URL: this program was built with SQLite {version}, which can lose committed writes; \
                 expected 3.51.3 or newer"
            ))),
            _ => Ok(()),
        }
    }
}

fn may_lose_writes(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version: Version = (next(), next(), next());
    let within = |(first, end): &(Version, Version)| (*first..*end).contains(&version);
    within(&SQLITE_LOSES_WRITES) && !SQLITE_MENDED.iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_lose_writes_are_known() {
        for (version, loses) in [
            ("3.6.23", false),
            ("3.7.0", true),
            ("3.44.5", true),
            ("3.44.6", false),
            ("3.45.0", true),
            ("3.46.0", true),
            ("3.50.6", true),
            ("3.50.7", false),
            ("3.51.0", true),
            ("3.51.2", true),
            ("3.51.3", false),
            ("3.54.1", false),
            ("4.0.0", false),
        ] {
            assert_eq!(may_lose_writes(version), loses, "{version}");
        }
    }
}
