//! Posthorn.

pub mod cache;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod sender;
pub mod store;
pub mod telemetry;
