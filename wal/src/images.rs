//! Reading the segments of a directory into memory, or rather: bringing them there and pointing at them.
//!
//! Sealed segments are mapped, not copied. Bringing a file's pages in is work for the operating system that has nothing
//! to do with the next file's, so two threads share it where the disk allows ([`Disk::background`]); it is a third of
//! the time that opening a long log takes.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::disk::Disk;
use crate::error::WalError;
use crate::recovery::{self, Image};
use crate::Recovered;

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
    let mut names: Vec<_> = listed.into_iter().map(|file| file.name).collect();
    names.sort();
    let done_bytes = AtomicU64::new(0);
    let newest = names.iter().rfind(|name| name.ends_with(".wal"));
    let read = |name: &String| {
        let path = dir.join(name);
        if Some(name) == newest || name.ends_with(".next") {
            disk.settle(&path).map_err(|source| WalError::io("sync the log segment", &path, source))?;
        }
        let bytes = disk.read(&path).map_err(|source| WalError::io("read the log segment", &path, source))?;
        done_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(Image { name: name.clone(), bytes })
    };
    if !disk.background() || names.len() < 2 {
        return names.iter().map(read).inspect(|_| progress(done_bytes.load(Ordering::Relaxed), total)).collect();
    }
    let taken = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(names.len()));
    let work = |shown: &mut dyn FnMut()| {
        // From the newest on: it may have to come from the disk, the others are likely to be in memory.
        while let Some(name) = names.iter().rev().nth(taken.fetch_add(1, Ordering::Relaxed)) {
            let image = read(name);
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
