//! Leadership transfer (thesis §3.10): to somebody who has everything, soon, or not at all.

use super::learners::change;
use super::*;
use crate::error::DropReason;
use crate::pb::ConfChangeType;
use MessageType::*;
use StateType::{Follower, Leader};

fn transfer(net: &mut Net, at: u64, to: u64) -> Result<(), Error> {
    net.tell(at, Message { from: to, ..Message::of(MsgTransferLeader) })
}

/// 1 leads, 2 and 3 follow. Everybody checks quorums if told so.
fn three(check_quorum: bool) -> Net {
    let mut net = Net::with(3, |config| config.check_quorum = check_quorum);
    net.campaign(1);
    assert_eq!(net.state(1), (Leader, 1));
    net
}

/// 1 leads, 3 does not hear it and so cannot take over yet.
fn three_with_3_away() -> Net {
    let mut net = three(false);
    net.isolate(3);
    net.propose(1, "3 misses this").unwrap();
    transfer(&mut net, 1, 3).unwrap();
    assert_eq!((net.state(1), net.nodes[&1].lead_transferee), ((Leader, 1), 3));
    net
}

fn assert_leads(net: &Net, leader: u64, transferee: u64) {
    assert_eq!((net.nodes[&leader].state, net.nodes[&leader].lead_transferee), (Leader, transferee));
    assert!(net.nodes.values().filter(|node| node.id != leader && node.state == Leader).count() == 0);
}

#[test]
fn to_an_up_to_date_node_at_once_from_wherever_it_is_asked() {
    for check_quorum in [false, true] {
        for asked_at in [1, 2] {
            let mut net = three(check_quorum);
            transfer(&mut net, asked_at, 2).unwrap();
            assert_eq!((net.state(1), net.state(2)), ((Follower, 2), (Leader, 2)), "leases do not stand in its way");
            net.propose(2, "x").unwrap();
            transfer(&mut net, asked_at, 1).unwrap();
            assert_eq!((net.state(2), net.state(1)), ((Follower, 3), (Leader, 3)));
        }
    }
}

#[test]
fn no_pre_vote_is_asked_for() {
    let mut net = Net::with(3, |config| {
        config.pre_vote = true;
        config.check_quorum = true;
    });
    net.campaign(1);
    net.seen.clear();
    transfer(&mut net, 1, 3).unwrap();
    assert_eq!(net.state(3), (Leader, 2));
    assert!(!net.seen.contains(&MsgPreVote));
}

#[test]
fn to_a_slow_node_after_it_has_caught_up() {
    let mut net = three(false);
    net.isolate(3);
    net.propose(1, "3 misses this").unwrap();
    net.heal();
    transfer(&mut net, 1, 3).unwrap();
    assert_eq!(net.state(3), (Leader, 2));
    net.logs_are_equal();
}

#[test]
fn to_a_node_that_needs_a_snapshot_after_it_has_it() {
    let mut net = three(false);
    net.isolate(3);
    net.propose(1, "3 misses this").unwrap();
    net.at(1).compact();
    net.heal();
    transfer(&mut net, 1, 3).unwrap();
    net.beat(1);
    assert!(net.seen.contains(&MsgSnap));
    assert_eq!((net.state(1).0, net.state(3)), (Follower, (Leader, 2)));
}

#[test]
fn to_itself_to_a_stranger_or_to_a_learner_nothing_happens() {
    let mut net = three(false);
    for (at, to) in [(1, 1), (2, 1), (1, 4), (2, 4)] {
        transfer(&mut net, at, to).unwrap();
        assert_leads(&net, 1, NONE);
    }
    let mut net = Net::of([1, 2].map(|id| node_of(plain(id), stored(members(&[1], &[2]), &[]))));
    net.campaign(1);
    transfer(&mut net, 1, 2).unwrap();
    assert_leads(&net, 1, NONE);
}

#[test]
fn it_is_given_up_after_an_election_timeout() {
    let mut net = three_with_3_away();
    net.ticks(1, 9);
    assert_leads(&net, 1, 3);
    net.ticks(1, 1);
    assert_leads(&net, 1, NONE);
}

#[test]
fn proposals_are_dropped_meanwhile() {
    let mut net = three_with_3_away();
    let before = net.nodes[&1].log.last_index();
    assert_eq!(net.propose(1, "x"), Err(Error::ProposalDropped(DropReason::TransferInProgress { to: 3 })));
    assert_eq!(net.nodes[&1].log.last_index(), before);
}

#[test]
fn a_vote_of_a_later_term_ends_it() {
    let mut net = three_with_3_away();
    net.campaign(2);
    assert_leads(&net, 2, NONE);
    assert_eq!(net.nodes[&1].lead_transferee, NONE);
}

#[test]
fn a_target_that_leaves_the_voters_ends_it() {
    for kind in [ConfChangeType::ConfChangeRemoveNode, ConfChangeType::ConfChangeAddLearnerNode] {
        let mut net = three_with_3_away();
        net.at(1).apply_conf_change(&change(ConfChangeType::ConfChangeRemoveNode, 2)).unwrap();
        assert_leads(&net, 1, 3);
        net.at(1).apply_conf_change(&change(kind, 3)).unwrap();
        assert_leads(&net, 1, NONE);
    }
}

#[test]
fn back_to_oneself_or_on_to_another_node_replaces_it() {
    let mut net = three_with_3_away();
    transfer(&mut net, 1, 1).unwrap();
    assert_leads(&net, 1, NONE);
    let mut net = three_with_3_away();
    transfer(&mut net, 1, 2).unwrap();
    assert_leads(&net, 2, NONE);
}

#[test]
fn asked_again_for_the_same_node_it_does_not_get_more_time() {
    let mut net = three_with_3_away();
    net.ticks(1, 5);
    transfer(&mut net, 1, 3).unwrap();
    net.ticks(1, 5);
    assert_leads(&net, 1, NONE);
}

#[test]
fn a_node_that_is_no_member_does_not_take_over() {
    let mut one = node(1, &[2, 3, 4]);
    one.hear(message(MsgTimeoutNow, 2, 1));
    one.step(message(MsgVoteResp, 2, 1)).unwrap();
    one.step(message(MsgVoteResp, 3, 1)).unwrap();
    assert_eq!(one.state, Follower);
}

#[test]
fn without_a_leader_it_is_refused() {
    let dropped = Err(Error::TransferDropped(DropReason::NoLeader));
    let mut one = node(1, &[1, 2]);
    assert_eq!(one.step(message(MsgTransferLeader, 2, 0)), dropped);
    one.start_campaign();
    assert_eq!(one.step(message(MsgTransferLeader, 2, 0)), dropped);
    // A candidate does not let itself be hurried.
    let term = one.term;
    assert_eq!((one.hear(message(MsgTimeoutNow, 2, term)), one.term), (vec![], term));
}
