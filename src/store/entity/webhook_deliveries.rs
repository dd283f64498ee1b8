//! `webhook_deliveries`: one event on its way to one subscription.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "webhook_deliveries")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub subscription_id: Uuid,
    pub event_id: Uuid,
    pub replay_of: Option<Uuid>,
    pub sequence: i64,
    pub status: i16,
    pub ordering_key: Option<String>,
    pub idempotency_key: Option<String>,
    pub attempt_count: i32,
    pub retry_base: i32,
    pub next_attempt_at_ms: Option<i64>,
    pub error: Option<String>,
    pub created_at_ms: i64,
    pub completed_at_ms: Option<i64>,
    /// The subscription's version by which its retry was planned; see `lane_wide.rs`.
    pub planned_version: Option<i64>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
