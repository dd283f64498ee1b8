//! Black-box tests: the real binary on a free port, over real sockets, on SQLite and on PostgreSQL.
//!
//! One file per subject of the contract. Every answer that passes through the client is also held
//! against the OpenAPI document that the server serves.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::similar_names,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "a test fails by panicking and says what it saw; a receiver has received; tables are long"
)]

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod backlog;
mod balancers;
mod beside_others;
mod changes;
mod changes_in_flight;
mod changes_under_load;
mod circuit;
mod clocks;
mod cluster;
mod commands;
mod configuration;
mod crash;
mod crowding;
mod database_faults;
mod deletion;
mod deliveries;
mod disk;
mod documents;
mod errors;
mod exhausted;
mod few_connections;
mod flapping;
mod harness;
mod herd;
mod hostile_receivers;
mod hostile_requests;
mod idempotency;
mod in_flight;
mod ingest;
mod ingest_signature;
mod isolation;
mod keys;
mod lifecycle;
mod listen;
mod loops;
mod names;
mod neighbours;
mod open_circuits;
mod ordering;
mod outage;
mod output;
mod pace;
mod reads;
mod receiver_headers;
mod request_headers;
mod retention;
mod retries;
mod retry_after;
mod scale;
mod secrets;
mod shared_cache;
mod silence;
mod status;
mod store_tls;
mod strangers;
mod subscription_refusals;
mod subscriptions;
mod targets;
mod tenants;
mod tls;
mod unwritable_output;
mod waiting_for;
