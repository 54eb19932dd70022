//! The end of the log that is not known to be durable: entries, or a snapshot that came in their place.
//!
//! Everything here is to be handed to storage, part of it may be handed out already ("in progress"). It is forgotten
//! when storage reports it durable; the log then finds it there.

use crate::entries::{Entries, Runs};
use crate::pb::Snapshot;

use super::EntryId;

/// See the module's text. etcd: `log_unstable.go`.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Unstable {
    /// A snapshot received and not yet durable. If there is one, `entries.start() == snapshot.index + 1`.
    pub(crate) snapshot: Option<Snapshot>,
    /// The entries that are not stable; they start at [`Self::offset`].
    pub(crate) entries: Runs,
    /// The snapshot was handed to storage.
    pub(crate) snapshot_in_progress: bool,
    /// Entries below this index were handed to storage: `entries.start() ≤ offset_in_progress ≤ entries.end()`.
    pub(crate) offset_in_progress: u64,
}

impl Unstable {
    pub(crate) fn new(offset: u64) -> Self {
        Unstable { entries: Runs::starting_at(offset), offset_in_progress: offset, ..Unstable::default() }
    }

    /// The index of the first entry that is not stable.
    #[inline]
    pub(crate) fn offset(&self) -> u64 {
        self.entries.start()
    }

    /// The first index of the whole log, if this part knows it.
    #[inline]
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.snapshot.as_ref().map(|snapshot| snapshot.metadata.index + 1)
    }

    /// The last index of the whole log: nothing comes behind this part, even when it is empty.
    #[inline]
    pub(crate) fn last_index(&self) -> u64 {
        self.entries.end() - 1
    }

    /// The term at `index`, if this part knows it.
    #[inline]
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index < self.offset() {
            let metadata = &self.snapshot.as_ref()?.metadata;
            return (metadata.index == index).then_some(metadata.term);
        }
        self.entries.get(index).map(|entry| entry.term)
    }

    /// Whether there is anything that was not handed to storage yet.
    #[inline]
    pub(crate) fn has_next_entries(&self) -> bool {
        self.offset_in_progress < self.entries.end()
    }

    /// What was not handed to storage yet. It is one run from then on, so that those who read it later share it too.
    pub(crate) fn next_entries(&mut self) -> Entries {
        if !self.has_next_entries() {
            return Entries::new();
        }
        self.entries.join_from(self.offset_in_progress)
    }

    /// The snapshot, if it was not handed to storage yet.
    #[inline]
    pub(crate) fn next_snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().filter(|_| !self.snapshot_in_progress)
    }

    /// Everything here was handed to storage.
    #[inline]
    pub(crate) fn accept_in_progress(&mut self) {
        self.offset_in_progress = self.entries.end();
        self.snapshot_in_progress = self.snapshot.is_some();
    }

    /// Storage reports that the log up to `id` is durable. Only if the entry is still the same: it may have been
    /// replaced in the meantime, and what is durable then is its predecessor.
    pub(crate) fn stable_to(&mut self, id: EntryId) {
        let Some(term) = self.term(id.index) else {
            info!("entry at index {} missing from unstable log; ignoring", id.index);
            return;
        };
        if id.index < self.offset() {
            info!("entry at index {} matched unstable snapshot; ignoring", id.index);
            return;
        }
        if term != id.term {
            info!(
                "entry at (index,term)=({},{}) mismatched with entry at ({},{}) in unstable log; ignoring",
                id.index, id.term, id.index, term
            );
            return;
        }
        self.entries.release(id.index + 1);
        self.offset_in_progress = self.offset_in_progress.max(self.offset());
    }

    /// Storage reports that the snapshot of `index` is durable.
    pub(crate) fn stable_snapshot_to(&mut self, index: u64) {
        if self.snapshot.as_ref().is_some_and(|snapshot| snapshot.metadata.index == index) {
            self.snapshot = None;
            self.snapshot_in_progress = false;
        }
    }

    /// A snapshot takes the place of everything.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        *self = Unstable::new(snapshot.metadata.index + u64::from(!bug!(ReuseSnapshotIndex)));
        self.snapshot = Some(snapshot);
    }

    /// Appends consecutive entries that start at `first ≤ end`; what stands from `first` on is replaced. Entries that
    /// storage is writing at this moment and that are replaced must be handed out again.
    pub(crate) fn truncate_and_append(&mut self, first: u64, entries: Entries) {
        if first < self.entries.end() {
            if first <= self.offset() {
                info!("replace the unstable entries from index {first}");
                self.entries = Runs::starting_at(first);
            } else {
                info!("truncate the unstable entries before index {first}");
                self.entries.truncate(first);
            }
            let first = if bug!(ReplacedEntriesNotWritten) { self.offset_in_progress } else { first };
            self.offset_in_progress = self.offset_in_progress.min(first).max(self.offset());
        }
        self.entries.push(entries);
    }
}

#[cfg(test)]
mod tests;
