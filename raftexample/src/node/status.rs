//! What a node says about itself on its status page. Field names are part of the API.
//!
//! A node speaks of what it knows: `leader` is who it believes leads, `commit` what it knows to be committed. The
//! progress of the others is known to the leader only.

use raft_core::{RawNode, StateType, Storage};
use serde::Serialize;

use crate::members::{Member, Members};
use crate::transport::snapshot::TransferStatus;

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// This node.
    pub id: u64,
    /// The system's id of its process.
    pub process: u32,
    /// `leader`, `follower`, `candidate` or `pre-candidate`.
    pub role: &'static str,
    /// The latest term it knows.
    pub term: u64,
    /// Who leads; 0 if it knows of nobody.
    pub leader: u64,
    /// The highest index known to be committed.
    pub commit: u64,
    /// The highest index applied to the store.
    pub applied: u64,
    /// The index of the newest snapshot; 0 if there is none.
    pub snapshot: u64,
    /// The first index still in the log (in memory; what is sent to peers begins there).
    pub first: u64,
    /// The last index in the log.
    pub last: u64,
    /// How many keys the store has.
    pub keys: usize,
    /// Everybody in the cluster.
    pub members: Vec<MemberStatus>,
    /// On the leader: how far each member is. Empty on others.
    pub progress: Vec<ProgressStatus>,
    /// Snapshots that are being sent or received.
    pub snapshot_transfers: Vec<TransferStatus>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// Its peer URL; empty if this node does not know it.
    pub url: String,
}

/// What the leader knows of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgressStatus {
    /// The member's id.
    pub id: u64,
    /// Its log is known to equal the leader's up to here.
    #[serde(rename = "match")]
    pub match_index: u64,
    /// The next index to be sent to it.
    #[serde(rename = "next")]
    pub next_index: u64,
    /// `probe`, `replicate` or `snapshot`.
    pub state: String,
    /// It was heard from during the latest election timeout.
    pub recent_active: bool,
    /// It does not vote.
    pub learner: bool,
}

impl NodeStatus {
    /// Asks Raft, the storage and the address book; the rest comes from whoever knows it.
    pub(super) fn gather<S: Storage>(
        raw: &RawNode<S>,
        members: &Members,
        keys: usize,
        snapshot: u64,
        snapshot_transfers: Vec<TransferStatus>,
    ) -> NodeStatus {
        let status = raw.status();
        let basic = status.basic;
        let progress = status.progress.iter().map(|(&id, progress)| ProgressStatus {
            id,
            match_index: progress.match_index,
            next_index: progress.next_index,
            state: progress.state.to_string().trim_start_matches("State").to_lowercase(),
            recent_active: progress.recent_active,
            learner: progress.is_learner,
        });
        NodeStatus {
            id: basic.id,
            process: std::process::id(),
            role: role(basic.soft_state.state),
            term: basic.hard_state.term,
            leader: basic.soft_state.lead,
            commit: basic.hard_state.commit,
            applied: basic.applied,
            snapshot,
            first: raw.storage().first_index().unwrap_or(0),
            last: raw.storage().last_index().unwrap_or(0),
            keys,
            members: members.iter().map(|(id, member)| MemberStatus::of(id, member)).collect(),
            progress: progress.collect(),
            snapshot_transfers,
        }
    }
}

impl MemberStatus {
    fn of(id: u64, member: &Member) -> MemberStatus {
        MemberStatus { id, url: member.url.as_ref().map(ToString::to_string).unwrap_or_default() }
    }
}

fn role(state: StateType) -> &'static str {
    match state {
        StateType::Leader => "leader",
        StateType::Follower => "follower",
        StateType::Candidate => "candidate",
        StateType::PreCandidate => "pre-candidate",
    }
}
