//! What is in SQLite's log and what is in its file.

use sea_orm::sqlx::sqlite::SqliteConnectOptions;
use sea_orm::sqlx::{self, Connection as _, SqliteConnection};

use crate::support::Backend;
use crate::world::World;

/// The file alone, without the log beside it, has everything once the log is settled, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settled_log_is_in_the_file() {
    let world = World::new(Backend::Sqlite).await;
    world.subscription().await;
    let url = world.database.url();
    let file = url.strip_prefix("sqlite://").unwrap();
    let in_file = async || {
        let copy = world.database.directory().join("copy.db");
        std::fs::copy(file, &copy).unwrap();
        let mut connection =
            SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(copy)).await.unwrap();
        let ask = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM posthorn_subscriptions");
        ask.fetch_one(&mut connection).await
    };
    assert!(in_file().await.is_err(), "not even the table is there");
    world.store.settle_log().await.unwrap();
    assert_eq!(in_file().await.unwrap(), 1);
}
