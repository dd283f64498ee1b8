//! Posthorn delivers webhooks: in order, at least once, at the pace each endpoint can bear.
//!
//! [`app`] builds and connects the parts. An event comes in through [`http`] and [`api`], is stored by
//! [`store`], kept at hand by [`cache`], sent in its turn by [`dispatch`] through [`sender`], and
//! the outcome is stored again. What decides stands in the crate `posthorn-domain`, without I/O.
//! [`config`], [`telemetry`] and [`clock`] serve them all; [`cli`] holds the commands beside
//! `serve`. `ARCHITECTURE.md` says where everything is and why.

pub mod api;
pub mod app;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod http;
pub mod sender;
pub mod service;
pub mod store;
pub mod telemetry;
