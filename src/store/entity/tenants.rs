//! `tenants`: what each may use; no row where nobody configured it.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "tenants")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub requests_per_second: Option<f64>,
    pub burst: Option<i32>,
    pub max_in_flight: Option<i32>,
    pub ingest_per_second: Option<f64>,
    pub ingest_burst: Option<i32>,
    pub max_subscriptions: Option<i32>,
    pub max_stored_bytes: Option<i64>,
    pub control_per_second: Option<f64>,
    pub control_burst: Option<i32>,
    pub version: i64,
    pub updated_at_ms: i64,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
