//! Reading the segments of a directory into memory, or rather: bringing them there and pointing at them.
//!
//! Sealed segments are mapped, not copied. Bringing a file's pages in is work for the operating system that has nothing
//! to do with the next file's, so two threads share it where the disk allows ([`Disk::background`]); it is a third of
//! the time that opening a long log takes.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::disk::Disk;
use crate::error::WalError;
use crate::recovery::{self, Image};
use crate::Recovered;

/// Every segment in the directory, by name. The newest is settled first: a process that died may have left bytes in
/// memory that the disk does not have.
pub(crate) fn read_images(disk: &dyn Disk, dir: &Path) -> Result<Vec<Image>, WalError> {
    let listed = disk.list(dir).map_err(|source| WalError::io("list the log directory", dir, source))?;
    let mut names: Vec<_> = listed
        .into_iter()
        .map(|listed| listed.name)
        .filter(|name| name.ends_with(".wal") || name.ends_with(".next"))
        .collect();
    names.sort();
    let newest = names.iter().rfind(|name| name.ends_with(".wal"));
    let read = |name: &String| {
        let path = dir.join(name);
        if Some(name) == newest || name.ends_with(".next") {
            disk.settle(&path).map_err(|source| WalError::io("sync the log segment", &path, source))?;
        }
        let bytes = disk.read(&path).map_err(|source| WalError::io("read the log segment", &path, source))?;
        Ok(Image { name: name.clone(), bytes })
    };
    if !disk.background() || names.len() < 2 {
        return names.iter().map(read).collect();
    }
    let taken = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(names.len()));
    let work = || {
        // From the newest on: it may have to come from the disk, the others are likely to be in memory.
        while let Some(name) = names.iter().rev().nth(taken.fetch_add(1, Ordering::Relaxed)) {
            let image = read(name);
            done.lock().unwrap_or_else(PoisonError::into_inner).push(image);
        }
    };
    std::thread::scope(|scope| {
        // Without a second thread the first does it all.
        let _ = std::thread::Builder::new().name("wal-reader".into()).spawn_scoped(scope, work);
        work();
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut images = done.into_iter().collect::<Result<Vec<_>, WalError>>()?;
    images.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(images)
}

/// What a set of segment files holds, without a disk: for tools and tests. `dir` is for messages only.
pub fn recover_images(dir: &Path, images: &[Image]) -> Result<Recovered, WalError> {
    let outcome = recovery::recover(dir, images)?;
    Ok(Recovered {
        fresh: outcome.live.is_none(),
        metadata: outcome.replay.state.metadata.unwrap_or_default(),
        snapshots: outcome.replay.state.snapshots,
        hard_state: outcome.replay.state.hard_state,
        first_index: outcome.replay.state.base.index.saturating_add(1),
        entries: outcome.replay.entries,
        torn: outcome.torn,
    })
}
