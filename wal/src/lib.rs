//! The log on disk: a memory-mapped write-ahead log and snapshot files for Raft.
//!
//! Raft promises things: "I voted for you in term 7", "I hold the log up to entry 90". A promise may leave the node
//! only once it would survive the node. This crate is where that happens: [`Wal::save`] returns after entries, term and
//! vote are durable (a commit alone promises nothing and may lag), and after any crash [`Wal::open`] returns everything
//! that was acknowledged and not purged since, or refuses and says what is damaged and where. It drops no acknowledged
//! record in silence, and takes no damage for a torn tail, but for one case that no format can tell: the last group of
//! batches, damaged within seconds of its sync (unless mark and watermark are damaged as well; `DIVERGENCE.md`, "What no log can know").
//!
//! ```
//! use raft_core::pb::{Entry, HardState};
//! # let dir = tempfile::tempdir()?;
//! let options = wal::Options { segment_bytes: 1 << 20 };
//! let (mut log, recovered) = wal::Wal::open(dir.path(), options.clone(), b"node 1")?;
//! assert!(recovered.fresh);
//! let entry = Entry { term: 1, index: 1, ..Entry::normal("x = 1") };
//! log.save(Some(&HardState { term: 1, vote: 1, commit: 1 }), &[entry])?;
//! drop(log);
//!
//! let (_log, recovered) = wal::Wal::open(dir.path(), options, b"node 1")?;
//! assert_eq!(recovered.entries(0)?.to_vec()?[0].data, "x = 1");
//! assert_eq!(recovered.hard_state.commit, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **Order.** A snapshot file and its directory are synced first ([`SnapshotDir::save`]), then the log's record of it
//! ([`Wal::save_snapshot`]), then the hard state and entries that build on it ([`Wal::save`]). After a restart the
//! newest valid snapshot file that the log has recorded is the start ([`SnapshotDir::load_newest`] with
//! [`Recovered::snapshots`]), and [`Recovered::entries`] after its index follow.
//!
//! **Where to read what.**
//!
//! | module | holds |
//! |---|---|
//! | [`mod@format`] | the bytes, drawn and written |
//! | `state` | the rules that a sequence of records must keep, for the writer and for recovery |
//! | `recovery` | what a directory's bytes prove |
//! | `entries` | the entries that were found there |
//! | `verdict` | the table: for everything that can be observed, what is to be done |
//! | `batch` | what a batch and the beginning of a segment are made of |
//! | `log` | append, sync, rotation, purge |
//! | `images` | the files of a directory, brought into memory |
//! | `housekeeper` | the slow work, on a thread of its own |
//! | [`snapshot`] | snapshot files |
//! | [`tool`] | dump, verify and repair, for people |
//! | [`disk`] | the seam: everything that is asked of an operating system |
//! | `os_disk` | the real one, and the only `unsafe` code of the workspace |
//!
//! `DIVERGENCE.md` beside this crate's sources says what differs from etcd's log, and why.
//!
//! What is left out: encryption, compression, several logs in one directory, reading while writing, and protection
//! against another program that writes into the files.
#![deny(unsafe_code)]

/// Whether a known mistake is made now: `false`, and gone, in everything that ships. See `raft-core/src/zoo.rs`.
#[cfg(not(raft_bug_zoo))]
macro_rules! bug {
    ($name:ident) => {
        false
    };
}

/// Whether a known mistake is made now.
#[cfg(raft_bug_zoo)]
macro_rules! bug {
    ($name:ident) => {
        raft_core::zoo::is_loose(raft_core::zoo::Bug::$name)
    };
}

mod batch;
pub mod disk;
mod entries;
mod error;
pub mod format;
mod housekeeper;
mod images;
mod log;
mod os_disk;
mod recovery;
pub mod snapshot;
mod state;
pub mod tool;
mod verdict;

use std::path::PathBuf;

use bytes::Bytes;
use raft_core::pb::{HardState, SnapshotMetadata};

pub use disk::Disk;
pub use entries::HeldEntries;
pub use error::WalError;
pub use images::recover_images;
pub use log::{Options, Wal};
pub use os_disk::OsDisk;
pub use recovery::Image;
pub use snapshot::SnapshotDir;

/// What a log held when it was opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// The log was created just now.
    pub fresh: bool,
    /// What it was created with.
    pub metadata: Bytes,
    /// The recorded snapshots that the entries go on from, ascending by index.
    pub snapshots: Vec<SnapshotMetadata>,
    /// The last one that was durable.
    pub hard_state: HardState,
    /// The index of the first entry that is held, or would be: everything before it is purged, or replaced by a
    /// snapshot.
    pub first_index: u64,
    entries: entries::Found,
    /// For messages.
    dir: PathBuf,
    /// What is passed over at the end, because a crash left it half written.
    pub torn: Option<Torn>,
}

impl Recovered {
    /// The entries after an index, in order and without gaps: all that follow it. Ask with the index of the snapshot that
    /// was chosen, or 0. An error if the very next one is not held, or if the log does not reach the index: the entries
    /// then do not go on from there, and whoever took them for doing so would leave some out.
    pub fn entries(&self, after_index: u64) -> Result<HeldEntries<'_>, WalError> {
        let skip = after_index.checked_add(1).and_then(|next| next.checked_sub(self.first_index));
        let rest = skip.and_then(|skip| HeldEntries::of(&self.entries, &self.dir, usize::try_from(skip).ok()?));
        rest.ok_or_else(|| {
            let last = self.first_index.saturating_sub(1).saturating_add(self.entries.len() as u64);
            let what = format!(
                "what follows entry {after_index} was asked for, but it begins with entry {} and ends with entry {last}",
                self.first_index
            );
            WalError::Missing { dir: self.dir.clone(), what }
        })
    }

    /// All entries that are held, from `first_index` on, whatever goes before them.
    pub fn held_entries(&self) -> HeldEntries<'_> {
        HeldEntries::all(&self.entries, &self.dir)
    }

    /// Whether a snapshot is needed to make sense of the entries: the log does not begin at entry 1 (any more).
    pub fn needs_snapshot(&self) -> bool {
        self.first_index > 1
    }
}

/// Bytes at the end of the log that were never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub file: PathBuf,
    /// Where they began (bytes from its start).
    pub offset: u64,
    /// How far they reached.
    pub len_bytes: u64,
}

impl std::fmt::Display for Torn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} bytes from offset {} were being written when the node stopped; they had not been acknowledged and are \
             dropped",
            self.file.display(),
            self.len_bytes,
            self.offset
        )
    }
}
