//! Harnesses that the cross-crate tests share. Nothing here is shipped.
//!
//! - [`black_box`]: clusters of processes, judged by what their clients saw while everything went wrong.
//! - [`cluster`]: real `raftexample` processes, driven over HTTP and ended by process id.
//! - [`datadriven`]: test files made of commands and of what was seen when they ran.
//! - [`interop`]: the same beside processes of the original Go program, in one cluster.
//! - [`interaction`]: a cluster in one process that does only what such a file tells it. [`quorum_traces`] and
//!   [`confchange_traces`] do the same for the arithmetic below it.
//! - [`fault_disk`]: a disk that knows live from durable, loses what was not synced, and fails when told to.
//! - [`model`]: every state that small clusters can reach, searched breadth-first.
//! - [`tla_trace`]: runs in the trace format of etcd's TLA+ specification.
//! - [`wal_workload`]: work for the log, and what it must hold after each step.
//! - [`linearizability`]: whether what clients saw is possible on one machine that does one thing at a time.
//! - [`sim`]: whole clusters under every fault, from a seed, with what must hold checked after every step.
//! - [`random`]: numbers that look random and are the same in every run.
#![forbid(unsafe_code)]

/// Whether a known mistake is made now: `false`, and gone, in every usual build. See `raft-core/src/zoo.rs`.
#[cfg(not(raft_bug_zoo))]
macro_rules! bug {
    ($name:ident) => {
        false
    };
}

/// Whether a known mistake is made now.
#[cfg(raft_bug_zoo)]
macro_rules! bug {
    ($name:ident) => {
        raft_core::zoo::is_loose(raft_core::zoo::Bug::$name)
    };
}

pub mod black_box;
pub mod cluster;
pub mod confchange_traces;
pub mod datadriven;
pub mod fault_disk;
pub mod interaction;
pub mod interop;
pub mod linearizability;
pub mod model;
pub mod quorum_traces;
pub mod random;
pub mod sim;
pub mod tla_trace;
pub mod wal_workload;
