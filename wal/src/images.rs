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
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::disk::{Disk, Listed};
use crate::error::WalError;
use crate::format;
use crate::recovery::{self, Image};
use crate::Recovered;

/// How much is read at once where a copy is made. A multiple of the size of a page.
const PIECE_BYTES: usize = 256 << 10;

/// What the system reads at once, so what is lost where the disk fails.
const PAGE_BYTES: u64 = 4096;

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
    let done = Mutex::new(Vec::with_capacity(listed.len()));
    let work = |shown: &mut dyn FnMut()| {
        // From the newest on: it may have to come from the disk, the others are likely to be in memory.
        while let Some(file) = listed.iter().rev().nth(taken.fetch_add(1, Ordering::Relaxed)) {
            let image = read(file);
            done.lock().unwrap_or_else(PoisonError::into_inner).push(image);
            shown();
        }
    };
    std::thread::scope(|scope| {
        // Without a second thread the first does it all.
        let _ = std::thread::Builder::new().name("wal-reader".into()).spawn_scoped(scope, || work(&mut || {}));
        work(&mut || progress(done_bytes.load(Ordering::Relaxed), total));
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut images = done.into_iter().collect::<Result<Vec<_>, WalError>>()?;
    images.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    Ok(images)
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
            // Of the whole file. A copy finds the place.
            Err(error) => why = Some(error),
        }
    }
    let mut bad_places = Vec::new();
    let bytes = copy(disk, &path, file.len_bytes, &mut |offset, error| {
        let range = offset..(offset + 1).next_multiple_of(PAGE_BYTES).min(file.len_bytes);
        let bad = BadPlace { name: name.clone(), range, what: error.to_string() };
        match passes_bad_places {
            true => bad_places.push(bad),
            false => return Err(bad.error(dir)),
        }
        Ok(bad_places.last().map_or(offset, |bad| bad.range.end))
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

/// A file's bytes. Those that are zero take no memory, and the greatest part of a segment in use is. Asks `pass` where to
/// go on behind a place that cannot be read; zeros stand for it.
fn copy(
    disk: &dyn Disk,
    path: &Path,
    len_bytes: u64,
    pass: &mut dyn FnMut(u64, io::Error) -> Result<u64, WalError>,
) -> Result<Bytes, Failed> {
    let mut source = disk.open_stream(path)?;
    let length = usize::try_from(len_bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // A file of absurd length is an error and not the end of the process.
    Vec::<u8>::new().try_reserve_exact(length).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // Zeros that the system has not been asked for yet.
    let mut bytes = vec![0; length];
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let count = match source.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if at < length => {
                let behind = pass(at as u64, error).map_err(Failed::There)?;
                source.seek(SeekFrom::Start(behind))?;
                at = usize::try_from(behind).unwrap_or(length).clamp(at + 1, length);
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
