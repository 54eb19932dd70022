//! Learners (thesis §4.2.1): they get the log, do not count, and vote when they are asked, because they may have been
//! promoted without knowing it.

use super::*;
use crate::pb::{ConfChange, ConfChangeType, ConfChangeV2};
use MessageType::*;
use StateType::{Follower, Leader};

fn voter_and_learner() -> Net {
    Net::of([1, 2].map(|id| node_of(plain(id), stored(members(&[1], &[2]), &[]))))
}

pub(super) fn change(kind: ConfChangeType, id: u64) -> ConfChangeV2 {
    ConfChange::new(kind, id).into_v2()
}

#[test]
fn a_learner_never_campaigns() {
    let mut net = voter_and_learner();
    net.at(2).set_randomized_election_timeout(10);
    net.ticks(2, 50);
    assert_eq!(net.state(2), (Follower, 0));
    net.campaign(2);
    assert_eq!(net.state(2), (Follower, 0), "nor on demand");
    net.campaign(1);
    net.tell(2, Message { to: 2, ..message(MsgTimeoutNow, 1, 1) }).unwrap();
    assert_eq!((net.state(2), net.state(1)), ((Follower, 1), (Leader, 1)), "nor when the leader asks it to");
}

#[test]
fn a_learner_replicates_without_counting() {
    let mut net = voter_and_learner();
    net.campaign(1);
    net.propose(1, "a").unwrap();
    net.propose(2, "b").unwrap();
    assert_eq!(net.committed(), [3, 3]);
    assert_eq!(net.nodes[&1].progress(2).match_index, 3);
    net.isolate(2);
    net.propose(1, "c").unwrap();
    assert_eq!(net.committed(), [4, 3], "the learner is not waited for");
    // And cannot stand in for a voter.
    let mut net = Net::of([1, 2, 3].map(|id| node_of(plain(id), stored(members(&[1, 2], &[3]), &[]))));
    net.campaign(1);
    net.isolate(2);
    net.propose(1, "d").unwrap();
    assert_eq!(net.committed(), [1, 1, 1]);
}

#[test]
fn a_promoted_learner_campaigns_and_leads() {
    let mut net = voter_and_learner();
    net.campaign(1);
    let promote = change(ConfChangeType::ConfChangeAddNode, 2);
    for id in [1, 2] {
        net.at(id).apply_conf_change(&promote).unwrap();
        assert!(!net.nodes[&id].progress(2).is_learner);
    }
    net.at(2).set_randomized_election_timeout(10);
    net.ticks(2, 10);
    assert_eq!((net.state(1), net.state(2)), ((Follower, 2), (Leader, 2)));
}

#[test]
fn a_learner_votes() {
    let mut one = node_of(plain(2), stored(members(&[1], &[2]), &[]));
    let answers = one.hear(Message { index: 11, log_term: 11, ..message(MsgVote, 1, 2) });
    assert_eq!((kinds(&answers), answers[0].reject, one.vote), (vec![MsgVoteResp], false, 1));
}

#[test]
fn a_learner_catches_up_by_snapshot() {
    let mut storage = MemoryStorage::new();
    storage.apply_snapshot(snapshot_at(11, 11, members(&[1], &[2]))).unwrap();
    let mut first = node_of(plain(1), storage);
    first.become_follower(11, NONE).unwrap();
    let mut net = Net::of([first, node_of(plain(2), stored(members(&[1], &[2]), &[]))]);
    net.campaign(1);
    net.beat(1);
    assert!(net.seen.contains(&MsgSnap));
    assert_eq!(net.committed(), [12, 12]);
}

#[test]
fn adding_and_removing_learners_changes_who_is_tracked() {
    use ConfChangeType::{ConfChangeAddLearnerNode, ConfChangeAddNode, ConfChangeRemoveNode};
    let mut one = node(1, &[1]);
    assert_eq!(one.apply_conf_change(&change(ConfChangeAddLearnerNode, 2)).unwrap(), members(&[1], &[2]));
    assert!(one.progress(2).is_learner);
    assert_eq!(one.apply_conf_change(&change(ConfChangeAddNode, 2)).unwrap(), members(&[1, 2], &[]));
    assert!(!one.progress(2).is_learner);
    // A voter can be demoted, itself included.
    assert_eq!(one.apply_conf_change(&change(ConfChangeAddLearnerNode, 1)).unwrap(), members(&[2], &[1]));
    assert!(one.progress(1).is_learner && !one.promotable());
    assert_eq!(one.apply_conf_change(&change(ConfChangeAddNode, 1)).unwrap(), members(&[1, 2], &[]));
    assert!(one.promotable());
    one.apply_conf_change(&change(ConfChangeAddLearnerNode, 2)).unwrap();
    assert_eq!(one.apply_conf_change(&change(ConfChangeRemoveNode, 2)).unwrap(), members(&[1], &[]));
    assert!(!one.tracker.progress.contains_key(&2));
    // The last voter stays.
    assert!(one.apply_conf_change(&change(ConfChangeRemoveNode, 1)).is_err());
    assert_eq!(one.tracker.conf_state(), members(&[1], &[]));
}
