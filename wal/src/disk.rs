//! The seam between the log and the files: a few calls, so that a test's disk can stand in for the real one.
//!
//! The log never calls the operating system itself. What it needs from a disk is little: a file that is really
//! allocated and that can be stored into, a sync of a range, the names in a directory and a way to make them durable,
//! and plain streams for snapshot files. [`crate::OsDisk`] is the real one; the `tests` crate has one that keeps what
//! is live apart from what is durable and can be cut off at any call.
//!
//! What is left out: deleting directories, file times and modes, anything asynchronous.

use std::io;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The file's name, without the directory.
    pub name: String,
    /// Its length in bytes.
    pub len_bytes: u64,
}

/// What is put aside never replaces what was put aside before: the name with the suffix, or with a number behind it.
pub(crate) fn free_name(name: &str, suffix: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let first = format!("{name}.{suffix}");
    let more = (2..u32::MAX).map(|number| format!("{name}.{suffix}.{number}"));
    std::iter::once(first.clone()).chain(more).find(|name| !is_taken(name)).unwrap_or(first)
}

/// The calls that the log makes. Paths are the log directory joined with a file name.
pub trait Disk: Send + Sync {
    /// Creates the directory and its parents where they are missing; they are durable on return, and so is the name of one
    /// that was there already. What lies above that one is the business of whoever created it.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the directory for this handle alone, until the returned value and everything that was created or mapped for
    /// storing meanwhile are dropped. `WouldBlock`: someone has it. Comes before all calls that map a file.
    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Send>>;

    /// The regular files in the directory, in any order. One that is created, renamed or removed meanwhile may be among
    /// them or not, and is no error.
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>>;

    /// Creates a file that must not exist, with every byte of its length allocated and zero, and durable (but not its
    /// name: see [`Disk::sync_dir`]). Leaves no file behind when it fails, as far as it can.
    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn Region>>;

    /// Opens an existing file for storing into. No [`Disk::read`] of it may still be held.
    fn map(&self, path: &Path) -> io::Result<Box<dyn Region>>;

    /// Makes a stretch of a segment quick to store into, and changes none of its bytes: a help that a disk need not give.
    /// Runs beside a writer of the same file, in a stretch that this one may have come to meanwhile, and must leave the
    /// writer's own syncs to report every failure.
    fn prefill(&self, _path: &Path, _range: Range<usize>) -> io::Result<()> {
        Ok(())
    }

    /// The whole file, to be read in place: one that nobody is going to store into any more. Unreadable media must be an
    /// error here, not a fault later.
    fn read(&self, path: &Path) -> io::Result<Bytes>;

    /// Makes durable whatever the caches hold of this file, and lets go of the caches, so that what is read next is
    /// what the disk has.
    fn settle(&self, path: &Path) -> io::Result<()>;

    /// Renames within one directory, replacing the target. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name in the same directory, which must be free. Durable after [`Disk::sync_dir`].
    fn link(&self, path: &Path, name: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in the directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Creates a file that must not exist, to be written from front to back.
    fn create_stream(&self, path: &Path) -> io::Result<Box<dyn Sink>>;

    /// Opens a file to be read from front to back. An error of a read is about the place that the reading has come to.
    fn open_stream(&self, path: &Path) -> io::Result<Box<dyn Source>>;

    /// A number that no other log is likely to have; identifies a new log.
    fn unique(&self) -> u64;

    /// Bytes that may still be written to the file system of this directory. A disk without an end says so.
    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    /// Whether slow work (allocating, prefilling, renaming, removing) may be done on a thread of its own. A test's disk
    /// says no, so that its calls come in one order.
    fn background(&self) -> bool {
        true
    }

    /// Of a disk that allows no thread of its own: how many of the jobs that wait for it are done now, oldest first.
    /// Asked whenever the log is used. A test's disk that lets them wait is as slow as a thread can be.
    fn due_jobs(&self, waiting: usize) -> usize {
        waiting
    }
}

/// A file that is mapped for storing into. Its length never changes.
pub trait Region: Send {
    /// The length in bytes.
    fn len_bytes(&self) -> usize;

    /// The bytes of the range, ready to be stored into. An error means that nothing was stored.
    fn slice_mut(&mut self, range: Range<usize>) -> io::Result<&mut [u8]>;

    /// Makes the range durable. After an error nothing is known about any byte of it.
    fn sync(&mut self, range: Range<usize>) -> io::Result<()>;
}

/// A file that is being written from front to back.
pub trait Sink: io::Write + Send {
    /// Makes everything written so far durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is being read from front to back. What cannot be read may be passed over.
pub trait Source: io::Read + io::Seek + Send {}

impl<T: io::Read + io::Seek + Send> Source for T {}
