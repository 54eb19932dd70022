//! Configuration changes on their way through the log (Raft paper §6, thesis chapter 4): one at a time, in force when
//! applied, and what follows for the leader. What a change makes of a membership is tested in `confchange`.

use super::learners::change;
use super::*;
use crate::confchange::parse_changes;
use crate::error::{ConfChangeRefusal, DropReason};
use crate::pb::{ConfChangeTransition, ConfChangeType, ConfChangeV2};
use ConfChangeType::{ConfChangeAddLearnerNode, ConfChangeAddNode, ConfChangeRemoveNode};
use MessageType::*;
use StateType::{Follower, Leader};

fn conf_entry(change: impl Into<ConfChangeKind>) -> Entry {
    let (kind, data) = change.into().encode();
    Entry { entry_type: kind as i32, data, ..Entry::default() }
}

fn conf_proposal(change: impl Into<ConfChangeKind>) -> Message {
    Message { entries: vec![conf_entry(change)].into(), ..Message::of(MsgProp) }
}

fn v2(words: &str, transition: ConfChangeTransition) -> ConfChangeV2 {
    ConfChangeV2::new(transition, parse_changes(words).unwrap())
}

fn auto(words: &str) -> ConfChangeV2 {
    v2(words, ConfChangeTransition::ConfChangeTransitionAuto)
}

/// A leader of 1, 2 whose empty entry is committed and applied.
fn settled() -> Node {
    let mut one = leader(1, &[1, 2]);
    one.hear(ack(2, 1, 1));
    one.apply();
    one
}

#[test]
fn a_change_is_appended_and_remembered_as_pending() {
    let mut one = settled();
    one.step(conf_proposal(auto("v3"))).unwrap();
    assert_eq!((one.log.last_index(), one.pending_conf_index), (2, 2));
    assert_eq!(one.tracker.conf_state(), members(&[1, 2], &[]), "not in force before it is applied");
}

#[test]
fn a_second_change_becomes_an_empty_entry_until_the_first_is_applied() {
    let mut one = settled();
    one.step(conf_proposal(auto("v3"))).unwrap();
    let refused = one.step(conf_proposal(auto("v4")));
    let why = ConfChangeRefusal::Pending { index: 2, applied: 1 };
    assert_eq!(refused, Err(Error::ConfChangeRefused(why)));
    let log = one.log_entries();
    assert_eq!((log.len(), log[2].is_conf_change(), log[2].data.len(), log[2].term), (3, false, 0, 1));
    assert_eq!(one.pending_conf_index, 2, "what was refused is not pending");
    one.hear(ack(2, 1, 3));
    one.apply();
    one.step(conf_proposal(auto("v4"))).unwrap();
    assert_eq!(one.pending_conf_index, 4);
}

#[test]
fn changes_are_refused_where_they_do_not_belong_unless_checks_are_off() {
    let explicit = ConfChangeTransition::ConfChangeTransitionJointExplicit;
    for checked in [true, false] {
        let refused = |result: Result<(), Error>, reason| {
            assert_eq!(result, if checked { Err(Error::ConfChangeRefused(reason)) } else { Ok(()) });
        };
        let mut one = node_with(1, &[1, 2], |config| config.disable_conf_change_validation = !checked);
        one.win();
        one.hear(ack(2, 1, 1));
        one.apply();
        refused(one.step(conf_proposal(auto(""))), ConfChangeRefusal::NotJoint);
        assert_eq!(one.log_entries()[1].is_conf_change(), !checked);
        one.pending_conf_index = 0;
        one.apply_conf_change(&v2("v3", explicit)).unwrap();
        assert!(one.tracker.config.is_joint());
        refused(one.step(conf_proposal(auto("v4"))), ConfChangeRefusal::MustLeaveJoint);
        one.pending_conf_index = 0;
        one.step(conf_proposal(auto(""))).expect("leaving is allowed");
    }
}

#[test]
fn a_change_is_checked_entry_by_entry() {
    let mut one = settled();
    let entries = vec![Entry::normal("a"), conf_entry(auto("v3")), conf_entry(auto("v4")), Entry::normal("b")];
    let result = one.step(Message { entries: entries.into(), ..Message::of(MsgProp) });
    assert!(matches!(result, Err(Error::ConfChangeRefused(_))));
    let kept: Vec<bool> = one.log_entries().iter().skip(1).map(Entry::is_conf_change).collect();
    assert_eq!((kept, one.pending_conf_index), (vec![false, true, false, false], 3));
}

#[test]
fn a_new_leader_assumes_that_its_tail_holds_a_change() {
    for (terms, pending) in [(&[][..], 0), (&[1, 1], 2)] {
        let mut one = node_of(plain(1), stored(members(&[1], &[]), terms));
        one.become_follower(1, NONE).unwrap();
        one.start_campaign();
        assert_eq!(one.pending_conf_index, pending);
        // Applying the tail makes room for a change.
        let result = one.step(conf_proposal(auto("v2")));
        assert_eq!(result.is_ok(), pending == 0);
        one.flush();
        while !one.apply().is_empty() {}
        if pending > 0 {
            one.step(conf_proposal(auto("v2"))).unwrap();
        }
    }
}

#[test]
fn a_dropped_proposal_leaves_no_change_pending() {
    let mut one = node_with(1, &[1, 2], |config| config.max_uncommitted_entries_size = 1);
    one.win();
    one.hear(ack(2, 1, 1));
    one.apply();
    one.step(proposal("fills the quota")).unwrap();
    let result = one.step(conf_proposal(auto("v3")));
    assert_eq!(result, Err(Error::ProposalDropped(DropReason::UncommittedLimit)));
    assert_eq!(one.pending_conf_index, 0);
}

#[test]
fn a_node_that_is_added_is_tracked_and_hears_from_the_leader() {
    let mut one = settled();
    assert_eq!(one.apply_conf_change(&change(ConfChangeAddNode, 3)).unwrap(), members(&[1, 2, 3], &[]));
    let sent = one.flush();
    assert_eq!((kinds(&sent), sent[0].to), (vec![MsgApp], 3));
    // Once more changes nothing.
    assert_eq!(one.apply_conf_change(&change(ConfChangeAddNode, 3)).unwrap(), members(&[1, 2, 3], &[]));
    assert_eq!(
        one.apply_conf_change(&change(ConfChangeType::ConfChangeUpdateNode, 2)).unwrap(),
        members(&[1, 2, 3], &[])
    );
    assert_eq!(one.tracker.voter_ids().iter().collect::<Vec<_>>(), [1, 2, 3], "ascending, however they came");
}

/// A new member counts as active, or the next quorum check would depose the leader that has just added it.
#[test]
fn a_node_that_is_added_does_not_cost_the_leader_its_quorum() {
    let mut one = node_with(1, &[1], |config| config.check_quorum = true);
    one.win();
    one.ticks(9);
    one.apply_conf_change(&change(ConfChangeAddNode, 2)).unwrap();
    one.ticks(1);
    assert_eq!(one.state, Leader);
    assert!(!one.progress(2).recent_active, "from now on it has to show itself");
    one.ticks(10);
    assert_eq!(one.state, Follower);
}

#[test]
fn a_node_that_is_removed_is_forgotten() {
    let mut one = settled();
    assert_eq!(one.apply_conf_change(&change(ConfChangeRemoveNode, 2)).unwrap(), members(&[1], &[]));
    assert_eq!((one.peers_of_leader(), one.hear(ack(2, 1, 1))), (vec![], vec![]), "its late answers too");
    assert!(one.apply_conf_change(&change(ConfChangeRemoveNode, 1)).is_err(), "somebody must vote");
}

impl Raft<MemoryStorage> {
    fn peers_of_leader(&self) -> Vec<u64> {
        self.tracker.progress.keys().copied().filter(|id| *id != self.id).collect()
    }
}

/// With one voter less, what waits may have its majority already; also for a proposal that came after the change.
#[test]
fn removing_a_node_may_commit_what_waits() {
    let mut one = settled();
    one.step(conf_proposal(change(ConfChangeRemoveNode, 2))).unwrap();
    one.propose("waits");
    one.hear(ack(2, 1, 2));
    assert_eq!(one.log.committed, 2, "the removal itself needs 2's word");
    one.apply();
    assert_eq!(one.log.committed, 3);
    assert_eq!(one.apply()[0].data, "waits");
}

#[test]
fn a_removed_or_demoted_leader_yields_if_it_is_told_to_and_else_serves_on_without_proposals() {
    for kind in [ConfChangeRemoveNode, ConfChangeAddLearnerNode] {
        for step_down in [true, false] {
            let mut one = node_with(1, &[1, 2, 3], |config| config.step_down_on_removal = step_down);
            one.win();
            one.hear(ack(2, 1, 1));
            one.apply_conf_change(&change(kind, 1)).unwrap();
            assert_eq!(one.state, if step_down { Follower } else { Leader }, "{kind:?}");
            assert_eq!(one.term, 1);
            let dropped = match (step_down, kind) {
                (true, _) => Err(Error::ProposalDropped(DropReason::NoLeader)),
                (false, ConfChangeRemoveNode) => Err(Error::ProposalDropped(DropReason::Removed)),
                (false, _) => Ok(()),
            };
            assert_eq!(one.step(proposal("x")), dropped);
        }
    }
}

#[test]
fn nobody_campaigns_with_a_committed_change_unapplied() {
    for change in [ConfChangeKind::V1(crate::pb::ConfChange::new(ConfChangeAddNode, 4)), ConfChangeKind::V2(auto("v4"))]
    {
        // Applied change by change, a page at a time too.
        for page in [NO_LIMIT, 1] {
            let mut one = node_with(2, &[1, 2, 3], |config| config.max_committed_size_per_ready = page);
            let mut entries = vec![Entry::normal("a"), conf_entry(change.clone()), Entry::normal("b")];
            for (entry, index) in entries.iter_mut().zip(1..) {
                (entry.term, entry.index) = (1, index);
            }
            one.hear(Message { entries: entries.into(), commit: 3, ..message(MsgApp, 1, 1) });
            for wish in [Message { from: 2, ..Message::of(MsgHup) }, message(MsgTimeoutNow, 1, 1)] {
                assert_eq!(one.hear(wish), []);
                assert_eq!((one.state, one.term), (Follower, 1));
            }
            while !one.apply().is_empty() {}
            assert_eq!(kinds(&one.hear(message(MsgTimeoutNow, 1, 1))), [MsgVote; 3]);
        }
    }
}

#[test]
fn a_joint_configuration_needs_both_halves_to_commit_and_leaves_by_itself() {
    let mut one = settled();
    one.step(conf_proposal(auto("v3 v4 r2"))).unwrap();
    one.hear(ack(2, 1, 2));
    one.apply();
    assert_eq!(one.tracker.config.to_string(), "voters=(1 3 4)&&(1 2) autoleave");
    // The way out was proposed at once.
    let log = one.log_entries();
    assert_eq!((log.len(), log[2].is_conf_change(), log[2].data.len()), (3, true, 0));
    assert_eq!(one.pending_conf_index, 3);
    one.applied_entries(2, 0, 0).unwrap();
    assert_eq!(one.log_entries().len(), 3, "and is not proposed again while it is under way");
    one.flush();
    one.hear(ack(2, 1, 3));
    assert_eq!(one.log.committed, 2, "the incoming half has not agreed");
    one.hear(ack(3, 1, 3));
    assert_eq!(one.log.committed, 3);
    one.apply();
    assert_eq!(one.tracker.config.to_string(), "voters=(1 3 4)");
    assert!(!one.tracker.progress.contains_key(&2));
}

/// The way out is tried again at every apply, by whoever leads then (etcd issue 12136).
#[test]
fn a_joint_configuration_is_left_by_the_next_leader_too() {
    let mut one = settled();
    one.step(conf_proposal(auto("v3 v4"))).unwrap();
    one.flush();
    one.become_follower(2, NONE).unwrap(); // before it is committed
    one.step(Message { log_term: 1, index: 2, commit: 2, ..message(MsgApp, 2, 2) }).unwrap();
    one.flush();
    one.apply();
    assert!(one.tracker.config.auto_leave && one.log_entries().len() == 2, "a follower does not propose it");
    one.win();
    for from in [2, 3, 4] {
        one.hear(ack(from, 3, 3));
    }
    one.apply();
    let log = one.log_entries();
    assert_eq!((log.len(), log[3].is_conf_change()), (4, true), "the new leader's first applied entry triggers it");
}

#[test]
fn a_transfer_delays_the_way_out_of_a_joint_configuration() {
    let mut one = settled();
    one.step(conf_proposal(auto("v3 v4"))).unwrap();
    one.propose("x");
    one.hear(ack(2, 1, 2));
    one.step(message(MsgTransferLeader, 2, 0)).unwrap();
    one.apply();
    assert_eq!(one.log_entries().len(), 3);
    one.lead_transferee = NONE;
    one.apply();
    (2..=3).for_each(|from| drop(one.hear(ack(from, 1, 3))));
    one.apply();
    assert_eq!(one.log_entries().len(), 4, "the next apply tries again");
}

#[test]
fn an_impossible_change_changes_nothing() {
    let mut one = settled();
    let before = format!("{:?}", one.tracker);
    for impossible in
        [auto("v3 r1 r2 r3"), v2("r1 r2", ConfChangeTransition::ConfChangeTransitionJointExplicit), auto("")]
    {
        assert!(matches!(one.apply_conf_change(&impossible), Err(Error::ConfChange(_))), "{impossible:?}");
        assert_eq!(format!("{:?}", one.tracker), before);
    }
    let unknown = ConfChangeV2 { transition: 77, ..auto("v3") };
    assert!(one.apply_conf_change(&unknown).is_err());
    assert_eq!(one.apply_conf_change(&auto("v0")).unwrap(), members(&[1, 2], &[]), "id 0 means: nobody");
}
