//! Looking at a log, and cutting a damaged one, for people who have to.
//!
//! [`walk`] reads whatever can be read and goes on behind what cannot. [`verify`] says what opening the log would say.
//! [`plan_repair`] works out, in memory, what has to go so that the log opens again, and [`Repair::apply`] does it, keeping
//! every file that it replaces, itself and not a copy, under another name. A repair *drops acknowledged data*: it is for a
//! log whose other copies are lost. A member of a living cluster is better replaced by a new one.
//!
//! What a repair can do: cut a damaged segment where the damage begins and set aside those behind it; where segments are
//! missing in the middle, keep those behind them if a recorded snapshot does for all that came before, cut in their turn if
//! they are damaged, else those before them. Where the disk fails to read, zeros count, and what they mean for the log is
//! damage like any other. What it cannot: a log whose first segment is unreadable, and one that another version of the
//! format has written, stay as they are.
//!
//! All of them take the directory's lock: a log that a node is using cannot be looked at.
//!
//! What is left out: snapshot files, and mending: what is unreadable stays unreadable.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{free_name, Disk};
use crate::error::WalError;
use crate::format::{
    self, BatchHeader, Body, RecordId, RecordKind, Seed, SegmentHeader, BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES,
};
use crate::images::{recover_showing, BadPlace};
use crate::recovery::{self, Image};
use crate::state::LogState;
use crate::{OsDisk, Recovered};

/// Something that was found, in the order of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A segment begins.
    Segment {
        /// Its name.
        file: String,
        /// Sequence and first index; `None` if the header cannot be read.
        header: Option<(u64, u64)>,
        /// Length of the file in bytes.
        len_bytes: u64,
    },
    /// A batch whose header is valid; its records follow.
    Batch {
        /// Where (bytes from the start of the file).
        offset: u64,
        /// How many records.
        records: u32,
        /// What had been durable when it was written.
        synced_before: u64,
        /// Whether the body is what was written.
        valid: bool,
    },
    /// A valid record.
    Record {
        /// Where (bytes from the start of the file).
        offset: u64,
        /// What it holds.
        kind: RecordKind,
        /// Its term.
        term: u64,
        /// Its index.
        index: u64,
        /// Length of what it carries.
        payload_bytes: u64,
    },
    /// The first record of a batch that is not what was written. Those behind it are not looked at.
    BadRecord {
        /// Where (bytes from the start of the file).
        offset: u64,
        /// What it was, if the batch's header vouches for that: then its payload is what is damaged.
        known: Option<RecordId>,
    },
    /// What was being written behind the end of a segment when the node stopped. Never acknowledged: the next segment says
    /// where this one ended.
    LeftBehind {
        /// Where it begins.
        offset: u64,
        /// Behind its last byte that is not zero.
        until: u64,
    },
    /// A stretch of the segment that the disk fails to read; it counts as zeros in what follows. Comes right behind the
    /// segment's own item.
    BadPlace {
        /// Where it begins.
        offset: u64,
        /// Where it ends.
        until: u64,
        /// The system's reason.
        what: String,
    },
    /// Bytes that are no batch, though not all zero.
    NoBatch {
        /// Where they begin.
        offset: u64,
        /// Where the next readable batch, or the empty rest, begins.
        until: u64,
    },
}

/// The segments of a directory, locked for as long as this lives.
pub struct Held {
    images: Vec<Image>,
    /// What the disk fails to read of them: zeros there.
    bad_places: Vec<BadPlace>,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    _lock: Box<dyn Send>,
}

impl Held {
    /// Locks the directory and reads it. `progress` is told how many bytes have been read, and of how many.
    pub fn open(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Held, WalError> {
        if !dir.is_dir() {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such directory");
            return Err(WalError::io("read", dir, source));
        }
        Self::open_on(Arc::new(OsDisk), dir, progress)
    }

    /// [`Held::open`] on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Held, WalError> {
        let lock = disk.lock(dir).map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => WalError::InUse { dir: dir.into() },
            _ => WalError::io("lock", dir, source),
        })?;
        let (images, bad_places) = crate::images::read_what_can_be(&*disk, dir, progress)?;
        if images.is_empty() {
            let what =
                "it holds no log segment (they are called *.wal; a node keeps them in the folder wal of its data)";
            return Err(WalError::Missing { dir: dir.into(), what: what.into() });
        }
        Ok(Held { images, bad_places, dir: dir.into(), disk, _lock: lock })
    }

    /// All bytes, to show progress against.
    pub fn len_bytes(&self) -> u64 {
        self.images.iter().map(|image| image.bytes.len() as u64).sum()
    }
}

/// Calls `each` with everything that is found, and with how many bytes have been looked at.
pub fn walk(held: &Held, each: &mut dyn FnMut(&Item, u64)) {
    let header_of = |image: &Image| SegmentHeader::decode(&image.bytes).ok().map(|(header, _)| header);
    // Any header says it, also for those before.
    let identity = held.images.iter().find_map(header_of).map(|header| header.identity);
    let mut before = 0;
    for (position, image) in held.images.iter().enumerate() {
        let bytes = &image.bytes;
        let header = header_of(image);
        let item = Item::Segment {
            file: image.name.clone(),
            header: header.map(|header| (header.sequence, header.first_index)),
            len_bytes: bytes.len() as u64,
        };
        each(&item, before);
        for BadPlace { range, what, .. } in held.bad_places.iter().filter(|bad| bad.name == image.name) {
            each(&Item::BadPlace { offset: range.start, until: range.end, what: what.clone() }, before);
        }
        if let (Some(identity), Some(sequence)) = (identity, sequence_of(image)) {
            let end = held.images.get(position + 1).and_then(|next| end_before(next, identity, sequence));
            walk_segment(bytes, Seed::new(identity, sequence), end, &mut |item, at| each(item, before + at));
        }
        before += bytes.len() as u64;
    }
}

fn sequence_of(image: &Image) -> Option<u64> {
    let published = format::parse_segment_name(&image.name).map(|(sequence, _)| sequence);
    published.or_else(|| format::parse_prepared_name(&image.name))
}

/// Where the segment with this sequence ends, if the next one says so.
fn end_before(next: &Image, identity: u64, sequence: u64) -> Option<u64> {
    let follows = sequence_of(next)?.checked_sub(1) == Some(sequence);
    let chain = recovery::first_chain(&next.bytes, Seed::new(identity, sequence.checked_add(1)?))?;
    (follows && chain.sequence == sequence).then_some(chain.end)
}

fn walk_segment(bytes: &[u8], seed: Seed, end: Option<u64>, each: &mut dyn FnMut(&Item, u64)) {
    let mut offset = SEGMENT_HEADER_BYTES;
    let mut ended = false;
    while offset + BATCH_HEADER_BYTES <= bytes.len() {
        if ended || end == Some(offset as u64) {
            let mark = BatchHeader::decode(bytes, offset, seed).filter(BatchHeader::is_mark);
            if ended || mark.is_none() {
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                if used > offset {
                    each(&Item::LeftBehind { offset: offset as u64, until: used as u64 }, used as u64);
                }
                return;
            }
            ended = true;
        }
        let Some(header) = BatchHeader::decode(bytes, offset, seed) else {
            let rest = bytes.get(offset..).unwrap_or_default();
            if format::is_zero(rest) {
                return;
            }
            let next = (offset + format::ALIGNMENT_BYTES..bytes.len())
                .step_by(format::ALIGNMENT_BYTES)
                .find(|at| BatchHeader::decode(bytes, *at, seed).is_some());
            let until = next.unwrap_or(bytes.len());
            each(&Item::NoBatch { offset: offset as u64, until: until as u64 }, until as u64);
            offset = until;
            continue;
        };
        let body = format::check_body(bytes, &header, seed);
        let end = header.end(bytes.len()).unwrap_or(offset + BATCH_HEADER_BYTES);
        let sound_until = match body {
            Body::Sound => end,
            Body::Broken(at) | Body::Unknown(at) => at,
        };
        let batch = Item::Batch {
            offset: offset as u64,
            records: header.record_count,
            synced_before: header.synced_before,
            valid: body == Body::Sound,
        };
        each(&batch, offset as u64);
        for record in format::records(bytes, offset + BATCH_HEADER_BYTES..sound_until) {
            let item = Item::Record {
                offset: record.offset as u64,
                kind: record.kind,
                term: record.term,
                index: record.index,
                payload_bytes: record.payload.len() as u64,
            };
            each(&item, record.offset as u64);
        }
        if body != Body::Sound {
            let known = format::bad_record(bytes, &header, sound_until);
            each(&Item::BadRecord { offset: sound_until as u64, known }, sound_until as u64);
        }
        // A header says how long its batch is, and its checksum held.
        offset = end;
    }
}

/// What opening the log would find, or say; first of all, where the disk fails to read it. `progress` is told how many
/// bytes have been checked.
pub fn verify(held: &Held, progress: &mut dyn FnMut(u64)) -> Result<Recovered, WalError> {
    match held.bad_places.first() {
        Some(bad) => Err(bad.error(&held.dir)),
        None => recover_showing(&held.dir, &held.images, progress),
    }
}

/// What is known of the record that is the damage which [`verify`] has named.
pub fn damaged_record(held: &Held, error: &WalError) -> Option<RecordId> {
    let WalError::Damaged { file, offset, .. } = error else { return None };
    let image = held.images.iter().find(|image| Some(image.name.as_ref()) == file.file_name())?;
    let (header, _) = SegmentHeader::decode(&image.bytes).ok()?;
    let seed = Seed::new(header.identity, header.sequence);
    let batch = BatchHeader::decode(&image.bytes, usize::try_from(*offset).ok()?, seed)?;
    match format::check_body(&image.bytes, &batch, seed) {
        Body::Broken(at) => format::bad_record(&image.bytes, &batch, at),
        Body::Sound | Body::Unknown(_) => None,
    }
}

/// What would have to go.
#[derive(Clone, Debug)]
pub struct Repair {
    /// What is wrong, in the order in which it was found.
    pub damage: Vec<String>,
    /// Files that would be shortened: the name, and where their contents would end.
    pub cut: Vec<(String, u64)>,
    /// Files that the disk fails to read in places where the log has nothing, or nothing that it can prove to have had:
    /// they would be written anew, with zeros there.
    pub rewritten: Vec<String>,
    /// Files that would be set aside whole.
    pub set_aside: Vec<String>,
    /// The first index, if the log would begin later than now: segments are missing in the middle, and those behind them
    /// can stand alone, given the snapshot file that does for what came before.
    pub begins_with: Option<u64>,
    /// The last index, and how many valid entries behind it would be dropped.
    pub last_index: u64,
    /// See `last_index`.
    pub dropped_entries: u64,
    images: Vec<Image>,
}

/// Works out what a repair would do; `None`: the log opens as it is. `progress` is told how many bytes have been checked,
/// and begins anew behind each damage.
pub fn plan_repair(held: &Held, progress: &mut dyn FnMut(u64)) -> Result<Option<Repair>, WalError> {
    let mut plan = Repair {
        damage: held.bad_places.iter().map(|bad| bad.error(&held.dir).to_string()).collect(),
        cut: Vec::new(),
        rewritten: Vec::new(),
        set_aside: Vec::new(),
        begins_with: None,
        last_index: 0,
        dropped_entries: 0,
        images: held.images.clone(),
    };
    let state = plan.settle(&held.dir, progress)?;
    if plan.damage.is_empty() {
        return Ok(None);
    }
    plan.last_index = state.last_index();
    plan.dropped_entries = entries_behind(held, plan.last_index);
    for bad in &held.bad_places {
        let is_kept = plan.images.iter().any(|image| image.name == bad.name);
        if is_kept && !plan.rewritten.contains(&bad.name) && !plan.cut.iter().any(|(name, _)| *name == bad.name) {
            plan.rewritten.push(bad.name.clone());
        }
    }
    Ok(Some(plan))
}

/// How many different entries beyond an index can still be read.
fn entries_behind(held: &Held, last_index: u64) -> u64 {
    let mut found = std::collections::BTreeSet::new();
    walk(held, &mut |item, _| {
        if let Item::Record { kind: RecordKind::Entry, index, .. } = item {
            if *index > last_index {
                found.insert(*index);
            }
        }
    });
    found.len() as u64
}

impl Repair {
    /// Takes out one damage after the other until the log opens; says what it holds then.
    fn settle(&mut self, dir: &Path, progress: &mut dyn FnMut(u64)) -> Result<LogState, WalError> {
        loop {
            let error = match recovery::recover(dir, &self.images, progress) {
                // Nothing at all is sound, unless something was there.
                Ok(outcome) if outcome.live.is_some() || self.damage.is_empty() => return Ok(outcome.replay.state),
                Ok(_) => return Err(WalError::Missing { dir: dir.into(), what: "no segment can be kept".into() }),
                Err(error) => error,
            };
            self.damage.push(error.to_string());
            if !self.cut_at(dir, &error) {
                return Err(error);
            }
        }
    }

    /// Takes out what the error names. `false`: nothing can be done about it.
    fn cut_at(&mut self, dir: &Path, error: &WalError) -> bool {
        let (file, offset) = match error {
            WalError::Damaged { file, offset, .. } => (file, offset),
            // It may be sound, and another program can read it.
            WalError::OtherVersion { .. } => return false,
            // Behind the last segment one is missing, or the place of a prepared one is taken: the seal or the file goes.
            _ => return self.close_gap(dir) || self.drop_last(),
        };
        let Some(position) = file
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| self.images.iter().position(|image| image.name == name))
        else {
            return false;
        };
        if self.images.get(position).and_then(sequence_of).is_none() {
            // No segment, whatever it holds: nothing stands behind it.
            self.set_aside.push(self.images.remove(position).name);
            return true;
        }
        let keep = usize::try_from(*offset).unwrap_or(0);
        let whole = keep <= SEGMENT_HEADER_BYTES;
        for later in self.images.drain(position + usize::from(!whole)..).rev() {
            self.cut.retain(|(name, _)| *name != later.name);
            self.set_aside.push(later.name);
        }
        if whole {
            return !self.images.is_empty();
        }
        let Some(image) = self.images.get_mut(position) else { return false };
        let mut bytes = image.bytes.to_vec();
        bytes[keep..].fill(0);
        // It claims more than is left now.
        bytes[format::WATERMARK_AT..format::WATERMARK_AT + BATCH_HEADER_BYTES].fill(0);
        if bytes[..] == image.bytes[..] {
            return false;
        }
        image.bytes = Bytes::from(bytes);
        self.cut.retain(|(name, _)| *name != image.name);
        self.cut.push((image.name.clone(), *offset));
        true
    }

    /// Segments are missing in the middle. What stands behind them stays if it can stand alone, even if more of it has to
    /// be cut: it is the newer part, and a snapshot does for the older. Else stays what stands before.
    fn close_gap(&mut self, dir: &Path) -> bool {
        let mut known: Vec<_> = self.images.iter().filter_map(sequence_of).collect();
        known.sort_unstable();
        let gaps: Vec<_> = known.windows(2).filter(|pair| pair[1] - pair[0] > 1).map(|pair| pair[1]).collect();
        let Some(first) = gaps.first() else { return false };
        // Each part for itself: with those behind it too, it would come to the gap between them, and back here.
        let mut last = u64::MAX;
        for behind in gaps.iter().rev() {
            let part = *behind..=last;
            last = behind.saturating_sub(1);
            let mut newer = self.clone();
            newer.keep(|image| sequence_of(image).is_some_and(|sequence| part.contains(&sequence)));
            if let Ok(state) = newer.settle(dir, &mut |_| {}) {
                newer.begins_with = Some(state.base.index.saturating_add(1));
                *self = newer;
                return true;
            }
        }
        self.keep(|image| sequence_of(image) < Some(*first));
        true
    }

    /// Sets aside all other segments.
    fn keep(&mut self, is_kept: impl Fn(&Image) -> bool) {
        let (kept, dropped) = std::mem::take(&mut self.images).into_iter().partition::<Vec<_>, _>(is_kept);
        self.images = kept;
        for image in dropped {
            self.cut.retain(|(name, _)| *name != image.name);
            self.set_aside.push(image.name);
        }
    }

    fn drop_last(&mut self) -> bool {
        // One that the log has gone past.
        let named = |image: &Image| format::parse_segment_name(&image.name).map(|(sequence, _)| sequence);
        let last = self.images.iter().filter_map(named).max();
        let passed = |image: &Image| format::parse_prepared_name(&image.name).is_some_and(|at| Some(at) <= last);
        if let Some(position) = self.images.iter().position(passed) {
            self.set_aside.push(self.images.remove(position).name);
            return true;
        }
        // The mark in the last one which says that another follows.
        let seed_of = |image: &Image| {
            let (header, _) = SegmentHeader::decode(&image.bytes).ok()?;
            Some(Seed::new(header.identity, header.sequence))
        };
        let last = self.images.iter_mut().rev().find_map(|image| seed_of(image).map(|seed| (image, seed)));
        let Some((image, seed)) = last else { return false };
        let mut end = SEGMENT_HEADER_BYTES;
        while let Some(header) = BatchHeader::decode(&image.bytes, end, seed).filter(|header| !header.is_mark()) {
            match header.end(image.bytes.len()) {
                Some(next) => end = next,
                None => return false,
            }
        }
        let mut bytes = image.bytes.to_vec();
        bytes[end..].fill(0);
        // It may be what says so.
        bytes[format::WATERMARK_AT..format::WATERMARK_AT + BATCH_HEADER_BYTES].fill(0);
        if bytes[..] == image.bytes[..] {
            return false;
        }
        image.bytes = Bytes::from(bytes);
        self.cut.retain(|(name, _)| *name != image.name);
        self.cut.push((image.name.clone(), end as u64));
        true
    }

    /// Carries it out. What is set aside, cut or written anew stays as the file that it was, bad places and all, under its
    /// name with `.cut` behind. Newest first: a repair that is interrupted leaves a log that is damaged in the same place.
    pub fn apply(&self, held: Held) -> Result<(), WalError> {
        let Held { dir, disk, .. } = &held;
        let sync_dir = || disk.sync_dir(dir).map_err(|source| WalError::io("sync", dir, source));
        let mut set_aside = self.set_aside.clone();
        set_aside.sort();
        for name in set_aside.iter().rev() {
            let path = dir.join(name);
            disk.rename(&path, &name_once_cut(&**disk, dir, name)?)
                .map_err(|source| WalError::io("set aside", &path, source))?;
            sync_dir()?;
        }
        for name in self.cut.iter().map(|(name, _)| name).chain(&self.rewritten) {
            let Some(image) = self.images.iter().find(|image| image.name == *name) else { continue };
            let path = dir.join(name);
            // Not a copy: what the disk fails to read may be got out of the file itself some day.
            disk.link(&path, &name_once_cut(&**disk, dir, name)?)
                .map_err(|source| WalError::io("keep under another name", &path, source))?;
            // It has that name for good before it loses its own.
            sync_dir()?;
            let temporary = dir.join(format!("{name}.tmp"));
            match disk.remove(&temporary) {
                // An earlier repair was interrupted.
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(WalError::io("remove", temporary, source)),
            }
            write_file(&**disk, &temporary, &image.bytes)?;
            disk.rename(&temporary, &path).map_err(|source| WalError::io("replace", &path, source))?;
            sync_dir()?;
        }
        Ok(())
    }
}

/// The name under which a file stays that is replaced.
fn name_once_cut(disk: &dyn Disk, dir: &Path, name: &str) -> Result<PathBuf, WalError> {
    let listed = disk.list(dir).map_err(|source| WalError::io("list", dir, source))?;
    Ok(dir.join(free_name(name, "cut", |taken| listed.iter().any(|file| file.name == taken))))
}

fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), WalError> {
    let write = || -> std::io::Result<()> {
        let mut sink = disk.create_stream(path)?;
        sink.write_all(bytes)?;
        sink.sync()
    };
    write().map_err(|source| WalError::io("write", path, source))
}
