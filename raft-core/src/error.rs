//! Everything that can go wrong, as values.
//!
//! What etcd answers by ending the process is an `Err` here. Three groups, told apart by what the caller does next:
//!
//! - **refusals**: the call had no effect, the node is fine ([`Error::ProposalDropped`], [`Error::Malformed`], …);
//! - **misuse**: the calling code broke the contract ([`Error::ReadyNotAdvanced`], [`Error::Config`], …);
//! - **fatal** ([`Error::is_fatal`]): the node must not go on; its log cannot be read or has lost entries.

use std::fmt;

use crate::confchange::ConfChangeError;
use crate::storage::StorageError;

/// Why a call on a node failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// A [`Config`](crate::Config) that cannot work; the text names the field.
    Config(String),
    /// A local message type, which no peer may send.
    StepLocalMessage,
    /// A response from a node that is not in the configuration.
    StepPeerNotFound {
        /// The unknown sender.
        from: u64,
    },
    /// A message that no correct peer sends. Nothing of it was used.
    Malformed {
        /// Its sender, as it says itself.
        from: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The proposal was not taken up and will never be; it may be proposed again.
    ProposalDropped(DropReason),
    /// The configuration change was refused. An empty entry took its place in the log, as in etcd.
    ConfChangeRefused(ConfChangeRefusal),
    /// A configuration change that cannot be decoded, or cannot be applied to the present configuration.
    ConfChange(ConfChangeError),
    /// The read was not taken up; ask again.
    ReadDropped(DropReason),
    /// Leadership is not transferred, because there is no leader who could do it.
    TransferDropped(DropReason),
    /// [`ready`](crate::RawNode::ready) was called while the previous `Ready` was not advanced.
    ReadyNotAdvanced,
    /// [`advance`](crate::RawNode::advance) was called with something else than the outstanding `Ready`, or with
    /// asynchronous storage writes, where responses take its place.
    AdvanceUnexpected,
    /// `bootstrap` or `join` on a storage that already holds a log, or `restart` on an empty one.
    WrongConstructor(&'static str),
    /// The storage holds a hard state whose commit index is beyond its log: committed entries are missing.
    HardStateOutOfRange {
        /// The recorded commit index.
        commit: u64,
        /// The log's last index.
        last: u64,
    },
    /// `applied` in the configuration lies outside of what the log can have applied.
    AppliedOutOfRange {
        /// The configured value.
        applied: u64,
        /// The lowest possible value.
        first: u64,
        /// The commit index.
        committed: u64,
    },
    /// The leader knows that this node had acknowledged `need`, and the log ends at `have`: durable entries were lost
    /// (a wiped or restored data directory, a disk that lied). The node should be stopped; until its log reaches that far again, it
    /// neither votes nor campaigns.
    LogLost {
        /// The last index of the log.
        have: u64,
        /// The index that must be there.
        need: u64,
    },
    /// The leader's log has another entry where this node's log is committed. No leader that this cluster could have
    /// elected has such a log: this node's data is another cluster's.
    LogForeign {
        /// Where they differ.
        index: u64,
        /// The term of this node's entry.
        own_term: u64,
        /// The term of the leader's.
        leader_term: u64,
    },
    /// The storage failed; the node is out of order from here on and answers every call with this.
    Storage(StorageError),
    /// The node's thread has ended.
    Stopped,
}

/// Why a proposal, a read or a transfer was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// This node knows of no leader at present.
    NoLeader,
    /// Followers are configured not to forward proposals to the leader.
    ForwardingDisabled {
        /// The node to ask instead.
        leader: u64,
    },
    /// The leader is no member any more.
    Removed,
    /// Leadership is about to move.
    TransferInProgress {
        /// Where to.
        to: u64,
    },
    /// Too many bytes wait for commit (`max_uncommitted_entries_size`).
    UncommittedLimit,
    /// Too many reads wait for a quorum to confirm them.
    TooManyReads,
}

/// Why a configuration change was refused (etcd `raft.go`, the proposal checks).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfChangeRefusal {
    /// An earlier change may not have been applied yet.
    Pending {
        /// The index up to which an unapplied change may stand.
        index: u64,
        /// How far this node has applied.
        applied: u64,
    },
    /// While joint, only leaving is allowed.
    MustLeaveJoint,
    /// An empty change leaves a joint configuration, and there is none.
    NotJoint,
}

impl Error {
    /// Whether the node must be stopped: it cannot, or must not, take part any more.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Error::Storage(_) | Error::LogLost { .. } | Error::LogForeign { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(what) => write!(f, "bad configuration: {what}"),
            Error::StepLocalMessage => write!(f, "a local message cannot come from a peer; it was not used"),
            Error::StepPeerNotFound { from } => {
                write!(f, "response from node {from:x}, which is not in the configuration; it was not used")
            }
            Error::Malformed { from, what } => write!(f, "message from node {from:x} refused: {what}"),
            Error::ProposalDropped(reason) => write!(f, "proposal dropped: {reason}"),
            Error::ConfChangeRefused(reason) => write!(f, "configuration change refused: {reason}"),
            Error::ConfChange(error) => write!(f, "configuration change failed: {error}"),
            Error::ReadDropped(reason) => write!(f, "read dropped: {reason}"),
            Error::TransferDropped(reason) => write!(f, "leadership transfer dropped: {reason}"),
            Error::ReadyNotAdvanced => write!(f, "the previous Ready was not advanced; pass it to advance() first"),
            Error::AdvanceUnexpected => write!(f, "there is no such Ready to advance"),
            Error::WrongConstructor(what) => f.write_str(what),
            Error::HardStateOutOfRange { commit, last } => write!(
                f,
                "the stored commit index {commit} is beyond the log's last index {last}: committed entries are \
                 missing; restore the missing log or snapshot, or remove this node from the cluster and add it again \
                 under a new id"
            ),
            Error::AppliedOutOfRange { applied, first, committed } => {
                write!(f, "applied index {applied} is outside of [{first}, {committed}]")
            }
            Error::LogLost { have, need } => write!(
                f,
                "this node's log ends at {have}, but it had acknowledged entries up to {need}: its data was lost; \
                 remove it from the cluster and add it again under a new id with an empty data directory"
            ),
            Error::LogForeign { index, own_term, leader_term } => write!(
                f,
                "the committed entry {index} is of term {own_term} here and of term {leader_term} on the leader: this \
                 node's data belongs to another cluster, or it founded one of its own instead of joining; start it \
                 as a new member, with an empty data directory"
            ),
            Error::Storage(error) => write!(f, "storage failed: {error}; stop this node and check its disk"),
            Error::Stopped => write!(f, "the node has stopped"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Storage(error) => Some(error),
            Error::ConfChange(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DropReason::NoLeader => write!(f, "no leader is known"),
            DropReason::ForwardingDisabled { leader } => {
                write!(f, "this node does not forward to the leader {leader:x}")
            }
            DropReason::Removed => write!(f, "the leader was removed from the configuration"),
            DropReason::TransferInProgress { to } => write!(f, "leadership is being transferred to {to:x}"),
            DropReason::UncommittedLimit => write!(f, "too many bytes wait for commit"),
            DropReason::TooManyReads => write!(f, "too many reads wait to be confirmed"),
        }
    }
}

impl fmt::Display for ConfChangeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfChangeRefusal::Pending { index, applied } => {
                write!(f, "possible unapplied conf change at index {index} (applied to {applied})")
            }
            ConfChangeRefusal::MustLeaveJoint => write!(f, "must transition out of joint config first"),
            ConfChangeRefusal::NotJoint => write!(f, "not in joint state; refusing empty conf change"),
        }
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        Error::Storage(error)
    }
}

impl From<ConfChangeError> for Error {
    fn from(error: ConfChangeError) -> Self {
        Error::ConfChange(error)
    }
}
