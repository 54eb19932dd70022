//! Leases (thesis §6.4.1): what a leader may do on the promises of its followers, and what these keep.

use bytes::Bytes;

use super::*;
use MessageType::*;

fn leases(config: &mut Config) {
    config.check_quorum = true;
    config.read_only_option = ReadOnlyOption::LeaseBased;
}

fn read(context: &'static str) -> Message {
    Message { entries: vec![Entry::normal(context)].into(), ..Message::of(MsgReadIndex) }
}

fn answered(one: &mut Node) -> usize {
    one.take_reads().0.len()
}

/// Leads 1, 2 and 3 with a lease that begins at its first tick, which was just now: 2 has answered that tick's heartbeat.
fn leader_with_lease() -> Node {
    let mut one = node_with(1, &[1, 2, 3], leases);
    one.win();
    one.hear(ack(2, 1, 1));
    let beats = one.ticks(1);
    one.hear(echo(2, &beats));
    one
}

/// The answer of `from` to the heartbeat that is among the messages.
fn echo(from: u64, sent: &[Message]) -> Message {
    let beat = sent.iter().find(|m| m.kind() == Some(MsgHeartbeat) && m.to == from).unwrap();
    Message { context: beat.context.clone(), ..message(MsgHeartbeatResp, from, beat.term) }
}

#[test]
fn a_lease_is_nine_tenths_of_an_election_timeout_long_and_counts_from_the_beat_that_was_answered() {
    let mut one = leader_with_lease();
    for _ in 0..7 {
        assert_eq!(one.hear(read("r")), [], "it asks nobody");
        assert_eq!(answered(&mut one), 1);
        one.ticks(1);
    }
    assert_eq!(answered(&mut one), 0);
    one.hear(read("r"));
    assert_eq!(answered(&mut one), 1, "the last tick of eight");
    one.ticks(1);
    let beats = one.hear(read("late"));
    assert_eq!(answered(&mut one), 0);
    one.hear(echo(3, &beats));
    assert_eq!(answered(&mut one), 1, "a round answers what the lease does not");
    one.hear(read("again"));
    assert_eq!(answered(&mut one), 1, "and renews it");
}

#[test]
fn an_old_answer_renews_nothing() {
    let mut one = leader_with_lease();
    let old = one.ticks(1);
    one.ticks(8);
    one.hear(echo(2, &old));
    one.hear(read("r"));
    assert_eq!(answered(&mut one), 0, "it was sent eight ticks ago");
}

#[test]
fn a_transfer_ends_the_lease_for_as_long_as_the_leader_leads() {
    let mut one = leader_with_lease();
    one.hear(message(MsgTransferLeader, 3, 0));
    for _ in 0..20 {
        let beats = one.ticks(1);
        one.hear(echo(2, &beats));
        one.hear(ack(2, 1, 1));
    }
    assert_eq!((one.state, one.lead_transferee), (StateType::Leader, NONE), "it was given up long ago");
    one.hear(read("r"));
    assert_eq!(answered(&mut one), 0, "but its request may still be under way");
}

#[test]
fn a_promise_outlives_the_leader_s_name_and_the_term() {
    let mut one = node_with(3, &[1, 2, 3], leases);
    one.hear(message(MsgHeartbeat, 1, 1));
    // Some answer out of a later term: without leases the node would be free to vote.
    one.hear(Message { reject: true, ..message(MsgPreVoteResp, 2, 5) });
    assert_eq!((one.term, one.lead), (5, NONE));
    one.set_randomized_election_timeout(19);
    let request = Message { index: 9, log_term: 5, ..message(MsgVote, 2, 6) };
    one.ticks(9);
    assert_eq!(one.hear(request.clone()), []);
    let of_its_term = Message { term: 5, ..request.clone() };
    let answers = one.hear(of_its_term.clone());
    assert!(kinds(&answers) == [MsgVoteResp] && answers[0].reject, "the term alone frees nobody");
    one.step(Message { from: 3, ..Message::of(MsgHup) }).unwrap();
    assert_eq!((one.term, one.state), (5, StateType::Follower), "nor does it stand itself");
    one.ticks(1);
    assert!(one.hear(request).iter().any(|m| m.kind() == Some(MsgVoteResp) && !m.reject));
}

#[test]
fn a_promise_is_made_when_its_term_is_durable_and_outlives_a_restart() {
    let mut one = node_with(3, &[1, 2, 3], leases);
    one.step(message(MsgHeartbeat, 1, 1)).unwrap();
    assert!(one.messages.is_empty());
    assert_eq!(kinds(&one.messages_after_append), [MsgHeartbeatResp]);
    let restarted = |storage| {
        let mut config = plain(3);
        leases(&mut config);
        node_of(config, storage)
    };
    let request = Message { index: 9, log_term: 1, ..message(MsgVote, 2, 2) };
    let mut again = restarted(stored(members(&[1, 2, 3], &[]), &[1]));
    again.set_randomized_election_timeout(19);
    again.ticks(9);
    assert_eq!(again.hear(request.clone()), []);
    again.ticks(1);
    assert_eq!(kinds(&again.hear(request.clone())), [MsgVoteResp]);
    let mut new = restarted(stored(members(&[1, 2, 3], &[]), &[]));
    assert_eq!(kinds(&new.hear(request)), [MsgVoteResp], "who never was in a term has promised nothing");
}

#[test]
fn an_answer_from_the_future_is_refused() {
    let mut one = leader_with_lease();
    let context: Bytes = [0, 100].map(u64::to_le_bytes).concat().into();
    let forged = Message { context, ..message(MsgHeartbeatResp, 2, 1) };
    assert!(matches!(one.step(forged), Err(Error::Malformed { from: 2, .. })));
}

#[test]
fn a_lone_voter_needs_no_answer() {
    let mut one = node_with(1, &[1], leases);
    one.step(Message { from: 1, ..Message::of(MsgHup) }).unwrap();
    one.flush();
    assert_eq!(one.hear(read("r")), []);
    assert_eq!(answered(&mut one), 1);
}
