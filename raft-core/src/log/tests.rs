use proptest::prelude::*;

use super::*;
use crate::pb::{ConfState, EntryType, HardState, SnapshotMetadata};
use crate::storage::{encoded_size, MemoryStorage};

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, index }
}

/// Entries from `first` on with these terms.
fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
    terms.iter().zip(first..).map(|(term, index)| Entry { term: *term, index, ..Entry::default() }).collect()
}

fn snapshot(index: u64, term: u64) -> Snapshot {
    Snapshot { metadata: SnapshotMetadata { index, term, ..SnapshotMetadata::default() }, ..Snapshot::default() }
}

/// A log whose entries `1..=stable.len()` are stable and the rest is not.
fn log_of(stable: &[u64], unstable: &[u64]) -> RaftLog<MemoryStorage> {
    let mut storage = MemoryStorage::new();
    storage.append(entries(1, stable)).unwrap();
    let mut log = RaftLog::new(storage, u64::MAX).unwrap();
    log.append(entries(stable.len() as u64 + 1, unstable)).unwrap();
    log
}

fn terms_from(log: &RaftLog<MemoryStorage>, low: u64) -> Vec<u64> {
    match log.entries_from(low, u64::MAX).unwrap() {
        Slice::Entries(entries) => entries.iter().map(|entry| entry.term).collect(),
        Slice::Compacted => panic!("compacted"),
    }
}

#[test]
fn a_conflict_is_the_first_entry_that_is_not_there_as_it_is() {
    for (first, terms, conflict) in [
        (1, &[][..], None),
        (1, &[1, 2, 3], None),
        (2, &[2, 3], None),
        (3, &[3], None),
        (1, &[1, 2, 3, 4, 4], Some(4)),
        (2, &[2, 3, 4, 5], Some(4)),
        (3, &[3, 4, 4], Some(4)),
        (4, &[4, 4], Some(4)),
        (1, &[4, 4], Some(1)),
        (2, &[1, 4, 4], Some(2)),
        (3, &[1, 2, 4, 4], Some(3)),
    ] {
        let log = log_of(&[1], &[2, 3]);
        assert_eq!(log.find_conflict(&entries(first, terms)).unwrap(), conflict, "{first} {terms:?}");
    }
}

/// Where two logs may still agree, walking down from an index below entries later than a term. The log begins behind
/// a compacted part; what is unknown ends the search with term 0.
#[test]
fn the_walk_down_to_a_term() {
    for (compacted, terms, index, term, expected) in [
        (0, &[2, 2, 5, 5, 5][..], 5, 6, (5, 5)),
        (0, &[2, 2, 5, 5, 5], 5, 5, (5, 5)),
        (0, &[2, 2, 5, 5, 5], 5, 4, (2, 2)),
        (0, &[2, 2, 5, 5, 5], 5, 2, (2, 2)),
        (0, &[2, 2, 5, 5, 5], 5, 1, (0, 0)),
        (0, &[2, 2, 5, 5, 5], 1, 2, (2, 1)),
        (0, &[2, 2, 5, 5, 5], 1, 1, (0, 0)),
        (0, &[2, 2, 5, 5, 5], 0, 0, (0, 0)),
        (0, &[2, 2, 5, 5, 5], 9, 5, (0, 9)), // beyond the end
        (2, &[3, 3, 4, 4, 4], 7, 30, (4, 7)),
        (2, &[3, 3, 4, 4, 4], 7, 3, (3, 4)),
        (2, &[3, 3, 4, 4, 4], 4, 3, (3, 4)),
        (2, &[3, 3, 4, 4, 4], 7, 2, (2, 2)), // the entry just before the log
        (2, &[3, 3, 4, 4, 4], 7, 1, (0, 1)), // compacted
        (2, &[3, 3, 4, 4, 4], 1, 9, (0, 1)),
    ] {
        let mut storage = MemoryStorage::new();
        if compacted > 0 {
            storage.apply_snapshot(snapshot(compacted, 2)).unwrap();
        }
        let mut log = RaftLog::new(storage, u64::MAX).unwrap();
        log.append(entries(compacted + 1, terms)).unwrap();
        let found = log.find_conflict_by_term(index, term).unwrap();
        assert_eq!((found.term, found.index), expected, "{compacted} {terms:?} from {index} to {term}");
    }
}

/// Raft paper §5.4.1: the later term of the last entry wins, then the longer log.
#[test]
fn which_of_two_logs_is_good_enough() {
    let log = log_of(&[1], &[2, 3]);
    for (term, up_to_date) in [(4, [true; 3]), (2, [false; 3]), (3, [false, true, true])] {
        for (index, expected) in [2, 3, 4].into_iter().zip(up_to_date) {
            assert_eq!(log.is_up_to_date(id(term, index)).unwrap(), expected, "{term}/{index}");
        }
    }
}

#[test]
fn an_append_replaces_what_it_overlaps() {
    for (first, terms, last, all, offset) in [
        (3, &[][..], 2, &[1, 2][..], 3),
        (3, &[2], 3, &[1, 2, 2], 3),
        (1, &[2], 1, &[2], 1),
        (2, &[3, 3], 3, &[1, 3, 3], 2),
    ] {
        let mut log = log_of(&[1, 2], &[]);
        assert_eq!(log.append(entries(first, terms)).unwrap(), last);
        assert_eq!((terms_from(&log, 1), log.unstable.offset()), (all.to_vec(), offset));
    }
}

/// A follower's log [1, 2, 3], committed up to 1. What an append does: the last index shared with the leader or a
/// refusal, and the commit index.
#[test]
fn what_a_followers_append_does() {
    let refused = || None;
    for (previous, commit, terms, shared, committed, all) in [
        (id(2, 3), 3, &[4][..], refused(), 1, &[1, 2, 3][..]), // other term
        (id(3, 4), 3, &[4], refused(), 1, &[1, 2, 3]),         // not there
        (id(3, 3), 3, &[], Some(3), 3, &[1, 2, 3]),
        (id(3, 3), 4, &[], Some(3), 3, &[1, 2, 3]), // not beyond what matches
        (id(3, 3), 2, &[], Some(3), 2, &[1, 2, 3]),
        (id(3, 3), 0, &[], Some(3), 1, &[1, 2, 3]), // never back
        (id(0, 0), 3, &[], Some(0), 1, &[1, 2, 3]),
        (id(3, 3), 3, &[4], Some(4), 3, &[1, 2, 3, 4]),
        (id(3, 3), 4, &[4], Some(4), 4, &[1, 2, 3, 4]),
        (id(3, 3), 5, &[4], Some(4), 4, &[1, 2, 3, 4]),
        (id(3, 3), 5, &[4, 4], Some(5), 5, &[1, 2, 3, 4, 4]),
        (id(2, 2), 3, &[4], Some(3), 3, &[1, 2, 4]), // replaced
        (id(1, 1), 3, &[4], Some(2), 2, &[1, 4]),
        (id(1, 1), 3, &[4, 4], Some(3), 3, &[1, 4, 4]),
    ] {
        let mut log = log_of(&[1, 2, 3], &[]);
        log.commit_to(1).unwrap();
        let case = format!("{previous:?} {commit} {terms:?}");
        let entries = entries(previous.index + 1, terms);
        assert_eq!(log.maybe_append(2, previous, entries, commit).unwrap(), shared, "{case}");
        assert_eq!((log.committed, terms_from(&log, 1)), (committed, all.to_vec()), "{case}");
    }
    let mut log = log_of(&[1, 2, 3], &[]);
    log.commit_to(1).unwrap();
    let contradiction = log.maybe_append(2, id(0, 0), entries(1, &[4]), 3);
    assert!(matches!(contradiction, Err(Error::Malformed { from: 2, .. })));
    assert_eq!(terms_from(&log, 1), [1, 2, 3]);
}

#[test]
fn compaction_leaves_terms_and_bounds_as_they_were_behind_it() {
    let stable: Vec<u64> = (1..=750).collect();
    let unstable: Vec<u64> = (751..=1000).collect();
    let mut log = log_of(&stable, &unstable);
    assert!(log.maybe_commit(id(750, 750)).unwrap());
    log.applied_to(750, 0);
    log.storage.compact(500).unwrap();
    assert_eq!((log.first_index().unwrap(), log.last_index()), (501, 1000));
    for index in 500..=1000 {
        assert_eq!(log.term(index).unwrap(), Some(index));
        assert!(log.matches(id(index, index)).unwrap());
    }
    assert_eq!((log.term(499).unwrap(), log.term(1001).unwrap()), (None, None));
    assert_eq!(log.unstable.next_entries().len(), 250);
    assert_eq!(log.append(entries(1001, &[1001])).unwrap(), 1001);
    assert_eq!(terms_from(&log, 1001), [1001]);
    assert!(matches!(log.entries_from(500, u64::MAX).unwrap(), Slice::Compacted));
}

#[test]
fn compaction_bit_by_bit() {
    let mut log = log_of(&(1..=1000).collect::<Vec<_>>(), &[]);
    log.commit_to(1000).unwrap();
    for index in [300, 500, 800, 900, 1000] {
        log.storage.compact(index).unwrap();
        let count = match log.entries_from(index + 1, u64::MAX).unwrap() {
            Slice::Entries(entries) => entries.len() as u64,
            Slice::Compacted => panic!("{index}"),
        };
        assert_eq!(count, 1000 - index);
    }
    assert_eq!(log.storage.compact(300), Err(StorageError::Compacted), "done already");
    assert_eq!(log.storage.compact(1001), Err(StorageError::Unavailable));
}

#[test]
fn a_log_begins_where_its_storage_was_compacted() {
    let mut storage = MemoryStorage::new();
    storage.apply_snapshot(snapshot(1000, 7)).unwrap();
    let log = RaftLog::new(storage, u64::MAX).unwrap();
    assert_eq!((log.first_index().unwrap(), log.last_id().unwrap()), (1001, id(7, 1000)));
    assert_eq!((log.committed, log.applying, log.applied, log.unstable.offset()), (1000, 1000, 1000, 1001));
    assert_eq!(terms_from(&log, 1001), []);
}

/// A log behind a snapshot of index 100: stable up to 102, unstable from 103 to 104.
fn behind_snapshot() -> RaftLog<MemoryStorage> {
    let mut storage = MemoryStorage::new();
    storage.apply_snapshot(snapshot(100, 1)).unwrap();
    storage.append(entries(101, &[2, 2])).unwrap();
    let mut log = RaftLog::new(storage, u64::MAX).unwrap();
    log.append(entries(103, &[2, 3])).unwrap();
    log
}

#[test]
fn terms_are_known_from_just_before_the_log_to_its_end() {
    let log = behind_snapshot();
    for (index, term) in [(0, None), (99, None), (100, Some(1)), (101, Some(2)), (104, Some(3)), (105, None)] {
        assert_eq!(log.term(index).unwrap(), term, "{index}");
    }
    // A received snapshot hides what is in storage: that is no predecessor of what follows.
    let mut log = behind_snapshot();
    log.restore(snapshot(105, 1));
    for (index, term) in [(100, None), (104, None), (105, Some(1)), (106, None)] {
        assert_eq!(log.term(index).unwrap(), term, "{index}");
    }
    assert_eq!((log.first_index().unwrap(), log.last_index(), log.committed), (106, 105, 105));
}

#[test]
fn slices_run_over_storage_and_memory_and_keep_their_limit() {
    let size = encoded_size(&entries(101, &[2]));
    for (low, high, limit, expected) in [
        (101, 101, u64::MAX, Some(0)),
        (101, 105, u64::MAX, Some(4)),
        (102, 104, u64::MAX, Some(2)),
        (103, 105, u64::MAX, Some(2)),
        (101, 103, u64::MAX, Some(2)),
        (100, 102, u64::MAX, None), // compacted
        (99, 100, u64::MAX, None),
        // Limited: in storage, across, in memory; one always passes.
        (101, 105, 0, Some(1)),
        (101, 105, size, Some(1)),
        (101, 105, size * 2 - 1, Some(1)),
        (101, 105, size * 2, Some(2)),
        (101, 105, size * 3, Some(3)),
        (102, 105, size * 2, Some(2)),
        (103, 105, 0, Some(1)),
        (103, 105, size * 2, Some(2)),
    ] {
        let log = behind_snapshot();
        let got = match log.slice(low, high, limit).unwrap() {
            Slice::Compacted => None,
            Slice::Entries(entries) => {
                assert!(entries.iter().zip(low..).all(|(entry, index)| entry.index == index));
                Some(entries.len())
            }
        };
        assert_eq!(got, expected, "[{low}, {high}) within {limit}");
    }
}

#[test]
fn the_commit_index_moves_forward_and_not_beyond_the_end() {
    for (to, expected) in [(3, Ok(3)), (1, Ok(2)), (4, Err(Error::LogLost { have: 3, need: 4 }))] {
        let mut log = log_of(&[1, 2, 3], &[]);
        log.commit_to(2).unwrap();
        assert_eq!(log.commit_to(to).map(|()| log.committed), expected);
    }
}

#[test]
fn only_the_leaders_own_term_commits() {
    for (what, committed) in [(id(3, 3), 3), (id(2, 3), 0), (id(0, 3), 0), (id(2, 2), 2), (id(4, 4), 0), (id(0, 9), 0)]
    {
        let mut log = log_of(&[1, 2, 3], &[]);
        assert_eq!(log.maybe_commit(what).unwrap(), committed > 0);
        assert_eq!(log.committed, committed);
        assert!(!log.maybe_commit(what).unwrap(), "once is enough");
    }
}

/// A log of five entries, the first three stable: applied up to `applied`, handed out up to `applying`. What is handed
/// out next, with and without waiting for this node's own disk?
#[test]
fn what_may_be_applied_next() {
    for (applied, applying, allow_unstable, paused, snapshot_pending, expected) in [
        (0, 0, true, false, false, &[1u64, 2, 3, 4][..]),
        (0, 0, false, false, false, &[1, 2, 3]),
        (3, 3, true, false, false, &[4]),
        (3, 3, false, false, false, &[]),
        (3, 4, true, false, false, &[]),
        (1, 3, true, false, false, &[4]),
        (4, 4, true, false, false, &[]),
        (0, 0, true, true, false, &[]),
        (0, 0, true, false, true, &[]),
    ] {
        let mut log = log_of(&[1, 1, 1], &[1, 1]);
        log.commit_to(4).unwrap();
        log.applied_to(applied, 0);
        log.accept_applying(applying, 0, allow_unstable);
        log.applying_paused = paused;
        if snapshot_pending {
            let snapshot = snapshot(4, 1);
            log.restore(snapshot);
            log.append(entries(5, &[1])).unwrap();
            log.commit_to(5).unwrap();
        }
        let case = format!("{applied} {applying} {allow_unstable} {paused} {snapshot_pending}");
        assert_eq!(log.has_next_committed(allow_unstable), !expected.is_empty(), "{case}");
        let next: Vec<u64> = log.next_committed(allow_unstable).unwrap().iter().map(|entry| entry.index).collect();
        assert_eq!(next, expected, "{case}");
    }
}

/// Handing out pauses when the limit is reached, and when a page was cut short of what could be handed out.
#[test]
fn handing_out_pauses_at_the_limit() {
    for (index, bytes, allow_unstable, paused) in [
        (3, 99, true, true), // cut short
        (4, 99, true, false),
        (4, 100, true, true),
        (4, 101, true, true),
        (3, 99, false, false),
        (3, 100, false, true),
        (2, 50, false, true),
    ] {
        let mut log = log_of(&[1, 1, 1], &[1, 1]);
        log.max_applying_bytes = 100;
        log.commit_to(4).unwrap();
        log.accept_applying(index, bytes, allow_unstable);
        assert_eq!(log.applying_paused, paused, "{index} {bytes} {allow_unstable}");
        assert_eq!((log.applying, log.applied), (index, 0));
    }
}

#[test]
fn acknowledging_makes_room() {
    for (index, bytes, paused, applied, applying) in
        [(3, 105, true, 3, 5), (3, 106, false, 3, 5), (5, 1000, false, 5, 5), (9, 0, true, 5, 5), (0, 205, false, 0, 5)]
    {
        let mut log = log_of(&[1; 5], &[]);
        log.max_applying_bytes = 100;
        log.commit_to(5).unwrap();
        log.accept_applying(5, 205, true);
        log.applied_to(index, bytes);
        assert_eq!((log.applied, log.applying, log.applying_paused), (applied, applying, paused), "{index} {bytes}");
    }
}

#[test]
fn configuration_changes_are_found_page_by_page() {
    let size = encoded_size(&entries(1, &[1]));
    for limit in [u64::MAX, size, 3 * size, 1] {
        let mut log = log_of(&[1; 10], &[1; 10]);
        log.max_applying_bytes = limit;
        assert!(!log.has_conf_change(0, 20).unwrap());
        for at in [1, 7, 10, 11, 20] {
            let mut log = log_of(&[1; 10], &[]);
            log.max_applying_bytes = limit;
            let mut more = entries(1, &[1; 20]);
            more[at - 1].entry_type = EntryType::EntryConfChangeV2 as i32;
            log.storage.append(&more[..10]).unwrap();
            log.append(more[10..].to_vec()).unwrap();
            assert!(log.has_conf_change(0, 20).unwrap(), "{at} {limit}");
            assert!(log.has_conf_change(at as u64 - 1, at as u64).unwrap());
            assert!(!log.has_conf_change(at as u64, 20).unwrap());
            assert!(!log.has_conf_change(0, at as u64 - 1).unwrap());
        }
    }
}

#[test]
fn a_temporarily_unavailable_snapshot_is_no_fault() {
    #[derive(Debug)]
    struct Busy(Option<StorageError>);
    impl Storage for Busy {
        fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
            Ok(Default::default())
        }
        fn entries(&self, _: u64, _: u64, _: u64) -> Result<Entries, StorageError> {
            Err(StorageError::Unavailable)
        }
        fn term(&self, _: u64) -> Result<u64, StorageError> {
            Ok(0)
        }
        fn first_index(&self) -> Result<u64, StorageError> {
            Ok(1)
        }
        fn last_index(&self) -> Result<u64, StorageError> {
            Ok(0)
        }
        fn snapshot(&self) -> Result<Snapshot, StorageError> {
            self.0.clone().map_or(Ok(snapshot(3, 1)), Err)
        }
    }
    let asked = |answer| RaftLog::new(Busy(answer), 0).unwrap().snapshot();
    assert_eq!(asked(None), Ok(Some(snapshot(3, 1))));
    assert_eq!(asked(Some(StorageError::SnapshotTemporarilyUnavailable)), Ok(None));
    assert_eq!(asked(Some(StorageError::Unavailable)), Err(Error::Storage(StorageError::Unavailable)));
}

#[derive(Clone, Debug)]
enum Step {
    /// At this distance behind the commit index, this many entries of a newer or the same term.
    Append {
        from: u64,
        count: usize,
        newer: bool,
    },
    Commit {
        ahead: u64,
    },
    /// Everything unstable is handed to storage.
    HandOut,
    /// Storage reports on the oldest work that it was given.
    Stable,
    Compact {
        behind: u64,
    },
    Apply {
        limit: u64,
    },
    Applied {
        part: u64,
    },
    Restore {
        ahead: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..6, 1usize..5, any::<bool>()).prop_map(|(from, count, newer)| Step::Append { from, count, newer }),
        3 => (1u64..5).prop_map(|ahead| Step::Commit { ahead }),
        3 => Just(Step::HandOut),
        3 => Just(Step::Stable),
        1 => (0u64..4).prop_map(|behind| Step::Compact { behind }),
        3 => prop_oneof![Just(u64::MAX), 1u64..40].prop_map(|limit| Step::Apply { limit }),
        3 => (1u64..5).prop_map(|part| Step::Applied { part }),
        1 => (1u64..5).prop_map(|ahead| Step::Restore { ahead }),
    ]
}

/// The whole log as one list, whatever storage and memory make of it.
#[derive(Default)]
struct Model {
    /// `terms[i]` is the term at index `before + 1 + i`; `before_term` that at `before`.
    before: u64,
    before_term: u64,
    terms: Vec<u64>,
    committed: u64,
    /// Work handed to storage: entries and the snapshot, in order.
    work: std::collections::VecDeque<(Vec<Entry>, Option<Snapshot>, EntryId)>,
    /// Handed out for applying and not acknowledged: (index, bytes).
    pages: std::collections::VecDeque<(u64, u64)>,
    next_to_apply: u64,
}

impl Model {
    fn last(&self) -> u64 {
        self.before + self.terms.len() as u64
    }

    fn term(&self, index: u64) -> Option<u64> {
        match index.checked_sub(self.before)? {
            0 => Some(self.before_term),
            distance => self.terms.get(distance as usize - 1).copied(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Storage works behind the log's back, in order, late; the log always shows what a plain list shows.
    #[test]
    fn a_log_is_a_list(steps in prop::collection::vec(step(), 1..80)) {
        let mut log = log_of(&[], &[]);
        let mut model = Model { next_to_apply: 1, ..Model::default() };
        let mut term = 1;
        for step in steps {
            match step {
                Step::Append { from, count, newer } => {
                    let first = (model.committed + 1 + from).min(model.last() + 1);
                    // Only another leader, so another term, replaces entries (log matching, Raft paper §5.3).
                    term += u64::from(newer || first <= model.last());
                    let terms = vec![term; count];
                    prop_assert_eq!(log.append(entries(first, &terms)).unwrap(), first + count as u64 - 1);
                    model.terms.truncate((first - model.before - 1) as usize);
                    model.terms.extend(terms);
                }
                Step::Commit { ahead } => {
                    let to = (model.committed + ahead).min(model.last());
                    log.commit_to(to).unwrap();
                    model.committed = model.committed.max(to);
                    prop_assert!(log.commit_to(model.last() + 1).is_err());
                }
                Step::HandOut => {
                    let (handed, snapshot) = (log.unstable.next_entries().to_vec(), log.unstable.next_snapshot().cloned());
                    let has_entries = !log.unstable.entries.is_empty();
                    let last = if has_entries { log.last_id().unwrap() } else { EntryId::default() };
                    log.unstable.accept_in_progress();
                    prop_assert!(log.unstable.next_entries().is_empty() && log.unstable.next_snapshot().is_none());
                    if has_entries || snapshot.is_some() {
                        model.work.push_back((handed, snapshot, last));
                    }
                }
                Step::Stable => {
                    if let Some((handed, snapshot, last)) = model.work.pop_front() {
                        if let Some(snapshot) = &snapshot {
                            log.storage.apply_snapshot(snapshot.clone()).unwrap();
                        }
                        log.storage.append(&handed).unwrap();
                        if last.index != 0 {
                            log.unstable.stable_to(last);
                        }
                        if let Some(snapshot) = snapshot {
                            log.unstable.stable_snapshot_to(snapshot.metadata.index);
                            log.applied_to(snapshot.metadata.index, 0);
                        }
                    }
                }
                Step::Compact { behind } => {
                    let to = log.applied.saturating_sub(behind);
                    let durable = log.storage.last_index().unwrap().min(log.unstable.offset() - 1);
                    if !log.has_snapshot_pending() && to > model.before && to <= durable {
                        log.storage.compact(to).unwrap();
                        model.before_term = model.term(to).unwrap();
                        model.terms.drain(..(to - model.before) as usize);
                        model.before = to;
                    }
                }
                Step::Apply { limit } => {
                    log.max_applying_bytes = limit;
                    log.applying_paused = log.applying_bytes >= limit;
                    let page = log.next_committed(false).unwrap();
                    prop_assert_eq!(page.is_empty(), !log.has_next_committed(false));
                    if let Some(last) = page.last() {
                        prop_assert!(last.index <= model.committed);
                        for entry in &page {
                            prop_assert_eq!(entry.index, model.next_to_apply, "each once, in order");
                            prop_assert_eq!(Some(entry.term), model.term(entry.index));
                            model.next_to_apply += 1;
                        }
                        let bytes = encoded_size(&page);
                        prop_assert!(bytes <= limit || page.len() == 1);
                        log.accept_applying(last.index, bytes, false);
                        model.pages.push_back((last.index, bytes));
                    }
                }
                Step::Applied { part } => {
                    for _ in 0..part {
                        if let Some((index, bytes)) = model.pages.pop_front() {
                            log.applied_to(index, bytes);
                        }
                    }
                }
                Step::Restore { ahead } => {
                    let index = model.last().max(model.committed) + ahead;
                    log.restore(snapshot(index, term));
                    (model.before, model.before_term, model.committed) = (index, term, index);
                    model.terms.clear();
                    // What was handed out is the old state's; the application gets a new one.
                    model.next_to_apply = index + 1;
                }
            }
            // Bounds, terms, entries.
            prop_assert_eq!(log.last_index(), model.last());
            prop_assert_eq!(log.first_index().unwrap(), model.before + 1);
            prop_assert_eq!(log.committed, model.committed);
            for index in model.before.saturating_sub(2)..model.last() + 3 {
                prop_assert_eq!(log.term(index).unwrap(), model.term(index), "term at {}", index);
            }
            prop_assert_eq!(&terms_from(&log, model.before + 1), &model.terms);
            // Cursors.
            let unstable = &log.unstable;
            let end = unstable.offset() + unstable.entries.len() as u64;
            prop_assert!(unstable.offset() <= unstable.offset_in_progress && unstable.offset_in_progress <= end);
            prop_assert!(log.applied <= log.applying && log.applying <= log.committed);
            prop_assert!(unstable.entries.to_vec().iter().zip(unstable.offset()..).all(|(entry, index)| entry.index == index));
        }
        // When storage has caught up, nothing is left in memory and nothing is missing.
        while let Some((handed, snapshot, last)) = model.work.pop_front() {
            if let Some(snapshot) = snapshot {
                log.storage.apply_snapshot(snapshot.clone()).unwrap();
                log.unstable.stable_snapshot_to(snapshot.metadata.index);
            }
            log.storage.append(&handed).unwrap();
            log.unstable.stable_to(last);
        }
        if let Some(snapshot) = log.unstable.next_snapshot().cloned() {
            log.storage.apply_snapshot(snapshot.clone()).unwrap();
            log.unstable.stable_snapshot_to(snapshot.metadata.index);
        }
        let rest = log.unstable.next_entries().to_vec();
        log.storage.append(&rest).unwrap();
        if let Some(last) = rest.last() {
            log.unstable.stable_to(id(last.term, last.index));
        }
        prop_assert!(log.unstable.entries.is_empty() && !log.has_snapshot_pending());
        prop_assert_eq!(&terms_from(&log, model.before + 1), &model.terms);
    }
}

/// Counts how often it is asked for a term.
#[derive(Debug)]
struct Counting(MemoryStorage, std::cell::Cell<u64>);

impl Storage for Counting {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.0.initial_state()
    }
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Entries, StorageError> {
        self.0.entries(low, high, max_bytes)
    }
    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.1.set(self.1.get() + 1);
        self.0.term(index)
    }
    fn first_index(&self) -> Result<u64, StorageError> {
        self.0.first_index()
    }
    fn last_index(&self) -> Result<u64, StorageError> {
        self.0.last_index()
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.0.snapshot()
    }
}

#[test]
fn a_probe_of_term_0_does_not_walk_the_log() {
    for (compacted, expected) in [(0, id(0, 0)), (500, id(0, 499))] {
        let mut storage = MemoryStorage::new();
        storage.append(entries(1, &[1; 1000])).unwrap();
        if compacted > 0 {
            storage.compact(compacted).unwrap();
        }
        let log = RaftLog::new(Counting(storage, Default::default()), u64::MAX).unwrap();
        assert_eq!(log.find_conflict_by_term(1000, 0).unwrap(), expected);
        assert!(log.storage.1.get() < 5, "{} terms were read", log.storage.1.get());
    }
}
