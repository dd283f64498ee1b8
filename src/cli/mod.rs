//! Commands beside `serve`, one file each.

pub mod demo;
pub mod keys;
pub mod listen;
pub mod migrate;
pub mod receiver;
pub mod secrets;
