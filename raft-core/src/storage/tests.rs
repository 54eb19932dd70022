use std::cell::Cell;

use super::*;
use crate::pb::SnapshotMetadata;

fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
    terms.iter().zip(first..).map(|(term, index)| Entry { term: *term, index, ..Entry::default() }).collect()
}

fn snapshot(index: u64, term: u64) -> Snapshot {
    Snapshot { metadata: SnapshotMetadata { index, term, ..SnapshotMetadata::default() }, ..Snapshot::default() }
}

/// Compacted up to 3 (of term 3), entries 4 and 5 of terms 4 and 5.
fn storage() -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    storage.append(entries(1, &[1, 2, 3, 4, 5])).unwrap();
    storage.compact(3).unwrap();
    storage
}

fn terms(storage: &MemoryStorage) -> Vec<u64> {
    let (first, last) = (storage.first_index().unwrap(), storage.last_index().unwrap());
    match storage.entries(first, last + 1, u64::MAX) {
        Ok(entries) => entries.iter().map(|entry| entry.term).collect(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn terms_are_known_from_just_before_the_first_entry() {
    use StorageError::{Compacted, Unavailable};
    for (index, term) in [(2, Err(Compacted)), (3, Ok(3)), (4, Ok(4)), (5, Ok(5)), (6, Err(Unavailable))] {
        assert_eq!(storage().term(index), term, "{index}");
    }
    assert_eq!(storage().term(u64::MAX), Err(Unavailable));
}

#[test]
fn entries_are_limited_and_bounded() {
    use StorageError::{Compacted, Unavailable};
    let mut storage = storage();
    storage.append(entries(6, &[6])).unwrap();
    let size = encoded_size(&entries(4, &[4]));
    for (low, high, limit, expected) in [
        (2, 6, u64::MAX, Err(Compacted)),
        (3, 4, u64::MAX, Err(Compacted)),
        (4, 5, u64::MAX, Ok(1)),
        (4, 6, u64::MAX, Ok(2)),
        (4, 7, u64::MAX, Ok(3)),
        (4, 7, 0, Ok(1)),
        (4, 7, 2 * size, Ok(2)),
        (4, 7, 3 * size - 1, Ok(2)),
        (4, 7, 3 * size, Ok(3)),
        (4, 8, u64::MAX, Err(Unavailable)),
        (9, 10, u64::MAX, Err(Unavailable)),
        (5, 5, u64::MAX, Err(Unavailable)),
        (6, 5, u64::MAX, Err(Unavailable)),
        (4, u64::MAX, u64::MAX, Err(Unavailable)),
    ] {
        let result = storage.entries(low, high, limit);
        assert_eq!(result.map(|entries| entries.len()), expected, "[{low}, {high}) within {limit}");
    }
}

#[test]
fn bounds_move_with_appends_and_compactions() {
    let mut storage = storage();
    assert_eq!((storage.first_index(), storage.last_index()), (Ok(4), Ok(5)));
    storage.append(entries(6, &[5])).unwrap();
    assert_eq!((storage.first_index(), storage.last_index()), (Ok(4), Ok(6)));
    storage.compact(4).unwrap();
    assert_eq!((storage.first_index(), storage.last_index()), (Ok(5), Ok(6)));
    storage.compact(6).unwrap();
    assert_eq!((storage.first_index(), storage.last_index(), storage.term(6)), (Ok(7), Ok(6), Ok(5)));
}

#[test]
fn compaction_goes_forward_within_the_log() {
    for (index, result, first) in [
        (2, Err(StorageError::Compacted), 4),
        (3, Err(StorageError::Compacted), 4),
        (4, Ok(()), 5),
        (5, Ok(()), 6),
        (6, Err(StorageError::Unavailable), 4),
    ] {
        let mut storage = storage();
        assert_eq!(storage.compact(index), result, "{index}");
        assert_eq!(storage.first_index(), Ok(first), "{index}");
    }
}

#[test]
fn a_snapshot_is_made_of_what_is_there() {
    let conf_state = ConfState { voters: vec![1, 2], ..ConfState::default() };
    for index in [4, 5] {
        let mut storage = storage();
        let made = storage.create_snapshot(index, Some(conf_state.clone()), "data").unwrap();
        let metadata = SnapshotMetadata { conf_state: conf_state.clone(), index, term: index };
        assert_eq!(made, Snapshot { data: "data".into(), metadata });
        assert_eq!((storage.snapshot().unwrap(), storage.first_index()), (made, Ok(4)), "the log stays");
        let again = storage.create_snapshot(index, None, "other");
        assert_eq!(again, Err(StorageError::SnapshotOutOfDate));
    }
    let mut storage = storage();
    assert_eq!(storage.create_snapshot(6, None, ""), Err(StorageError::Unavailable));
    assert_eq!(storage.create_snapshot(2, None, ""), Err(StorageError::Compacted));
    storage.create_snapshot(4, Some(conf_state.clone()), "").unwrap();
    let next = storage.create_snapshot(5, None, "").unwrap();
    assert_eq!(next.metadata.conf_state, conf_state, "the configuration is the last one that was said");
}

#[test]
fn appends_overlap_follow_or_leave_a_gap() {
    for (first, terms_in, expected) in [
        (1, &[1, 2][..], Ok(&[4, 5][..])), // compacted already
        (3, &[3, 4, 5], Ok(&[4, 5])),
        (3, &[3, 6, 6, 6], Ok(&[6, 6, 6])),
        (4, &[4, 6], Ok(&[4, 6])),
        (4, &[6], Ok(&[6])),
        (2, &[3, 3, 5], Ok(&[5])), // cut at the front, and in place of the end
        (6, &[6], Ok(&[4, 5, 6])),
        (7, &[6], Err((5, 7))),
    ] {
        let mut storage = storage();
        match (storage.append(entries(first, terms_in)), expected) {
            (Ok(()), Ok(expected)) => assert_eq!(terms(&storage), expected, "{first} {terms_in:?}"),
            (Err(error), Err((last, first))) => {
                assert_eq!(error, StorageError::Gap { last, first });
                assert_eq!(terms(&storage), [4, 5]);
            }
            other => panic!("{other:?}"),
        }
    }
    let mut storage = storage();
    let torn = [entries(6, &[6]), entries(8, &[6])].concat();
    assert_eq!(storage.append(&torn), Err(StorageError::Gap { last: 6, first: 8 }));
    assert_eq!(terms(&storage), [4, 5], "nothing of it was appended");
    storage.append(&[]).unwrap();
}

#[test]
fn a_received_snapshot_takes_the_logs_place_if_it_is_newer() {
    let mut storage = storage();
    storage.apply_snapshot(snapshot(4, 4)).unwrap();
    assert_eq!((storage.first_index(), storage.last_index(), storage.term(4)), (Ok(5), Ok(4), Ok(4)));
    for old in [3, 4] {
        assert_eq!(storage.apply_snapshot(snapshot(old, 4)), Err(StorageError::SnapshotOutOfDate));
    }
    assert_eq!(storage.snapshot().unwrap(), snapshot(4, 4));
}

/// An index of 0 says only the configuration, and only where there is nothing else to say.
#[test]
fn a_snapshot_without_an_index_does_not_wipe_a_log() {
    let mut founding = snapshot(0, 0);
    founding.metadata.conf_state.voters = vec![1, 2, 3];
    let mut storage = MemoryStorage::new();
    storage.apply_snapshot(founding.clone()).unwrap();
    assert_eq!(storage.initial_state().unwrap().1, founding.metadata.conf_state);
    storage.append(entries(1, &[1])).unwrap();
    assert_eq!(storage.apply_snapshot(founding.clone()), Err(StorageError::SnapshotOutOfDate));
    assert_eq!(terms(&storage), [1]);
    storage.compact(1).unwrap();
    assert_eq!(storage.apply_snapshot(founding), Err(StorageError::SnapshotOutOfDate));
    assert_eq!(storage.last_index(), Ok(1));
}

#[test]
fn limits_count_encoded_bytes_and_let_one_pass() {
    let some = entries(1, &[1, 1, 1]);
    let size = encoded_size(&some) / 3;
    for (limit, count) in [(0, 1), (size, 1), (size * 2 - 1, 1), (size * 2, 2), (size * 3, 3), (u64::MAX, 3)] {
        assert_eq!(count_within(some.iter(), limit), count, "{limit}");
    }
    assert_eq!((count_within([].iter(), 0), payload_size(&some)), (0, 0), "empty entries weigh nothing as payload");
    assert_eq!(payload_size(&[Entry::normal("abc"), Entry::default(), Entry::normal("d")]), 4);
}

/// A leader asks for the rest of the log with each message to a follower that is far behind, and gets a message full.
#[test]
fn what_is_far_behind_the_limit_is_not_looked_at() {
    let some = entries(1, &[1; 1000]);
    let size = encoded_size(&some[..1]);
    let looked_at = Cell::new(0);
    let counted = some.iter().inspect(|_| looked_at.set(looked_at.get() + 1));
    assert_eq!(count_within(counted, 10 * size), 10);
    assert!(looked_at.get() < 30, "{}", looked_at.get());
}

#[test]
fn a_shared_storage_is_the_same_storage() {
    let shared = Arc::new(RwLock::new(storage()));
    assert_eq!((shared.first_index(), shared.last_index(), shared.term(4)), (Ok(4), Ok(5), Ok(4)));
    assert_eq!(shared.entries(4, 6, u64::MAX).map(|entries| entries.len()), Ok(2));
    shared.write().unwrap().set_hard_state(HardState { term: 5, vote: 1, commit: 4 });
    assert_eq!(shared.initial_state().unwrap().0.vote, 1);
    assert_eq!(shared.snapshot(), Ok(Snapshot::default()));
}
