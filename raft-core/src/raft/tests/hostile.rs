//! What no correct peer, disk or caller sends: each is refused, by an error that says what it is, and changes nothing.

use bytes::Bytes;

use super::*;
use crate::confchange::ConfChangeError;
use crate::pb::EntryType;
use crate::storage::StorageError;
use MessageType::*;

const HUGE: u64 = u64::MAX / 2 + 1;

fn refusal(one: &mut Node, message: Message) -> &'static str {
    let before = format!("{one:?}");
    match one.step(message) {
        Err(Error::Malformed { from: 2, what }) => {
            assert_eq!(format!("{one:?}"), before, "{what}: but something was used");
            what
        }
        other => panic!("not refused: {other:?}"),
    }
}

fn append(change: impl FnOnce(&mut Message)) -> Message {
    let mut append = Message { log_term: 1, index: 1, entries: entries_from(2, &[1, 2]), ..message(MsgApp, 2, 2) };
    change(&mut append);
    append
}

fn conf_entry(entry_type: EntryType, data: &'static [u8]) -> Entry {
    Entry { entry_type: entry_type as i32, term: 1, index: 2, data: data.into() }
}

/// Each refusal of `validate.rs`: what is said, and a message that differs from a good one in that respect alone.
#[test]
fn malformed_messages_are_refused_with_a_reason() {
    use EntryType::{EntryConfChange, EntryConfChangeV2};
    let good_snapshot = || snapshot_at(5, 1, members(&[1, 2], &[]));
    let snap = |snapshot: Option<Snapshot>| Message { snapshot: snapshot.map(Box::new), ..message(MsgSnap, 2, 2) };
    let with_entry = |entry: Entry| append(|m| m.entries = [entry].into());
    let prop = |entries: Vec<Entry>| Message { entries: entries.into(), ..message(MsgProp, 2, 0) };
    let read = |entries: Vec<Entry>| Message { entries: entries.into(), ..message(MsgReadIndex, 2, 0) };
    let (unknown, large) = ("its type is unknown", "a term or index is absurdly large");
    let (no_term, extra_term) = ("it carries no term", "it carries a term, but its type has none");
    let (gap, order) = ("its entries are not consecutive", "the terms of its entries are out of order");
    let undecodable = "a configuration change in it cannot be decoded";
    let odd_change = "a configuration change in it is of an unknown kind";
    let (no_snapshot, odd_snapshot) = ("it carries no snapshot", "the snapshot's index or term is impossible");
    let one_context = "a read carries exactly one entry, its context";
    for (what, bad) in [
        (unknown, Message { msg_type: 24, ..message(MsgApp, 2, 1) }),
        (unknown, Message { msg_type: -1, ..message(MsgApp, 2, 1) }),
        (large, message(MsgHeartbeat, 2, HUGE)),
        (large, Message { log_term: HUGE, ..message(MsgVote, 2, 1) }),
        (large, append(|m| m.index = HUGE)),
        (large, Message { commit: u64::MAX, ..message(MsgHeartbeat, 2, 1) }),
        (large, Message { reject: true, reject_hint: u64::MAX, ..ack(2, 1, 1) }),
        (no_term, message(MsgApp, 2, 0)),
        (no_term, message(MsgAppResp, 2, 0)),
        (no_term, message(MsgVote, 2, 0)),
        (no_term, message(MsgVoteResp, 2, 0)),
        (no_term, message(MsgPreVote, 2, 0)),
        (no_term, message(MsgPreVoteResp, 2, 0)),
        (no_term, message(MsgHeartbeat, 2, 0)),
        (no_term, message(MsgHeartbeatResp, 2, 0)),
        (no_term, Message { term: 0, ..snap(Some(good_snapshot())) }),
        (no_term, message(MsgTimeoutNow, 2, 0)),
        (no_term, message(MsgReadIndexResp, 2, 0)),
        (extra_term, Message { term: 1, ..prop(vec![Entry::default()]) }),
        (extra_term, Message { term: 1, ..read(vec![Entry::default()]) }),
        ("its previous entry is of a later term than the message", append(|m| m.log_term = 3)),
        (gap, append(|m| m.entries[0].index = 3)),
        (gap, append(|m| m.entries[1].index = 2)),
        (gap, append(|m| m.entries[1].index = u64::MAX)),
        (order, append(|m| m.entries[0].term = 0)),
        (order, append(|m| (m.entries[0].term, m.entries[1].term) = (2, 1))),
        (order, append(|m| (m.log_term, m.entries[0].term) = (2, 1))),
        ("its entries are of a later term than the message", append(|m| m.entries[1].term = 3)),
        ("an entry's type is unknown", with_entry(Entry { entry_type: 3, ..conf_entry(EntryConfChange, b"") })),
        ("an entry's type is unknown", prop(vec![Entry { entry_type: -1, ..Entry::default() }])),
        (undecodable, with_entry(conf_entry(EntryConfChange, b"\xff"))),
        (undecodable, prop(vec![Entry::default(), conf_entry(EntryConfChangeV2, b"\x12\x05")])),
        (odd_change, prop(vec![conf_entry(EntryConfChange, b"\x10\x07\x18\x01")])),
        (odd_change, prop(vec![conf_entry(EntryConfChangeV2, b"\x08\x09")])),
        ("a proposal without entries", prop(vec![])),
        (one_context, read(vec![])),
        (one_context, read(vec![Entry::default(), Entry::default()])),
        (no_snapshot, snap(None)),
        (no_snapshot, snap(Some(Snapshot::default()))),
        (odd_snapshot, snap(Some(snapshot_at(HUGE, 1, members(&[1], &[]))))),
        (odd_snapshot, snap(Some(snapshot_at(5, 0, members(&[1], &[]))))),
        (odd_snapshot, snap(Some(snapshot_at(5, 3, members(&[1], &[]))))),
    ] {
        for leads in [false, true] {
            let mut one = leader(1, &[1, 2, 3]);
            if !leads {
                one.become_follower(1, NONE).unwrap();
            }
            let shown = format!("{bad:?}");
            assert_eq!(refusal(&mut one, bad.clone()), what, "{shown}");
        }
    }
    // The good ones pass.
    let mut one = leader(1, &[1, 2, 3]);
    one.step(prop(vec![conf_entry(EntryConfChange, b"")])).unwrap();
    one.step(read(vec![Entry::default()])).unwrap();
    one.step(append(|_| {})).unwrap();
    one.step(snap(Some(good_snapshot()))).unwrap();
    assert_eq!(one.log.committed, 5);
}

#[test]
fn an_acknowledgement_of_what_the_leader_does_not_have_is_refused() {
    let mut one = leader(1, &[1, 2, 3]);
    assert_eq!(refusal(&mut one, ack(2, 1, 2)), "it acknowledges entries that the leader does not have");
    one.step(ack(2, 1, 1)).unwrap();
}

#[test]
fn the_confirmation_of_a_read_that_was_never_asked_for_is_refused() {
    let mut one = leader(1, &[1, 2, 3]);
    one.hear(ack(2, 1, 1));
    one.hear(Message { entries: vec![Entry::normal("r")].into(), ..Message::of(MsgReadIndex) });
    let confirm = |counter: u64| Message {
        context: Bytes::copy_from_slice(&counter.to_le_bytes()),
        ..message(MsgHeartbeatResp, 2, 1)
    };
    let what = Error::Malformed { from: 2, what: "it confirms reads that were never asked about" };
    assert_eq!(one.step(confirm(2)), Err(what));
    assert!(one.take_reads().0.is_empty());
    // Contexts of another length are not ours.
    one.step(Message { context: Bytes::from_static(b"1234567"), ..confirm(1) }).unwrap();
    assert!(one.take_reads().0.is_empty());
    one.step(confirm(1)).unwrap();
    assert_eq!(one.take_reads().0.len(), 1);
}

#[test]
fn entries_that_contradict_committed_ones_are_refused() {
    let mut one = node_of(plain(1), stored(members(&[1, 2], &[]), &[1, 1, 1]));
    one.hear(Message { log_term: 1, index: 3, commit: 2, ..message(MsgApp, 2, 1) });
    // The previous entry is the last committed one, so that the message is looked at; its entries begin earlier.
    let mut lie = Message { log_term: 1, index: 2, entries: entries_from(3, &[2]), ..message(MsgApp, 2, 2) };
    one.step(lie.clone()).expect("above the commit index entries may be replaced");
    one.flush();
    one.log.commit_to(3).unwrap();
    assert_eq!(one.log_terms(), [1, 1, 2]);
    (lie.term, lie.entries[0].term) = (3, 3);
    let foreign = Error::LogForeign { index: 3, own_term: 2, leader_term: 3 };
    assert_eq!(one.step(lie), Err(foreign), "below the commit index none may be another one");
    assert_eq!(one.log_terms(), [1, 1, 2]);
    let contradiction = one.log.maybe_append(2, EntryId { term: 1, index: 2 }, entries_from(3, &[3]), 3);
    let what = "its entries contradict committed ones";
    assert_eq!(contradiction, Err(Error::Malformed { from: 2, what }));
    assert_eq!(one.log_terms(), [1, 1, 2]);
}

/// The node had acknowledged up to 5 and comes back with 3: it says so, and does not help to elect anybody who lacks
/// what it has forgotten, until it has it again.
#[test]
fn a_node_that_lost_entries_says_so_and_neither_votes_nor_campaigns() {
    let mut one = node_of(plain(1), stored(members(&[1, 2, 3], &[]), &[1, 1, 1]));
    let lost = Err(Error::LogLost { have: 3, need: 5 });
    assert_eq!(one.step(Message { commit: 5, ..message(MsgHeartbeat, 2, 1) }), lost);
    assert_eq!((one.log.committed, one.messages.len()), (0, 0), "nothing is committed, nothing confirmed");
    assert!(!one.promotable());
    assert_eq!(one.start_campaign(), []);
    let request = |term| Message { log_term: 9, index: 9, ..message(MsgVote, 3, term) };
    assert!(one.hear(request(2))[0].reject);
    // The leader sends what is missing, part by part.
    one.hear(Message { log_term: 1, index: 3, entries: entries_from(4, &[1]), ..message(MsgApp, 2, 2) });
    assert!(one.hear(request(3))[0].reject);
    one.hear(Message { log_term: 1, index: 4, entries: entries_from(5, &[1]), ..message(MsgApp, 2, 3) });
    assert!(one.promotable());
    assert!(!one.hear(request(4))[0].reject);
    // A snapshot heals it too.
    let mut one = node_of(plain(1), stored(members(&[1, 2, 3], &[]), &[1, 1, 1]));
    one.step(Message { commit: 5, ..message(MsgHeartbeat, 2, 1) }).unwrap_err();
    let snapshot = Some(Box::new(snapshot_at(6, 1, members(&[1, 2, 3], &[]))));
    one.hear(Message { snapshot, ..message(MsgSnap, 2, 1) });
    assert!(one.promotable());
}

#[test]
fn a_commit_index_beyond_what_an_append_brings_is_not_believed() {
    let mut one = node(1, &[1, 2]);
    one.hear(Message { commit: 100, entries: entries_from(1, &[1]), ..message(MsgApp, 2, 1) });
    assert_eq!(one.log.committed, 1);
}

#[test]
fn a_snapshot_with_an_impossible_configuration_leaves_the_log_alone() {
    let mut one = node_of(plain(1), stored(members(&[1, 2], &[]), &[1, 1]));
    for conf_state in [members(&[1, 1], &[]), members(&[1, 2], &[2]), members(&[0, 1], &[])] {
        let snapshot = Some(Box::new(snapshot_at(9, 1, conf_state)));
        let result = one.step(Message { snapshot, ..message(MsgSnap, 2, 1) });
        assert!(matches!(result, Err(Error::ConfChange(_))), "{result:?}");
        assert_eq!((one.log_terms(), one.tracker.conf_state()), (vec![1, 1], members(&[1, 2], &[])));
    }
    let nobody = Message { snapshot: Some(Box::new(snapshot_at(9, 1, members(&[], &[1])))), ..message(MsgSnap, 2, 1) };
    assert_eq!(one.step(nobody), Err(Error::ConfChange(ConfChangeError::RemovedAllVoters)));
}

#[test]
fn hints_beyond_reason_do_not_move_a_probe_astray() {
    for (hint, log_term) in [(0, 0), (1, 9), (7, 1), (HUGE - 1, 1), (HUGE - 1, HUGE - 1)] {
        let mut one = leader(1, &[1, 2]);
        one.propose("a");
        one.progress_mut(2).next_index = 3;
        let sent = one.hear(Message { reject: true, reject_hint: hint, log_term, ..ack(2, 1, 2) });
        let progress = one.progress(2);
        assert!(progress.match_index == 0 && (1..=2).contains(&progress.next_index), "{hint} {log_term}: {progress}");
        assert_eq!(kinds(&sent), [MsgApp]);
    }
}

#[test]
fn storage_messages_and_unknown_senders_do_not_reach_the_protocol() {
    let mut one = leader(1, &[1, 2]);
    for kind in [MsgStorageAppend, MsgStorageAppendResp, MsgStorageApply, MsgStorageApplyResp] {
        assert_eq!(one.step(message(kind, 2, 1)), Err(Error::StepLocalMessage));
    }
    let before = format!("{one:?}");
    for kind in [MsgAppResp, MsgHeartbeatResp, MsgUnreachable, MsgSnapStatus, MsgTransferLeader] {
        one.step(message(kind, 9, 1)).unwrap();
        assert_eq!(format!("{one:?}"), before, "{kind:?}");
    }
}

#[test]
fn settings_and_states_that_cannot_be_are_refused_at_the_start() {
    type Change = fn(&mut Config);
    let bad: [(Change, &str); 9] = [
        (|c| c.id = 0, "id"),
        (|c| c.id = crate::LOCAL_APPEND_THREAD, "id"),
        (|c| c.id = crate::LOCAL_APPLY_THREAD, "id"),
        (|c| c.heartbeat_tick = 0, "heartbeat_tick"),
        (|c| c.election_tick = c.heartbeat_tick, "election_tick"),
        (|c| c.max_inflight_msgs = 0, "max_inflight_msgs"),
        (|c| (c.max_size_per_msg, c.max_inflight_bytes) = (10, 9), "max_inflight_bytes"),
        (|c| c.read_only_option = ReadOnlyOption::LeaseBased, "check_quorum"),
        (|c| (c.election_tick, c.heartbeat_tick) = (3, 4), "election_tick"),
    ];
    for (change, field) in bad {
        let mut config = plain(1);
        change(&mut config);
        match Raft::new(config, MemoryStorage::new()) {
            Err(Error::Config(what)) => assert!(what.starts_with(field), "{what}"),
            other => panic!("{field}: {other:?}"),
        }
    }
    // Sums of the largest values must not overflow.
    let mut one =
        node_with(1, &[1], |config| (config.election_tick, config.heartbeat_tick) = (usize::MAX, usize::MAX - 1));
    one.ticks(3);
    let mut storage = stored(members(&[1], &[]), &[1]);
    storage.set_hard_state(HardState { term: u64::MAX, vote: 0, commit: 0 });
    assert!(matches!(Raft::new(plain(1), storage), Err(Error::Storage(StorageError::Other(_)))));
}

#[test]
fn a_stored_state_that_its_log_contradicts_is_refused() {
    let mut storage = MemoryStorage::new();
    storage.apply_snapshot(snapshot_at(5, 1, members(&[1], &[]))).unwrap();
    storage.append(entries_from(6, &[1, 1])).unwrap();
    // Behind the snapshot it is merely old: the snapshot may have become durable first.
    for (commit, fine) in [(4, true), (5, true), (7, true), (8, false)] {
        storage.set_hard_state(HardState { term: 1, vote: 0, commit });
        match Raft::new(plain(1), storage.clone()) {
            Ok(one) => assert!(fine && one.log.committed == commit.max(5)),
            Err(error) => {
                assert!(!fine);
                assert_eq!(error, Error::HardStateOutOfRange { commit, last: 7 });
            }
        }
    }
    storage.set_hard_state(HardState { term: 1, vote: 0, commit: 6 });
    for (applied, fine) in [(0, true), (4, false), (5, true), (6, true), (7, false)] {
        let result = Raft::new(Config { applied, ..plain(1) }, storage.clone());
        assert_eq!(result.is_ok(), fine, "{applied}");
        if let Err(error) = result {
            assert_eq!(error, Error::AppliedOutOfRange { applied, first: 5, committed: 6 });
        }
    }
    let impossible = stored(members(&[1], &[1]), &[]);
    assert!(matches!(Raft::new(plain(1), impossible), Err(Error::ConfChange(_))));
}

#[test]
fn storage_threads_cannot_become_members() {
    for id in [crate::LOCAL_APPEND_THREAD, crate::LOCAL_APPLY_THREAD] {
        let mut one = leader(1, &[1, 2]);
        let change = crate::pb::ConfChange { node_id: id, ..Default::default() };
        let (kind, data) = crate::ConfChangeKind::V1(change).encode();
        let entries = vec![Entry { entry_type: kind as i32, data, ..Entry::default() }];
        let what = refusal(&mut one, Message { from: 2, entries: entries.into(), ..Message::of(MsgProp) });
        assert!(what.contains("storage thread"), "{what}");
        let restored = crate::confchange::restore(&members(&[1, id], &[]), 1, 1, 1);
        assert!(matches!(restored, Err(ConfChangeError::NotRestorable(_))));
        let peers = [crate::Peer { id, ..Default::default() }];
        assert!(matches!(crate::RawNode::bootstrap(plain(1), MemoryStorage::new(), &peers), Err(Error::Config(_))));
    }
}

#[test]
fn nobody_campaigns_for_a_term_that_would_be_refused() {
    for pre_vote in [false, true] {
        let mut one = node_with(1, &[1], |config| config.pre_vote = pre_vote);
        one.term = HUGE - 1;
        assert_eq!(one.start_campaign(), []);
        assert_eq!((one.term, one.state), (HUGE - 1, StateType::Follower));
    }
}

#[test]
fn reads_that_nobody_confirms_are_held_up_to_a_limit() {
    let mut one = leader(1, &[1, 2]);
    let read = || Message { entries: vec![Entry::normal("r")].into(), ..Message::of(MsgReadIndex) };
    let held = (0..70_000).take_while(|_| one.step(read()).is_ok()).count();
    assert_eq!(held, 65_536);
    assert_eq!(one.step(read()), Err(Error::ReadDropped(crate::DropReason::TooManyReads)));
}

#[test]
fn a_read_is_answered_by_the_leader_and_by_nobody_else() {
    let mut one = node(1, &[1, 2, 3]);
    one.hear(message(MsgHeartbeat, 2, 1));
    let answer =
        |from| Message { index: 0, entries: vec![Entry::normal("r")].into(), ..message(MsgReadIndexResp, from, 1) };
    one.hear(answer(3));
    assert!(one.read_only.answered.is_empty());
    one.hear(answer(2));
    assert_eq!(one.read_only.answered.len(), 1);
}
