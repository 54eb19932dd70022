//! The log as the protocol sees it: stable storage, the unstable end behind it, and the three cursors.
//!
//! ```text
//!   compacted │ stable (Storage)          │ unstable
//!   ──────────┼───────────────────────────┼──────────────
//!             first_index          offset ┘        last_index
//!                    applied ≤ applying ≤ committed ≤ last_index
//! ```
//!
//! *Committed* is what a quorum has; *applying* is what was handed to the application; *applied* is what the
//! application has acknowledged. Neither may outrun the next one.
//!
//! A storage fault surfaces as `Err`; the caller ([`Raft`](crate::raft::Raft)) puts the node out of order then.
//! Etcd: `log.go`. Left out: the leader's bookkeeping of others' logs (module `tracker`).

pub(crate) mod unstable;

use std::fmt;

use crate::config::NO_LIMIT;
use crate::entries::Entries;
use crate::error::Error;
use crate::pb::{Entry, Snapshot};
use crate::storage::{count_within, encoded_size, Storage, StorageError};
use prost::Message as _;

use unstable::Unstable;

/// Names an entry: by Raft's log matching property, equal ids mean equal logs up to there (Raft paper §5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct EntryId {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// See the module's text.
#[derive(Clone, Debug, Hash)]
pub(crate) struct RaftLog<S> {
    pub(crate) storage: S,
    pub(crate) unstable: Unstable,
    /// Highest index known to be on a quorum's disks.
    pub(crate) committed: u64,
    /// Highest index handed out for applying; `applied ≤ applying ≤ committed`.
    pub(crate) applying: u64,
    /// Highest index acknowledged as applied.
    pub(crate) applied: u64,
    /// How many encoded bytes may be handed out and not acknowledged; [`NO_LIMIT`] if that does not matter.
    max_applying_bytes: u64,
    /// How many are; 0 if it does not matter.
    applying_bytes: u64,
    /// The limit is reached, or a page was cut short by it: hand out nothing until something is acknowledged.
    applying_paused: bool,
}

/// Why a range cannot be read; a fault of the storage is an [`Error`] instead.
pub(crate) enum Slice {
    Entries(Entries),
    Compacted,
}

/// A bound that storage says its log has. One that no log has is a fault, whenever it shows.
#[inline]
fn possible(bound: u64) -> Result<u64, Error> {
    if bound == 0 || bound > u64::MAX / 2 {
        return Err(StorageError::Other(format!("impossible log bound {bound}")).into());
    }
    Ok(bound)
}

impl<S: Storage> RaftLog<S> {
    /// The log at a restart: everything in `storage` is stable, committed is what was compacted.
    pub(crate) fn new(storage: S, max_applying_bytes: u64) -> Result<Self, Error> {
        let first = storage.first_index()?;
        let last = storage.last_index()?;
        let before_first = first.checked_sub(1).filter(|before| *before <= last && last < u64::MAX / 2);
        let Some(before_first) = before_first else {
            return Err(StorageError::Other(format!("impossible log bounds [{first}, {last}]")).into());
        };
        Ok(RaftLog {
            storage,
            unstable: Unstable::new(last + 1),
            committed: before_first,
            applying: before_first,
            applied: before_first,
            max_applying_bytes,
            applying_bytes: 0,
            applying_paused: false,
        })
    }

    #[inline]
    pub(crate) fn first_index(&self) -> Result<u64, Error> {
        match self.unstable.first_index() {
            Some(index) => Ok(index),
            None => possible(self.storage.first_index()?),
        }
    }

    /// Where the log ends. Storage is not asked: it has what it was told to append, no more.
    #[inline]
    pub(crate) fn last_index(&self) -> u64 {
        self.unstable.last_index()
    }

    /// The term at `index`, or `None` outside of `[first_index - 1, last_index]`.
    #[inline]
    pub(crate) fn term(&self, index: u64) -> Result<Option<u64>, Error> {
        if index >= self.unstable.offset() || self.has_snapshot_pending() {
            // Nothing of what is stable counts behind a snapshot.
            return Ok(self.unstable.term(index));
        }
        if index + 1 < possible(self.storage.first_index()?)? {
            return Ok(None);
        }
        match self.storage.term(index) {
            Ok(term) => Ok(Some(term)),
            Err(StorageError::Compacted | StorageError::Unavailable) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The last entry's id.
    pub(crate) fn last_id(&self) -> Result<EntryId, Error> {
        let index = self.last_index();
        match self.term(index)? {
            Some(term) => Ok(EntryId { term, index }),
            None => Err(StorageError::Other(format!("the term of the last index {index} cannot be read")).into()),
        }
    }

    /// Whether the entry `id` is in the log. Term 0 is before any leader's: it matches nothing that exists.
    #[inline]
    pub(crate) fn matches(&self, id: EntryId) -> Result<bool, Error> {
        Ok(self.term(id.index)? == Some(id.term))
    }

    /// Whether a log that ends in `last` is at least as good as this one: what decides a vote (Raft paper §5.4.1).
    pub(crate) fn is_up_to_date(&self, last: EntryId) -> Result<bool, Error> {
        let own = self.last_id()?;
        if bug!(VoteForLength) {
            return Ok(last.index >= own.index);
        }
        Ok(last.term > own.term || last.term == own.term && last.index >= own.index)
    }

    /// A follower's append (Raft paper figure 2, AppendEntries 2–5). `entries` are consecutive and follow `previous`.
    /// `None` if the log does not contain `previous`; else the last index that it shares with the leader's now.
    pub(crate) fn maybe_append(
        &mut self,
        from: u64,
        previous: EntryId,
        entries: impl Into<Entries>,
        leader_commit: u64,
    ) -> Result<Option<u64>, Error> {
        let entries = entries.into();
        let is_bug = bug!(SkipLogMatching) && previous.index <= self.last_index();
        if !(is_bug || self.matches(previous)?) {
            return Ok(None);
        }
        let last_new = previous.index + entries.len() as u64;
        if bug!(CommitBeforeTruncate) {
            self.commit_to(leader_commit.min(self.last_index()))?;
        }
        if let Some(conflict) = self.find_conflict(&entries)? {
            if conflict <= self.committed {
                return Err(Error::Malformed { from, what: "its entries contradict committed ones" });
            }
            let known = (conflict - previous.index - 1) as usize;
            let new: Entries = if known == 0 { entries } else { entries.iter().skip(known).cloned().collect() };
            self.append(new)?;
        }
        self.commit_to(leader_commit.min(last_new))?;
        Ok(Some(last_new))
    }

    /// Appends consecutive entries, replacing what stands from their first index on; returns the last index.
    pub(crate) fn append(&mut self, entries: impl Into<Entries>) -> Result<u64, Error> {
        let entries = entries.into();
        if let Some(first) = entries.first() {
            self.unstable.truncate_and_append(first.index, entries);
        }
        Ok(self.last_index())
    }

    /// The index of the first entry that is not in the log as it is.
    pub(crate) fn find_conflict(&self, entries: &[Entry]) -> Result<Option<u64>, Error> {
        for entry in entries {
            // Mostly they follow on the log's end.
            if entry.index > self.last_index() {
                return Ok(Some(entry.index));
            }
            let existing = self.term(entry.index)?;
            let is_new = entry.index > self.committed;
            if existing != Some(entry.term) || (bug!(TruncateOnOldAppend) && is_new) {
                info!(
                    "found conflict at index {} [existing term: {}, conflicting term: {}]",
                    entry.index,
                    existing.unwrap_or(0),
                    entry.term
                );
                return Ok(Some(entry.index));
            }
        }
        Ok(None)
    }

    /// Walks down from `index` to the first entry whose term is at most `term`: the best guess where this log and one
    /// that has `term` at `index` may still agree. The term is 0 where it is not known. A whole term is skipped with
    /// one message instead of one entry with each (etcd `log.go`, findConflictByTerm; cf. Raft paper §5.3, end).
    pub(crate) fn find_conflict_by_term(&self, index: u64, term: u64) -> Result<EntryId, Error> {
        // Term 0 is before all entries: what would be found is known without looking at each.
        let mut index = if term == 0 { index.min(self.first_index()? - 1) } else { index };
        while index > 0 {
            match self.term(index)? {
                None => return Ok(EntryId { term: 0, index }),
                Some(own) if own <= term => return Ok(EntryId { term: own, index }),
                Some(_) => index -= 1,
            }
        }
        Ok(EntryId::default())
    }

    /// Moves the commit index up to `index`, never down.
    #[inline]
    pub(crate) fn commit_to(&mut self, index: u64) -> Result<(), Error> {
        if index <= self.committed {
            return Ok(());
        }
        let have = self.last_index();
        if have < index {
            return Err(Error::LogLost { have, need: index });
        }
        self.committed = index;
        Ok(())
    }

    /// The leader's commit rule: only an entry of its own term commits by counting (Raft paper §5.4.2, figure 8).
    pub(crate) fn maybe_commit(&mut self, id: EntryId) -> Result<bool, Error> {
        if id.term == 0 || id.index <= self.committed || !self.matches(id)? {
            return Ok(false);
        }
        self.commit_to(id.index)?;
        Ok(true)
    }

    /// A snapshot, newer than everything committed, takes the log's place.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        let metadata = &snapshot.metadata;
        info!("log [{self}] starts to restore snapshot [index: {}, term: {}]", metadata.index, metadata.term);
        self.committed = metadata.index;
        self.unstable.restore(snapshot);
    }

    /// The newest snapshot: the one that was just received, or storage's. `None` while none can be had.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>, Error> {
        if let Some(snapshot) = &self.unstable.snapshot {
            return Ok(Some(snapshot.clone()));
        }
        match self.storage.snapshot() {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(StorageError::SnapshotTemporarilyUnavailable) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The entries from `low` to the end, limited to `max_bytes` but one at least.
    pub(crate) fn entries_from(&self, low: u64, max_bytes: u64) -> Result<Slice, Error> {
        let last = self.last_index();
        if low > last {
            return Ok(Slice::Entries(Entries::new()));
        }
        self.slice(low, last + 1, max_bytes)
    }

    /// The entries in `[low, high)`, `high ≤ last_index + 1`, limited to `max_bytes` but one at least.
    pub(crate) fn slice(&self, low: u64, high: u64, max_bytes: u64) -> Result<Slice, Error> {
        if low < self.first_index()? {
            return Ok(Slice::Compacted);
        }
        if low >= high {
            return Ok(Slice::Entries(Entries::new()));
        }
        let offset = self.unstable.offset();
        if low >= offset {
            return Ok(Slice::Entries(self.unstable.entries.slice(low, high, max_bytes)));
        }
        let cut = high.min(offset);
        let mut entries = match self.storage.entries(low, cut, max_bytes) {
            Ok(entries) => entries,
            Err(StorageError::Compacted) => return Ok(Slice::Compacted),
            Err(error) => return Err(error.into()),
        };
        let consecutive = entries.iter().zip(low..).all(|(entry, index)| entry.index == index);
        if entries.is_empty() || entries.len() as u64 > cut - low || !consecutive {
            let what = format!("asked for entries [{low}, {cut}), storage returned others");
            return Err(StorageError::Other(what).into());
        }
        // A storage that is generous with the limit is corrected.
        let count = count_within(entries.iter(), max_bytes);
        if count < entries.len() {
            entries.truncate(count);
        } else if entries.len() as u64 == cut - low && high > offset {
            // The range goes on behind what is stable. As many more as there is room for, none if there is not.
            let room = max_bytes.saturating_sub(encoded_size(&entries));
            let more = self.unstable.entries.slice(offset, high, room);
            if more.first().is_some_and(|first| first.encoded_len() as u64 <= room) {
                entries.extend_from_slice(&more);
            }
        }
        Ok(Slice::Entries(entries))
    }

    /// Whether a received snapshot is not durable yet. Nothing is applied meanwhile: the entries behind it belong to a
    /// state that the application does not have.
    #[inline]
    pub(crate) fn has_snapshot_pending(&self) -> bool {
        self.unstable.snapshot.is_some()
    }

    /// The highest index that may be handed out for applying. Without `allow_unstable`, only durable entries.
    #[inline]
    fn max_appliable(&self, allow_unstable: bool) -> u64 {
        if bug!(ApplyUncommitted) {
            self.unstable.offset() - 1
        } else if allow_unstable {
            self.committed
        } else {
            self.committed.min(self.unstable.offset() - 1)
        }
    }

    /// Whether [`Self::next_committed`] would hand out anything.
    #[inline]
    pub(crate) fn has_next_committed(&self, allow_unstable: bool) -> bool {
        !self.applying_paused && !self.has_snapshot_pending() && self.applying < self.max_appliable(allow_unstable)
    }

    /// The next page of committed entries to apply.
    pub(crate) fn next_committed(&self, allow_unstable: bool) -> Result<Entries, Error> {
        if !self.has_next_committed(allow_unstable) {
            return Ok(Entries::new());
        }
        let room = self.max_applying_bytes.saturating_sub(self.applying_bytes);
        match self.slice(self.applying + 1, self.max_appliable(allow_unstable) + 1, room)? {
            Slice::Entries(entries) => Ok(entries),
            Slice::Compacted => {
                let what = format!("entry {} is compacted away before it was applied", self.applying + 1);
                Err(StorageError::Other(what).into())
            }
        }
    }

    /// What committed entries count for while they are being applied: their encoded bytes, or nothing if that is not
    /// limited.
    #[inline]
    pub(crate) fn applying_size(&self, entries: &[Entry]) -> u64 {
        if self.max_applying_bytes == NO_LIMIT {
            return 0;
        }
        encoded_size(entries)
    }

    /// Committed entries up to `index`, of `bytes` as [`Self::applying_size`] says, were handed out.
    pub(crate) fn accept_applying(&mut self, index: u64, bytes: u64, allow_unstable: bool) {
        self.applying = if bug!(ApplyTwice) { self.applying.min(index) } else { index };
        self.applying_bytes = self.applying_bytes.saturating_add(bytes);
        // A page that does not reach the end was cut by the limit; the next one would be cut to nothing but its
        // mandatory first entry, again and again.
        self.applying_paused =
            self.applying_bytes >= self.max_applying_bytes || index < self.max_appliable(allow_unstable);
    }

    /// The application acknowledges entries up to `index`, of `bytes` as above; what exceeds `committed` is ignored.
    pub(crate) fn applied_to(&mut self, index: u64, bytes: u64) {
        self.applied = self.applied.max(index.min(self.committed));
        self.applying = self.applying.max(self.applied);
        self.applying_bytes = self.applying_bytes.saturating_sub(bytes);
        self.applying_paused = self.applying_bytes >= self.max_applying_bytes;
    }

    /// Whether any entry in `(after, up_to]` changes the configuration. Read page by page.
    pub(crate) fn has_conf_change(&self, after: u64, up_to: u64) -> Result<bool, Error> {
        let mut low = after + 1;
        while low <= up_to {
            match self.slice(low, up_to + 1, self.max_applying_bytes)? {
                Slice::Entries(page) if page.is_empty() => return Ok(false),
                Slice::Entries(page) => {
                    if page.iter().any(Entry::is_conf_change) {
                        return Ok(true);
                    }
                    low += page.len() as u64;
                }
                Slice::Compacted => {
                    let what = format!("entry {low} is compacted away before it was applied");
                    return Err(StorageError::Other(what).into());
                }
            }
        }
        Ok(false)
    }
}

impl<S> fmt::Display for RaftLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "committed={}, applied={}, applying={}, unstable.offset={}, unstable.offsetInProgress={}, \
             len(unstable.Entries)={}",
            self.committed,
            self.applied,
            self.applying,
            self.unstable.offset(),
            self.unstable.offset_in_progress,
            self.unstable.entries.len()
        )
    }
}

#[cfg(test)]
mod tests;
