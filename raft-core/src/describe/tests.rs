use proptest::prelude::*;

use super::*;
use crate::confchange::parse_changes;
use crate::pb::{ConfChange, SnapshotMetadata};

fn normal(term: u64, index: u64, data: &'static [u8]) -> Entry {
    Entry { term, index, ..Entry::normal(data) }
}

fn some_snapshot() -> Snapshot {
    let conf_state =
        ConfState { voters: vec![1, 26], voters_outgoing: vec![1], learners: vec![3], ..ConfState::default() };
    Snapshot { metadata: SnapshotMetadata { conf_state, index: 4, term: 2 }, data: "secret".into() }
}

#[test]
fn states() {
    assert_eq!(hard_state(&HardState { term: 1, vote: 0, commit: 0 }), "Term:1 Commit:0");
    assert_eq!(hard_state(&HardState { term: 1, vote: 26, commit: 3 }), "Term:1 Vote:26 Commit:3");
    let state = "Voters:[1 26] VotersOutgoing:[1] Learners:[3] LearnersNext:[] AutoLeave:false";
    assert_eq!(snapshot(&some_snapshot()), format!("Index:4 Term:2 ConfState:{state}"));
}

#[test]
fn entries_of_each_type() {
    assert_eq!(entry(&normal(1, 2, b"")), "1/2 EntryNormal \"\"");
    assert_eq!(entry_with(&normal(1, 2, b"abc"), &|data| format!("{} bytes", data.len())), "1/2 EntryNormal 3 bytes");
    let of = |entry_type: i32, data: Vec<u8>| entry(&Entry { entry_type, data: data.into(), ..normal(1, 2, b"") });
    let (v1, data) = ConfChangeKind::from(ConfChange::new(ConfChangeType::ConfChangeRemoveNode, 26)).encode();
    assert_eq!(of(v1 as i32, data.to_vec()), "1/2 EntryConfChange r26");
    let change = ConfChangeV2 { changes: parse_changes("v1 l2").unwrap(), ..ConfChangeV2::default() };
    let (v2, data) = ConfChangeKind::from(change).encode();
    assert_eq!(of(v2 as i32, data.to_vec()), "1/2 EntryConfChangeV2 v1 l2");
    assert_eq!(of(v2 as i32, Vec::new()), "1/2 EntryConfChangeV2");
    assert!(of(v2 as i32, vec![0xff]).starts_with("1/2 EntryConfChangeV2 conf change does not decode"));
    assert_eq!(of(42, vec![1]), "1/2 42");
    assert_eq!(entries(&[normal(1, 2, b"a"), normal(1, 3, b"b")]), "1/2 EntryNormal \"a\"\n1/3 EntryNormal \"b\"\n");
}

#[test]
fn messages_of_each_shape() {
    let mut one = Message { from: 1, to: 26, term: 3, log_term: 2, index: 9, ..Message::of(MessageType::MsgApp) };
    assert_eq!(message(&one), "1->1a MsgApp Term:3 Log:2/9");
    one.commit = 8;
    one.entries.push(normal(3, 10, b"x"));
    assert_eq!(message(&one), "1->1a MsgApp Term:3 Log:2/9 Commit:8 Entries:[3/10 EntryNormal \"x\"]");
    one.entries.push(normal(3, 11, b"y"));
    let two = "1->1a MsgApp Term:3 Log:2/9 Commit:8 Entries:[\n  3/10 EntryNormal \"x\"\n  3/11 EntryNormal \"y\"\n]";
    assert_eq!(message(&one), two);
    let refused = Message { reject: true, reject_hint: 7, from: 2, to: 1, ..Message::of(MessageType::MsgAppResp) };
    assert_eq!(message(&refused), "2->1 MsgAppResp Term:0 Log:0/0 Rejected (Hint: 7)");
    assert_eq!(message(&Message { msg_type: 99, ..Message::default() }), "None->None 99 Term:0 Log:0/0");
}

#[test]
fn messages_within_messages() {
    let inner = Message {
        from: LOCAL_APPLY_THREAD,
        to: 1,
        entries: vec![normal(1, 1, b"a"), normal(1, 2, b"b")].into(),
        ..Message::of(MessageType::MsgStorageApplyResp)
    };
    let mut outer = Message { from: 1, to: LOCAL_APPEND_THREAD, vote: 2, ..Message::of(MessageType::MsgStorageAppend) };
    outer.snapshot = Some(Box::default());
    assert_eq!(message(&outer), "1->AppendThread MsgStorageAppend Term:0 Log:0/0 Vote:2", "an empty snapshot is none");
    outer.snapshot = Some(Box::new(some_snapshot()));
    outer.responses = vec![inner, Message { from: 1, to: 1, ..Message::of(MessageType::MsgVoteResp) }];
    let expected = "1->AppendThread MsgStorageAppend Term:0 Log:0/0 Vote:2\n\
        \x20 Snapshot: Index:4 Term:2 ConfState:Voters:[1 26] VotersOutgoing:[1] Learners:[3] LearnersNext:[] AutoLeave:false Responses:[\n\
        \x20 ApplyThread->1 MsgStorageApplyResp Term:0 Log:0/0 Entries:[\n\
        \x20   1/1 EntryNormal \"a\"\n\
        \x20   1/2 EntryNormal \"b\"\n\
        \x20 ]\n\
        \x20 1->1 MsgVoteResp Term:0 Log:0/0\n\
        ]";
    assert_eq!(message(&outer), expected);
}

#[test]
fn configuration_changes() {
    let mut change = ConfChangeV2::default();
    assert_eq!(conf_change(&change), "transition:ConfChangeTransitionAuto");
    change.transition = 2;
    change.changes = parse_changes("v3 u26").unwrap();
    change.context = "a\nb".into();
    let expected = "transition:ConfChangeTransitionJointExplicit changes:{type:ConfChangeAddNode node_id:3} \
                    changes:{type:ConfChangeUpdateNode node_id:26} context:\"a\\nb\"";
    assert_eq!(conf_change(&change), expected);
}

#[test]
fn quotes_as_go_does() {
    for (bytes, expected) in [
        (&b""[..], r#""""#),
        (b"foo bar", r#""foo bar""#),
        (b"'\"\\", r#""'\"\\""#),
        (b"\x07\x08\x0c\n\r\t\x0b", r#""\a\b\f\n\r\t\v""#),
        (b"\x00\x1b\x7f", r#""\x00\x1b\x7f""#),
        (b"\xff\xc3", r#""\xff\xc3""#),
        ("é∞日e\u{301}".as_bytes(), "\"é∞日e\u{301}\""),
        ("\u{a0}\u{ad}\u{200b}\u{feff}\u{85}".as_bytes(), r#""\u00a0\u00ad\u200b\ufeff\u0085""#),
        ("\u{fffd}\u{1f600}\u{e0001}".as_bytes(), "\"\u{fffd}\u{1f600}\\U000e0001\""),
    ] {
        assert_eq!(quote(bytes), expected);
    }
}

proptest! {
    #[test]
    fn quoted_bytes_are_one_printable_line(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let quoted = quote(&bytes);
        prop_assert!(quoted.starts_with('"') && quoted.ends_with('"') && quoted.len() >= 2);
        prop_assert!(!quoted.chars().any(char::is_control));
    }
}
