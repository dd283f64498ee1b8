//! What one process tells the others that work on the same database: PostgreSQL's LISTEN and NOTIFY.
//!
//! A notice goes out with the commit of what it is about, and only shortens a wait: whoever may have missed
//! one looks at the database.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use posthorn_domain::id::{NodeId, Sequence, SubscriptionId};
use posthorn_domain::tenant::Tenant;
use sea_orm::sqlx::postgres::PgListener;
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use tokio::time::timeout;

use super::{Error, Pool, Store};

/// The channel that all notices go through.
const CHANNEL: &str = "posthorn";
/// How long a connection for listening may take to come about.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Something happened, and is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Deliveries up to these numbers were accepted.
    Accepted(Vec<(SubscriptionId, Sequence)>),
    /// A subscription was changed.
    Changed(SubscriptionId),
    /// A subscription was deleted.
    Deleted(SubscriptionId),
    /// Somebody ended a delivery.
    Skipped(SubscriptionId, Sequence),
    /// Somebody wants a delivery tried now.
    RetryNow(SubscriptionId, Sequence),
    /// A tenant's settings were changed.
    Tenant(Tenant),
    /// Entries of the shared cache are kept under another namespace.
    Namespace,
    /// A node came, left, or gave slots back.
    Nodes,
    /// Nothing: the node that sent it as its so manieth knows by it that it heard all that was committed before. Of an
    /// earlier version it bears nothing.
    Alive(Option<(NodeId, u64)>),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(lanes) => {
                f.write_str("accepted")?;
                lanes.iter().try_for_each(|(id, last)| write!(f, " {id} {last}"))
            }
            Self::Changed(id) => write!(f, "changed {id}"),
            Self::Deleted(id) => write!(f, "deleted {id}"),
            Self::Skipped(id, sequence) => write!(f, "skipped {id} {sequence}"),
            Self::RetryNow(id, sequence) => write!(f, "retry {id} {sequence}"),
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
            Self::Namespace => f.write_str("namespace"),
            Self::Nodes => f.write_str("nodes"),
            Self::Alive(None) => f.write_str("alive"),
            Self::Alive(Some((node, number))) => write!(f, "alive {node} {number}"),
        }
    }
}

/// A text that is no notice; another version may say more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a notice")]
pub struct NoNotice;

impl FromStr for Notice {
    type Err = NoNotice;

    fn from_str(text: &str) -> Result<Self, NoNotice> {
        let mut words = text.split(' ');
        let kind = words.next().unwrap_or_default();
        let mut id = || words.next().and_then(|word| word.parse().ok()).ok_or(NoNotice);
        let notice = match kind {
            "accepted" => {
                let words: Vec<_> = words.by_ref().collect();
                let pair = |pair: &[&str]| match pair {
                    [id, last] => Some((id.parse().ok()?, Sequence(last.parse().ok()?))),
                    _ => None,
                };
                Self::Accepted(words.chunks(2).map(pair).collect::<Option<_>>().ok_or(NoNotice)?)
            }
            "changed" => Self::Changed(id()?),
            "deleted" => Self::Deleted(id()?),
            "skipped" | "retry" => {
                let id = id()?;
                let sequence =
                    words.next().and_then(|word| word.parse().ok()).map(Sequence).ok_or(NoNotice)?;
                if kind == "retry" { Self::RetryNow(id, sequence) } else { Self::Skipped(id, sequence) }
            }
            "tenant" => Self::Tenant(words.next().and_then(|word| word.parse().ok()).ok_or(NoNotice)?),
            "namespace" => Self::Namespace,
            "nodes" => Self::Nodes,
            "alive" => match words.next() {
                None => Self::Alive(None),
                Some(node) => {
                    let number = words.next().and_then(|word| word.parse().ok()).ok_or(NoNotice)?;
                    Self::Alive(Some((node.parse().map_err(|_| NoNotice)?, number)))
                }
            },
            _ => return Err(NoNotice),
        };
        words.next().is_none().then_some(notice).ok_or(NoNotice)
    }
}

/// Tells all processes, with the commit; SQLite has but one.
pub(super) async fn tell(connection: &impl ConnectionTrait, notice: &Notice) -> Result<(), Error> {
    if connection.get_database_backend() == DbBackend::Postgres {
        let sql = "SELECT pg_notify($1, $2)";
        let values = [CHANNEL.into(), notice.to_string().into()];
        connection.execute(Statement::from_sql_and_values(DbBackend::Postgres, sql, values)).await?;
    }
    Ok(())
}

/// A connection that hears notices.
#[derive(Debug)]
pub struct Listener(PgListener);

impl Store {
    /// Tells all processes at once.
    pub async fn tell(&self, notice: &Notice) -> Result<(), Error> {
        tell(&self.lanes, notice).await
    }

    /// Hears notices from now on; none where there is nobody else.
    pub async fn listen(&self) -> Result<Option<Listener>, Error> {
        let Pool::Postgres { direct_url, .. } = &self.pool else { return Ok(None) };
        let connect = async {
            let mut listener = PgListener::connect(direct_url).await?;
            listener.listen(CHANNEL).await?;
            Ok(Some(Listener(listener)))
        };
        let unavailable = |_| Error::Unavailable("no connection for notices in time".to_owned());
        timeout(CONNECT_PATIENCE, connect).await.map_err(unavailable)?
    }
}

impl Listener {
    /// The next notice; an error where the connection broke, and with it maybe some notices.
    ///
    /// May be dropped: nothing is lost by it.
    pub async fn next(&mut self) -> Result<Notice, Error> {
        loop {
            let Some(heard) = self.0.try_recv().await? else {
                return Err(Error::Unavailable("the connection for notices broke".to_owned()));
            };
            if let Ok(notice) = heard.payload().parse() {
                return Ok(notice);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn notices_are_read_as_they_were_written() {
        let (one, other) = (SubscriptionId(Uuid::from_u128(1)), SubscriptionId(Uuid::from_u128(2)));
        for notice in [
            Notice::Accepted(vec![(one, Sequence(7)), (other, Sequence(i64::MAX))]),
            Notice::Changed(one),
            Notice::Deleted(one),
            Notice::Skipped(one, Sequence(7)),
            Notice::RetryNow(other, Sequence(8)),
            Notice::Tenant(Tenant::default()),
            Notice::Namespace,
            Notice::Nodes,
            Notice::Alive(None),
            Notice::Alive(Some((NodeId(Uuid::from_u128(3)), 7))),
        ] {
            assert_eq!(notice.to_string().parse(), Ok(notice));
        }
        for text in [
            "",
            "accepted 7",
            "changed",
            "changed x",
            "skipped 1",
            "nodes 1",
            "tenant",
            "what",
            "alive x 1",
            "alive 1",
        ] {
            assert_eq!(text.parse::<Notice>(), Err(NoNotice), "{text}");
        }
    }
}
