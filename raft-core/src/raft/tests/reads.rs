//! Linearizable reads (thesis §6.4): a read is answered with an index that is not below anything that was committed
//! when it was asked, and only by who is sure to lead.

use bytes::Bytes;

use super::*;
use MessageType::*;
use StateType::{Follower, Leader};

fn read(context: &'static str) -> Message {
    Message { entries: vec![Entry::normal(context)].into(), ..Message::of(MsgReadIndex) }
}

/// What the node's application was told, as (index, context).
fn answers(one: &mut Node) -> Vec<(u64, Bytes)> {
    one.take_reads().0.into_iter().map(|read| (read.index, read.request_ctx)).collect()
}

fn heartbeat_answer(from: u64, counter: u64) -> Message {
    Message { context: Bytes::copy_from_slice(&counter.to_le_bytes()), ..message(MsgHeartbeatResp, from, 1) }
}

#[test]
fn reads_are_answered_wherever_they_are_asked_and_see_what_is_committed() {
    for lease in [false, true] {
        let mut net = Net::with(3, |config| {
            config.check_quorum = true;
            config.read_only_option = if lease { ReadOnlyOption::LeaseBased } else { ReadOnlyOption::Safe };
        });
        net.campaign(1);
        // A lease begins with a round of heartbeats.
        net.beat(1);
        for (round, id) in [1, 2, 3, 1, 2, 3].into_iter().enumerate() {
            for _ in 0..10 {
                net.propose(1, "x").unwrap();
            }
            net.seen.clear();
            net.tell(id, read("context")).unwrap();
            let index = 11 + round as u64 * 10;
            assert_eq!(answers(net.at(id)), [(index, "context".into())], "lease {lease} at {id}");
            assert_eq!(net.seen.contains(&MsgHeartbeat), !lease, "a lease saves the round trip");
        }
    }
}

#[test]
fn a_learner_gets_its_reads_answered_and_confirms_none() {
    let conf_state = members(&[1], &[2]);
    let mut net = Net::of([1, 2].map(|id| node_of(plain(id), stored(conf_state.clone(), &[]))));
    net.campaign(1);
    for id in [1, 2] {
        net.propose(1, "x").unwrap();
        net.tell(id, read("r")).unwrap();
        assert_eq!(answers(net.at(id)), [(id + 1, "r".into())]);
    }
    let mut net = Net::of([1, 2, 3].map(|id| node_of(plain(id), stored(members(&[1, 2], &[3]), &[]))));
    net.campaign(1);
    net.isolate(2);
    net.tell(1, read("r")).unwrap();
    assert_eq!(answers(net.at(1)), [], "1 and the learner are no quorum");
    net.heal();
    net.beat(1);
    assert_eq!(answers(net.at(1)).len(), 1, "the next heartbeat carries the counter again");
}

#[test]
fn a_cut_off_leader_answers_nothing_and_says_so_when_it_yields() {
    let mut net = Net::plain(3);
    net.campaign(1);
    net.isolate(1);
    net.tell(1, read("stale")).unwrap();
    net.campaign(2);
    net.propose(2, "news").unwrap();
    assert_eq!(answers(net.at(1)), []);
    net.heal();
    net.beat(2);
    assert_eq!(net.state(1).0, Follower);
    let (answered, dropped) = net.at(1).take_reads();
    assert_eq!((answered, dropped), (vec![], vec![Bytes::from("stale")]));
}

#[test]
fn a_new_leader_waits_for_its_first_commit() {
    for lease in [false, true] {
        let mut one = node_with(1, &[1, 2, 3], |config| {
            config.check_quorum = true;
            config.read_only_option = if lease { ReadOnlyOption::LeaseBased } else { ReadOnlyOption::Safe };
        });
        one.win();
        if lease {
            let beats = one.ticks(1);
            let beat = beats.iter().find(|m| m.kind() == Some(MsgHeartbeat)).unwrap();
            one.hear(Message { context: beat.context.clone(), ..message(MsgHeartbeatResp, 2, 1) });
        }
        assert_eq!(one.hear(read("early")), []);
        assert_eq!(one.hear(Message { from: 3, ..read("forwarded") }), []);
        assert_eq!((answers(&mut one), one.read_only.pending.len()), (vec![], 2));
        let sent = one.hear(ack(2, 1, 1));
        assert_eq!(sent.iter().any(|m| m.kind() == Some(MsgHeartbeat)), !lease);
        let mut answered = sent;
        if !lease {
            assert_eq!(answers(&mut one), []);
            answered = one.hear(heartbeat_answer(2, 2));
        }
        assert_eq!(answers(&mut one), [(1, "early".into())]);
        let answer = answered.iter().find(|m| m.kind() == Some(MsgReadIndexResp)).unwrap();
        assert_eq!((answer.to, answer.index, &answer.entries[0].data[..]), (3, 1, &b"forwarded"[..]));
    }
}

/// A lone voter too: what it finds in its log after a restart may be more than it knows to be committed.
#[test]
fn a_lone_leader_waits_for_its_first_commit() {
    let mut one = node_of(plain(1), stored(members(&[1], &[]), &[1, 1]));
    one.become_follower(1, NONE).unwrap();
    one.step(Message { from: 1, ..Message::of(MsgHup) }).unwrap();
    for promise in std::mem::take(&mut one.messages_after_append) {
        one.step(promise).unwrap();
    }
    assert_eq!((one.state, one.log.committed), (Leader, 0));
    one.step(read("r")).unwrap();
    assert_eq!(answers(&mut one), []);
    one.flush();
    assert_eq!(answers(&mut one), [(3, "r".into())]);
    // From then on at once.
    one.step(read("s")).unwrap();
    assert_eq!(answers(&mut one), [(3, "s".into())]);
}

/// The callers' contexts are not what confirms a read: the late answer to an earlier one, with the same context, must not
/// confirm the later one (etcd issue 20418).
#[test]
fn a_repeated_context_does_not_borrow_an_old_confirmation() {
    let mut one = leader(1, &[1, 2, 3]);
    one.hear(ack(2, 1, 1));
    let context_of = |sent: &[Message]| {
        let beat = sent.iter().find(|m| m.kind() == Some(MsgHeartbeat)).unwrap();
        u64::from_le_bytes(beat.context[..].try_into().unwrap())
    };
    let first = context_of(&one.hear(read("same")));
    one.hear(heartbeat_answer(2, first));
    assert_eq!(answers(&mut one), [(1, "same".into())]);
    let second = context_of(&one.hear(read("same")));
    assert_ne!(first, second);
    one.hear(heartbeat_answer(3, first));
    assert_eq!(answers(&mut one), [], "3's answer is to the first round");
    one.hear(heartbeat_answer(3, second));
    assert_eq!(answers(&mut one), [(1, "same".into())]);
}

#[test]
fn one_round_answers_all_reads_before_it_and_leaves_nothing_behind() {
    let mut one = leader(1, &[1, 2, 3]);
    one.hear(ack(2, 1, 1));
    for context in ["a", "b", "c"] {
        one.hear(read(context));
    }
    one.propose("x");
    one.hear(ack(2, 1, 2));
    one.hear(read("d"));
    one.hear(heartbeat_answer(2, 3));
    assert_eq!(answers(&mut one), [(1, "a".into()), (1, "b".into()), (1, "c".into())], "each at its own commit index");
    one.hear(heartbeat_answer(2, 1));
    assert_eq!(answers(&mut one), [], "an old answer takes nothing back and gives nothing");
    one.hear(heartbeat_answer(3, 4));
    assert_eq!(answers(&mut one), [(2, "d".into())]);
    assert_eq!(
        (one.read_only.waiting.len(), one.read_only.pending.len()),
        (0, 0),
        "nothing is kept of what is answered"
    );
    let beats = one.ticks(1);
    assert!(beats.iter().all(|beat| beat.context.is_empty()), "nor asked about again");
}

#[test]
fn a_smaller_quorum_confirms_what_it_has_confirmed_already() {
    use crate::pb::{ConfChange, ConfChangeType};
    let mut one = leader(1, &[1, 2, 3, 4, 5]);
    for from in [2, 3] {
        one.hear(ack(from, 1, 1));
    }
    one.hear(read("r"));
    one.hear(heartbeat_answer(2, 1));
    assert_eq!(answers(&mut one), []);
    for gone in [4, 5] {
        let change = ConfChange::new(ConfChangeType::ConfChangeRemoveNode, gone);
        one.apply_conf_change(&change.into_v2()).unwrap();
    }
    assert_eq!(answers(&mut one), [(1, "r".into())], "two of three");
}

#[test]
fn reads_that_nobody_can_answer_are_refused() {
    use crate::DropReason::NoLeader;
    let mut one = node(1, &[1, 2]);
    assert_eq!(one.step(read("r")), Err(Error::ReadDropped(NoLeader)));
    one.start_campaign();
    assert_eq!(one.step(read("r")), Err(Error::ReadDropped(NoLeader)));
}

#[test]
fn a_follower_takes_an_answer_with_exactly_one_context() {
    let mut one = node(1, &[1, 2]);
    one.become_follower(1, 2).unwrap();
    let entry = Entry::normal("r");
    for (entries, expected) in
        [(vec![], vec![]), (vec![entry.clone()], vec![(7, "r".into())]), (vec![entry.clone(), entry], vec![])]
    {
        one.step(Message { index: 7, entries: entries.into(), ..message(MsgReadIndexResp, 2, 1) }).unwrap();
        assert_eq!(answers(&mut one), expected);
    }
}
