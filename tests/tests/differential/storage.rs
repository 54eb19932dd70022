//! A storage for nodes of crate `raft` that keeps what our [`raft_core::MemoryStorage`] keeps: the term before the first
//! entry stays known, and snapshots are those that were made. The crate's own forgets the one and makes up the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, StorageError};

#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) hard_state: HardState,
    /// Where the next start begins.
    pub(crate) conf_state: ConfState,
    /// Index and term before the first entry.
    base: (u64, u64),
    entries: Vec<Entry>,
    pub(crate) snapshot: Option<Snapshot>,
}

/// Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Double(Arc<Mutex<Kept>>);

impl Kept {
    fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub(crate) fn base(&self) -> (u64, u64) {
        self.base
    }

    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        match index.checked_sub(self.base.0)? {
            0 => Some(self.base.1),
            above => self.entries.get(above as usize - 1).map(|entry| entry.term),
        }
    }

    pub(crate) fn append(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            assert!(first.index > self.base.0 && first.index <= self.last() + 1, "a log without gaps");
            self.entries.truncate((first.index - self.base.0 - 1) as usize);
            self.entries.extend_from_slice(entries);
        }
    }

    pub(crate) fn compact(&mut self, index: u64) {
        let term = self.term(index).expect("an entry that is there");
        self.entries.drain(..(index - self.base.0) as usize);
        self.base = (index, term);
    }

    /// A leader's snapshot takes the place of everything.
    pub(crate) fn install(&mut self, snapshot: Snapshot) {
        let metadata = snapshot.get_metadata();
        self.base = (metadata.index, metadata.term);
        self.entries.clear();
        self.hard_state.commit = self.hard_state.commit.max(metadata.index);
        self.hard_state.term = self.hard_state.term.max(metadata.term);
        self.snapshot = Some(snapshot);
    }
}

impl Double {
    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl raft::Storage for Double {
    fn initial_state(&self) -> Result<RaftState> {
        let kept = self.kept();
        Ok(RaftState::new(kept.hard_state.clone(), kept.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        let kept = self.kept();
        let range = low.checked_sub(kept.base.0 + 1).zip(high.checked_sub(kept.base.0 + 1));
        let Some((from, to)) = range else { return Err(Error::Store(StorageError::Compacted)) };
        let Some(entries) = kept.entries.get(from as usize..to as usize) else {
            return Err(Error::Store(StorageError::Unavailable));
        };
        let mut entries = entries.to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        let kept = self.kept();
        let missing = if index < kept.base.0 { StorageError::Compacted } else { StorageError::Unavailable };
        kept.term(index).ok_or(Error::Store(missing))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.kept().base.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.kept().last())
    }

    fn snapshot(&self, _: u64, _: u64) -> Result<Snapshot> {
        self.kept().snapshot.clone().ok_or(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
