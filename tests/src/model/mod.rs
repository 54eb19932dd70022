//! A model check of the implementation itself: every state that small clusters of real [`RawNode`]s can reach.
//!
//! Other projects check a *model* of Raft, written a second time in another language, and hope that the code does the
//! same. Here the states are the nodes: a step clones a [`RawNode`] with its storage and calls it as an application
//! would. The search is breadth-first, so the path to a violation is the shortest one there is. It is printed as a story
//! and as a command that plays it again.
//!
//! ```text
//! cargo run --release -p tests --bin model                              all scenarios
//! cargo run --release -p tests --bin model -- --scenario reads --states 2000000
//! cargo run --release -p tests --bin model -- --scenario reads --replay 0.3.1.7
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `scenario.rs` | what is searched: the nodes, their settings, how it begins, and how much of what may happen |
//! | `state.rs` | a state, its hash, and what may happen in it |
//! | `step.rs` | what an event does |
//! | `history.rs` | what a state does not show and the invariants need: who led, who voted, what was committed |
//! | `invariants.rs` | what must hold in every state; each says where it comes from |
//! | `search.rs` | the search, on several threads |
//! | `story.rs` | paths, for people |
//!
//! # What happens in it
//!
//! Any node campaigns; messages arrive in any order, twice or never; nodes crash and come back with what was durable,
//! before, during and after the writing of a [`Ready`]; leaders take proposals, reads, configuration changes (simple,
//! joint, learners) and transfers; logs are compacted and snapshots sent. Each kind of event has a budget, which is what
//! makes the search finite; it is part of the state. A message that is never delivered is a lost one; `drop` exists
//! because the network holds a bounded number of messages: steps beyond it are cut off, and the summary counts them.
//!
//! # What is a state
//!
//! Every field of every node (`Hash` is derived, so the compiler keeps it complete), the durable storage, the outstanding
//! [`Ready`] or the storage threads' queues, the application, the set of messages under way, the budgets, and the
//! history. Visited states are kept as 128-bit hashes with a link to where they came from; of the states themselves only
//! the present layer is in memory. `tests/tests/model.rs` proves on thousands of pairs that states with equal hashes show
//! equal fields and behave equally.
//!
//! # What is abstracted
//!
//! - The drawn election timeouts: a campaign may come at any time, so the generator and the drawn timeout are put at fixed
//!   values ([`RawNode::forget_history`]), as is the count of Readys. Where leases matter a scenario has ticks, which count
//!   for real.
//! - Two equal messages under way are one: to arrive twice is an event of its own.
//! - A crashed node is back at once. Being away is the same as hearing nothing.
//! - The numbering of nodes: states that differ only in the names of the nodes count as different.
//!
//! Left out: storage that fails (raft-core's own tests), flow control's windows beyond what a handful of entries fill, and
//! reads by lease. Those rest on clocks that run nearly alike, and here a node may tick as often as its budget lets it while
//! another does not. What is checked of leases here is that they, quorum checks and pre-votes do no harm (scenario
//! `leases`). That nobody breaks the promise which such a read rests on, and that a leader which answers alone is the newest
//! there is, the simulator sees to, whose clocks are as far apart as they may be (`sim/invariants/lease.rs`), and
//! `raft-core`'s tests, rule by rule (`raft/tests/leases.rs`). The zoo's `LeaseNeverEnds`, `LeaseOutlivesTransfer`,
//! `ForgetPromise` and `PromiseEndsWithTerm` prove that they would find it out.
//!
//! [`RawNode`]: raft_core::RawNode
//! [`RawNode::forget_history`]: raft_core::RawNode::forget_history
//! [`Ready`]: raft_core::Ready

mod history;
mod invariants;
pub mod scenario;
pub mod search;
pub mod state;
mod step;
pub mod story;

pub use scenario::{scenarios, Scenario};
pub use search::{search, Limits, Report, Violation};
pub use state::{Event, State};
pub use step::Outcome as Step;
