//! Reading the segments of a directory into memory, or rather: bringing them there and pointing at them.
//!
//! Sealed segments are mapped, not copied; what may be stored into again is copied, without its empty rest. Bringing a
//! file's pages in is work for the operating system that has nothing to do with the next file's, so two threads share it
//! where the disk allows ([`Disk::background`]); it is a third of the time that opening a long log takes.

use std::io;
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

/// Every segment in the directory, by name. The newest is settled first: a process that died may have left bytes in
/// memory that the disk does not have.
/// `progress` is told how many bytes are there, and of how many.
pub(crate) fn read_images(
    disk: &dyn Disk,
    dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Image>, WalError> {
    let mut listed = disk.list(dir).map_err(|source| WalError::io("list the log directory", dir, source))?;
    listed.retain(|file| file.name.ends_with(".wal") || file.name.ends_with(".next"));
    let total: u64 = listed.iter().map(|file| file.len_bytes).sum();
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    let done_bytes = AtomicU64::new(0);
    let newest = listed.iter().rfind(|file| file.name.ends_with(".wal"));
    let read = |file: &Listed| {
        let name = &file.name;
        let path = dir.join(name);
        let bytes = if Some(file) == newest || name.ends_with(".next") {
            disk.settle(&path).map_err(|source| WalError::io("sync the log segment", &path, source))?;
            copy(disk, &path, file.len_bytes)
        } else {
            disk.read(&path)
        };
        let bytes = bytes.map_err(|source| WalError::io("read the log segment", &path, source))?;
        done_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(Image { name: name.clone(), bytes })
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
    images.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(images)
}

/// A file's bytes. Those that are zero take no memory, and the greatest part of a segment in use is.
fn copy(disk: &dyn Disk, path: &Path, len_bytes: u64) -> io::Result<Bytes> {
    let mut source = disk.open_stream(path)?;
    let length = usize::try_from(len_bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // A file of absurd length is an error and not the end of the process.
    Vec::<u8>::new().try_reserve_exact(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // Zeros that the system has not been asked for yet.
    let mut bytes = vec![0; length];
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let count = match source.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
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
