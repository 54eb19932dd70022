//! What a node says about the membership on its page. Field names are part of the API.
//!
//! The page shows the configuration as of the last entry that this node has applied, and who is where. It is each node's
//! own view: one that is behind shows what was.

use raft_core::pb::ConfState;
use serde::Serialize;

use crate::members::Members;

/// Who is in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Roster {
    /// The node that says this.
    pub id: u64,
    /// The number of the cluster, which its first leader has drawn; empty if there is none yet.
    pub cluster: String,
    /// The index of the last entry that it has applied.
    pub applied: u64,
    /// Who leads; 0 if it knows of nobody.
    pub leader: u64,
    /// Several members are changing together: until this is false, most of the old voters and most of the new ones must
    /// agree to everything.
    pub joint: bool,
    /// By ascending id.
    pub members: Vec<RosterMember>,
    /// Ids that were removed and have not come back.
    pub removed: Vec<u64>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RosterMember {
    /// Its id.
    pub id: u64,
    /// Its peer URL; empty if this node does not know it.
    pub url: String,
    /// What it does.
    pub role: Role,
    /// Its address is in the log and the same for all nodes; otherwise it comes from this node's command line.
    pub agreed: bool,
    /// The number of its data directory; empty if it has not said it yet.
    pub data: String,
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It votes.
    Voter,
    /// It has the log and does not vote.
    Learner,
    /// While joint: it votes among the new voters only.
    Incoming,
    /// While joint: it votes among the old voters only, and is removed next.
    Outgoing,
    /// While joint: it votes among the old voters only, and is a learner next.
    Retiring,
}

impl Role {
    /// What the configuration says about `id`, which is a member.
    fn of(id: u64, conf_state: &ConfState) -> Role {
        let joint = !conf_state.voters_outgoing.is_empty();
        let (new, old) = (conf_state.voters.contains(&id), conf_state.voters_outgoing.contains(&id));
        match (new, old) {
            (true, true) => Role::Voter,
            (true, false) if joint => Role::Incoming,
            (true, false) => Role::Voter,
            (false, true) if conf_state.learners_next.contains(&id) => Role::Retiring,
            (false, true) => Role::Outgoing,
            (false, false) => Role::Learner,
        }
    }
}

impl Roster {
    /// The page of node `id`.
    pub(super) fn of(id: u64, applied: u64, leader: u64, members: &Members, conf_state: &ConfState) -> Roster {
        let member = |(id, member): (u64, &crate::members::Member)| RosterMember {
            id,
            url: member.url.as_ref().map(ToString::to_string).unwrap_or_default(),
            role: Role::of(id, conf_state),
            agreed: member.agreed,
            data: number(member.data),
        };
        Roster {
            id,
            cluster: number(members.birth()),
            applied,
            leader,
            joint: !conf_state.voters_outgoing.is_empty(),
            members: members.iter().map(member).collect(),
            removed: members.removed().map(|(id, _)| id).collect(),
        }
    }
}

fn number(number: Option<u64>) -> String {
    number.map(|number| format!("{number:016x}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_has_the_role_that_the_configuration_gives_it() {
        let roles = |conf_state: &ConfState| [1, 2, 3, 4, 5].map(|id| Role::of(id, conf_state));
        let simple = ConfState { voters: vec![1, 2, 3], learners: vec![4, 5], ..ConfState::default() };
        assert_eq!(roles(&simple), [Role::Voter, Role::Voter, Role::Voter, Role::Learner, Role::Learner]);
        let joint = ConfState {
            voters: vec![1, 4],
            voters_outgoing: vec![1, 2, 3],
            learners_next: vec![3],
            learners: vec![5],
            ..ConfState::default()
        };
        assert_eq!(roles(&joint), [Role::Voter, Role::Outgoing, Role::Retiring, Role::Incoming, Role::Learner]);
    }
}
