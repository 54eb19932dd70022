//! Every call of the log to its disk fails once, in every way, the housekeeper's included, whether that is quick or slow.
//!
//! What fails is reported to the caller, but for a few calls that are named here, each with the reason why it may fail
//! in silence. And whatever was acknowledged is found afterwards.

use std::collections::BTreeMap;

use raft_core::pb::{ConfState, Entry, HardState, SnapshotMetadata};
use tests::fault_disk::{Call, FailedCall, Fault, FaultDisk, Pace, FAULTS};
use tests::random::Random;
use tests::wal_workload::{self, last_cannot_vanish, Expected, Workload};

/// A mark or the watermark; every batch is longer.
const MARK_BYTES: usize = 40;

#[derive(Default, Debug)]
struct Count {
    runs: usize,
    reported: usize,
    tolerated: BTreeMap<&'static str, usize>,
}

/// Why a call may fail without anyone being told. All others must be reported.
fn why_tolerated(failed: &FailedCall, steps: usize) -> Option<&'static str> {
    let prepared = |name: &str| name.starts_with("wal/") && name.ends_with(".next");
    let segment = |name: &str| name.starts_with("wal/") && name.ends_with(".wal");
    // Everything had been acknowledged, and is durable.
    if failed.progress == steps {
        return Some("the log was being closed");
    }
    match (&failed.call, &failed.before) {
        (Call::Create(name), _) if prepared(name) => Some("preparing ahead is tried again when it is needed"),
        (Call::SyncDir, Some(Call::Create(name))) if prepared(name) => {
            Some("preparing ahead is tried again when it is needed")
        }
        (Call::Prefill(..), _) if failed.fault == Fault::NoSpace => Some("prefilling is a help"),
        // Of the first stretch of a segment that is never begun.
        (Call::Prefill(name, _), _) if prepared(name) => Some("prefilling is a help"),
        (Call::Remove(name), _) if segment(name) => Some("an old segment is removed with the next purge"),
        (Call::SyncDir, Some(Call::Remove(name))) if segment(name) => {
            Some("an old segment is removed with the next purge")
        }
        (Call::Store(_, range), _) if range.len() == MARK_BYTES => Some("a mark is a help"),
        (Call::Write(_) | Call::ReadStream, _) if failed.fault == Fault::Short => Some("a short transfer goes on"),
        _ => None,
    }
}

fn check(workload: &Workload, disk: &FaultDisk, done: usize, context: &str) {
    let (_, recovered, _) =
        workload.open(disk).unwrap_or_else(|error| panic!("{context}: a failed call is no damage: {error}"));
    let found = Expected::of(&recovered);
    let explained = workload.explain(&found, done);
    assert!(explained.is_some(), "{context}: {done} steps acknowledged, found {:?}", found.end());
    // Whoever opened it acts on what was found, so that must stay.
    let failed = disk.after_power_failure();
    last_cannot_vanish(&failed.image(), context);
    let again = workload.open(&failed).map(|(_, recovered, _)| Expected::of(&recovered));
    let again = again.unwrap_or_else(|error| panic!("{context}, opened, and the power failed: {error}"));
    assert!(again == found, "{context}, opened, and the power failed: found {:?}, then {:?}", found.end(), again.end());
}

fn fail_everything(workload: &Workload) {
    let mut count = Count::default();
    let mut calls = 0;
    for pace in [Pace::AtOnce, Pace::WhenNeeded, Pace::ByChance(Random::new(3))] {
        let disk = FaultDisk::new();
        disk.set_pace(pace.clone());
        assert!(workload.run(&disk).1.is_none());
        calls += disk.calls();
        for call in 0..disk.calls() {
            FAULTS.into_iter().for_each(|fault| fail_one(workload, pace.clone(), call, fault, &mut count));
        }
    }
    println!(
        "wal failing I/O {}: {calls} calls, {} runs, {} reported, 0 lost",
        workload.name, count.runs, count.reported
    );
    for (why, times) in &count.tolerated {
        println!("wal failing I/O {}: {times} tolerated: {why}", workload.name);
    }
    assert!(count.runs as u64 == calls * 3 && count.reported + count.tolerated.values().sum::<usize>() == count.runs);
}

fn fail_one(workload: &Workload, pace: Pace, call: u64, fault: Fault, count: &mut Count) {
    let disk = FaultDisk::new();
    disk.set_pace(pace.clone());
    disk.fail(call, fault);
    let (done, error) = workload.run(&disk);
    let failed = disk.failed_call().unwrap_or_else(|| panic!("{}: call {call} was never made", workload.name));
    let context = format!("{} with a housekeeper that works {pace:?}: call {call}, {failed:?}", workload.name);
    count.runs += 1;
    match &error {
        Some(error) => {
            count.reported += 1;
            assert!(!error.to_string().is_empty());
        }
        None => {
            let why = why_tolerated(&failed, workload.steps.len());
            *count.tolerated.entry(why.unwrap_or_else(|| panic!("{context} was not reported"))).or_default() += 1;
            assert_eq!(done, workload.steps.len(), "{context}");
        }
    }
    // The process is restarted, or the machine.
    check(workload, &disk.after_kill(), done, &format!("{context}, then a restart"));
    let caches_kept = disk.after_kill();
    caches_kept.keep_caches();
    check(workload, &caches_kept, done, &format!("{context}, then a restart with the caches kept"));
    check(workload, &disk.after_power_failure(), done, &format!("{context}, then a power failure"));
}

#[test]
fn appends_survive_any_failing_call() {
    fail_everything(&wal_workload::appends());
}

#[test]
fn truncations_survive_any_failing_call() {
    fail_everything(&wal_workload::truncations());
}

#[test]
fn rotations_survive_any_failing_call() {
    fail_everything(&wal_workload::rotations());
}

#[test]
fn snapshots_and_purges_survive_any_failing_call() {
    fail_everything(&wal_workload::snapshots());
}

#[test]
fn purges_behind_an_unsynced_segment_survive_any_failing_call() {
    fail_everything(&wal_workload::unsynced());
}

#[test]
fn the_housekeepers_queue_is_bounded_however_slow_it_is_and_however_often_it_is_asked() {
    let disk = FaultDisk::new();
    disk.set_pace(Pace::WhenNeeded);
    let (mut log, ..) = wal_workload::rotations().open(&disk).expect("an empty disk");
    let mut most_segments = 0;
    for index in 1..=200 {
        let state = HardState { term: 1, vote: 1, commit: index - 1 };
        log.save(Some(&state), &[Entry { term: 1, index, ..Entry::normal(vec![1; 1500]) }]).expect("room for it");
        log.save(Some(&HardState { commit: index, ..state }), &[]).expect("room for it");
        if index % 40 == 0 {
            let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
            log.save_snapshot(&SnapshotMetadata { conf_state, index, term: 1 }).expect("room for it");
        }
        most_segments = most_segments.max(log.segment_count());
        // One segment after the other, and again.
        (0..=index).for_each(|through| assert!(log.purge(through).is_ok()));
    }
    println!("wal housekeeper: {} jobs waiting at most, for {most_segments} segments", disk.most_waiting());
    assert!(disk.most_waiting() <= most_segments + 4 && most_segments > 10);
}

#[test]
fn a_full_disk_is_reported_before_anything_is_at_risk_and_the_log_goes_on_when_there_is_room() {
    let workload = wal_workload::rotations();
    let clean = FaultDisk::new();
    workload.run(&clean);
    let mut survived = 0;
    for call in 0..clean.calls() {
        let disk = FaultDisk::new();
        let Ok((mut log, ..)) = workload.open(&disk) else { panic!("an empty disk") };
        disk.fail(disk.calls() + call, Fault::NoSpace);
        let mut refused = 0;
        for step in &workload.steps {
            let wal_workload::Step::Save(state, entries) = step else { continue };
            // The next attempt finds room.
            let mut result = log.save(Some(state), entries);
            if matches!(&result, Err(error) if !error.is_fatal()) {
                refused += 1;
                result = log.save(Some(state), entries);
            }
            if result.is_err() {
                break;
            }
            survived += refused;
            refused = 0;
        }
    }
    println!("wal full disk: {survived} saves succeeded at the second attempt");
    assert!(survived > 10);
}
