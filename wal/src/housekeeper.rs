//! The slow work around segments, off the path of an append: allocating the next one, making the next stretch of the live
//! one quick to store into, giving a begun one its final name, removing purged ones.
//!
//! One thread, one queue, work in order. The queue is bounded by what there is to do: at most one segment is being
//! prepared and one published at a time, one stretch prefilled of each of the last two, and a purge is a job only if it
//! takes a segment out of the log, of which no more come while one has no final name. So it never holds more jobs than the
//! log has segments, and four. The writer waits for an answer only when it needs the next segment and it is not there, or
//! when the one that it leaves has no final name yet.
//!
//! Only removing is handed on, in its turn, to a thread of low priority, for the writer never waits for that; unless
//! `PURGES_AHEAD` purges are waiting: then the housekeeper waits, and the log grows no further.
//!
//! A disk that wants its calls in one order ([`Disk::background`]) gets them from the caller's thread instead, whole jobs
//! at a time, and as late as it likes ([`Disk::due_jobs`]). That shows a test every state that a thread can bring about:
//! the calls of a job and those of the writer concern different files and names, so a job that is interrupted by the
//! writer leaves behind what a job that began later and was cut off leaves. Segments that are to be removed wait in a queue
//! of their own there, too.
//!
//! **Removing takes its time.** To give 64 MiB back ties up a processor for some milliseconds in one piece, in which no
//! thread gets it that wakes up. So a segment first loses its name, durably: to recovery it is gone then, whatever becomes
//! of the file. Then it is shortened step by step, with rests, and what is left of it removed. A crash in between leaves a
//! file under a name that says so (`format::is_removed_name`), which the next opening removes.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use crate::disk::{Disk, Region};
use crate::format::{self, SealMark};

/// How much is prefilled at once, at least. A sync of the writer that comes in between waits for it.
pub(crate) const PREFILL_BYTES: usize = 256 << 10;

/// Purges that may wait to be carried out.
const PURGES_AHEAD: usize = 4;

/// How much of a purged segment is given back at once: a fifth of a millisecond's work.
const STEP_BYTES: u64 = 1 << 20;

/// The rest after each step is so many times as long.
const REST_FACTOR: u32 = 7;

/// Work for the housekeeper.
pub(crate) enum Job {
    /// Allocate a segment under its temporary name, and prefill its first stretch.
    Prepare { path: PathBuf, len_bytes: u64 },
    /// Prefill a stretch of the segment with this sequence ([`Disk::prefill`]).
    Prefill { path: PathBuf, sequence: u64, range: Range<usize> },
    /// The segment's first batch is durable: leave a mark in the one before it, if there is one, then give it its final
    /// name. So what has its final name cannot vanish unnoticed.
    Publish { from: PathBuf, to: PathBuf, seal: Option<Seal> },
    /// Have segments removed, oldest first.
    Remove { paths: Vec<PathBuf> },
}

/// A mark at the end of a segment that is left for the next one.
pub(crate) struct Seal {
    pub(crate) region: Box<dyn Region>,
    /// Where its last batch ends.
    pub(crate) end: usize,
    pub(crate) mark: SealMark,
}

/// What came of it.
pub(crate) enum Report {
    Prepared {
        path: PathBuf,
        result: io::Result<Box<dyn Region>>,
    },
    /// Done up to there, or given up: it was only a help.
    Prefilled {
        sequence: u64,
        end: usize,
    },
    Published {
        path: PathBuf,
        result: io::Result<()>,
    },
}

/// There will be no report any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

enum Mode {
    Inline {
        worker: Worker,
        remover: Remover,
        waiting: VecDeque<Job>,
        done: VecDeque<Report>,
    },
    Thread {
        jobs: Option<Sender<Job>>,
        reports: Receiver<Report>,
        threads: Vec<JoinHandle<()>>,
        closing: Arc<AtomicBool>,
    },
}

/// See the module.
pub(crate) struct Housekeeper {
    mode: Mode,
}

/// Does the jobs, on whichever thread.
struct Worker {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// A segment could not get its name. The log stops; no later segment may come to exist, and no earlier one may go.
    stopped: bool,
}

/// Removes segments, on whichever thread: oldest first, each durably before the next, for a log must never have a hole.
struct Remover {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    waiting: VecDeque<PathBuf>,
    /// The first of them could not be removed. It is tried again with the next purge.
    failed: bool,
    /// Not to rest.
    hurry: Arc<AtomicBool>,
}

/// What the housekeeper's thread has: jobs come in; reports, and segments to be removed, go out.
struct Doors {
    jobs: Receiver<Job>,
    reports: Sender<Report>,
    removals: SyncSender<Vec<PathBuf>>,
}

impl Housekeeper {
    pub(crate) fn start(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<Self> {
        let background = disk.background();
        let closing = Arc::new(AtomicBool::new(!background));
        let hurry = Arc::clone(&closing);
        let waiting = VecDeque::new();
        let mut remover = Remover { disk: disk.clone(), dir: dir.clone(), waiting, failed: false, hurry };
        let worker = Worker { disk, dir, stopped: false };
        let mode = if background {
            let (jobs, inbox) = mpsc::channel();
            let (outbox, reports) = mpsc::channel();
            let (removals, to_remove) = mpsc::sync_channel(PURGES_AHEAD);
            let doors = Doors { jobs: inbox, reports: outbox, removals };
            let housekeeper = Builder::new().name("wal-housekeeper".into()).spawn(move || worker.serve(&doors))?;
            let removing = move || {
                remover.disk.give_way();
                for paths in to_remove {
                    remover.take_in(paths);
                    while remover.remove_next() {}
                }
            };
            // Without it, the housekeeper's thread ends here, for want of jobs.
            let remover = Builder::new().name("wal-remover".into()).spawn(removing)?;
            Mode::Thread { jobs: Some(jobs), reports, threads: vec![housekeeper, remover], closing }
        } else {
            Mode::Inline { worker, remover, waiting: VecDeque::new(), done: VecDeque::new() }
        };
        Ok(Housekeeper { mode })
    }

    pub(crate) fn submit(&mut self, job: Job) {
        match &mut self.mode {
            Mode::Inline { waiting, .. } => {
                waiting.push_back(job);
                self.do_due_jobs();
            }
            Mode::Thread { jobs, .. } => {
                // It fails only when the thread is gone, which the writer notices when it asks for a report.
                if let Some(jobs) = jobs {
                    let _ = jobs.send(job);
                }
            }
        }
    }

    /// What has been done since the last time.
    pub(crate) fn poll(&mut self) -> Result<Option<Report>, Gone> {
        self.do_due_jobs();
        match &mut self.mode {
            Mode::Inline { done, .. } => Ok(done.pop_front()),
            Mode::Thread { reports, .. } => match reports.try_recv() {
                Ok(report) => Ok(Some(report)),
                Err(TryRecvError::Empty) => Ok(None),
                Err(TryRecvError::Disconnected) => Err(Gone),
            },
        }
    }

    /// Waits for the next report.
    pub(crate) fn wait(&mut self) -> Result<Report, Gone> {
        match &mut self.mode {
            Mode::Inline { worker, remover, waiting, done } => loop {
                if let Some(report) = done.pop_front() {
                    return Ok(report);
                }
                let job = waiting.pop_front().ok_or(Gone)?;
                worker.run(job, &mut |report| done.push_back(report), &mut |paths| remover.take_in(paths));
            },
            Mode::Thread { reports, .. } => reports.recv().map_err(|_| Gone),
        }
    }

    fn do_due_jobs(&mut self) {
        if let Mode::Inline { worker, remover, waiting, done } = &mut self.mode {
            let due = worker.disk.due_jobs(waiting.len()).min(waiting.len());
            for job in waiting.drain(..due) {
                worker.run(job, &mut |report| done.push_back(report), &mut |paths| remover.take_in(paths));
            }
            let waiting = remover.waiting.len();
            let due = worker.disk.due_jobs(waiting).max(waiting.saturating_sub(PURGES_AHEAD));
            let _ = (0..due).take_while(|_| remover.remove_next()).count();
        }
    }
}

impl Drop for Housekeeper {
    /// Finishes what was asked for.
    fn drop(&mut self) {
        match &mut self.mode {
            Mode::Inline { worker, remover, waiting, .. } => {
                for job in waiting.drain(..) {
                    worker.run(job, &mut |_| {}, &mut |paths| remover.take_in(paths));
                }
                while remover.remove_next() {}
            }
            Mode::Thread { jobs, threads, closing, .. } => {
                *jobs = None;
                closing.store(true, Ordering::Relaxed);
                for thread in threads.drain(..) {
                    let _ = thread.join();
                }
            }
        }
    }
}

/// Allocates a segment under its temporary name. Leaves nothing behind when it fails, and replaces what an earlier
/// failure left.
pub(crate) fn allocate(disk: &dyn Disk, dir: &Path, path: &Path, len_bytes: u64) -> io::Result<Box<dyn Region>> {
    let region = match disk.create(path, len_bytes) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(path)?;
            disk.create(path, len_bytes)?
        }
        other => other?,
    };
    match disk.sync_dir(dir) {
        Ok(()) => Ok(region),
        Err(error) => {
            drop(region);
            let _ = disk.remove(path);
            Err(error)
        }
    }
}

impl Worker {
    /// On its own thread. Ends when nobody has a job any more, or nobody removes segments.
    fn serve(mut self, doors: &Doors) {
        let mut removes = true;
        while let (true, Ok(job)) = (removes, doors.jobs.recv()) {
            // The reports of a log that is gone interest nobody.
            let mut report = |report| drop(doors.reports.send(report));
            self.run(job, &mut report, &mut |paths| removes = doors.removals.send(paths).is_ok());
        }
    }

    fn run(&mut self, job: Job, report: &mut dyn FnMut(Report), remove: &mut dyn FnMut(Vec<PathBuf>)) {
        match job {
            Job::Prepare { path, .. } | Job::Publish { to: path, .. } if self.stopped => {
                let result = Err(io::Error::other("an earlier segment could not get its name"));
                report(Report::Prepared { path, result });
            }
            Job::Prepare { path, len_bytes } => {
                let result = allocate(&*self.disk, &self.dir, &path, len_bytes);
                if let Ok(region) = &result {
                    self.prefill(&path, 0..region.len_bytes().min(PREFILL_BYTES));
                }
                report(Report::Prepared { path, result });
            }
            Job::Prefill { path, sequence, range } => {
                let end = range.end;
                self.prefill(&path, range);
                report(Report::Prefilled { sequence, end });
            }
            Job::Publish { from, to, seal } => {
                let result = self.publish(&from, &to, seal);
                self.stopped = result.is_err();
                report(Report::Published { path: to, result });
            }
            // The one that could not get its name may be all that is left behind them.
            Job::Remove { .. } if self.stopped => {}
            Job::Remove { paths } => remove(paths),
        }
    }

    fn prefill(&self, path: &Path, range: Range<usize>) {
        if let Err(error) = self.disk.prefill(path, range) {
            log::debug!(target: "wal", "cannot prefill {}: {error}", path.display());
        }
    }

    fn publish(&self, from: &Path, to: &Path, seal: Option<Seal>) -> io::Result<()> {
        if let Some(mut seal) = seal {
            let place = seal.mark.place();
            seal.region.slice_mut(place.clone())?.copy_from_slice(&seal.mark.bytes);
            // All of it, for the watermark at its beginning: it will not be written to again.
            seal.region.sync(0..seal.end.max(place.end))?;
        }
        self.disk.rename(from, to)?;
        self.disk.sync_dir(&self.dir)
    }
}

impl Remover {
    fn take_in(&mut self, paths: Vec<PathBuf>) {
        self.waiting.extend(paths);
        self.failed = false;
    }

    /// Whether there may be another one to remove.
    fn remove_next(&mut self) -> bool {
        let Some(path) = self.waiting.front().filter(|_| !self.failed) else { return false };
        match self.remove(path) {
            Ok(()) => drop(self.waiting.pop_front()),
            Err(error) => {
                log::warn!(target: "wal", "cannot remove the old log segment {}: {error}", path.display());
                self.failed = true;
            }
        }
        !self.failed
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = path.with_extension(format::REMOVED_EXTENSION);
        match self.disk.rename(path, &removed) {
            Ok(()) => {}
            // An earlier attempt got further than it said.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A full disk may lack room for another name, and this is what makes room.
            Err(_) => {
                unless_gone(self.disk.remove(path))?;
                return self.disk.sync_dir(&self.dir);
            }
        }
        self.disk.sync_dir(&self.dir)?;
        let mut began = Instant::now();
        // Who still has entries of it in memory may keep it from being shortened; then it goes in one piece.
        while self.disk.shorten(&removed, STEP_BYTES).is_ok_and(|left_bytes| left_bytes > 0) {
            if !self.hurry.load(Ordering::Relaxed) {
                std::thread::sleep(REST_FACTOR * began.elapsed());
            }
            began = Instant::now();
        }
        unless_gone(self.disk.remove(&removed))
    }
}

fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
