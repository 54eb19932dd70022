//! Snapshot files: the application's state at an index, so that the log before it may go.
//!
//! A file is called `{term:016x}-{index:016x}.snap`. It is written under a temporary name, synced, renamed, and the
//! directory synced; so a file with its final name is complete unless the disk damaged it, and that is what the
//! checksums are for. Data goes in and out in chunks, each with its own checksum: a large snapshot is never in memory
//! twice.
//!
//! ```text
//! header (64 bytes)                          chunk                            after the last chunk
//!  0  8  magic                                0  4  data length, not 0         0  4  zero
//!  8  4  format version                       4  4  checksum                   4  4  checksum
//! 12  4  checksum of 0..12                    8  n  data                       8  8  total data length
//! 16  8  term
//! 24  8  index                               Checksums start from the header's checksum and take in
//! 32  4  length of the configuration         the number of the chunk and its length, so that chunks of
//! 36 20  zero                                other files, or in another order, do not validate.
//! 56  4  checksum of the configuration
//! 60  4  checksum of 0..60
//! then the configuration (`ConfState`, protobuf)
//! ```
//!
//! The newest *valid* file that the log covers wins. A bad one is renamed to `.broken` (or `.broken.2`, if there was one
//! before) and reported, never deleted: it may be all that is left of something.
//!
//! A snapshot that another node made travels as the same bytes, header and checksums included, so that each chunk is
//! checked again where it arrives ([`SnapshotReader::of_stream`]). It becomes a file of its own name only when the caller
//! says so ([`CompleteSnapshot::publish`]): until then it may be dropped, and nothing is left of it.
//!
//! What is left out: compression, and purging of `.broken` files, which is for a person to decide.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use crc32fast::Hasher;
use prost::Message as _;
use raft_core::pb::{ConfState, Snapshot, SnapshotMetadata};

use crate::disk::{free_name, Disk, Listed, Sink};
use crate::error::WalError;
use crate::format::{get_u32, get_u64, is_zero, parse_hex};
use crate::OsDisk;

const MAGIC: [u8; 8] = *b"\x89RSNAP\n\x1a";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
/// Data bytes of a chunk, at most. One buffer of this size is all that reading needs.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Data bytes of the chunks that are written. Each is handed to the system in one call: while that copies, nobody else may
/// get the processor.
const WRITTEN_CHUNK_BYTES: usize = 128 << 10;
/// A configuration has a few ids; a length beyond this is damage.
const MAX_CONFIGURATION_BYTES: usize = 1 << 20;
/// A file is synced each time that so much has been written: a whole snapshot at once would keep the disk so busy that the
/// log's syncs, which clients wait for, come late.
const SYNC_BYTES: u64 = 4 << 20;
const TEMPORARY_SUFFIX: &str = ".snap.tmp";
const FINAL_SUFFIX: &str = ".snap";

/// The directory of the snapshot files.
#[derive(Clone)]
pub struct SnapshotDir {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Counts temporary files: two snapshots of one index may be under way, one received and one taken here. Their names
    /// bear the process's id too: one that ends may still throw away its own when its successor on this machine has begun.
    temporaries: Arc<AtomicU64>,
    /// Files that could not be read and have kept their names: no purge takes them. (term, index)
    passed_over: Arc<Mutex<BTreeSet<(u64, u64)>>>,
}

/// A file that was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSnapshot {
    /// Where it is now.
    pub file: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl SnapshotDir {
    /// Opens the directory, creates it if need be, and removes unfinished files of an earlier run.
    pub fn open(dir: &Path) -> Result<SnapshotDir, WalError> {
        Self::open_on(Arc::new(OsDisk), dir)
    }

    /// [`SnapshotDir::open`] on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path) -> Result<SnapshotDir, WalError> {
        disk.create_dir(dir).map_err(|source| WalError::io("create the snapshot directory", dir, source))?;
        let opened = SnapshotDir { disk, dir: dir.into(), temporaries: Arc::default(), passed_over: Arc::default() };
        // A rename of the last run may not be durable yet, and the log's record must never come before it.
        opened.sync_dir()?;
        for Listed { name, .. } in opened.list()? {
            if name.ends_with(TEMPORARY_SUFFIX) {
                opened.remove("remove the unfinished snapshot", &name)?;
            }
        }
        Ok(opened)
    }

    /// Writes a snapshot; durable on return, and so is its name.
    pub fn save(&self, snapshot: &Snapshot) -> Result<PathBuf, WalError> {
        let mut writer = self.writer(&snapshot.metadata)?;
        match writer.write_all(&snapshot.data) {
            Ok(()) => writer.finish(),
            Err(source) => Err(writer.abandon(source)),
        }
    }

    /// Begins a snapshot whose data is written piece by piece.
    pub fn writer(&self, metadata: &SnapshotMetadata) -> Result<SnapshotWriter, WalError> {
        if metadata.index == 0 || metadata.term == 0 {
            return Err(WalError::refused("a snapshot without index or term (both start at 1)"));
        }
        let name = name_of(metadata);
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let path = self.dir.join(format!("{name}.{process}-{number}{TEMPORARY_SUFFIX}"));
        let sink =
            self.disk.create_stream(&path).map_err(|source| WalError::io("create the snapshot", &path, source))?;
        let (head, seed) = encode_header(metadata);
        let mut writer = SnapshotWriter {
            temporary: Temporary { dir: self.clone(), path, removed: false },
            metadata: metadata.clone(),
            sink,
            seed,
            number: 0,
            total_bytes: 0,
            unsynced_bytes: 0,
            pending: Vec::new(),
            failed: false,
        };
        match writer.sink.write_all(&head) {
            Ok(()) => Ok(writer),
            Err(source) => Err(writer.abandon(source)),
        }
    }

    /// The newest valid snapshot among those that the log has recorded ([`crate::Recovered::snapshots`]). Bad files are
    /// renamed to `.broken` and reported in the log.
    pub fn load_newest(&self, covered_by: &[SnapshotMetadata]) -> Result<Option<Snapshot>, WalError> {
        self.load_newest_reporting(covered_by).map(|(snapshot, _)| snapshot)
    }

    /// [`SnapshotDir::load_newest`], with the files that were passed over.
    pub fn load_newest_reporting(
        &self,
        covered_by: &[SnapshotMetadata],
    ) -> Result<(Option<Snapshot>, Vec<BadSnapshot>), WalError> {
        let mut bad = Vec::new();
        for (path, listed) in self.candidates(covered_by)? {
            // Not more than the file can hold, and not in steps that copy.
            let room = usize::try_from(listed.len_bytes).unwrap_or(0);
            let loaded = SnapshotReader::open(&*self.disk, &path).and_then(|mut reader| {
                let mut data = Vec::with_capacity(room);
                while let Some(chunk) = reader.next_chunk()? {
                    data.extend_from_slice(chunk);
                }
                Ok(Snapshot { data: Bytes::from(data), metadata: reader.metadata })
            });
            match loaded {
                Ok(snapshot) => return Ok((Some(snapshot), bad)),
                Err(error) => bad.push(self.set_aside(path, &error)?),
            }
        }
        Ok((None, bad))
    }

    /// Opens the newest valid snapshot for reading piece by piece. The file is read twice: once to check it, so that
    /// what comes out is never the first half of a bad one.
    pub fn open_newest(&self, covered_by: &[SnapshotMetadata]) -> Result<Option<SnapshotReader>, WalError> {
        for (path, _) in self.candidates(covered_by)? {
            let checked = SnapshotReader::open(&*self.disk, &path).and_then(|mut reader| {
                while reader.next_chunk()?.is_some() {}
                SnapshotReader::open(&*self.disk, &path)
            });
            match checked {
                Ok(reader) => return Ok(Some(reader)),
                Err(error) => drop(self.set_aside(path, &error)?),
            }
        }
        Ok(None)
    }

    /// Opens the file of this snapshot, for sending it as it is, after reading and checking it once. `None` if there is
    /// no such file (any more). `between` is called after each chunk, with its bytes: who reads a large file may rest
    /// there.
    pub fn open_file(
        &self,
        metadata: &SnapshotMetadata,
        mut between: impl FnMut(usize),
    ) -> Result<Option<SnapshotFile>, WalError> {
        let name = format!("{}{FINAL_SUFFIX}", name_of(metadata));
        let Some(listed) = self.list()?.into_iter().find(|listed| listed.name == name) else { return Ok(None) };
        let path = self.dir.join(name);
        // What is handed out is opened first: to check a large file takes long, and it may be purged meanwhile. Should the
        // same snapshot be published anew between the two, what is sent is unchecked here, and checked where it arrives.
        let opened = self.disk.open_stream(&path).and_then(|source| {
            let mut reader = SnapshotReader::open(&*self.disk, &path)?;
            while let Some(chunk) = reader.next_chunk()? {
                between(chunk.len());
            }
            Ok(source)
        });
        match opened {
            Ok(source) => Ok(Some(SnapshotFile { len_bytes: listed.len_bytes, source })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(WalError::io("read the snapshot", path, source)),
        }
    }

    /// Bytes that may still be written to the file system of this directory.
    pub fn free_bytes(&self) -> Result<u64, WalError> {
        self.disk.free_bytes(&self.dir).map_err(|source| WalError::io("ask for free space in", &self.dir, source))
    }

    /// Removes all snapshot files but those of these snapshots: by name and not by count, for a file that the log has
    /// never recorded is of no use, and must not take the place of one that is. Returns how many.
    ///
    /// What is newer than the newest of these stays, for it may be all that is left of something, and so does a file
    /// that this handle could not read and passed over. To keep none at all is refused.
    pub fn purge(&self, keep: &[SnapshotMetadata]) -> Result<usize, WalError> {
        let Some(newest_index) = keep.iter().map(|metadata| metadata.index).max() else {
            return Err(WalError::refused("to remove snapshots without naming one to keep"));
        };
        let mut keep: Vec<_> = keep.iter().map(|metadata| (metadata.term, metadata.index)).collect();
        keep.extend(self.passed_over.lock().unwrap_or_else(PoisonError::into_inner).iter());
        let mut removed = 0;
        for Listed { name, .. } in self.list()? {
            match parse_name(&name) {
                Some(position) if position.1 <= newest_index && !keep.contains(&position) => {}
                _ => continue,
            }
            self.remove("remove the old snapshot", &name)?;
            removed += 1;
        }
        if removed > 0 {
            self.sync_dir()?;
        }
        Ok(removed)
    }

    /// Files whose name the log has recorded, newest first.
    fn candidates(&self, covered_by: &[SnapshotMetadata]) -> Result<Vec<(PathBuf, Listed)>, WalError> {
        let mut found: Vec<_> = self
            .list()?
            .into_iter()
            .filter_map(|listed| Some((parse_name(&listed.name)?, listed)))
            .filter(|((term, index), _)| covered_by.iter().any(|known| (known.term, known.index) == (*term, *index)))
            .collect();
        found.sort_by_key(|((term, index), _)| std::cmp::Reverse((*index, *term)));
        Ok(found.into_iter().map(|(_, listed)| (self.dir.join(&listed.name), listed)).collect())
    }

    fn set_aside(&self, path: PathBuf, error: &io::Error) -> Result<BadSnapshot, WalError> {
        let mut file = path.clone();
        // What cannot be read now may be readable later: only what was read and is wrong is set aside.
        if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
            let names = self.list()?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            file.set_file_name(free_name(&name, "broken", |taken| names.iter().any(|listed| listed.name == taken)));
            self.disk
                .rename(&path, &file)
                .map_err(|source| WalError::io("set aside the broken snapshot", &path, source))?;
            self.sync_dir()?;
        } else if let Some(position) = path.file_name().and_then(|name| name.to_str()).and_then(parse_name) {
            self.passed_over.lock().unwrap_or_else(PoisonError::into_inner).insert(position);
        }
        log::warn!(target: "wal", "snapshot {} cannot be used ({error}), now {}", path.display(), file.display());
        Ok(BadSnapshot { file, what: error.to_string() })
    }

    /// That it is gone already is as good.
    fn remove(&self, action: &'static str, name: &str) -> Result<(), WalError> {
        let path = self.dir.join(name);
        match self.disk.remove(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(WalError::io(action, &path, source)),
            _ => Ok(()),
        }
    }

    fn list(&self) -> Result<Vec<Listed>, WalError> {
        self.disk.list(&self.dir).map_err(|source| WalError::io("list the snapshot directory", &self.dir, source))
    }

    fn sync_dir(&self) -> Result<(), WalError> {
        self.disk.sync_dir(&self.dir).map_err(|source| WalError::io("sync the snapshot directory", &self.dir, source))
    }
}

impl std::fmt::Debug for SnapshotDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotDir").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A snapshot's file, to be sent as it is. It can be read to its end even if it is removed meanwhile.
pub struct SnapshotFile {
    /// How long it is.
    pub len_bytes: u64,
    /// Its bytes, from the first to the last.
    pub source: Box<dyn Read + Send>,
}

/// A file under its temporary name. Dropped, it is removed: on a full disk its space is wanted.
struct Temporary {
    dir: SnapshotDir,
    path: PathBuf,
    removed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.removed {
            // What is left all the same, the next [`SnapshotDir::open`] removes.
            let _ = self.dir.disk.remove(&self.path);
        }
    }
}

/// A snapshot file that is being written. Dropped without [`SnapshotWriter::finish`], nothing is left of it.
pub struct SnapshotWriter {
    // Closed before it is removed.
    sink: Box<dyn Sink>,
    temporary: Temporary,
    metadata: SnapshotMetadata,
    seed: u32,
    number: u64,
    total_bytes: u64,
    unsynced_bytes: u64,
    /// Less than a chunk.
    pending: Vec<u8>,
    /// A write or a sync failed: what the file holds is not known, and a second sync would say nothing about it.
    failed: bool,
}

/// A snapshot file that is complete and durable, but has not got its name yet. Dropped, nothing is left of it.
pub struct CompleteSnapshot {
    temporary: Temporary,
    metadata: SnapshotMetadata,
    data_bytes: u64,
}

impl CompleteSnapshot {
    /// What the snapshot stands for.
    pub fn metadata(&self) -> &SnapshotMetadata {
        &self.metadata
    }

    /// How much data it holds.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Reads it.
    pub fn reader(&self) -> io::Result<SnapshotReader> {
        SnapshotReader::of_stream(self.temporary.dir.disk.open_stream(&self.temporary.path)?)
    }

    /// Gives the file its name and syncs the directory: it is there after a crash.
    pub fn publish(mut self) -> Result<PathBuf, WalError> {
        let Temporary { dir, path, removed } = &mut self.temporary;
        let target = dir.dir.join(format!("{}{FINAL_SUFFIX}", name_of(&self.metadata)));
        dir.disk.rename(path, &target).map_err(|source| WalError::io("name the snapshot", &target, source))?;
        *removed = true;
        dir.sync_dir()?;
        Ok(target)
    }
}

impl SnapshotWriter {
    /// [`SnapshotWriter::complete`] and [`CompleteSnapshot::publish`] in one.
    pub fn finish(self) -> Result<PathBuf, WalError> {
        self.complete()?.publish()
    }

    /// Completes the file and syncs it.
    pub fn complete(mut self) -> Result<CompleteSnapshot, WalError> {
        match self.unless_failed(Self::write_end) {
            Ok(()) => {}
            Err(source) => return Err(self.abandon(source)),
        }
        let SnapshotWriter { sink, temporary, metadata, total_bytes, .. } = self;
        drop(sink);
        Ok(CompleteSnapshot { temporary, metadata, data_bytes: total_bytes })
    }

    /// A failure is final.
    fn unless_failed<T>(&mut self, step: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        if self.failed {
            return Err(io::Error::other("writing it failed before; begin the snapshot anew"));
        }
        let result = step(self);
        self.failed = result.is_err();
        result
    }

    fn write_end(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            let rest = std::mem::take(&mut self.pending);
            self.put_chunk(&rest)?;
        }
        let total = self.total_bytes.to_le_bytes();
        let mut tail = [0; 16];
        tail[4..8].copy_from_slice(&chunk_checksum(self.seed, self.number, 0, &total).to_le_bytes());
        tail[8..].copy_from_slice(&total);
        self.sink.write_all(&tail)?;
        self.sink.sync()
    }

    fn put_chunk(&mut self, data: &[u8]) -> io::Result<()> {
        let length = data.len() as u32;
        let mut head = [0; 8];
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&chunk_checksum(self.seed, self.number, length, data).to_le_bytes());
        self.sink.write_all(&head)?;
        self.sink.write_all(data)?;
        self.number += 1;
        self.total_bytes += u64::from(length);
        self.unsynced_bytes += u64::from(length);
        if self.unsynced_bytes >= SYNC_BYTES {
            self.sink.sync()?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    fn take_in(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let total = bytes.len();
        let mut rest = bytes;
        if !self.pending.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(WRITTEN_CHUNK_BYTES - self.pending.len()));
            self.pending.extend_from_slice(now);
            rest = later;
            if self.pending.len() < WRITTEN_CHUNK_BYTES {
                return Ok(total);
            }
            let mut full = std::mem::take(&mut self.pending);
            self.put_chunk(&full)?;
            full.clear();
            self.pending = full;
        }
        let mut chunks = rest.chunks_exact(WRITTEN_CHUNK_BYTES);
        for chunk in &mut chunks {
            self.put_chunk(chunk)?;
        }
        self.pending.extend_from_slice(chunks.remainder());
        Ok(total)
    }

    /// Gives up after an error of whoever writes; says where it happened.
    pub fn abandon(self, source: io::Error) -> WalError {
        WalError::io("write the snapshot", &self.temporary.path, source)
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unless_failed(|writer| writer.take_in(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A snapshot file that is being read, chunk by chunk. Each chunk is checked before any of it is handed out.
pub struct SnapshotReader {
    source: Box<dyn Read + Send>,
    metadata: SnapshotMetadata,
    seed: u32,
    number: u64,
    total_bytes: u64,
    chunk: Vec<u8>,
    /// What of the chunk `Read` has given out.
    given: usize,
    done: bool,
}

impl SnapshotReader {
    fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let reader = Self::of_stream(disk.open_stream(path)?)?;
        let name = path.file_name().and_then(|name| name.to_str()).and_then(parse_name);
        if name != Some((reader.metadata.term, reader.metadata.index)) {
            return Err(bad("it is the snapshot of another position than its name says"));
        }
        Ok(reader)
    }

    /// Reads a snapshot from anywhere: bytes as a file has them.
    pub fn of_stream(mut source: Box<dyn Read + Send>) -> io::Result<Self> {
        let mut head = [0; HEADER_BYTES];
        source.read_exact(&mut head)?;
        let (mut metadata, configuration_bytes, seed) = decode_header(&head)?;
        let mut configuration = vec![0; configuration_bytes];
        source.read_exact(&mut configuration)?;
        if crc32fast::hash(&configuration) != get_u32(&head, 56) {
            return Err(bad("the checksum of its configuration is wrong"));
        }
        metadata.conf_state =
            ConfState::decode(&configuration[..]).map_err(|_| bad("its configuration cannot be decoded"))?;
        Ok(SnapshotReader {
            source,
            metadata,
            seed,
            number: 0,
            total_bytes: 0,
            chunk: Vec::new(),
            given: 0,
            done: false,
        })
    }

    /// What the snapshot stands for.
    pub fn metadata(&self) -> &SnapshotMetadata {
        &self.metadata
    }

    /// The next piece of the data, or `None` at its end, which was checked too.
    pub fn next_chunk(&mut self) -> io::Result<Option<&[u8]>> {
        if self.done {
            return Ok(None);
        }
        let mut head = [0; 8];
        self.source.read_exact(&mut head)?;
        let (length, stored) = (get_u32(&head, 0), get_u32(&head, 4));
        if length as usize > CHUNK_BYTES {
            return Err(bad("a chunk has an impossible length"));
        }
        self.chunk.resize(if length == 0 { 8 } else { length as usize }, 0);
        self.source.read_exact(&mut self.chunk)?;
        self.given = 0;
        if stored != chunk_checksum(self.seed, self.number, length, &self.chunk) {
            return Err(bad("the checksum of a chunk is wrong"));
        }
        self.number += 1;
        if length > 0 {
            self.total_bytes += u64::from(length);
            return Ok(Some(&self.chunk));
        }
        let total_bytes = get_u64(&self.chunk, 0);
        self.chunk.clear();
        if total_bytes != self.total_bytes || self.source.read(&mut [0])? != 0 {
            return Err(bad("it is longer or shorter than it says"));
        }
        self.done = true;
        Ok(None)
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.chunk.len() && self.next_chunk()?.is_none() {
            return Ok(0);
        }
        let rest = &self.chunk[self.given..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.given += count;
        Ok(count)
    }
}

impl std::fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotReader").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotWriter").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for CompleteSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompleteSnapshot").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

fn encode_header(metadata: &SnapshotMetadata) -> (Vec<u8>, u32) {
    let configuration = metadata.conf_state.encode_to_vec();
    let mut head = Vec::with_capacity(HEADER_BYTES + configuration.len());
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
    head.extend_from_slice(&metadata.term.to_le_bytes());
    head.extend_from_slice(&metadata.index.to_le_bytes());
    head.extend_from_slice(&(configuration.len() as u32).to_le_bytes());
    head.extend_from_slice(&[0; 20]);
    head.extend_from_slice(&crc32fast::hash(&configuration).to_le_bytes());
    let seed = crc32fast::hash(&head);
    head.extend_from_slice(&seed.to_le_bytes());
    head.extend_from_slice(&configuration);
    (head, seed)
}

/// Metadata without the configuration, the configuration's length, the seed of the chunks.
fn decode_header(head: &[u8; HEADER_BYTES]) -> io::Result<(SnapshotMetadata, usize, u32)> {
    if head[..8] != MAGIC || get_u32(head, 12) != crc32fast::hash(&head[..12]) {
        return Err(bad("it does not begin like a snapshot"));
    }
    let version = get_u32(head, 8);
    if version != VERSION {
        let what = format!("it has snapshot format version {version}, this program reads version {VERSION}");
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    let seed = crc32fast::hash(&head[..60]);
    let configuration_bytes = get_u32(head, 32) as usize;
    if seed != get_u32(head, 60) || !is_zero(&head[36..56]) || configuration_bytes > MAX_CONFIGURATION_BYTES {
        return Err(bad("the checksum of its header is wrong"));
    }
    let metadata =
        SnapshotMetadata { conf_state: ConfState::default(), index: get_u64(head, 24), term: get_u64(head, 16) };
    Ok((metadata, configuration_bytes, seed))
}

fn chunk_checksum(seed: u32, number: u64, length: u32, data: &[u8]) -> u32 {
    let mut head = [0; 12];
    head[..8].copy_from_slice(&number.to_le_bytes());
    head[8..].copy_from_slice(&length.to_le_bytes());
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(&head);
    hasher.update(data);
    hasher.finalize()
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The name of a snapshot's file, without what follows the dot.
fn name_of(metadata: &SnapshotMetadata) -> String {
    format!("{:016x}-{:016x}", metadata.term, metadata.index)
}

/// (term, index)
fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (term, index) = name.strip_suffix(FINAL_SUFFIX)?.split_once('-')?;
    Some((parse_hex(term)?, parse_hex(index)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails once, and is well ever after.
    struct FailsOnce {
        write: bool,
        sync: bool,
    }

    impl Write for FailsOnce {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match std::mem::take(&mut self.write) {
                true => Err(io::Error::other("the disk is gone")),
                false => Ok(bytes.len()),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for FailsOnce {
        fn sync(&mut self) -> io::Result<()> {
            match std::mem::take(&mut self.sync) {
                true => Err(io::Error::other("the disk is gone")),
                false => Ok(()),
            }
        }
    }

    #[test]
    fn a_failed_write_or_sync_is_final_for_the_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = SnapshotDir::open(dir.path()).unwrap();
        let metadata = SnapshotMetadata { conf_state: ConfState::default(), index: 5, term: 1 };
        for (write, sync) in [(true, false), (false, true)] {
            let mut writer = snapshots.writer(&metadata).unwrap();
            writer.sink = Box::new(FailsOnce { write, sync });
            let data = vec![7; SYNC_BYTES as usize + CHUNK_BYTES];
            assert!(writer.write_all(&data).is_err());
            assert!(writer.write_all(&[1]).is_err(), "write {write}, sync {sync}");
            assert!(writer.finish().is_err(), "write {write}, sync {sync}");
        }
        assert!(snapshots.list().unwrap().iter().all(|listed| !listed.name.ends_with(FINAL_SUFFIX)));
    }
}
