//! What can go wrong with the database, named by what the caller can do about it.

use sea_orm::sqlx;
use sea_orm::{DbErr, RuntimeErr};

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached or is too busy, and nothing was done: try again later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The answer to a commit was lost: it may have been done.
    #[error("the database's answer was lost: {0}")]
    OutcomeUnknown(String),
    /// The disk did not confirm that what was written is safe: it may be stored, and may be lost with the power. The
    /// store takes no more after it.
    #[error("the disk failed to confirm what was written: {0}")]
    SyncFailed(String),
    /// Another row has what may be there once; nothing was done.
    #[error("a row of that kind exists already")]
    Conflict,
    /// A value that the database refuses to store; nothing was done.
    #[error("the database refused a value: {0}")]
    Refused(String),
    /// A row that no version of this program would have written.
    #[error("unreadable row: {0}")]
    Corrupt(String),
    /// A secret that cannot be read, or may not be written, under the keys that are given; nothing was done.
    #[error("{0}")]
    Secrets(String),
    /// A set-up that cannot work; for the operator at the start.
    #[error("{0}")]
    Unusable(String),
}

/// `SQLITE_IOERR_FSYNC` and `SQLITE_IOERR_DIR_FSYNC` (<https://www.sqlite.org/rescode.html>).
const SQLITE_SYNC_FAILED: [i32; 2] = [1034, 1290];

impl Error {
    /// A commit that came to nothing, or to nobody knows what: where the database did not say, it may have been done.
    pub(super) fn of_commit(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(_) => error.into(),
            other => Self::OutcomeUnknown(other.to_string()),
        }
    }

    /// A stored value that has no meaning.
    pub(super) fn corrupt(what: &str, value: impl std::fmt::Display) -> Self {
        Self::Corrupt(format!("{what}: {value}"))
    }
}

/// Whether PostgreSQL gave up since others hold what is needed: `lock_not_available` or `deadlock_detected`
/// (appendix A of its documentation).
pub(super) fn is_held_up(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error
    else {
        return false;
    };
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("55P03" | "40P01"))
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        match error {
            DbErr::Conn(RuntimeErr::SqlxError(error))
            | DbErr::Exec(RuntimeErr::SqlxError(error))
            | DbErr::Query(RuntimeErr::SqlxError(error)) => error.into(),
            DbErr::ConnectionAcquire(error) => Self::Unavailable(error.to_string()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) if database.is_unique_violation() => Self::Conflict,
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                // Class 22: data exceptions, class 23: constraints (PostgreSQL, appendix A);
                // SQLite: SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH and their extensions.
                let sqlite = code.parse::<i32>().unwrap_or(0);
                let sqlite_primary = sqlite & 0xff;
                if code.len() < 5 && SQLITE_SYNC_FAILED.contains(&sqlite) {
                    return Self::SyncFailed(database.message().to_owned());
                }
                if code.len() == 5 && (code.starts_with("22") || code.starts_with("23"))
                    || code.len() < 5 && matches!(sqlite_primary, 18..=20)
                {
                    Self::Refused(database.message().to_owned())
                } else {
                    Self::Unavailable(database.message().to_owned())
                }
            }
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Corrupt(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
