//! Raft as a pure, deterministic state machine.
#![forbid(unsafe_code)]

pub mod pb;
