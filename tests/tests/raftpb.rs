//! The messages of `raft_core::pb` against the outside: bytes that etcd's releases wrote, and the schema file that this
//! project ships.
#![forbid(unsafe_code)]

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};
use raft_core::pb::*;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("test data")).collect()
}

/// Each value as etcd 3.4/3.5, 3.6 and 3.7 write it. All three decode to the same.
fn check_golden<M: prost::Message + Default + PartialEq + std::fmt::Debug>(value: &M, spellings: [&str; 3]) {
    for spelling in spellings {
        let decoded = M::decode(hex(spelling).as_slice()).expect(spelling);
        assert!(decoded == *value, "{spelling} decodes to {decoded:?}, not {value:?}");
    }
}

/// Equal as messages: an empty snapshot is none.
fn check_golden_message(value: &Message, spellings: [&str; 3]) {
    for spelling in spellings {
        let mut decoded = Message::decode(hex(spelling).as_slice()).expect(spelling);
        decoded.snapshot = decoded.take_snapshot();
        assert_eq!(decoded, *value, "{spelling}");
    }
}

#[test]
fn bytes_of_three_generations_of_etcd_decode_to_equal_values() {
    check_golden(&HardState::default(), ["080010001800", "080010001800", "080010001800"]);
    check_golden(&HardState { term: 1, vote: 2, commit: 3 }, ["080110021803"; 3]);
    let entry = Entry { term: 1, index: 2, data: Bytes::from_static(b"a"), ..Entry::default() };
    check_golden(&entry, ["080010011802220161", "080010011802220161", "10011802220161"]);
    let empty = Entry { term: 1, index: 11, ..Entry::default() };
    check_golden(&empty, ["08001001180b", "08001001180b", "1001180b"]);
    check_golden(&ConfState::default(), ["2800"; 3]);
    let voters = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    check_golden(&voters, ["0801080208032800"; 3]);
    let snapshot =
        Snapshot { metadata: SnapshotMetadata { conf_state: voters, index: 11, term: 1 }, ..Snapshot::default() };
    check_golden(&snapshot, ["120e0a080801080208032800100b1801"; 3]);
    check_golden(&Snapshot::default(), ["12080a02280010001800"; 3]);
    check_golden(&ConfChange::default(), ["080010001800", "080010001800", ""]);
    let add = ConfChange { node_id: 2, ..ConfChange::default() };
    check_golden(&add, ["080010001802", "080010001802", "10001802"]);
    check_golden(&ConfChangeV2::default(), ["0800"; 3]);
    let explicit = ConfChangeV2 {
        transition: ConfChangeTransition::ConfChangeTransitionJointExplicit as i32,
        changes: vec![
            ConfChangeSingle { change_type: ConfChangeType::ConfChangeAddNode as i32, node_id: 2 },
            ConfChangeSingle { change_type: ConfChangeType::ConfChangeRemoveNode as i32, node_id: 3 },
        ],
        ..ConfChangeV2::default()
    };
    check_golden(&explicit, ["0802120408001002120408011003"; 3]);
}

#[test]
fn messages_of_three_generations_of_etcd_decode_to_equal_values() {
    check_golden_message(
        &Message::default(),
        [
            "08001000180020002800300040004a0a12080a0228001000180050005800",
            "0800100018002000280030004000500058006800",
            "",
        ],
    );
    let heartbeat = Message { from: 1, to: 2, term: 3, commit: 5, ..Message::of(MessageType::MsgHeartbeat) };
    check_golden_message(
        &heartbeat,
        [
            "08081002180120032800300040054a0a12080a0228001000180050005800",
            "0808100218012003280030004005500058006800",
            "08081002180120034005",
        ],
    );
    let append = Message {
        from: 1,
        to: 2,
        term: 1,
        log_term: 1,
        index: 10,
        commit: 9,
        entries: [Entry { term: 1, index: 11, data: Bytes::from_static(b"foo"), ..Entry::default() }].into(),
        ..Message::of(MessageType::MsgApp)
    };
    check_golden_message(
        &append,
        [
            "08031002180120012801300a3a0b08001001180b2203666f6f40094a0a12080a0228001000180050005800",
            "08031002180120012801300a3a0b08001001180b2203666f6f4009500058006800",
            "08031002180120012801300a3a091001180b2203666f6f4009",
        ],
    );
}

/// What is written is the spelling of etcd 3.4 to 3.6, so that those read it as their own.
#[test]
fn written_bytes_are_those_of_etcd() {
    assert_eq!(HardState { term: 1, vote: 2, commit: 3 }.encode_to_vec(), hex("080110021803"));
    let entry = Entry { term: 1, index: 2, data: Bytes::from_static(b"a"), ..Entry::default() };
    assert_eq!(entry.encode_to_vec(), hex("080010011802220161"));
    assert_eq!(ConfState { voters: vec![1, 2, 3], ..ConfState::default() }.encode_to_vec(), hex("0801080208032800"));
    assert_eq!(ConfChange { node_id: 2, ..ConfChange::default() }.encode_to_vec(), hex("080010001802"));
    assert_eq!(Snapshot::default().encode_to_vec(), hex("12080a02280010001800"));
    let heartbeat = Message { from: 1, to: 2, term: 3, commit: 5, ..Message::of(MessageType::MsgHeartbeat) };
    // 3.4's form but for the empty snapshot, 3.6's but for the vote: each reads the other's absence as zero.
    assert_eq!(heartbeat.encode_to_vec(), hex("080810021801200328003000400550005800"));
    let with_empty_snapshot = Message { snapshot: Some(Box::default()), ..heartbeat };
    assert_eq!(
        with_empty_snapshot.encode_to_vec(),
        hex("08081002180120032800300040054a0a12080a0228001000180050005800")
    );
}

#[test]
fn lists_of_ids_may_be_packed() {
    let packed = ConfState::decode(hex("0a030102032800").as_slice()).expect("packed");
    assert_eq!(packed.voters, vec![1, 2, 3]);
}

#[test]
fn an_unknown_type_is_no_other_type() {
    let message = Message::decode(hex("0863").as_slice()).expect("type 99");
    assert_eq!(message.kind(), None);
    assert_eq!(Entry::decode(hex("0809").as_slice()).expect("type 9").kind(), None);
}

fn schema() -> DescriptorPool {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../raft-core/proto");
    let files = protox::compile(["raft.proto"], [folder]).expect("the schema compiles");
    DescriptorPool::from_file_descriptor_set(files).expect("the schema is consistent")
}

fn descriptor(pool: &DescriptorPool, name: &str) -> MessageDescriptor {
    pool.get_message_by_name(&format!("raftpb.{name}")).expect(name)
}

/// Through the schema and back: no field is unknown to it, none has another type.
fn agrees<M: prost::Message + Default + PartialEq + std::fmt::Debug>(pool: &DescriptorPool, name: &str, value: &M) {
    let bytes = value.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor(pool, name), bytes.as_slice()).expect(name);
    assert_eq!(dynamic.unknown_fields().count(), 0, "{name} has a field that the schema lacks: {dynamic:?}");
    assert_no_unknown(&dynamic);
    let back = M::decode(dynamic.encode_to_vec().as_slice()).expect(name);
    assert!(back == *value, "{name}: {back:?} came back for {value:?}");
}

fn assert_no_unknown(message: &DynamicMessage) {
    assert_eq!(message.unknown_fields().count(), 0, "{message:?}");
    for (_, value) in message.fields() {
        match value {
            Value::Message(inner) => assert_no_unknown(inner),
            Value::List(list) => list.iter().filter_map(Value::as_message).for_each(assert_no_unknown),
            Value::EnumNumber(_) => {}
            _ => {}
        }
    }
}

/// A message that has every field set, and every field of the schema with it.
fn full_message() -> Message {
    let entry = Entry { entry_type: 1, term: 2, index: 3, data: Bytes::from_static(b"d") };
    let conf_state = ConfState {
        voters: vec![1, 2],
        learners: vec![3],
        voters_outgoing: vec![4],
        learners_next: vec![5],
        auto_leave: true,
    };
    let metadata = SnapshotMetadata { conf_state, index: 6, term: 7 };
    Message {
        msg_type: 7,
        to: 8,
        from: 9,
        term: 10,
        log_term: 11,
        index: 12,
        entries: [entry].into(),
        commit: 13,
        snapshot: Some(Box::new(Snapshot { data: Bytes::from_static(b"s"), metadata })),
        reject: true,
        reject_hint: 14,
        context: Bytes::from_static(b"c"),
        vote: 15,
        responses: vec![Message::of(MessageType::MsgAppResp)],
    }
}

fn assert_full(message: &DynamicMessage) {
    for field in message.descriptor().fields() {
        assert!(message.has_field(&field), "the struct lacks the schema's field {}", field.full_name());
        if let Some(inner) = message.get_field(&field).as_message() {
            assert_full(inner);
        }
    }
}

#[test]
fn structs_and_schema_agree() {
    let pool = schema();
    let message = full_message();
    agrees(&pool, "Message", &message);
    let bytes = message.encode_to_vec();
    assert_full(&DynamicMessage::decode(descriptor(&pool, "Message"), bytes.as_slice()).expect("Message"));
    let entry = message.entries[0].clone();
    let bytes = entry.encode_to_vec();
    assert_full(&DynamicMessage::decode(descriptor(&pool, "Entry"), bytes.as_slice()).expect("Entry"));
    agrees(&pool, "HardState", &HardState { term: 1, vote: 2, commit: 3 });
    let change = ConfChange { id: 1, change_type: 2, node_id: 3, context: Bytes::from_static(b"x") };
    agrees(&pool, "ConfChange", &change);
    let changes = vec![ConfChangeSingle { change_type: 3, node_id: 4 }];
    agrees(&pool, "ConfChangeV2", &ConfChangeV2 { transition: 2, changes, context: Bytes::from_static(b"y") });
}

#[test]
fn enums_and_schema_agree() {
    let pool = schema();
    let names = |name: &str| -> Vec<(i32, String)> {
        let descriptor = pool.get_enum_by_name(&format!("raftpb.{name}")).expect(name);
        descriptor.values().map(|value| (value.number(), value.name().to_string())).collect()
    };
    fn ours<E: TryFrom<i32> + std::fmt::Debug>() -> Vec<(i32, String)> {
        (0..100).filter_map(|n| E::try_from(n).ok().map(|value| (n, format!("{value:?}")))).collect()
    }
    assert_eq!(names("MessageType"), ours::<MessageType>());
    assert_eq!(names("EntryType"), ours::<EntryType>());
    assert_eq!(names("ConfChangeType"), ours::<ConfChangeType>());
    assert_eq!(names("ConfChangeTransition"), ours::<ConfChangeTransition>());
}

prop_compose! {
    fn any_entry()(entry_type in 0..4i32, term: u64, index: u64, data: Vec<u8>) -> Entry {
        Entry { entry_type, term, index, data: data.into() }
    }
}

prop_compose! {
    fn any_snapshot()(
        voters: Vec<u64>, learners: Vec<u64>, outgoing: Vec<u64>, auto_leave: bool, index: u64, term: u64, data: Vec<u8>,
    ) -> Snapshot {
        let conf_state = ConfState {
            voters, learners, voters_outgoing: outgoing, learners_next: Vec::new(), auto_leave,
        };
        Snapshot { data: data.into(), metadata: SnapshotMetadata { conf_state, index, term } }
    }
}

prop_compose! {
    fn any_message()(
        numbers in prop::array::uniform9(any::<u64>()),
        msg_type in 0..30i32,
        reject: bool,
        context: Vec<u8>,
        entries in prop::collection::vec(any_entry(), 0..4),
        snapshot in prop::option::of(any_snapshot()),
    ) -> Message {
        let [to, from, term, log_term, index, commit, reject_hint, vote, _] = numbers;
        Message {
            msg_type, to, from, term, log_term, index, entries: entries.into(), commit, snapshot: snapshot.map(Box::new), reject,
            reject_hint, context: context.into(), vote, responses: Vec::new(),
        }
    }
}

proptest! {
    #[test]
    fn any_message_survives_encoding(message in any_message()) {
        prop_assert_eq!(Message::decode(message.encode_to_vec().as_slice()).expect("own bytes"), message);
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
        let _ = Message::decode(bytes.as_slice());
        let _ = Entry::decode(bytes.as_slice());
        let _ = ConfState::decode(bytes.as_slice());
        let _ = ConfChange::decode(bytes.as_slice());
        let _ = ConfChangeV2::decode(bytes.as_slice());
        let _ = HardState::decode(bytes.as_slice());
    }

    #[test]
    fn any_damaged_message_decodes_or_is_refused(message in any_message(), at: prop::sample::Index, bit in 0..8u8) {
        let mut bytes = message.encode_to_vec();
        let position = at.index(bytes.len());
        bytes[position] ^= 1 << bit;
        let _ = Message::decode(bytes.as_slice());
        let _ = Message::decode(&bytes[..position]);
    }
}
