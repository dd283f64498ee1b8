//! `delivery_attempts`: the log of requests made.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "delivery_attempts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub delivery_id: Uuid,
    pub subscription_id: Uuid,
    pub attempt_number: i32,
    pub outcome: i16,
    pub status_code: Option<i16>,
    pub response_body: Option<Vec<u8>>,
    pub error_message: Option<String>,
    pub duration_ms: i64,
    pub attempted_at_ms: i64,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
