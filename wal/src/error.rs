//! What can go wrong, said so that the person who reads it knows what happened, where, and what to do next.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Everything that the log or the snapshot files can answer instead of doing what was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum WalError {
    /// The operating system refused something; nothing was acknowledged.
    Io {
        /// What was being done, as in "cannot … FILE".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk has no room for the next segment. Nothing was written, the log is whole and may be used again once
    /// there is room.
    NoSpace {
        /// The file that could not be allocated.
        path: PathBuf,
        /// Its length in bytes.
        needed_bytes: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process, or another handle of this one, has the directory.
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// An earlier sync failed. Nobody can know what the disk holds now, so this handle does nothing more.
    Poisoned {
        /// The first failure.
        cause: String,
    },
    /// Bytes that had been acknowledged are not what was written, or the files contradict each other.
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it (bytes from its start).
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The disk fails to read a place in a segment. What stands there is not known, so nothing is decided.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Where in it (bytes from its start).
        offset: u64,
        /// The system's reason.
        what: String,
    },
    /// Entries are needed that no file in the directory holds.
    Missing {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        what: String,
    },
    /// The file was written in a format that this version does not read.
    OtherVersion {
        /// The file.
        file: PathBuf,
        /// The version that it states.
        found: u32,
        /// The version that this code reads.
        known: u32,
    },
    /// The log belongs to another node or another cluster than the caller's.
    MetadataMismatch {
        /// The directory.
        dir: PathBuf,
        /// What the log was created with.
        found: Vec<u8>,
        /// What the caller expected.
        expected: Vec<u8>,
    },
    /// The caller asked for something that would make the log contradict itself. Nothing was written.
    Refused {
        /// Why.
        what: String,
    },
}

impl WalError {
    /// Whether the node has to stop. Not for want of room, and not when the log has refused something: nothing was written
    /// then, and the handle can be used as before.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, WalError::NoSpace { .. } | WalError::Refused { .. })
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        WalError::Io { action, path: path.into(), source }
    }

    pub(crate) fn refused(what: impl Into<String>) -> Self {
        WalError::Refused { what: what.into() }
    }

    /// `ENOSPC` and `EDQUOT`, by their portable names.
    pub(crate) fn is_no_space(source: &io::Error) -> bool {
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalError::Io { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
            WalError::NoSpace { path, needed_bytes, source } => write!(
                f,
                "no room for the next log segment {} ({needed_bytes} bytes): {source}; nothing is lost, free some space \
                 and try again",
                path.display()
            ),
            WalError::InUse { dir } => write!(
                f,
                "the log directory {} is in use: stop the other node that has it, or choose another directory",
                dir.display()
            ),
            WalError::Poisoned { cause } => write!(
                f,
                "the log stopped at an earlier failure ({cause}): what the disk holds is unknown until it is opened \
                 again; restart the node"
            ),
            WalError::Damaged { file, offset, what } => write!(
                f,
                "{} is damaged at offset {offset}: {what}; acknowledged data may be gone, so the log is left as it is: \
                 restore the file, or let this node rejoin the cluster under a new id with an empty directory \
                 (`wal verify` shows what can be read)",
                file.display()
            ),
            WalError::Unreadable { file, offset, what } => write!(
                f,
                "{} cannot be read at offset {offset}: {what}; the disk fails there, so the log is left as it is: restore \
                 the file on a sound disk, or let this node rejoin the cluster under a new id with an empty directory \
                 (`wal dump` shows what can be read)",
                file.display()
            ),
            WalError::Missing { dir, what } => write!(
                f,
                "the log in {} is incomplete: {what}; bring the missing file back, or let this node rejoin the cluster \
                 under a new id with an empty directory",
                dir.display()
            ),
            WalError::OtherVersion { file, found, known } => write!(
                f,
                "{} is written in log format version {found}, this program reads version {known}: use the program that \
                 wrote it, or one that converts it",
                file.display()
            ),
            WalError::MetadataMismatch { dir, found, expected } => write!(
                f,
                "the log in {} belongs to another node: it was created for {}, this node is {}; choose the right \
                 directory",
                dir.display(),
                printable(found),
                printable(expected)
            ),
            WalError::Refused { what } => write!(f, "the log refuses this: {what}; nothing was written"),
        }
    }
}

/// Text as text, anything else in hexadecimal.
fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => format!("\"{text}\""),
        _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

impl std::error::Error for WalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WalError::Io { source, .. } | WalError::NoSpace { source, .. } => Some(source),
            _ => None,
        }
    }
}
