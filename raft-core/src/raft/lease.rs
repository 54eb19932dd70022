//! Leases: for how long a leader may answer reads alone, and the promise of its followers that makes it so (Raft thesis
//! §6.4.1). Only with [`ReadOnlyOption::LeaseBased`](crate::ReadOnlyOption::LeaseBased); all of this stays untouched
//! otherwise.
//!
//! Each heartbeat carries the leader's clock, in ticks. A follower that answers it promises: for an election timeout of
//! my own ticks I shall not help to depose you, whatever happens to me: also as a candidate, in a later term, and after
//! a restart, which begins with such a promise because nobody remembers an older one. The leader finds the latest beat
//! that a quorum has answered; from when that was *sent*, it may read alone for [`lease_ticks`]. A new leader needs a
//! vote of that quorum, and gets it later. Without a lease a read takes the usual round of heartbeats, so what the
//! option costs is never more than what it saves.
//!
//! A transfer of leadership passes over promises, and its request may arrive late. So a leader that has ever begun one
//! has no lease any more while it leads.
//!
//! **Clocks.** An election timeout of `n` ticks is at least `n - 1` whole ticks long, because the first one may come at
//! once; a lease is nine tenths of that. So leases are safe as long as no node's tick is more than 10/9 as long as
//! another's. A leader whose clock stands still (a stopped process, a paused machine) must be given the ticks that it
//! missed before it is given reads.
//!
//! Left out: a lease before the first round of heartbeats, from the votes or appends of an election.

use std::collections::BTreeMap;

use crate::quorum::JointConfig;

/// One node's clock, what it promised by it, and, on a leader, what it was promised.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Lease {
    /// Ticks since the start, from 1: 0 is never.
    now: u64,
    /// This node helps nobody to depose a leader before that.
    promised_until: u64,
    /// For each member, when the newest heartbeat that it answered was sent.
    answered: BTreeMap<u64, u64>,
    /// Leadership was to be handed over at some time: nothing that was promised counts.
    is_void: bool,
}

/// How long a lease is.
fn lease_ticks(election_tick: usize) -> u64 {
    let whole = election_tick.saturating_sub(1) as u64;
    whole - whole.div_ceil(10)
}

impl Lease {
    pub(super) fn new() -> Self {
        Lease { now: 1, promised_until: 0, answered: BTreeMap::new(), is_void: false }
    }

    pub(super) fn tick(&mut self) {
        self.now += 1;
    }

    /// What a heartbeat carries.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// A follower's promise, made by an answer to a heartbeat, or by a start.
    pub(super) fn promise(&mut self, election_tick: usize) {
        self.promised_until = self.now.saturating_add(election_tick as u64);
    }

    /// Whether a promise stands.
    pub(super) fn is_promised(&self) -> bool {
        self.now < self.promised_until && !bug!(ForgetPromise)
    }

    /// `from` has answered the heartbeat that was sent at `sent`.
    pub(super) fn hears(&mut self, from: u64, sent: u64) {
        let newest = self.answered.entry(from).or_default();
        *newest = sent.max(*newest);
    }

    /// A transfer begins.
    pub(super) fn give_up(&mut self) {
        self.is_void = !bug!(LeaseOutlivesTransfer);
    }

    /// A leadership begins or ends. The node's own promise stays.
    pub(super) fn reset(&mut self) {
        self.answered.clear();
        self.is_void = false;
    }

    /// Whether the leader `own` may answer a read alone now.
    pub(super) fn holds(&mut self, own: u64, voters: &JointConfig, election_tick: usize) -> bool {
        self.hears(own, self.now);
        let begun = voters.committed_index(&self.answered);
        let in_time = begun > 0 && self.now < begun.saturating_add(lease_ticks(election_tick));
        !self.is_void && (in_time || bug!(LeaseNeverEnds))
    }
}
