use proptest::prelude::*;

use super::*;

fn progress(state: ProgressState, match_index: u64, next_index: u64) -> Progress {
    Progress { state, match_index, ..Progress::new(next_index, Inflights::new(256, 0)) }
}

#[test]
fn prints_every_part() {
    let mut all = progress(ProgressState::Snapshot, 3, 4);
    all.pending_snapshot = 123;
    all.is_learner = true;
    all.inflights = Inflights::new(1, 0);
    assert!(all.inflights.add(123, 1));
    let expected = "StateSnapshot match=3 next=4 learner paused pendingSnap=123 inactive inflight=1[full]";
    assert_eq!(all.to_string(), expected);
    let mut plain = progress(ProgressState::Replicate, 3, 4);
    plain.recent_active = true;
    assert_eq!(plain.to_string(), "StateReplicate match=3 next=4");
}

#[test]
fn paused_in_each_state() {
    for (state, flow_paused, paused) in [
        (ProgressState::Probe, false, false),
        (ProgressState::Probe, true, true),
        (ProgressState::Replicate, false, false),
        (ProgressState::Replicate, true, true),
        (ProgressState::Snapshot, false, true),
        (ProgressState::Snapshot, true, true),
    ] {
        let mut one = progress(state, 0, 1);
        one.msg_app_flow_paused = flow_paused;
        assert_eq!(one.is_paused(), paused, "{state} {flow_paused}");
    }
}

#[test]
fn an_answer_resumes_a_probe() {
    let mut one = progress(ProgressState::Probe, 0, 2);
    assert!(one.sent_entries(1, 10));
    assert!(one.is_paused());
    assert!(one.maybe_decr_to(1, 1));
    assert!(!one.is_paused());
    assert!(one.sent_entries(1, 10));
    assert!(one.maybe_update(2));
    assert!(!one.is_paused());
}

#[test]
fn only_a_probe_with_entries_pauses() {
    let mut one = progress(ProgressState::Probe, 0, 2);
    assert!(one.sent_entries(0, 0));
    assert!(!one.is_paused());
    assert!(one.sent_entries(1, 0));
    assert!(one.is_paused());
    assert!(one.sent_entries(0, 0));
    assert!(one.is_paused(), "an empty append does not free the one under way");
}

#[test]
fn probing_after_replication_starts_behind_the_match() {
    let mut one = progress(ProgressState::Replicate, 1, 5);
    one.sent_commit = 4;
    assert!(one.inflights.add(4, 0));
    one.become_probe();
    assert_eq!((one.state, one.match_index, one.next_index, one.sent_commit), (ProgressState::Probe, 1, 2, 1));
    assert_eq!(one.inflights.count(), 0);
}

#[test]
fn probing_after_a_snapshot_starts_behind_it_unless_it_failed() {
    let mut one = progress(ProgressState::Probe, 1, 5);
    one.become_snapshot(10);
    assert_eq!((one.pending_snapshot, one.next_index, one.sent_commit), (10, 11, 10));
    let mut failed = one.clone();
    one.become_probe();
    assert_eq!((one.next_index, one.sent_commit, one.pending_snapshot), (11, 10, 0));
    failed.pending_snapshot = 0;
    failed.become_probe();
    assert_eq!((failed.next_index, failed.sent_commit), (2, 1));
}

#[test]
fn replication_starts_behind_the_match() {
    let mut one = progress(ProgressState::Probe, 1, 5);
    one.become_replicate();
    assert_eq!((one.state, one.match_index, one.next_index), (ProgressState::Replicate, 1, 2));
}

#[test]
fn acknowledgements_only_move_forward() {
    let (known, next) = (3, 5);
    for (index, expected_match, expected_next, news) in
        [(2, known, next, false), (3, known, next, false), (4, 4, next, true), (5, 5, 6, true), (6, 6, 7, true)]
    {
        let mut one = progress(ProgressState::Probe, known, next);
        assert_eq!(one.maybe_update(index), news, "{index}");
        assert_eq!((one.match_index, one.next_index), (expected_match, expected_next), "{index}");
    }
}

#[test]
fn rejections() {
    use ProgressState::{Probe, Replicate};
    for (state, known, next, rejected, hint, fresh, expected_next) in [
        // Stale: what is rejected is known to match.
        (Replicate, 5, 10, 5, 5, false, 10),
        (Replicate, 5, 10, 4, 4, false, 10),
        // Fresh: everything sent ahead counts as lost.
        (Replicate, 5, 10, 9, 9, true, 6),
        // Stale: not what was probed last.
        (Probe, 0, 0, 0, 0, true, 1),
        (Probe, 0, 10, 5, 5, false, 10),
        // Fresh: step back, at least by one, further if the hint says so, never to or below the match.
        (Probe, 0, 10, 9, 9, true, 9),
        (Probe, 0, 2, 1, 1, true, 1),
        (Probe, 0, 1, 0, 0, true, 1),
        (Probe, 0, 10, 9, 2, true, 3),
        (Probe, 0, 10, 9, 0, true, 1),
        (Probe, 4, 10, 9, 1, true, 5),
    ] {
        let mut one = progress(state, known, next);
        one.sent_commit = next;
        let case = format!("{one} rejected={rejected} hint={hint}");
        assert_eq!(one.maybe_decr_to(rejected, hint), fresh, "{case}");
        assert_eq!(one.next_index, expected_next, "{case}");
        if fresh {
            assert!(one.sent_commit < one.next_index, "{case}");
        }
    }
}

/// Found by the simulator (seed 5).
#[test]
fn a_late_rejection_does_not_move_what_waits_for_a_snapshot() {
    let mut one = progress(ProgressState::Probe, 3, 8);
    one.become_snapshot(7);
    assert!(!one.maybe_decr_to(7, 3), "of the probe before the snapshot, which followed entry 7 too");
    assert_eq!((one.next_index, one.pending_snapshot), (8, 7));
}

#[test]
fn commit_is_worth_sending_only_if_it_is_news() {
    let mut one = progress(ProgressState::Replicate, 5, 8);
    one.sent_commit(5);
    assert!(one.can_bump_commit(6));
    assert!(one.can_bump_commit(100), "the follower can commit the entries up to 7 that were sent");
    assert!(!one.can_bump_commit(5));
    one.sent_commit(7);
    assert!(!one.can_bump_commit(100), "it was told all that it can commit");
}

#[test]
fn nothing_is_sent_beside_a_snapshot_or_into_a_full_window() {
    let mut one = progress(ProgressState::Probe, 0, 1);
    one.become_snapshot(5);
    let before = one.clone();
    assert!(!one.sent_entries(1, 1));
    assert_eq!(one, before);
    let mut one = Progress::new(1, Inflights::new(1, 0));
    one.become_replicate();
    assert!(one.sent_entries(2, 10));
    assert!(one.is_paused());
    assert!(!one.sent_entries(1, 1));
    assert_eq!((one.next_index, one.inflights.count()), (3, 1));
}

#[derive(Clone, Debug)]
enum Step {
    Probe,
    Replicate,
    Snapshot(u64),
    SnapshotFailed,
    Send(usize, u64),
    Acknowledge(u64),
    Reject(u64, u64),
    RejectProbed(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = || prop_oneof![9 => 0u64..40, 1 => Just(u64::MAX)];
    prop_oneof![
        Just(Step::Probe),
        Just(Step::Replicate),
        index().prop_map(Step::Snapshot),
        Just(Step::SnapshotFailed),
        (0usize..5, 0u64..9).prop_map(|(count, bytes)| Step::Send(count, bytes)),
        (0u64..40).prop_map(Step::Acknowledge),
        (index(), index()).prop_map(|(rejected, hint)| Step::Reject(rejected, hint)),
        index().prop_map(Step::RejectProbed),
    ]
}

proptest! {
    #[test]
    fn the_invariants_hold_whatever_happens(steps in prop::collection::vec(step(), 0..60)) {
        let mut one = Progress::new(1, Inflights::new(3, 20));
        for step in steps {
            let known = one.match_index;
            match step {
                Step::Probe => one.become_probe(),
                Step::Replicate => one.become_replicate(),
                // A leader sends a snapshot only to who lacks its entries.
                Step::Snapshot(index) if index > one.match_index && index < u64::MAX => one.become_snapshot(index),
                Step::Snapshot(_) => {}
                Step::SnapshotFailed => {
                    one.pending_snapshot = 0;
                    one.become_probe();
                }
                Step::Send(count, bytes) => {
                    if !one.is_paused() {
                        prop_assert!(one.sent_entries(count, bytes));
                    }
                }
                Step::Acknowledge(index) => {
                    if one.maybe_update(index) {
                        one.inflights.free_to(index);
                    }
                }
                Step::Reject(rejected, hint) => {
                    one.maybe_decr_to(rejected, hint);
                }
                Step::RejectProbed(hint) => {
                    let fresh = one.maybe_decr_to(one.next_index - 1, hint);
                    prop_assert!(fresh || one.state != ProgressState::Probe);
                }
            }
            prop_assert!(one.match_index >= known);
            prop_assert!(one.match_index < one.next_index, "{}", one);
            prop_assert!(one.state == ProgressState::Snapshot || one.pending_snapshot == 0, "{}", one);
            prop_assert!(one.pending_snapshot < one.next_index, "{}", one);
            prop_assert!(one.state == ProgressState::Replicate || one.inflights.count() == 0, "{}", one);
        }
    }
}
