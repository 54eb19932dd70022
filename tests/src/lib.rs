//! Harnesses that the cross-crate tests share. Nothing here is shipped.
//!
//! - [`cluster`]: real `raftexample` processes, driven over HTTP and ended by process id.
//! - [`datadriven`]: test files made of commands and of what was seen when they ran.
//! - [`interaction`]: a cluster in one process that does only what such a file tells it. [`quorum_traces`] and
//!   [`confchange_traces`] do the same for the arithmetic below it.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod confchange_traces;
pub mod datadriven;
pub mod interaction;
pub mod quorum_traces;
