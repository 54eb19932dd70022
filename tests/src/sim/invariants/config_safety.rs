//! Configurations change safely: one change is under way at a time, consecutive configurations have overlapping quorums,
//! every node that has applied an index is in the same configuration, and works under it and no later one. Raft paper §6;
//! thesis §4.1 (one at a time) and §4.3 (joint); etcd `raft.go`, pendingConfIndex and applyConfChange, and
//! `confchange/confchange.go`.
//!
//! The invariants that count votes or copies take the quorums from the node that they look at. That it has those
//! of what it has applied is what is found here; that the core computes the right ones from a change is not: etcd's own
//! scripts hold that (`tests/datadriven.rs`).

use std::collections::BTreeMap;

use raft_core::pb::ConfState;

use super::{ensure, Verdict};

const NAME: &str = "config safety";

/// See the module.
#[derive(Debug, Default)]
pub struct ConfigSafety {
    /// Founders' entries have an effect only on those who were not there from the start.
    decreed: u64,
    /// index of a change → the configuration that it led to.
    known: BTreeMap<u64, ConfState>,
}

impl ConfigSafety {
    /// The first `decreed` entries found the cluster.
    pub fn new(decreed: u64) -> Self {
        ConfigSafety { decreed, known: BTreeMap::new() }
    }

    /// The configuration as of the newest change that anybody applied.
    pub fn newest(&self) -> Option<&ConfState> {
        self.known.last_key_value().map(|(_, state)| state)
    }

    /// How many changes came into force or were passed over.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// A node is in this configuration after it applied the change at `index`, or passed it over.
    pub fn applied(&mut self, id: u64, index: u64, now: &ConfState) -> Verdict {
        if index < self.decreed {
            return Ok(());
        }
        if let Some(known) = self.known.get(&index) {
            return ensure(NAME, known == now, || {
                format!("after {index}, node {id} is in configuration {now:?}, others are in {known:?}")
            });
        }
        let before = self.known.range(..index).next_back().map(|(_, state)| state);
        let follows = before.is_none_or(|before| follows(before, now));
        ensure(NAME, follows, || format!("at {index}, node {id} goes from configuration {before:?} to {now:?}"))?;
        self.known.insert(index, now.clone());
        Ok(())
    }
}

/// A leader that has applied up to `applied` appends a change at `index`, while the changes in its log stand at
/// `earlier`.
pub fn check_pending(leader: u64, index: u64, applied: u64, earlier: impl IntoIterator<Item = u64>) -> Verdict {
    let pending = earlier.into_iter().find(|other| *other < index && *other > applied);
    ensure(NAME, pending.is_none(), || {
        format!(
            "leader {leader} appends a change at {index}; the one at {pending:?} is not applied (applied is {applied})"
        )
    })
}

/// A node works under the configuration `in_force`, and what it has applied led to `applied`.
pub fn check_in_force(id: u64, in_force: &ConfState, applied: &ConfState) -> Verdict {
    ensure(NAME, in_force == applied, || {
        format!("node {id} works under configuration {in_force:?}; what it has applied led to {applied:?}")
    })
}

fn sorted(ids: &[u64]) -> Vec<u64> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

/// Whether the second configuration may come right after the first one.
fn follows(before: &ConfState, now: &ConfState) -> bool {
    let (old, new) = (sorted(&before.voters), sorted(&now.voters));
    let (was_joint, is_joint) = (!before.voters_outgoing.is_empty(), !now.voters_outgoing.is_empty());
    let learners_vote = now.learners.iter().any(|id| new.contains(id) || now.voters_outgoing.contains(id));
    let difference =
        old.iter().filter(|id| !new.contains(id)).count() + new.iter().filter(|id| !old.contains(id)).count();
    !new.is_empty()
        && !learners_vote
        && match (was_joint, is_joint) {
            // One voter at most; any number of learners.
            (false, false) => difference <= 1,
            // The old voters are the outgoing half.
            (false, true) => sorted(&now.voters_outgoing) == old,
            // Only the outgoing half goes; who was to become a learner is one.
            (true, false) => {
                let learners = [&before.learners[..], &before.learners_next[..]].concat();
                difference == 0 && sorted(&now.learners) == sorted(&learners) && now.learners_next.is_empty()
            }
            // Nothing may happen inside.
            (true, true) => before == now,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(voters: &[u64], outgoing: &[u64], learners: &[u64]) -> ConfState {
        ConfState {
            voters: voters.to_vec(),
            voters_outgoing: outgoing.to_vec(),
            learners: learners.to_vec(),
            ..ConfState::default()
        }
    }

    #[test]
    fn steps_without_overlap_are_found() {
        let steps = |states: &[ConfState]| {
            let mut safety = ConfigSafety::new(1);
            (2..).zip(states).try_for_each(|(index, state)| safety.applied(1, index, state))
        };
        assert_eq!(steps(&[state(&[1, 2, 3], &[], &[]), state(&[1, 2], &[], &[3, 4])]), Ok(()));
        assert!(steps(&[state(&[1, 2, 3], &[], &[]), state(&[1, 4, 5], &[], &[])]).is_err(), "two at once");
        assert_eq!(
            steps(&[state(&[1, 2, 3], &[], &[]), state(&[4, 5], &[1, 2, 3], &[6]), state(&[5, 4], &[], &[6])]),
            Ok(())
        );
        let demotes = ConfState { learners_next: vec![1], ..state(&[4, 5], &[1, 2], &[6]) };
        assert_eq!(steps(&[demotes.clone(), state(&[4, 5], &[], &[1, 6])]), Ok(()));
        assert!(steps(&[demotes, state(&[4, 5], &[], &[6])]).is_err(), "a voter that was to be a learner is gone");
        assert!(steps(&[state(&[1, 2, 3], &[], &[]), state(&[4, 5], &[1, 2], &[])]).is_err(), "another outgoing half");
        assert!(steps(&[state(&[4, 5], &[1, 2], &[]), state(&[4], &[], &[])]).is_err(), "leaving changes the voters");
        assert!(steps(&[state(&[4, 5], &[1, 2], &[]), state(&[4, 6], &[1, 2], &[])]).is_err(), "a change inside");
        assert!(steps(&[state(&[1, 2], &[], &[]), state(&[1], &[], &[1])]).is_err(), "a learner that votes");
        assert!(steps(&[state(&[1], &[], &[]), state(&[], &[], &[])]).is_err(), "nobody");
    }

    #[test]
    fn nodes_that_differ_are_found() {
        let mut safety = ConfigSafety::new(3);
        assert_eq!(safety.applied(1, 2, &state(&[1, 2, 3], &[], &[])), Ok(()));
        assert_eq!(safety.applied(2, 2, &state(&[1, 2], &[], &[])), Ok(()), "founders' entries");
        assert_eq!(safety.applied(1, 5, &state(&[1, 2, 3], &[], &[])), Ok(()));
        assert!(safety.applied(2, 5, &state(&[1, 2], &[], &[])).is_err());
    }

    #[test]
    fn a_change_that_is_in_force_too_early_is_found() {
        let (joint, left) = (state(&[4, 5], &[1, 2], &[]), state(&[4, 5], &[], &[]));
        assert_eq!(check_in_force(1, &joint, &joint), Ok(()));
        assert!(check_in_force(1, &left, &joint).is_err());
        assert!(check_in_force(1, &joint, &state(&[1, 2], &[], &[])).is_err());
    }

    #[test]
    fn a_second_change_under_way_is_found() {
        assert_eq!(check_pending(1, 9, 7, [3, 7, 9]), Ok(()));
        assert!(check_pending(1, 9, 7, [3, 8, 9]).is_err());
    }
}
