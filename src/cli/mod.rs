//! Commands beside `serve`, one file each.

pub mod listen;
pub mod receiver;
