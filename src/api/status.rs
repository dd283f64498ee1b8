//! `/status` and `/health`: what became of things, and the whole at a glance.

use poem_openapi::param::{Path, Query};
use poem_openapi::{Enum, Object, OpenApi};
use posthorn_domain::delivery::AttemptOutcome;
use posthorn_domain::id::{DeliveryId, SubscriptionId};
use posthorn_domain::views::{Activity, STATS_WINDOW, Stats};
use serde::Serialize;
use uuid::Uuid;

use super::Tag;
use super::body::Json;
use super::deliveries::{Delivery, DeliveryAttempt};
use super::paging::check_limit;
use super::words::Time;
use crate::http::problem::Problem;
use crate::service::{Access, Service};

/// Attempts in a list where the client names no number.
const ATTEMPTS_LIMIT_DEFAULT: u32 = 20;
/// Items of activity where the client names no number.
const ACTIVITY_LIMIT_DEFAULT: u32 = 5;

pub(super) struct Status {
    pub(super) service: Service,
}

/// That the server is there.
#[derive(Serialize, Object)]
struct Health {
    /// Always `ok`.
    status: HealthStatus,
}

/// That all is well.
#[derive(Serialize, Enum)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
enum HealthStatus {
    Ok,
}

/// A delivery with everything that was tried.
#[derive(Serialize, Object)]
struct DeliveryStatus {
    /// The delivery.
    delivery: Delivery,
    /// Its attempts, the oldest first.
    attempts: Vec<DeliveryAttempt>,
}

/// The system at a glance.
#[derive(Serialize, Object)]
struct SystemStats {
    /// Subscriptions there are.
    total_subscriptions: u64,
    /// Those of them that are active.
    active_subscriptions: u64,
    /// Deliveries that are not finished.
    pending_deliveries: u64,
    /// How far back the recent counts reach, in hours.
    recent_window_hours: u64,
    /// Deliveries that ended `success` in the window.
    recent_success_count: u64,
    /// Deliveries that ended `failed` in the window.
    recent_failure_count: u64,
    /// The share of the successful among those that ended in the window; null where none ended.
    #[oai(validator(minimum(value = "0"), maximum(value = "1")))]
    success_rate: Option<f64>,
    /// Circuits that are not closed.
    circuits_open: u64,
}

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Enum)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
enum ActivityKind {
    SubscriptionCreated,
    DeliveryAttempt,
}

/// Something that happened.
#[derive(Serialize, Object)]
struct ActivityItem {
    /// What kind of thing.
    kind: ActivityKind,
    /// When.
    timestamp: Time,
    /// To which subscription.
    subscription_id: Uuid,
    /// To which delivery, where it was one.
    delivery_id: Option<Uuid>,
    /// In a line for people.
    summary: String,
}

#[OpenApi]
impl Status {
    /// Tell whether the server is there
    #[expect(clippy::unused_async, reason = "poem-openapi asks for it")]
    #[oai(path = "/health", method = "get", operation_id = "getHealth", tag = "Tag::Health")]
    async fn health(&self) -> Json<Health> {
        Json(Health { status: HealthStatus::Ok })
    }

    /// Tell whether the server is ready to work
    ///
    /// The problem names the part that is not ready.
    #[oai(path = "/health/ready", method = "get", operation_id = "getReadiness", tag = "Tag::Health")]
    async fn ready(&self) -> Result<Json<Health>, Problem> {
        self.service.check_ready().await?;
        Ok(Json(Health { status: HealthStatus::Ok }))
    }

    /// Tell what became of a delivery
    #[oai(
        path = "/status/deliveries/:delivery_id/status",
        method = "get",
        operation_id = "getDeliveryStatus",
        tag = "Tag::Status"
    )]
    async fn delivery(
        &self,
        access: Access,
        /// The delivery.
        delivery_id: Path<Uuid>,
    ) -> Result<Json<DeliveryStatus>, Problem> {
        let id = DeliveryId(delivery_id.0);
        let (explained, attempts) = self.service.delivery_with_attempts(&access, id).await?;
        let attempts = attempts.into_iter().map(DeliveryAttempt::from).collect();
        Ok(Json(DeliveryStatus { delivery: explained.into(), attempts }))
    }

    /// List a subscription's attempts, the newest first
    #[oai(
        path = "/status/subscriptions/:subscription_id/attempts",
        method = "get",
        operation_id = "listDeliveryAttempts",
        tag = "Tag::Status"
    )]
    async fn attempts(
        &self,
        access: Access,
        /// The subscription.
        subscription_id: Path<Uuid>,
        /// Attempts in the list; 20 where left out.
        limit: Query<Option<i64>>,
    ) -> Result<Json<Vec<DeliveryAttempt>>, Problem> {
        let id = SubscriptionId(subscription_id.0);
        let limit = check_limit(limit.0, ATTEMPTS_LIMIT_DEFAULT)?;
        let attempts = self.service.attempts(&access, id, limit).await?;
        Ok(Json(attempts.into_iter().map(DeliveryAttempt::from).collect()))
    }

    /// Show the system at a glance
    ///
    /// To a tenant's key: what is that tenant's; where that takes long to count, as counted some ten times as long ago.
    #[oai(path = "/status/stats", method = "get", operation_id = "getSystemStats", tag = "Tag::Status")]
    async fn stats(&self, access: Access) -> Result<Json<SystemStats>, Problem> {
        let stats = self.service.stats(&access).await?;
        Ok(Json(stats.into()))
    }

    /// List what happened lately, the newest first
    ///
    /// To a tenant's key: to that tenant's subscriptions.
    #[oai(path = "/status/activity", method = "get", operation_id = "listActivity", tag = "Tag::Status")]
    async fn activity(
        &self,
        access: Access,
        /// Items in the list; 5 where left out.
        limit: Query<Option<i64>>,
    ) -> Result<Json<Vec<ActivityItem>>, Problem> {
        let limit = check_limit(limit.0, ACTIVITY_LIMIT_DEFAULT)?;
        let items = self.service.activity(&access, limit).await?;
        Ok(Json(items.into_iter().map(ActivityItem::from).collect()))
    }
}

impl From<Stats> for SystemStats {
    fn from(stats: Stats) -> Self {
        Self {
            total_subscriptions: stats.total_subscriptions,
            active_subscriptions: stats.active_subscriptions,
            pending_deliveries: stats.pending_deliveries,
            recent_window_hours: STATS_WINDOW.as_secs() / 3600,
            recent_success_count: stats.recent_success_count,
            recent_failure_count: stats.recent_failure_count,
            success_rate: share(stats.recent_success_count, stats.recent_failure_count),
            circuits_open: stats.circuits_open,
        }
    }
}

/// The share of `successes` among all; none where there are none.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
fn share(successes: u64, failures: u64) -> Option<f64> {
    let all = successes.saturating_add(failures);
    (all > 0).then(|| successes as f64 / all as f64)
}

impl From<Activity> for ActivityItem {
    fn from(activity: Activity) -> Self {
        match activity {
            Activity::SubscriptionCreated { at, subscription_id, origin } => Self {
                kind: ActivityKind::SubscriptionCreated,
                timestamp: Time(at),
                subscription_id: subscription_id.0,
                delivery_id: None,
                summary: format!("subscription to {origin} created"),
            },
            Activity::Attempted { at, subscription_id, delivery_id, number, outcome, status_code } => {
                let outcome = match outcome {
                    AttemptOutcome::Success => "succeeded",
                    AttemptOutcome::FailedAttempt => "failed and will be tried again",
                    AttemptOutcome::Failed => "failed for good",
                };
                let answer = status_code.map_or_else(String::new, |code| format!(" with status {code}"));
                Self {
                    kind: ActivityKind::DeliveryAttempt,
                    timestamp: Time(at),
                    subscription_id: subscription_id.0,
                    delivery_id: Some(delivery_id.0),
                    summary: format!("attempt {number} {outcome}{answer}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_nothing_is_null() {
        for (successes, failures, expected) in
            [(0, 0, None), (3, 1, Some(0.75)), (1, 0, Some(1.0)), (0, 9, Some(0.0))]
        {
            assert_eq!(share(successes, failures), expected);
        }
    }
}
