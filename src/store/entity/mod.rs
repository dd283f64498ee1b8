//! The tables as sea-orm sees them. Nothing outside `store` does.

pub(super) mod delivery_attempts;
pub(super) mod lane_health;
pub(super) mod subscriptions;
pub(super) mod tenants;
pub(super) mod webhook_deliveries;
