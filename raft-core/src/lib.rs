//! Raft as a pure, deterministic state machine: messages and ticks in, work to do out.
//!
//! # What Raft is
//!
//! Several machines are to look like one that does not fail. They keep a *log* of commands, identical on all of them;
//! whoever applies the same commands in the same order ends in the same state. Raft keeps the logs identical:
//!
//! - **One leader at a time.** Time is cut into *terms*. In each, at most one node gets the votes of a majority and leads;
//!   any two majorities share a node, and a node votes once a term. (`raft/election.rs`)
//! - **The log flows from the leader.** It appends what it is asked to and sends it to the others. Each message names
//!   the entry before the new ones; a follower that does not have that entry refuses, and the leader goes back until
//!   they agree. (`raft/leader.rs`, `raft/follower.rs`, [`tracker`])
//! - **Committed is what a majority holds.** Such an entry survives: a node whose log lacks it gets no majority's votes.
//!   That only holds for entries of the leader's own term, so it counts only those. (`log/mod.rs`, maybe_commit)
//! - **Members change through the log too**, one change at a time, or by way of a *joint* configuration in which both the
//!   old and the new majority must agree. (`raft/membership.rs`, [`confchange`], [`quorum`])
//! - **A log does not grow for ever.** A *snapshot* of the state stands for its beginning; who lags too far behind gets
//!   that instead. (`raft/follower.rs`, [`Storage`])
//! - **Reads need no log entry**, but the leader must know that it still is one. (`raft/read_index.rs`)
//!
//! Papers: Ongaro & Ousterhout, *In Search of an Understandable Consensus Algorithm* (extended version), "Raft paper" in
//! the comments, and Ongaro's dissertation, "thesis". The semantics are those of etcd's raft package, and files carry its
//! names, so that either can be read beside the other.
//!
//! # How it is used
//!
//! [`RawNode`] is the whole machine. Its owner ticks it, hands it messages and proposals, and carries out the
//! [`Ready`]s that it makes; it never touches a disk, a socket, a clock or a random number source itself. That is why it
//! can be tested to the bone: same configuration, same seed, same inputs, same outputs, bit for bit.
//!
//! ```
//! use raft_core::{Config, MemoryStorage, Peer, RawNode};
//!
//! # fn main() -> Result<(), raft_core::Error> {
//! let mut node = RawNode::bootstrap(Config::new(1), MemoryStorage::new(), &[Peer { id: 1, ..Peer::default() }])?;
//! let mut applied = Vec::new();
//! while !applied.contains(&"hello".into()) {
//!     node.tick()?; // a timer's business, ten times a second or so
//!     let _ = node.propose("hello"); // dropped, with a reason, until the node leads
//!     while node.has_ready() {
//!         let mut ready = node.ready()?;
//!         for _to_send_at_once in ready.take_messages() {}
//!         node.storage_mut().append(ready.entries())?; // a real node writes these …
//!         if let Some(hard_state) = ready.hard_state() {
//!             node.storage_mut().set_hard_state(hard_state); // … and this to its disk, and waits for it
//!         }
//!         let mut persisted = ready.persisted();
//!         for _to_send_now in persisted.take_messages() {}
//!         for entry in persisted.take_committed_entries() {
//!             if entry.is_conf_change() {
//!                 node.apply_conf_change(raft_core::ConfChangeKind::decode(&entry)?)?;
//!             } else {
//!                 applied.push(entry.data);
//!             }
//!         }
//!         node.advance(persisted)?;
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The types keep the order of that loop: promises and committed entries can only be had from a
//! [`Persisted`], and there is no next `Ready` before [`RawNode::advance`]. [`Node`] (feature `node`) is the same machine
//! behind a thread and channels; [`testing::Cluster`] is a whole cluster in one place.
//!
//! # Contracts
//!
//! - **No panic** on anything that a peer, a disk or a caller can do: faults are [`Error`]s. What etcd answers by ending
//!   the process is a typed error here; [`Error::is_fatal`] tells when the node must be stopped.
//! - **No order is left to chance**: ids are visited ascending, there is no hash map.
//! - **Every difference from etcd** is listed in `DIVERGENCE.md`, with its reason.
//!
//! # Features
//!
//! `log` (default): etcd's log lines through the `log` facade. `node` (off by default, for it brings two more crates):
//! [`Node`], the only thread in this crate.
//!
//! # What is left out
//!
//! The log on disk (crate `wal`), the network, timers, and the application. Witnesses, priorities, group commit and
//! asynchronous log fetches, which other implementations have, are not there.
#![forbid(unsafe_code)]
#![cfg_attr(not(feature = "node"), allow(rustdoc::broken_intra_doc_links))]

#[macro_use]
mod logging;
#[macro_use]
#[cfg_attr(raft_bug_zoo, doc(hidden))]
pub mod zoo;

pub mod confchange;
mod config;
pub mod describe;
mod entries;
mod error;
#[cfg(test)]
mod fuzz;
mod log;
#[cfg(feature = "node")]
mod node;
pub mod pb;
pub mod quorum;
mod raft;
mod raw_node;
mod ready;
mod rng;
mod status;
mod storage;
pub mod testing;
pub mod tracker;
mod wire;

pub use confchange::ConfChangeKind;
pub use config::{is_local_thread, Config, ReadOnlyOption, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, NONE, NO_LIMIT};
pub use error::{ConfChangeRefusal, DropReason, Error};
#[cfg(feature = "node")]
pub use node::{Node, TICK_BACKLOG};
pub use raft::validate::{is_local as is_local_message, is_response as is_response_message};
pub use raft::{ReadState, SoftState, StateType};
pub use raw_node::{Peer, RawNode, SnapshotStatus};
pub use ready::{Persisted, Ready};
pub use status::{BasicStatus, Status};
pub use storage::{MemoryStorage, Storage, StorageError};
