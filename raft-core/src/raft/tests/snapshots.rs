//! Snapshots (Raft paper §7): when a leader sends one, what it does meanwhile, and how a follower takes it over.

use super::*;
use crate::storage::Storage as _;
use MessageType::*;
use StateType::{Follower, Leader};

/// A leader of 1 and 2, whose log begins behind a snapshot at index 11, term 11. 2 has nothing and is active.
fn leader_behind_snapshot() -> Node {
    let mut storage = MemoryStorage::new();
    storage.apply_snapshot(snapshot_at(11, 11, members(&[1, 2], &[]))).unwrap();
    let mut one = node_of(plain(1), storage);
    one.term = 11;
    one.win();
    one.progress_mut(2).recent_active = true;
    one
}

fn snap(snapshot: Snapshot, from: u64, term: u64) -> Message {
    Message { snapshot: Some(Box::new(snapshot)), ..message(MsgSnap, from, term) }
}

/// Makes the leader find out that 2 lacks what is compacted, and send the snapshot.
fn refuse_and_send(one: &mut Node) -> Vec<Message> {
    one.progress_mut(2).next_index = one.log.first_index().unwrap();
    let rejected = one.progress(2).next_index - 1;
    one.hear(Message { reject: true, ..ack(2, one.term, rejected) })
}

#[test]
fn who_needs_what_is_compacted_gets_a_snapshot_and_nothing_else_until_it_has_it() {
    let mut one = leader_behind_snapshot();
    let sent = refuse_and_send(&mut one);
    assert_eq!((kinds(&sent), sent[0].to), (vec![MsgSnap], 2));
    assert_eq!(sent[0].snapshot, Some(Box::new(snapshot_at(11, 11, members(&[1, 2], &[])))));
    let progress = one.progress(2);
    let seen = (progress.state, progress.pending_snapshot, progress.next_index);
    assert_eq!(seen, (ProgressState::Snapshot, 11, 12));
    assert_eq!(one.propose("x"), []);
    assert_eq!(one.hear(message(MsgHeartbeatResp, 2, 12)), []);
}

#[test]
fn no_snapshot_goes_to_who_was_not_heard_from() {
    let mut one = leader_behind_snapshot();
    one.progress_mut(2).recent_active = false;
    one.progress_mut(2).next_index = 1;
    one.progress_mut(2).msg_app_flow_paused = false;
    assert_eq!(one.propose("x"), []);
    assert_eq!(one.progress(2).state, ProgressState::Probe);
    // A sign of life changes that.
    assert_eq!(kinds(&one.hear(message(MsgHeartbeatResp, 2, 12))), [MsgSnap]);
}

#[test]
fn a_failed_snapshot_is_forgotten_and_a_finished_one_is_built_upon() {
    for (failed, next) in [(true, 1), (false, 12)] {
        let mut one = leader_behind_snapshot();
        one.progress_mut(2).next_index = 1;
        one.progress_mut(2).become_snapshot(11);
        let report = Message { reject: failed, from: 2, ..Message::of(MsgSnapStatus) };
        assert_eq!(one.hear(report.clone()), [], "the next heartbeat's answer lets the flow go on");
        let progress = one.progress(2);
        let seen = (progress.state, progress.pending_snapshot, progress.next_index, progress.msg_app_flow_paused);
        assert_eq!(seen, (ProgressState::Probe, 0, next, true));
        let resumed = kinds(&one.hear(message(MsgHeartbeatResp, 2, 12)));
        assert_eq!(resumed, [if failed { MsgSnap } else { MsgApp }]);
        // Later reports, in other states, say nothing.
        one.progress_mut(2).become_probe();
        let before = one.progress(2).clone();
        one.hear(report);
        assert_eq!(*one.progress(2), before);
    }
}

#[test]
fn an_acknowledgement_ends_a_snapshot_as_soon_as_the_log_can_go_on_from_there() {
    // Acknowledged index, what state follows: the log reaches back to 12, its snapshot to 11.
    for (index, state) in [
        (9, ProgressState::Snapshot),
        (10, ProgressState::Snapshot),
        (11, ProgressState::Replicate),
        (12, ProgressState::Replicate),
    ] {
        let mut one = leader_behind_snapshot();
        one.propose("x");
        one.progress_mut(2).become_snapshot(11);
        one.progress_mut(2).next_index = 12;
        let sent = one.hear(ack(2, 12, index));
        let progress = one.progress(2);
        assert_eq!((progress.state, progress.match_index), (state, index));
        if state == ProgressState::Replicate {
            assert_eq!((progress.pending_snapshot, progress.next_index), (0, 14));
            assert_eq!(sent.iter().map(|m| m.entries.len() as u64).sum::<u64>(), 13 - index);
        }
    }
}

#[test]
fn a_snapshot_takes_the_place_of_log_commit_index_and_configuration() {
    for learner in [false, true] {
        let conf_state = if learner { members(&[2, 3], &[1]) } else { members(&[1, 2, 3], &[]) };
        let mut one = node_of(plain(1), stored(members(&[1, 2], &[]), &[1, 1]));
        let new = snapshot_at(11, 11, conf_state.clone());
        one.step(snap(new.clone(), 2, 11)).unwrap();
        assert_eq!((one.log.committed, one.log.last_id().unwrap()), (11, EntryId { term: 11, index: 11 }));
        assert_eq!(one.tracker.conf_state(), conf_state);
        assert_eq!(one.progress(1).is_learner, learner);
        assert!(!one.promotable(), "not before it is durable");
        assert!(one.log.next_committed(true).unwrap().is_empty());
        let answers = one.flush();
        assert_eq!((kinds(&answers), answers[0].index, answers[0].reject), (vec![MsgAppResp], 11, false));
        assert_eq!(one.promotable(), !learner);
        assert_eq!((one.log.applied, one.log.storage.snapshot().unwrap()), (11, new.clone()));
        // The same once more is old: answered with the commit index.
        let answers = one.hear(snap(new, 2, 11));
        assert_eq!((kinds(&answers), answers[0].index), (vec![MsgAppResp], 11));
    }
}

#[test]
fn a_snapshot_of_a_joint_configuration_brings_both_halves() {
    let conf_state = ConfState {
        voters: vec![2, 3],
        voters_outgoing: vec![1, 2, 4],
        learners_next: vec![4],
        auto_leave: true,
        ..ConfState::default()
    };
    // Node 1 votes in the outgoing half only, and that is membership enough.
    let mut one = node(1, &[1]);
    one.hear(snap(snapshot_at(11, 11, conf_state.clone()), 2, 11));
    assert_eq!((one.tracker.conf_state(), one.promotable()), (conf_state, true));
}

#[test]
fn a_voter_that_a_snapshot_makes_a_learner_is_one() {
    let mut one = node(3, &[1, 2, 3]);
    assert!(!one.progress(3).is_learner);
    one.hear(snap(snapshot_at(11, 11, members(&[1, 2], &[3])), 1, 11));
    assert!(one.progress(3).is_learner);
}

#[test]
fn a_learner_that_a_snapshot_promotes_is_a_voter() {
    let mut one = node_of(plain(3), stored(members(&[1, 2], &[3]), &[]));
    assert!(!one.promotable());
    one.hear(snap(snapshot_at(11, 11, members(&[1, 2, 3], &[])), 1, 11));
    assert!(one.promotable());
}

#[test]
fn a_snapshot_that_brings_nothing_new_only_moves_the_commit_index() {
    let mut one = node_of(plain(1), stored(members(&[1, 2], &[]), &[1, 1, 1]));
    one.hear(Message { log_term: 1, index: 3, commit: 1, ..message(MsgApp, 2, 1) });
    // Below the commit index: nothing. Within the log: the commit index jumps there.
    for (index, committed) in [(1, 1), (2, 2)] {
        let answers = one.hear(snap(snapshot_at(index, 1, members(&[1, 2], &[])), 2, 1));
        assert_eq!((one.log.committed, answers[0].index), (committed, committed));
        assert_eq!((one.log_terms(), one.log.has_snapshot_pending()), (vec![1, 1, 1], false));
    }
    // What contradicts a committed entry is no news, whatever term it claims.
    one.hear(snap(snapshot_at(2, 2, members(&[1, 2], &[])), 2, 2));
    assert_eq!((one.log_terms(), one.log.has_snapshot_pending()), (vec![1, 1, 1], false));
    // Above the commit index, another term at that index is.
    one.hear(snap(snapshot_at(3, 2, members(&[1, 2], &[])), 2, 2));
    assert_eq!(one.log.last_id().unwrap(), EntryId { term: 2, index: 3 });
}

#[test]
fn a_snapshot_for_others_is_not_taken_over() {
    let mut one = node(1, &[1, 2]);
    let answers = one.hear(snap(snapshot_at(11, 11, members(&[2, 3], &[4])), 2, 11));
    assert_eq!((one.log.committed, answers[0].index), (0, 0));
    assert_eq!(one.tracker.conf_state(), members(&[1, 2], &[]));
}

#[test]
fn a_candidate_takes_a_snapshot_as_the_leaders_sign() {
    let mut one = node(1, &[1, 2]);
    one.start_campaign();
    one.hear(snap(snapshot_at(11, 1, members(&[1, 2], &[])), 2, 1));
    assert_eq!((one.state, one.lead, one.log.committed), (Follower, 2, 11));
}

#[test]
fn a_slow_node_catches_up_by_snapshot_and_goes_on_with_entries() {
    let mut net = Net::plain(3);
    net.campaign(1);
    net.isolate(3);
    for _ in 0..100 {
        net.propose(1, "x").unwrap();
    }
    let compacted = net.at(1).compact();
    assert_eq!(compacted, 101);
    net.heal();
    net.seen.clear();
    // The first beat finds it alive, the next one's answer brings the snapshot.
    while !net.nodes[&1].progress(3).recent_active {
        net.beat(1);
    }
    net.beat(1);
    assert!(net.seen.contains(&MsgSnap));
    assert_eq!(net.nodes[&3].log.committed, 101);
    net.propose(1, "y").unwrap();
    assert_eq!(net.committed(), [102; 3]);
    assert_eq!(net.nodes[&3].log_terms(), [1], "only what came behind the snapshot");
    assert_eq!((net.state(1).0, net.nodes[&1].progress(3).state), (Leader, ProgressState::Replicate));
}
