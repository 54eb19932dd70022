//! CheckQuorum and its lease (thesis §6.2, §9.6), alone and together with PreVote: a leader without a quorum yields, a
//! node that was away deposes nobody, and nobody is stuck for ever.

use bytes::Bytes;

use super::*;
use MessageType::*;
use StateType::{Candidate, Follower, Leader, PreCandidate};

fn checking(count: u64) -> Net {
    Net::with(count, |config| config.check_quorum = true)
}

fn checking_with_pre_vote(count: u64) -> Net {
    Net::with(count, |config| {
        config.check_quorum = true;
        config.pre_vote = true;
    })
}

/// The lease of `id` runs out; it does not campaign in doing so.
fn expire_lease(net: &mut Net, id: u64) {
    net.at(id).set_randomized_election_timeout(100);
    for _ in 0..10 {
        net.at(id).tick().unwrap();
    }
}

#[test]
fn a_leader_stays_as_long_as_a_quorum_answers() {
    let mut one = node_with(1, &[1, 2, 3], |config| config.check_quorum = true);
    one.win();
    for _ in 0..40 {
        one.step(message(MsgHeartbeatResp, 2, one.term)).unwrap();
        one.ticks(1);
    }
    assert_eq!(one.state, Leader);
}

#[test]
fn a_leader_that_hears_nobody_yields_within_two_election_timeouts() {
    for check_quorum in [true, false] {
        let mut one = node_with(1, &[1, 2, 3], |config| config.check_quorum = check_quorum);
        one.win();
        one.hear(ack(2, 1, 1));
        let mut beats = one.ticks(10).len();
        assert_eq!((one.state, one.election_elapsed), (Leader, 0), "it has heard from 2 since it was elected");
        beats += one.ticks(9).len();
        assert_eq!((one.state, beats), (Leader, 38));
        let last = one.ticks(1);
        if check_quorum {
            assert_eq!(
                (one.state, one.term, one.lead, last),
                (Follower, 1, NONE, vec![]),
                "and does not beat any more"
            );
        } else {
            assert_eq!((one.state, last.len()), (Leader, 2));
        }
    }
}

#[test]
fn a_candidate_replaces_the_leader_only_when_the_lease_is_over() {
    let mut net = checking(3);
    net.campaign(1);
    // 2 has heard from 1 just now, 3 asks in vain.
    net.campaign(3);
    assert_eq!((net.state(1), net.state(2), net.state(3)), ((Leader, 1), (Follower, 1), (Candidate, 2)));
    expire_lease(&mut net, 2);
    net.campaign(3);
    assert_eq!((net.state(1), net.state(2), net.state(3)), ((Follower, 3), (Follower, 3), (Leader, 3)));
}

#[test]
fn without_a_known_leader_there_is_no_lease_to_wait_out() {
    let mut net = checking(3);
    net.campaign(1);
    assert_eq!(net.state(1), (Leader, 1));
    for id in 1..=3 {
        net.at(id).become_follower(1, NONE).unwrap();
        assert_eq!(net.nodes[&id].election_elapsed, 0);
    }
    net.campaign(3);
    assert_eq!((net.state(1), net.state(3)), ((Follower, 2), (Leader, 2)));
}

#[test]
fn a_candidate_that_went_ahead_in_terms_is_freed() {
    let mut net = checking(3);
    net.campaign(1);
    net.isolate(1);
    net.campaign(3);
    assert_eq!((net.state(2), net.state(3)), ((Follower, 1), (Candidate, 2)), "2 is in its lease");
    net.campaign(3);
    assert_eq!(net.state(3), (Candidate, 3));
    net.heal();
    // It ignores the leader's beat, which is of an older term, but tells it its own, and that makes the leader yield.
    net.beat(1);
    assert_eq!((net.state(1), net.state(3)), ((Follower, 3), (Candidate, 3)));
    net.campaign(3);
    assert_eq!(net.state(3), (Leader, 4));
}

#[test]
fn a_voter_that_may_not_campaign_follows_nonetheless() {
    // Node 2 does not know that it is a member.
    let config = |id| Config { check_quorum: true, ..plain(id) };
    let one = node_of(config(1), stored(members(&[1, 2], &[]), &[]));
    let two = node_of(config(2), stored(members(&[1], &[]), &[]));
    let mut net = Net::of([one, two]);
    assert!(!net.at(2).promotable());
    net.at(2).set_randomized_election_timeout(10);
    for _ in 0..10 {
        net.at(2).tick().unwrap();
    }
    net.campaign(1);
    assert_eq!((net.state(1), net.state(2), net.nodes[&2].lead), ((Leader, 1), (Follower, 1), 1));
}

/// A follower that hears its leader too late disturbs the cluster with plain elections, and does not with pre-votes.
#[test]
fn a_follower_that_missed_heartbeats_disrupts_unless_it_asks_first() {
    for pre_vote in [false, true] {
        let mut net = if pre_vote { checking_with_pre_vote(3) } else { checking(3) };
        net.campaign(1);
        net.at(3).set_randomized_election_timeout(12);
        for _ in 0..12 {
            net.at(3).tick().unwrap();
        }
        assert_eq!(net.state(3), if pre_vote { (PreCandidate, 1) } else { (Candidate, 2) });
        net.ignored.extend([MsgVote, MsgPreVote]); // its requests are slow
        net.settle();
        net.ignored.clear();
        // Now the leader's late heartbeat arrives.
        net.beat(1);
        if pre_vote {
            assert_eq!((net.state(1), net.state(3)), ((Leader, 1), (Follower, 1)));
        } else {
            assert_eq!((net.state(1), net.state(3)), ((Follower, 2), (Candidate, 2)), "its answer deposed the leader");
        }
    }
}

#[test]
fn with_pre_vote_the_lease_protects_the_leader_and_its_term() {
    let mut net = checking_with_pre_vote(3);
    net.campaign(1);
    net.campaign(3);
    assert_eq!((net.state(1), net.state(2), net.state(3)), ((Leader, 1), (Follower, 1), (PreCandidate, 1)));
    // Without a leader around, leases run out and the next one is elected.
    net.isolate(1);
    expire_lease(&mut net, 2);
    net.campaign(3);
    assert_eq!((net.state(2), net.state(3)), ((Follower, 2), (Leader, 2)));
    // A pre-vote of who came back late is refused.
    net.heal();
    net.beat(3);
    assert_eq!((net.state(1), net.state(3)), ((Follower, 2), (Leader, 2)));
    net.campaign(1);
    assert_eq!((net.state(2), net.state(3)), ((Follower, 2), (Leader, 2)));
}

/// Without it, a node that pre-votes below everybody's term would be neither heard nor heard of (etcd issue 8501).
#[test]
fn a_node_of_a_smaller_term_can_complete_an_election() {
    let mut net = Net::with(3, |config| config.pre_vote = true);
    net.campaign(1);
    net.isolate(3);
    net.propose(1, "3 misses this").unwrap();
    net.at(1).become_follower(1, NONE).unwrap();
    net.at(2).become_follower(1, NONE).unwrap();
    net.at(2).step(Message { from: 2, ..Message::of(MsgHup) }).unwrap();
    net.settle();
    net.at(1).set_randomized_election_timeout(100);
    assert_eq!((net.state(2), net.state(3)), ((Leader, 2), (Follower, 1)));
    // 1, which was elected in term 1, dies; 3 comes back and must be able to make 2 lead again, and the other way round.
    net.heal();
    net.isolate(1);
    net.campaign(3);
    assert_eq!(net.state(3), (Follower, 2), "its log is behind; the refusal brought it up to the term");
    net.at(2).become_follower(2, NONE).unwrap();
    net.campaign(2);
    assert_eq!((net.state(2), net.state(3)), ((Leader, 3), (Follower, 3)));
    net.beat(2);
    assert_eq!(net.nodes[&3].log_data(), ["3 misses this"]);
}

/// Nodes 1 and 2 pre-vote already, node 3 has been switched over while it was a candidate far ahead in terms and behind
/// in its log.
fn migration() -> Net {
    let mut net = Net::plain(3);
    net.campaign(1);
    net.isolate(3);
    net.propose(1, "some data").unwrap();
    net.campaign(3);
    net.campaign(3);
    assert_eq!(net.state(3), (Candidate, 3));
    net.nodes.values_mut().for_each(|node| node.config.pre_vote = true);
    net.nodes.values_mut().for_each(|node| node.config.check_quorum = true);
    net.heal();
    net
}

#[test]
fn a_migration_to_pre_vote_can_elect_even_when_the_only_one_ahead_is_behind_in_its_log() {
    let mut net = migration();
    net.isolate(1); // the leader dies in the middle of it
    expire_lease(&mut net, 2);
    net.campaign(3);
    assert_eq!((net.state(2), net.state(3)), ((Follower, 1), (PreCandidate, 3)));
    // 2 is refused once, from a later term, and takes that term over.
    net.campaign(2);
    assert_eq!(net.state(2), (Follower, 3));
    net.campaign(3);
    net.campaign(2);
    assert_eq!((net.state(2), net.state(3)), ((Leader, 4), (Follower, 4)));
}

#[test]
fn a_stuck_pre_candidate_is_freed_by_the_leader_it_cannot_hear() {
    let mut net = migration();
    net.campaign(3);
    net.campaign(3);
    assert_eq!((net.state(1), net.state(3)), ((Leader, 1), (PreCandidate, 3)));
    net.beat(1);
    assert_eq!((net.state(1).0, net.state(3).1), (Follower, 3), "the leader hears of the later term and yields");
    net.campaign(1);
    assert_eq!((net.state(1), net.state(3)), ((Leader, 4), (Follower, 4)));
}

#[test]
fn a_transfers_vote_passes_leases() {
    let mut one = node_with(1, &[1, 2, 3], |config| config.check_quorum = true);
    one.become_follower(1, 2).unwrap();
    let mut request = Message { index: 9, log_term: 1, ..message(MsgVote, 3, 2) };
    assert_eq!(one.hear(request.clone()), []);
    assert_eq!(one.term, 1);
    request.context = Bytes::from_static(b"CampaignTransfer");
    assert_eq!(kinds(&one.hear(request)), [MsgVoteResp]);
    assert_eq!((one.term, one.vote), (2, 3));
}

#[test]
fn who_forgets_its_leader_votes_at_once() {
    let mut one = node_with(1, &[1, 2, 3], |config| config.check_quorum = true);
    one.become_follower(1, 2).unwrap();
    one.election_elapsed = 4;
    one.step(Message::of(MsgForgetLeader)).unwrap();
    assert_eq!((one.lead, one.term, one.election_elapsed), (NONE, 1, 4), "the clock goes on");
    let request = Message { index: 9, log_term: 1, ..message(MsgVote, 3, 2) };
    assert!(!one.hear(request)[0].reject);
    // Where reads trust the lease, it must not be given up like that; and a leader does not forget itself.
    let mut one = node_with(1, &[1, 2, 3], |config| {
        config.check_quorum = true;
        config.read_only_option = ReadOnlyOption::LeaseBased;
    });
    one.become_follower(1, 2).unwrap();
    one.step(Message::of(MsgForgetLeader)).unwrap();
    assert_eq!(one.lead, 2);
    let mut one = leader(1, &[1, 2, 3]);
    one.step(Message::of(MsgForgetLeader)).unwrap();
    assert_eq!((one.lead, one.state), (1, Leader));
}
