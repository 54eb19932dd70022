//! Opening: what recovery found becomes a log that goes on, or a new one is created.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use raft_core::pb::HardState;

use super::rotation::create_segment;
use super::{Live, Next, Options, Wal};
use crate::batch::{batch_bytes, begin_segment, head_records, Owned};
use crate::disk::Disk;
use crate::entries::Found;
use crate::error::WalError;
use crate::format::{self, SealMark, Seed, SEGMENT_HEADER_BYTES};
use crate::housekeeper::Housekeeper;
use crate::images::read_images;
use crate::recovery::{self, LiveEnd, SegmentInfo};
use crate::state::LogState;
use crate::{OsDisk, Recovered};

/// How much of a segment is stored again at once.
const STORED_AGAIN_BYTES: usize = 4 << 20;

/// The smallest segment that is of any use.
const MIN_SEGMENT_BYTES: u64 = 4096;

impl Wal {
    /// Opens the log in `dir`, or creates one. `metadata` says whose log it is: it is stored at creation and must be
    /// the same ever after.
    pub fn open(dir: &Path, options: Options, metadata: &[u8]) -> Result<(Wal, Recovered), WalError> {
        Self::open_on(Arc::new(OsDisk), dir, options, metadata)
    }

    /// [`Wal::open`] on any disk.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        metadata: &[u8],
    ) -> Result<(Wal, Recovered), WalError> {
        if options.segment_bytes < MIN_SEGMENT_BYTES || options.segment_bytes > usize::MAX as u64 / 2 {
            return Err(WalError::refused(format!(
                "segments of {} bytes (at least {MIN_SEGMENT_BYTES})",
                options.segment_bytes
            )));
        }
        disk.create_dir(dir).map_err(|source| WalError::io("create the log directory", dir, source))?;
        let lock = disk.lock(dir).map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => WalError::InUse { dir: dir.into() },
            _ => WalError::io("lock the log directory", dir, source),
        })?;
        // A rename of the last run may not be durable yet.
        disk.sync_dir(dir).map_err(|source| WalError::io("sync the log directory", dir, source))?;
        let outcome = {
            let (images, sound_until) = read_images(&*disk, dir, &mut |_, _| {})?;
            recovery::recover_checked(dir, &images, &sound_until, &mut |_| {})?
        };
        for name in &outcome.discard {
            let path = dir.join(name);
            disk.remove(&path).map_err(|source| WalError::io("remove the unused segment", &path, source))?;
        }
        if !outcome.discard.is_empty() {
            disk.sync_dir(dir).map_err(|source| WalError::io("sync the log directory", dir, source))?;
        }
        match outcome.live {
            None => Self::create(disk, dir, options, metadata, lock),
            Some(end) => Self::resume(disk, dir, options, metadata, lock, outcome, end),
        }
    }

    fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        metadata: &[u8],
        lock: Box<dyn Send>,
    ) -> Result<(Wal, Recovered), WalError> {
        let identity = disk.unique();
        let mut state = LogState::new(0);
        state.metadata = Some(Bytes::copy_from_slice(metadata));
        let head = head_records(&state, None);
        let records: Vec<_> = head.iter().map(Owned::record).collect();
        let need = SEGMENT_HEADER_BYTES + batch_bytes(&records)?;
        let path = dir.join(format::prepared_name(0));
        let mut region = create_segment(&*disk, dir, &path, options.segment_bytes.max(need as u64))?;
        let mut info = SegmentInfo { name: format::prepared_name(0), sequence: 0, first_index: 1, max_index: 0 };
        let (end, checksum) = begin_segment(&mut *region, identity, &info, &records)
            .and_then(|begun| region.sync(0..begun.0).map(|()| begun))
            .map_err(|source| WalError::io("write the first log segment", &path, source))?;
        info.name = format::segment_name(0, 1);
        let named = dir.join(&info.name);
        disk.rename(&path, &named)
            .and_then(|()| disk.sync_dir(dir))
            .map_err(|source| WalError::io("name the first log segment", &named, source))?;
        let live = Live::new(region, info, Seed::new(identity, 0), end, checksum, true);
        let mut wal = Wal {
            housekeeper: start_housekeeper(&disk, dir)?,
            live,
            sealed: VecDeque::new(),
            next: Next::None,
            state,
            identity,
            options,
            dir: dir.into(),
            poisoned: None,
            disk,
            _lock: lock,
        };
        wal.leave_mark();
        let recovered = Recovered {
            fresh: true,
            metadata: Bytes::copy_from_slice(metadata),
            snapshots: Vec::new(),
            hard_state: HardState::default(),
            first_index: 1,
            entries: Found::default(),
            dir: dir.into(),
            torn: None,
        };
        Ok((wal, recovered))
    }

    fn resume(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        metadata: &[u8],
        lock: Box<dyn Send>,
        outcome: recovery::Outcome,
        end: LiveEnd,
    ) -> Result<(Wal, Recovered), WalError> {
        let recovery::Outcome { identity, replay, segments, unsealed, torn, .. } = outcome;
        let found = replay.state.metadata.clone().unwrap_or_default();
        if found != metadata {
            return Err(WalError::MetadataMismatch {
                dir: dir.into(),
                found: found.to_vec(),
                expected: metadata.to_vec(),
            });
        }
        let mut sealed = VecDeque::from(segments);
        let Some(mut info) = sealed.pop_back() else {
            return Err(WalError::Missing { dir: dir.into(), what: "there is no segment".into() });
        };
        let path = dir.join(&info.name);
        // What recovery read may be in memory only, left there by a process that died, and if that one's sync failed, the
        // system takes it for written. Nothing but storing it again makes sure.
        for start in (end.proven..end.offset).step_by(STORED_AGAIN_BYTES) {
            store_again(&*disk, &path, start..end.offset.min(start + STORED_AGAIN_BYTES))
                .map_err(|source| WalError::io("store into the log segment", &path, source))?;
        }
        let mut region = disk.map(&path).map_err(|source| WalError::io("map the log segment", &path, source))?;
        region.sync(0..end.offset).map_err(|source| WalError::io("sync the log segment", &path, source))?;
        // Oldest first: what has no final name must follow what has one.
        let mut before: Option<PathBuf> = None;
        for (position, begun) in sealed.iter_mut().chain(std::iter::once(&mut info)).enumerate() {
            let unsealed = unsealed.iter().find(|(of, _)| of + 1 == position);
            if let (Some((_, mark)), Some(path)) = (unsealed, before) {
                seal(&*disk, &path, mark).map_err(|source| WalError::io("seal the log segment", path, source))?;
            }
            give_final_name(&*disk, dir, begun)?;
            before = Some(dir.join(&begun.name));
        }
        if let Some(torn) = &torn {
            log::warn!(target: "wal", "{torn}");
        }
        let recovered = Recovered {
            fresh: false,
            metadata: found,
            snapshots: replay.state.snapshots.clone(),
            hard_state: replay.state.hard_state,
            first_index: replay.state.base.index.saturating_add(1),
            entries: replay.entries,
            dir: dir.into(),
            torn,
        };
        let mut live = Live::new(region, info, end.seed, end.offset, end.checksum, true);
        live.closed = end.torn && !bug!(TornTailLeft);
        let mut wal = Wal {
            housekeeper: start_housekeeper(&disk, dir)?,
            live,
            sealed,
            next: Next::None,
            state: replay.state,
            identity,
            options,
            dir: dir.into(),
            poisoned: None,
            disk,
            _lock: lock,
        };
        wal.leave_mark();
        if wal.live.closed {
            wal.prepare_ahead();
        }
        Ok((wal, recovered))
    }
}

/// Says in a segment that another one follows it, as the housekeeper does before it gives that one its final name.
fn seal(disk: &dyn Disk, path: &Path, mark: &SealMark) -> std::io::Result<()> {
    let mut region = disk.map(path)?;
    region.slice_mut(mark.place())?.copy_from_slice(&mark.bytes);
    region.sync(mark.place())
}

/// Changes nothing, but the system does not know that, nor does the compiler. The map goes at once: a long segment is not
/// held in memory once more.
fn store_again(disk: &dyn Disk, path: &Path, range: Range<usize>) -> std::io::Result<()> {
    let mut region = disk.map(path)?;
    let mut copy = [0; 4096];
    for piece in region.slice_mut(range.clone())?.chunks_mut(copy.len()) {
        let copy = &mut copy[..piece.len()];
        copy.copy_from_slice(piece);
        piece.copy_from_slice(std::hint::black_box(copy));
    }
    region.sync(range)
}

/// What recovery found begun under its temporary name. All of it is durable.
fn give_final_name(disk: &dyn Disk, dir: &Path, info: &mut SegmentInfo) -> Result<(), WalError> {
    if format::parse_prepared_name(&info.name).is_none() {
        return Ok(());
    }
    let name = format::segment_name(info.sequence, info.first_index);
    let named = dir.join(&name);
    disk.rename(&dir.join(&info.name), &named)
        .and_then(|()| disk.sync_dir(dir))
        .map_err(|source| WalError::io("name the log segment", &named, source))?;
    info.name = name;
    Ok(())
}

fn start_housekeeper(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Housekeeper, WalError> {
    Housekeeper::start(disk.clone(), dir.into()).map_err(|source| WalError::io("start a thread for", dir, source))
}
