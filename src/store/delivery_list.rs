//! Lists of deliveries. What one page costs is bounded, however long the history and whatever is looked for in it.
//!
//! Numbers grow with time, so a time leads to a number by halving, and what is asked for lies between two numbers. A
//! page that has looked at so many rows without being full ends there, and the next one goes on.

use posthorn_domain::delivery::DeliveryStatus;
use posthorn_domain::id::{Sequence, SubscriptionId};
use posthorn_domain::time::Timestamp;
use posthorn_domain::views::{DeliveryFilter, DeliveryList};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, Statement,
};

use super::deliveries::to_delivery;
use super::entity::webhook_deliveries::{Column, Entity, Model};
use super::{Error, Store};

/// Rows that a page looks at: some milliseconds.
const LOOKED_AT_MAX: i64 = 1_000;
/// Several nodes accept at once, each by its own clock, so that times go back and forth a little from number to
/// number: as many are looked at on either side of where a time was found.
const BESIDE: i64 = 256;

/// Which rows are looked at, each as the index that leads to them says it.
const fn looked_at(filter: &DeliveryFilter) -> Option<&'static str> {
    match filter.status {
        None | Some(DeliveryStatus::Success) => None,
        Some(DeliveryStatus::Failed) => Some("status = 4"),
        Some(DeliveryStatus::Pending | DeliveryStatus::Processing | DeliveryStatus::FailedAttempt) => {
            Some("status < 3")
        }
    }
}

/// Whether every row that is looked at is asked for.
const fn takes_all(filter: &DeliveryFilter) -> bool {
    filter.since.is_none()
        && filter.until.is_none()
        && matches!(filter.status, None | Some(DeliveryStatus::Failed))
}

impl Store {
    /// A subscription's deliveries, the newest first; by `webhook_deliveries_in_order`, `…_unfinished` or `…_failed`.
    pub async fn list_deliveries(
        &self,
        id: SubscriptionId,
        filter: &DeliveryFilter,
        limit: u32,
    ) -> Result<DeliveryList, Error> {
        let from = match filter.since {
            Some(since) => self.first_accepted(id, since).await?.saturating_sub(BESIDE),
            None => 0,
        };
        let mut before = filter.before.map_or(i64::MAX, |before| before.0);
        if let Some(until) = filter.until {
            before = before.min(self.first_accepted(id, until).await?.saturating_add(BESIDE));
        }
        // Where this page ends though it may not be full.
        let mut end = None;
        if !takes_all(filter) {
            end = self.end_of_look(id, filter, (from, before)).await?;
        }
        let range = (end.unwrap_or(from), before);
        let mut rows = self.rows(id, filter, range, u64::from(limit) + 1).await?;
        let mut go_on_before = end.map(Sequence);
        if rows.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
            rows.pop();
            go_on_before = rows.last().map(|row| Sequence(row.sequence));
        }
        let lane = self.lane_wide(id, &rows).await?;
        let items = rows.into_iter().map(|row| to_delivery(lane.judge(row))).collect::<Result<_, _>>()?;
        Ok(DeliveryList { items, go_on_before })
    }

    /// The number of the first delivery that was accepted at `time` or later, or one beyond the last; by
    /// `webhook_deliveries_in_order`, in as many steps as the count of rows has bits.
    async fn first_accepted(&self, id: SubscriptionId, time: Timestamp) -> Result<i64, Error> {
        const EARLIER: &str = "(SELECT d.created_at_ms FROM webhook_deliveries d WHERE d.subscription_id = $1 \
             AND d.sequence >= (low + high) / 2 ORDER BY d.sequence LIMIT 1) < $2";
        let sql = format!(
            "WITH RECURSIVE search (low, high) AS ( \
             SELECT (SELECT sequence FROM webhook_deliveries WHERE subscription_id = $1 ORDER BY sequence LIMIT 1), \
             (SELECT sequence FROM webhook_deliveries WHERE subscription_id = $1 ORDER BY sequence DESC LIMIT 1) + 1 \
             UNION ALL \
             SELECT CASE WHEN {EARLIER} THEN (low + high) / 2 + 1 ELSE low END, \
             CASE WHEN {EARLIER} THEN high ELSE (low + high) / 2 END FROM search WHERE low < high) \
             SELECT low FROM search WHERE low >= high LIMIT 1"
        );
        let values = [id.0.into(), time.as_millis().into()];
        let ask = Statement::from_sql_and_values(self.orm.get_database_backend(), sql, values);
        // Without rows there is nothing to find.
        let found = self.orm.query_one(ask).await?;
        found.map_or(Ok(0), |row| Ok(row.try_get_by_index(0)?))
    }

    /// The lowest number that a page looks at, where there may be more below it.
    async fn end_of_look(
        &self,
        id: SubscriptionId,
        filter: &DeliveryFilter,
        (from, before): (i64, i64),
    ) -> Result<Option<i64>, Error> {
        let sql = format!(
            "SELECT min(sequence), count(*) FROM (SELECT sequence FROM webhook_deliveries \
             WHERE subscription_id = $1 AND sequence >= $2 AND sequence < $3 AND {} \
             ORDER BY sequence DESC LIMIT $4) AS looked_at",
            looked_at(filter).unwrap_or("true")
        );
        let values = [id.0.into(), from.into(), before.into(), LOOKED_AT_MAX.into()];
        let ask = Statement::from_sql_and_values(self.orm.get_database_backend(), sql, values);
        let Some(row) = self.orm.query_one(ask).await? else { return Ok(None) };
        let (lowest, count): (Option<i64>, i64) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        Ok(lowest.filter(|_| count >= LOOKED_AT_MAX))
    }

    async fn rows(
        &self,
        id: SubscriptionId,
        filter: &DeliveryFilter,
        (from, before): (i64, i64),
        limit: u64,
    ) -> Result<Vec<Model>, Error> {
        let mut query = Entity::find()
            .filter(Column::SubscriptionId.eq(id.0))
            .filter(Column::Sequence.gte(from))
            .filter(Column::Sequence.lt(before));
        if let Some(condition) = looked_at(filter) {
            query = query.filter(Expr::cust(condition));
        }
        if let Some(status) = filter.status {
            query = query.filter(Column::Status.eq(status.code()));
        }
        if let Some(since) = filter.since {
            query = query.filter(Column::CreatedAtMs.gte(since.as_millis()));
        }
        if let Some(until) = filter.until {
            query = query.filter(Column::CreatedAtMs.lt(until.as_millis()));
        }
        Ok(query.order_by_desc(Column::Sequence).limit(limit).all(&self.orm).await?)
    }
}
