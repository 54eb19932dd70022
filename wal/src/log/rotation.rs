//! From one segment to the next, and what is prepared ahead of the writer.

use std::path::{Path, PathBuf};

use super::{cannot_store, Live, Next, Wal};
use crate::batch::{batch_bytes, begin_segment, head_records, Owned};
use crate::disk::{Disk, Region};
use crate::error::WalError;
use crate::format::{self, Placement, Record, SealMark, Seed, BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES, WATERMARK_AT};
use crate::housekeeper::{self, Job, Seal, PREFILL_BYTES};
use crate::recovery::SegmentInfo;

/// Prefilling begins at multiples of this. A system with larger pages touches one of the writer's, which is harmless.
const PAGE_BYTES: usize = 4096;

/// How far the prefilling keeps ahead of the writer: a few milliseconds of a fast one.
const PREFILL_AHEAD_BYTES: usize = 1 << 20;

/// A stretch is enough for so many syncs as long as the last one, up to [`PREFILL_AHEAD_BYTES`]: each stretch is a sync of
/// its own, and a writer of large batches would meet one with every second of its own if they were short.
const PREFILL_SYNCS: usize = 16;

impl Wal {
    /// Begins the next segment with this batch.
    pub(super) fn write_in_next(&mut self, records: &[Record<'_>], first_index: Option<u64>) -> Result<(), WalError> {
        if self.live.unsynced_matters || self.live.synced == 0 {
            self.sync()?;
        }
        // Segments that have begun but have no final name: recovery is to find one at most.
        while self.live.published && !self.live.named {
            self.await_report()?;
        }
        let live = &self.live;
        let chain = Owned::chain(live.info.sequence, live.synced as u64, live.synced_checksum);
        let head = head_records(&self.state, Some(chain));
        let all: Vec<_> = head.iter().map(Owned::record).chain(records.iter().copied()).collect();
        let need = SEGMENT_HEADER_BYTES + batch_bytes(&all)?;
        let last = self.state.last_index();
        let first_index = first_index.unwrap_or(u64::MAX).min(last.saturating_add(1));
        let Some(sequence) = live.info.sequence.checked_add(1) else {
            return Err(WalError::refused("a segment behind the last that can have a number".to_string()));
        };
        let info = SegmentInfo {
            name: format::prepared_name(sequence),
            sequence,
            first_index,
            max_index: first_index.saturating_sub(1),
        };
        let (path, mut region) = self.take_next(sequence, need)?;
        let (end, checksum) = match begin_segment(&mut *region, self.identity, &info, &all) {
            Ok(begun) => begun,
            Err(source) => {
                self.next = Next::Ready { path: path.clone(), region };
                return Err(cannot_store(path, need, source));
            }
        };
        let seed = Seed::new(self.identity, sequence);
        let old = std::mem::replace(&mut self.live, Live::new(region, info, seed, end, checksum, false));
        self.live.prefilled = PREFILL_BYTES;
        let mark = SealMark::new(old.seed, old.synced, old.synced_checksum, old.region.len_bytes());
        self.live.left = Some(Seal { region: old.region, end: old.synced, mark });
        self.live.synced = 0;
        self.live.unsynced_matters = true;
        self.sealed.push_back(old.info);
        Ok(())
    }

    /// The prepared segment, waited for or made now if need be.
    fn take_next(&mut self, sequence: u64, need: usize) -> Result<(PathBuf, Box<dyn Region>), WalError> {
        while matches!(self.next, Next::Asked) {
            self.await_report()?;
        }
        match std::mem::replace(&mut self.next, Next::None) {
            Next::Ready { path, region } if region.len_bytes() >= need => return Ok((path, region)),
            Next::Ready { path, region } => {
                drop(region);
                self.disk.remove(&path).map_err(|source| WalError::io("remove the prepared segment", &path, source))?;
            }
            Next::None | Next::Asked | Next::Failed => {}
        }
        let path = self.dir.join(format::prepared_name(sequence));
        let len_bytes = self.options.segment_bytes.max(need as u64);
        let region = create_segment(&*self.disk, &self.dir, &path, len_bytes)?;
        Ok((path, region))
    }

    /// Asks for the next segment when this one is half full, or closed.
    pub(super) fn prepare_ahead(&mut self) {
        let live = &self.live;
        if matches!(self.next, Next::None) && (live.closed || live.end >= live.region.len_bytes() / 2) {
            let Some(sequence) = live.info.sequence.checked_add(1) else { return };
            let path = self.dir.join(format::prepared_name(sequence));
            self.next = Next::Asked;
            self.housekeeper.submit(Job::Prepare { path, len_bytes: self.options.segment_bytes });
        }
    }

    /// Keeps a stretch of the live segment ahead of the writer quick to store into. `synced_bytes` is how much the last sync
    /// was of.
    pub(super) fn prefill_ahead(&mut self, synced_bytes: usize) {
        let live = &mut self.live;
        // The page that the writer is in is its own already.
        let start = live.prefilled.max(live.end).next_multiple_of(PAGE_BYTES);
        let len_bytes = synced_bytes.saturating_mul(PREFILL_SYNCS).clamp(PREFILL_BYTES, PREFILL_AHEAD_BYTES);
        let end = (start + len_bytes).min(live.region.len_bytes());
        if live.prefilling || start >= end || start - live.end > PREFILL_AHEAD_BYTES {
            return;
        }
        live.prefilling = true;
        let path = self.dir.join(&live.info.name);
        self.housekeeper.submit(Job::Prefill { path, sequence: live.info.sequence, range: start..end });
    }

    /// The live segment's first batch is durable: it may have its final name.
    pub(super) fn publish(&mut self) {
        if self.live.published {
            return;
        }
        let info = &mut self.live.info;
        let from = self.dir.join(&info.name);
        info.name = format::segment_name(info.sequence, info.first_index);
        let to = self.dir.join(&info.name);
        self.live.published = true;
        let seal = self.live.left.take();
        self.housekeeper.submit(Job::Publish { from, to, seal });
    }

    fn leave_watermark(&mut self) {
        let live = &mut self.live;
        let bytes = format::watermark(live.seed, live.synced as u64, live.synced_checksum);
        if let Ok(place) = live.region.slice_mut(WATERMARK_AT..WATERMARK_AT + BATCH_HEADER_BYTES) {
            place.copy_from_slice(&bytes);
        }
    }

    /// Stores a mark behind what is durable, and the watermark. Neither is synced.
    pub(super) fn leave_mark(&mut self) {
        let live = &mut self.live;
        if live.end != live.synced {
            return;
        }
        if live.end + BATCH_HEADER_BYTES > live.region.len_bytes() {
            return self.leave_watermark();
        }
        let placement =
            Placement { seed: live.seed, offset: live.end, synced_before: live.end as u64, previous: live.checksum };
        // It is a help, not a promise: without it the log is as good as any other.
        if let Ok(place) = live.region.slice_mut(live.end..live.end + BATCH_HEADER_BYTES) {
            place.copy_from_slice(&format::mark(placement, 0));
        }
        self.leave_watermark();
    }
}

pub(super) fn create_segment(
    disk: &dyn Disk,
    dir: &Path,
    path: &Path,
    len_bytes: u64,
) -> Result<Box<dyn Region>, WalError> {
    let region = housekeeper::allocate(disk, dir, path, len_bytes);
    region.map_err(|source| match WalError::is_no_space(&source) {
        true => WalError::NoSpace { path: path.into(), needed_bytes: len_bytes, source },
        false => WalError::io("create the log segment", path, source),
    })
}
