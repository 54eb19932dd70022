//! Snapshots as files: how one comes to be from a store, and a store from one.
//!
//! A snapshot may be larger than what is left of memory, and slower to write than an election is to start. So no part of
//! this is done by the raft thread, and nothing here holds more of the data than a chunk: the store's image is written
//! into the file piece by piece ([`SnapshotFiles::write`]), a file that arrives is copied piece by piece
//! ([`SnapshotFiles::receive`]), and the store that it holds is read from it piece by piece. Raft itself sees the
//! metadata only.
//!
//! **What a received snapshot must pass** before the node gives up anything for it: every chunk's checksum, the length,
//! that it is the snapshot which its message announces, and that its store and members can be read in full. It is on
//! disk then, under a temporary name, and its store is in memory: an [`Image`], which the raft thread installs, or drops.
//!
//! **Writing takes its time on purpose.** Most of a large one is rest: it is never urgent, and clients share the disk and
//! the processor with it. So does reading one that is to be sent, and, with shorter rests, loading one that has arrived.
//! Whoever has these files written or read does it in a thread of low priority (`background.rs`). But while a snapshot is
//! being written, the log grows: when that matters more, the writer is told to hurry ([`Orders`]).
//!
//! What is left out: when to take one (`node/driver/snapshots.rs`), and how they travel (`transport`).

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kvstore::Store;
use raft_core::pb::SnapshotMetadata;
use wal::snapshot::{CompleteSnapshot, SnapshotFile, SnapshotReader, SnapshotWriter};
use wal::{SnapshotDir, WalError};

use crate::address::PeerUrl;
use crate::background::Pieces;
use crate::codec::Codec;
use crate::members::Members;

/// Free space that a received snapshot must leave, because the log needs it; on a small disk it is a quarter of what is free.
const RESERVED_MAX_BYTES: u64 = 256 << 20;
/// What is written between two rests, unless the disk is synced: a tenth of a millisecond's work.
const PIECE_BYTES: usize = 64 << 10;
/// A rest is so many times as long as the work before it.
const REST_FACTOR: u32 = 7;
/// While so much of a snapshot is written a rest is only as long as the work: a small one is soon done, and the log that
/// grows meanwhile would weigh more than it does.
const BRIEF_BYTES: usize = 32 << 20;

/// A snapshot on disk, without its name yet, and what it holds.
pub struct Image {
    /// Dropped, it leaves nothing.
    pub file: CompleteSnapshot,
    /// Who is where.
    pub members: Members,
    /// The state.
    pub store: Store,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("file", &self.file).finish_non_exhaustive()
    }
}

/// What a thread that writes a snapshot is told meanwhile.
#[derive(Debug, Default)]
pub struct Orders {
    /// It is not wanted any more.
    pub stop: AtomicBool,
    /// Not to rest: what waits for its end has grown large.
    pub hurry: AtomicBool,
    /// What it answers: for how long it has rested, in nanoseconds.
    pub rested_nanos: AtomicU64,
}

/// Why a snapshot was not taken in. Nothing is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReceived {
    /// It is damaged, or holds what this node cannot read. Says what is wrong.
    Unusable(String),
    /// It could not be written to this node's disk. Says why.
    NoRoom(String),
}

impl fmt::Display for NotReceived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotReceived::Unusable(reason) | NotReceived::NoRoom(reason) => f.write_str(reason),
        }
    }
}

/// The snapshot files of one node, and how to read and write what is in them. Clones share the directory.
#[derive(Clone)]
pub struct SnapshotFiles {
    dir: SnapshotDir,
    codec: Arc<dyn Codec>,
    /// What this node's command line says.
    cluster: Vec<PeerUrl>,
}

/// What must stay of so much free space.
fn reserved_bytes(free: u64) -> u64 {
    RESERVED_MAX_BYTES.min(free / 4)
}

/// Counts what is read.
struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Reads with rests, each only as long as the work before it: a node is behind until it has loaded what has arrived.
struct Resting<R> {
    from: R,
    pieces: Pieces,
}

impl<R: Read> Read for Resting<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.pieces.add(count, |took| took);
        Ok(count)
    }
}

impl SnapshotFiles {
    /// Snapshots in this directory, in this codec's words.
    pub fn new(dir: SnapshotDir, codec: Arc<dyn Codec>, cluster: Vec<PeerUrl>) -> SnapshotFiles {
        SnapshotFiles { dir, codec, cluster }
    }

    /// Writes members and store into a new file. Rests after each piece of work, seven times as long as it took; ends
    /// early when told.
    pub fn write(
        &self,
        metadata: &SnapshotMetadata,
        (members, store): (&Members, &Store),
        orders: &Orders,
    ) -> Result<CompleteSnapshot, WalError> {
        let pieces = Pieces::of(PIECE_BYTES);
        let mut paced = Paced { writer: self.dir.writer(metadata)?, orders, pieces, written_bytes: 0 };
        match self.codec.write_image(members, store, &mut paced) {
            Ok(()) => paced.writer.complete(),
            Err(error) => Err(paced.writer.abandon(error)),
        }
    }

    /// Reads what a snapshot holds, and how many bytes that is.
    pub fn read(&self, metadata: &SnapshotMetadata, from: impl Read) -> Result<(Members, Store, u64), String> {
        let mut from = Counted { from, bytes: 0 };
        let (members, store) =
            self.codec.read_image(metadata, &mut from, &self.cluster).map_err(|error| error.to_string())?;
        Ok((members, store, from.bytes))
    }

    /// Opens the file of a snapshot, to be sent as it is, after it was read once to be checked; rests as
    /// [`SnapshotFiles::write`] does.
    pub fn open(&self, metadata: &SnapshotMetadata) -> Result<SnapshotFile, String> {
        let mut pieces = Pieces::of(PIECE_BYTES);
        let rest = |bytes| {
            pieces.add(bytes, |took| REST_FACTOR * took);
        };
        match self.dir.open_file(metadata, rest) {
            Ok(Some(file)) => Ok(file),
            Ok(None) => Err(format!("the snapshot of index {} is not there any more", metadata.index)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The data of a snapshot, in one piece: for a message that carries it.
    pub fn data(&self, metadata: &SnapshotMetadata) -> Result<Bytes, String> {
        let mut data = Vec::new();
        let read = || SnapshotReader::of_stream(self.open(metadata)?.source).map_err(|error| error.to_string());
        read()?.read_to_end(&mut data).map_err(|error| error.to_string())?;
        Ok(data.into())
    }

    /// Takes a snapshot in: a file's bytes, as another node sends them.
    pub fn receive(&self, announced: &SnapshotMetadata, from: Box<dyn Read + Send>) -> Result<Image, NotReceived> {
        let broken = |error: io::Error| NotReceived::Unusable(format!("the snapshot is damaged or cut short: {error}"));
        let mut reader = SnapshotReader::of_stream(from).map_err(broken)?;
        if reader.metadata() != announced {
            return Err(NotReceived::Unusable("the snapshot is another one than its message announces".into()));
        }
        let mut writer = self.writer(announced)?;
        while let Some(chunk) = reader.next_chunk().map_err(broken)? {
            writer.write_all(chunk).map_err(|error| NotReceived::NoRoom(error.to_string()))?;
        }
        self.load(writer)
    }

    /// Takes a snapshot in whose data came within a message.
    pub fn keep(&self, announced: &SnapshotMetadata, data: &[u8]) -> Result<Image, NotReceived> {
        let mut writer = self.writer(announced)?;
        writer.write_all(data).map_err(|error| NotReceived::NoRoom(error.to_string()))?;
        self.load(writer)
    }

    /// Whether there is room for a file of this size.
    pub fn check_room(&self, bytes: u64) -> Result<(), NotReceived> {
        let free = self.dir.free_bytes().map_err(|error| NotReceived::NoRoom(error.to_string()))?;
        let reserved = reserved_bytes(free);
        if free < bytes.saturating_add(reserved) {
            let what = format!("no room for a snapshot of {bytes} bytes: {free} are free, {reserved} are reserved");
            return Err(NotReceived::NoRoom(what));
        }
        Ok(())
    }

    fn writer(&self, metadata: &SnapshotMetadata) -> Result<SnapshotWriter, NotReceived> {
        self.dir.writer(metadata).map_err(|error| match error {
            WalError::Refused { what } => NotReceived::Unusable(what),
            error => NotReceived::NoRoom(error.to_string()),
        })
    }

    fn load(&self, writer: SnapshotWriter) -> Result<Image, NotReceived> {
        let file = writer.complete().map_err(|error| NotReceived::NoRoom(error.to_string()))?;
        let reader = file.reader().map_err(|error| NotReceived::NoRoom(error.to_string()))?;
        let restored = self.read(file.metadata(), Resting { from: reader, pieces: Pieces::of(PIECE_BYTES) });
        let (members, store, _) =
            restored.map_err(|reason| NotReceived::Unusable(format!("the snapshot cannot be restored: {reason}")))?;
        Ok(Image { file, members, store })
    }
}

/// Writes with rests.
struct Paced<'a> {
    writer: SnapshotWriter,
    orders: &'a Orders,
    pieces: Pieces,
    written_bytes: usize,
}

impl Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.written_bytes += written;
        let factor = match self.orders.hurry.load(Ordering::Relaxed) {
            true => 0,
            false if self.written_bytes <= BRIEF_BYTES => 1,
            false => REST_FACTOR,
        };
        let mut began = Instant::now();
        let rest = |took| {
            began = Instant::now();
            factor * took
        };
        if !self.pieces.add(written, rest) {
            return Ok(written);
        }
        let rested_nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.orders.rested_nanos.fetch_add(rested_nanos, Ordering::Relaxed);
        match self.orders.stop.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the node stops")),
            false => Ok(written),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::codec::OwnCodec;
    use crate::transport::snapshot::send::Sending;
    use crate::transport::snapshot::Transfers;
    use kvstore::Command;
    use std::path::Path;

    /// Snapshot files in this directory.
    pub(crate) fn files(dir: &Path) -> SnapshotFiles {
        SnapshotFiles::new(SnapshotDir::open(dir).unwrap(), Arc::new(OwnCodec), Vec::new())
    }

    /// For a transport that is asked to send no snapshot.
    pub(crate) fn no_sending() -> Sending {
        let dir = tempfile::tempdir().unwrap();
        Sending::new(files(dir.path()), Transfers::default(), true)
    }

    /// Names a snapshot.
    pub(crate) fn metadata(index: u64) -> SnapshotMetadata {
        let mut metadata = SnapshotMetadata { index, term: 3, ..SnapshotMetadata::default() };
        metadata.conf_state.voters = vec![1, 2];
        metadata
    }

    /// A store with so many keys of about a kilobyte each.
    pub(crate) fn store(keys: u64) -> Store {
        let mut store = Store::new();
        for number in 1..=keys {
            let command = Command::Put { key: format!("key-{number}").into(), value: vec![number as u8; 1000].into() };
            store.apply(number, command);
        }
        store
    }

    /// Writes it, and gives the file its name.
    pub(crate) fn save(files: &SnapshotFiles, metadata: &SnapshotMetadata, store: &Store) {
        let file = files.write(metadata, (&Members::default(), store), &Orders::default()).unwrap();
        file.publish().unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{files, metadata, save, store};
    use super::*;

    fn count(dir: &std::path::Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_store_becomes_a_file_and_a_store_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        save(&files, &metadata(5), &store(3000));
        let reader = SnapshotReader::of_stream(files.open(&metadata(5)).unwrap().source).unwrap();
        let (_, read, bytes) = files.read(&metadata(5), reader).unwrap();
        assert!(read == store(3000) && bytes > 3000);
        let data = files.data(&metadata(5)).unwrap();
        assert!(files.keep(&metadata(6), &data).unwrap().store == store(3000));
        assert!(files.open(&metadata(6)).is_err(), "it was dropped");
    }

    #[test]
    fn a_file_that_is_given_up_or_cannot_be_restored_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let orders = Orders { stop: true.into(), ..Orders::default() };
        let stopped = files.write(&metadata(5), (&Members::default(), &store(3000)), &orders);
        assert!(stopped.unwrap_err().to_string().contains("the node stops"));
        assert!(matches!(files.keep(&metadata(5), b"no image").unwrap_err(), NotReceived::Unusable(_)));
        assert!(matches!(files.keep(&metadata(0), b"").unwrap_err(), NotReceived::Unusable(_)));
        assert_eq!(count(dir.path()), 0);
    }

    #[test]
    fn loading_rests_for_as_long_as_it_works() {
        const WORK: std::time::Duration = std::time::Duration::from_millis(2);
        struct Slow;
        impl Read for Slow {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                std::thread::sleep(WORK);
                Ok(into.len())
            }
        }
        let mut reader = Resting { from: Slow, pieces: Pieces::of(PIECE_BYTES) };
        let began = Instant::now();
        (0..5).for_each(|_| assert_eq!(reader.read(&mut [0; PIECE_BYTES]).unwrap(), PIECE_BYTES));
        assert!(began.elapsed() >= 2 * 5 * WORK);
    }

    #[test]
    fn room_is_asked_for_with_a_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        assert!(matches!(files.check_room(u64::MAX - 1), Err(NotReceived::NoRoom(_))));
        let free = files.dir.free_bytes().unwrap();
        assert!(matches!(files.check_room(free), Err(NotReceived::NoRoom(_))), "the log's share");
        assert_eq!(reserved_bytes(1 << 40), RESERVED_MAX_BYTES);
        assert_eq!(reserved_bytes(16 << 20), 4 << 20, "a node on a small disk can be caught up, too");
    }
}
