//! The store's suite: every case on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![expect(unreachable_pub, dead_code, reason = "the harness serves several suites")]

#[path = "../support/mod.rs"]
mod support;

mod accepting;
mod migrations;
mod plans;
mod recording;
mod removing;
mod world;

use support::on_both_databases;
