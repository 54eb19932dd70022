//! Two sets of voters that must both agree, while the membership moves from one to the other.

use std::fmt;

use super::{AckedIndexer, IdSet, MajorityConfig, VoteResult};

/// The voters in force: one half, or two while a membership change is under way (Raft paper, §6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct JointConfig {
    /// The voters that will remain.
    pub incoming: MajorityConfig,
    /// The voters of before the change; empty unless a change is under way.
    pub outgoing: MajorityConfig,
}

impl JointConfig {
    /// Voters with no change under way.
    pub fn simple(incoming: MajorityConfig) -> Self {
        JointConfig { incoming, outgoing: MajorityConfig::new() }
    }

    /// Whether two halves are in force.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the id votes in either half.
    pub fn contains(&self, id: u64) -> bool {
        self.incoming.contains(id) || self.outgoing.contains(id)
    }

    /// The voters of both halves.
    pub fn ids(&self) -> IdSet {
        self.incoming.ids().union(self.outgoing.ids())
    }

    /// The highest index that a majority of each half has acknowledged.
    pub fn committed_index(&self, acked: &impl AckedIndexer) -> u64 {
        if bug!(JointCommitsOneHalf) {
            return self.incoming.committed_index(acked);
        }
        self.incoming.committed_index(acked).min(self.outgoing.committed_index(acked))
    }

    /// How an election stands: it takes both halves to win, one to lose.
    pub fn vote_result(&self, vote: impl Fn(u64) -> Option<bool>) -> VoteResult {
        match (self.incoming.vote_result(&vote), self.outgoing.vote_result(&vote)) {
            (incoming, _) if bug!(JointElectsOneHalf) => incoming,
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }

    /// Draws the acknowledged indexes of all voters; see [`MajorityConfig::describe`].
    pub fn describe(&self, acked: &impl AckedIndexer) -> String {
        MajorityConfig::from(self.ids()).describe(acked)
    }
}

impl fmt::Display for JointConfig {
    /// `(1 2 3)`, or `(1 2 3)&&(1 2 4)` while joint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.incoming.fmt(f)?;
        if self.is_joint() {
            write!(f, "&&{}", self.outgoing)?;
        }
        Ok(())
    }
}
