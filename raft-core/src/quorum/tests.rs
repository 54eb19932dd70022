use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn majority() -> impl Strategy<Value = MajorityConfig> {
    prop::collection::btree_set(1u64..12, 0..10).prop_map(|ids| ids.into_iter().collect())
}

fn acks() -> impl Strategy<Value = BTreeMap<u64, u64>> {
    prop::collection::btree_map(1u64..12, 0u64..8, 0..12)
}

fn votes() -> impl Strategy<Value = BTreeMap<u64, bool>> {
    prop::collection::btree_map(1u64..12, any::<bool>(), 0..12)
}

/// By definition: the largest index that more than half of the voters have reached.
fn naive_committed(config: &MajorityConfig, acked: &BTreeMap<u64, u64>) -> u64 {
    if config.is_empty() {
        return u64::MAX;
    }
    let reached = |index: u64| config.iter().filter(|id| acked.get(id).copied().unwrap_or(0) >= index).count();
    (0..=8).rev().find(|index| reached(*index) * 2 > config.len()).unwrap_or(0)
}

/// By definition: try all ways in which the open votes may still fall.
fn naive_vote(config: &MajorityConfig, votes: &BTreeMap<u64, bool>) -> VoteResult {
    let open: Vec<u64> = config.iter().filter(|id| !votes.contains_key(id)).collect();
    let granted = config.iter().filter(|id| votes.get(id) == Some(&true)).count();
    let wins = |more: usize| config.is_empty() || (granted + more) * 2 > config.len();
    let outcomes: Vec<bool> = (0..1u32 << open.len()).map(|fall| wins(fall.count_ones() as usize)).collect();
    match (outcomes.contains(&true), outcomes.contains(&false)) {
        (true, false) => VoteResult::Won,
        (false, _) => VoteResult::Lost,
        (true, true) => VoteResult::Pending,
    }
}

proptest! {
    #[test]
    fn committed_index_is_what_the_definition_says(config in majority(), acked in acks()) {
        prop_assert_eq!(config.committed_index(&acked), naive_committed(&config, &acked));
    }

    #[test]
    fn vote_result_is_what_the_definition_says(config in majority(), votes in votes()) {
        prop_assert_eq!(config.vote_result(|id| votes.get(&id).copied()), naive_vote(&config, &votes));
    }

    #[test]
    fn joint_needs_both_halves(a in majority(), b in majority(), acked in acks(), votes in votes()) {
        let vote = |id: u64| votes.get(&id).copied();
        let joint = JointConfig { incoming: a.clone(), outgoing: b.clone() };
        let swapped = JointConfig { incoming: b.clone(), outgoing: a.clone() };
        let expected = naive_committed(&a, &acked).min(naive_committed(&b, &acked));
        prop_assert_eq!(joint.committed_index(&acked), expected);
        prop_assert_eq!(swapped.committed_index(&acked), expected);
        prop_assert_eq!(joint.vote_result(vote), swapped.vote_result(vote));
        let won = naive_vote(&a, &votes) == VoteResult::Won && naive_vote(&b, &votes) == VoteResult::Won;
        prop_assert_eq!(joint.vote_result(vote) == VoteResult::Won, won);
        let lost = naive_vote(&a, &votes) == VoteResult::Lost || naive_vote(&b, &votes) == VoteResult::Lost;
        prop_assert_eq!(joint.vote_result(vote) == VoteResult::Lost, lost);
    }

    #[test]
    fn joint_with_nobody_or_with_itself_changes_nothing(a in majority(), acked in acks(), votes in votes()) {
        let vote = |id: u64| votes.get(&id).copied();
        for outgoing in [MajorityConfig::new(), a.clone()] {
            let joint = JointConfig { incoming: a.clone(), outgoing };
            prop_assert_eq!(joint.committed_index(&acked), a.committed_index(&acked));
            prop_assert_eq!(joint.vote_result(vote), a.vote_result(vote));
        }
    }

    #[test]
    fn id_set_agrees_with_a_tree(changes in prop::collection::vec((any::<bool>(), 0u64..20), 0..40)) {
        let mut set = IdSet::new();
        let mut model = std::collections::BTreeSet::new();
        for (add, id) in changes {
            if add {
                prop_assert_eq!(set.insert(id), model.insert(id));
            } else {
                prop_assert_eq!(set.remove(id), model.remove(&id));
            }
            prop_assert_eq!(set.contains(id), model.contains(&id));
            prop_assert!(set.iter().eq(model.iter().copied()));
        }
    }
}

#[test]
fn more_voters_than_fit_on_the_stack() {
    for count in 1..40u64 {
        let config: MajorityConfig = (1..=count).collect();
        let acked: BTreeMap<u64, u64> = (1..=count).map(|id| (id, id * 10)).collect();
        // The voters count, count-1, … form the quorum; its lowest member decides.
        assert_eq!(config.committed_index(&acked), (count - count / 2) * 10, "{count} voters");
    }
}

#[test]
fn describe_draws_equal_bars_for_equal_indexes() {
    let config = MajorityConfig::from([1, 2, 3, 0x1f]);
    let acked = BTreeMap::from([(1, 10), (2, 10), (0x1f, 7)]);
    let expected = "        idx\n\
                    xx>      10    (id=1)\n\
                    xx>      10    (id=2)\n\
                    ?         0    (id=3)\n\
                    x>        7    (id=1f)\n";
    assert_eq!(config.describe(&acked), expected);
    assert_eq!(MajorityConfig::new().describe(&acked), "<empty majority quorum>");
}

#[test]
fn prints() {
    assert_eq!(MajorityConfig::from([10, 2, 1]).to_string(), "(1 2 a)");
    assert_eq!(MajorityConfig::new().to_string(), "()");
    let mut joint = JointConfig::simple([1, 2].into());
    assert_eq!(joint.to_string(), "(1 2)");
    joint.outgoing = [17].into();
    assert_eq!(joint.to_string(), "(1 2)&&(11)");
    assert_eq!(describe_index(u64::MAX), "∞");
    assert_eq!(describe_index(7), "7");
}
