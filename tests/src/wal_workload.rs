//! Work for the log, together with what it should hold after each step.
//!
//! A [`Workload`] is a list of steps; [`Workload::after`] says what a log must hold after the first so many of them.
//! After a crash the log may hold that for any number of steps between the last one that was synced and acknowledged
//! and the one that was under way: [`Workload::explain`] finds which, or nothing, and then something was lost or
//! invented.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::pb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use wal::{Options, Recovered, SnapshotDir, Wal, WalError};

use crate::fault_disk::{log_dir, snapshot_dir, FaultDisk, Image, Moment, SECTOR_BYTES};
use crate::random::Random;

/// One call, or the few that belong together.
#[derive(Clone, Debug)]
pub enum Step {
    /// Entries and a hard state: synced.
    Save(HardState, Vec<Entry>),
    /// The same, not synced: may be lost until something later is synced.
    Append(HardState, Vec<Entry>),
    /// A commit alone: may be lost.
    Commit(HardState),
    /// A snapshot file and the log's record of it, in that order.
    Snapshot(SnapshotMetadata),
    /// Old segments and snapshot files go.
    Purge,
}

/// Steps with a name.
#[derive(Clone, Debug)]
pub struct Workload {
    /// For messages.
    pub name: &'static str,
    /// See [`Options`].
    pub segment_bytes: u64,
    /// What is done.
    pub steps: Vec<Step>,
    /// What holds after 0, 1, … steps.
    expected: Vec<Expected>,
}

/// What a log holds, as far as anybody can tell from outside.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    state: HardState,
    newest: Option<SnapshotMetadata>,
    entries: Vec<Entry>,
}

/// Builds steps that a correct Raft node could make.
struct Builder {
    random: Random,
    state: HardState,
    first: u64,
    entries: Vec<Entry>,
    steps: Vec<Step>,
}

impl Builder {
    fn new(seed: u64) -> Self {
        let state = HardState { term: 1, vote: 1, commit: 0 };
        Builder { random: Random::new(seed), state, first: 1, entries: Vec::new(), steps: Vec::new() }
    }

    fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    fn save(&mut self, replace: u64, count: u64, max_bytes: u64) {
        let (state, fresh) = self.fresh(replace, count, max_bytes);
        self.steps.push(Step::Save(state, fresh));
    }

    fn append(&mut self, replace: u64, count: u64, max_bytes: u64) {
        let (state, fresh) = self.fresh(replace, count, max_bytes);
        self.steps.push(Step::Append(state, fresh));
    }

    fn fresh(&mut self, replace: u64, count: u64, max_bytes: u64) -> (HardState, Vec<Entry>) {
        let from = self.last().saturating_sub(replace).max(self.state.commit) + 1;
        self.entries.truncate((from - self.first) as usize);
        let fresh: Vec<_> = (from..from + count)
            .map(|index| {
                let len = self.random.below(max_bytes + 1);
                let data: Vec<u8> = (0..len).map(|_| self.random.number() as u8).collect();
                Entry { term: self.state.term, index, ..Entry::normal(data) }
            })
            .collect();
        self.entries.extend_from_slice(&fresh);
        (self.state, fresh)
    }

    fn commit(&mut self, behind: u64) {
        self.state.commit = self.state.commit.max(self.last().saturating_sub(behind));
        self.steps.push(Step::Commit(self.state));
    }

    fn new_term(&mut self) {
        self.state.term += 1;
        self.state.vote = self.random.below(4);
    }

    fn snapshot(&mut self) {
        let index = self.state.commit;
        let Some(entry) = index.checked_sub(self.first).and_then(|at| self.entries.get(at as usize)) else { return };
        self.steps.push(Step::Snapshot(metadata(index, entry.term)));
    }

    fn install(&mut self, ahead: u64) {
        let index = self.last() + ahead;
        self.new_term();
        self.state.vote = 0;
        self.state.commit = index;
        self.first = index + 1;
        self.entries.clear();
        self.steps.push(Step::Snapshot(metadata(index, self.state.term)));
    }

    fn finish(self, name: &'static str, segment_bytes: u64) -> Workload {
        let mut expected = vec![Expected::default()];
        for step in &self.steps {
            let mut now = expected.last().cloned().unwrap_or_default();
            now.take(step);
            expected.push(now);
        }
        Workload { name, segment_bytes, steps: self.steps, expected }
    }
}

fn metadata(index: u64, term: u64) -> SnapshotMetadata {
    SnapshotMetadata { conf_state: ConfState { voters: vec![1, 2, 3], ..ConfState::default() }, index, term }
}

impl Expected {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Save(state, entries) | Step::Append(state, entries) => {
                if let Some(first) = entries.first() {
                    self.entries.retain(|entry| entry.index < first.index);
                    self.entries.extend_from_slice(entries);
                }
                self.state = *state;
            }
            Step::Commit(state) => self.state = *state,
            Step::Snapshot(metadata) => {
                let inside =
                    self.entries.iter().any(|entry| (entry.term, entry.index) == (metadata.term, metadata.index));
                if inside {
                    self.entries.retain(|entry| entry.index > metadata.index);
                } else {
                    self.entries.clear();
                    self.state = HardState { term: metadata.term, vote: 0, commit: metadata.index };
                }
                self.newest = Some(metadata.clone());
            }
            Step::Purge => {}
        }
    }

    /// What a recovered log holds.
    pub fn of(recovered: &Recovered) -> Self {
        let newest = recovered.snapshots.last().cloned();
        let after = newest.as_ref().map_or(0, |metadata| metadata.index);
        let entries = recovered.entries(after).expect("the log goes on from its newest snapshot");
        let entries = entries.to_vec().expect("they are still what was checked");
        Expected { state: recovered.hard_state, newest, entries }
    }

    /// The last index, and the term of the hard state.
    pub fn end(&self) -> (u64, HardState) {
        let last = self.entries.last().map(|entry| entry.index);
        let snapshot = self.newest.as_ref().map_or(0, |metadata| metadata.index);
        (last.unwrap_or(snapshot), self.state)
    }
}

impl Workload {
    /// What a log must hold after so many steps.
    pub fn after(&self, steps: usize) -> &Expected {
        &self.expected[steps.min(self.steps.len())]
    }

    /// The number of steps that must have survived when `done` were acknowledged: what was not synced at the end need
    /// not.
    pub fn certain(&self, done: usize) -> usize {
        let lost = self.steps[..done]
            .iter()
            .rev()
            .take_while(|step| !matches!(step, Step::Save(..) | Step::Snapshot(_)))
            .count();
        done - lost
    }

    /// After how many steps a log holds this, when `done` steps were acknowledged and the next may have been under way.
    pub fn explain(&self, found: &Expected, done: usize) -> Option<usize> {
        (self.certain(done)..=(done + 1).min(self.steps.len())).rev().find(|steps| self.after(*steps) == found)
    }

    /// The options to open the log with.
    pub fn options(&self) -> Options {
        Options { segment_bytes: self.segment_bytes }
    }

    /// Opens log and snapshots on this disk.
    pub fn open(&self, disk: &FaultDisk) -> Result<(Wal, Recovered, SnapshotDir), WalError> {
        let disk = Arc::new(disk.clone());
        let snapshots = SnapshotDir::open_on(disk.clone(), &snapshot_dir())?;
        let (log, recovered) = Wal::open_on(disk, &log_dir(), self.options(), b"workload")?;
        Ok((log, recovered, snapshots))
    }

    /// Opens a new log on the disk and does everything. Stops at the first error, and says after how many steps. All of
    /// them and an error: the housekeeper failed at the last of them.
    pub fn run(&self, disk: &FaultDisk) -> (usize, Option<WalError>) {
        self.go_on(disk, 0, self.steps.len())
    }

    /// [`Workload::run`] on a log that holds `done` of the steps already, and only up to the one with the number `end`.
    pub fn go_on(&self, disk: &FaultDisk, done: usize, end: usize) -> (usize, Option<WalError>) {
        disk.set_progress(done);
        let (mut log, _, snapshots) = match self.open(disk) {
            Ok(opened) => opened,
            Err(error) => return (done, Some(error)),
        };
        let end = end.min(self.steps.len());
        for number in done..end {
            if let Err(error) = do_step(&mut log, &snapshots, &self.steps[number], &self.steps[..number]) {
                return (number, Some(error));
            }
            disk.set_progress(number + 1);
        }
        // One call more, in which the log says what its housekeeper could not do.
        (end, log.sync().err())
    }

    /// The first that a crash leaves of a run, at this moment or later, with a torn end that opening passes over: the disk,
    /// and how many steps it holds.
    pub fn torn_crash(&self, moments: &[Moment], from: usize) -> Option<(Image, usize)> {
        let mut random = Random::new(from as u64);
        for moment in moments.iter().skip(from) {
            let mut found = None;
            moment.images(3, 256, &mut random, |image| {
                if found.is_some() {
                    return;
                }
                if let Ok((_, recovered, _)) = self.open(&FaultDisk::with_image(&image)) {
                    let steps = self.explain(&Expected::of(&recovered), moment.progress);
                    found = steps.filter(|_| recovered.torn.is_some()).map(|steps| (image, steps));
                }
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Goes on with an opened log that holds `steps` of them: the next one is done as if for the first time, byte for byte
    /// what a crash may have taken, and synced. After that the log must hold it, and nothing that lay behind it before.
    pub fn redo(&self, disk: &FaultDisk, (mut log, snapshots): (Wal, SnapshotDir), steps: usize) -> Result<(), String> {
        let Some(step) = self.steps.get(steps) else { return Ok(()) };
        do_step(&mut log, &snapshots, step, &self.steps[..steps])
            .and_then(|()| log.sync())
            .map_err(|error| format!("the log does not go on: {error}"))?;
        drop((log, snapshots));
        let (_, recovered, _) =
            self.open(&disk.after_power_failure()).map_err(|error| format!("it cannot be opened again: {error}"))?;
        match Expected::of(&recovered) == *self.after(steps + 1) {
            true => Ok(()),
            false => Err(format!("step {} was done again, and the log holds something else", steps + 1)),
        }
    }

    /// Opens a new log in a real directory and does everything.
    pub fn run_in(&self, dir: &Path) -> Result<(), WalError> {
        let snapshots = SnapshotDir::open(&dir.join("snap"))?;
        let (mut log, _) = Wal::open(&dir.join("wal"), self.options(), b"workload")?;
        let mut steps = self.steps.iter().enumerate();
        steps.try_for_each(|(number, step)| do_step(&mut log, &snapshots, step, &self.steps[..number]))
    }
}

/// The data of the snapshot file at an index.
pub fn snapshot_data(index: u64) -> Bytes {
    Bytes::from((0..700 + index).map(|at| (at ^ index) as u8).collect::<Vec<_>>())
}

/// `done` are the steps before this one.
fn do_step(log: &mut Wal, snapshots: &SnapshotDir, step: &Step, done: &[Step]) -> Result<(), WalError> {
    match step {
        Step::Save(state, entries) => log.save(Some(state), entries),
        Step::Append(state, entries) => log.append(Some(state), entries),
        Step::Commit(state) => log.save(Some(state), &[]),
        Step::Snapshot(metadata) => {
            let data = snapshot_data(metadata.index);
            snapshots.save(&Snapshot { data, metadata: metadata.clone() })?;
            log.save_snapshot(metadata)
        }
        Step::Purge => {
            log.purge(u64::MAX)?;
            let saved = done.iter().rev().filter_map(|step| match step {
                Step::Snapshot(metadata) => Some(metadata.clone()),
                _ => None,
            });
            match saved.take(2).collect::<Vec<_>>() {
                none if none.is_empty() => Ok(()),
                kept => snapshots.purge(&kept).map(drop),
            }
        }
    }
}

/// Appends of all sizes, commits in between.
pub fn appends() -> Workload {
    let mut builder = Builder::new(1);
    for round in 0..48 {
        if round % 5 == 2 {
            builder.append(0, 2, 700);
            builder.append(0, 1, 40);
        }
        builder.save(0, 1 + round % 4, [30, 300, 900, 2600][round as usize % 4]);
        if round % 3 > 0 {
            builder.commit(1);
        }
        if round % 7 == 6 {
            builder.new_term();
        }
    }
    builder.finish("appends", 16 << 10)
}

/// New leaders replace what older ones left uncommitted.
pub fn truncations() -> Workload {
    let mut builder = Builder::new(2);
    for round in 0..60 {
        if round % 4 == 1 {
            builder.append(round % 3, 3, 600);
        }
        builder.save(round % 5, 1 + round % 3, 1200);
        if round % 2 == 1 {
            builder.new_term();
        }
        if round % 3 == 2 {
            builder.commit(4);
        }
    }
    builder.finish("truncations", 8 << 10)
}

/// A segment is full every few steps; some batches are longer than one.
pub fn rotations() -> Workload {
    let mut builder = Builder::new(3);
    for round in 0..44 {
        if round % 6 == 3 {
            builder.append(1, 2, 1200);
        }
        builder.save(round % 2, 1 + round % 2, if round % 9 == 8 { 5000 } else { 1500 });
        if round % 2 == 0 {
            builder.commit(2);
        }
    }
    builder.finish("rotations", 4 << 10)
}

/// Snapshots taken and installed, old segments purged.
pub fn snapshots() -> Workload {
    let mut builder = Builder::new(4);
    for round in 0..48 {
        builder.save(round % 3, 2, 1600);
        builder.commit(1);
        match round % 8 {
            3 => builder.snapshot(),
            4 => builder.steps.push(Step::Purge),
            7 => builder.install(1 + round % 5),
            _ => {}
        }
    }
    builder.finish("snapshots", 8 << 10)
}

/// Segments are purged while the one that follows them is begun and not synced.
pub fn unsynced() -> Workload {
    let mut builder = Builder::new(5);
    for _ in 0..8 {
        builder.save(0, 1, 600);
        builder.commit(0);
        builder.snapshot();
        // Mostly more than a segment has left.
        builder.append(0, 4, 3000);
        builder.steps.push(Step::Purge);
    }
    builder.finish("unsynced", 4 << 10)
}

/// Batches of one sector each, some of them not synced: where one ends, another began before a crash, and storing the one
/// leaves every byte of the other as it was. Goes on as [`equal_batch`] does.
pub fn equal() -> Workload {
    let mut builder = Builder::new(6);
    for round in 0..3 {
        for number in 0..4 {
            let entry = match (round, number) {
                // From the beginning of the segment up to the end of a sector, with a state.
                (0, 0) => equal_entry(builder.state.term, builder.last() + 1, 792),
                // With a state.
                (_, 0) => equal_entry(builder.state.term, builder.last() + 1, 400),
                _ => equal_batch(builder.state.term, builder.last() + 1),
            };
            builder.entries.push(entry.clone());
            let synced = number == 0;
            builder.steps.push(match synced {
                true => Step::Save(builder.state, vec![entry]),
                false => Step::Append(builder.state, vec![entry]),
            });
        }
        builder.new_term();
    }
    builder.finish("equal", 16 << 10)
}

/// What a batch of [`equal`] is made of that has no state.
pub fn equal_batch(term: u64, index: u64) -> Entry {
    equal_entry(term, index, SECTOR_BYTES - 40 - 32)
}

fn equal_entry(term: u64, index: u64, bytes: usize) -> Entry {
    Entry { term, index, ..Entry::normal(vec![(term * 16 + index) as u8; bytes]) }
}

/// All of them, but for [`equal`].
pub fn all() -> Vec<Workload> {
    vec![appends(), truncations(), rotations(), snapshots(), unsynced()]
}

/// A small log at rest, to be damaged.
#[derive(Clone, Debug)]
pub struct Shape {
    /// For messages.
    pub name: &'static str,
    /// What was done to it.
    pub workload: Workload,
    /// How many steps were acknowledged.
    pub done: usize,
    /// Its files.
    pub files: Vec<wal::Image>,
    /// What each sector of each file ever held before, oldest first, without what it holds now.
    pub older: Vec<Vec<Vec<Vec<u8>>>>,
    /// Whether a mark stands behind the last batch, which proves that it was synced.
    pub has_mark: bool,
}

/// Logs of every kind, each a few thousand bytes.
pub fn shapes() -> Vec<Shape> {
    let small = |name, seed, build: fn(&mut Builder)| {
        let mut builder = Builder::new(seed);
        build(&mut builder);
        builder.finish(name, 4 << 10)
    };
    let appends = small("appends", 11, |builder| (0..8).for_each(|_| builder.save(0, 1, 300)));
    let groups = small("groups of one sync", 12, |builder| {
        for _ in 0..3 {
            builder.append(0, 1, 200);
            builder.commit(1);
            builder.append(1, 2, 100);
            builder.save(0, 1, 400);
        }
    });
    let rotations = small("rotations", 13, |builder| (0..9).for_each(|_| builder.save(0, 1, 2400)));
    let workloads = vec![
        small("one batch", 14, |builder| builder.save(0, 1, 200)),
        appends.clone(),
        small("long batches", 15, |builder| (0..2).for_each(|_| builder.save(0, 3, 900))),
        groups.clone(),
        small("truncations", 16, |builder| {
            for round in 0..6 {
                builder.save(round % 3, 2, 200);
                builder.new_term();
            }
        }),
        rotations.clone(),
        small("snapshots and purges", 17, |builder| {
            for _ in 0..5 {
                builder.save(0, 2, 1400);
                builder.commit(0);
                builder.snapshot();
                builder.steps.push(Step::Purge);
            }
        }),
        small("a reset", 18, |builder| {
            builder.save(0, 4, 300);
            builder.commit(2);
            builder.install(20);
            builder.save(0, 2, 300);
        }),
        small("a commit at the end", 19, |builder| {
            (0..3).for_each(|_| builder.save(0, 1, 300));
            builder.commit(0);
        }),
    ];
    let mut shapes: Vec<_> = workloads.iter().map(|workload| Shape::at_rest(workload, workload.name)).collect();
    shapes.push(Shape::at_rest(&appends, "appends, cut off before the mark").without_mark());
    shapes.push(Shape::at_rest(&groups, "groups, cut off before the mark").without_mark());
    shapes.extend(Shape::begun(&rotations, "a segment that was begun and not yet named"));
    shapes.extend(Shape::with_torn_end(&appends, "a torn end in the middle, left for the next segment"));
    assert_eq!(shapes.len(), workloads.len() + 4);
    shapes
}

/// The moments of a life in which everything succeeds.
fn run_from(workload: &Workload, disk: FaultDisk, done: usize) -> Vec<Moment> {
    disk.record();
    let (steps, error) = workload.go_on(&disk, done, usize::MAX);
    assert!(error.is_none() && steps == workload.steps.len(), "{}: {error:?}", workload.name);
    disk.take_moments()
}

impl Shape {
    fn at_rest(workload: &Workload, name: &'static str) -> Self {
        Self::at(workload, name, usize::MAX, true)
    }

    fn at(workload: &Workload, name: &'static str, moment: usize, has_mark: bool) -> Self {
        Self::of(workload, name, &run_from(workload, FaultDisk::new(), 0), moment, has_mark)
    }

    /// What two lives leave: the first one ended in the midst of a batch, and the second went on in the next segment.
    fn with_torn_end(workload: &Workload, name: &'static str) -> Option<Self> {
        let moments = run_from(workload, FaultDisk::new(), 0);
        let (image, steps) = workload.torn_crash(&moments, moments.len() / 3)?;
        let moments = run_from(workload, FaultDisk::with_image(&image), steps);
        Some(Self::of(workload, name, &moments, usize::MAX, true))
    }

    fn of(workload: &Workload, name: &'static str, moments: &[Moment], moment: usize, has_mark: bool) -> Self {
        let last = moment.min(moments.len() - 1);
        let images: Vec<_> = moments[..=last].iter().map(Moment::live_image).collect();
        let done = moments[last].progress + usize::from(!has_mark);
        let logs = |image: &Image| -> Vec<wal::Image> {
            let log = image.iter().filter_map(|(name, bytes)| Some((name.strip_prefix("wal/")?, bytes)));
            log.map(|(name, bytes)| wal::Image { name: name.into(), bytes: Bytes::from(bytes.clone()) }).collect()
        };
        let files = images.last().map(logs).unwrap_or_default();
        let mut older: Vec<Vec<Vec<Vec<u8>>>> =
            files.iter().map(|file| vec![Vec::new(); file.bytes.len().div_ceil(SECTOR_BYTES)]).collect();
        for image in images.iter().map(logs) {
            // The sequence is what stays the same when a segment gets its name.
            for (file, versions) in files.iter().zip(&mut older) {
                let Some(then) = image.iter().find(|then| then.name[..16] == file.name[..16]) else { continue };
                for (sector, (then, now)) in
                    then.bytes.chunks(SECTOR_BYTES).zip(file.bytes.chunks(SECTOR_BYTES)).enumerate()
                {
                    if then != now && !versions[sector].iter().any(|known| known == then) {
                        versions[sector].push(then.to_vec());
                    }
                }
            }
        }
        Shape { name, workload: workload.clone(), done: done.min(workload.steps.len()), files, older, has_mark }
    }

    /// As after a crash between the sync and the store of the mark.
    fn without_mark(mut self) -> Self {
        let last = self.files.iter().rposition(|file| file.name.ends_with(".wal"));
        if let Some((file, older)) = last.and_then(|last| Some((self.files.get_mut(last)?, self.older.get(last)?))) {
            let mut bytes = file.bytes.to_vec();
            if let Some(at) = bytes.windows(4).rposition(|window| window == b"BTCH") {
                bytes[at..at + 40].fill(0);
            }
            // The watermark is that of the sync before.
            if let Some(before) = older.get(1).and_then(|versions| versions.last()) {
                bytes[SECTOR_BYTES..2 * SECTOR_BYTES].copy_from_slice(before);
            }
            file.bytes = Bytes::from(bytes);
        }
        self.has_mark = false;
        self
    }

    /// The moment when the first batch of a second segment is synced and the segment still has its temporary name.
    fn begun(workload: &Workload, name: &'static str) -> Option<Self> {
        let disk = FaultDisk::new();
        disk.record();
        workload.run(&disk);
        let begun = |moment: &Moment| {
            let image = moment.live_image();
            image.iter().any(|(name, bytes)| name.ends_with("1.next") && bytes.starts_with(b"\x89RWAL"))
        };
        // The last such moment is that of the rename.
        let moment = disk.take_moments().iter().rposition(begun)?;
        Some(Self::at(workload, name, moment, false))
    }

    /// The number of steps that a log must show at least, if nothing but the last synced group of batches is unreadable.
    pub fn before_last_group(&self) -> usize {
        let last_synced = self.workload.certain(self.done);
        self.workload.certain(last_synced.saturating_sub(1))
    }
}

/// Whatever has its final name is missed when it is gone, with what came after it.
///
/// # Panics
/// If not.
pub fn last_cannot_vanish(image: &Image, context: &str) {
    let mut log: Vec<_> = image.iter().filter_map(|(name, bytes)| Some((name.strip_prefix("wal/")?, bytes))).collect();
    let Some(last) = log.iter().rposition(|(name, _)| name.ends_with(".wal")) else { return };
    log.truncate(last);
    log.retain(|(name, _)| name.ends_with(".wal"));
    if log.is_empty() {
        return;
    }
    let images: Vec<_> =
        log.into_iter().map(|(name, bytes)| wal::Image { name: name.into(), bytes: bytes.clone().into() }).collect();
    assert!(
        wal::recover_images(&log_dir(), &images).is_err(),
        "{context}: the last segment is gone and nobody notices"
    );
}
