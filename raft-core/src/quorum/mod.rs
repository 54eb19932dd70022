//! Quorums: when is something agreed on?
//!
//! Raft asks two questions of a set of voters, and this module answers both without knowing anything else about Raft:
//!
//! - *Up to which index has a quorum acknowledged the log?* That index may be committed (Raft paper, §5.3 and §5.4).
//! - *Is this election won, lost, or still open?* (§5.2)
//!
//! A [`MajorityConfig`] answers them for one set of voters. While the membership changes, two sets are in force and
//! both must agree (§6, "joint consensus"; Ongaro's thesis §4.3): that is a [`JointConfig`]. Outside of a change its
//! second half is empty, and an empty set agrees with everything: it commits `u64::MAX` and wins each vote, so that
//! the joint rules (the smaller index, both votes) need no special case.
//!
//! Compare etcd's `raft/quorum`. Left out: raft-rs' group commit, and witnesses.

mod id_set;
mod joint;
mod majority;

use std::fmt;

pub use id_set::IdSet;
pub use joint::JointConfig;
pub use majority::MajorityConfig;

/// Tells up to which index each voter has acknowledged the log.
pub trait AckedIndexer {
    /// The highest index that the voter is known to hold durably; `None` if nothing was ever heard from it.
    fn acked_index(&self, id: u64) -> Option<u64>;
}

impl AckedIndexer for std::collections::BTreeMap<u64, u64> {
    fn acked_index(&self, id: u64) -> Option<u64> {
        self.get(&id).copied()
    }
}

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VoteResult {
    /// Neither side has a quorum yet, and either may still get one.
    Pending,
    /// So many voters refused that a quorum can no longer be reached.
    Lost,
    /// A quorum granted its vote.
    Won,
}

impl fmt::Display for VoteResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VoteResult::Pending => "VotePending",
            VoteResult::Lost => "VoteLost",
            VoteResult::Won => "VoteWon",
        })
    }
}

/// Prints a committed index; the one that an empty quorum answers reads as infinity.
pub fn describe_index(index: u64) -> String {
    if index == u64::MAX {
        "∞".to_string()
    } else {
        index.to_string()
    }
}

#[cfg(test)]
mod tests;
