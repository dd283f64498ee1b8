//! A database of its own for each test, and questions put to it in SQL.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use posthorn_migration::names::on_sqlite;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Executor};

/// Names the PostgreSQL server.
const SERVER_URL: &str = "POSTHORN_TEST_POSTGRES_URL";

/// The two databases that every case runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// A file in a directory of its own.
    Sqlite,
    /// A database of its own on the server that `POSTHORN_TEST_POSTGRES_URL` names.
    Postgres,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        })
    }
}

/// One fresh database; it is removed with its owner.
#[derive(Debug)]
pub(crate) struct Database {
    directory: tempfile::TempDir,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    File(PathBuf),
    Server { server: url::Url, url: url::Url, name: String },
}

impl Database {
    /// Creates it, without tables.
    pub(crate) async fn create(backend: Backend) -> Self {
        if backend == Backend::Postgres {
            return Self::create_on(server_url()).await;
        }
        let directory = directory();
        let place = Place::File(directory.path().join("posthorn.db"));
        Self { directory, place }
    }

    /// Creates it on another server of PostgreSQL.
    pub(crate) async fn create_on(server: url::Url) -> Self {
        let name = format!("posthorn_test_{}", uuid::Uuid::now_v7().simple());
        let created = administer(&server, &format!("CREATE DATABASE {name}")).await;
        created.unwrap_or_else(|error| {
            panic!("{SERVER_URL}: expected a server where databases may be created: {error}")
        });
        let mut url = server.clone();
        url.set_path(&name);
        Self { directory: directory(), place: Place::Server { server, url, name } }
    }

    /// What `DATABASE_URL` says.
    pub(crate) fn url(&self) -> String {
        match &self.place {
            Place::File(path) => format!("sqlite://{}", path.display()),
            Place::Server { url, .. } => url.to_string(),
        }
    }

    /// A directory that lives as long; a SQLite file lies in it.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// One number, such as a `count(*)`.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.number_as_written(&self.named(sql)).await
    }

    /// The same, with the names that stand there: of tables that are another's, or an older release's.
    pub(crate) async fn number_as_written(&self, sql: &str) -> i64 {
        let rows = self.numbers_as_written(sql).await;
        assert_eq!(rows.len(), 1, "{sql}: expected one row");
        rows[0]
    }

    /// The first column of each row, whole numbers.
    pub(crate) async fn numbers(&self, sql: &str) -> Vec<i64> {
        self.numbers_as_written(&self.named(sql)).await
    }

    /// The statement with the tables' names in this database.
    fn named<'a>(&self, sql: &'a str) -> Cow<'a, str> {
        match &self.place {
            Place::File(_) => on_sqlite(sql),
            Place::Server { .. } => Cow::Borrowed(sql),
        }
    }

    async fn numbers_as_written(&self, sql: &str) -> Vec<i64> {
        let rows = match &self.place {
            Place::File(path) => {
                let mut connection = open_file(path, Access::Read).await;
                sqlx::query_scalar(sql).fetch_all(&mut connection).await
            }
            Place::Server { url, .. } => {
                let mut connection = connect(url).await;
                sqlx::query_scalar(sql).fetch_all(&mut connection).await
            }
        };
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Every row as an id and whole numbers: `SELECT id, a, b, c …`, numbers cast to `BIGINT`.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<(uuid::Uuid, i64, i64, i64)> {
        let rows = match &self.place {
            Place::File(path) => {
                let mut connection = open_file(path, Access::Read).await;
                sqlx::query_as(&self.named(sql)).fetch_all(&mut connection).await
            }
            Place::Server { url, .. } => sqlx::query_as(sql).fetch_all(&mut connect(url).await).await,
        };
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Changes what is stored behind the program's back.
    #[allow(dead_code, reason = "only the store's suite needs it")]
    pub(crate) async fn execute(&self, sql: &str) {
        self.execute_as_written(&self.named(sql)).await;
    }

    /// The same, with the names that stand there.
    #[allow(dead_code, reason = "only the store's suite needs it")]
    pub(crate) async fn execute_as_written(&self, sql: &str) {
        let done = match &self.place {
            Place::File(path) => open_file(path, Access::Write).await.execute(sql).await.map(drop),
            Place::Server { url, .. } => connect(url).await.execute(sql).await.map(drop),
        };
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Fails where the query, which looks for what must not be, finds anything.
    pub(crate) async fn check_none(&self, what: &str, from: &str) {
        let found = self.number(&format!("SELECT count(*) FROM {from}")).await;
        assert_eq!(found, 0, "{what}: {found} rows of {from}");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Place::Server { server, name, .. } = &self.place else { return };
        let server = server.clone();
        let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        // A runtime of its own: this one may be the one that is ending.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(administer(&server, &statement)).map_err(std::io::Error::other)
        });
        if !matches!(dropping.join(), Ok(Ok(()))) {
            eprintln!("could not drop database {name}");
        }
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("posthorn-test-").tempdir().expect("a directory")
}

fn server_url() -> url::Url {
    let url =
        std::env::var(SERVER_URL).unwrap_or_else(|_| "postgres://root@127.0.0.1:5432/postgres".to_owned());
    url::Url::parse(&url).unwrap_or_else(|_| panic!("{SERVER_URL}: expected postgres://…"))
}

async fn administer(server: &url::Url, statement: &str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(server.as_str()).await?;
    connection.execute(statement).await?;
    connection.close().await
}

/// It looks where the program does, and where older ones did.
async fn connect(url: &url::Url) -> PgConnection {
    let connection = PgConnection::connect(url.as_str()).await;
    let mut connection = connection.expect("a connection to the test's database");
    connection.execute("SET search_path TO posthorn, public").await.expect("a setting of every session");
    connection
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

async fn open_file(path: &Path, access: Access) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(access == Access::Read)
        .create_if_missing(access == Access::Write)
        .busy_timeout(Duration::from_secs(10))
        .disable_statement_logging();
    SqliteConnection::connect_with(&options).await.expect("the test's database file")
}
