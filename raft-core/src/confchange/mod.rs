//! How the membership changes (Raft paper, §6; Ongaro's thesis, chapter 4).
//!
//! A change is an entry in the log, and takes effect on each node when that node *applies* it. There are two ways:
//!
//! - **Simple**: one voter more or less (thesis §4.1). Each majority of the old configuration overlaps with each of the
//!   new one, so both may be in force on different nodes at the same time.
//! - **Joint**: any number of voters (paper §6, thesis §4.3). First a joint configuration in which the *incoming* and
//!   the *outgoing* voters must both agree, then, by a second entry, the incoming ones alone.
//!
//! A [`Changer`] computes what a membership becomes; [`restore`] rebuilds one from a stored
//! [`ConfState`](crate::pb::ConfState). Neither changes anything in place, and both check the invariants of the result:
//!
//! - each voter and each learner has a [`Progress`](crate::tracker::Progress), and nobody else has one;
//! - learners do not vote in either half, and their progress is marked;
//! - `learners_next` are voters of the outgoing half, not yet learners;
//! - outside of a joint change there is no outgoing half, no `learners_next` and no `auto_leave`.
//!
//! [`ConfChangeKind`] and the methods on the message types say how a change is written: in the log, and for people
//! (`v1 l2 r3 u4`). Compare etcd's `raft/confchange` and `raftpb/confchange.go`; what panics there is a
//! [`ConfChangeError`] here. *Whether* a change may be proposed now is for the leader to decide, not for this module.

mod change;
mod changer;
mod restore;

use std::fmt;

pub use change::{parse_changes, print_changes, ConfChangeKind};
pub use changer::{check_invariants, Changed, Changer};
pub use restore::{equivalent, restore};

/// Why a membership change cannot be carried out, or a membership not be restored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConfChangeError {
    /// A joint change cannot begin inside of another.
    AlreadyJoint,
    /// A joint change cannot begin without voters: the outgoing half would agree with everything.
    ZeroVotersJoint,
    /// There is no joint configuration to leave.
    NotJoint,
    /// Inside of a joint change, no simple one.
    SimpleInJoint,
    /// A simple change changes one voter at most.
    MoreThanOneVoter,
    /// Without voters nothing could ever be decided again.
    RemovedAllVoters,
    /// A [`ConfChangeType`](crate::pb::ConfChangeType) that this version does not know.
    UnknownChangeType(i32),
    /// A [`ConfChangeTransition`](crate::pb::ConfChangeTransition) that this version does not know.
    UnknownTransition(i32),
    /// The membership contradicts itself: which rule is broken, for which id if it is about one.
    Invariant(BrokenInvariant),
    /// The stored membership cannot have been written by this crate: this is what is wrong with it.
    NotRestorable(String),
    /// Neither a change nor empty: the bytes in the log entry do not decode.
    Undecodable(String),
    /// The entry is of a type that carries no change.
    NotAConfChange,
    /// Not of the form `v1 l2 r3 u4`: the word that is not understood.
    BadNotation(String),
}

/// A rule that a membership breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BrokenInvariant {
    /// A member without progress.
    NoProgress(u64),
    /// In `learners_next`, but no voter of the outgoing half.
    NextLearnerNotOutgoing(u64),
    /// In `learners_next`, but its progress is a learner's already.
    NextLearnerIsLearner(u64),
    /// A learner that votes in the incoming half.
    LearnerInIncoming(u64),
    /// A learner that votes in the outgoing half.
    LearnerInOutgoing(u64),
    /// A learner whose progress is a voter's.
    LearnerNotMarked(u64),
    /// `learners_next` outside of a joint change.
    NextLearnersNotJoint,
    /// `auto_leave` outside of a joint change.
    AutoLeaveNotJoint,
}

impl fmt::Display for BrokenInvariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokenInvariant::NoProgress(id) => write!(f, "no progress for {id}"),
            BrokenInvariant::NextLearnerNotOutgoing(id) => write!(f, "{id} is in LearnersNext, but not Voters[1]"),
            BrokenInvariant::NextLearnerIsLearner(id) => {
                write!(f, "{id} is in LearnersNext, but is already marked as learner")
            }
            BrokenInvariant::LearnerInIncoming(id) => write!(f, "{id} is in Learners and Voters[0]"),
            BrokenInvariant::LearnerInOutgoing(id) => write!(f, "{id} is in Learners and Voters[1]"),
            BrokenInvariant::LearnerNotMarked(id) => write!(f, "{id} is in Learners, but is not marked as learner"),
            BrokenInvariant::NextLearnersNotJoint => f.write_str("cfg.LearnersNext must be nil when not joint"),
            BrokenInvariant::AutoLeaveNotJoint => f.write_str("AutoLeave must be false when not joint"),
        }
    }
}

impl fmt::Display for ConfChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfChangeError::AlreadyJoint => f.write_str("config is already joint"),
            ConfChangeError::ZeroVotersJoint => f.write_str("can't make a zero-voter config joint"),
            ConfChangeError::NotJoint => f.write_str("can't leave a non-joint config"),
            ConfChangeError::SimpleInJoint => f.write_str("can't apply simple config change in joint config"),
            ConfChangeError::MoreThanOneVoter => {
                f.write_str("more than one voter changed without entering joint config")
            }
            ConfChangeError::RemovedAllVoters => f.write_str("removed all voters"),
            ConfChangeError::UnknownChangeType(number) => write!(f, "unexpected conf type {number}"),
            ConfChangeError::UnknownTransition(number) => write!(f, "unknown conf change transition {number}"),
            ConfChangeError::Invariant(broken) => broken.fmt(f),
            ConfChangeError::NotRestorable(why) => write!(f, "conf state cannot be restored: {why}"),
            ConfChangeError::Undecodable(why) => write!(f, "conf change does not decode: {why}"),
            ConfChangeError::NotAConfChange => f.write_str("the entry carries no conf change"),
            ConfChangeError::BadNotation(word) => {
                write!(f, "conf change {word:?} is not understood; write v, l, r or u and a node id, like v4")
            }
        }
    }
}

impl std::error::Error for ConfChangeError {}

impl From<BrokenInvariant> for ConfChangeError {
    fn from(broken: BrokenInvariant) -> Self {
        ConfChangeError::Invariant(broken)
    }
}

#[cfg(test)]
mod tests;
