//! How many connections to PostgreSQL a node has, and what they are for.
//!
//! Delivering has a share of its own: however many requests wait for an answer, they use none of its connections.

use posthorn_domain::limits::DATABASE_CONNECTIONS_MIN;
use sea_orm::sqlx::{self, PgConnection};

use super::Error;

/// As many as one node makes use of, unless it is told otherwise.
const CONNECTIONS_DEFAULT: u32 = 22;

/// What the connections of a node are for; one more hears notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// For writers and lanes.
    pub(super) hot: u32,
    /// For whatever comes.
    pub(super) general: u32,
}

impl Shares {
    /// Of so many connections, [`DATABASE_CONNECTIONS_MIN`] at least.
    pub(super) fn of(connections: u32) -> Self {
        // One for each writer, some for what lanes read, and some to spare while broken ones are replaced.
        let hot = (connections * 5 / 11).max(3);
        Self { hot, general: connections.saturating_sub(1 + hot).max(1) }
    }

    /// Transactions under way at once: they leave a third of the connections for what is read.
    pub(super) fn transactions(self) -> usize {
        usize::try_from(self.general * 2 / 3).unwrap_or(usize::MAX).max(1)
    }
}

/// What the first connection learns of its database.
#[derive(Debug)]
pub(super) struct Facts {
    /// The name of its encoding.
    pub(super) encoding: String,
    role: String,
    is_superuser: bool,
    /// Below zero: any number.
    of_role: i32,
    /// Below zero: any number.
    of_database: i32,
    /// Without those that the server keeps for its administrators.
    of_server: i32,
}

impl Facts {
    pub(super) async fn ask(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let row = sqlx::query_as(
            "SELECT pg_encoding_to_char(encoding)::text, rolname::text, rolsuper, rolconnlimit, datconnlimit, \
             current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int \
             - coalesce(current_setting('reserved_connections', true)::int, 0) \
             FROM pg_database, pg_roles WHERE datname = current_database() AND rolname = session_user",
        );
        let (encoding, role, is_superuser, of_role, of_database, of_server) =
            row.fetch_one(connection).await?;
        Ok(Self { encoding, role, is_superuser, of_role, of_database, of_server })
    }

    /// How many connections there may be, and who says so. A superuser is bound by the server alone.
    fn most(&self) -> (u32, String) {
        let of = |limit: i32, who: String| u32::try_from(limit).ok().map(|limit| (limit, who));
        let bound = |limit| if self.is_superuser { -1 } else { limit };
        let limits = [
            of(bound(self.of_role), format!("the role {} (ALTER ROLE … CONNECTION LIMIT)", self.role)),
            of(bound(self.of_database), "the database (ALTER DATABASE … CONNECTION LIMIT)".to_owned()),
            of(self.of_server.max(0), "the server (max_connections)".to_owned()),
        ];
        limits.into_iter().flatten().min_by_key(|(limit, _)| *limit).unwrap_or((u32::MAX, String::new()))
    }

    /// How many connections this node has: as many as are `asked` for, or as many as it makes use of and may have.
    pub(super) fn connections(&self, asked: Option<u32>) -> Result<u32, Error> {
        let (most, who) = self.most();
        match asked {
            Some(asked) if asked > most => Err(Error::Unusable(format!(
                "POSTHORN_DATABASE_CONNECTIONS: expected at most {most}, which is what {who} allows, got {asked}"
            ))),
            None if most < DATABASE_CONNECTIONS_MIN => Err(Error::Unusable(format!(
                "DATABASE_URL: expected a database that takes {DATABASE_CONNECTIONS_MIN} connections at least; {who} allows {most}"
            ))),
            Some(asked) => Ok(asked),
            None => {
                if most < CONNECTIONS_DEFAULT {
                    tracing::info!(
                        connections = most,
                        "fewer connections to the database than usual: {who} allows no more"
                    );
                }
                Ok(most.min(CONNECTIONS_DEFAULT))
            }
        }
    }
}

/// Behind a pooler the limits are the pooler's, and nobody tells them.
pub(super) fn behind_a_pooler(asked: Option<u32>) -> u32 {
    asked.unwrap_or(CONNECTIONS_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(is_superuser: bool, of_role: i32, of_database: i32, of_server: i32) -> Facts {
        Facts { encoding: "UTF8".into(), role: "app".into(), is_superuser, of_role, of_database, of_server }
    }

    #[test]
    fn each_share_has_some() {
        for connections in DATABASE_CONNECTIONS_MIN..=100 {
            let shares = Shares::of(connections);
            assert_eq!(1 + shares.hot + shares.general, connections);
            assert!(shares.hot >= 3 && shares.general >= 2, "{connections}: {shares:?}");
            assert!((1..shares.general as usize).contains(&shares.transactions()), "{connections}");
        }
        assert_eq!(Shares::of(CONNECTIONS_DEFAULT), Shares { hot: 10, general: 11 });
    }

    #[test]
    fn the_least_limit_counts() {
        for (facts, asked, right) in [
            (facts(false, -1, -1, 97), None, Ok(22)),
            (facts(false, 8, -1, 97), None, Ok(8)),
            (facts(false, 50, 7, 97), None, Ok(7)),
            (facts(false, -1, -1, 17), None, Ok(17)),
            (facts(true, 1, 1, 97), None, Ok(22)),
            (facts(false, -1, -1, 97), Some(90), Ok(90)),
            (facts(false, 8, -1, 97), Some(6), Ok(6)),
            (facts(false, 8, -1, 97), Some(9), Err("POSTHORN_DATABASE_CONNECTIONS: expected at most 8")),
            (facts(false, 5, -1, 97), None, Err("DATABASE_URL: expected a database that takes 6")),
            (facts(true, -1, -1, -3), None, Err("the server (max_connections) allows 0")),
        ] {
            match (facts.connections(asked), right) {
                (Ok(connections), Ok(right)) => assert_eq!(connections, right, "{facts:?}"),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (got, right) => panic!("{facts:?}: {got:?}, not {right:?}"),
            }
        }
    }
}
