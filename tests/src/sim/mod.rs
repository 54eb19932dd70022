//! The deterministic simulator: real `raft-core`, real `wal` on a [`fault disk`](crate::fault_disk), real `kvstore`; a
//! simulated network and a simulated clock. One seed is one history.
//!
//! ```text
//!   plan       what a seed decides: settings, faults, rates           network   links, and what a node does with a message
//!   world      clock, queue of events, machines, starts and crashes   clients   writes and reads, and their answers
//!   drive      a node's ready loop, in both storage modes             nemesis   what goes wrong, and when
//!   journal    a node's log and snapshots, in the order that counts   finish    the faults stop: does it serve again?
//!   invariants what must hold after every step                       marks     places that a run must have been at
//!   campaign   many seeds on several threads; shrinking a failure
//! ```
//!
//! A history has a part with faults and an end without. After every step, the invariants look at what the node did that
//! took it. A failure is a [`Failure`]: it names the invariant, and [`Order::command`] runs it again.
//!
//! What is left out: bytes that change on the disk by themselves (`tests/wal_mutations.rs` has those), messages that no
//! correct node sends (`raft-core`'s own fuzz has those), lost data directories, and real processes.

pub mod campaign;
mod clients;
mod drive;
pub mod finish;
pub mod invariants;
mod journal;
pub mod marks;
mod nemesis;
mod network;
mod node;
pub mod plan;
pub mod shadow;
mod world;

use std::collections::HashSet;
use std::panic::{catch_unwind, AssertUnwindSafe};

pub use invariants::Violation;
use marks::Marks;
use plan::{Order, Plan, TICK_MS};
use world::World;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that were sent.
    pub messages: u64,
    /// Messages that nodes took in.
    pub delivered: u64,
    /// Processes that ended and were started again from their disks.
    pub crashes: u64,
    /// Terms that had a leader.
    pub elections: u64,
    /// Committed entries.
    pub commits: u64,
    /// Snapshots taken and taken over.
    pub snapshots: u64,
    /// Configuration changes that were applied, or passed over.
    pub conf_changes: u64,
    /// Acknowledged writes.
    pub writes: u64,
    /// Served reads.
    pub reads: u64,
    /// Simulated milliseconds.
    pub milliseconds: u64,
    /// Ticks of single nodes.
    pub node_ticks: u64,
    /// Different entries that were ever written.
    pub entries: u64,
}

impl Stats {
    /// Adds another history's.
    pub fn add(&mut self, other: &Stats) {
        let pairs = [
            (&mut self.messages, other.messages),
            (&mut self.delivered, other.delivered),
            (&mut self.crashes, other.crashes),
            (&mut self.elections, other.elections),
            (&mut self.commits, other.commits),
            (&mut self.snapshots, other.snapshots),
            (&mut self.conf_changes, other.conf_changes),
            (&mut self.writes, other.writes),
            (&mut self.reads, other.reads),
            (&mut self.milliseconds, other.milliseconds),
            (&mut self.node_ticks, other.node_ticks),
            (&mut self.entries, other.entries),
        ];
        for (own, other) in pairs {
            *own += other;
        }
    }
}

/// A history that kept its promises.
#[derive(Clone, Debug)]
pub struct History {
    /// What was counted.
    pub stats: Stats,
    /// Where it has been.
    pub marks: Marks,
    /// A digest of everything that happened.
    pub trace: u64,
    /// Digests of the situations that the cluster was in.
    pub situations: HashSet<u64>,
}

/// A history that did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was ordered.
    pub order: Order,
    /// Which promise was broken, or what panicked.
    pub violation: Violation,
    /// When: simulated milliseconds.
    pub at_ms: u64,
}

/// Runs one history.
pub fn run(order: &Order) -> Result<History, Failure> {
    let mut now = 0;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let plan = Plan::draw(order);
        let mut world = World::new(plan);
        let end = world.plan.ticks * TICK_MS;
        let result = world.run_until(end).and_then(|()| world.finish());
        now = world.now;
        result.map(|()| world.history())
    }));
    let violation = match result {
        Ok(Ok(history)) => return Ok(history),
        Ok(Err(violation)) => violation,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
            Violation { invariant: "no panic", what: text.to_string() }
        }
    };
    Err(Failure { order: order.clone(), violation, at_ms: now })
}

impl World {
    fn history(mut self) -> History {
        self.stats.elections = self.invariants.election_safety.count() as u64;
        self.stats.commits = self.invariants.state_machine_safety.last();
        self.stats.entries = self.invariants.log_matching.count() as u64;
        self.stats.milliseconds = self.now;
        let trace = shadow::fold(self.trace, self.stats.messages ^ self.stats.commits << 32);
        History { stats: self.stats, marks: self.marks, trace, situations: self.situations }
    }
}
