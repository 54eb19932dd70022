//! Opening a log that a crash has left, while the disk fails: every call of it, in every way.
//!
//! The next attempt, on the same machine and with what its memory holds, finds what the first one would have found. The log
//! then goes on with batches of the length of those that were lost, and the power fails after each: whatever the first
//! attempts have left behind on the disk must not come back.

use raft_core::pb::Entry;
use tests::fault_disk::{Fault, FaultDisk, Image, Pace, FAULTS};
use tests::random::Random;
use tests::wal_workload::{self, equal_batch, last_cannot_vanish, Expected, Workload};

#[derive(Default, Debug)]
struct Count {
    logs: usize,
    torn: usize,
    opens: usize,
    refused: usize,
}

/// What a log is opened from: the disk as a crash left it, or as a killed process did.
fn check(workload: &Workload, start: &FaultDisk, count: &mut Count, context: &str) {
    let untroubled = start.after_kill();
    untroubled.keep_caches();
    let (log, recovered, _) =
        workload.open(&untroubled).unwrap_or_else(|error| panic!("{context}: a crash is no damage: {error}"));
    let found = Expected::of(&recovered);
    let calls = untroubled.calls();
    drop(log);
    count.logs += 1;
    count.torn += usize::from(recovered.torn.is_some());
    for call in 0..calls {
        for fault in FAULTS {
            let disk = start.after_kill();
            disk.keep_caches();
            disk.fail(call, fault);
            let first = workload.open(&disk);
            let context = || format!("{context}, then {:?}", disk.failed_call());
            count.opens += 1;
            match first {
                // The failed call was a help only, or a short read, which goes on.
                Ok((_, recovered, _)) => assert!(Expected::of(&recovered) == found, "{}", context()),
                Err(_) => count.refused += 1,
            }
            go_on(workload, &disk.after_kill(), Some(&found), &context());
            if fault == Fault::Io {
                // Nobody has acted on what was found, and some of it may have been in memory only.
                go_on(workload, &disk.after_power_failure(), None, &format!("{} and a power failure", context()));
            }
        }
    }
}

/// Opens the log again, which must hold what was found, and appends to it.
fn go_on(workload: &Workload, disk: &FaultDisk, found: Option<&Expected>, context: &str) {
    disk.keep_caches();
    let (mut log, recovered, _) =
        workload.open(disk).unwrap_or_else(|error| panic!("{context}: cannot be opened again: {error}"));
    let again = Expected::of(&recovered);
    let found = found.unwrap_or(&again);
    assert!(again == *found, "{context}: found something else the second time");
    // Also what an attempt before this one has left in memory only: the mark that a segment is followed by another.
    last_cannot_vanish(&disk.after_power_failure().image(), context);
    let (last, state) = found.end();
    for index in last + 1..=last + 3 {
        // Nothing beside the entry: the batch is as long as those before, but not the same.
        let entry = Entry { entry_type: 1, ..equal_batch(state.term.max(1), index) };
        log.save(None, &[entry]).expect("the log goes on");
        let (_, recovered, _) = workload
            .open(&disk.after_power_failure())
            .unwrap_or_else(|error| panic!("{context}: opened, entry {index} saved, and the power failed: {error}"));
        let (held, found_state) = Expected::of(&recovered).end();
        assert!((held, found_state) == (index, state), "{context}: {held} instead of {index}, {found_state:?}");
    }
}

/// Logs that a crash of the workload leaves, few at each of some points.
fn crashed(workload: &Workload, pace: Pace, every: usize, mut each: impl FnMut(Image)) {
    let disk = FaultDisk::new();
    disk.set_pace(pace);
    disk.record();
    assert!(workload.run(&disk).1.is_none());
    let mut random = Random::new(5);
    for moment in disk.take_moments().iter().step_by(every) {
        moment.images(3, 512, &mut random, &mut each);
    }
}

fn open_everything(workload: &Workload, every: usize) -> Count {
    let mut count = Count::default();
    for pace in [Pace::AtOnce, Pace::WhenNeeded] {
        crashed(workload, pace.clone(), every, |image| {
            let context = format!("{} with a housekeeper that works {pace:?}", workload.name);
            check(workload, &FaultDisk::with_image(&image), &mut count, &context);
        });
    }
    // And what a killed process leaves in memory, after a failed sync among others.
    let clean = FaultDisk::new();
    workload.run(&clean);
    for call in (0..clean.calls()).step_by(every) {
        let disk = FaultDisk::new();
        disk.fail(call, Fault::Short);
        workload.run(&disk);
        let context = format!("{}, killed after {:?}", workload.name, disk.failed_call());
        check(workload, &disk.after_kill(), &mut count, &context);
    }
    println!("wal failing open {}: 0 lost, 0 brought back in {count:?}", workload.name);
    assert!(count.refused > count.opens / 2, "{count:?}");
    count
}

#[test]
fn batches_of_one_length_do_not_come_back() {
    let workload = wal_workload::equal();
    assert!(open_everything(&workload, 1).torn > 20);
}

#[test]
fn any_crashed_log_can_be_opened_after_any_failed_attempt() {
    let torn: usize = wal_workload::all().iter().map(|workload| open_everything(workload, 151).torn).sum();
    assert!(torn > 0);
}
