//! A disk that knows what is live from what is durable: the second implementation of the log's seam.
//!
//! A process sees the *live* image: every store and every rename at once. A power failure leaves the *durable* one:
//! what was synced, and any part of what was not. Unsynced are 512-byte sectors of files, each of which may have been
//! written back, or not, or torn; and changes of names in a directory, each of which may have happened or not, in any
//! combination.
//!
//! With [`FaultDisk::record`] on, the disk keeps a [`Moment`] before every call, which is what a crash at that point
//! leaves to chance; [`Moment::images`] makes the chances into images, and [`FaultDisk::with_image`] is the machine
//! after the crash. With [`FaultDisk::fail`], one call fails: with EIO, with ENOSPC, or half done. A sync that fails
//! behaves as Linux does: the pages are clean afterwards, their bytes may be lost, and the next sync reports success.
//!
//! A simulation that needs one crash, not all of them, cuts the power with [`FaultDisk::cut_off`] and goes on with
//! [`FaultDisk::after_crash`].
//!
//! What is left out: stores that reach the disk between the two calls around them are seen at the later one;
//! directories below the one that is opened; file times and modes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use wal::disk::{Disk, Listed, Region, Sink};

use crate::random::Random;

/// What a disk writes at once or not at all, usually.
pub const SECTOR_BYTES: usize = 512;

/// The files of a directory, by name.
pub type Image = BTreeMap<String, Vec<u8>>;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error, nothing done.
    Io,
    /// No space, nothing done.
    NoSpace,
    /// Half of it done: a short write or read, a sync of some of the sectors, a rename whose success is reported as an
    /// error.
    Short,
}

/// All faults.
pub const FAULTS: [Fault; 3] = [Fault::Io, Fault::NoSpace, Fault::Short];

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Fault::Io | Fault::Short => io::Error::from_raw_os_error(5),
            Fault::NoSpace => io::Error::from_raw_os_error(28),
        }
    }
}

/// A disk; clones share it.
#[derive(Clone, Default)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: Vec<Content>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    /// Changes of names since the last sync of the directory, in order.
    renames: Vec<NameChange>,
    locked: bool,
    calls: u64,
    fail: Option<(u64, Fault)>,
    failed: bool,
    /// From this call on, nothing happens.
    cut_off: Option<u64>,
    moments: Option<Vec<Moment>>,
    /// The caller's own count of what it has done, kept with each moment.
    progress: usize,
    unique: u64,
}

#[derive(Default, Clone)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

/// A file's durable bytes, and its sectors that differ, as they are live.
type Unsynced = (Vec<u8>, Vec<(usize, Vec<u8>)>);

/// What a crash at this point finds.
#[derive(Clone)]
pub struct Moment {
    /// The number of the call that was about to be made.
    pub call: u64,
    /// What [`FaultDisk::set_progress`] said last.
    pub progress: usize,
    files: Vec<Unsynced>,
    names: BTreeMap<String, usize>,
    changes: Vec<NameChange>,
}

impl FaultDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk with these files, all of it durable.
    pub fn with_image(image: &Image) -> Self {
        let disk = Self::new();
        {
            let mut state = disk.state();
            for (name, bytes) in image {
                let id = state.files.len();
                state.files.push(Content { live: bytes.clone(), durable: bytes.clone(), dirty: BTreeSet::new() });
                state.live.insert(name.clone(), id);
                state.durable.insert(name.clone(), id);
            }
        }
        disk
    }

    /// Lets the call with this number (from 0) fail.
    pub fn fail(&self, call: u64, fault: Fault) {
        self.state().fail = Some((call, fault));
    }

    /// Takes back [`FaultDisk::fail`].
    pub fn disarm(&self) {
        self.state().fail = None;
    }

    /// Whether the fault has come up.
    pub fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// From the call with this number (from 0) on, nothing happens and every call fails: the machine has lost its power,
    /// and the process is about to find out.
    pub fn cut_off(&self, call: u64) {
        self.state().cut_off = Some(call);
    }

    /// Whether that call has come up.
    pub fn is_cut_off(&self) -> bool {
        self.state().is_cut_off()
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Keeps a [`Moment`] before each call from now on.
    pub fn record(&self) {
        self.state().moments = Some(Vec::new());
    }

    /// The moments so far, and one more for now.
    pub fn take_moments(&self) -> Vec<Moment> {
        let mut state = self.state();
        state.remember();
        state.moments.take().unwrap_or_default()
    }

    /// Says how far the caller is.
    pub fn set_progress(&self, progress: usize) {
        self.state().progress = progress;
    }

    /// The disk as another process finds it after this one was killed: nothing is lost, nothing became durable.
    pub fn after_kill(&self) -> FaultDisk {
        let state = self.state();
        let mut copy = State {
            live: state.live.clone(),
            durable: state.durable.clone(),
            renames: state.renames.clone(),
            unique: state.unique,
            ..State::default()
        };
        // Files that no name leads to any more are left behind.
        let mut moved: BTreeMap<usize, usize> = BTreeMap::new();
        let mut place = |id: &mut usize| {
            *id = *moved.entry(*id).or_insert_with(|| {
                copy.files.push(state.files[*id].clone());
                copy.files.len() - 1
            });
        };
        copy.live.values_mut().for_each(&mut place);
        copy.durable.values_mut().for_each(&mut place);
        for change in &mut copy.renames {
            match change {
                NameChange::Add(_, id) | NameChange::Rename(_, _, id) => place(id),
                NameChange::Remove(_) => {}
            }
        }
        FaultDisk { state: Arc::new(Mutex::new(copy)) }
    }

    /// The disk after a power failure: of each thing that was not synced, chance decides whether it happened, with
    /// `kept_of_8` in eight; with `torn`, one of the unsynced sectors may be half written.
    pub fn after_crash(&self, random: &mut Random, kept_of_8: u64, torn: bool) -> FaultDisk {
        let moment = {
            let mut state = self.state();
            state.moments = Some(Vec::new());
            state.remember();
            state.moments.take().and_then(|mut moments| moments.pop())
        };
        let Some(moment) = moment else { return FaultDisk::new() };
        let chances = moment.chances();
        let happened: Vec<bool> = (0..chances).map(|_| random.below(8) < kept_of_8).collect();
        let sectors = chances - moment.changes.len();
        let torn = (torn && sectors > 0)
            .then(|| (moment.changes.len() + random.below(sectors as u64) as usize, random.below(64) as usize * 8));
        let disk = FaultDisk::with_image(&moment.image(|thing| happened[thing], torn));
        disk.state().unique = self.state().unique;
        disk
    }

    /// The disk after a power failure that took everything unsynced.
    pub fn after_power_failure(&self) -> FaultDisk {
        let state = self.state();
        let image = state.durable.iter().map(|(name, id)| (name.clone(), state.files[*id].durable.clone())).collect();
        FaultDisk::with_image(&image)
    }

    /// The names of the live files.
    pub fn names(&self) -> Vec<String> {
        self.state().live.keys().cloned().collect()
    }

    /// The live files.
    pub fn image(&self) -> Image {
        let state = self.state();
        state.live.iter().map(|(name, id)| (name.clone(), state.files[*id].live.clone())).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// To be called first by every call: counts it, and says whether it is to fail.
    fn begin(&mut self) -> Option<Fault> {
        self.remember();
        let call = self.calls;
        self.calls += 1;
        if self.is_cut_off() {
            return Some(Fault::Io);
        }
        match self.fail {
            Some((at, fault)) if at == call => {
                self.failed = true;
                Some(fault)
            }
            _ => None,
        }
    }

    /// Whether the call that is under way, or the last one, came too late.
    fn is_cut_off(&self) -> bool {
        self.cut_off.is_some_and(|at| self.calls > at)
    }

    fn remember(&mut self) {
        if self.moments.is_none() {
            return;
        }
        let files = self
            .files
            .iter()
            .map(|file| {
                let sector = |at: &usize| (*at, file.live[sector_range(*at, file.live.len())].to_vec());
                (file.durable.clone(), file.dirty.iter().map(sector).collect())
            })
            .collect();
        let moment = Moment {
            call: self.calls,
            progress: self.progress,
            files,
            names: self.durable.clone(),
            changes: self.renames.clone(),
        };
        self.moments.get_or_insert_default().push(moment);
    }

    fn sync_file(&mut self, id: usize, range: Range<usize>, fault: Option<Fault>) -> io::Result<()> {
        if self.is_cut_off() {
            return Err(Fault::Io.error());
        }
        let Some(file) = self.files.get_mut(id) else { return Err(io::ErrorKind::NotFound.into()) };
        let sectors = range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES);
        let dirty: Vec<usize> = file.dirty.range(sectors).copied().collect();
        for (position, sector) in dirty.into_iter().enumerate() {
            file.dirty.remove(&sector);
            let lost = match fault {
                None => false,
                Some(Fault::Io | Fault::NoSpace) => true,
                Some(Fault::Short) => position % 2 == 0,
            };
            if !lost {
                let range = sector_range(sector, file.live.len());
                file.durable[range.clone()].copy_from_slice(&file.live[range]);
            }
        }
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn id(&self, path: &Path) -> io::Result<usize> {
        self.live.get(&name_of(path)).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn sector_range(sector: usize, len: usize) -> Range<usize> {
    sector * SECTOR_BYTES..((sector + 1) * SECTOR_BYTES).min(len)
}

/// Directories are told apart by their last part; one disk holds the log and its snapshots.
fn name_of(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    parts[parts.len().saturating_sub(2)..].join("/")
}

fn dir_of(dir: &Path) -> String {
    let last = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{last}/")
}

impl Moment {
    /// How many things are left to chance here.
    pub fn chances(&self) -> usize {
        self.changes.len() + self.files.iter().map(|(_, dirty)| dirty.len()).sum::<usize>()
    }

    /// Images that a crash here can leave: every combination of what is unsynced if there are at most `all_below`
    /// things, else as many random ones as that would be; and each dirty sector torn at every `tear_bytes`, with the
    /// others written, or only those before it, or at random.
    pub fn images(&self, all_below: usize, tear_bytes: usize, random: &mut Random, mut each: impl FnMut(Image)) {
        let chances = self.chances();
        if chances <= all_below {
            for chosen in 0..1_u64 << chances {
                each(self.image(|thing| chosen >> thing & 1 == 1, None));
            }
        } else {
            each(self.image(|_| true, None));
            each(self.image(|_| false, None));
            for _ in 0..1_u64 << all_below {
                // Few lost, half lost, few kept: each finds other mistakes.
                let odds = [1, 4, 7][random.below(3) as usize];
                let chosen: Vec<bool> = (0..chances).map(|_| random.below(8) < odds).collect();
                each(self.image(|thing| chosen[thing], None));
            }
        }
        for torn in self.changes.len()..chances {
            for tear in (tear_bytes..SECTOR_BYTES).step_by(tear_bytes) {
                each(self.image(|_| true, Some((torn, tear))));
                each(self.image(|thing| thing <= torn, Some((torn, tear))));
                let chosen: Vec<bool> = (0..chances).map(|_| random.below(2) == 0).collect();
                each(self.image(|thing| chosen[thing], Some((torn, tear))));
            }
        }
    }

    /// What a process sees now.
    pub fn live_image(&self) -> Image {
        self.image(|_| true, None)
    }

    fn image(&self, happened: impl Fn(usize) -> bool, torn: Option<(usize, usize)>) -> Image {
        let mut names = self.names.clone();
        for (thing, change) in self.changes.iter().enumerate() {
            if !happened(thing) {
                continue;
            }
            match change {
                NameChange::Add(name, id) => {
                    names.insert(name.clone(), *id);
                }
                NameChange::Remove(name) => {
                    names.remove(name);
                }
                NameChange::Rename(from, to, id) => {
                    names.remove(from);
                    names.insert(to.clone(), *id);
                }
            }
        }
        let mut thing = self.changes.len();
        let mut contents = Vec::with_capacity(self.files.len());
        for (durable, dirty) in &self.files {
            let mut bytes = durable.clone();
            for (sector, new) in dirty {
                let range = sector_range(*sector, bytes.len());
                match torn {
                    Some((at, tear)) if at == thing => {
                        let tear = tear.min(new.len());
                        bytes[range.start..range.start + tear].copy_from_slice(&new[..tear]);
                    }
                    _ if happened(thing) => bytes[range].copy_from_slice(new),
                    _ => {}
                }
                thing += 1;
            }
            contents.push(bytes);
        }
        names.into_iter().map(|(name, id)| (name, contents[id].clone())).collect()
    }
}

/// Gives the lock back.
struct Lock(FaultDisk);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

impl Disk for FaultDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.state().begin().map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn lock(&self, _dir: &Path) -> io::Result<Box<dyn Send>> {
        let mut state = self.state();
        if let Some(fault) = state.begin() {
            return Err(fault.error());
        }
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock(self.clone())))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let mut state = self.state();
        if let Some(fault) = state.begin() {
            return Err(fault.error());
        }
        let prefix = dir_of(dir);
        let listed = state.live.iter().filter_map(|(name, id)| {
            let name = name.strip_prefix(&prefix)?.to_owned();
            Some(Listed { name, len_bytes: state.files[*id].live.len() as u64 })
        });
        Ok(listed.collect())
    }

    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn Region>> {
        let mut state = self.state();
        let fault = state.begin();
        let name = name_of(path);
        if state.live.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // Half done: a shorter file is left behind, as by a process that could not clean up.
        let len = match fault {
            Some(Fault::Short) => len_bytes as usize / 2,
            Some(fault) => return Err(fault.error()),
            None => len_bytes as usize,
        };
        let id = state.files.len();
        state.files.push(Content { live: vec![0; len], durable: vec![0; len], dirty: BTreeSet::new() });
        state.live.insert(name.clone(), id);
        state.renames.push(NameChange::Add(name, id));
        match fault {
            Some(_) => Err(Fault::NoSpace.error()),
            None => Ok(Box::new(FaultRegion { disk: self.clone(), id, live: vec![0; len], stored: 0..0 })),
        }
    }

    fn map(&self, path: &Path) -> io::Result<Box<dyn Region>> {
        let mut state = self.state();
        if let Some(fault) = state.begin() {
            return Err(fault.error());
        }
        let id = state.id(path)?;
        let live = state.files[id].live.clone();
        Ok(Box::new(FaultRegion { disk: self.clone(), id, live, stored: 0..0 }))
    }

    fn read(&self, path: &Path) -> io::Result<Bytes> {
        let mut state = self.state();
        if let Some(fault) = state.begin() {
            return Err(fault.error());
        }
        let id = state.id(path)?;
        Ok(Bytes::from(state.files[id].live.clone()))
    }

    fn settle(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.begin();
        let id = state.id(path)?;
        state.sync_file(id, 0..usize::MAX, fault)?;
        let file = &mut state.files[id];
        file.live.clone_from(&file.durable);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.begin();
        if matches!(fault, Some(Fault::Io | Fault::NoSpace)) {
            return Err(Fault::Io.error());
        }
        let id = state.id(from)?;
        state.live.remove(&name_of(from));
        state.live.insert(name_of(to), id);
        state.renames.push(NameChange::Rename(name_of(from), name_of(to), id));
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.begin();
        if matches!(fault, Some(Fault::Io | Fault::NoSpace)) {
            return Err(Fault::Io.error());
        }
        state.id(path)?;
        state.live.remove(&name_of(path));
        state.renames.push(NameChange::Remove(name_of(path)));
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        match state.begin() {
            Some(Fault::Short) => {
                // The first of the changes only.
                let changes = std::mem::take(&mut state.renames);
                for (position, change) in changes.into_iter().enumerate() {
                    if position == 0 {
                        settle_name(&mut state, change);
                    } else {
                        state.renames.push(change);
                    }
                }
                Err(Fault::Io.error())
            }
            Some(fault) => Err(fault.error()),
            None => {
                for change in std::mem::take(&mut state.renames) {
                    settle_name(&mut state, change);
                }
                Ok(())
            }
        }
    }

    fn create_stream(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        let mut state = self.state();
        if let Some(fault) = state.begin() {
            return Err(fault.error());
        }
        let id = state.files.len();
        state.files.push(Content::default());
        state.live.insert(name_of(path), id);
        state.renames.push(NameChange::Add(name_of(path), id));
        Ok(Box::new(FaultSink { disk: self.clone(), id }))
    }

    fn open_stream(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let mut state = self.state();
        if let Some(fault) = state.begin() {
            return Err(fault.error());
        }
        let id = state.id(path)?;
        Ok(Box::new(FaultSource { disk: self.clone(), bytes: state.files[id].live.clone(), at: 0 }))
    }

    fn unique(&self) -> u64 {
        let mut state = self.state();
        state.unique += 1;
        0x5eed_0000 + state.unique
    }

    fn background(&self) -> bool {
        false
    }
}

fn settle_name(state: &mut State, change: NameChange) {
    match change {
        NameChange::Add(name, id) => {
            state.durable.insert(name, id);
        }
        NameChange::Remove(name) => {
            state.durable.remove(&name);
        }
        NameChange::Rename(from, to, id) => {
            state.durable.remove(&from);
            state.durable.insert(to, id);
        }
    }
}

/// A mapped file. Stores go into a copy of its own, which the disk gets to see at the next call or when it is dropped.
struct FaultRegion {
    disk: FaultDisk,
    id: usize,
    live: Vec<u8>,
    stored: Range<usize>,
}

impl FaultRegion {
    fn show(&mut self) {
        let stored = std::mem::replace(&mut self.stored, 0..0);
        let mut state = self.disk.state();
        let Some(file) = state.files.get_mut(self.id) else { return };
        for sector in stored.start / SECTOR_BYTES..stored.end.div_ceil(SECTOR_BYTES) {
            let range = sector_range(sector, self.live.len());
            if file.live[range.clone()] != self.live[range.clone()] {
                file.live[range.clone()].copy_from_slice(&self.live[range]);
                file.dirty.insert(sector);
            }
        }
    }
}

impl Region for FaultRegion {
    fn len_bytes(&self) -> usize {
        self.live.len()
    }

    fn slice_mut(&mut self, range: Range<usize>) -> io::Result<&mut [u8]> {
        self.show();
        if let Some(fault) = self.disk.state().begin() {
            return Err(fault.error());
        }
        self.stored = range.clone();
        self.live.get_mut(range).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn sync(&mut self, range: Range<usize>) -> io::Result<()> {
        self.show();
        let mut state = self.disk.state();
        let fault = state.begin();
        state.sync_file(self.id, range, fault)
    }
}

impl Drop for FaultRegion {
    fn drop(&mut self) {
        self.show();
    }
}

struct FaultSink {
    disk: FaultDisk,
    id: usize,
}

impl Write for FaultSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        let count = match state.begin() {
            Some(Fault::Short) => bytes.len().div_ceil(2),
            Some(fault) => return Err(fault.error()),
            None => bytes.len(),
        };
        let Some(file) = state.files.get_mut(self.id) else { return Err(io::ErrorKind::NotFound.into()) };
        let start = file.live.len();
        file.live.extend_from_slice(&bytes[..count]);
        // Length and data reach the disk together or not at all, sector by sector.
        file.durable.resize(file.live.len(), 0);
        file.dirty.extend(start / SECTOR_BYTES..file.live.len().div_ceil(SECTOR_BYTES));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for FaultSink {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        let fault = state.begin();
        state.sync_file(self.id, 0..usize::MAX, fault)
    }
}

struct FaultSource {
    disk: FaultDisk,
    bytes: Vec<u8>,
    at: usize,
}

impl Read for FaultSource {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut limit = into.len();
        match self.disk.state().begin() {
            Some(Fault::Short) => limit = limit.div_ceil(2),
            Some(fault) => return Err(fault.error()),
            None => {}
        }
        let rest = &self.bytes[self.at..];
        let count = rest.len().min(limit);
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

/// A path on such a disk.
pub fn log_dir() -> PathBuf {
    PathBuf::from("/node/wal")
}

/// A path on such a disk.
pub fn snapshot_dir() -> PathBuf {
    PathBuf::from("/node/snap")
}
