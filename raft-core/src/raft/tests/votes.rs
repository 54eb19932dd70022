//! How a vote is cast (Raft paper §5.2, §5.4.1): term, earlier votes, the log.

use super::*;
use StateType::{Candidate, Follower, Leader, PreCandidate};

fn request(kind: MessageType, from: u64, term: u64, log_term: u64, index: u64) -> Message {
    Message { log_term, index, ..message(kind, from, term) }
}

/// A node with the log [1, 2] in term 2, in the given role, whose clock has run for a while.
fn in_role(role: StateType) -> Node {
    let config = Config { pre_vote: role == PreCandidate, ..plain(1) };
    let mut one = node_of(config, stored(members(&[1, 2, 3], &[]), &[1, 2]));
    match role {
        Follower => one.become_follower(2, NONE).unwrap(),
        PreCandidate | Candidate => drop(one.start_campaign()),
        Leader => one.win(),
    }
    one.election_elapsed = 3;
    one
}

#[test]
fn a_vote_of_a_later_term_is_granted_in_every_role() {
    for role in [Follower, PreCandidate, Candidate, Leader] {
        let mut one = in_role(role);
        let term = one.term + 1;
        let answers = one.hear(request(MessageType::MsgVote, 2, term, 3, 42));
        assert_eq!(kinds(&answers), [MessageType::MsgVoteResp]);
        let answer = &answers[0];
        assert_eq!((answer.to, answer.term, answer.reject), (2, term, false), "{role}");
        assert_eq!((one.state, one.term, one.vote, one.election_elapsed), (Follower, term, 2, 0), "{role}");
        assert_eq!(one.log.storage.initial_state().unwrap().0.vote, 2, "a vote is durable before it is sent");
    }
}

#[test]
fn a_pre_vote_of_a_later_term_is_granted_in_every_role_and_changes_nothing() {
    for role in [Follower, PreCandidate, Candidate, Leader] {
        let mut one = in_role(role);
        let before = (one.state, one.term, one.vote, one.lead, one.election_elapsed);
        let asked = one.term + 1;
        let answers = one.hear(request(MessageType::MsgPreVote, 2, asked, 3, 42));
        assert_eq!(kinds(&answers), [MessageType::MsgPreVoteResp]);
        assert_eq!((answers[0].term, answers[0].reject), (asked, false), "it carries the term that was asked about");
        assert_eq!((one.state, one.term, one.vote, one.lead, one.election_elapsed), before, "{role}");
    }
}

/// Own log [2, 2], that is entry 2 of term 2. Whose vote is given, which log the candidate has, granted?
#[test]
fn who_gets_a_vote() {
    for (role, log_term, index, vote, granted) in [
        (Follower, 0, 0, NONE, false),
        (Follower, 1, 1, NONE, false),
        (Follower, 1, 9, NONE, false),
        (Follower, 2, 0, NONE, false),
        (Follower, 2, 1, NONE, false),
        (Follower, 2, 2, NONE, true),
        (Follower, 2, 3, NONE, true),
        (Follower, 3, 0, NONE, true),
        (Follower, 3, 2, NONE, true),
        // Given to the asker already: the same again.
        (Follower, 2, 2, 2, true),
        (Follower, 2, 1, 2, false),
        // Given to somebody else.
        (Follower, 2, 2, 3, false),
        (Follower, 3, 9, 3, false),
        // These have voted for themselves, or follow somebody.
        (Leader, 3, 3, 1, false),
        (Candidate, 3, 3, 1, false),
        (PreCandidate, 3, 3, 1, false),
    ] {
        for kind in [MessageType::MsgVote, MessageType::MsgPreVote] {
            let mut one = node_of(plain(1), stored(members(&[1, 2, 3], &[]), &[2, 2]));
            one.state = role;
            one.vote = vote;
            one.term = 3;
            one.election_elapsed = 5;
            let answers = one.hear(request(kind, 2, 3, log_term, index));
            assert_eq!(answers.len(), 1);
            let case = format!("{kind:?} {role} {log_term}/{index} vote={vote}");
            assert_eq!((answers[0].reject, answers[0].term), (!granted, 3), "{case}");
            let voted = if granted && kind == MessageType::MsgVote { 2 } else { vote };
            assert_eq!(one.vote, voted, "{case}");
            let restarted = granted && kind == MessageType::MsgVote;
            assert_eq!(one.election_elapsed, if restarted { 0 } else { 5 }, "{case}: only a vote restarts the clock");
        }
    }
}

#[test]
fn who_follows_a_leader_votes_for_nobody_else_in_its_term() {
    for (kind, reject) in [(MessageType::MsgVote, true), (MessageType::MsgPreVote, true)] {
        let mut one = node(1, &[1, 2, 3]);
        one.become_follower(3, 2).unwrap();
        assert_eq!(one.hear(request(kind, 3, 3, 3, 9))[0].reject, reject, "{kind:?}");
    }
}

#[test]
fn requests_of_an_older_term_are_not_considered() {
    let mut one = in_role(Follower);
    assert_eq!(one.hear(request(MessageType::MsgVote, 2, 1, 9, 9)), [], "a vote: silence");
    let answers = one.hear(request(MessageType::MsgPreVote, 2, 1, 1, 9));
    assert_eq!(kinds(&answers), [MessageType::MsgPreVoteResp]);
    assert_eq!((answers[0].reject, answers[0].term), (true, 2), "a pre-vote: a refusal that tells the asker the term");
    assert_eq!((one.vote, one.term), (NONE, 2));
}

#[test]
fn requests_carry_the_logs_end() {
    for (terms, log_term, index) in [(&[1][..], 1, 1), (&[1, 2], 2, 2), (&[1, 1, 4], 4, 3), (&[], 0, 0)] {
        let mut one = node_of(plain(1), stored(members(&[1, 2, 3], &[]), terms));
        let asked = one.term + 1;
        let requests = one.ticks(20).into_iter().take(2).collect::<Vec<_>>();
        assert_eq!(kinds(&requests), [MessageType::MsgVote; 2]);
        for (request, to) in requests.iter().zip([2, 3]) {
            let said = (request.to, request.term, request.log_term, request.index, request.context.len());
            assert_eq!(said, (to, asked, log_term, index, 0), "{terms:?}");
        }
    }
}

/// Raft paper §5.1. Also for a node without leases, which stays silent on whatever is of the past.
#[test]
fn messages_of_an_older_term_change_nothing() {
    for role in [Follower, Candidate, Leader] {
        for kind in [
            MessageType::MsgApp,
            MessageType::MsgHeartbeat,
            MessageType::MsgAppResp,
            MessageType::MsgVoteResp,
            MessageType::MsgHeartbeatResp,
            MessageType::MsgTimeoutNow,
            MessageType::MsgReadIndexResp,
        ] {
            let mut one = in_role(role);
            let before = format!("{one:?}");
            let mut old = message(kind, 2, 1);
            if kind == MessageType::MsgApp {
                (old.log_term, old.index, old.commit) = (1, 1, 9);
                old.entries = entries_from(2, &[1]);
            }
            assert_eq!(one.hear(old), [], "{role} {kind:?}");
            assert_eq!(format!("{one:?}"), before, "{role} {kind:?}");
        }
    }
}
