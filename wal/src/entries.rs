//! The entries that recovery found: where they stand, and made into entries only when they are asked for.
//!
//! An entry takes 56 bytes in memory and its record as few as 32 on disk, so a list of all of them could be longer than
//! the log. What recovery keeps is an offset for each, and the segments themselves, which it holds anyway.
//!
//! What is left out: checks. The records were checked when their offsets were noted, and nothing changes a segment that is
//! held here.

use bytes::Bytes;
use raft_core::pb::Entry;

use crate::format::RecordView;

/// Where consecutive entries stand.
#[derive(Clone, Default)]
pub(crate) struct Found {
    /// Of each segment with entries in it, in order. Entries that follow each other were written one after the other,
    /// whatever was replaced in between, so they stand in the order of the segments.
    runs: Vec<Run>,
    /// Of each entry, in its segment.
    offsets: Vec<u64>,
}

/// The entries of one segment.
#[derive(Clone)]
struct Run {
    /// The position of the first of them among all.
    first: usize,
    segment: Bytes,
}

impl Found {
    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Forgets all entries but the first `count`.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.offsets.truncate(count);
        let runs = self.runs.partition_point(|run| run.first < count);
        self.runs.truncate(runs);
    }

    /// Adds the entry whose record stands at `offset`.
    pub(crate) fn push(&mut self, segment: &Bytes, offset: usize) {
        if self.runs.last().is_none_or(|run| run.segment.as_ptr() != segment.as_ptr()) {
            self.runs.push(Run { first: self.offsets.len(), segment: segment.clone() });
        }
        self.offsets.push(offset as u64);
    }

    fn get(&self, position: usize) -> Option<Entry> {
        let run = self.runs.partition_point(|run| run.first <= position).checked_sub(1)?;
        self.get_in(self.runs.get(run)?, position)
    }

    fn get_in(&self, run: &Run, position: usize) -> Option<Entry> {
        let offset = usize::try_from(*self.offsets.get(position)?).ok()?;
        let record = RecordView::read(&run.segment, offset)?;
        let data = run.segment.slice(record.payload_range());
        Some(Entry { entry_type: record.detail, term: record.term, index: record.index, data })
    }
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        HeldEntries::all(self).fmt(f)
    }
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        HeldEntries::all(self) == HeldEntries::all(other)
    }
}

/// Entries of a log that was opened, in order and without gaps. Each is made when it is asked for, with its data in the
/// bytes that recovery has read, not in a copy.
#[derive(Clone, Copy)]
pub struct HeldEntries<'a> {
    found: &'a Found,
    /// How many of them come before the first one here; at most all.
    skip: usize,
}

impl<'a> HeldEntries<'a> {
    pub(crate) fn all(found: &'a Found) -> Self {
        HeldEntries { found, skip: 0 }
    }

    /// Without the first `skip`; `None` if there are fewer.
    pub(crate) fn of(found: &'a Found, skip: usize) -> Option<Self> {
        (skip <= found.len()).then_some(HeldEntries { found, skip })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.found.len() - self.skip
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one with so many before it.
    pub fn get(&self, position: usize) -> Option<Entry> {
        self.found.get(self.skip.checked_add(position)?)
    }

    /// The first one.
    pub fn first(&self) -> Option<Entry> {
        self.get(0)
    }

    /// The last one.
    pub fn last(&self) -> Option<Entry> {
        self.get(self.len().checked_sub(1)?)
    }

    /// One after the other.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry> + 'a {
        let run = self.found.runs.partition_point(|run| run.first <= self.skip).saturating_sub(1);
        Iter { found: self.found, run, next: self.skip }
    }

    /// All of them at once.
    pub fn to_vec(&self) -> Vec<Entry> {
        self.iter().collect()
    }
}

struct Iter<'a> {
    found: &'a Found,
    /// That of the next one, or the one before it.
    run: usize,
    next: usize,
}

impl Iterator for Iter<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if self.found.runs.get(self.run + 1).is_some_and(|run| run.first <= self.next) {
            self.run += 1;
        }
        let entry = self.found.get_in(self.found.runs.get(self.run)?, self.next)?;
        self.next += 1;
        Some(entry)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let rest = self.found.len() - self.next;
        (rest, Some(rest))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl PartialEq for HeldEntries<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl PartialEq<[Entry]> for HeldEntries<'_> {
    fn eq(&self, other: &[Entry]) -> bool {
        self.len() == other.len() && self.iter().zip(other).all(|(one, other)| one == *other)
    }
}

impl PartialEq<&[Entry]> for HeldEntries<'_> {
    fn eq(&self, other: &&[Entry]) -> bool {
        *self == **other
    }
}

impl PartialEq<Vec<Entry>> for HeldEntries<'_> {
    fn eq(&self, other: &Vec<Entry>) -> bool {
        *self == other[..]
    }
}

impl<const N: usize> PartialEq<[Entry; N]> for HeldEntries<'_> {
    fn eq(&self, other: &[Entry; N]) -> bool {
        *self == other[..]
    }
}

impl std::fmt::Debug for HeldEntries<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{self, Placement, Record, RecordKind, Seed};

    /// A segment of nothing but one batch of these entries, and where they stand.
    fn segment(entries: &[Entry]) -> (Bytes, Vec<usize>) {
        let records = entries.iter().map(|entry| Record {
            kind: RecordKind::Entry,
            detail: entry.entry_type,
            term: entry.term,
            index: entry.index,
            payload: &entry.data,
        });
        let body: usize = entries.iter().map(|entry| format::record_bytes(entry.data.len())).sum();
        let mut bytes = vec![0; format::BATCH_HEADER_BYTES + body];
        let end = bytes.len();
        let placement = Placement { seed: Seed::new(1, 1), offset: 0, synced_before: 0, previous: 0 };
        format::write_batch(&mut bytes, placement, records);
        let offsets = format::records(&bytes, format::BATCH_HEADER_BYTES..end).map(|record| record.offset).collect();
        (Bytes::from(bytes), offsets)
    }

    fn entries(term: u64, range: std::ops::Range<u64>) -> Vec<Entry> {
        range.map(|index| Entry { term, index, ..Entry::normal(vec![term as u8; index as usize % 5]) }).collect()
    }

    #[test]
    fn entries_are_found_again_whatever_was_replaced() {
        let (first, second) = (entries(1, 1..7), entries(2, 4..9));
        let ((one, at_one), (two, at_two)) = (segment(&first), segment(&second));
        let mut found = Found::default();
        at_one.iter().for_each(|at| found.push(&one, *at));
        found.truncate(3);
        at_two.iter().for_each(|at| found.push(&two, *at));
        let expected = [&first[..3], &second[..]].concat();
        let held = HeldEntries::of(&found, 0).unwrap();
        assert_eq!(held, expected);
        assert_eq!(held.to_vec(), expected);
        assert_eq!((held.iter().len(), held.first().as_ref()), (8, expected.first()));
        let rest = HeldEntries::of(&found, 3).unwrap();
        assert_eq!((rest, rest.get(4), rest.get(5)), (rest, rest.last(), None));
        assert_eq!(rest, second);
        assert!(HeldEntries::of(&found, 8).unwrap().is_empty() && HeldEntries::of(&found, 9).is_none());
        // In the same segment again, behind what is forgotten of it.
        found.truncate(3);
        found.push(&two, at_two[0]);
        found.push(&two, at_two[1]);
        assert_eq!(HeldEntries::of(&found, 0).unwrap(), expected[..5].to_vec());
        found.truncate(0);
        found.push(&two, at_two[0]);
        assert_eq!((found.runs.len(), HeldEntries::of(&found, 0).unwrap().first()), (1, expected.get(3).cloned()));
    }
}
