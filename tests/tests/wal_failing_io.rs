//! Every call of the log to its disk fails once, in every way.

use tests::fault_disk::{Fault, FaultDisk, FAULTS};
use tests::wal_workload::{self, Expected, Workload};

#[derive(Default, Debug)]
struct Count {
    runs: usize,
    reported: usize,
    /// Faults that need not be reported: preparing ahead, removing what is old, a short write that went on.
    tolerated: usize,
}

fn check(workload: &Workload, disk: &FaultDisk, done: usize, context: &str) {
    let (_, recovered, _) =
        workload.open(disk).unwrap_or_else(|error| panic!("{context}: a failed call is no damage: {error}"));
    let found = Expected::of(&recovered);
    let explained = workload.explain(&found, done);
    assert!(explained.is_some(), "{context}: {done} steps acknowledged, found {:?}", found.end());
}

fn fail_everything(workload: &Workload) {
    let disk = FaultDisk::new();
    assert!(workload.run(&disk).1.is_none());
    let calls = disk.calls();
    let mut count = Count::default();
    for call in 0..calls {
        for fault in FAULTS {
            let context = format!("{}: call {call} of {calls} fails with {fault:?}", workload.name);
            let disk = FaultDisk::new();
            disk.fail(call, fault);
            let (done, error) = workload.run(&disk);
            assert!(disk.has_failed(), "{context}: the call was never made");
            count.runs += 1;
            match &error {
                Some(error) => {
                    count.reported += 1;
                    assert!(!error.to_string().is_empty());
                }
                None => {
                    count.tolerated += 1;
                    assert_eq!(done, workload.steps.len(), "{context}");
                }
            }
            // The process is restarted, or the machine.
            check(workload, &disk.after_kill(), done, &format!("{context}, then a restart"));
            check(workload, &disk.after_power_failure(), done, &format!("{context}, then a power failure"));
        }
    }
    println!("wal failing I/O {}: {calls} calls, {count:?}, 0 lost", workload.name);
    assert!(count.runs as u64 == calls * 3 && count.reported > count.tolerated, "{count:?}");
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
