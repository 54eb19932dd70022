//! The entries that recovery found: where they stand, and made into entries only when they are asked for.
//!
//! An entry takes 56 bytes in memory and its record as few as 32 on disk, so a list of all of them could be longer than
//! the log. What recovery keeps is an offset for each, and the segments themselves, which it holds anyway.
//!
//! The records were checked when their offsets were noted, and nothing should change a segment that is held here. Still,
//! it may be a map, read a second time: a record that is not the one that was noted is an error and never left out.
//!
//! What is left out: their checksums. They are not computed again.

use std::path::Path;

use bytes::Bytes;
use raft_core::pb::Entry;

use crate::error::WalError;
use crate::format::{RecordKind, RecordView};
use crate::recovery::Image;

/// Where consecutive entries stand.
#[derive(Clone, Default)]
pub(crate) struct Found {
    /// Of each segment with entries in it, in order. Entries that follow each other were written one after the other,
    /// whatever was replaced in between, so they stand in the order of the segments.
    runs: Vec<Run>,
    /// Of each entry, in its segment.
    offsets: Vec<u64>,
    /// The index of the first of them.
    first_index: u64,
}

/// The entries of one segment.
#[derive(Clone)]
struct Run {
    /// The position of the first of them among all.
    first: usize,
    /// The file's, without the directory.
    name: String,
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

    /// Adds the entry of this record.
    pub(crate) fn push(&mut self, segment: &Image, record: &RecordView<'_>) {
        if self.offsets.is_empty() {
            self.first_index = record.index;
        }
        if self.runs.last().is_none_or(|run| run.segment.as_ptr() != segment.bytes.as_ptr()) {
            let (name, segment) = (segment.name.clone(), segment.bytes.clone());
            self.runs.push(Run { first: self.offsets.len(), name, segment });
        }
        self.offsets.push(record.offset as u64);
    }

    /// In the run with this number.
    fn get(&self, run: usize, position: usize) -> Option<Entry> {
        self.get_in(self.runs.get(run)?, position)
    }

    fn run_of(&self, position: usize) -> usize {
        self.runs.partition_point(|run| run.first <= position).saturating_sub(1)
    }

    /// Why there is no entry in a place that is one of theirs.
    fn error(&self, dir: &Path, run: usize, position: usize) -> WalError {
        let index = self.first_index.saturating_add(position as u64);
        WalError::Damaged {
            file: self.runs.get(run).map_or(dir.into(), |run| dir.join(&run.name)),
            offset: self.offsets.get(position).copied().unwrap_or_default(),
            what: format!("the record of entry {index} is not what it was when the log was checked"),
        }
    }

    fn get_in(&self, run: &Run, position: usize) -> Option<Entry> {
        let offset = usize::try_from(*self.offsets.get(position)?).ok()?;
        let is_noted = |record: &RecordView<'_>| {
            record.kind == RecordKind::Entry && record.index.checked_sub(self.first_index) == Some(position as u64)
        };
        let record = RecordView::read(&run.segment, offset).filter(is_noted)?;
        let data = run.segment.slice(record.payload_range());
        Some(Entry { entry_type: record.detail, term: record.term, index: record.index, data })
    }
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        HeldEntries::all(self, Path::new("")).fmt(f)
    }
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        HeldEntries::all(self, Path::new("")) == HeldEntries::all(other, Path::new(""))
    }
}

/// Entries of a log that was opened, in order and without gaps. Each is made when it is asked for, with its data in the
/// bytes that recovery has read, not in a copy.
#[derive(Clone, Copy)]
pub struct HeldEntries<'a> {
    found: &'a Found,
    /// For messages.
    dir: &'a Path,
    /// How many of them come before the first one here; at most all.
    skip: usize,
}

impl<'a> HeldEntries<'a> {
    pub(crate) fn all(found: &'a Found, dir: &'a Path) -> Self {
        HeldEntries { found, dir, skip: 0 }
    }

    /// Without the first `skip`; `None` if there are fewer.
    pub(crate) fn of(found: &'a Found, dir: &'a Path, skip: usize) -> Option<Self> {
        (skip <= found.len()).then_some(HeldEntries { found, dir, skip })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.found.len() - self.skip
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one with so many before it. `None`: there are no more, or its bytes have changed.
    pub fn get(&self, position: usize) -> Option<Entry> {
        let position = self.skip.checked_add(position)?;
        self.found.get(self.found.run_of(position), position)
    }

    /// The first one.
    pub fn first(&self) -> Option<Entry> {
        self.get(0)
    }

    /// The last one.
    pub fn last(&self) -> Option<Entry> {
        self.get(self.len().checked_sub(1)?)
    }

    /// One after the other, as many as there are. An error ([`WalError::Damaged`]) in place of one whose bytes have changed
    /// since the log was checked.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Entry, WalError>> + 'a {
        Iter { found: self.found, dir: self.dir, run: self.found.run_of(self.skip), next: self.skip }
    }

    /// All of them at once, or the first error.
    pub fn to_vec(&self) -> Result<Vec<Entry>, WalError> {
        let mut entries = Vec::with_capacity(self.len());
        for entry in self.iter() {
            entries.push(entry?);
        }
        Ok(entries)
    }
}

struct Iter<'a> {
    found: &'a Found,
    dir: &'a Path,
    /// That of the next one, or the one before it.
    run: usize,
    next: usize,
}

impl Iterator for Iter<'_> {
    type Item = Result<Entry, WalError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.found.len() {
            return None;
        }
        if self.found.runs.get(self.run + 1).is_some_and(|run| run.first <= self.next) {
            self.run += 1;
        }
        let entry = self.found.get(self.run, self.next);
        let entry = entry.ok_or_else(|| self.found.error(self.dir, self.run, self.next));
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
        let same = |(one, other)| matches!((one, other), (Ok(one), Ok(other)) if one == other);
        self.len() == other.len() && self.iter().zip(other.iter()).all(same)
    }
}

impl PartialEq<[Entry]> for HeldEntries<'_> {
    fn eq(&self, other: &[Entry]) -> bool {
        self.len() == other.len() && self.iter().zip(other).all(|(one, other)| one.is_ok_and(|one| one == *other))
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
    fn segment(entries: &[Entry]) -> (Image, Vec<usize>) {
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
        (Image { name: "0.wal".into(), bytes: Bytes::from(bytes) }, offsets)
    }

    fn entries(term: u64, range: std::ops::Range<u64>) -> Vec<Entry> {
        range.map(|index| Entry { term, index, ..Entry::normal(vec![term as u8; index as usize % 5]) }).collect()
    }

    fn push(found: &mut Found, segment: &Image, at: usize) {
        found.push(segment, &RecordView::read(&segment.bytes, at).unwrap());
    }

    fn held(found: &Found, skip: usize) -> Option<HeldEntries<'_>> {
        HeldEntries::of(found, Path::new("log"), skip)
    }

    #[test]
    fn an_entry_whose_bytes_have_changed_is_named_and_not_left_out() {
        let expected = entries(1, 1..7);
        let (one, at) = segment(&expected);
        let mut found = Found::default();
        at.iter().for_each(|at| push(&mut found, &one, *at));
        assert_eq!(held(&found, 0).unwrap().to_vec().unwrap(), expected);
        // The index, the kind, and a length beyond the end.
        for byte in [at[3] + 24, at[3] + 8, at[3] + 7] {
            let mut bytes = one.bytes.to_vec();
            assert_eq!(RecordView::read(&bytes, at[3]).unwrap().index, 4);
            bytes[byte] ^= 0x40;
            found.runs[0].segment = Bytes::from(bytes);
            for skip in 0..=3 {
                let rest = held(&found, skip).unwrap();
                let error = rest.to_vec().unwrap_err();
                assert!(
                    matches!(&error, WalError::Damaged { file, offset, .. }
                        if file == Path::new("log/0.wal") && *offset == at[3] as u64),
                    "{byte}: {error}"
                );
                assert_eq!((rest.iter().len(), rest.iter().count(), rest.get(3 - skip)), (6 - skip, 6 - skip, None));
                assert!(rest != expected[skip..], "no list that ends early is equal to one that does too");
                let other = held(&found, skip).unwrap();
                assert!(rest != expected[skip..3] && rest != other);
            }
            assert_eq!(held(&found, 4).unwrap().to_vec().unwrap(), expected[4..]);
        }
    }

    #[test]
    fn entries_are_found_again_whatever_was_replaced() {
        let (first, second) = (entries(1, 1..7), entries(2, 4..9));
        let ((one, at_one), (two, at_two)) = (segment(&first), segment(&second));
        let mut found = Found::default();
        at_one.iter().for_each(|at| push(&mut found, &one, *at));
        found.truncate(3);
        at_two.iter().for_each(|at| push(&mut found, &two, *at));
        let expected = [&first[..3], &second[..]].concat();
        let all = held(&found, 0).unwrap();
        assert_eq!(all, expected);
        assert_eq!(all.to_vec().unwrap(), expected);
        assert_eq!((all.iter().len(), all.first().as_ref()), (8, expected.first()));
        let rest = held(&found, 3).unwrap();
        assert_eq!((rest, rest.get(4), rest.get(5)), (rest, rest.last(), None));
        assert_eq!(rest, second);
        assert!(held(&found, 8).unwrap().is_empty() && held(&found, 9).is_none());
        // In the same segment again, behind what is forgotten of it.
        found.truncate(3);
        push(&mut found, &two, at_two[0]);
        push(&mut found, &two, at_two[1]);
        assert_eq!(held(&found, 0).unwrap(), expected[..5].to_vec());
        found.truncate(0);
        push(&mut found, &two, at_two[0]);
        assert_eq!((found.runs.len(), held(&found, 0).unwrap().first()), (1, expected.get(3).cloned()));
    }
}
