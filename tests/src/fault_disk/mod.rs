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
//! Prefilling that fails to write back takes what the writer stored there with it, and the writer's next sync says so.
//!
//! The log's housekeeper works on the caller's thread, when [`FaultDisk::set_pace`] says: its calls are counted, crashed
//! at and failed like all others.
//!
//! A simulation that needs one crash, not all of them, cuts the power with [`FaultDisk::cut_off`] and goes on with
//! [`FaultDisk::after_crash`].
//!
//! | module | holds |
//! |---|---|
//! | `calls` | the seam's calls |
//! | `moment` | what a crash leaves to chance |
//!
//! What is left out: stores that reach the disk between the two calls around them are seen at the later one;
//! directories below the one that is opened; file times and modes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use moment::Moment;

use crate::random::Random;

mod calls;
mod moment;

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

/// A call of the log. Files by name (directory, a slash, name), ranges in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the calls of the seam, and have its names")]
pub enum Call {
    CreateDir,
    Lock,
    List,
    Create(String),
    Prefill(String, Range<usize>),
    Map(String),
    Read(String),
    Settle(String),
    Rename(String, String),
    Link(String, String),
    Remove(String),
    SyncDir,
    CreateStream(String),
    OpenStream(String),
    ReadStream,
    Write(String),
    /// A range is about to be stored into.
    Store(String, Range<usize>),
    Sync(String, Range<usize>),
}

/// What [`FaultDisk::fail`] has hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedCall {
    /// The call itself.
    pub call: Call,
    /// The one before it.
    pub before: Option<Call>,
    /// How it failed.
    pub fault: Fault,
    /// What [`FaultDisk::set_progress`] had said last.
    pub progress: usize,
}

/// When the log's housekeeper does its work: as early as it is asked, or as late as a slow thread would.
#[derive(Clone, Debug, Default)]
pub enum Pace {
    /// At once.
    #[default]
    AtOnce,
    /// Only when the log cannot go on without it, and when it is closed.
    WhenNeeded,
    /// Sometimes some of it.
    ByChance(Random),
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
    /// The call before the one that is to fail.
    before_failed: Option<Call>,
    failed: Option<FailedCall>,
    pace: Pace,
    most_waiting: usize,
    keeps_caches: bool,
    background: bool,
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
    /// A write-back that the writer did not ask for has failed, and its next sync is to say so.
    failed_write_back: bool,
    /// What cannot be read any more.
    bad: Range<usize>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(String, usize),
    Remove(String),
    Rename(String, String, usize),
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
                state.files.push(Content { live: bytes.clone(), durable: bytes.clone(), ..Content::default() });
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

    /// From now on, this stretch of the file with this name cannot be read.
    pub fn spoil(&self, name: &str, bad: Range<usize>) {
        let mut state = self.state();
        if let Some(id) = state.live.get(name).copied() {
            state.files[id].bad = bad;
        }
    }

    /// From now on, the log may use threads of its own. The order of their calls is chance.
    pub fn allow_background(&self) {
        self.state().background = true;
    }

    /// Whether the fault has come up.
    pub fn has_failed(&self) -> bool {
        self.state().failed.is_some()
    }

    /// The call that failed, if the fault has come up.
    pub fn failed_call(&self) -> Option<FailedCall> {
        self.state().failed.clone()
    }

    /// From now on, to settle a file leaves in memory what is there, as a system may that is only asked to let go of it:
    /// what a failed sync has lost is read back, and lost all the same.
    pub fn keep_caches(&self) {
        self.state().keeps_caches = true;
    }

    /// When the log's housekeeper does its work. At once if nothing is said.
    pub fn set_pace(&self, pace: Pace) {
        self.state().pace = pace;
    }

    /// The longest queue that the log's housekeeper has had.
    pub fn most_waiting(&self) -> usize {
        self.state().most_waiting
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
    fn begin(&mut self, describe: impl FnOnce(&Self) -> Call) -> Option<Fault> {
        self.remember();
        let number = self.calls;
        self.calls += 1;
        if self.is_cut_off() {
            return Some(Fault::Io);
        }
        match self.fail {
            Some((at, fault)) if at == number => {
                let call = describe(self);
                let before = self.before_failed.take();
                self.failed = Some(FailedCall { call, before, fault, progress: self.progress });
                Some(fault)
            }
            Some((at, _)) if at == number + 1 => {
                self.before_failed = Some(describe(self));
                None
            }
            _ => None,
        }
    }

    /// The live name of a file, for messages.
    fn name(&self, id: usize) -> String {
        let found = self.live.iter().find(|(_, known)| **known == id);
        found.map_or_else(|| "a removed file".to_owned(), |(name, _)| name.clone())
    }

    /// Whether the call that is under way, or the last one, came too late.
    fn is_cut_off(&self) -> bool {
        self.cut_off.is_some_and(|at| self.calls > at)
    }

    fn remember(&mut self) {
        if self.moments.is_some() {
            let moment = Moment::of(self);
            self.moments.get_or_insert_default().push(moment);
        }
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

/// A path on such a disk.
pub fn log_dir() -> PathBuf {
    PathBuf::from("/node/wal")
}

/// A path on such a disk.
pub fn snapshot_dir() -> PathBuf {
    PathBuf::from("/node/snap")
}
