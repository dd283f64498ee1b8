//! `subscriptions`: configuration and standing. A deleted one stays until its deliveries are gone.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "subscriptions")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub tenant: String,
    pub target_url: String,
    pub description: Option<String>,
    pub headers: String,
    pub ordering: i16,
    pub max_in_flight: Option<i32>,
    pub requests_per_second: Option<f64>,
    pub burst: Option<i32>,
    pub max_retries: Option<i32>,
    pub retry_delay_ms: Option<i64>,
    pub retry_delay_max_ms: Option<i64>,
    pub on_exhausted: Option<i16>,
    pub timeout_ms: Option<i64>,
    pub secret_key: Option<String>,
    pub signing_secret: String,
    pub previous_signing_secret: Option<String>,
    pub previous_signing_until_ms: Option<i64>,
    pub status: i16,
    pub status_reason: Option<i16>,
    pub version: i64,
    pub endpoint_version: i64,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    pub deleted_at_ms: Option<i64>,
    /// Which key the secrets are encrypted with; none: they stand in clear.
    pub sealed_by: Option<String>,
    /// 0 or 1. Entries of the cache that are older than the column go without.
    #[serde(default)]
    pub asymmetric_signature: i16,
    #[serde(default)]
    pub client_certificate: Option<String>,
    #[serde(default)]
    pub retries_version: i64,
    /// JSON: pairs of a secret and its end, those replaced before `previous_signing_secret`.
    #[serde(default)]
    pub replaced_signing_secrets: Option<String>,
    /// JSON: pairs of a key and its end.
    #[serde(default)]
    pub replaced_secret_keys: Option<String>,
    /// JSON: words.
    #[serde(default)]
    pub give_up_on: Option<String>,
    /// JSON: names.
    #[serde(default)]
    pub forward_headers: Option<String>,
    #[serde(default)]
    pub idempotency_header: Option<String>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(has_one = "super::lane_health::Entity")]
    Health,
}

impl Related<super::lane_health::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Health.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
