//! What was changed for a whole lane at once, judged for each of its deliveries where it is read.
//!
//! A lane may hold a million deliveries, and no statement may touch them all: it would hold up whoever writes. So such
//! a change is one row, and a delivery that it concerns reads as if it were written there, from the commit of the
//! change on: of a deleted subscription it has ended, and a retry that was planned before the endpoint was changed is
//! due. What a deletion ends is written in slices later (`subscriptions/delete.rs`), the rest with the next attempt.

use posthorn_domain::delivery::DeliveryStatus;
use posthorn_domain::id::SubscriptionId;
use sea_orm::{ConnectionTrait, Statement};

use super::Error;
use super::entity::webhook_deliveries::Model;

/// What the unfinished deliveries of a deleted subscription end with.
pub(super) const DELETED: &str = "subscription deleted";

/// As a condition on `webhook_deliveries`: leaves out what is still to be ended of deleted subscriptions. The list is
/// all but always empty, and read once for a statement.
pub(super) const NOT_DELETED: &str = "subscription_id NOT IN (SELECT subscription_id FROM deletions)";

/// What holds for all deliveries of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LaneWide {
    /// The subscription was deleted then.
    deleted_at_ms: Option<i64>,
    /// Retries that were planned before this version are due since this time.
    due: Option<(i64, i64)>,
    /// Attempts before this version count as retries no more.
    forgiven_version: Option<i64>,
}

impl LaneWide {
    /// Of this lane, by the primary key. To be read after the deliveries, so that it says of each of them at least
    /// what was committed when that was read.
    pub(super) async fn of(connection: &impl ConnectionTrait, id: SubscriptionId) -> Result<Self, Error> {
        let ask = Statement::from_sql_and_values(
            connection.get_database_backend(),
            "SELECT deleted_at_ms, due_version, due_at_ms, forgiven_version FROM subscriptions WHERE id = $1",
            [id.0.into()],
        );
        let Some(row) = connection.query_one(ask).await? else { return Ok(Self::default()) };
        let due_version: Option<i64> = row.try_get_by_index(1)?;
        Ok(Self {
            deleted_at_ms: row.try_get_by_index(0)?,
            due: due_version.zip(row.try_get_by_index(2)?),
            forgiven_version: row.try_get_by_index(3)?,
        })
    }

    /// When a retry is due that was planned under `planned_version`, where it is due by a change.
    pub(super) fn due_at(self, planned_version: Option<i64>) -> Option<i64> {
        self.due.filter(|(version, _)| planned_version.unwrap_or(0) < *version).map(|(_, at)| at)
    }

    /// Whether the attempts of a delivery whose retry was planned under `planned_version` count as retries no more.
    pub(super) fn forgives(self, planned_version: Option<i64>) -> bool {
        self.forgiven_version.is_some_and(|version| planned_version.unwrap_or(0) < version)
    }

    /// The delivery as readers see it.
    pub(super) fn judge(self, mut row: Model) -> Model {
        if row.status >= DeliveryStatus::Success.code() {
            return row;
        }
        if let Some(deleted_at_ms) = self.deleted_at_ms {
            row.status = DeliveryStatus::Failed.code();
            row.completed_at_ms = Some(deleted_at_ms);
            row.next_attempt_at_ms = None;
            row.error = Some(DELETED.to_owned());
        } else if let Some(due_at) = self.due_at(row.planned_version) {
            row.next_attempt_at_ms = row.next_attempt_at_ms.map(|planned| planned.min(due_at));
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_decide_which_retries_a_change_concerns() {
        let lane = LaneWide { due: Some((5, 1_000)), forgiven_version: Some(7), deleted_at_ms: None };
        for (planned, due_at, forgiven) in [
            (None, Some(1_000), true),
            (Some(4), Some(1_000), true),
            (Some(5), None, true),
            (Some(6), None, true),
            (Some(7), None, false),
        ] {
            assert_eq!((lane.due_at(planned), lane.forgives(planned)), (due_at, forgiven), "{planned:?}");
        }
        let untouched = LaneWide::default();
        assert_eq!((untouched.due_at(None), untouched.forgives(None)), (None, false));
    }
}
