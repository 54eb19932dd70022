//! A log as the checks remember it: the term and a digest of each entry, nothing more.
//!
//! Two of these stand beside each node: what Raft believes, and what its disk must still hold after a crash. Entries
//! below a snapshot that was sent by a leader are not there.
//!
//! Left out: payloads. Two entries with the same digest are taken for the same.

use raft_core::pb::Entry;

/// A fast digest of some numbers. Not meant to withstand anybody.
#[must_use]
pub fn fold(digest: u64, number: u64) -> u64 {
    (digest ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// The same of bytes.
#[must_use]
pub fn fold_bytes(mut digest: u64, bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        digest = fold(digest, chunk.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
    }
    let rest = chunks.remainder().iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    fold(fold(digest, rest), bytes.len() as u64)
}

/// What is remembered of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its term.
    pub term: u64,
    /// A digest of its type and data.
    pub digest: u64,
}

impl Mark {
    /// Of this entry.
    pub fn of(entry: &Entry) -> Mark {
        Mark { term: entry.term, digest: fold_bytes(fold(0, entry.entry_type as u64), &entry.data) }
    }
}

/// A log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    /// The position just before the first entry: (index, term).
    base: (u64, u64),
    entries: Vec<Mark>,
}

impl Shadow {
    /// The index of the last entry, or of the snapshot in its place.
    pub fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    /// The index and term before the first entry.
    pub fn base(&self) -> (u64, u64) {
        self.base
    }

    /// What is at the index.
    pub fn get(&self, index: u64) -> Option<Mark> {
        let position = index.checked_sub(self.base.0 + 1)?;
        self.entries.get(usize::try_from(position).ok()?).copied()
    }

    /// The term at the index; also just before the first entry.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        self.get(index).map(|mark| mark.term)
    }

    /// Puts the entry at its place and drops what follows. `false` if it would leave a gap.
    pub fn put(&mut self, index: u64, mark: Mark) -> bool {
        match index.checked_sub(self.base.0 + 1) {
            Some(position) if position <= self.entries.len() as u64 => {
                self.entries.truncate(position as usize);
                self.entries.push(mark);
                true
            }
            _ => false,
        }
    }

    /// A snapshot takes the place of everything.
    pub fn reset(&mut self, index: u64, term: u64) {
        *self = Shadow { base: (index, term), entries: Vec::new() };
    }
}
