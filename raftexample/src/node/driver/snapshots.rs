//! Snapshots: when the driver takes one, what is kept behind it, and how it takes one over from the leader.
//!
//! A snapshot replaces the log up to an index. It is taken after so many entries, or so many bytes, and the log behind it
//! is cut, but not all of it: a member that is a little behind is caught up by entries, which cost less than a whole
//! state. One that is further behind is sent the snapshot.
//!
//! Left out: taking one beside the loop. The raft thread stands still meanwhile.

use std::time::Instant;

use raft_core::pb::Snapshot;
use raft_core::{Error, Storage, NO_LIMIT};

use super::{Driver, Fatal};

/// Entries kept in the log behind a snapshot, so that a member that is a little behind needs none; fewer if snapshots
/// are taken more often.
const TAIL_ENTRIES: u64 = 10_000;
/// Bytes of entries kept behind a snapshot, at most.
const TAIL_BYTES: u64 = 32 << 20;
/// A snapshot is also taken when so many bytes have been applied since the last one: large values must not fill memory
/// and disk before their number is reached. More if the last snapshot was larger, so that writing snapshots never costs
/// more than writing the log.
pub(super) const SNAPSHOT_BYTES: u64 = 128 << 20;

impl Driver {
    /// Takes over a leader's snapshot in place of log and store.
    pub(super) fn install(&mut self, snapshot: &Snapshot) -> Result<(), Fatal> {
        let metadata = &snapshot.metadata;
        // Before anything is given up for it.
        let (members, store) = self
            .codec
            .decode_image(snapshot, &self.cluster)
            .map_err(|error| Fatal(format!("the snapshot of index {} cannot be restored: {error}", metadata.index)))?;
        self.disk.save_snapshot(snapshot)?;
        self.disk.purge()?;
        self.raw.storage_mut().apply_snapshot(snapshot.clone()).map_err(Error::Storage)?;
        log::info!("took over a snapshot of index {} from the leader: {} keys", metadata.index, store.len());
        *self.store.write() = store;
        self.members = members;
        self.conf_state = metadata.conf_state.clone();
        self.applied = (metadata.index, metadata.term);
        self.note_snapshot(snapshot);
        self.writes.lose_sight();
        self.changes.lose_sight();
        self.follow_members();
        Ok(())
    }

    /// Takes a snapshot when enough has been applied since the last one; and after a change of the membership, once the
    /// log's beginning is gone: a newcomer must be sent a snapshot that knows of it.
    pub(super) fn snapshot_if_due(&mut self) -> Result<(), Fatal> {
        let (index, _) = self.applied;
        let due = index >= self.snapshot_index.saturating_add(self.snapshot_count)
            || (index > self.snapshot_index && self.applied_bytes >= self.snapshot_bytes);
        let outdated = self.snapshot_index > 0 && index > self.snapshot_index && {
            let storage = self.raw.storage();
            storage.first_index().is_ok_and(|first| first > 1)
                && storage.initial_state().is_ok_and(|(_, conf_state)| conf_state != self.conf_state)
        };
        if !due && !outdated {
            return Ok(());
        }
        let began = Instant::now();
        let data = self.codec.encode_image(&self.members, &self.store.read());
        let storage = self.raw.storage_mut();
        let snapshot = storage.create_snapshot(index, Some(self.conf_state.clone()), data).map_err(Error::Storage)?;
        self.disk.save_snapshot(&snapshot)?;
        self.note_snapshot(&snapshot);
        let compact_to = self.tail_begins_after(index)?;
        let storage = self.raw.storage_mut();
        if storage.first_index().is_ok_and(|first| first <= compact_to) {
            storage.compact(compact_to).map_err(Error::Storage)?;
        }
        self.disk.purge()?;
        self.metrics.disk.snapshot_save.observe(began.elapsed());
        let (bytes, millis) = (snapshot.data.len(), began.elapsed().as_millis());
        log::info!("took a snapshot of index {index}: {bytes} bytes in {millis} ms; the log begins after {compact_to}");
        Ok(())
    }

    fn note_snapshot(&mut self, snapshot: &Snapshot) {
        self.snapshot_index = snapshot.metadata.index;
        self.applied_bytes = 0;
        self.snapshot_bytes = SNAPSHOT_BYTES.max(snapshot.data.len() as u64);
    }

    /// The last entry that is not kept behind a snapshot of `index`.
    pub(super) fn tail_begins_after(&self, index: u64) -> Result<u64, Error> {
        let storage = self.raw.storage();
        let lowest = index.saturating_sub(self.snapshot_count.min(TAIL_ENTRIES)).max(storage.first_index()? - 1);
        if lowest >= index {
            return Ok(lowest);
        }
        let entries = storage.entries(lowest + 1, index + 1, NO_LIMIT)?;
        let mut bytes = 0;
        let surplus = entries.iter().rev().find(|entry| {
            bytes += entry.data.len() as u64;
            bytes > TAIL_BYTES
        });
        Ok(surplus.map_or(lowest, |entry| entry.index))
    }
}
