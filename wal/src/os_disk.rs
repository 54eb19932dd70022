//! The real disk: memory-mapped segments on Linux.
//!
//! This is the only module of the workspace with `unsafe` in it. It makes two kinds of maps, and the argument why that
//! is sound is the same for both: a map is undefined behaviour only if its bytes change behind the compiler's back.
//! Four things could do that, and each is shut out:
//!
//! - *This process, through a second map of the same file.* Every map claims its file (device and inode) in a table of
//!   the whole process: one writer or any number of readers, never both. Safe code cannot get a shared slice of a file
//!   that is being stored into. [`Disk::prefill`] has a map of its own and borrows the writer's, and asks the system for
//!   the pages of both; it reads and stores no byte through either.
//! - *Another process.* A file can be mapped only while its directory is locked by this process, exclusively: [`Disk::map`]
//!   and the others look that up. A map for storing keeps the lock for as long as it lives. A map for reading may outlive
//!   it, because entries do; so nothing that anyone stores into again may be read in place, and the log copies what it may
//!   store into: the newest segment, and those without a final name.
//! - *`write` and `truncate`.* No call of this module truncates or writes to a file that it did not just create under a name
//!   of its own. A process that ignores the lock and writes to the files of a running database is outside of what any
//!   program can defend against; a shortened file would end in SIGBUS.
//! - *The disk.* A page that cannot be read, or has no room behind it, is SIGBUS when it is touched. So it is not
//!   touched first: whole files are populated by `madvise` when they are mapped for reading, and each range before it
//!   is stored into; both answer with an error. Room is allocated by `fallocate` before a file gets its name, never
//!   left sparse. What remains: memory may run short after a sealed file was populated, the system drops clean pages of
//!   it, and a disk that has begun to fail meanwhile cannot bring one back. Touching it then is SIGBUS: the process dies
//!   as it would of any fatal disk error, and loses nothing that was acknowledged.
//!
//! **Costs.** A small sync is cheap only while the page cache holds the segment in small pieces: each sync writes whole
//! pieces. `fallocate` leaves no page at all in the cache. Filling with zeros by `write`, reading the empty rest of a
//! segment, and even faults one after the other (the system reads ahead) bring in pieces of up to 2 MiB. So
//! [`Disk::map`] drops clean cached pages first, and maps for storing are told not to read ahead. And the first sync of
//! a block that was only allocated takes a journal commit, to note that the block holds data now. [`Disk::prefill`]
//! takes these costs ahead of the writer, in the background: it brings the pages in, one by one, and writes their zeros
//! out. Syncs of 4 KiB and 64 KiB then take little more than half of the time; every byte of the log is written twice.
//! Writing a page out takes the right to store into it, and the next store asks for it back: 2 microseconds a page. So
//! [`Disk::prefill`] asks for it in the writer's map, afterwards. Such pages count as changed, but hold the zeros that
//! are on the disk already: whether and when the system writes them out once more changes nothing, and the writer's syncs,
//! which are of ranges, do not wait for it.
//!
//! **Copy on write.** A file system that never overwrites a block in place (btrfs, ZFS, bcachefs) keeps `fallocate`'s
//! promise for the first write of each block only, and prefilling is that first write. There a full disk shows when a
//! range is about to be stored into, or in a sync that fails and ends the log, or, should the system write a page out in
//! the moment between, as SIGBUS; nothing acknowledged is lost, but the clear error before anything is at risk needs a file
//! system that overwrites: ext4, xfs, tmpfs.
//!
//! **Watched.** Miri cannot map files. In its place `valgrind` watches every access while this crate's tests run, which
//! finds a use of memory that was unmapped, or never mapped (`.ci/run` does this each time; a few seconds):
//!
//! ```text
//! CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind -q --error-exitcode=9" cargo test -p wal --lib --tests
//! ```
//!
//! What has no map in it runs under Miri: `cargo +nightly miri test -p wal --lib -- a_batch verdict`.
//!
//! What is left out: other systems than Linux, file systems without `fallocate` (an error at creation; never sparse).

use std::collections::btree_map::{BTreeMap, Entry as Slot};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions, MmapRaw};
use rustix::fs::{Advice as FileAdvice, FallocateFlags, FlockOperation};
use rustix::io::Errno;

use crate::disk::{Disk, Listed, Region, Sink, Source};

/// Files readable by their owner alone, as etcd's are.
const FILE_MODE: u32 = 0o600;
/// Ranges are populated in whole pages; larger pages than this only make it a little less exact.
const PAGE_BYTES: usize = 4096;

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

/// How often, and for what, a file is mapped by this process.
enum Use {
    /// Once, to be stored into.
    Writer(Weak<Stored>),
    Readers(usize),
}

type FileKey = (u64, u64);

/// Which files are mapped. A lock, not a thread of its own: it is taken when files are opened, never while storing.
static MAPPED: Mutex<BTreeMap<FileKey, Use>> = Mutex::new(BTreeMap::new());

/// The directories that this process has locked. What holds the lock is the open directory.
static LOCKED: Mutex<BTreeMap<FileKey, Weak<File>>> = Mutex::new(BTreeMap::new());

/// A lock on a directory, shared with the maps for storing.
type DirLock = Arc<File>;

fn key_of(file: &File) -> io::Result<FileKey> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// This process's lock on the directory of a file.
fn lock_of(path: &Path) -> io::Result<DirLock> {
    let metadata = fs::metadata(parent_of(path))?;
    let locked = LOCKED.lock().unwrap_or_else(PoisonError::into_inner);
    let lock = locked.get(&(metadata.dev(), metadata.ino())).and_then(Weak::upgrade);
    lock.ok_or_else(|| io::Error::new(io::ErrorKind::PermissionDenied, "its directory has to be locked first"))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// One map's right to its file; given back when dropped. The map must be dropped before it.
struct Claim(FileKey);

impl Claim {
    fn take(file: &File, writer: bool) -> io::Result<Self> {
        let key = key_of(file)?;
        let mut mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
        match mapped.entry(key) {
            Slot::Vacant(slot) => {
                slot.insert(if writer { Use::Writer(Weak::new()) } else { Use::Readers(1) });
            }
            Slot::Occupied(mut slot) => match slot.get_mut() {
                Use::Readers(count) if !writer => *count += 1,
                _ => {
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, "this process has the file mapped already"))
                }
            },
        }
        Ok(Claim(key))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
        match mapped.get_mut(&self.0) {
            Some(Use::Readers(count)) if *count > 1 => *count -= 1,
            _ => {
                mapped.remove(&self.0);
            }
        }
    }
}

/// A sealed file, mapped for reading; the owner behind the [`Bytes`] that recovery hands out.
struct Reading {
    // Before the claim: fields are dropped in this order.
    map: Mmap,
    _claim: Claim,
}

impl AsRef<[u8]> for Reading {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// The map of a segment that is stored into.
struct Stored {
    // Before the claim: fields are dropped in this order.
    map: MmapRaw,
    claim: Claim,
    // Last, so that nobody else has the directory while the map lives.
    _lock: DirLock,
}

/// The one who stores into it.
struct Writing {
    /// Shared for moments with [`Disk::prefill`], which never touches a byte of it.
    file: Arc<Stored>,
    /// The pages that can be stored into without asking the file system; a sync takes that away again.
    ready: Range<usize>,
}

#[allow(unsafe_code)]
fn map_for_reading(file: &File, _lock: &DirLock) -> io::Result<Reading> {
    let claim = Claim::take(file, false)?;
    // SAFETY: the claim keeps this process from mapping the file for storing while the map lives; the lock kept others
    // away until now, and whoever has it later stores into no file that is read in place; nothing truncates or writes
    // to a file that is mapped (see the module's essay).
    let map = unsafe { MmapOptions::new().map(file)? };
    Ok(Reading { map, _claim: claim })
}

fn map_for_writing(file: &File, lock: DirLock) -> io::Result<Writing> {
    let claim = Claim::take(file, true)?;
    let map = MmapOptions::new().map_raw(file)?;
    // No reading ahead, see "Costs". Only a hint.
    let _ = map.advise(Advice::Random);
    let file = Arc::new(Stored { map, claim, _lock: lock });
    let mut mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    mapped.insert(file.claim.0, Use::Writer(Arc::downgrade(&file)));
    Ok(Writing { file, ready: 0..0 })
}

/// The map of a file that this process stores into, if it does.
fn map_of(file: &File) -> io::Result<Option<Arc<Stored>>> {
    let key = key_of(file)?;
    let mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(match mapped.get(&key) {
        Some(Use::Writer(stored)) => stored.upgrade(),
        _ => None,
    })
}

/// `EINVAL` of an old kernel (before 5.14) that cannot populate: then pages come in as they are touched.
fn unless_unsupported(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::FAULT.raw_os_error()) => {
            Err(io::Error::other("the file system cannot provide the page (bad sector, or no space left)"))
        }
        other => other,
    }
}

fn allocate(file: &File, len_bytes: u64) -> io::Result<()> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len_bytes) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP) => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "this file system cannot allocate space ahead (fallocate); use ext4, xfs or tmpfs",
                ))
            }
            other => return Ok(other?),
        }
    }
}

fn sync_all_retrying(file: &File) -> io::Result<()> {
    // EINTR is the one failure that says "nothing was tried".
    loop {
        match rustix::fs::fsync(file) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

impl Disk for OsDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let parent = parent_of(dir);
        if !dir.is_dir() {
            self.create_dir(parent)?;
            match fs::create_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                other => other?,
            }
        }
        // Also of one that was there: who created it may have died before this.
        match self.sync_dir(parent) {
            // Not ours to open: then everything on that file system is synced.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(rustix::fs::syncfs(File::open(dir)?)?),
            // Nothing there is waiting to be written.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            other => other,
        }
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Send>> {
        let handle: DirLock = Arc::new(File::open(dir)?);
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::WouldBlock.into()),
            Err(other) => Err(other.into()),
            Ok(()) => {
                let mut locked = LOCKED.lock().unwrap_or_else(PoisonError::into_inner);
                locked.retain(|_, lock| lock.strong_count() > 0);
                locked.insert(key_of(&handle)?, Arc::downgrade(&handle));
                Ok(Box::new(handle))
            }
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // Removed or renamed since its name was read: other threads may be at work in the same directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            // A name that is not UTF-8 is none of ours.
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                listed.push(Listed { name, len_bytes: metadata.len() });
            }
        }
        Ok(listed)
    }

    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn Region>> {
        let lock = lock_of(path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
        let region = allocate(&file, len_bytes)
            .and_then(|()| sync_all_retrying(&file))
            .and_then(|()| map_for_writing(&file, lock));
        match region {
            Ok(region) => Ok(Box::new(region)),
            Err(error) => {
                // Give the space back at once: it is what others on a full disk wait for.
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    fn map(&self, path: &Path) -> io::Result<Box<dyn Region>> {
        let lock = lock_of(path)?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        // Only a hint, see "Costs" above.
        let _ = rustix::fs::fadvise(&file, 0, None, FileAdvice::DontNeed);
        Ok(Box::new(map_for_writing(&file, lock)?))
    }

    fn prefill(&self, path: &Path, range: Range<usize>) -> io::Result<()> {
        // Opened anew: a failure to write back is reported once to each open file, so the writer's own still says so.
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if range.is_empty() || range.end as u64 > file.metadata()?.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Raw: nothing is ever read or stored through it, so it needs no claim.
        let map = MmapOptions::new().map_raw(&file)?;
        let _ = map.advise(Advice::Random);
        unless_unsupported(map.advise_range(Advice::PopulateWrite, range.start, range.len()))?;
        map.flush_range(range.start, range.len())?;
        // The writer's pages, so that it need not wait for them. Nobody syncs them until it has stored something there.
        match map_of(&file)? {
            Some(stored) => {
                unless_unsupported(stored.map.advise_range(Advice::PopulateWrite, range.start, range.len()))
            }
            None => Ok(()),
        }
    }

    fn read(&self, path: &Path) -> io::Result<Bytes> {
        let lock = lock_of(path)?;
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Bytes::new());
        }
        let reading = map_for_reading(&file, &lock)?;
        unless_unsupported(reading.map.advise(Advice::PopulateRead))?;
        Ok(Bytes::from_owner(reading))
    }

    fn settle(&self, path: &Path) -> io::Result<()> {
        // Read-only is enough, also to look at a damaged disk that is mounted so.
        let file = File::open(path)?;
        sync_all_retrying(&file)?;
        let _ = rustix::fs::fadvise(&file, 0, None, FileAdvice::DontNeed);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, path: &Path, name: &Path) -> io::Result<()> {
        fs::hard_link(path, name)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_all_retrying(&File::open(dir)?)
    }

    fn create_stream(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
        Ok(Box::new(Stream(file)))
    }

    fn open_stream(&self, path: &Path) -> io::Result<Box<dyn Source>> {
        Ok(Box::new(File::open(path)?))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let file_system = rustix::fs::statvfs(dir)?;
        Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize))
    }

    fn unique(&self) -> u64 {
        // Keyed from the system's randomness, once per process and counted on from there.
        RandomState::new().build_hasher().finish()
    }
}

impl Region for Writing {
    fn len_bytes(&self) -> usize {
        self.file.map.len()
    }

    #[allow(unsafe_code)]
    fn slice_mut(&mut self, range: Range<usize>) -> io::Result<&mut [u8]> {
        let map = &self.file.map;
        if range.start > range.end || range.end > map.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if range.start < self.ready.start || range.end > self.ready.end {
            unless_unsupported(map.advise_range(Advice::PopulateWrite, range.start, range.len()))?;
            let start = range.start / PAGE_BYTES * PAGE_BYTES;
            let end = range.end.next_multiple_of(PAGE_BYTES).min(map.len());
            self.ready = if start == self.ready.end { self.ready.start..end } else { start..end };
        }
        // SAFETY: the range lies in the map, which lives longer than the slice, since `self` holds it and is borrowed. The
        // slice is the only one: `self` is borrowed mutably, the claim makes this the only map of the file in this
        // process through which anything is read or stored, and whoever else holds it touches no byte (`map_of`, used in
        // `prefill` only). The lock, which lives as long as the map, keeps other processes away, and nothing truncates or
        // writes to a file that is mapped (see the module's essay). Any bytes are a valid `[u8]`.
        Ok(unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().add(range.start), range.len()) })
    }

    fn sync(&mut self, range: Range<usize>) -> io::Result<()> {
        self.ready = 0..0;
        // msync of the range, not fdatasync: that would write back the watermark's page each time too, and the zeros that
        // `prefill` has made ready.
        loop {
            match self.file.map.flush_range(range.start, range.len()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// A snapshot file on its way.
struct Stream(File);

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Stream {
    fn sync(&mut self) -> io::Result<()> {
        sync_all_retrying(&self.0)
    }
}
