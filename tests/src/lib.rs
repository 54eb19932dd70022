//! Harnesses that the cross-crate tests share. Nothing here is shipped.
//!
//! - [`cluster`]: real `raftexample` processes, driven over HTTP and ended by process id.
#![forbid(unsafe_code)]

pub mod cluster;
