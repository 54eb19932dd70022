//! Raft as a pure, deterministic state machine.
#![forbid(unsafe_code)]

pub mod confchange;
pub mod describe;
pub mod pb;
pub mod quorum;
pub mod tracker;
