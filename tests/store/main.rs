//! The store's suite: every case on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test's output is for whoever reads it")]

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the black-box tests need more of it")]
mod support;

mod accepting;
mod cluster;
mod deleting;
mod disk;
mod lists;
mod migrations;
mod plans;
mod recording;
mod removing;
mod stored_bytes;
mod tenants;
mod world;

use support::on_both_databases;
