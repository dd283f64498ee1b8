//! The tables as sea-orm sees them. Nothing outside `store` does.

pub(super) mod api_keys;
pub(super) mod audit_log;
pub(super) mod delivery_attempts;
pub(super) mod lane_health;
pub(super) mod subscriptions;
pub(super) mod tenants;
pub(super) mod webhook_deliveries;
