//! Is what clients saw possible on one machine that does one thing at a time?
//!
//! A history is linearizable if every operation can be given one moment between its call and its answer such that, done in
//! the order of these moments, each read finds what the last write before it left. That is what our API promises for
//! `PUT`, `DELETE` and plain `GET`, whatever happens to nodes meanwhile, and it can be checked from outside, without any
//! knowledge of terms and logs.
//!
//! The search ([`search`]) is Wing's and Gong's (1993): among the operations that had been called before the first open one
//! was answered, try each as the next one, and go back when nothing fits. Lowe (2016) adds a memory of the situations that
//! have led nowhere. A history is linearizable if it is for each key alone (Herlihy and Wing 1990), so keys are checked one
//! by one, which is what makes long histories cheap (Horn and Kroening 2015; Porcupine does the same).
//!
//! **What was not answered** may have been done at any time after the call, or never, and never and at the very end are the
//! same. Reads without an answer say nothing and are not recorded; writes that were refused with the promise that nothing
//! was done are not recorded either, so that a read that finds one is an error.
//!
//! When a history is impossible, [`shrink`] takes away what is not needed for that, and [`text`] draws the rest. [`text`]
//! also keeps histories in files.
//!
//! Left out: operations on several keys, conditional writes, and clocks that differ: all clients of one history read the
//! same monotonic clock.

pub mod search;
pub mod shrink;
pub mod text;

use std::collections::{BTreeMap, BTreeSet};

/// What a client asked for and, for a read, what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// The key holds this value now.
    Put(u64),
    /// The key holds nothing now.
    Delete,
    /// The key was found to hold this.
    Get(Option<u64>),
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked; for people only.
    pub client: u32,
    /// On which key.
    pub key: String,
    /// Before the request was sent, by the history's clock.
    pub called_ns: u64,
    /// After the answer came; `None` if it was not known what became of it. `called_ns` ≤ `answered_ns`.
    pub answered_ns: Option<u64>,
    /// What.
    pub action: Action,
}

impl Operation {
    /// Whether it was over before the other was called.
    pub fn precedes(&self, other: &Operation) -> bool {
        self.answered_ns.is_some_and(|answered| answered < other.called_ns)
    }
}

/// A history that no single machine can have produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The operations on one key that contradict each other; without any of them, or any value with its reads, the rest
    /// would be possible.
    pub contradiction: Vec<Operation>,
}

/// Checks a history, key by key. The order of the operations in the list means nothing.
///
/// # Errors
/// The first key's contradiction, by name.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    let mut keys: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation.clone());
    }
    match keys.into_values().find(|operations| !is_possible(operations)) {
        Some(operations) => Err(Violation { contradiction: shrink::shrink(operations, is_possible) }),
        None => Ok(()),
    }
}

/// Whether operations on one key are linearizable.
fn is_possible(operations: &[Operation]) -> bool {
    search::is_linearizable(&settle(operations))
}

/// Says more about the writes of unknown outcome, each of which would else be tried at every moment until the end.
///
/// If every value was written by one write only, then a value that no read has found may as well never have been written:
/// an order that holds the write stays right without it. And a value that was found was written before the first of its
/// readers had its answer.
fn settle(operations: &[Operation]) -> Vec<Operation> {
    let mut written = BTreeSet::new();
    let unique = operations.iter().all(|operation| match operation.action {
        Action::Put(value) => written.insert(value),
        _ => true,
    });
    if !unique {
        return operations.to_vec();
    }
    let mut first_found: BTreeMap<u64, u64> = BTreeMap::new();
    for operation in operations {
        if let (Action::Get(Some(value)), Some(answered)) = (operation.action, operation.answered_ns) {
            let first = first_found.entry(value).or_insert(answered);
            *first = answered.min(*first);
        }
    }
    let settled = operations.iter().filter_map(|operation| {
        let mut operation = operation.clone();
        if let (Action::Put(value), None) = (operation.action, operation.answered_ns) {
            // A reader that was answered before the call: let the search find that out.
            let found = (*first_found.get(&value)?).max(operation.called_ns);
            operation.answered_ns = Some(found);
        }
        Some(operation)
    });
    settled.collect()
}

#[cfg(test)]
mod tests;
