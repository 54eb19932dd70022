//! The bytes, written and read back, and every bit of them turned over.

use super::*;
use proptest::prelude::*;

const SEED: Seed = Seed(77);

fn batch(offset: usize, payloads: &[Vec<u8>]) -> Vec<u8> {
    let total: usize = payloads.iter().map(|payload| record_bytes(payload.len())).sum();
    let mut segment = vec![0xEE; offset + BATCH_HEADER_BYTES + total];
    let placement = Placement { seed: SEED, offset, synced_before: 8, previous: 3 };
    let records = payloads.iter().enumerate().map(|(number, payload)| Record {
        kind: RecordKind::Entry,
        detail: -1,
        term: 5,
        index: number as u64,
        payload,
    });
    write_batch(&mut segment[offset..], placement, records);
    segment
}

proptest! {
    #[test]
    fn a_batch_reads_back_as_written(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
        at in 0_usize..9,
    ) {
        let offset = at * 8;
        let segment = batch(offset, &payloads);
        let header = BatchHeader::decode(&segment, offset, SEED).expect("a header");
        prop_assert_eq!(check_body(&segment, &header, SEED), Body::Sound);
        prop_assert_eq!(header.end(segment.len()), Some(segment.len()));
        let records: Vec<_> = records(&segment, offset + BATCH_HEADER_BYTES..segment.len()).collect();
        prop_assert_eq!(records.len(), payloads.len());
        for (record, payload) in records.iter().zip(&payloads) {
            prop_assert_eq!(record.payload, &payload[..]);
            prop_assert_eq!(&segment[record.payload_range()], &payload[..]);
            prop_assert_eq!((record.kind, record.detail, record.term), (RecordKind::Entry, -1, 5));
        }
    }

    #[test]
    fn arbitrary_bytes_are_never_a_batch_and_never_a_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        magic in any::<bool>(),
        offset in 0_usize..300,
    ) {
        if magic && bytes.len() > 4 {
            bytes[..4].copy_from_slice(&BATCH_MAGIC);
        }
        prop_assert_eq!(BatchHeader::decode(&bytes, if magic { 0 } else { offset }, SEED), None);
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
    }
}

#[test]
fn every_flipped_bit_of_a_batch_is_seen() {
    let offset = 16;
    let good = batch(offset, &[vec![1; 5], vec![], vec![2; 64]]);
    for bit in 0..(good.len() - offset) * 8 {
        let mut bytes = good.clone();
        bytes[offset + bit / 8] ^= 1 << (bit % 8);
        let header = BatchHeader::decode(&bytes, offset, SEED);
        let whole = header.map(|header| check_body(&bytes, &header, SEED));
        assert!(matches!(whole, None | Some(Body::Broken(_))), "bit {bit}");
    }
}

#[test]
fn a_batch_is_valid_in_its_own_place_only() {
    let bytes = batch(16, &[vec![1; 100]]);
    assert!(BatchHeader::decode(&bytes, 16, SEED).is_some());
    assert_eq!(BatchHeader::decode(&bytes, 16, Seed(78)), None);
    assert_eq!(BatchHeader::decode(&bytes[8..], 8, SEED), None);
}

#[test]
fn names_are_read_back_and_nothing_else_is_a_name() {
    assert_eq!(parse_segment_name(&segment_name(10, 0x4c)), Some((10, 0x4c)));
    assert_eq!(segment_name(1, 76), "0000000000000001-000000000000004c.wal");
    assert_eq!(parse_prepared_name(&prepared_name(3)), Some(3));
    for name in
        ["1-1.wal", "+000000000000001-0000000000000001.wal", "000000000000000A-0000000000000001.wal", ".wal", ""]
    {
        assert_eq!(parse_segment_name(name), None, "{name}");
    }
}

#[test]
fn every_bit_of_the_header_and_of_the_zeros_behind_it_counts() {
    let header = SegmentHeader { identity: 1, sequence: 2, first_index: 3, file_bytes: 4096 };
    let (bytes, checksum) = header.encode();
    let mut segment = [0; SEGMENT_HEADER_BYTES];
    assert_eq!(SegmentHeader::decode(&segment), Err(HeaderFault::Blank));
    segment[..HEADER_BYTES].copy_from_slice(&bytes);
    assert_eq!(SegmentHeader::decode(&segment), Ok((header, checksum)));
    for bit in 0..SEGMENT_HEADER_BYTES * 8 {
        let mut segment = segment;
        segment[bit / 8] ^= 1 << (bit % 8);
        let in_watermark = (WATERMARK_AT..WATERMARK_AT + BATCH_HEADER_BYTES).contains(&(bit / 8));
        let expected = if in_watermark { Ok((header, checksum)) } else { Err(HeaderFault::Broken) };
        assert_eq!(SegmentHeader::decode(&segment), expected, "bit {bit}");
    }
}

#[test]
fn a_watermark_with_a_flipped_bit_means_nothing() {
    let mut segment = [0; 4096];
    let place = WATERMARK_AT..WATERMARK_AT + BATCH_HEADER_BYTES;
    segment[place.clone()].copy_from_slice(&watermark(SEED, 2000, 9));
    let expected = Watermark { end: 2000, checksum: 9, sealed: false };
    assert_eq!(read_watermark(&segment, SEED), Some(expected));
    for bit in place.start * 8..place.end * 8 {
        let mut segment = segment;
        segment[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(read_watermark(&segment, SEED), None, "bit {bit}");
    }
    segment[place].copy_from_slice(&watermark(SEED, 5000, 9));
    assert_eq!(
        read_watermark(&segment, SEED),
        Some(Watermark { end: 5000, ..expected }),
        "more than there is was there once"
    );
}
