//! The log and hard state as the core reads them: [`Storage`], and [`MemoryStorage`], which keeps them in memory.
//!
//! The core only *reads* through this trait. Writing is the application's part of the bargain: it takes what a
//! [`Ready`](crate::Ready) hands out, makes it durable, and puts it where `Storage` finds it, in that order.
//!
//! A log is compacted from the front. What is gone is remembered by one (index, term) pair, the one just before
//! [`Storage::first_index`], because log matching needs the term of the entry before the first one that is sent.
//!
//! What is left out: asynchronous fetches, and the durable log itself (crate `wal`).

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::config::NO_LIMIT;
use crate::entries::{Entries, Runs};
use crate::pb::{ConfState, Entry, HardState, Snapshot};
use crate::wire::entry_len;

/// Why a storage cannot answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageError {
    /// The index is compacted away.
    Compacted,
    /// The index is not in the log yet.
    Unavailable,
    /// The snapshot is older than the one that is there.
    SnapshotOutOfDate,
    /// A snapshot is being made; ask again later.
    SnapshotTemporarilyUnavailable,
    /// Entries that do not follow on the log's end.
    Gap {
        /// The log's last index.
        last: u64,
        /// The index of the first entry that came.
        first: u64,
    },
    /// Anything else: the node stops. The text says what and where.
    Other(String),
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::Compacted => write!(f, "the requested index is compacted away"),
            StorageError::Unavailable => write!(f, "the requested entry is not in the log"),
            StorageError::SnapshotOutOfDate => write!(f, "the snapshot is older than the stored one"),
            StorageError::SnapshotTemporarilyUnavailable => write!(f, "no snapshot is available for the moment"),
            StorageError::Gap { last, first } => {
                write!(f, "entries from index {first} do not follow on the log's last index {last}")
            }
            StorageError::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StorageError {}

/// The stable part of the log, for reading (etcd `storage.go`).
///
/// Any error but `Compacted`, `Unavailable` and `SnapshotTemporarilyUnavailable` puts the node out of order.
pub trait Storage {
    /// The hard state and configuration saved last; both empty for a new node.
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError>;

    /// The entries in `[low, high)`, as many from the start as encode to `max_bytes`, but one at least.
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Entries, StorageError>;

    /// The term of the entry at `index`, which may be any in `[first_index - 1, last_index]`.
    fn term(&self, index: u64) -> Result<u64, StorageError>;

    /// The first index whose entry is there; one more than the last index if none is.
    fn first_index(&self) -> Result<u64, StorageError>;

    /// The index of the last entry, or of the snapshot that stands for everything.
    fn last_index(&self) -> Result<u64, StorageError>;

    /// The newest snapshot.
    fn snapshot(&self) -> Result<Snapshot, StorageError>;
}

/// Sharing is the exception (a [`Node`](crate::Node)'s thread reads what the application's thread writes).
impl<S: Storage> Storage for Arc<RwLock<S>> {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.read().unwrap_or_else(PoisonError::into_inner).initial_state()
    }
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Entries, StorageError> {
        self.read().unwrap_or_else(PoisonError::into_inner).entries(low, high, max_bytes)
    }
    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.read().unwrap_or_else(PoisonError::into_inner).term(index)
    }
    fn first_index(&self) -> Result<u64, StorageError> {
        self.read().unwrap_or_else(PoisonError::into_inner).first_index()
    }
    fn last_index(&self) -> Result<u64, StorageError> {
        self.read().unwrap_or_else(PoisonError::into_inner).last_index()
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.read().unwrap_or_else(PoisonError::into_inner).snapshot()
    }
}

/// A log in memory: for tests, for examples, and as the readable copy of a log on disk.
#[derive(Clone, Debug, Hash)]
pub struct MemoryStorage {
    hard_state: HardState,
    /// Stands for everything up to its index; index 0 if there is none.
    snapshot: Snapshot,
    /// The (index, term) just before `entries`: `entries.start() == compacted.0 + 1`.
    compacted: (u64, u64),
    entries: Runs,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        MemoryStorage {
            hard_state: HardState::default(),
            snapshot: Snapshot::default(),
            compacted: (0, 0),
            entries: Runs::starting_at(1),
        }
    }
}

impl MemoryStorage {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records the hard state.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Records the configuration of a log that has no snapshot (one that starts with a known membership).
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.snapshot.metadata.conf_state = conf_state;
    }

    /// Puts a snapshot in the place of the whole log.
    ///
    /// # Errors
    /// [`StorageError::SnapshotOutOfDate`] if it is not newer than the present one; one of index 0 is accepted on an
    /// empty log, where it says only the configuration. [`StorageError::Other`] if its index is too large for a log to
    /// follow on it.
    pub fn apply_snapshot(&mut self, snapshot: Snapshot) -> Result<(), StorageError> {
        let index = snapshot.metadata.index;
        if index > u64::MAX / 2 {
            return Err(StorageError::Other(format!("a snapshot of the impossible index {index}")));
        }
        let is_empty = self.compacted.0 == 0 && self.entries.is_empty();
        if self.snapshot.metadata.index >= index && !(is_empty && index == 0) {
            return Err(StorageError::SnapshotOutOfDate);
        }
        self.compacted = (index, snapshot.metadata.term);
        self.entries = Runs::starting_at(index + 1);
        self.snapshot = snapshot;
        Ok(())
    }

    /// Makes a snapshot of the state at `index` the newest one. The log is left as it is; see [`Self::compact`].
    ///
    /// # Errors
    /// [`StorageError::SnapshotOutOfDate`] if there is one as new; [`StorageError::Unavailable`] beyond the log's end.
    pub fn create_snapshot(
        &mut self,
        index: u64,
        conf_state: Option<ConfState>,
        data: impl Into<Bytes>,
    ) -> Result<Snapshot, StorageError> {
        if index <= self.snapshot.metadata.index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        let term = self.term(index)?;
        let metadata = &mut self.snapshot.metadata;
        metadata.index = index;
        metadata.term = term;
        if let Some(conf_state) = conf_state {
            metadata.conf_state = conf_state;
        }
        self.snapshot.data = data.into();
        Ok(self.snapshot.clone())
    }

    /// Drops the entries up to and including `index`. The application must have applied them.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] if that was done already; [`StorageError::Unavailable`] beyond the log's end.
    pub fn compact(&mut self, index: u64) -> Result<(), StorageError> {
        if index <= self.compacted.0 {
            return Err(StorageError::Compacted);
        }
        let term = self.term(index)?;
        self.entries.release(index + 1);
        self.compacted = (index, term);
        Ok(())
    }

    /// Appends entries; those that overlap the log replace its end from their first index on. What is compacted
    /// already is skipped. A `Ready`'s entries are shared, not copied; a plain slice is.
    ///
    /// # Errors
    /// [`StorageError::Gap`] if they are not consecutive, or do not follow on the log; nothing is appended then.
    pub fn append(&mut self, entries: impl Into<Entries>) -> Result<(), StorageError> {
        let mut entries = entries.into();
        let skip = entries.iter().take_while(|entry| entry.index < self.entries.start()).count();
        if skip > 0 {
            entries.drain(..skip);
        }
        let Some(first) = entries.first().map(|entry| entry.index) else { return Ok(()) };
        if first > self.entries.end() {
            return Err(StorageError::Gap { last: self.entries.end() - 1, first });
        }
        for pair in entries.windows(2) {
            if pair[1].index != pair[0].index + 1 {
                return Err(StorageError::Gap { last: pair[0].index, first: pair[1].index });
            }
        }
        self.entries.truncate(first);
        self.entries.push(entries);
        Ok(())
    }
}

impl Storage for MemoryStorage {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        Ok((self.hard_state, self.snapshot.metadata.conf_state.clone()))
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Entries, StorageError> {
        if low <= self.compacted.0 {
            return Err(StorageError::Compacted);
        }
        if low >= high || high > self.entries.end() {
            return Err(StorageError::Unavailable);
        }
        Ok(self.entries.slice(low, high, max_bytes))
    }

    #[inline]
    fn term(&self, index: u64) -> Result<u64, StorageError> {
        if index < self.compacted.0 {
            return Err(StorageError::Compacted);
        }
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        self.entries.get(index).map(|entry| entry.term).ok_or(StorageError::Unavailable)
    }

    #[inline]
    fn first_index(&self) -> Result<u64, StorageError> {
        Ok(self.compacted.0 + 1)
    }

    #[inline]
    fn last_index(&self) -> Result<u64, StorageError> {
        Ok(self.entries.end() - 1)
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(self.snapshot.clone())
    }
}

/// What an entry weighs beside its data: five tags, four numbers of up to ten bytes, and room to spare.
const MAX_OVERHEAD_BYTES: u64 = 50;

/// How many of `entries`, from the start, encode to at most `max_bytes` together; one at least if there is any.
pub(crate) fn count_within<'a>(entries: impl Iterator<Item = &'a Entry> + Clone, max_bytes: u64) -> usize {
    if max_bytes == NO_LIMIT {
        return entries.count();
    }
    // Mostly all of them do, which is seen without encoding any. What is asked for may be the rest of a long log, so
    // nothing is looked at far behind the limit.
    let (mut all, mut at_most) = (0, 0u64);
    let all_fit = entries.clone().all(|entry| {
        all += 1;
        at_most = at_most.saturating_add(MAX_OVERHEAD_BYTES + entry.data.len() as u64);
        at_most <= max_bytes
    });
    if all_fit {
        return all;
    }
    let mut size = 0u64;
    let mut count = 0;
    for entry in entries {
        size = size.saturating_add(entry_len(entry) as u64);
        if size > max_bytes && count > 0 {
            break;
        }
        count += 1;
    }
    count
}

/// What `entries` weigh encoded; the measure of message and apply limits.
#[inline]
pub(crate) fn encoded_size(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry_len(entry) as u64).sum()
}

/// What the data of `entries` weighs; the measure of the leader's uncommitted quota and of in-flight bytes.
#[inline]
pub(crate) fn payload_size(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.data.len() as u64).sum()
}

#[cfg(test)]
mod tests;
