//! The log itself: appending, syncing, going on to the next segment, dropping old ones.
//!
//! **A save** checks the caller's entries against what the log holds, stores one batch into the mapped segment, and
//! syncs the pages since the last sync. Only then is anything acknowledged. Right after the sync a mark is stored
//! behind the batch (see [`mod@crate::format`]), which costs a store and no sync.
//!
//! **The next segment** is allocated by the housekeeper when the live one is half full. To go on there, header and
//! first batch are stored into it and synced together: one sync, as for any other batch. Its final name follows in the
//! background; recovery finds it under either name. If the segment that is left ends in commit-only states that were
//! never synced, they are left behind: the new segment begins with the same state.
//!
//! **A torn end** is left as it is, but for the mark at its beginning, and the log goes on in the next segment, which says
//! where this one ended. No batch is ever stored over another: if that did not reach the disk, a later crash would bring
//! the old one back. So a crash under load costs the rest of a segment, until a snapshot lets it go; and a disk that has
//! no room for another segment must get some before the log goes on.
//!
//! **Failure.** Before anything is stored, a failure is the caller's to handle and the log is as it was. A failed sync
//! is final: the system reports it once and then treats the pages as clean, so a second attempt would "succeed" with
//! the data lost. The handle is poisoned and answers nothing but that.
//!
//! | module | holds |
//! |---|---|
//! | `open` | opening and creating |
//! | `rotation` | the next segment, names, marks, prefilling |
//!
//! What is left out: reading entries back while the log is open (they are in memory, in the caller's storage), and more
//! than one writer.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use raft_core::pb::{Entry, HardState, SnapshotMetadata};

use crate::batch::{batch_bytes_of, entry_record, Owned};
use crate::disk::{Disk, Region};
use crate::error::WalError;
use crate::format::{self, Placement, Record, Seed, BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES, SNAPSHOT_RESET};
use crate::housekeeper::{Gone, Housekeeper, Job, Report, Seal};
use crate::recovery::SegmentInfo;
use crate::state::{self, LogState};

mod open;
mod rotation;

/// How a log is laid out. May change from one opening to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Length of a segment file in bytes, allocated in full. A batch that does not fit gets a longer one. At least
    /// 4096.
    pub segment_bytes: u64,
}

impl Default for Options {
    /// 64 MiB.
    fn default() -> Self {
        Options { segment_bytes: 64 << 20 }
    }
}

/// The log in one directory, which it holds exclusively. See the crate's documentation.
pub struct Wal {
    // Declared, and so dropped, before the lock: the housekeeper finishes while the directory is still ours.
    housekeeper: Housekeeper,
    live: Live,
    sealed: VecDeque<SegmentInfo>,
    next: Next,
    state: LogState,
    identity: u64,
    options: Options,
    dir: PathBuf,
    poisoned: Option<String>,
    disk: Arc<dyn Disk>,
    _lock: Box<dyn Send>,
}

/// The segment that is being written.
struct Live {
    region: Box<dyn Region>,
    info: SegmentInfo,
    seed: Seed,
    /// Behind the last batch, and its checksum.
    end: usize,
    checksum: u32,
    /// Everything before this is durable (0: not even the header); the checksum of the last batch there.
    synced: usize,
    synced_checksum: u32,
    /// Whether a batch that was not synced holds more than a commit.
    unsynced_matters: bool,
    /// The segment has its final name, or the housekeeper was told to give it.
    published: bool,
    /// It has it, durably: no later segment may begin before that.
    named: bool,
    /// Up to where the segment is prefilled, or being prefilled. Less than `end` when the writer was faster.
    prefilled: usize,
    prefilling: bool,
    /// Nothing is stored behind `end` any more: there stands what a crash left.
    closed: bool,
    /// The segment before, to be told that it was left once this one is durable.
    left: Option<Seal>,
}

/// The segment after the live one.
enum Next {
    None,
    Asked,
    /// Preparing failed: it is made when it is needed, and not asked for with every sync until then.
    Failed,
    Ready {
        path: PathBuf,
        region: Box<dyn Region>,
    },
}

impl Wal {
    /// Appends the entries and the hard state as one batch. Durable on return together with everything appended before,
    /// unless nothing of it is an entry, a term or a vote: a commit alone may be lost in a power failure, since Raft finds
    /// it out again. Entries replace those of the same index and all after them; they may not replace committed ones.
    pub fn save(&mut self, hard_state: Option<&HardState>, entries: &[Entry]) -> Result<(), WalError> {
        self.append(hard_state, entries)?;
        // Not whether *this* batch matters: what an earlier append left unsynced is promised by this return too.
        if self.live.unsynced_matters {
            self.sync()?;
        }
        Ok(())
    }

    /// [`Wal::save`] without the sync: nothing may be promised to anyone before [`Wal::sync`] returns.
    pub fn append(&mut self, hard_state: Option<&HardState>, entries: &[Entry]) -> Result<(), WalError> {
        self.attend()?;
        self.state.check(hard_state, entries).map_err(WalError::refused)?;
        let hard_state = hard_state.filter(|state| **state != self.state.hard_state);
        if entries.is_empty() && hard_state.is_none() {
            return Ok(());
        }
        let commit_only = entries.is_empty()
            && hard_state.is_none_or(|state| {
                (state.term, state.vote) == (self.state.hard_state.term, self.state.hard_state.vote)
            });
        let first_index = entries.first().map(|entry| entry.index);
        let state_record = hard_state.map(Owned::state);
        let records = entries.iter().map(entry_record).chain(state_record.iter().map(Owned::record));
        self.write(records, first_index, !commit_only)?;
        for entry in entries {
            self.state.apply_entry(entry.term, entry.index);
        }
        if let Some(state) = hard_state {
            // Checked above.
            self.state.hard_state = *state;
        }
        if let Some(last) = entries.last() {
            self.live.info.max_index = self.live.info.max_index.max(last.index);
        }
        Ok(())
    }

    /// Makes everything appended so far durable. A failure is final.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.attend()?;
        let live = &mut self.live;
        if live.synced == live.end {
            return Ok(());
        }
        if let Err(source) = live.region.sync(live.synced..live.end) {
            let path = self.dir.join(&live.info.name);
            return Err(self.poison(WalError::io("sync the log segment", path, source)));
        }
        let synced_bytes = live.end - live.synced;
        live.synced = live.end;
        live.synced_checksum = live.checksum;
        live.unsynced_matters = false;
        self.leave_mark();
        self.publish();
        self.prepare_ahead();
        self.prefill_ahead(synced_bytes);
        Ok(())
    }

    /// Records that a durable snapshot file exists for this position; synced. To be called after the file and its
    /// directory are synced, and before the hard state and entries that build on it.
    ///
    /// A snapshot that lies beyond the log, or contradicts it, was sent by the leader: it replaces the whole log (an
    /// explicit reset). A snapshot holds committed entries only, so commit is raised to its index where it is lower.
    pub fn save_snapshot(&mut self, metadata: &SnapshotMetadata) -> Result<(), WalError> {
        self.attend()?;
        let (index, term) = (metadata.index, metadata.term);
        let detail = self.state.classify_snapshot(index, term).map_err(WalError::refused)?;
        let snapshot = Owned::snapshot(metadata, detail);
        let hard_state = state::raised(&self.state.hard_state, index, term);
        let state_record = (hard_state != self.state.hard_state).then(|| Owned::state(&hard_state));
        let records = std::iter::once(snapshot.record()).chain(state_record.iter().map(Owned::record));
        let first_index = (detail == SNAPSHOT_RESET).then_some(index);
        self.write(records, first_index, true)?;
        self.state.apply_snapshot(detail, metadata.clone()).map_err(WalError::refused)?;
        self.live.info.max_index = self.live.info.max_index.max(index);
        self.sync()
    }

    /// Removes the oldest segments as far as everything in them is at or below both `index` and the newest recorded
    /// snapshot. Returns how many; the files go in the background.
    pub fn purge(&mut self, index: u64) -> Result<usize, WalError> {
        self.attend()?;
        let covered = self.state.snapshots.last().map_or(0, |snapshot| snapshot.index).min(index);
        let mut paths = Vec::new();
        while self.sealed.front().is_some_and(|oldest| oldest.max_index <= covered) {
            paths.extend(self.sealed.pop_front().map(|oldest| self.dir.join(oldest.name)));
        }
        let count = paths.len();
        if count > 0 {
            // What follows must be on disk and have its name: a crash could keep the removal and lose that.
            if !self.live.published {
                self.sync()?;
            }
            let oldest = self.sealed.front().unwrap_or(&self.live.info);
            self.state.drop_through(oldest.first_index.saturating_sub(1));
            self.housekeeper.submit(Job::Remove { paths });
        }
        Ok(count)
    }

    /// The index of the last entry, or of the snapshot that stands in its place; 0 in an empty log.
    pub fn last_index(&self) -> u64 {
        self.state.last_index()
    }

    /// How many segment files the log has.
    pub fn segment_count(&self) -> usize {
        self.sealed.len() + 1
    }

    /// Takes in what the housekeeper has done; says so if the handle is of no use any more.
    fn attend(&mut self) -> Result<(), WalError> {
        if let Some(cause) = &self.poisoned {
            return Err(WalError::Poisoned { cause: cause.clone() });
        }
        loop {
            match self.housekeeper.poll() {
                Ok(Some(report)) => self.note(report)?,
                Ok(None) => return Ok(()),
                Err(Gone) => return Err(self.abandoned()),
            }
        }
    }

    /// Waits for the next report.
    fn await_report(&mut self) -> Result<(), WalError> {
        match self.housekeeper.wait() {
            Ok(report) => self.note(report),
            Err(Gone) => Err(self.abandoned()),
        }
    }

    /// Nobody names, prepares or removes segments any more.
    fn abandoned(&mut self) -> WalError {
        let error = std::io::Error::other("the housekeeper thread is gone; open the log again");
        self.poison(WalError::io("look after the segments in", self.dir.clone(), error))
    }

    fn note(&mut self, report: Report) -> Result<(), WalError> {
        match report {
            Report::Prepared { path, result: Ok(region) } => self.next = Next::Ready { path, region },
            Report::Prepared { path, result: Err(error) } => {
                log::warn!(target: "wal", "cannot prepare the next log segment {}: {error}", path.display());
                self.next = Next::Failed;
            }
            Report::Prefilled { sequence, end } => {
                if sequence == self.live.info.sequence {
                    self.live.prefilled = self.live.prefilled.max(end);
                    self.live.prefilling = false;
                }
            }
            // One at a time: no segment begins before the one before it is named.
            Report::Published { result: Ok(()), .. } => self.live.named = true,
            Report::Published { path, result: Err(source) } => {
                return Err(self.poison(WalError::io("name the log segment", path, source)))
            }
            Report::Unremoved { path, error } => {
                log::warn!(target: "wal", "cannot remove the old log segment {}: {error}", path.display());
            }
        }
        Ok(())
    }

    fn poison(&mut self, error: WalError) -> WalError {
        log::error!(target: "wal", "the log stops: {error}");
        self.poisoned = Some(error.to_string());
        error
    }

    /// Stores one batch, in the next segment if it does not fit into this one. Nothing has happened after an error.
    fn write<'a>(
        &mut self,
        records: impl Iterator<Item = Record<'a>> + Clone,
        first_index: Option<u64>,
        matters: bool,
    ) -> Result<(), WalError> {
        let len_bytes = batch_bytes_of(records.clone())?;
        let live = &mut self.live;
        if live.closed || live.end + len_bytes > live.region.len_bytes() {
            let records: Vec<_> = records.collect();
            return self.write_in_next(&records, first_index);
        }
        let end = live.end + len_bytes;
        let placement =
            Placement { seed: live.seed, offset: live.end, synced_before: live.synced as u64, previous: live.checksum };
        let space = match live.region.slice_mut(live.end..end) {
            Ok(space) => space,
            Err(source) => return Err(cannot_store(self.dir.join(&live.info.name), len_bytes, source)),
        };
        live.checksum = format::write_batch(space, placement, records);
        live.end = end;
        live.unsynced_matters |= matters;
        Ok(())
    }
}

/// Closing is not what makes a log durable. It only hurries the proof of it to the disk.
impl Drop for Wal {
    fn drop(&mut self) {
        let live = &mut self.live;
        if self.poisoned.is_none() && live.synced == live.end && live.published {
            let end = (live.end + BATCH_HEADER_BYTES).min(live.region.len_bytes());
            let _ = live.region.sync(0..SEGMENT_HEADER_BYTES).and_then(|()| live.region.sync(live.end..end));
        }
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal")
            .field("dir", &self.dir)
            .field("live", &self.live.info.name)
            .field("end", &self.live.end)
            .field("synced", &self.live.synced)
            .field("last_index", &self.state.last_index())
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

impl Live {
    fn new(region: Box<dyn Region>, info: SegmentInfo, seed: Seed, end: usize, checksum: u32, published: bool) -> Self {
        Live {
            region,
            info,
            seed,
            end,
            checksum,
            synced: end,
            synced_checksum: checksum,
            unsynced_matters: false,
            published,
            named: published,
            prefilled: end,
            prefilling: false,
            closed: false,
            left: None,
        }
    }
}

fn cannot_store(path: PathBuf, len_bytes: usize, source: std::io::Error) -> WalError {
    match WalError::is_no_space(&source) {
        true => WalError::NoSpace { path, needed_bytes: len_bytes as u64, source },
        false => WalError::io("store into the log segment", path, source),
    }
}
