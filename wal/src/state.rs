//! What the log says, as far as it has been written or read: the same rules for the writer and for recovery.
//!
//! Both feed every record of every batch into a [`LogState`], so what a writer believes and what a later recovery
//! concludes cannot drift apart. The writer asks first ([`LogState::check`]) and refuses what would contradict the log;
//! recovery finds the same contradiction in a record with a right checksum and calls it damage.
//!
//! Invariants: `base.index ≤ last_index()`; `hard_state.commit ≤ last_index()`; every snapshot's index ≤ commit; terms
//! of entries never go down from one index to the next; what is at or below commit is never replaced.

use bytes::Bytes;
use prost::Message as _;
use raft_core::pb::{ConfState, Entry, HardState, SnapshotMetadata};

use crate::entries::Found;
use crate::format::{RecordKind, RecordView, SNAPSHOT_REPEATED, SNAPSHOT_RESET, SNAPSHOT_TAKEN};
use crate::recovery::Image;

/// How many recorded snapshots a new segment repeats at most: more than any sensible number of kept snapshot files.
pub(crate) const MAX_REPEATED_SNAPSHOTS: usize = 16;

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Position {
    pub(crate) index: u64,
    /// `None`: the entry there is gone and no snapshot says its term.
    pub(crate) term: Option<u64>,
}

/// The log without its payloads.
#[derive(Clone, Debug)]
pub(crate) struct LogState {
    pub(crate) metadata: Option<Bytes>,
    pub(crate) hard_state: HardState,
    /// The last index that is *not* held any more (0: nothing was dropped).
    pub(crate) base: Position,
    /// Where each term begins among the held entries: strictly ascending indexes, all > base.
    terms: Vec<(u64, u64)>,
    last: u64,
    /// Recorded snapshots from which the held entries go on, ascending by index.
    pub(crate) snapshots: Vec<SnapshotMetadata>,
}

impl LogState {
    /// A log that begins after `base_index`.
    pub(crate) fn new(base_index: u64) -> Self {
        let term = (base_index == 0).then_some(0);
        LogState {
            metadata: None,
            hard_state: HardState::default(),
            base: Position { index: base_index, term },
            terms: Vec::new(),
            last: base_index,
            snapshots: Vec::new(),
        }
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.last
    }

    /// The term at an index; `None` beyond what is held.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return self.base.term.or_else(|| self.recorded(index).map(|snapshot| snapshot.term));
        }
        if index < self.base.index || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|(start, _)| *start <= index).checked_sub(1)?;
        self.terms.get(run).map(|(_, term)| *term)
    }

    fn recorded(&self, index: u64) -> Option<&SnapshotMetadata> {
        self.snapshots.iter().rev().find(|snapshot| snapshot.index == index)
    }

    /// Whether the entry at this (term, index) may come next; says why not.
    fn check_entry(&self, term: u64, index: u64) -> Result<(), String> {
        if index == 0 || term == 0 {
            return Err(format!("an entry with index {index} and term {term} (both start at 1)"));
        }
        check_room(index)?;
        if index <= self.hard_state.commit {
            return Err(format!("entry {index} would replace a committed one (commit is {})", self.hard_state.commit));
        }
        if index > self.last.saturating_add(1) {
            return Err(format!("entry {index} leaves a gap, the log ends at {}", self.last));
        }
        match self.term(index - 1) {
            Some(before) if before > term => {
                Err(format!("entry {index} has term {term}, the one before it has the higher term {before}"))
            }
            _ => Ok(()),
        }
    }

    fn push_entry(&mut self, term: u64, index: u64) {
        if index <= self.base.index {
            // The log went on from a place whose entries are purged: what is dropped here was covered by a snapshot.
            self.base = Position { index: index - 1, term: None };
            self.terms.clear();
        }
        let keep = self.terms.partition_point(|(start, _)| *start < index);
        self.terms.truncate(keep);
        if self.terms.last().is_none_or(|(_, last)| *last != term) {
            self.terms.push((index, term));
        }
        self.last = index;
    }

    /// `last` is the index of the last entry at the time that the state is to hold.
    fn check_hard_state(&self, state: &HardState, last: u64) -> Result<(), String> {
        let now = &self.hard_state;
        if state.term < now.term {
            return Err(format!("the term would go back from {} to {}", now.term, state.term));
        }
        if state.term == now.term && now.vote != 0 && state.vote != now.vote {
            return Err(format!("the vote of term {} would change from {} to {}", now.term, now.vote, state.vote));
        }
        if state.commit < now.commit {
            return Err(format!("commit would go back from {} to {}", now.commit, state.commit));
        }
        if state.commit > last {
            return Err(format!("commit {} is beyond the last entry {last}", state.commit));
        }
        Ok(())
    }

    /// What a snapshot record for this position must say, or why there can be none.
    pub(crate) fn classify_snapshot(&self, index: u64, term: u64) -> Result<i32, String> {
        if index == 0 || term == 0 {
            return Err(format!("a snapshot with index {index} and term {term} (both start at 1)"));
        }
        check_room(index)?;
        if index < self.base.index {
            return Err(format!(
                "a snapshot at {index}, but the log has already dropped its entries up to {}",
                self.base.index
            ));
        }
        if self.term(index) == Some(term) || (index == self.base.index && self.base.term.is_none()) {
            return Ok(SNAPSHOT_TAKEN);
        }
        if index <= self.hard_state.commit {
            return Err(format!(
                "a snapshot at {index} of term {term}, but the committed entry there has term {:?}",
                self.term(index)
            ));
        }
        Ok(SNAPSHOT_RESET)
    }

    /// Checks a whole batch of the caller's before anything is written.
    pub(crate) fn check(&self, hard_state: Option<&HardState>, entries: &[Entry]) -> Result<(), String> {
        let mut last = self.last;
        if let Some(first) = entries.first() {
            self.check_entry(first.term, first.index)?;
            last = first.index;
        }
        for (before, entry) in entries.iter().zip(entries.iter().skip(1)) {
            if Some(entry.index) != before.index.checked_add(1) || entry.term < before.term {
                return Err(format!(
                    "entry {} of term {} cannot follow entry {} of term {}",
                    entry.index, entry.term, before.index, before.term
                ));
            }
            check_room(entry.index)?;
            last = entry.index;
        }
        hard_state.map_or(Ok(()), |state| self.check_hard_state(state, last))
    }

    /// Takes one record in. The error says how it contradicts what came before it. Returns what happened to the
    /// entries.
    pub(crate) fn apply(&mut self, record: &RecordView<'_>) -> Result<Effect, String> {
        match record.kind {
            RecordKind::Metadata => {
                match &self.metadata {
                    Some(known) if *known != record.payload => {
                        return Err("metadata differs from the first segment's".into())
                    }
                    Some(_) => {}
                    None => self.metadata = Some(Bytes::copy_from_slice(record.payload)),
                }
                Ok(Effect::None)
            }
            RecordKind::Entry => {
                self.check_entry(record.term, record.index)?;
                self.push_entry(record.term, record.index);
                Ok(Effect::Entry)
            }
            RecordKind::State => {
                let vote: [u8; 8] = record.payload.try_into().map_err(|_| "a state record without a vote")?;
                let state = HardState { term: record.term, vote: u64::from_le_bytes(vote), commit: record.index };
                self.apply_hard_state(&state)?;
                Ok(Effect::None)
            }
            RecordKind::Snapshot => {
                let conf_state = ConfState::decode(record.payload)
                    .map_err(|error| format!("a snapshot record whose configuration cannot be decoded ({error})"))?;
                let metadata = SnapshotMetadata { conf_state, index: record.index, term: record.term };
                self.apply_snapshot(record.detail, metadata)
            }
            // Checked where segments meet, see recovery.
            RecordKind::Chain => Ok(Effect::None),
        }
    }

    pub(crate) fn apply_hard_state(&mut self, state: &HardState) -> Result<(), String> {
        self.check_hard_state(state, self.last)?;
        self.hard_state = *state;
        Ok(())
    }

    pub(crate) fn apply_entry(&mut self, term: u64, index: u64) {
        self.push_entry(term, index);
    }

    pub(crate) fn apply_snapshot(&mut self, detail: i32, metadata: SnapshotMetadata) -> Result<Effect, String> {
        let (index, term) = (metadata.index, metadata.term);
        match detail {
            SNAPSHOT_REPEATED => {
                if self.recorded(index).is_none() {
                    self.insert_snapshot(metadata);
                }
                Ok(Effect::None)
            }
            // Of a time when more entries were held than in the segments that are left.
            SNAPSHOT_TAKEN if index < self.base.index => Ok(Effect::None),
            SNAPSHOT_TAKEN => {
                self.classify_snapshot(index, term).and_then(|detail| match detail {
                    SNAPSHOT_TAKEN => Ok(()),
                    _ => Err(format!("a snapshot at {index} of term {term} that the log does not reach")),
                })?;
                self.raise_to(index, term);
                self.insert_snapshot(metadata);
                Ok(Effect::None)
            }
            SNAPSHOT_RESET => {
                check_room(index)?;
                if index <= self.hard_state.commit {
                    return Err(format!("a reset to {index}, at or below commit {}", self.hard_state.commit));
                }
                self.base = Position { index, term: Some(term) };
                self.terms.clear();
                self.last = index;
                self.raise_to(index, term);
                self.snapshots.clear();
                self.snapshots.push(metadata);
                Ok(Effect::Reset)
            }
            other => Err(format!("a snapshot record of unknown sort {other}")),
        }
    }

    /// A snapshot holds committed entries only, so commit is at least its index and the term at least its term.
    fn raise_to(&mut self, index: u64, term: u64) {
        self.hard_state = raised(&self.hard_state, index, term);
    }

    fn insert_snapshot(&mut self, metadata: SnapshotMetadata) {
        self.snapshots.retain(|known| known.index != metadata.index);
        let at = self.snapshots.partition_point(|known| known.index < metadata.index);
        self.snapshots.insert(at, metadata);
        // The oldest are the first that nobody keeps a file of.
        if self.snapshots.len() > MAX_REPEATED_SNAPSHOTS {
            self.snapshots.remove(0);
        }
    }

    /// Forgets what lies at or below the end of purged segments.
    pub(crate) fn drop_through(&mut self, index: u64) {
        if index <= self.base.index || index > self.last {
            return;
        }
        let term = self.term(index);
        self.base = Position { index, term };
        let run = self.terms.partition_point(|(start, _)| *start <= index.saturating_add(1));
        if let Some(run) = run.checked_sub(1) {
            self.terms.drain(..run);
        }
        if let Some(first) = self.terms.first_mut() {
            first.0 = first.0.max(index.saturating_add(1));
        }
        if index == self.last {
            self.terms.clear();
        }
        self.snapshots.retain(|snapshot| snapshot.index >= index);
    }

    /// Whether the held entries go on from something that is known: the start of the log or a recorded snapshot.
    pub(crate) fn is_anchored(&self) -> bool {
        self.base.index == 0 || self.snapshots.iter().any(|snapshot| snapshot.index >= self.base.index)
    }
}

/// After every entry there must be room for another.
fn check_room(index: u64) -> Result<(), String> {
    match index {
        u64::MAX => Err(format!("index {index} is the highest there is, nothing could follow it")),
        _ => Ok(()),
    }
}

/// The hard state that a snapshot at this position implies.
pub(crate) fn raised(state: &HardState, index: u64, term: u64) -> HardState {
    let mut state = *state;
    if term > state.term {
        state.term = term;
        state.vote = 0;
    }
    state.commit = state.commit.max(index);
    state
}

/// What a record did to the entries before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// It is an entry; those at its index and after it are replaced.
    Entry,
    /// All entries are dropped.
    Reset,
}

/// Entries together with the state, as recovery builds them.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    pub(crate) state: LogState,
    /// Consecutive, the first one at `state.base.index + 1`.
    pub(crate) entries: Found,
}

impl Replay {
    pub(crate) fn new(base_index: u64) -> Self {
        Replay { state: LogState::new(base_index), entries: Found::default() }
    }

    /// Takes in a record of this segment, in which [`format::check_body`] has found it.
    pub(crate) fn apply(&mut self, segment: &Image, record: &RecordView<'_>) -> Result<(), String> {
        match self.state.apply(record)? {
            Effect::None => {}
            Effect::Reset => self.entries.truncate(0),
            Effect::Entry => {
                // The first entry of all says where they begin.
                let held = self.state.last_index() - self.state.base.index;
                self.entries.truncate(usize::try_from(held - 1).unwrap_or(usize::MAX));
                self.entries.push(segment, record);
            }
        }
        Ok(())
    }
}
