//! Leases: who has heard from a leader within an election timeout does not help to depose it, and a leader that has not
//! heard from a quorum for two of them leads no more. Thesis §4.2.3 and §6.2; etcd `raft.go`, checkQuorum.
//!
//! Where reads rely on leases, two rules more. Who has answered a heartbeat, or has just started, keeps its promise for an
//! election timeout of its own ticks: whatever happens to it meanwhile, it votes for nobody and does not stand itself.
//! And a leader that answers a read without asking anybody is the newest leader there is. Thesis §6.4.1;
//! `raft-core/src/raft/lease.rs`. The second rule is looked at in every history: a leader without a lease may answer so
//! if it is the only voter.

use std::collections::BTreeMap;

use raft_core::quorum::VoteResult;
use raft_core::tracker::Config;
use raft_core::StateType;

use super::{ensure, Verdict};

const NAME: &str = "lease";

/// One node's, counted in its own ticks.
#[derive(Debug, Default)]
pub struct Lease {
    ticks: u64,
    /// When it last heard from the leader that it follows.
    heard_leader: Option<u64>,
    /// When it last heard from each of the others while leading.
    heard: BTreeMap<u64, u64>,
    /// When it began to lead, or to lead under this configuration, or was last asked to hand over.
    since: Option<u64>,
    /// When it last made the promise that reads rely on.
    promised: Option<u64>,
}

/// What a node is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stance {
    /// Its term.
    pub term: u64,
    /// Its vote.
    pub vote: u64,
    /// Its role.
    pub role: StateType,
    /// The leader that it knows, or 0.
    pub lead: u64,
}

impl Lease {
    /// The node's clock ticks.
    pub fn tick(&mut self) {
        self.ticks += 1;
    }

    /// It takes word from the leader of its term.
    pub fn hears_leader(&mut self) {
        self.heard_leader = Some(self.ticks);
    }

    /// It leads and takes an answer from `from`.
    pub fn hears(&mut self, from: u64) {
        self.heard.insert(from, self.ticks);
    }

    /// It begins to lead, or its configuration changes: newcomers count as heard.
    pub fn begins(&mut self) {
        self.since = Some(self.ticks);
        self.heard.clear();
    }

    /// It leads and is asked to hand over: as in etcd, that restarts the clock by which it checks for a quorum.
    pub fn restarts(&mut self) {
        self.since = Some(self.ticks);
    }

    /// It answers a heartbeat on which a lease may rest, or it starts and may have done so before.
    pub fn promises(&mut self) {
        self.promised = Some(self.ticks);
    }

    /// Whether the promise stands.
    pub fn is_promised(&self, election_tick: usize) -> bool {
        self.promised.is_some_and(|at| self.ticks - at < election_tick as u64)
    }

    /// It stands for election, and not because its leader asked it to.
    pub fn check_campaign(&self, id: u64, election_tick: usize) -> Verdict {
        ensure(NAME, !self.is_promised(election_tick), || {
            format!("node {id} campaigns and has promised a leader not to: {self:?}")
        })
    }

    /// A leader of `term` answered a read and heard from nobody since it was asked; `newest` is the latest term that ever
    /// had a leader.
    pub fn check_read(id: u64, term: u64, newest: u64) -> Verdict {
        ensure(NAME, newest <= term, || {
            format!("node {id}, which leads term {term}, answers a read alone, and term {newest} has a leader")
        })
    }

    /// Whether it must ignore requests for its vote.
    pub fn holds(&self, now: Stance, election_tick: usize) -> bool {
        match (now.role, self.heard_leader) {
            (StateType::Leader, _) => true,
            (_, Some(heard)) if now.lead != 0 => self.ticks - heard < election_tick as u64,
            _ => false,
        }
    }

    /// While its lease held, it took a request for a vote in a later term that was no leader's own wish.
    pub fn check_request(id: u64, before: Stance, after: Stance) -> Verdict {
        ensure(NAME, before == after, || {
            format!("node {id} has heard from its leader lately, and a request for its vote moves it from {before:?} to {after:?}")
        })
    }

    /// It leads, with its lease checked, under this configuration.
    pub fn check_leader(&self, id: u64, config: &Config, election_tick: usize) -> Verdict {
        let limit = 2 * election_tick as u64 + 1;
        let Some(since) = self.since else { return Ok(()) };
        if self.ticks - since <= limit {
            return Ok(());
        }
        let heard = |other: u64| {
            let lately = self.heard.get(&other).is_some_and(|at| self.ticks - at <= limit);
            Some(other == id || lately)
        };
        ensure(NAME, config.voters.vote_result(heard) == VoteResult::Won, || {
            format!("node {id} leads though it has not heard from a quorum of {config} for {limit} ticks: {self:?}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_lease_is_found() {
        let before = Stance { term: 3, vote: 1, role: StateType::Follower, lead: 1 };
        let mut lease = Lease::default();
        assert!(!lease.holds(before, 10), "nothing heard yet");
        lease.hears_leader();
        (0..9).for_each(|_| lease.tick());
        assert!(lease.holds(before, 10));
        assert!(!lease.holds(Stance { lead: 0, ..before }, 10));
        lease.tick();
        assert!(!lease.holds(before, 10));
        assert_eq!(Lease::check_request(1, before, before), Ok(()));
        assert!(Lease::check_request(1, before, Stance { term: 4, vote: 0, lead: 0, ..before }).is_err());
    }

    #[test]
    fn a_broken_promise_and_a_lease_that_is_over_are_found() {
        let mut lease = Lease::default();
        assert!(!lease.is_promised(10));
        lease.promises();
        (0..9).for_each(|_| lease.tick());
        assert!(lease.is_promised(10) && lease.check_campaign(1, 10).is_err());
        lease.tick();
        assert_eq!(lease.check_campaign(1, 10), Ok(()));
        assert_eq!(Lease::check_read(1, 7, 7), Ok(()));
        assert!(Lease::check_read(1, 7, 8).is_err());
    }

    #[test]
    fn a_leader_without_a_quorum_is_found() {
        let mut config = Config::default();
        config.voters.incoming = [1, 2, 3].into_iter().collect();
        let mut lease = Lease::default();
        lease.begins();
        (0..21).for_each(|_| lease.tick());
        assert_eq!(lease.check_leader(1, &config, 10), Ok(()));
        lease.tick();
        assert!(lease.check_leader(1, &config, 10).is_err());
        lease.hears(3);
        assert_eq!(lease.check_leader(1, &config, 10), Ok(()));
        lease.hears(9);
        lease.restarts();
        (0..21).for_each(|_| lease.tick());
        assert_eq!(lease.check_leader(1, &config, 10), Ok(()));
        (0..30).for_each(|_| lease.tick());
        assert!(lease.check_leader(1, &config, 10).is_err());
    }
}
