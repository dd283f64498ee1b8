//! A fresh database for each case, removed after it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sea_orm::{ConnectionTrait as _, Database as SeaOrm, TryGetable};
use tempfile::TempDir;
use url::Url;
use uuid::Uuid;

/// Where a server stores.
pub(crate) struct Database {
    directory: TempDir,
    place: Place,
}

enum Place {
    Nowhere,
    File(PathBuf),
    Server { admin: Url, name: String },
}

impl Database {
    /// For a server that stores nothing; `parent` is where its working directory comes to be.
    pub(crate) fn none(parent: &Path) -> anyhow::Result<Self> {
        Ok(Self { directory: directory(parent)?, place: Place::Nowhere })
    }

    /// A SQLite file in a directory of its own below `parent`, which should not be in memory.
    pub(crate) fn sqlite(parent: &Path) -> anyhow::Result<Self> {
        let directory = directory(parent)?;
        let place = Place::File(directory.path().join("posthorn.db"));
        Ok(Self { directory, place })
    }

    /// A new database on the server behind `admin`.
    pub(crate) async fn postgres(parent: &Path, admin: &Url) -> anyhow::Result<Self> {
        let name = format!("posthorn_bench_{}", Uuid::now_v7().simple());
        execute(admin, &format!("CREATE DATABASE {name}")).await?;
        Ok(Self { directory: directory(parent)?, place: Place::Server { admin: admin.clone(), name } })
    }

    /// What `DATABASE_URL` says; `None` for a server that stores nothing.
    pub(crate) fn url(&self) -> Option<String> {
        match &self.place {
            Place::Nowhere => None,
            Place::File(path) => Some(format!("sqlite://{}", path.display())),
            Place::Server { admin, name } => {
                let mut url = admin.clone();
                url.set_path(name);
                Some(url.to_string())
            }
        }
    }

    /// Its name on a PostgreSQL server.
    pub(crate) fn postgres_name(&self) -> Option<&str> {
        match &self.place {
            Place::Server { name, .. } => Some(name),
            Place::Nowhere | Place::File(_) => None,
        }
    }

    /// How much is stored: SQLite's file and log, or what PostgreSQL says of the database, its log apart.
    pub(crate) async fn bytes(&self) -> anyhow::Result<u64> {
        match &self.place {
            Place::Nowhere => Ok(0),
            Place::File(path) => {
                let log = std::fs::metadata(path.with_extension("db-wal")).map_or(0, |log| log.len());
                Ok(std::fs::metadata(path)?.len() + log)
            }
            Place::Server { admin, name } => {
                let size: i64 = ask(admin, &format!("SELECT pg_database_size('{name}')")).await?;
                Ok(u64::try_from(size)?)
            }
        }
    }

    /// A directory that lives as long.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Removes it with everything in it, whoever is still connected.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        if let Place::Server { admin, name } = &self.place {
            execute(admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        }
        self.directory.close().context("removing the working directory")
    }
}

/// What the server behind `admin` calls itself.
pub(crate) async fn postgres_version(admin: &Url) -> anyhow::Result<String> {
    ask(admin, "SHOW server_version").await
}

/// The one value of a query's one row.
async fn ask<T: TryGetable>(admin: &Url, sql: &str) -> anyhow::Result<T> {
    let connection = SeaOrm::connect(admin.as_str()).await.context("connecting to PostgreSQL")?;
    let backend = connection.get_database_backend();
    let row = connection.query_one(sea_orm::Statement::from_string(backend, sql)).await?;
    connection.close().await?;
    Ok(row.with_context(|| format!("{sql}: no row"))?.try_get_by_index(0)?)
}

async fn execute(admin: &Url, sql: &str) -> anyhow::Result<()> {
    let connection = SeaOrm::connect(admin.as_str()).await.context("connecting to PostgreSQL")?;
    let done = connection.execute_unprepared(sql).await;
    connection.close().await?;
    done.map(drop).with_context(|| sql.to_owned())
}

fn directory(parent: &Path) -> anyhow::Result<TempDir> {
    tempfile::Builder::new().prefix("posthorn-bench-").tempdir_in(parent).context("a working directory")
}
