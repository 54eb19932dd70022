use proptest::prelude::*;

use super::*;
use crate::pb::{MessageType, Snapshot, SnapshotMetadata};

/// Small and large numbers alike: their lengths differ.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64u32).prop_map(|(value, shift)| value >> shift)
}

fn entry() -> impl Strategy<Value = Entry> {
    (-2..5i32, number(), number(), prop::collection::vec(any::<u8>(), 0..200))
        .prop_map(|(entry_type, term, index, data)| Entry { entry_type, term, index, data: data.into() })
}

fn message() -> impl Strategy<Value = Message> {
    let numbers = prop::array::uniform8(number());
    let entries = prop::collection::vec(entry(), 0..4);
    let rare = (any::<bool>(), prop::collection::vec(any::<u8>(), 0..20), 0..10u8);
    (numbers, -2..30i32, entries, rare).prop_map(|(numbers, msg_type, entries, (reject, context, other))| {
        let [to, from, term, log_term, index, commit, reject_hint, vote] = numbers;
        let metadata = SnapshotMetadata { index, term, ..SnapshotMetadata::default() };
        Message {
            msg_type,
            to,
            from,
            term,
            log_term,
            index,
            entries: entries.into(),
            commit,
            snapshot: (other == 0).then(|| Box::new(Snapshot { metadata, ..Snapshot::default() })),
            reject,
            reject_hint,
            context: context.into(),
            vote: if other < 5 { 0 } else { vote },
            responses: if other == 1 { vec![Message::of(MessageType::MsgAppResp)] } else { Vec::new() },
        }
    })
}

proptest! {
    #[test]
    fn writes_what_the_derived_code_writes(message in message()) {
        let bytes = message.to_bytes();
        prop_assert_eq!(&bytes, &message.encode_to_vec());
        for entry in &message.entries {
            prop_assert_eq!(entry_len(entry), entry.encoded_len());
        }
        prop_assert_eq!(Message::from_bytes(bytes).expect("own bytes"), message);
    }

    /// The short way alone, so that the derived code cannot cover up for it.
    #[test]
    fn the_usual_form_goes_the_short_way(message in message()) {
        let usual = message.snapshot.is_none() && message.responses.is_empty();
        prop_assert_eq!(read_message(&message.to_bytes()), usual.then_some(message));
    }

    /// What it reads of damaged bytes is what the derived code reads, or it leaves them to it.
    #[test]
    fn reads_what_the_derived_code_reads(message in message(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3), cut: prop::sample::Index) {
        let mut bytes = message.encode_to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            let bytes = Bytes::copy_from_slice(bytes);
            if let Some(read) = read_message(&bytes) {
                prop_assert_eq!(Message::decode(bytes), Ok(read));
            }
        }
    }
}

#[test]
fn numbers_of_every_length_are_read_back() {
    for bits in 0..64 {
        for value in [1u64 << bits, (1u64 << bits) - 1, u64::MAX >> bits] {
            let mut out = Vec::new();
            put_number(&mut out, COMMIT, value);
            assert_eq!(out.len(), number_len(value), "{value}");
            let mut rest = out.as_slice();
            assert_eq!((take_number(&mut rest, COMMIT), rest), (Some(value), &[][..]));
        }
    }
    for damaged in [&[0x80][..], &[0x80; 11], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
        assert_eq!(take_varint(&mut &damaged[..]), None);
    }
}

#[test]
fn payloads_are_shared_but_for_a_small_one_alone() {
    let whole = Entry { term: 0, index: 0, ..Entry::normal(vec![7; MOST_COPIED]) }.encoded_len();
    let largest = MOST_COPIED - (whole - MOST_COPIED);
    for (count, size, shared) in [(1, 100, false), (1, largest, false), (1, largest + 1, true), (2, 100, true)] {
        let entries = (0..count).map(|_| Entry::normal(vec![7; size])).collect();
        let bytes = Message { entries, ..Message::of(MessageType::MsgApp) }.to_bytes();
        let message = Message::from_bytes(bytes.clone()).expect("own bytes");
        let payload = message.entries[0].data.as_ptr();
        assert_eq!(bytes.as_ptr_range().contains(&payload), shared, "{count} of {size} bytes");
    }
}
