//! Posthorn.

pub mod store;
