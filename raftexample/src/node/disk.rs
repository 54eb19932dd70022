//! What survives a crash: the log and the snapshots, and the order in which they are written.
//!
//! A data directory holds `wal/` and `snap/`. Three rules make every moment a good one to be killed in:
//!
//! 1. **A snapshot file is complete before the log mentions it.** First the file under a temporary name, synced and
//!    renamed, then a record in the log: "there is a durable snapshot of this index". The first half of that takes long
//!    and is done by others; the raft thread renames and records ([`Disk::record_snapshot`]).
//! 2. **The log is never cut further than the oldest snapshot that is kept.** Two are kept; should the newest turn out
//!    to be damaged, the one before it and the log behind that one still make the whole state. Only a snapshot that the
//!    leader has sent stands alone: the log that it replaces does not lead up to it.
//! 3. **Any failure to write is final.** What a failed sync has left on the disk nobody knows; the process ends, and the
//!    next start reads what there is.
//!
//! At the start all this is read back ([`Disk::open`]): the newest valid snapshot that the log knows of, then the log
//! from there.
//!
//! What is left out: how records and files look like. That is the business of the crate `wal`.

use std::fmt;
use std::path::Path;
use std::thread::JoinHandle;

use raft_core::pb::{Entry, HardState, Snapshot, SnapshotMetadata};
use raft_core::MemoryStorage;
use wal::snapshot::{CompleteSnapshot, SnapshotReader};
use wal::{Options, SnapshotDir, Wal, WalError};

use crate::background;

/// Snapshot files to keep.
const SNAPSHOTS_KEPT: usize = 2;

/// The disk failed, or holds what cannot be used. One line that says what and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageFailed(pub String);

impl fmt::Display for StorageFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StorageFailed {}

/// One data directory, open and locked.
pub struct Disk {
    // Before the log, whose lock is what keeps another process out.
    removing: Removing,
    wal: Wal,
    snapshots: SnapshotDir,
    /// The snapshots that the next start can rely on, ascending: the one that this start loaded, and those
    /// written since. What the log has recorded is not enough, for a file may be gone or damaged.
    kept: Vec<SnapshotMetadata>,
}

/// A thread that removes old snapshot files: to give the room of a large one back takes the system a tenth of a second.
/// Dropped, it has ended.
#[derive(Default)]
struct Removing(Option<JoinHandle<Result<(), WalError>>>);

impl Removing {
    /// Removes all files but these, after those that are being removed.
    ///
    /// # Errors
    /// If that failed the last time, or there is no thread to be had.
    fn begin(&mut self, snapshots: SnapshotDir, keep: Vec<SnapshotMetadata>) -> Result<(), StorageFailed> {
        let mut before = Removing(self.0.take());
        if before.0.as_ref().is_some_and(JoinHandle::is_finished) {
            before.wait().map_err(|error| fail(&error))?;
        }
        let remove = move || {
            before.wait()?;
            snapshots.purge(&keep).map(drop)
        };
        self.0 = Some(background::spawn("remove", remove).map_err(|error| fail(&error))?);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), WalError> {
        // If it panicked, the next purge finds what it has left.
        self.0.take().and_then(|thread| thread.join().ok()).unwrap_or(Ok(()))
    }
}

impl Drop for Removing {
    fn drop(&mut self) {
        if let Err(error) = self.wait() {
            log::warn!("old snapshots are left: {error}");
        }
    }
}

/// What the disk remembered.
pub struct State {
    /// The readable copy of the log. Of the snapshot that it begins with it has the metadata only.
    pub storage: MemoryStorage,
    /// That snapshot, if there is one: checked, and open at its beginning.
    pub snapshot: Option<SnapshotReader>,
    /// There is nothing: this node has never run, or never got as far as to promise anything.
    pub empty: bool,
}

impl Disk {
    /// Opens the directory, creating it if there is none, and reads it. `node` and `cluster` are remembered: a directory
    /// of another node is refused.
    pub fn open(dir: &Path, node: u64, cluster: u64, segment_bytes: u64) -> Result<(Disk, State), StorageFailed> {
        let metadata = format!("node {node:x} of cluster {cluster:x}");
        let options = Options { segment_bytes };
        let (wal, recovered) =
            Wal::open(&dir.join("wal"), options, metadata.as_bytes()).map_err(|error| fail(&error))?;
        let snapshots = SnapshotDir::open(&dir.join("snap")).map_err(|error| fail(&error))?;
        let snapshot = snapshots.open_newest(&recovered.snapshots).map_err(|error| fail(&error))?;
        let kept = snapshot.iter().map(|snapshot| snapshot.metadata().clone()).collect();
        let metadata = snapshot.as_ref().map(SnapshotReader::metadata);
        let misfit = |reason: &dyn fmt::Display| {
            StorageFailed(format!("the data in {} does not fit together: {reason}", dir.display()))
        };
        let after = metadata.map_or(0, |metadata| metadata.index);
        let entries = recovered.entries(after).map_err(|error| match metadata {
            None => misfit(&format_args!("there is no usable snapshot, and {error}")),
            Some(_) => misfit(&error),
        })?;
        let entries = entries.to_vec().map_err(|error| fail(&error))?;
        let (storage, empty) = assemble(metadata, recovered.hard_state, entries).map_err(|reason| misfit(&reason))?;
        Ok((Disk { wal, snapshots, kept, removing: Removing::default() }, State { storage, snapshot, empty }))
    }

    /// Where snapshots are written and read.
    pub fn snapshot_dir(&self) -> SnapshotDir {
        self.snapshots.clone()
    }

    /// Makes hard state and entries durable. On return they are (the commit index alone may lag behind).
    pub fn save(&mut self, hard_state: Option<&HardState>, entries: &[Entry]) -> Result<(), StorageFailed> {
        if hard_state.is_none() && entries.is_empty() {
            return Ok(());
        }
        self.wal.save(hard_state, entries).map_err(|error| fail(&error))
    }

    /// Makes the latest commit index durable too, for an end in order: the next start has less to find out.
    pub fn sync(&mut self) -> Result<(), StorageFailed> {
        self.wal.sync().map_err(|error| fail(&error))
    }

    /// Makes a complete snapshot file one that the next start relies on: its name, then its record.
    pub fn record_snapshot(&mut self, file: CompleteSnapshot) -> Result<(), StorageFailed> {
        let metadata = file.metadata().clone();
        file.publish().map_err(|error| fail(&error))?;
        self.wal.save_snapshot(&metadata).map_err(|error| fail(&error))?;
        self.kept.push(metadata);
        Ok(())
    }

    /// Removes what nothing needs any more: old snapshot files, and the log that the oldest kept one stands for. Returns
    /// before they are gone; if they cannot be removed, the next call says so.
    pub fn purge(&mut self) -> Result<(), StorageFailed> {
        let surplus = self.kept.len().saturating_sub(SNAPSHOTS_KEPT);
        self.kept.drain(..surplus);
        if !self.kept.is_empty() {
            self.removing.begin(self.snapshots.clone(), self.kept.clone())?;
        }
        if let (Some(oldest), SNAPSHOTS_KEPT) = (self.kept.first(), self.kept.len()) {
            self.wal.purge(oldest.index).map_err(|error| fail(&error))?;
        }
        Ok(())
    }
}

fn fail(error: &dyn fmt::Display) -> StorageFailed {
    StorageFailed(error.to_string())
}

/// Puts the pieces together for Raft: the snapshot, the entries that follow it, and a hard state that fits both. Also
/// says whether there is nothing at all.
fn assemble(
    snapshot: Option<&SnapshotMetadata>,
    mut hard_state: HardState,
    entries: Vec<Entry>,
) -> Result<(MemoryStorage, bool), String> {
    let mut storage = MemoryStorage::new();
    let (index, term) = snapshot.map_or((0, 0), |metadata| (metadata.index, metadata.term));
    let last = entries.last().map_or(index, |entry| entry.index);
    if hard_state.commit > last {
        return Err(format!("the log ends at {last}, but entries up to {} were committed", hard_state.commit));
    }
    if let Some(metadata) = snapshot {
        let snapshot = Snapshot { metadata: metadata.clone(), ..Snapshot::default() };
        storage.apply_snapshot(snapshot).map_err(|error| error.to_string())?;
        // The process ended between the snapshot's record and the hard state that goes with it. What a snapshot holds is
        // committed; and nothing was promised yet in a term that had not been written.
        hard_state.commit = hard_state.commit.max(index);
        if hard_state.term < term {
            hard_state = HardState { term, vote: 0, ..hard_state };
        }
    }
    let empty = snapshot.is_none() && entries.is_empty() && hard_state.is_empty();
    storage.set_hard_state(hard_state);
    storage.append(entries).map_err(|error| error.to_string())?;
    Ok((storage, empty))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::Storage;

    fn entry(index: u64) -> Entry {
        Entry { index, term: 2, ..Entry::default() }
    }

    fn snapshot(index: u64) -> SnapshotMetadata {
        let mut metadata = SnapshotMetadata { index, term: 2, ..SnapshotMetadata::default() };
        metadata.conf_state.voters = vec![1];
        metadata
    }

    fn save_snapshot(disk: &mut Disk, index: u64) {
        let file = disk.snapshots.writer(&snapshot(index)).unwrap().complete().unwrap();
        disk.record_snapshot(file).unwrap();
    }

    fn found(state: &State) -> Option<SnapshotMetadata> {
        state.snapshot.as_ref().map(|snapshot| snapshot.metadata().clone())
    }

    fn hard_state(commit: u64) -> HardState {
        HardState { term: 2, vote: 1, commit }
    }

    #[test]
    fn pieces_that_fit_are_put_together() {
        let (_, empty) = assemble(None, HardState::default(), vec![]).unwrap();
        assert!(empty);
        let (storage, empty) = assemble(None, hard_state(1), vec![entry(1), entry(2)]).unwrap();
        assert!(!empty);
        assert_eq!(storage.last_index(), Ok(2));
        let (storage, _) = assemble(Some(&snapshot(5)), hard_state(6), vec![entry(6)]).unwrap();
        assert_eq!((storage.first_index(), storage.last_index()), (Ok(6), Ok(6)));
        assert_eq!(storage.initial_state().unwrap().0, hard_state(6));
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        assert!(assemble(None, hard_state(0), vec![entry(3)]).is_err(), "the snapshot before 3 is missing");
        assert!(assemble(Some(&snapshot(5)), hard_state(5), vec![entry(7)]).is_err(), "6 is missing");
        assert!(assemble(None, hard_state(3), vec![entry(1), entry(2)]).is_err(), "a committed entry is missing");
    }

    #[test]
    fn a_crash_between_a_snapshot_and_its_hard_state_does_no_harm() {
        let (storage, _) = assemble(Some(&snapshot(5)), HardState { term: 1, vote: 3, commit: 2 }, vec![]).unwrap();
        assert_eq!(storage.initial_state().unwrap().0, HardState { term: 2, vote: 0, commit: 5 });
    }

    #[test]
    fn what_is_written_is_read_back_and_old_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Disk::open(dir.path(), 1, 0x1000, 1 << 20);
        let (mut disk, state) = open().unwrap();
        assert!(state.empty);
        disk.save(Some(&hard_state(2)), &[entry(1), entry(2)]).unwrap();
        for index in [1, 2, 3] {
            disk.save(Some(&hard_state(index + 2)), &[entry(index + 2)]).unwrap();
            save_snapshot(&mut disk, index);
            disk.purge().unwrap();
        }
        drop(disk);
        let (_disk, state) = open().unwrap();
        assert_eq!(found(&state), Some(snapshot(3)));
        assert_eq!((state.storage.first_index(), state.storage.last_index()), (Ok(4), Ok(5)));
        assert_eq!(std::fs::read_dir(dir.path().join("snap")).unwrap().count(), SNAPSHOTS_KEPT);
    }

    #[test]
    fn a_damaged_newest_snapshot_is_made_up_for_by_the_one_before_and_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Disk::open(dir.path(), 1, 0x1000, 1 << 20);
        let (mut disk, _) = open().unwrap();
        disk.save(Some(&hard_state(3)), &[entry(1), entry(2), entry(3)]).unwrap();
        for index in [1, 2] {
            save_snapshot(&mut disk, index);
            disk.purge().unwrap();
        }
        drop(disk);
        let newest = dir.path().join("snap").join(format!("{:016x}-{:016x}.snap", 2, 2));
        let mut bytes = std::fs::read(&newest).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&newest, bytes).unwrap();
        let (_disk, state) = open().unwrap();
        assert_eq!(found(&state), Some(snapshot(1)));
        assert_eq!((state.storage.first_index(), state.storage.last_index()), (Ok(2), Ok(3)));
    }

    #[test]
    fn the_log_is_never_cut_behind_a_snapshot_that_was_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Disk::open(dir.path(), 1, 0x1000, 4096);
        let large = |index| Entry { data: vec![7; 3000].into(), ..entry(index) };
        let damage = |index: u64| {
            let file = dir.path().join("snap").join(format!("{:016x}-{index:016x}.snap", 2));
            let mut bytes = std::fs::read(&file).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(&file, bytes).unwrap();
        };
        let (mut disk, _) = open().unwrap();
        for index in 1..=20 {
            disk.save(Some(&hard_state(index)), &[large(index)]).unwrap();
            if index % 5 == 0 && index < 20 {
                save_snapshot(&mut disk, index);
                disk.purge().unwrap();
            }
        }
        drop(disk);
        damage(15);
        let (mut disk, state) = open().unwrap();
        assert_eq!(found(&state), Some(snapshot(10)));
        save_snapshot(&mut disk, 20);
        disk.purge().unwrap();
        drop(disk);
        damage(20);
        let (_disk, state) = open().unwrap();
        assert_eq!(found(&state), Some(snapshot(10)));
        assert_eq!((state.storage.first_index(), state.storage.last_index()), (Ok(11), Ok(20)));
    }

    #[test]
    fn a_log_whose_beginning_is_gone_with_its_snapshots_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Disk::open(dir.path(), 1, 0x1000, 4096);
        let (mut disk, _) = open().unwrap();
        for index in 1..=6 {
            disk.save(Some(&hard_state(index)), &[Entry { data: vec![7; 3000].into(), ..entry(index) }]).unwrap();
            save_snapshot(&mut disk, index);
            disk.purge().unwrap();
        }
        drop(disk);
        std::fs::remove_dir_all(dir.path().join("snap")).unwrap();
        let error = open().err().unwrap().to_string();
        assert!(error.contains("there is no usable snapshot, and the log in"), "{error}");
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn a_file_that_the_log_never_recorded_does_not_displace_one_that_it_did() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Disk::open(dir.path(), 1, 0x1000, 1 << 20);
        let (mut disk, _) = open().unwrap();
        disk.save(Some(&hard_state(5)), &[1, 2, 3, 4, 5].map(entry)).unwrap();
        save_snapshot(&mut disk, 1);
        // The process is killed between the file and its record.
        disk.snapshots.writer(&snapshot(2)).unwrap().finish().unwrap();
        drop(disk);
        let (mut disk, _) = open().unwrap();
        save_snapshot(&mut disk, 3);
        disk.purge().unwrap();
        drop(disk);
        let newest = dir.path().join("snap").join(format!("{:016x}-{:016x}.snap", 2, 3));
        std::fs::write(&newest, b"damaged").unwrap();
        let (_disk, state) = open().unwrap();
        assert_eq!(found(&state), Some(snapshot(1)));
        assert_eq!(state.storage.last_index(), Ok(5));
    }

    #[test]
    fn a_directory_serves_one_process_and_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = Disk::open(dir.path(), 1, 0x1000, 1 << 20).unwrap();
        assert!(Disk::open(dir.path(), 1, 0x1000, 1 << 20).is_err(), "in use");
        drop(disk);
        let error = Disk::open(dir.path(), 2, 0x1000, 1 << 20).err().unwrap();
        assert_eq!(error.to_string().lines().count(), 1);
    }
}
