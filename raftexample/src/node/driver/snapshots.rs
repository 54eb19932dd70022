//! Snapshots: when the driver takes one, what is kept behind it, and how it takes one over from the leader.
//!
//! A snapshot replaces the log up to an index. It is taken after so many entries, or so many bytes, and the log behind it
//! is cut, but not all of it: a member that is a little behind is caught up by entries, which cost less than a whole
//! state. One that is further behind is sent the snapshot.
//!
//! **Neither stops the thread.** To take one, it copies the store, which is a pointer, and a thread of its own, of low
//! priority, writes the copy to a file ([`SnapshotFiles::write`](crate::snapshots::SnapshotFiles::write)); when that is complete, this thread
//! gives it its name, records it in the log, and cuts. A leader's snapshot comes here when it is on disk, checked and
//! loaded ([`Image`]): what is left to be done is to record it and to exchange the store. Raft's own storage holds the
//! metadata only, so that no snapshot is in memory for being sent.
//!
//! **Who is being caught up is waited for.** While a snapshot travels the log grows behind it. A log cut in the usual
//! measure could be gone when the snapshot has arrived, and the next one be sent in vain as well. So entries that an active
//! member still lacks are kept as long as they are not more than [`HELD_BYTES`].
//!
//! Left out: snapshots that hold only what has changed.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
#[cfg(test)]
use kvstore::Store;
use raft_core::pb::{ConfState, Entry, Message, SnapshotMetadata};
use raft_core::tracker::{Progress, ProgressState};
use raft_core::{Error, StateType, Storage};
use wal::snapshot::CompleteSnapshot;
use wal::WalError;

use super::{Driver, Fatal};
use crate::background;
#[cfg(test)]
use crate::members::Members;
use crate::snapshots::{Image, Orders, SnapshotFiles};
use crate::transport::Received;

/// Entries kept in the log behind a snapshot, so that a member that is a little behind needs none; fewer if snapshots
/// are taken more often.
const TAIL_ENTRIES: u64 = 10_000;
/// Bytes of entries kept behind a snapshot, at most.
const TAIL_BYTES: u64 = 32 << 20;
/// Bytes of entries kept for active members that lack them, at most.
const HELD_BYTES: u64 = 128 << 20;
/// A snapshot is also taken when so many bytes have been applied since the last one: large values must not fill memory
/// and disk before their number is reached. More if the last snapshot was larger, so that writing snapshots never costs
/// more than writing the log.
pub(super) const SNAPSHOT_BYTES: u64 = 128 << 20;
/// Entries between two snapshots, unless the user says how many.
const SNAPSHOT_ENTRIES: u64 = 10_000;
/// Unless the user says how many, a state that is larger than this is not written again before one and a half times as
/// many bytes have been applied as its last snapshot had ([`SNAPSHOT_BYTES`] limits that): else small writes to a large
/// state would cost a multiple of themselves. Fewer bytes are written so, and more are kept in memory.
pub(super) const SMALL_BYTES: u64 = 1 << 20;
/// What each entry takes beside its data: itself in the log in memory, an allocation, a request's place in one.
const ENTRY_BYTES: usize = 128;
/// Pause after a snapshot for which the disk had no room.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(10);

/// A large snapshot that takes longer, its own rests not counted, is followed by a rest, so that a large state that changes
/// fast is not written over and over; the bytes of entries that are kept meanwhile have their own limit.
const LONG: Duration = Duration::from_secs(1);
/// The rest is so many times as long as the work on the snapshot took.
const REST_FACTOR: u32 = 4;

/// What an entry takes in memory, and about what it takes in the log: small ones weigh more than their data.
pub(super) fn weight_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + ENTRY_BYTES) as u64
}

/// What becomes of snapshots in the raft thread.
pub(super) struct Snapshots {
    files: SnapshotFiles,
    /// The newest one's index; 0 if there is none.
    pub(super) index: u64,
    /// Bytes of entries applied since it was begun, by [`weight_bytes`].
    pub(super) applied_bytes: u64,
    /// How many of them make a snapshot due.
    pub(super) due_bytes: u64,
    /// With fewer of them, the usual number of entries does not.
    least_bytes: u64,
    /// The one that is being written.
    taking: Option<Taking>,
    /// The one that came with the message that Raft is being given.
    received: Option<Image>,
    /// Whether Raft keeps account of who is active.
    knows_active: bool,
    /// None is begun before: the disk had no room.
    not_before: Option<Instant>,
    /// Before, entries are not counted: the last one took long.
    rest_until: Option<Instant>,
}

impl Snapshots {
    /// Without CheckQuorum nobody ever counts as inactive.
    pub(super) fn new(files: SnapshotFiles, check_quorum: bool) -> Snapshots {
        Snapshots {
            files,
            index: 0,
            applied_bytes: 0,
            due_bytes: SNAPSHOT_BYTES,
            least_bytes: 0,
            taking: None,
            received: None,
            knows_active: check_quorum,
            not_before: None,
            rest_until: None,
        }
    }

    /// For tests: waits until the snapshot that is being taken is written; `false` if there is none.
    #[cfg(test)]
    pub(super) fn wait_for_taking(&self) -> bool {
        while self.taking.as_ref().is_some_and(|taking| !taking.is_done()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.taking.is_some()
    }

    /// For tests: a snapshot as it comes from the transport.
    #[cfg(test)]
    pub(super) fn image(&self, metadata: &SnapshotMetadata, members: &Members, store: &Store) -> Image {
        let file = self.files.write(metadata, (members, store), &Orders::default()).unwrap();
        Image { file, members: members.clone(), store: store.clone() }
    }

    /// There is a newest snapshot.
    pub(super) fn note(&mut self, index: u64, data_bytes: u64) {
        self.index = index;
        self.due_bytes = SNAPSHOT_BYTES.max(data_bytes);
        self.least_bytes = if data_bytes > SMALL_BYTES { data_bytes.saturating_add(data_bytes / 2) } else { 0 };
    }

    /// Whether enough has been applied for another one: `entries`, when the user said `count` or nothing.
    pub(super) fn is_enough(&self, entries: u64, count: Option<u64>) -> bool {
        let rested = self.rest_until.is_none_or(|until| Instant::now() >= until);
        (rested && self.is_enough_by_number(entries, count)) || self.is_enough_by_bytes(entries)
    }

    fn is_enough_by_number(&self, entries: u64, count: Option<u64>) -> bool {
        match count {
            Some(count) => entries >= count,
            None => entries >= SNAPSHOT_ENTRIES && self.applied_bytes >= self.least_bytes,
        }
    }

    fn is_enough_by_bytes(&self, entries: u64) -> bool {
        entries > 0 && self.applied_bytes >= self.due_bytes
    }
}

/// A snapshot that a thread is writing. Dropped, it is given up, and the thread has ended.
struct Taking {
    metadata: SnapshotMetadata,
    began: Instant,
    orders: Arc<Orders>,
    thread: Option<JoinHandle<Result<CompleteSnapshot, WalError>>>,
}

impl Taking {
    fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn join(&mut self) -> Option<Result<CompleteSnapshot, WalError>> {
        // A thread that panicked has written nothing that anybody relies on.
        self.thread.take()?.join().ok()
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.orders.stop.store(true, Ordering::Relaxed);
        drop(self.join());
    }
}

impl Driver {
    /// Lets Raft take a snapshot that has arrived. If it does not want it, nothing is left of it.
    pub(super) fn take_snapshot(&mut self, received: Received) -> Result<(), Fatal> {
        let Received { message, image } = received;
        self.snapshots.received = Some(image);
        self.step(message)?;
        self.turn()?;
        if let Some(refused) = self.snapshots.received.take() {
            log::info!("a snapshot of index {} came too late: thrown away", refused.file.metadata().index);
            background::discard(refused);
        }
        Ok(())
    }

    /// Takes over the leader's snapshot in place of log and store.
    pub(super) fn install(&mut self, metadata: &SnapshotMetadata) -> Result<(), Fatal> {
        let received = self.snapshots.received.take().filter(|image| image.file.metadata() == metadata);
        let Some(Image { file, members, store }) = received else {
            return Err(Fatal(format!("the snapshot of index {} is to be installed without its data", metadata.index)));
        };
        let data_bytes = file.data_bytes();
        self.disk.record_snapshot(file)?;
        self.disk.purge()?;
        let snapshot = raft_core::pb::Snapshot { metadata: metadata.clone(), ..Default::default() };
        self.raw.storage_mut().apply_snapshot(snapshot).map_err(Error::Storage)?;
        log::info!("took over a snapshot of index {} from the leader: {} keys", metadata.index, store.len());
        let old = std::mem::replace(&mut *self.store.write(), store);
        background::discard(old);
        self.members = members;
        self.conf_state = metadata.conf_state.clone();
        self.applied = (metadata.index, metadata.term);
        self.snapshots.note(metadata.index, data_bytes);
        self.snapshots.applied_bytes = 0;
        self.writes.lose_sight();
        self.changes.lose_sight();
        self.follow_members();
        Ok(())
    }

    /// Begins a snapshot when enough has been applied since the last one; and after a change of the membership, once the
    /// log's beginning is gone: a newcomer must be sent a snapshot that knows of it.
    pub(super) fn snapshot_if_due(&mut self) -> Result<(), Fatal> {
        if let Some(taking) = self.snapshots.taking.as_ref().filter(|taking| !taking.is_done()) {
            // The next one is due already: the log has grown by as much as it may in between.
            let entries = self.applied.0.saturating_sub(taking.metadata.index);
            if self.snapshots.is_enough_by_number(entries, self.snapshot_count)
                || self.snapshots.is_enough_by_bytes(entries)
            {
                taking.orders.hurry.store(true, Ordering::Relaxed);
            }
            return Ok(());
        }
        if let Some(taking) = self.snapshots.taking.take() {
            self.finish_snapshot(taking)?;
        }
        let (index, _) = self.applied;
        let newest = self.snapshots.index;
        let due = self.snapshots.is_enough(index.saturating_sub(newest), self.snapshot_count);
        let outdated = newest > 0 && index > newest && {
            let storage = self.raw.storage();
            storage.first_index().is_ok_and(|first| first > 1)
                && storage.initial_state().is_ok_and(|(_, conf_state)| conf_state != self.conf_state)
        };
        if (due || outdated) && self.snapshots.not_before.is_none_or(|until| Instant::now() >= until) {
            self.begin_snapshot()?;
        }
        Ok(())
    }

    fn begin_snapshot(&mut self) -> Result<(), Fatal> {
        let (index, term) = self.applied;
        let metadata = SnapshotMetadata { conf_state: self.conf_state.clone(), index, term };
        let (files, members, store) = (self.snapshots.files.clone(), self.members.clone(), self.store.read().clone());
        let orders = Arc::new(Orders::default());
        let (told, written) = (Arc::clone(&orders), metadata.clone());
        let thread = background::spawn("snapshot", move || files.write(&written, (&members, &store), &told))
            .map_err(|error| Fatal(format!("cannot start a thread: {error}")))?;
        self.snapshots.applied_bytes = 0;
        self.snapshots.taking = Some(Taking { metadata, began: Instant::now(), orders, thread: Some(thread) });
        Ok(())
    }

    /// Records a snapshot that is written, and cuts the log behind it.
    fn finish_snapshot(&mut self, mut taking: Taking) -> Result<(), Fatal> {
        let index = taking.metadata.index;
        let file = match taking.join() {
            Some(Ok(file)) => file,
            Some(Err(error)) if is_out_of_space(&error) => {
                log::error!(
                    "no room for a snapshot: {error}; the log grows until there is some, and then the node stops: free \
                     some space"
                );
                self.snapshots.not_before = Some(Instant::now() + NO_ROOM_PAUSE);
                return Ok(());
            }
            Some(Err(error)) => return Err(Fatal(format!("the disk failed, so this node stops: {error}"))),
            None => return Err(Fatal("the thread that writes snapshots panicked".into())),
        };
        if index <= self.snapshots.index {
            log::info!("a snapshot of index {index} is not needed: a newer one came from the leader");
            background::discard(file);
            return Ok(());
        }
        let data_bytes = file.data_bytes();
        self.disk.record_snapshot(file)?;
        let storage = self.raw.storage_mut();
        let conf_state = taking.metadata.conf_state.clone();
        storage.create_snapshot(index, Some(conf_state), Bytes::new()).map_err(Error::Storage)?;
        self.snapshots.note(index, data_bytes);
        let compact_to = self.tail_begins_after(index)?;
        let storage = self.raw.storage_mut();
        if storage.first_index().is_ok_and(|first| first <= compact_to) {
            storage.compact(compact_to).map_err(Error::Storage)?;
        }
        self.disk.purge()?;
        self.metrics.disk.snapshot_save.observe(taking.began.elapsed());
        let took = taking.began.elapsed();
        let rested = Duration::from_nanos(taking.orders.rested_nanos.load(Ordering::Relaxed));
        let worked = took.saturating_sub(rested);
        if worked >= LONG && data_bytes > SMALL_BYTES {
            self.snapshots.rest_until = Some(Instant::now() + REST_FACTOR * worked);
        }
        let millis = took.as_millis();
        log::info!(
            "took a snapshot of index {index}: {data_bytes} bytes in {millis} ms; the log begins after {compact_to}"
        );
        Ok(())
    }

    /// The last entry that is not kept behind a snapshot of `index`.
    pub(super) fn tail_begins_after(&self, index: u64) -> Result<u64, Error> {
        let first = self.raw.storage().first_index()?;
        let usual =
            index.saturating_sub(self.snapshot_count.unwrap_or(SNAPSHOT_ENTRIES).min(TAIL_ENTRIES)).max(first - 1);
        let usual = self.within(usual, index, TAIL_BYTES)?;
        match self.lowest_needed() {
            Some(needed) if needed.max(first - 1) < usual => self.within(needed.max(first - 1), index, HELD_BYTES),
            _ => Ok(usual),
        }
    }

    /// `after`, or the entry behind which there are not more than so many bytes up to `index`.
    fn within(&self, after: u64, index: u64, bytes: u64) -> Result<u64, Error> {
        let mut left = bytes;
        let mut end = index;
        // From the end, in pieces that are not too large to be looked at one by one.
        while end > after {
            let begin = end.saturating_sub(PIECE_ENTRIES).max(after);
            for entry in self.raw.storage().entries(begin + 1, end + 1, raft_core::NO_LIMIT)?.iter().rev() {
                match left.checked_sub(weight_bytes(entry)) {
                    Some(rest) => left = rest,
                    None => return Ok(entry.index),
                }
            }
            end = begin;
        }
        Ok(after)
    }

    /// On a leader: the last entry that each active member has, or will have when the snapshot arrives that it is sent.
    fn lowest_needed(&self) -> Option<u64> {
        let status = self.raw.status();
        if status.basic.soft_state.state != StateType::Leader {
            return None;
        }
        let is_caught_up = |progress: &Progress| match progress.state {
            ProgressState::Snapshot => true,
            _ => progress.recent_active && self.snapshots.knows_active,
        };
        let waited_for = status.progress.iter().filter(|(&id, progress)| id != self.id && is_caught_up(progress));
        waited_for.map(|(_, progress)| progress.match_index.max(progress.pending_snapshot)).min()
    }

    /// Whether a snapshot would be of use to whom it is addressed: one that does not know its receiver is refused there.
    pub(super) fn is_of_use(message: &Message) -> bool {
        message.snapshot.as_ref().is_none_or(|snapshot| knows(&snapshot.metadata.conf_state, message.to))
    }
}

/// Entries that are looked at in one piece.
const PIECE_ENTRIES: u64 = 1024;

fn knows(members: &ConfState, id: u64) -> bool {
    [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next]
        .iter()
        .any(|ids| ids.contains(&id))
}

fn is_out_of_space(error: &WalError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| {
        matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{open, Bench};
    use super::*;
    use raft_core::pb::MessageType;

    /// A leader of three, with a snapshot at every second entry; node 2 has voted for it and has everything.
    fn leader(dir: &std::path::Path) -> Bench {
        let mut bench = open(dir, 3, |options| options.snapshot_count = Some(2));
        bench.lead();
        bench
    }

    fn write(bench: &mut Bench, counters: std::ops::Range<u64>) {
        for counter in counters {
            bench.write(counter, "k");
            bench.acknowledge(2);
        }
    }

    fn first_index(bench: &Bench) -> u64 {
        bench.driver.raw.storage().first_index().unwrap()
    }

    #[test]
    fn what_became_of_a_transfer_counts_only_while_there_is_no_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = leader(dir.path());
        write(&mut bench, 0..20);
        let progress = |bench: &Bench| bench.driver.raw.status().progress.get(&3).cloned().unwrap();
        // Node 3 lacks everything, of which the beginning is gone: each time, it is sent a snapshot.
        let lacks_everything = |bench: &mut Bench| {
            let (term, index) = (bench.driver.raw.basic_status().hard_state.term, progress(bench).next_index - 1);
            let reject = true;
            bench.message(Message { from: 3, to: 1, term, index, reject, ..Message::of(MessageType::MsgAppResp) });
            assert_eq!(progress(bench).state, ProgressState::Snapshot);
        };
        let failed = |bench: &mut Bench, transfer| {
            let event = crate::transport::Event::SnapshotSent { id: 3, transfer, delivered: false };
            let taken = bench.driver.take_event(event, Instant::now());
            assert!(taken.is_ok());
            progress(bench).state
        };
        lacks_everything(&mut bench);
        assert_eq!(failed(&mut bench, 1), ProgressState::Probe);
        lacks_everything(&mut bench);
        assert_eq!(failed(&mut bench, 1), ProgressState::Snapshot, "late news of the first");
        assert_eq!(failed(&mut bench, 2), ProgressState::Probe);
    }

    #[test]
    fn the_log_waits_for_an_active_member_that_lacks_entries_and_for_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = leader(dir.path());
        let (term, index) = (bench.driver.raw.basic_status().hard_state.term, 3);
        bench.message(Message { from: 3, to: 1, term, index, ..Message::of(MessageType::MsgAppResp) });
        write(&mut bench, 0..20);
        assert!(bench.driver.snapshots.index > 20);
        assert_eq!(first_index(&bench), 4, "node 3 has entry 3, and says so");
        // The leader asks itself once in an election timeout who has been heard of. Node 2 has, node 3 has not.
        for round in 0..30 {
            bench.tick(1);
            write(&mut bench, 20 + round..21 + round);
        }
        let tail = bench.driver.snapshots.index - first_index(&bench);
        assert!(bench.driver.leader == 1 && tail < 3, "{tail} entries are kept");
    }

    #[test]
    fn after_a_long_snapshot_entries_are_not_counted_for_a_while_but_bytes_are() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = leader(dir.path());
        bench.write(0, &"k".repeat(SMALL_BYTES as usize));
        bench.acknowledge(2);
        assert!(bench.driver.begin_snapshot().is_ok());
        bench.driver.snapshots.taking.as_mut().unwrap().began -= LONG;
        bench.turn();
        let newest = bench.driver.snapshots.index;
        assert!(bench.driver.snapshots.rest_until.is_some_and(|until| until > Instant::now() + LONG));
        write(&mut bench, 1..20);
        assert_eq!(bench.driver.snapshots.index, newest);
        bench.driver.snapshots.due_bytes = 1;
        write(&mut bench, 20..21);
        assert!(bench.driver.snapshots.index > newest);
    }

    #[test]
    fn a_snapshot_hurries_once_the_next_one_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = leader(dir.path());
        let (wait, waiting) = std::sync::mpsc::channel::<()>();
        let orders = Arc::new(Orders::default());
        let thread = background::spawn("slow", move || {
            let _ = waiting.recv();
            Err(WalError::Refused { what: "the test is over".to_string() })
        });
        let metadata = SnapshotMetadata { index: bench.driver.applied.0, ..SnapshotMetadata::default() };
        let taking = Taking { metadata, began: Instant::now(), orders: Arc::clone(&orders), thread: thread.ok() };
        bench.driver.snapshots.taking = Some(taking);
        bench.driver.snapshot_count = Some(3);
        for counter in 0..2 {
            bench.driver.applied.0 += 1;
            assert!(bench.driver.snapshot_if_due().is_ok() && !orders.hurry.load(Ordering::Relaxed), "{counter}");
        }
        bench.driver.applied.0 += 1;
        assert!(bench.driver.snapshot_if_due().is_ok() && orders.hurry.load(Ordering::Relaxed));
        drop(wait);
    }

    #[test]
    fn without_room_for_a_snapshot_the_node_goes_on_and_tries_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = leader(dir.path());
        let newest = bench.driver.snapshots.index;
        let no_room = || WalError::Io {
            action: "write",
            path: "a snapshot".into(),
            source: std::io::ErrorKind::StorageFull.into(),
        };
        let metadata = SnapshotMetadata { index: newest + 1, ..Default::default() };
        let thread = Some(std::thread::spawn(move || Err(no_room())));
        bench.driver.snapshots.taking =
            Some(Taking { metadata, began: Instant::now(), orders: Arc::default(), thread });
        bench.turn();
        write(&mut bench, 0..10);
        assert_eq!(bench.driver.snapshots.index, newest);
        bench.driver.snapshots.not_before = Some(Instant::now());
        write(&mut bench, 10..11);
        assert!(bench.driver.snapshots.index > newest);
    }
}
