//! What a state does not show and the invariants need: who led, who voted for whom, what was committed when.
//!
//! It is part of the state: two ways to the same nodes and messages whose pasts differ in what was promised are two
//! states.

use std::collections::BTreeMap;

use super::state::Mark;

/// A committed entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Committed {
    pub(super) mark: Mark,
    /// A term in which it was known to be committed; no earlier one is known.
    pub(super) known_in: u64,
    /// Everything up to here, applied: [`chain`] over all entries.
    pub(super) chain: u64,
}

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct History {
    /// Term → who led in it.
    pub(super) leaders: BTreeMap<u64, u64>,
    /// (voter, term) → whom it voted for, durably or in a message.
    pub(super) votes: BTreeMap<(u64, u64), u64>,
    /// `committed[i]` is the entry of index `i + 1`.
    pub(super) committed: Vec<Committed>,
    /// Index of a configuration change → the configuration that it led to, hashed.
    pub(super) configurations: BTreeMap<u64, u64>,
    /// Number of a read → how much was committed when it was asked for.
    pub(super) reads: BTreeMap<u64, u64>,
}

impl History {
    pub(super) fn committed_at(&self, index: u64) -> Option<&Committed> {
        self.committed.get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    /// The state of an application that applied everything up to `index`.
    pub(super) fn chain_at(&self, index: u64) -> Option<u64> {
        if index == 0 {
            return Some(0);
        }
        self.committed_at(index).map(|committed| committed.chain)
    }
}

/// The state of an application after one more entry.
pub(super) fn chain(before: u64, mark: &Mark) -> u64 {
    super::state::digest_of(&(before, mark))
}
