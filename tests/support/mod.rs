//! What the black-box tests stand on: the real binary, a database of its own for each test, a
//! receiver that can misbehave, and a client that holds every answer against the OpenAPI document.
//!
//! Nothing here sleeps for things to settle: every wait has a deadline and says what it saw.

pub(crate) mod beside;
pub(crate) mod busyness;
pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod database;
pub(crate) mod document;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod receiver;
pub(crate) mod redis;
pub(crate) mod reply;
pub(crate) mod schema;
pub(crate) mod server;
pub(crate) mod signature;
pub(crate) mod wait;
pub(crate) mod wall_clock;

/// Says that a program is missing and its test left out, which under `CI=true` is a failure.
pub(crate) fn left_out(program: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{program} is not installed");
    println!("left out: {program} is not installed");
}

pub(crate) use client::{Answer, Client};
pub(crate) use database::{Backend, Database};
pub(crate) use receiver::{Received, Receiver};
pub(crate) use reply::{Gate, Reply};
pub(crate) use server::Posthorn;
pub(crate) use wait::{eventually, within};

/// Makes a test of each case on each database, named `<case>::sqlite` and `<case>::postgres`.
macro_rules! on_both_databases {
    ($($case:ident),* $(,)?) => { $(
        mod $case {
            use crate::support::Backend;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$case(Backend::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$case(Backend::Postgres).await;
            }
        }
    )* };
}
pub(crate) use on_both_databases;
