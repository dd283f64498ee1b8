//! What decides in Posthorn: its words and its rules, without I/O, clock, randomness or async.
//!
//! Start with [`lane`], the state machine that says for one subscription which delivery may be
//! sent now. What it is made of: [`retry`], [`circuit`] and [`concurrency`] (when, how many at
//! once), [`delivery`] and [`subscription`]
//! (what), [`limits`] (how much of anything), [`waiting`]
//! (why not now). At the edges, [`target`] and [`address`] say where a
//! delivery may go, [`header`] and [`payload`] what may come in, [`hops`] how often it may come round,
//! [`signature`] how both ends prove who they are, [`api_key`] what opens the API, and [`strength`] which
//! keys are no keys. How its connections are bounded: [`connections`] (how many), [`byte_budget`] (how much
//! waits in memory), [`transfer`] (how slow), [`framing`] (line ends). [`terminal`] makes text of strangers safe
//! to print. [`views`] are what people are shown.

pub mod address;
pub mod api_key;
pub mod asymmetric;
pub mod audit;
pub mod byte_budget;
pub mod certificate;
pub mod circuit;
pub mod cluster;
pub mod concurrency;
pub mod connections;
pub mod delivery;
pub mod egress;
pub mod encryption_key;
pub mod fair_queue;
pub mod forward;
pub mod foyer;
pub mod framing;
pub mod give_up;
pub mod header;
pub mod hops;
pub mod id;
pub mod intake_queue;
pub mod lane;
pub mod limits;
pub mod payload;
pub mod places;
pub mod retry;
pub mod rotation;
pub mod signature;
pub mod stock;
pub mod stored_bytes;
pub mod strength;
pub mod subscription;
pub mod target;
pub mod tenant;
pub mod terminal;
pub mod time;
pub mod transfer;
pub mod views;
pub mod waiting;
