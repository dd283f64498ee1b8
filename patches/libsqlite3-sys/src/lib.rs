//! The SQLite that Posthorn is built with.
//!
//! sqlx 0.8 is bound to `libsqlite3-sys` 0.30, which brings SQLite 3.46.0. From 3.7.0 to 3.51.2 SQLite can lose
//! committed writes: where two connections checkpoint while a third commits, the log may be begun anew beneath that
//! commit (<https://sqlite.org/wal.html#walresetbug>). So sqlx gets the bindings of a newer release under the version
//! that it asks for. What sqlx calls has not changed between the two; were it otherwise, sqlx would not compile.
//!
//! To be dropped once sqlx itself asks for `libsqlite3-sys` 0.37 or newer.

pub use sqlite::*;
