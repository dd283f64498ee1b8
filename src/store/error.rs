//! What can go wrong with the database, named by what the caller can do about it.

use std::borrow::Cow;

use sea_orm::sqlx;
use sea_orm::{DbErr, RuntimeErr};

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached or is too busy, and nothing was done: try again later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// Its session cannot serve, though another one may, and nothing was done: try again on a new one.
    #[error("the database's session ended: {0}")]
    SessionLost(String),
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

/// PostgreSQL's `insufficient_privilege`.
const FORBIDDEN: &str = "42501";

/// `SQLITE_IOERR_FSYNC` and `SQLITE_IOERR_DIR_FSYNC` (<https://www.sqlite.org/rescode.html>).
const SQLITE_SYNC_FAILED: [i32; 2] = [1034, 1290];

impl Error {
    /// A commit that came to nothing, or to nobody knows what: where the database did not say, it may have been done.
    /// A connection error (class 08) may be a pooler's word for a commit whose answer it never got; with any other the
    /// server says itself that it did not do it.
    pub(super) fn of_commit(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database)
                if !database.code().is_some_and(|code| code.starts_with("08")) =>
            {
                error.into()
            }
            _ => Self::OutcomeUnknown(error.to_string()),
        }
    }

    /// Why the first connection was refused: what the operator has to change, or something that may pass.
    pub(super) fn of_start(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default();
        // Class 28: no such role or a wrong password; 3D000: no such database.
        if code.starts_with("28") || code == "3D000" || matches!(error, sqlx::Error::Configuration(_)) {
            return Self::Unusable(format!("DATABASE_URL: {error}"));
        }
        match error.into() {
            Self::Unavailable(reason) => Self::Unavailable(format!("DATABASE_URL: {reason}")),
            Self::SessionLost(reason) => Self::SessionLost(format!("DATABASE_URL: {reason}")),
            other => other,
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
    matches!(code_of(error).as_deref(), Some("55P03" | "40P01"))
}

/// Whether the role has not the right to do it.
pub(super) fn is_forbidden(error: &DbErr) -> bool {
    code_of(error).as_deref() == Some(FORBIDDEN)
}

fn code_of(error: &DbErr) -> Option<Cow<'_, str>> {
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => {
            error.as_database_error()?.code()
        }
        _ => None,
    }
}

/// Whether an error is of the session it came from, rather than of the statement: the connection failed (class 08),
/// resources are short (53), the server is going down (57P), it was idle for too long (25P03), or it is read-only, since
/// its server has become a standby (25006);
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub(super) fn is_of_session(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| is_of_session_code(&code)),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        _ => false,
    }
}

fn is_of_session_code(code: &str) -> bool {
    // SQLite's are shorter.
    code.len() == 5
        && (["25006", "25P03"].contains(&code)
            || ["08", "53", "57P"].iter().any(|class| code.starts_with(class)))
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        match error {
            DbErr::Conn(RuntimeErr::SqlxError(error))
            | DbErr::Exec(RuntimeErr::SqlxError(error))
            | DbErr::Query(RuntimeErr::SqlxError(error)) => error.into(),
            DbErr::ConnectionAcquire(error) => Self::Unavailable(error.to_string()),
            DbErr::Conn(RuntimeErr::Internal(reason)) => Self::Unavailable(reason),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) if database.is_unique_violation() => Self::Conflict,
            _ if is_of_session(&error) => Self::SessionLost(error.to_string()),
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
                } else if code == FORBIDDEN {
                    Self::Unusable(format!(
                        "DATABASE_URL: expected a role that may read and write Posthorn's tables: {}",
                        database.message()
                    ))
                } else {
                    Self::Unavailable(database.message().to_owned())
                }
            }
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Corrupt(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_cannot_serve_are_told_from_wrong_statements() {
        for code in ["25006", "25P03", "08006", "08P01", "53300", "57P01", "57P03"] {
            assert!(is_of_session_code(code), "{code}");
        }
        for code in ["23505", "22001", "25001", "40P01", "55P03", "57014", "42P01", "0800", "5"] {
            assert!(!is_of_session_code(code), "{code}");
        }
        let broken = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(matches!(Error::from(broken()), Error::SessionLost(_)));
        assert!(matches!(Error::of_commit(broken()), Error::OutcomeUnknown(_)), "it may have been done");
    }
}
