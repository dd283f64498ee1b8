//! Posthorn.

pub mod cache;
pub mod clock;
pub mod dispatch;
pub mod sender;
pub mod store;
