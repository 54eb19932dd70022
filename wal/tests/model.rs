//! Random operations against a plain model of the log.

use proptest::prelude::*;
use raft_core::pb::{Entry, HardState, SnapshotMetadata};
use wal::{Options, Wal};

#[derive(Clone, Debug)]
enum Step {
    /// Entries that follow, or replace up to this many uncommitted ones; whether the term goes up; how far commit
    /// moves.
    Save {
        replace: u64,
        count: u64,
        bytes: usize,
        new_term: bool,
        commit: u64,
    },
    Commit(u64),
    Snapshot {
        back: u64,
    },
    Install {
        ahead: u64,
    },
    Purge,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_u64..4, 0_u64..6, 0_usize..900, any::<bool>(), 0_u64..6)
            .prop_map(|(replace, count, bytes, new_term, commit)| Step::Save { replace, count, bytes, new_term, commit }),
        3 => (0_u64..4).prop_map(Step::Commit),
        2 => (0_u64..8).prop_map(|back| Step::Snapshot { back }),
        1 => (1_u64..9).prop_map(|ahead| Step::Install { ahead }),
        1 => Just(Step::Purge),
        1 => Just(Step::Reopen),
    ]
}

/// What a log should hold.
#[derive(Default, Debug)]
struct Model {
    entries: Vec<Entry>,
    base: u64,
    state: HardState,
    newest_snapshot: Option<SnapshotMetadata>,
}

impl Model {
    fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    fn term(&self, index: u64) -> Option<u64> {
        let at = index.checked_sub(self.base + 1)?;
        self.entries.get(at as usize).map(|entry| entry.term)
    }
}

fn apply(log: &mut Wal, model: &mut Model, step: Step) {
    match step {
        Step::Save { replace, count, bytes, new_term, commit } => {
            let first = model.last().saturating_sub(replace).max(model.state.commit) + 1;
            if new_term {
                model.state.term += 1;
                model.state.vote = 0;
            }
            let term = model.state.term.max(1);
            model.state.term = term;
            let entries: Vec<_> = (first..first + count)
                .map(|index| Entry { term, index, ..Entry::normal(vec![index as u8 ^ term as u8; bytes]) })
                .collect();
            if count > 0 {
                model.entries.truncate((first - model.base - 1) as usize);
                model.entries.extend_from_slice(&entries);
            }
            model.state.commit = (model.state.commit + commit).min(model.last());
            log.save(Some(&model.state), &entries).expect("save");
        }
        Step::Commit(more) => {
            model.state.commit = (model.state.commit + more).min(model.last());
            log.save(Some(&model.state), &[]).expect("commit");
        }
        Step::Snapshot { back } => {
            // Not behind the newest one: what an older one would need may be purged already.
            let newest = model.newest_snapshot.as_ref().map_or(0, |newest| newest.index);
            let index = model.state.commit.saturating_sub(back).max(newest);
            if let Some(term) = model.term(index) {
                let metadata = SnapshotMetadata { index, term, ..SnapshotMetadata::default() };
                log.save_snapshot(&metadata).expect("snapshot");
                model.newest_snapshot = Some(metadata);
            }
        }
        Step::Install { ahead } => {
            let metadata = SnapshotMetadata {
                index: model.last() + ahead,
                term: model.state.term + 1,
                ..SnapshotMetadata::default()
            };
            log.save_snapshot(&metadata).expect("install");
            model.entries.clear();
            model.base = metadata.index;
            model.state = HardState { term: metadata.term, vote: 0, commit: metadata.index };
            model.newest_snapshot = Some(metadata);
        }
        Step::Purge => {
            log.purge(u64::MAX).expect("purge");
        }
        Step::Reopen => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_what_was_done_to_it(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options { segment_bytes: 4096 };
        let mut log = Wal::open(dir.path(), options.clone(), b"").expect("create").0;
        let mut model = Model::default();
        for step in steps.into_iter().chain([Step::Reopen]) {
            let reopen = matches!(step, Step::Reopen);
            apply(&mut log, &mut model, step);
            if !reopen {
                continue;
            }
            drop(log);
            let (opened, recovered) = Wal::open(dir.path(), options.clone(), b"").expect("reopen");
            log = opened;
            prop_assert_eq!(recovered.hard_state, model.state);
            prop_assert_eq!(recovered.snapshots.last(), model.newest_snapshot.as_ref());
            prop_assert_eq!(recovered.torn.as_ref(), None);
            let after = model.newest_snapshot.as_ref().map_or(0, |newest| newest.index);
            prop_assert!(recovered.first_index <= after + 1);
            // Entries that a snapshot covers may be purged; all later ones are there.
            let skip = after.saturating_sub(model.base) as usize;
            prop_assert_eq!(recovered.entries(after).unwrap(), &model.entries[skip..]);
            let held = (recovered.first_index - 1).saturating_sub(model.base) as usize;
            prop_assert_eq!(recovered.held_entries(), &model.entries[held..]);
        }
    }
}
