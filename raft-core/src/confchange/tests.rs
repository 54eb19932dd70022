use proptest::prelude::*;

use super::*;
use crate::pb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
};
use crate::tracker::{Config, ProgressMap, ProgressTracker};

fn empty() -> ProgressTracker {
    ProgressTracker::new(10, 0)
}

fn with((config, progress): Changed) -> ProgressTracker {
    ProgressTracker { config, progress, ..empty() }
}

fn change(words: &str) -> Vec<ConfChangeSingle> {
    parse_changes(words).unwrap()
}

fn simple(from: &ProgressTracker, words: &str) -> Result<ProgressTracker, ConfChangeError> {
    Changer::new(from, 10).simple(&change(words)).map(with)
}

/// A membership made by changes that are carried out for sure.
fn group(words: &str) -> ProgressTracker {
    words.split(' ').fold(empty(), |tracker, word| simple(&tracker, word).unwrap())
}

#[test]
fn refusals_say_why() {
    let three = group("v1 v2 v3");
    let changer = Changer::new(&three, 10);
    let refused = |result: Result<Changed, ConfChangeError>| result.unwrap_err().to_string();
    let two_voters = "more than one voter changed without entering joint config";
    assert_eq!(refused(changer.simple(&change("v4 v5"))), two_voters);
    assert_eq!(refused(changer.simple(&change("r1 v4"))), two_voters);
    assert_eq!(refused(changer.simple(&change("r1 r2 r3"))), "removed all voters");
    assert_eq!(refused(changer.leave_joint()), "can't leave a non-joint config");
    let odd = [ConfChangeSingle { change_type: 7, node_id: 1 }];
    assert_eq!(refused(changer.simple(&odd)), "unexpected conf type 7");
    let nobody = empty();
    let zero = Changer::new(&nobody, 0).enter_joint(false, &change("v1"));
    assert_eq!(refused(zero), "can't make a zero-voter config joint");
    let joint = with(changer.enter_joint(true, &change("v4")).unwrap());
    let changer = Changer::new(&joint, 10);
    assert_eq!(refused(changer.simple(&change("v5"))), "can't apply simple config change in joint config");
    assert_eq!(refused(changer.enter_joint(false, &change("v5"))), "config is already joint");
}

#[test]
fn a_demoted_voter_learns_only_after_the_joint_change() {
    let three = group("v1 v2 v3");
    let joint = with(Changer::new(&three, 10).enter_joint(false, &change("l3 v4 r2")).unwrap());
    assert_eq!(joint.config.to_string(), "voters=(1 4)&&(1 2 3) learners_next=(3)");
    assert!(!joint.progress.get(&3).unwrap().is_learner);
    assert!(joint.progress.contains_key(&2), "2 still votes in the outgoing half");
    let left = with(Changer::new(&joint, 10).leave_joint().unwrap());
    assert_eq!(left.config.to_string(), "voters=(1 4) learners=(3)");
    assert!(left.progress.get(&3).unwrap().is_learner);
    assert!(!left.progress.contains_key(&2));
}

#[test]
fn members_begin_at_the_end_of_the_log_and_active() {
    let one = with(Changer::new(&empty(), 0).simple(&change("v1")).unwrap());
    assert_eq!((one.progress.get(&1).unwrap().next_index, one.progress.get(&1).unwrap().match_index), (1, 0));
    let two = with(Changer::new(&one, 7).simple(&change("l2")).unwrap());
    assert_eq!(two.progress.get(&2).unwrap().next_index, 7);
    assert!(two.progress.get(&2).unwrap().recent_active && two.progress.get(&2).unwrap().is_learner);
    assert_eq!(two.progress.get(&1).unwrap().next_index, 1, "who is there already keeps its progress");
}

#[test]
fn a_broken_membership_is_not_changed_further() {
    let sound = group("v1 v2 l3");
    let broken = |damage: fn(&mut ProgressTracker)| {
        let mut tracker = sound.clone();
        damage(&mut tracker);
        Changer::new(&tracker, 10).simple(&[]).unwrap_err().to_string()
    };
    assert_eq!(
        broken(|t| {
            t.progress.remove(&2);
        }),
        "no progress for 2"
    );
    assert_eq!(
        broken(|t| {
            t.config.learners_next.insert(1);
        }),
        "1 is in LearnersNext, but not Voters[1]"
    );
    let joint_next = "3 is in LearnersNext, but is already marked as learner";
    assert_eq!(
        broken(|t| {
            t.config.voters.outgoing.insert(3);
            t.config.learners_next.insert(3);
        }),
        joint_next
    );
    assert_eq!(
        broken(|t| {
            t.config.voters.incoming.insert(3);
        }),
        "3 is in Learners and Voters[0]"
    );
    assert_eq!(
        broken(|t| {
            t.config.voters.outgoing.insert(3);
        }),
        "3 is in Learners and Voters[1]"
    );
    assert_eq!(
        broken(|t| t.progress.get_mut(&3).unwrap().is_learner = false),
        "3 is in Learners, but is not marked as learner"
    );
    assert_eq!(broken(|t| t.config.auto_leave = true), "AutoLeave must be false when not joint");
}

#[test]
fn transitions() {
    use ConfChangeTransition::*;
    for (transition, words, enter, leave) in [
        (ConfChangeTransitionAuto, "", None, true),
        (ConfChangeTransitionAuto, "v1", None, false),
        (ConfChangeTransitionAuto, "v1 v2", Some(true), false),
        (ConfChangeTransitionJointImplicit, "", Some(true), false),
        (ConfChangeTransitionJointImplicit, "v1", Some(true), false),
        (ConfChangeTransitionJointExplicit, "v1", Some(false), false),
        (ConfChangeTransitionJointExplicit, "v1 r2", Some(false), false),
    ] {
        let mut change = ConfChangeV2::new(transition, change(words));
        assert_eq!(change.enter_joint(), Ok(enter), "{transition:?} {words}");
        assert_eq!(change.leave_joint(), leave, "{transition:?} {words}");
        change.context = "context".into();
        assert_eq!(change.leave_joint(), leave, "a context makes no difference");
    }
    let unknown = ConfChangeV2 { transition: 9, ..ConfChangeV2::default() };
    assert_eq!(unknown.enter_joint(), Err(ConfChangeError::UnknownTransition(9)));
    assert!(!unknown.leave_joint());
}

#[test]
fn notation() {
    assert_eq!(change(""), []);
    assert_eq!(print_changes(&change(" v1  l2 r3\nu4 ")), "v1 l2 r3 u4");
    assert_eq!(print_changes(&[ConfChangeSingle { change_type: 9, node_id: 5 }]), "unknown5");
    for bad in ["x1", "v", "v-1", "vv", "v1.5", "1", "é1", "v99999999999999999999"] {
        assert_eq!(parse_changes(bad), Err(ConfChangeError::BadNotation(bad.to_string())));
    }
}

#[test]
fn changes_survive_the_log() {
    let mut old = ConfChange::new(ConfChangeType::ConfChangeAddLearnerNode, 5);
    old.id = 77;
    old.context = "http://127.0.0.1:1".into();
    let new = ConfChangeV2::new(ConfChangeTransition::ConfChangeTransitionJointExplicit, change("v1 r2"));
    for kind in [ConfChangeKind::from(old.clone()), ConfChangeKind::from(new)] {
        let (entry_type, data) = kind.encode();
        let entry = Entry { entry_type: entry_type as i32, data, ..Entry::default() };
        assert_eq!(ConfChangeKind::decode(&entry), Ok(kind.clone()));
    }
    let new = old.clone().into_v2();
    assert_eq!(print_changes(&new.changes), "l5");
    assert_eq!((new.context, new.transition), (old.context, 0));
}

#[test]
fn entries_that_carry_no_change() {
    let entry = |entry_type: i32, data: &'static [u8]| Entry { entry_type, data: data.into(), ..Entry::default() };
    let decode = |entry_type: i32, data: &'static [u8]| ConfChangeKind::decode(&entry(entry_type, data));
    assert_eq!(decode(EntryType::EntryNormal as i32, b""), Err(ConfChangeError::NotAConfChange));
    assert_eq!(decode(42, b""), Err(ConfChangeError::NotAConfChange));
    assert!(matches!(decode(EntryType::EntryConfChange as i32, b"\xff"), Err(ConfChangeError::Undecodable(_))));
    let nothing = decode(EntryType::EntryConfChangeV2 as i32, b"").unwrap();
    assert!(nothing.into_v2().leave_joint(), "no data at all means: leave the joint configuration");
}

#[test]
fn equal_memberships_may_be_listed_in_any_order() {
    let state = ConfState { voters: vec![1, 2, 3], learners: vec![5, 4], ..ConfState::default() };
    let same = |other: ConfState| equivalent(&state, &other) && equivalent(&other, &state);
    assert!(same(state.clone()));
    assert!(same(ConfState { voters: vec![3, 1, 2], learners: vec![4, 5], ..ConfState::default() }));
    for other in [
        ConfState { voters: vec![1, 2], ..state.clone() },
        ConfState { voters: vec![1, 2, 3, 3], ..state.clone() },
        ConfState { learners: vec![4], ..state.clone() },
        ConfState { voters_outgoing: vec![1], ..state.clone() },
        ConfState { learners_next: vec![1], ..state.clone() },
        ConfState { auto_leave: true, ..state.clone() },
    ] {
        assert!(!same(other.clone()), "{other:?}");
    }
}

#[test]
fn stored_memberships_that_nothing_leads_to() {
    let refused = |state: ConfState| restore(&state, 5, 10, 0).unwrap_err().to_string();
    let state = ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() };
    assert!(restore(&state, 5, 10, 0).is_ok());
    assert!(refused(ConfState { voters: vec![1, 1], ..state.clone() }).contains("voters contains an id twice"));
    assert!(refused(ConfState { voters: vec![0, 1], ..state.clone() }).contains("voters contains the id 0"));
    assert_eq!(refused(ConfState { voters: vec![], ..state.clone() }), "removed all voters");
    assert_eq!(refused(ConfState { learners: vec![2], ..state.clone() }), "2 is in Learners and Voters[0]");
    assert_eq!(refused(ConfState { auto_leave: true, ..state.clone() }), "AutoLeave must be false when not joint");
    let joint = ConfState { voters_outgoing: vec![2], learners_next: vec![2], ..state };
    assert!(refused(joint).contains("2 is in learners_next and in voters"));
}

fn single() -> impl Strategy<Value = ConfChangeSingle> {
    (0i32..4, 0u64..7).prop_map(|(change_type, node_id)| ConfChangeSingle { change_type, node_id })
}

fn singles() -> impl Strategy<Value = Vec<ConfChangeSingle>> {
    prop::collection::vec(single(), 0..8)
}

/// What everybody can see of a membership, for comparing two ways to get there.
fn outline(config: &Config, progress: &ProgressMap) -> (ConfState, Vec<(u64, bool)>) {
    (config.conf_state(), progress.iter().map(|(id, one)| (*id, one.is_learner)).collect())
}

/// How etcd restores: by replaying changes.
fn replay(state: &ConfState, last_index: u64) -> Result<Changed, ConfChangeError> {
    use ConfChangeType::*;
    let all = |change_type: ConfChangeType, ids: &[u64]| -> Vec<ConfChangeSingle> {
        ids.iter().map(|id| ConfChangeSingle::new(change_type, *id)).collect()
    };
    let mut incoming = all(ConfChangeRemoveNode, &state.voters_outgoing);
    incoming.extend(all(ConfChangeAddNode, &state.voters));
    incoming.extend(all(ConfChangeAddLearnerNode, &state.learners));
    incoming.extend(all(ConfChangeAddLearnerNode, &state.learners_next));
    let outgoing = all(ConfChangeAddNode, &state.voters_outgoing);
    let mut tracker = empty();
    for one in if outgoing.is_empty() { &incoming } else { &outgoing } {
        tracker = with(Changer::new(&tracker, last_index).simple(std::slice::from_ref(one))?);
    }
    if !outgoing.is_empty() {
        tracker = with(Changer::new(&tracker, last_index).enter_joint(state.auto_leave, &incoming)?);
    }
    if !equivalent(state, &tracker.conf_state()) {
        return Err(ConfChangeError::NotRestorable("replayed to something else".to_string()));
    }
    Ok((tracker.config, tracker.progress))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn joint_in_and_out_is_what_simple_steps_make(voters in 1u64..5, changes in singles()) {
        let start = (1..=voters).fold(empty(), |tracker, id| simple(&tracker, &format!("v{id}")).unwrap());
        let steps = changes.iter().try_fold(start.clone(), |tracker, one| {
            Changer::new(&tracker, 10).simple(std::slice::from_ref(one)).map(with)
        });
        // Step by step all voters may be gone for a moment, which is refused; in one go that is no matter.
        if let Ok(steps) = steps {
            let joint = with(Changer::new(&start, 10).enter_joint(false, &changes).unwrap());
            let left = with(Changer::new(&joint, 10).leave_joint().unwrap());
            prop_assert_eq!(outline(&steps.config, &steps.progress), outline(&left.config, &left.progress));
        }
    }

    #[test]
    fn invariants_hold_after_any_changes(
        rounds in prop::collection::vec((0u8..4, singles()), 0..12),
    ) {
        let mut tracker = group("v1");
        for (way, changes) in rounds {
            let before = tracker.clone();
            let changer = Changer::new(&tracker, 10);
            let result = match way {
                0 => changer.simple(&changes),
                1 => changer.enter_joint(false, &changes),
                2 => changer.enter_joint(true, &changes),
                _ => changer.leave_joint(),
            };
            prop_assert_eq!(&before, &tracker);
            if let Ok(changed) = result {
                tracker = with(changed);
            }
            prop_assert_eq!(check_invariants(&tracker.config, &tracker.progress), Ok(()));
            prop_assert!(!tracker.config.voters.incoming.is_empty());
            let members = tracker.voter_ids().union(tracker.learner_ids());
            prop_assert!(members.iter().eq(tracker.progress.keys().copied()));
            // What was reached can be stored and restored.
            let restored = restore(&tracker.conf_state(), 10, 10, 0).map(with).unwrap();
            prop_assert_eq!(outline(&restored.config, &restored.progress), outline(&tracker.config, &tracker.progress));
        }
    }

    #[test]
    fn restore_is_what_a_replay_makes(
        voters in prop::collection::vec(0u64..7, 0..4),
        learners in prop::collection::vec(4u64..9, 0..3),
        voters_outgoing in prop::collection::vec(1u64..7, 0..4),
        learners_next in prop::collection::vec(1u64..7, 0..2),
        auto_leave in any::<bool>(),
        last_index in 0u64..4,
    ) {
        let state = ConfState { voters, learners, voters_outgoing, learners_next, auto_leave };
        let restored = restore(&state, last_index, 10, 0);
        prop_assert_eq!(restored.is_ok(), replay(&state, last_index).is_ok(), "{:?} {:?}", state, restored);
        if let (Ok(restored), Ok(replayed)) = (restored, replay(&state, last_index)) {
            prop_assert_eq!(restored, replayed);
        }
    }

    #[test]
    fn notation_survives_both_ways(changes in singles()) {
        prop_assert_eq!(parse_changes(&print_changes(&changes)), Ok(changes));
    }

    #[test]
    fn any_bytes_decode_or_are_refused(entry_type in 0i32..4, data in prop::collection::vec(any::<u8>(), 0..40)) {
        let entry = Entry { entry_type, data: data.into(), ..Entry::default() };
        if let Ok(kind) = ConfChangeKind::decode(&entry) {
            let change = kind.into_v2();
            let _ = change.enter_joint();
            let _ = print_changes(&change.changes);
        }
    }
}
