//! A node's disk as a correct user of `wal` works with it: log, snapshot files, and the order between them.
//!
//! The order is that of the `raftexample` process: a snapshot file before the log's record of it, that before the hard
//! state and entries that build on it, two snapshots kept, the log never cut beyond the older one; and every failure is
//! final. [`Recovery`] is told of each write before it is made and of each sync that succeeded, and judges what comes
//! back.

use std::sync::Arc;

use kvstore::Store;
use raft_core::pb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft_core::{MemoryStorage, Storage};
use wal::{Options, SnapshotDir, Torn, Wal};

use super::invariants::recovery::{Recovery, Write};
use super::shadow::Mark;
use crate::fault_disk::{log_dir, snapshot_dir, FaultDisk};

/// Snapshot files to keep.
const SNAPSHOTS_KEPT: usize = 2;

/// The disk refused something. The node must stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskFailed(pub(super) String);

fn failed(error: &dyn std::fmt::Display) -> DiskFailed {
    DiskFailed(error.to_string())
}

/// Log and snapshots, open.
pub(super) struct Journal {
    disk: FaultDisk,
    wal: Wal,
    snapshots: SnapshotDir,
    /// The snapshots that the next start can rely on, ascending.
    kept: Vec<SnapshotMetadata>,
    /// What was written last.
    hard_state: HardState,
    /// Something was written and not synced that matters.
    must_sync: bool,
}

/// What was there.
pub(super) struct Opened {
    pub(super) storage: MemoryStorage,
    pub(super) store: Store,
    /// Index, term and configuration of the snapshot, if there is one.
    pub(super) snapshot: Option<(u64, u64, ConfState)>,
    /// Nothing was ever promised.
    pub(super) empty: bool,
    pub(super) hard_state: HardState,
    pub(super) first_index: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) torn: Option<Torn>,
    /// Snapshot files beyond those that the log knows of.
    pub(super) unrecorded: bool,
}

impl Journal {
    /// Opens what is on the disk; creates it if there is nothing.
    pub(super) fn open(disk: &FaultDisk, id: u64, segment_bytes: u64) -> Result<(Journal, Opened), DiskFailed> {
        let shared: Arc<dyn wal::Disk> = Arc::new(disk.clone());
        let metadata = format!("node {id}");
        let options = Options { segment_bytes };
        let (wal, recovered) = Wal::open_on(Arc::clone(&shared), &log_dir(), options, metadata.as_bytes())
            .map_err(|error| failed(&error))?;
        let snapshots = SnapshotDir::open_on(shared, &snapshot_dir()).map_err(|error| failed(&error))?;
        let newest = snapshots.load_newest(&recovered.snapshots).map_err(|error| failed(&error))?;
        let files = disk.names().iter().filter(|name| name.ends_with(".snap")).count();
        let index = newest.as_ref().map_or(0, |snapshot| snapshot.metadata.index);
        let kept = newest.iter().map(|snapshot| snapshot.metadata.clone()).collect();
        let (storage, store, empty) = assemble(newest.as_ref(), &recovered).map_err(DiskFailed)?;
        let opened = Opened {
            storage,
            store,
            snapshot: newest.map(|Snapshot { metadata, .. }| (index, metadata.term, metadata.conf_state)),
            empty,
            hard_state: recovered.hard_state,
            first_index: recovered.first_index,
            entries: recovered.held_entries().to_vec().map_err(|error| failed(&error))?,
            torn: recovered.torn,
            unrecorded: files > recovered.snapshots.len(),
        };
        let journal =
            Journal { disk: disk.clone(), wal, snapshots, kept, hard_state: opened.hard_state, must_sync: false };
        Ok((journal, opened))
    }

    fn alive(&self) -> Result<(), DiskFailed> {
        // The power may have gone in a call whose failure the log could bear.
        match self.disk.is_cut_off() {
            true => Err(DiskFailed("the power is off".into())),
            false => Ok(()),
        }
    }

    /// Writes entries and hard state, without a sync.
    pub(super) fn append(
        &mut self,
        recovery: &mut Recovery,
        hard_state: Option<HardState>,
        entries: &[Entry],
    ) -> Result<(), DiskFailed> {
        // A snapshot that was taken meanwhile may have told the log of a later commit.
        let hard_state =
            hard_state.map(|state| HardState { commit: state.commit.max(self.hard_state.commit), ..state });
        if hard_state.is_none() && entries.is_empty() {
            return Ok(());
        }
        let marks = entries.iter().map(|entry| (entry.index, Mark::of(entry))).collect();
        recovery.writes(Write::Save(hard_state, marks));
        self.wal.append(hard_state.as_ref(), entries).map_err(|error| failed(&error))?;
        self.must_sync |= !entries.is_empty();
        if let Some(state) = hard_state {
            let promises = (state.term, state.vote) != (self.hard_state.term, self.hard_state.vote);
            self.must_sync |= promises && !bug!(JournalVoteNotSynced);
            self.hard_state = state;
        }
        self.alive()
    }

    /// Makes what was written durable, unless all of it is a commit index that Raft would find out again.
    pub(super) fn sync(&mut self, recovery: &mut Recovery) -> Result<(), DiskFailed> {
        if self.must_sync {
            if !bug!(JournalSkipsSync) {
                self.wal.sync().map_err(|error| failed(&error))?;
            }
            recovery.synced();
            self.must_sync = false;
        }
        self.alive()
    }

    /// Makes a snapshot durable: file, then record.
    pub(super) fn save_snapshot(&mut self, recovery: &mut Recovery, snapshot: &Snapshot) -> Result<(), DiskFailed> {
        let metadata = &snapshot.metadata;
        if !bug!(JournalRecordsSnapshotFirst) {
            self.snapshots.save(snapshot).map_err(|error| failed(&error))?;
            self.alive()?;
        }
        recovery.writes(Write::Snapshot(metadata.index, metadata.term));
        self.wal.save_snapshot(metadata).map_err(|error| failed(&error))?;
        if bug!(JournalRecordsSnapshotFirst) {
            self.alive()?;
            self.snapshots.save(snapshot).map_err(|error| failed(&error))?;
        }
        recovery.synced();
        self.must_sync = false;
        self.hard_state = recovery.durable().hard_state;
        self.kept.push(metadata.clone());
        self.alive()
    }

    /// Removes what nothing needs any more. Answers how many segments went.
    pub(super) fn purge(&mut self) -> Result<usize, DiskFailed> {
        let surplus = self.kept.len().saturating_sub(SNAPSHOTS_KEPT);
        self.kept.drain(..surplus);
        if !self.kept.is_empty() {
            self.snapshots.purge(&self.kept).map_err(|error| failed(&error))?;
        }
        let removed = match (self.kept.first(), self.kept.len()) {
            (Some(oldest), SNAPSHOTS_KEPT) => self.wal.purge(oldest.index).map_err(|error| failed(&error))?,
            _ => 0,
        };
        self.alive().map(|()| removed)
    }

    /// How many segments there are.
    pub(super) fn segments(&self) -> usize {
        self.wal.segment_count()
    }
}

/// Puts the pieces together for Raft. An error here is a broken promise of the log.
fn assemble(newest: Option<&Snapshot>, recovered: &wal::Recovered) -> Result<(MemoryStorage, Store, bool), String> {
    let mut storage = MemoryStorage::new();
    let (index, term) = newest.map_or((0, 0), |snapshot| (snapshot.metadata.index, snapshot.metadata.term));
    let entries = recovered.entries(index).and_then(|entries| entries.to_vec()).map_err(|error| error.to_string())?;
    let first = entries.first().map_or(recovered.first_index, |entry| entry.index.max(recovered.first_index));
    if first > index + 1 {
        return Err(format!("the log begins at {first}, and the newest snapshot is of {index}"));
    }
    let mut hard_state = recovered.hard_state;
    let mut store = Store::new();
    if let Some(snapshot) = newest {
        store = Store::restore(&snapshot.data).map_err(|error| error.to_string())?;
        storage.apply_snapshot(snapshot.clone()).map_err(|error| error.to_string())?;
        hard_state.commit = hard_state.commit.max(index);
        if hard_state.term < term {
            hard_state = HardState { term, vote: 0, ..hard_state };
        }
    }
    let empty = newest.is_none() && entries.is_empty() && hard_state.is_empty();
    storage.set_hard_state(hard_state);
    storage.append(entries).map_err(|error| error.to_string())?;
    let last = storage.last_index().map_err(|error| error.to_string())?;
    if hard_state.commit > last {
        return Err(format!("the log ends at {last}, but {} were committed", hard_state.commit));
    }
    Ok((storage, store, empty))
}
