//! Looking at logs and cutting damaged ones.

use std::fs;
use std::path::{Path, PathBuf};

use raft_core::pb::{ConfState, Entry, HardState, SnapshotMetadata};
use wal::format::RecordKind;
use wal::tool::{damaged_record, plan_repair, verify, walk, Held, Item};
use wal::{Options, Wal, WalError};

fn small() -> Options {
    Options { segment_bytes: 8192 }
}

/// Twelve entries in several segments.
fn build(dir: &Path) -> Vec<PathBuf> {
    let (mut log, _) = Wal::open(dir, small(), b"tool").unwrap();
    for index in 1..=12 {
        let state = HardState { term: 1, vote: 1, commit: index - 1 };
        log.save(Some(&state), &[Entry { term: 1, index, ..Entry::normal(vec![7; 1500]) }]).unwrap();
    }
    drop(log);
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    files.sort();
    assert!(files.len() >= 3);
    files
}

fn entries(held: &Held) -> (Vec<u64>, usize) {
    let (mut found, mut unreadable) = (Vec::new(), 0);
    walk(held, &mut |item, _| match item {
        Item::Record { kind: RecordKind::Entry, index, .. } => found.push(*index),
        Item::NoBatch { .. } | Item::Batch { valid: false, .. } => unreadable += 1,
        _ => {}
    });
    (found, unreadable)
}

fn damage(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_sound_log_is_listed_whole_and_needs_no_repair() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    let mut read = Vec::new();
    let held = Held::open(dir.path(), &mut |done, total| read.push((done, total))).unwrap();
    // One of two readers says how far both are.
    assert!(read.windows(2).all(|pair| pair[0].0 < pair[1].0) && read.iter().all(|(_, of)| *of == held.len_bytes()));
    assert_eq!(entries(&held), ((1..=12).collect(), 0));
    let mut checked = 0;
    assert_eq!(verify(&held, &mut |done| checked = done).unwrap().held_entries().len(), 12);
    assert!(checked > held.len_bytes() / 2 && checked <= held.len_bytes());
    assert!(plan_repair(&held, &mut |_| {}).unwrap().is_none());
    assert!(matches!(Wal::open(dir.path(), small(), b"tool"), Err(WalError::InUse { .. })));
}

#[test]
fn a_damaged_log_is_listed_beyond_the_damage_and_cut_only_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let files = build(dir.path());
    // In the body of the second entry of the second segment.
    damage(&files[1], 1024 + 2500);
    let before = fs::read(&files[1]).unwrap();
    let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
    let (found, unreadable) = entries(&held);
    assert!(found.len() == 11 && unreadable == 1, "{found:?}");
    let mut seen = 0;
    let error = verify(&held, &mut |done| seen = done).unwrap_err();
    assert!(matches!(error, WalError::Damaged { .. }));
    assert_eq!(seen, 8192, "one segment was sound");
    // The batch's header vouches for what its record was.
    let lost = (1..=12).find(|index| !found.contains(index)).unwrap();
    assert_eq!(damaged_record(&held, &error), Some((RecordKind::Entry, 1, lost)));
    let plan = plan_repair(&held, &mut |_| {}).unwrap().unwrap();
    assert!(fs::read(&files[1]).unwrap() == before, "a plan changes nothing");
    assert_eq!(plan.cut.len(), 1);
    assert_eq!(plan.set_aside.len(), files.len() - 2 + usize::from(has_next(dir.path())));
    assert_eq!(plan.last_index + plan.dropped_entries + 1, 12, "all but the damaged one can be counted");
    let last = plan.last_index;
    plan.apply(held).unwrap();
    let copy = PathBuf::from(format!("{}.cut", files[1].display()));
    assert!(fs::read(copy).unwrap() == before, "what is cut is kept");
    let (mut log, recovered) = Wal::open(dir.path(), small(), b"tool").unwrap();
    assert_eq!(recovered.held_entries().len() as u64, last);
    log.save(None, &[Entry { term: 2, index: last + 1, ..Entry::normal("on") }]).unwrap();
}

fn has_next(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().any(|file| file.unwrap().path().extension().is_some_and(|extension| extension == "next"))
}

#[test]
fn a_log_whose_last_segment_is_gone_can_go_on_from_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let files = build(dir.path());
    fs::remove_file(files.last().unwrap()).unwrap();
    let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
    assert!(matches!(verify(&held, &mut |_| {}), Err(WalError::Missing { .. })));
    let plan = plan_repair(&held, &mut |_| {}).unwrap().unwrap();
    plan.apply(held).unwrap();
    assert!(!Wal::open(dir.path(), small(), b"tool").unwrap().1.held_entries().is_empty());
}

#[test]
fn nothing_can_be_kept_of_a_log_without_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let files = build(dir.path());
    damage(&files[0], 20);
    let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
    assert!(plan_repair(&held, &mut |_| {}).is_err());
    assert!(Held::open(&dir.path().join("nowhere"), &mut |_, _| {}).is_err());
}

#[test]
fn without_a_segment_in_the_middle_what_is_before_it_can_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let files = build(dir.path());
    fs::remove_file(&files[1]).unwrap();
    let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
    assert!(matches!(verify(&held, &mut |_| {}), Err(WalError::Missing { .. })));
    let plan = plan_repair(&held, &mut |_| {}).unwrap().unwrap();
    assert!(plan.damage[0].contains("segment 1 is not"), "{:?}", plan.damage);
    assert_eq!(plan.begins_with, None);
    assert_eq!(plan.set_aside.len(), files.len() - 2 + usize::from(has_next(dir.path())));
    let last = plan.last_index;
    assert!(last > 0 && plan.dropped_entries > 0 && last + plan.dropped_entries < 12);
    plan.apply(held).unwrap();
    let (mut log, recovered) = Wal::open(dir.path(), small(), b"tool").unwrap();
    assert_eq!(recovered.held_entries().len() as u64, last);
    log.save(None, &[Entry { term: 2, index: last + 1, ..Entry::normal("on") }]).unwrap();
}

#[test]
fn without_a_segment_in_the_middle_what_is_behind_it_is_kept_if_a_snapshot_does_for_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let files = build(dir.path());
    let (mut log, _) = Wal::open(dir.path(), small(), b"tool").unwrap();
    let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
    log.save_snapshot(&SnapshotMetadata { conf_state, index: 11, term: 1 }).unwrap();
    drop(log);
    fs::remove_file(&files[1]).unwrap();
    let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
    let plan = plan_repair(&held, &mut |_| {}).unwrap().unwrap();
    assert_eq!(plan.set_aside, [files[0].file_name().unwrap().to_str().unwrap()]);
    let first = plan.begins_with.unwrap();
    assert!(plan.cut.is_empty() && first > 1 && (plan.last_index, plan.dropped_entries) == (12, 0));
    plan.apply(held).unwrap();
    let (_log, recovered) = Wal::open(dir.path(), small(), b"tool").unwrap();
    assert_eq!((recovered.first_index, recovered.entries(11).unwrap().len()), (first, 1));
}

#[test]
fn behind_a_segment_that_is_missing_the_newer_part_is_kept_even_if_it_has_to_be_cut() {
    let dir = tempfile::tempdir().unwrap();
    let files = build(dir.path());
    let (mut log, _) = Wal::open(dir.path(), small(), b"tool").unwrap();
    let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
    log.save_snapshot(&SnapshotMetadata { conf_state, index: 11, term: 1 }).unwrap();
    for index in 13..=20 {
        log.save(None, &[Entry { term: 1, index, ..Entry::normal(vec![8; 1500]) }]).unwrap();
    }
    drop(log);
    fs::remove_file(&files[1]).unwrap();
    let newest = |held: &Held| {
        let mut files = Vec::new();
        walk(held, &mut |item, _| match item {
            Item::Segment { file, header: Some(_), .. } => files.push((file.clone(), 0)),
            Item::Record { kind: RecordKind::Entry, offset, index: 20, .. } => files.last_mut().unwrap().1 = *offset,
            _ => {}
        });
        files.into_iter().find(|(_, at)| *at > 0).unwrap()
    };
    let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
    let (name, at) = newest(&held);
    drop(held);
    damage(&dir.path().join(&name), at as usize + 100);
    let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
    let plan = plan_repair(&held, &mut |_| {}).unwrap().unwrap();
    let next = usize::from(has_next(dir.path()));
    assert_eq!((plan.set_aside.len(), plan.cut.len()), (1 + next, 1), "{:?}", plan.set_aside);
    assert_eq!((&plan.cut[0].0, plan.last_index, plan.dropped_entries), (&name, 19, 0));
    plan.apply(held).unwrap();
    let (log, recovered) = Wal::open(dir.path(), small(), b"tool").unwrap();
    assert_eq!((log.last_index(), recovered.entries(11).unwrap().len()), (19, 8));
}

#[test]
fn a_log_of_many_gaps_is_planned_as_quickly_as_one_of_few() {
    const GAPS: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Wal::open(dir.path(), small(), b"tool").unwrap();
    for index in 1..=2 * GAPS as u64 + 2 {
        log.save(None, &[Entry { term: 1, index, ..Entry::normal(vec![7; 6000]) }]).unwrap();
    }
    drop(log);
    let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    files.sort();
    assert!(files.len() > 2 * GAPS);
    files.iter().skip(1).step_by(2).take(GAPS).for_each(|path| fs::remove_file(path).unwrap());
    let path = dir.path().to_owned();
    // To try every set of parts would take longer than anyone lives.
    let (done, planned) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let held = Held::open(&path, &mut |_, _| {}).unwrap();
        let plan = plan_repair(&held, &mut |_| {}).unwrap().unwrap();
        done.send((plan, held)).unwrap();
    });
    let (plan, held) = planned.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    // No snapshot does for anything, so the oldest part is what stays.
    assert_eq!((plan.begins_with, plan.last_index), (None, 1));
    plan.apply(held).unwrap();
    assert_eq!(Wal::open(dir.path(), small(), b"tool").unwrap().0.last_index(), 1);
}

/// A segment of another version of the format.
fn of_another_version(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn what_another_version_has_written_is_named_and_never_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let files = build(dir.path());
    if has_next(dir.path()) {
        fs::remove_file(dir.path().join(format!("{:016x}.next", files.len()))).unwrap();
    }
    let bytes = of_another_version(&files[0]);
    // In the place of the next one, in one that the log has gone past, and far away.
    for sequence in [files.len(), 1, 77] {
        let path = dir.path().join(format!("{sequence:016x}.next"));
        fs::write(&path, &bytes).unwrap();
        let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
        let refused = plan_repair(&held, &mut |_| {}).unwrap_err();
        assert!(matches!(refused, WalError::OtherVersion { found: 2, .. }), "{sequence}: {refused}");
        drop(held);
        let refused = Wal::open(dir.path(), small(), b"tool").unwrap_err();
        assert!(matches!(refused, WalError::OtherVersion { found: 2, .. }), "{sequence}: {refused}");
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(Wal::open(dir.path(), small(), b"tool").unwrap().1.held_entries().len(), 12);
}

#[test]
fn a_repair_that_was_interrupted_is_finished_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let files = build(dir.path());
    damage(&files[1], 1024 + 2500);
    let originals: Vec<_> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    // In the way of the last step: the shortened file cannot be written.
    let obstacle = PathBuf::from(format!("{}.tmp", files[1].display()));
    fs::create_dir(&obstacle).unwrap();
    let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
    let plan = plan_repair(&held, &mut |_| {}).unwrap().unwrap();
    let last = plan.last_index;
    assert!(plan.apply(held).is_err());
    drop(plan);
    let refused = Wal::open(dir.path(), small(), b"tool").unwrap_err();
    assert!(matches!(refused, WalError::Damaged { .. }), "still damaged in the same place: {refused}");
    fs::remove_dir(&obstacle).unwrap();
    let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
    let plan = plan_repair(&held, &mut |_| {}).unwrap().unwrap();
    assert_eq!((plan.last_index, plan.cut.len(), plan.set_aside.len()), (last, 1, 0));
    plan.apply(held).unwrap();
    assert_eq!(Wal::open(dir.path(), small(), b"tool").unwrap().1.held_entries().len() as u64, last);
    for (path, original) in files.iter().zip(&originals).skip(1) {
        let copy = PathBuf::from(format!("{}.cut", path.display()));
        assert!(fs::read(copy).unwrap() == *original, "{}", path.display());
    }
}

#[test]
fn what_a_crash_left_behind_a_segment_is_shown_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let files = build(dir.path());
    let (mut log, _) = Wal::open(dir.path(), small(), b"tool").unwrap();
    log.save(None, &[Entry { term: 1, index: 13, ..Entry::normal("the last") }]).unwrap();
    drop(log);
    let last = files.last().unwrap();
    let mut bytes = fs::read(last).unwrap();
    let mark = bytes.windows(4).rposition(|window| window == b"BTCH").unwrap();
    // Half of what came next.
    bytes[mark + 40..mark + 60].fill(0xee);
    fs::write(last, bytes).unwrap();
    let (mut log, recovered) = Wal::open(dir.path(), small(), b"tool").unwrap();
    assert_eq!(recovered.torn.map(|torn| (torn.file, torn.offset)), Some((last.clone(), mark as u64)));
    log.save(None, &[Entry { term: 1, index: 14, ..Entry::normal("after the crash") }]).unwrap();
    drop(log);
    assert_eq!(fs::read(last).unwrap()[mark + 40..mark + 60], [0xee; 20], "nothing was stored over it");
    let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
    assert_eq!(verify(&held, &mut |_| {}).unwrap().torn, None, "the next segment says where this one ended");
    assert_eq!(entries(&held), ((1..=14).collect(), 0));
    let mut left = Vec::new();
    walk(&held, &mut |item, _| {
        if let Item::LeftBehind { offset, until } = item {
            left.push((*offset, *until));
        }
    });
    assert_eq!(left, [(mark as u64 + 40, mark as u64 + 60)]);
}
