//! Reading the segments of a directory into memory, or rather: bringing them there and pointing at them.
//!
//! Sealed segments are mapped, not copied; what may be stored into again is copied, without its empty rest. Bringing a
//! file's pages in and checking its checksums has nothing to do with the next file's, so two threads share it where the
//! disk allows ([`Disk::background`]); it is most of the time that opening a long log takes.
//!
//! A disk may have lost the power to read a place. A log is not opened then, and the error says where that is
//! ([`WalError::Unreadable`]). The tools go on behind it ([`read_what_can_be`]): a person wants to see the rest.

use std::io::{self, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rustix::io::Errno;

use crate::disk::{Disk, Listed};
use crate::error::WalError;
use crate::format;
use crate::recovery::{self, Image};
use crate::Recovered;

/// How much is read at once where a copy is made. A multiple of the size of a page.
const PIECE_BYTES: usize = 256 << 10;

/// What the system reads at once, so what is lost where the disk fails.
const PAGE_BYTES: usize = 4096;

/// A stretch of a file that the disk cannot read.
#[derive(Clone, Debug)]
pub(crate) struct BadPlace {
    /// Of the file, without the directory.
    pub(crate) name: String,
    /// Bytes from its start.
    pub(crate) range: Range<u64>,
    /// The system's reason.
    pub(crate) what: String,
}

impl BadPlace {
    pub(crate) fn error(&self, dir: &Path) -> WalError {
        WalError::Unreadable { file: dir.join(&self.name), offset: self.range.start, what: self.what.clone() }
    }
}

/// Every segment in the directory, by name. The newest is settled first: a process that died may have left bytes in
/// memory that the disk does not have.
/// `progress` is told how many bytes are there, and of how many.
/// With each image: up to where its batches have been checked and are sound ([`format::sound_until`]).
pub(crate) fn read_images(
    disk: &dyn Disk,
    dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Vec<Image>, Vec<usize>), WalError> {
    let read = |file: &Listed, is_stored_into| {
        let (image, _) = read_file(disk, dir, file, is_stored_into, false)?;
        let sound_until = format::sound_until(&image.bytes);
        Ok((image, sound_until))
    };
    Ok(read_all(disk, dir, read, progress)?.into_iter().unzip())
}

/// [`read_images`], with zeros for what cannot be read, and what that is.
pub(crate) fn read_what_can_be(
    disk: &dyn Disk,
    dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Vec<Image>, Vec<BadPlace>), WalError> {
    let read = |file: &Listed, is_stored_into| read_file(disk, dir, file, is_stored_into, true);
    let (images, bad_places): (_, Vec<_>) = read_all(disk, dir, read, progress)?.into_iter().unzip();
    Ok((images, bad_places.concat()))
}

/// Calls `read` with every segment file, and with whether that may be stored into; on two threads if it can be.
fn read_all<T: Send>(
    disk: &dyn Disk,
    dir: &Path,
    read: impl Fn(&Listed, bool) -> Result<(Image, T), WalError> + Sync,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<(Image, T)>, WalError> {
    let mut listed = disk.list(dir).map_err(|source| WalError::io("list the log directory", dir, source))?;
    listed.retain(|file| file.name.ends_with(".wal") || file.name.ends_with(".next"));
    let total: u64 = listed.iter().map(|file| file.len_bytes).sum();
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    let done_bytes = AtomicU64::new(0);
    let newest = listed.iter().rfind(|file| file.name.ends_with(".wal"));
    let read = |file: &Listed| {
        let is_stored_into = Some(file) == newest || file.name.ends_with(".next");
        let read = read(file, is_stored_into)?;
        done_bytes.fetch_add(read.0.bytes.len() as u64, Ordering::Relaxed);
        Ok(read)
    };
    if !disk.background() || listed.len() < 2 {
        return listed.iter().map(read).inspect(|_| progress(done_bytes.load(Ordering::Relaxed), total)).collect();
    }
    let taken = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done = Mutex::new(Vec::with_capacity(listed.len()));
    let work = |shown: &mut dyn FnMut()| {
        // From the newest on: it may have to come from the disk, the others are likely to be in memory.
        while let Some((place, file)) = listed.iter().enumerate().rev().nth(taken.fetch_add(1, Ordering::Relaxed)) {
            let image = read(file);
            failed.fetch_or(image.is_err(), Ordering::Relaxed);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((place, image));
            if failed.load(Ordering::Relaxed) {
                return;
            }
            shown();
        }
    };
    std::thread::scope(|scope| {
        // Without a second thread the first does it all.
        let _ = std::thread::Builder::new().name("wal-reader".into()).spawn_scoped(scope, || work(&mut || {}));
        work(&mut || progress(done_bytes.load(Ordering::Relaxed), total));
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Of several errors, that of the oldest file, whichever thread was the first.
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, image)| image).collect()
}

fn read_file(
    disk: &dyn Disk,
    dir: &Path,
    file: &Listed,
    is_stored_into: bool,
    passes_bad_places: bool,
) -> Result<(Image, Vec<BadPlace>), WalError> {
    let name = &file.name;
    let path = dir.join(name);
    let failed = |source| WalError::io("read the log segment", &path, source);
    let mut why = None;
    if is_stored_into {
        disk.settle(&path).map_err(|source| WalError::io("sync the log segment", &path, source))?;
    } else {
        match disk.read(&path) {
            Ok(bytes) => return Ok((Image { name: name.clone(), bytes }, Vec::new())),
            // It is of the file as a whole. Reading piece by piece, for a copy, finds the place.
            Err(error) => why = Some(error),
        }
    }
    let mut bad_places: Vec<BadPlace> = Vec::new();
    let bytes = copy(disk, &path, file.len_bytes, &mut |range, error| {
        let bad = BadPlace { name: name.clone(), range, what: error.to_string() };
        if !passes_bad_places {
            return Err(bad.error(dir));
        }
        match bad_places.last_mut() {
            Some(last) if last.range.end == bad.range.start && last.what == bad.what => last.range.end = bad.range.end,
            _ => bad_places.push(bad),
        }
        Ok(())
    });
    match (bytes, why) {
        (Ok(bytes), None) => Ok((Image { name: name.clone(), bytes }, bad_places)),
        (Ok(bytes), Some(_)) if passes_bad_places => Ok((Image { name: name.clone(), bytes }, bad_places)),
        (Err(Failed::There(error)), _) => Err(error),
        (Ok(_) | Err(Failed::Io(_)), Some(error)) | (Err(Failed::Io(error)), None) => Err(failed(error)),
    }
}

/// Why there is no copy.
enum Failed {
    /// What was said of a place that cannot be read.
    There(WalError),
    Io(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::Io(error)
    }
}

/// Whether the disk has lost what stands there. Anything else that a system may answer (no memory, a file server that is
/// gone) says nothing about the file.
fn is_bad_place(error: &io::Error) -> bool {
    const OF_THE_MEDIUM: [Errno; 6] =
        [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::REMOTEIO, Errno::BADMSG, Errno::UCLEAN];
    Errno::from_io_error(error).is_some_and(|errno| OF_THE_MEDIUM.contains(&errno))
}

/// A file's bytes. Those that are zero take no memory, and the greatest part of a segment in use is. A page that cannot be
/// read is tried once more, then `pass` says whether to go on behind it; zeros stand for it.
fn copy(
    disk: &dyn Disk,
    path: &Path,
    len_bytes: u64,
    pass: &mut dyn FnMut(Range<u64>, io::Error) -> Result<(), WalError>,
) -> Result<Bytes, Failed> {
    let mut source = disk.open_stream(path)?;
    let length = usize::try_from(len_bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // A file of absurd length is an error and not the end of the process.
    Vec::<u8>::new().try_reserve_exact(length).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // Zeros that the system has not been asked for yet.
    let mut bytes = vec![0; length];
    let mut piece = vec![0; PIECE_BYTES];
    let mut at: usize = 0;
    // Where the page ends that is being tried once more.
    let mut tried = None;
    loop {
        let page_end = (at + 1).next_multiple_of(PAGE_BYTES).min(length);
        let most = if tried == Some(page_end) { page_end - at } else { PIECE_BYTES };
        let count = match source.read(&mut piece[..most]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if at < length && is_bad_place(&error) => {
                if tried.replace(page_end) == Some(page_end) {
                    pass(at as u64..page_end as u64, error).map_err(Failed::There)?;
                    at = page_end;
                }
                source.seek(SeekFrom::Start(at as u64))?;
                continue;
            }
            other => other?,
        };
        if count == 0 && at == bytes.len() {
            return Ok(Bytes::from(bytes));
        }
        // The directory is ours, so that is none of our making.
        let place = bytes.get_mut(at..at + count).filter(|_| count > 0);
        let place = place.ok_or_else(|| io::Error::other("its length has changed while it was being read"))?;
        if !format::is_zero(&piece[..count]) {
            place.copy_from_slice(&piece[..count]);
        }
        at += count;
    }
}

/// What a set of segment files holds, without a disk: for tools and tests. `dir` is for messages only.
pub fn recover_images(dir: &Path, images: &[Image]) -> Result<Recovered, WalError> {
    recover_showing(dir, images, &mut |_| {})
}

/// [`recover_images`]; `progress` is told how many bytes are done.
pub(crate) fn recover_showing(
    dir: &Path,
    images: &[Image],
    progress: &mut dyn FnMut(u64),
) -> Result<Recovered, WalError> {
    let outcome = recovery::recover(dir, images, progress)?;
    Ok(Recovered {
        fresh: outcome.live.is_none(),
        metadata: outcome.replay.state.metadata.unwrap_or_default(),
        snapshots: outcome.replay.state.snapshots,
        hard_state: outcome.replay.state.hard_state,
        first_index: outcome.replay.state.base.index.saturating_add(1),
        entries: outcome.replay.entries,
        dir: dir.into(),
        torn: outcome.torn,
    })
}
