//! What comes back after a crash is what was there before: everything that was acknowledged as durable, and of what was
//! being written a beginning, in the order of writing, whole writes only. Raft paper §5.1 and figure 2 (persistent
//! state); the contract of crate `wal`.
//!
//! The model is the sequence of writes. It is told of each write before the log is, and of each sync that succeeded.

use raft_core::pb::{Entry, HardState};

use super::{ensure, Violation};
use crate::sim::shadow::{Mark, Shadow};

const NAME: &str = "recovery";

/// A write.
#[derive(Clone, Debug)]
pub enum Write {
    /// Entries and hard state in one batch.
    Save(Option<HardState>, Vec<(u64, Mark)>),
    /// The record of a snapshot: (index, term).
    Snapshot(u64, u64),
}

/// What a disk holds, as far as the log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// The entries.
    pub log: Shadow,
}

impl Held {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Save(hard_state, entries) => {
                for (index, mark) in entries {
                    self.log.put(*index, *mark);
                }
                if let Some(hard_state) = hard_state {
                    self.hard_state = *hard_state;
                }
            }
            Write::Snapshot(index, term) => {
                if self.log.term(*index) != Some(*term) {
                    self.log.reset(*index, *term);
                }
                if *term > self.hard_state.term {
                    (self.hard_state.term, self.hard_state.vote) = (*term, 0);
                }
                self.hard_state.commit = self.hard_state.commit.max(*index);
            }
        }
    }

    fn is(&self, hard_state: &HardState, first: u64, entries: &[Entry]) -> bool {
        let last = entries.last().map_or(first.saturating_sub(1), |entry| entry.index);
        self.hard_state == *hard_state
            && self.log.last() == last
            && first > self.log.base().0
            && entries.iter().all(|entry| self.log.get(entry.index) == Some(Mark::of(entry)))
    }
}

/// One disk's.
#[derive(Debug, Default)]
pub struct Recovery {
    /// What no crash can take.
    durable: Held,
    /// Writes that were begun since the last sync, in order.
    pending: Vec<Write>,
}

/// How a recovery compares with what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survived {
    /// Writes that had not been synced, and are there.
    pub kept: usize,
    /// Writes that had not been synced, and are gone.
    pub lost: usize,
}

impl Recovery {
    /// What no crash can take.
    pub fn durable(&self) -> &Held {
        &self.durable
    }

    /// A write begins.
    pub fn writes(&mut self, write: Write) {
        self.pending.push(write);
    }

    /// Everything written so far was synced.
    pub fn synced(&mut self) {
        for write in std::mem::take(&mut self.pending) {
            self.durable.apply(&write);
        }
    }

    /// This came back. If `nothing_lost`, all of it must be there.
    pub fn recovered(
        &mut self,
        id: u64,
        hard_state: &HardState,
        first: u64,
        entries: &[Entry],
        nothing_lost: bool,
    ) -> Result<Survived, Violation> {
        let mut held = self.durable.clone();
        let mut matching = None;
        for kept in 0..=self.pending.len() {
            if kept > 0 {
                held.apply(&self.pending[kept - 1]);
            }
            let enough = !nothing_lost || kept == self.pending.len();
            if enough && held.is(hard_state, first, entries) {
                // Of equal ones, the latest: a write may have changed nothing.
                matching = Some((kept, held.clone()));
            }
        }
        let Some((kept, held)) = matching else {
            let last = entries.last().map(|entry| (entry.index, entry.term));
            let what = || {
                format!(
                    "node {id} comes back with {hard_state:?}, a log from {first} to {last:?}; durable were {:?} and a log \
                     from {:?} to {}, then came {:?}",
                    self.durable.hard_state,
                    self.durable.log.base(),
                    self.durable.log.last(),
                    self.pending
                )
            };
            return ensure(NAME, false, what).map(|()| Survived { kept: 0, lost: 0 });
        };
        let lost = self.pending.len() - kept;
        self.durable = held;
        self.pending.clear();
        Ok(Survived { kept, lost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    fn save(hard_state: HardState, entries: &[Entry]) -> Write {
        Write::Save(Some(hard_state), entries.iter().map(|entry| (entry.index, Mark::of(entry))).collect())
    }

    #[test]
    fn what_was_lost_or_made_up_is_found() {
        let (early, late) = (HardState { term: 1, vote: 2, commit: 0 }, HardState { term: 1, vote: 2, commit: 2 });
        let start = || {
            let mut recovery = Recovery::default();
            recovery.writes(save(early, &[entry(1, 1), entry(2, 1)]));
            recovery.synced();
            recovery.writes(save(late, &[entry(3, 1)]));
            recovery
        };
        let (two, three) = ([entry(1, 1), entry(2, 1)], [entry(1, 1), entry(2, 1), entry(3, 1)]);
        let back = |state: &HardState, first, entries: &[Entry], all| start().recovered(1, state, first, entries, all);
        assert_eq!(back(&early, 1, &two, false), Ok(Survived { kept: 0, lost: 1 }));
        assert_eq!(back(&late, 1, &three, false), Ok(Survived { kept: 1, lost: 0 }));
        assert_eq!(back(&late, 2, &three[1..], false), Ok(Survived { kept: 1, lost: 0 }), "purged at its beginning");
        assert!(back(&early, 1, &two, true).is_err(), "a kill loses nothing");
        assert!(back(&early, 1, &two[..1], false).is_err(), "a durable entry is gone");
        assert!(back(&HardState::default(), 1, &two, false).is_err(), "the vote is gone");
        assert!(back(&late, 1, &two, false).is_err(), "half a write");
        assert!(back(&early, 1, &[entry(1, 1), entry(2, 2)], false).is_err(), "another entry");
    }

    #[test]
    fn a_snapshot_replaces_what_contradicts_it() {
        let mut recovery = Recovery::default();
        recovery.writes(save(HardState { term: 1, vote: 2, commit: 0 }, &[entry(1, 1), entry(2, 1)]));
        recovery.writes(Write::Snapshot(9, 3));
        recovery.synced();
        let state = HardState { term: 3, vote: 0, commit: 9 };
        assert_eq!(recovery.recovered(1, &state, 10, &[], true), Ok(Survived { kept: 0, lost: 0 }));
        assert!(recovery.recovered(1, &state, 2, &[entry(2, 1)], true).is_err());
    }
}
