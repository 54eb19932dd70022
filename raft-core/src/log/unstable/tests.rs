use super::*;
use crate::pb::{Entry, SnapshotMetadata};

fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
    terms.iter().zip(first..).map(|(term, index)| Entry { term: *term, index, ..Entry::default() }).collect()
}

fn snapshot(index: u64, term: u64) -> Snapshot {
    Snapshot { metadata: SnapshotMetadata { index, term, ..SnapshotMetadata::default() }, ..Snapshot::default() }
}

/// Entries from `offset` on, those below `in_progress` handed out; behind a snapshot or not.
fn unstable(offset: u64, terms: &[u64], in_progress: u64, behind_snapshot: bool) -> Unstable {
    let mut runs = Runs::starting_at(offset);
    runs.push(entries(offset, terms).into());
    Unstable {
        snapshot: behind_snapshot.then(|| snapshot(offset - 1, 1)),
        entries: runs,
        snapshot_in_progress: false,
        offset_in_progress: in_progress,
    }
}

fn terms(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.term).collect()
}

#[test]
fn bounds_are_known_as_far_as_they_are_here() {
    for (behind_snapshot, terms, first, last) in
        [(false, &[1][..], None, 5), (false, &[], None, 4), (true, &[1], Some(5), 5), (true, &[], Some(5), 4)]
    {
        let part = unstable(5, terms, 5, behind_snapshot);
        assert_eq!((part.first_index(), part.last_index()), (first, last), "{behind_snapshot} {terms:?}");
    }
}

#[test]
fn terms_are_known_as_far_as_they_are_here() {
    for (behind_snapshot, terms, known) in [
        (false, &[2][..], [None, None, Some(2), None]),
        (true, &[2], [None, Some(1), Some(2), None]),
        (true, &[], [None, Some(1), None, None]),
        (false, &[], [None; 4]),
    ] {
        let part = unstable(5, terms, 5, behind_snapshot);
        assert_eq!([3, 4, 5, 6].map(|index| part.term(index)), known, "{behind_snapshot} {terms:?}");
    }
}

#[test]
fn a_snapshot_replaces_everything_here() {
    let mut part = unstable(5, &[1, 1], 6, true);
    part.snapshot_in_progress = true;
    part.restore(snapshot(8, 2));
    assert_eq!((part.offset(), part.offset_in_progress, part.entries.len()), (9, 9, 0));
    assert_eq!(part.next_snapshot(), Some(&snapshot(8, 2)), "it is not handed out yet, whatever its predecessor was");
}

#[test]
fn what_is_handed_out_is_not_handed_out_again() {
    for (in_progress, next) in [(5, &[1, 2, 3][..]), (7, &[3]), (8, &[])] {
        let mut part = unstable(5, &[1, 2, 3], in_progress, true);
        assert_eq!(terms(&part.next_entries()), next);
        assert!(part.next_snapshot().is_some());
        part.accept_in_progress();
        assert!(part.next_entries().is_empty() && !part.has_next_entries());
        assert_eq!((part.next_snapshot(), part.offset_in_progress), (None, 8));
        assert!(part.snapshot.is_some() && part.entries.len() == 3, "but it is kept until it is durable");
        part.truncate_and_append(8, entries(8, &[4]).into());
        assert_eq!(terms(&part.next_entries()), [4]);
    }
    let mut nothing = unstable(5, &[], 5, false);
    nothing.accept_in_progress();
    assert_eq!((nothing.offset_in_progress, nothing.snapshot_in_progress), (5, false));
}

#[test]
fn a_report_counts_only_for_the_entry_that_it_names() {
    // Entries 5 to 7 of terms 1, 1, 2, handed out up to 6: a report, and what is left.
    for (index, term, offset, in_progress) in [
        (5, 1, 6, 7),
        (6, 1, 7, 7),
        (7, 2, 8, 8), // more than was handed out, but true
        (7, 1, 5, 7), // replaced in the meantime
        (5, 2, 5, 7),
        (4, 1, 5, 7), // the snapshot's index, or older
        (3, 1, 5, 7),
        (8, 2, 5, 7), // not here
    ] {
        for behind_snapshot in [false, true] {
            let mut part = unstable(5, &[1, 1, 2], 7, behind_snapshot);
            part.stable_to(EntryId { term, index });
            assert_eq!((part.offset(), part.offset_in_progress), (offset, in_progress), "{term}/{index}");
            assert_eq!(terms(&part.entries.to_vec()), [1, 1, 2][(offset - 5) as usize..]);
            assert_eq!(part.snapshot.is_some(), behind_snapshot, "it has a report of its own");
        }
    }
}

#[test]
fn a_snapshots_report_counts_only_for_itself() {
    for (reported, gone) in [(3, false), (4, true), (5, false)] {
        let mut part = unstable(5, &[1], 5, true);
        part.accept_in_progress();
        part.stable_snapshot_to(reported);
        assert_eq!((part.snapshot.is_none(), part.snapshot_in_progress), (gone, !gone));
        assert_eq!(part.entries.len(), 1);
    }
    unstable(5, &[1], 5, false).stable_snapshot_to(4);
}

#[test]
fn an_append_goes_to_the_end_or_replaces_from_where_it_begins() {
    for (in_progress, first, new, offset, expected_progress, all) in [
        // To the end.
        (5, 6, &[1, 1][..], 5, 5, &[1, 1, 1][..]),
        (6, 6, &[1, 1], 5, 6, &[1, 1, 1]),
        // In place of everything, at or before the beginning: what storage is writing is void.
        (5, 5, &[2, 2], 5, 5, &[2, 2]),
        (6, 5, &[2, 2], 5, 5, &[2, 2]),
        (6, 4, &[2, 2, 2], 4, 4, &[2, 2, 2]),
    ] {
        let mut part = unstable(5, &[1], in_progress, false);
        part.truncate_and_append(first, entries(first, new).into());
        assert_eq!(
            (part.offset(), part.offset_in_progress, terms(&part.entries.to_vec())),
            (offset, expected_progress, all.to_vec())
        );
    }
    for (in_progress, first, new, expected_progress, all) in [
        (5, 6, &[2][..], 5, &[1, 2][..]),
        (7, 6, &[2], 6, &[1, 2]),
        (8, 7, &[2, 2], 7, &[1, 1, 2, 2]),
        (6, 7, &[2, 2], 6, &[1, 1, 2, 2]),
    ] {
        let mut part = unstable(5, &[1, 1, 1], in_progress, false);
        part.truncate_and_append(first, entries(first, new).into());
        assert_eq!(
            (part.offset(), part.offset_in_progress, terms(&part.entries.to_vec())),
            (5, expected_progress, all.to_vec())
        );
    }
}
