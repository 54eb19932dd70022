//! The slow work around segments, off the path of an append: allocating the next one, making the next stretch of the live
//! one quick to store into, giving a begun one its final name, removing purged ones.
//!
//! One thread, one queue, work in order. The queue is bounded by what there is to do: at most one segment is being
//! prepared and one published at a time, one stretch prefilled of each of the last two, and a purge is a job only if it
//! takes a segment out of the log, of which no more come while one has no final name. So it never holds more jobs than the
//! log has segments, and four. The writer waits for an answer only when it needs the next segment and it is not there, or
//! when the one that it leaves has no final name yet.
//!
//! A disk that wants its calls in one order ([`Disk::background`]) gets them from the caller's thread instead, whole jobs
//! at a time, and as late as it likes ([`Disk::due_jobs`]). That shows a test every state that a thread can bring about:
//! the calls of a job and those of the writer concern different files and names, so a job that is interrupted by the
//! writer leaves behind what a job that began later and was cut off leaves.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::disk::{Disk, Region};
use crate::format::SealMark;

/// How much is prefilled at once, at least. A sync of the writer that comes in between waits for it.
pub(crate) const PREFILL_BYTES: usize = 256 << 10;

/// Work for the housekeeper.
pub(crate) enum Job {
    /// Allocate a segment under its temporary name, and prefill its first stretch.
    Prepare { path: PathBuf, len_bytes: u64 },
    /// Prefill a stretch of the segment with this sequence ([`Disk::prefill`]).
    Prefill { path: PathBuf, sequence: u64, range: Range<usize> },
    /// The segment's first batch is durable: leave a mark in the one before it, if there is one, then give it its final
    /// name. So what has its final name cannot vanish unnoticed.
    Publish { from: PathBuf, to: PathBuf, seal: Option<Seal> },
    /// Remove segments, oldest first, each durably before the next: a log must never have a hole.
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
    /// It is tried again with the next purge.
    Unremoved {
        path: PathBuf,
        error: io::Error,
    },
}

/// There will be no report any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

enum Mode {
    Inline { worker: Worker, waiting: VecDeque<Job>, done: VecDeque<Report> },
    Thread { jobs: Option<Sender<Job>>, reports: Receiver<Report>, thread: Option<JoinHandle<()>> },
}

/// See the module.
pub(crate) struct Housekeeper {
    mode: Mode,
}

/// Does the jobs, on whichever thread.
struct Worker {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// What a failed removal left to do. It comes first the next time: the oldest segment must go first.
    to_remove: VecDeque<PathBuf>,
    /// A segment could not get its name. The log stops; no later segment may come to exist, and no earlier one may go.
    stopped: bool,
}

impl Housekeeper {
    pub(crate) fn start(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<Self> {
        let background = disk.background();
        let mut worker = Worker { disk, dir, to_remove: VecDeque::new(), stopped: false };
        let mode = if background {
            let (jobs, inbox) = mpsc::channel();
            let (outbox, reports) = mpsc::channel();
            let work = move || {
                for job in inbox {
                    // The reports of a log that is gone interest nobody.
                    worker.run(job, &mut |report| drop(outbox.send(report)));
                }
            };
            let thread = std::thread::Builder::new().name("wal-housekeeper".into()).spawn(work)?;
            Mode::Thread { jobs: Some(jobs), reports, thread: Some(thread) }
        } else {
            Mode::Inline { worker, waiting: VecDeque::new(), done: VecDeque::new() }
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
            Mode::Inline { worker, waiting, done } => loop {
                if let Some(report) = done.pop_front() {
                    return Ok(report);
                }
                let job = waiting.pop_front().ok_or(Gone)?;
                worker.run(job, &mut |report| done.push_back(report));
            },
            Mode::Thread { reports, .. } => reports.recv().map_err(|_| Gone),
        }
    }

    fn do_due_jobs(&mut self) {
        if let Mode::Inline { worker, waiting, done } = &mut self.mode {
            let due = worker.disk.due_jobs(waiting.len()).min(waiting.len());
            for job in waiting.drain(..due) {
                worker.run(job, &mut |report| done.push_back(report));
            }
        }
    }
}

impl Drop for Housekeeper {
    /// Finishes what was asked for.
    fn drop(&mut self) {
        match &mut self.mode {
            Mode::Inline { worker, waiting, .. } => waiting.drain(..).for_each(|job| worker.run(job, &mut |_| {})),
            Mode::Thread { jobs, thread, .. } => {
                *jobs = None;
                if let Some(thread) = thread.take() {
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
    fn run(&mut self, job: Job, report: &mut dyn FnMut(Report)) {
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
            Job::Remove { paths } => {
                self.to_remove.extend(paths);
                while let Some(path) = self.to_remove.pop_front() {
                    if let Err(error) = self.remove(&path) {
                        self.to_remove.push_front(path.clone());
                        report(Report::Unremoved { path, error });
                        return;
                    }
                }
            }
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

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.disk.remove(path) {
            // An earlier attempt got further than it said.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        self.disk.sync_dir(&self.dir)
    }
}
