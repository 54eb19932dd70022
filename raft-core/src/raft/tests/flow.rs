//! How fast a leader sends: probes, windows by count and by bytes, optimistic `next`, and its own quota of uncommitted
//! bytes (etcd `tracker/progress.go`, `tracker/inflights.go`).

use super::*;
use crate::error::DropReason;
use MessageType::*;

/// A leader of 1 and 2 with 2 streaming: everything up to its empty entry is acknowledged.
fn streaming(change: impl FnOnce(&mut Config)) -> Node {
    let mut one = node_with(1, &[1, 2], change);
    one.win();
    one.hear(ack(2, 1, 1));
    assert_eq!(one.progress(2).state, ProgressState::Replicate);
    one
}

fn payloads(messages: &[Message]) -> Vec<usize> {
    messages.iter().map(|message| message.entries.len()).collect()
}

#[test]
fn a_probe_is_answered_before_the_next_one_goes() {
    let mut one = leader(1, &[1, 2]);
    one.progress_mut(2).become_probe();
    // However much is proposed and whatever time passes, until the heartbeat's answer or an acknowledgement.
    for round in 0..3 {
        assert_eq!(payloads(&one.propose("x")), [1 + 3 * round + 1], "from the last known match on");
        assert!(one.progress(2).msg_app_flow_paused);
        assert_eq!(one.progress(2).next_index, 1, "probing does not advance it");
        assert_eq!(one.propose("x"), []);
        let beats = one.ticks(1);
        assert_eq!(kinds(&beats), [MsgHeartbeat], "heartbeats are not held back");
        // The heartbeat's answer lets exactly one more go.
        assert_eq!(payloads(&one.hear(message(MsgHeartbeatResp, 2, 1))), [1 + 3 * round + 2]);
        assert!(one.progress(2).msg_app_flow_paused);
        one.hear(proposal("x"));
        one.progress_mut(2).msg_app_flow_paused = false;
    }
    assert_eq!(
        one.hear(ack(2, 1, 10)),
        [Message { from: 1, to: 2, term: 1, log_term: 1, index: 10, commit: 10, ..Message::of(MsgApp) }]
    );
    assert_eq!((one.progress(2).state, one.progress(2).next_index), (ProgressState::Replicate, 11));
}

#[test]
fn a_stream_does_not_wait_and_counts_on_arrival() {
    let mut one = streaming(|_| {});
    for (count, data) in (1..).zip(["a", "b", "c"]) {
        let sent = one.propose(data);
        assert_eq!((payloads(&sent), sent[0].index), (vec![1], count));
        assert_eq!((one.progress(2).match_index, one.progress(2).next_index), (1, count + 2));
    }
}

#[test]
fn nothing_but_heartbeats_goes_to_a_node_that_waits_for_a_snapshot() {
    let mut one = leader(1, &[1, 2]);
    one.progress_mut(2).become_snapshot(10);
    assert_eq!(one.propose("x"), []);
    assert_eq!(kinds(&one.ticks(1)), [MsgHeartbeat]);
    assert_eq!(one.hear(message(MsgHeartbeatResp, 2, 1)), []);
}

#[test]
fn an_acknowledgement_or_a_heartbeats_answer_resumes_a_probe() {
    for answer in [message(MsgHeartbeatResp, 2, 1), ack(2, 1, 1)] {
        let mut one = leader(1, &[1, 2]);
        one.propose("x");
        assert!(one.progress(2).is_paused());
        assert_eq!(kinds(&one.hear(answer.clone())).first(), Some(&MsgApp), "{answer:?}");
    }
    // Of two followers, only the one that answered goes on.
    let mut one = leader(1, &[1, 2, 3]);
    one.propose("x");
    one.hear(ack(2, 1, 1));
    assert_eq!(one.propose("y").iter().map(|m| m.to).collect::<Vec<_>>(), [2]);
    let resumed = one.hear(ack(3, 1, 1));
    assert_eq!((resumed[0].to, resumed[0].entries.len()), (3, 2), "the other gets all that it missed");
}

#[test]
fn the_window_is_limited_by_count() {
    let mut one = streaming(|config| config.max_inflight_msgs = 3);
    for _ in 0..3 {
        assert_eq!(payloads(&one.propose("x")), [1]);
    }
    assert!(one.progress(2).is_paused());
    for _ in 0..3 {
        assert_eq!(one.propose("x"), [], "the window is full");
    }
    // An answer in the middle frees what it covers; all that waits goes in one message.
    let sent = one.hear(ack(2, 1, 3));
    assert_eq!((payloads(&sent).iter().sum::<usize>(), sent.last().unwrap().index), (3, 4));
    assert_eq!(one.progress(2).inflights.count(), 2);
}

#[test]
fn the_window_moves_forward_with_acknowledgements_and_ignores_old_ones() {
    let mut one = streaming(|config| config.max_inflight_msgs = 4);
    (0..4).for_each(|_| drop(one.propose("x")));
    for index in 2..20 {
        one.hear(ack(2, 1, index));
        assert_eq!(payloads(&one.propose("x")), [1]);
        assert!(one.progress(2).inflights.is_full());
        for old in 0..index {
            one.hear(ack(2, 1, old));
            assert!(one.progress(2).inflights.is_full(), "{old} frees nothing after {index}");
        }
    }
}

#[test]
fn a_heartbeats_answer_lets_one_empty_message_through_a_full_window() {
    let mut one = streaming(|config| config.max_inflight_msgs = 3);
    (0..3).for_each(|_| drop(one.propose("x")));
    for _ in 0..3 {
        one.propose("x");
        let sent = one.hear(message(MsgHeartbeatResp, 2, 1));
        assert_eq!(payloads(&sent), [0], "it tells whether the stream arrived, without adding to it");
        assert!(one.progress(2).is_paused());
        assert_eq!(one.propose("x"), []);
    }
}

#[test]
fn the_window_is_limited_by_bytes() {
    let mut one = streaming(|config| {
        config.max_size_per_msg = 2048;
        config.max_inflight_bytes = 3333;
    });
    let (large, huge) = (vec![b'a'; 1000], vec![b'b'; 5000]);
    let mut sent = Vec::new();
    for data in [&large, &large, &large, &large, &huge, &huge] {
        sent.extend(one.hear(proposal(data.clone())));
    }
    // A fourth may start below the limit, and overshoots.
    assert_eq!(payloads(&sent), [1, 1, 1, 1]);
    assert_eq!((one.progress(2).inflights.bytes(), one.progress(2).inflights.is_full()), (4000, true));
    // Room for some of it: one huge entry is more than a message's limit, but one always passes.
    let sent = one.hear(ack(2, 1, 4));
    assert_eq!(payloads(&sent).iter().sum::<usize>(), 1);
    assert_eq!(one.progress(2).inflights.bytes(), 6000);
    assert_eq!(payloads(&one.hear(ack(2, 1, 6))).iter().sum::<usize>(), 1, "then the next one");
}

#[test]
fn a_messages_size_is_limited_but_one_entry_always_passes() {
    for (limit, expected) in [(0, &[1usize, 1, 1, 1][..]), (30, &[2, 2]), (NO_LIMIT, &[4])] {
        let mut one = node_with(1, &[1, 2], |config| config.max_size_per_msg = limit);
        one.win();
        (0..3).for_each(|_| drop(one.propose("12345")));
        // Entries 1 to 4: 6 bytes empty, 13 with data. 2 begins from nothing.
        one.progress_mut(2).become_probe();
        let mut sent = one.hear(ack(2, 1, 0));
        sent.retain(|message| !message.entries.is_empty());
        assert_eq!(payloads(&sent), expected, "{limit}");
    }
}

#[test]
fn unreachable_turns_a_stream_into_probes() {
    let mut one = streaming(|_| {});
    one.propose("a");
    one.propose("b");
    assert_eq!(one.progress(2).next_index, 4);
    one.hear(Message { from: 2, ..Message::of(MsgUnreachable) });
    let progress = one.progress(2);
    assert_eq!((progress.state, progress.next_index, progress.match_index), (ProgressState::Probe, 2, 1));
    // In other states it says nothing new.
    one.progress_mut(2).become_snapshot(9);
    one.hear(Message { from: 2, ..Message::of(MsgUnreachable) });
    assert_eq!(one.progress(2).state, ProgressState::Snapshot);
}

#[test]
fn what_a_new_progress_and_each_sending_make_of_next() {
    for (state, next, expected) in [(ProgressState::Replicate, 2, 5), (ProgressState::Probe, 2, 2)] {
        let mut one = node_of(plain(1), stored(members(&[1, 2], &[]), &[1, 1, 1]));
        one.become_follower(1, NONE).unwrap();
        one.win();
        let progress = one.progress_mut(2);
        progress.state = state;
        progress.next_index = next;
        progress.msg_app_flow_paused = false;
        assert!(one.maybe_send_append(2, true).unwrap());
        assert_eq!(one.progress(2).next_index, expected, "{state}");
    }
}

#[test]
fn an_acknowledged_peer_in_probe_streams_again_though_nothing_is_new() {
    let mut one = streaming(|_| {});
    one.progress_mut(2).become_probe();
    one.hear(ack(2, 1, 1));
    assert_eq!(one.progress(2).state, ProgressState::Replicate);
}

#[test]
fn a_leader_takes_no_more_than_its_quota_of_uncommitted_bytes() {
    let mut one = node_with(1, &[1, 2, 3], |config| config.max_uncommitted_entries_size = 8 * 4);
    one.win();
    let full = Err(Error::ProposalDropped(DropReason::UncommittedLimit));
    for _ in 0..8 {
        one.step(proposal("data")).unwrap();
    }
    assert_eq!(one.step(proposal("x")), full);
    one.step(proposal("")).expect("what weighs nothing is never refused");
    assert_eq!(one.flush().iter().filter(|m| m.to == 2).count(), 0, "2 is probed, nothing more goes to it");
    // Committed is not enough, applied is what counts.
    one.hear(ack(2, 1, 10));
    assert_eq!((one.log.committed, one.step(proposal("x"))), (10, full.clone()));
    one.apply();
    assert_eq!(one.uncommitted_bytes, 0);
    // However large, one passes when nothing waits; then not even a small one.
    one.step(proposal(vec![0; 1000])).unwrap();
    assert_eq!(one.step(proposal("x")), full);
    // A new leadership counts anew: its tail is its predecessor's, and what it never counted it cannot owe.
    one.become_follower(2, NONE).unwrap();
    assert_eq!(one.uncommitted_bytes, 0);
    one.flush();
    one.win();
    one.hear(ack(2, 3, 12));
    one.apply();
    assert_eq!(one.uncommitted_bytes, 0, "it does not fall below zero");
}
