//! A node's promises to itself count when they are durable, like everybody else's (etcd `raft.go`, msgsAfterAppend;
//! etcd issue 14370).

use super::*;
use StateType::{Candidate, Follower, Leader, PreCandidate};

/// The promises to itself that wait for storage.
fn take_own(one: &mut Node) -> Vec<Message> {
    let (own, others) = std::mem::take(&mut one.messages_after_append).into_iter().partition(|m| m.to == one.id);
    one.messages_after_append = others;
    own
}

fn hup() -> Message {
    Message { from: 1, ..Message::of(MessageType::MsgHup) }
}

#[test]
fn a_lone_voter_leads_and_commits_only_when_its_disk_has_answered() {
    let mut one = node(1, &[1]);
    one.step(hup()).unwrap();
    assert_eq!((one.state, one.tracker.votes.len()), (Candidate, 0), "its vote is not durable yet");
    for own in take_own(&mut one) {
        one.step(own).unwrap();
    }
    assert_eq!((one.state, one.log.committed), (Leader, 0), "its entry is not durable yet");
    for own in take_own(&mut one) {
        one.step(own).unwrap();
    }
    assert_eq!(one.log.committed, 1);
}

/// Found by the simulator (seed 57): a node led term 11, crashed before the term was on its disk, won term 11 again, and
/// two different entries had the same index and term.
#[test]
fn the_votes_of_the_others_do_not_make_a_leader_of_one_whose_own_vote_is_not_durable() {
    let mut one = node(1, &[1, 2, 3]);
    one.step(hup()).unwrap();
    let own = take_own(&mut one);
    for voter in [2, 3] {
        one.step(message(MessageType::MsgVoteResp, voter, 1)).unwrap();
    }
    assert_eq!(one.state, Candidate);
    for vote in own {
        one.step(vote).unwrap();
    }
    assert_eq!(one.state, Leader);
}

#[test]
fn the_leaders_own_progress_follows_its_disk() {
    let mut one = leader(1, &[1, 2]);
    let matched = one.progress(1).match_index;
    one.step(proposal("a")).unwrap();
    one.step(proposal("b")).unwrap();
    assert_eq!(one.progress(1).match_index, matched);
    // The other node alone is no quorum of two, whatever it has.
    one.step(ack(2, 1, 3)).unwrap();
    assert_eq!(one.log.committed, matched);
    one.flush();
    assert_eq!((one.progress(1).match_index, one.progress(1).next_index, one.log.committed), (3, 4, 3));
}

#[test]
fn ones_own_vote_after_a_lost_election_does_no_harm() {
    for pre_vote in [false, true] {
        let mut one = node_with(1, &[1, 2, 3], |config| config.pre_vote = pre_vote);
        one.step(hup()).unwrap();
        let votes = take_own(&mut one);
        assert_eq!(votes.len(), 1);
        let term = one.term.max(1);
        one.step(message(MessageType::MsgHeartbeat, 2, term)).unwrap();
        assert_eq!((one.state, one.lead), (Follower, 2));
        for vote in votes {
            one.step(vote).unwrap();
        }
        assert_eq!((one.state, one.lead, one.term), (Follower, 2, term));
    }
}

#[test]
fn ones_own_pre_vote_that_comes_after_the_candidacy_is_not_counted_as_a_vote() {
    let mut one = node_with(1, &[1, 2, 3], |config| config.pre_vote = true);
    one.step(hup()).unwrap();
    let late = take_own(&mut one);
    one.step(message(MessageType::MsgPreVoteResp, 2, 1)).unwrap();
    one.step(message(MessageType::MsgPreVoteResp, 3, 1)).unwrap();
    assert_eq!((one.state, one.term), (Candidate, 1), "two others are a majority already");
    let own_vote = take_own(&mut one);
    for vote in late {
        one.step(vote).unwrap();
    }
    assert_eq!((one.state, one.tracker.votes.len()), (Candidate, 0));
    // The vote proper, and one more, make it leader.
    one.step(message(MessageType::MsgVoteResp, 2, 1)).unwrap();
    assert_eq!(one.state, Candidate);
    for vote in own_vote {
        one.step(vote).unwrap();
    }
    assert_eq!(one.state, Leader);
}

#[test]
fn ones_own_acknowledgement_of_a_term_gone_by_is_ignored() {
    let mut one = leader(1, &[1, 2, 3]);
    one.step(proposal("lost")).unwrap();
    let late = take_own(&mut one);
    assert_eq!((late.len(), late[0].index, late[0].term), (1, 2, 1));
    // Another leader replaces the entry; then this node leads again, with another entry at that place.
    let append =
        Message { log_term: 1, index: 1, entries: entries_from(2, &[2]), ..message(MessageType::MsgApp, 2, 2) };
    one.hear(append);
    assert_eq!((one.state, one.log_terms()), (Follower, vec![1, 2]));
    one.win();
    let before = format!("{one:?}");
    for ack in late {
        one.step(ack).unwrap();
    }
    assert_eq!(format!("{one:?}"), before);
}

#[test]
fn votes_and_acknowledgements_to_others_wait_in_line_and_all_else_does_not() {
    let mut one = node_with(1, &[1, 2, 3], |config| config.pre_vote = true);
    one.step(Message { index: 9, log_term: 1, ..message(MessageType::MsgVote, 2, 1) }).unwrap();
    one.step(Message { index: 9, log_term: 1, reject: false, ..message(MessageType::MsgPreVote, 3, 2) }).unwrap();
    one.step(message(MessageType::MsgApp, 2, 1)).unwrap();
    one.step(message(MessageType::MsgHeartbeat, 2, 1)).unwrap();
    use MessageType::*;
    assert_eq!(kinds(&one.messages_after_append), [MsgVoteResp, MsgPreVoteResp, MsgAppResp]);
    assert_eq!(kinds(&one.messages), [MsgHeartbeatResp]);
    one.flush();
    one.step(hup()).unwrap();
    assert_eq!(kinds(&one.messages), [MsgPreVote, MsgPreVote]);
    assert_eq!((one.state, kinds(&one.messages_after_append)), (PreCandidate, vec![MsgPreVoteResp]));
}
