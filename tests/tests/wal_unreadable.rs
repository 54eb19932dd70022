//! A disk that fails to read a place in the log: the node and the tools say where, the rest is still listed, and a repair
//! makes a log of what is left.

use std::path::Path;
use std::sync::Arc;

use raft_core::pb::{Entry, HardState};
use tests::fault_disk::{log_dir, Call, Fault, FaultDisk};
use wal::format::RecordKind;
use wal::tool::{plan_repair, verify, walk, Held, Item};
use wal::{Disk, Options, Wal, WalError};

const OPTIONS: Options = Options { segment_bytes: 32 << 10 };
/// What is lost where a place cannot be read.
const PAGE_BYTES: usize = 4096;
const ENTRIES: u64 = 100;

fn open(disk: &FaultDisk) -> Result<(Wal, wal::Recovered), WalError> {
    Wal::open_on(Arc::new(disk.clone()), &log_dir(), OPTIONS, b"unreadable")
}

/// A log of three segments and a prepared one.
fn build() -> FaultDisk {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk).expect("a log");
    for index in 1..=ENTRIES {
        let state = HardState { term: 1, vote: 1, commit: index - 1 };
        log.save(Some(&state), &[Entry { term: 1, index, ..Entry::normal(vec![7; 600]) }]).expect("room for it");
    }
    drop(log);
    disk.after_power_failure()
}

fn short_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn held(disk: &FaultDisk) -> Held {
    Held::open_on(Arc::new(disk.clone()), &log_dir(), &mut |_, _| {}).expect("the rest can be read")
}

/// The entries, and the bad places.
fn listed(held: &Held) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut entries, mut bad) = (Vec::new(), Vec::new());
    walk(held, &mut |item, _| match item {
        Item::Record { kind: RecordKind::Entry, index, .. } => entries.push(*index),
        Item::BadPlace { offset, until, what } => {
            assert!(!what.is_empty());
            bad.push((*offset, *until));
        }
        _ => {}
    });
    (entries, bad)
}

#[test]
fn a_place_that_cannot_be_read_is_named_and_the_rest_is_shown() {
    let disk = build();
    let sound = disk.image();
    assert_eq!(listed(&held(&disk)), ((1..=ENTRIES).collect(), vec![]));
    assert!(sound.keys().filter(|name| name.ends_with(".wal")).count() >= 3);
    let (mut pages, mut repaired, mut beyond_repair) = (0, 0, 0);
    for (name, bytes) in &sound {
        for page in (0..bytes.len()).step_by(PAGE_BYTES) {
            pages += 1;
            let disk = FaultDisk::with_image(&sound);
            // The system reads whole pages.
            disk.spoil(name, page..page + PAGE_BYTES);
            let file = log_dir().join(short_name(name));
            let is_named = |error: &WalError| match error {
                WalError::Unreadable { file: at, offset, .. } => *at == file && *offset == page as u64,
                _ => false,
            };
            let refused = open(&disk).map(|_| ()).expect_err("the disk fails");
            assert!(is_named(&refused), "{name} at {page}: {refused}");
            let tools = held(&disk);
            let verdict = verify(&tools, &mut |_| {}).expect_err("the disk fails");
            assert!(is_named(&verdict), "{name} at {page}: {verdict}");
            let (entries, bad) = listed(&tools);
            assert_eq!(bad, [(page as u64, (page + PAGE_BYTES) as u64)], "{name} at {page}");
            // At most what a page holds, and two that reach into it.
            let lost = ENTRIES as usize - entries.len();
            assert!(lost <= PAGE_BYTES / 600 + 2, "{name} at {page}: {lost} entries are not shown");
            match plan_repair(&tools, &mut |_| {}) {
                Ok(plan) => {
                    let plan = plan.expect("there is something to repair");
                    assert!(plan.damage[0].contains(&format!("cannot be read at offset {page}")), "{:?}", plan.damage);
                    plan.apply(tools).expect("the disk can be written");
                    // The file itself is kept: another attempt may get out of it what this one could not.
                    let can_be_read = |path: &Path| disk.read(path).is_ok();
                    assert!(
                        !can_be_read(&file.with_file_name(format!("{}.cut", short_name(name)))),
                        "{name} at {page}"
                    );
                    assert!(!disk.names().contains(name) || can_be_read(&file), "{name} at {page}");
                    let (log, recovered) = open(&disk).expect("a repaired log");
                    assert_eq!(log.last_index(), plan.last_index, "{name} at {page}");
                    // Whatever stood before the place.
                    let before = recovered.held_entries().iter().filter_map(|entry| Some(entry.ok()?.index));
                    assert!(before.eq(1..=plan.last_index), "{name} at {page}");
                    repaired += 1;
                }
                Err(error) => {
                    let first = sound.keys().next();
                    assert!(
                        first == Some(name) && page == 0,
                        "only the first segment's head: {name} at {page}: {error}"
                    );
                    beyond_repair += 1;
                }
            }
        }
    }
    println!("wal unreadable: {pages} pages, each named; {repaired} logs repaired, {beyond_repair} beyond repair");
    assert!(repaired > 20 && beyond_repair == 1);
}

#[test]
fn a_long_stretch_that_cannot_be_read_is_one_place() {
    let disk = build();
    let name = disk.names().into_iter().find(|name| name.ends_with(".wal")).expect("a segment");
    disk.spoil(&name, 2 * PAGE_BYTES..6 * PAGE_BYTES);
    let (_, bad) = listed(&held(&disk));
    assert_eq!(bad, [(2 * PAGE_BYTES as u64, 6 * PAGE_BYTES as u64)]);
    let plan = plan_repair(&held(&disk), &mut |_| {}).expect("a plan").expect("something to repair");
    assert_eq!(plan.damage.iter().filter(|damage| damage.contains("cannot be read at")).count(), 1);
}

#[test]
fn a_page_is_tried_again_and_only_what_the_medium_says_counts_as_lost() {
    let sound = build().image();
    let clean = FaultDisk::with_image(&sound);
    drop(held(&clean));
    let (mut reads, mut at_the_end) = (0, 0);
    for call in 0..clean.calls() {
        for fault in [Fault::Io, Fault::NoSpace] {
            let disk = FaultDisk::with_image(&sound);
            disk.fail(call, fault);
            let tools = Held::open_on(Arc::new(disk.clone()), &log_dir(), &mut |_, _| {});
            if disk.failed_call().is_none_or(|failed| failed.call != Call::ReadStream) {
                continue;
            }
            reads += 1;
            match (fault, tools) {
                // Once: the second attempt has it.
                (Fault::Io, Ok(tools)) => assert_eq!(listed(&tools), ((1..=ENTRIES).collect(), vec![])),
                // There is no page behind the end.
                (Fault::Io, Err(WalError::Io { .. })) => at_the_end += 1,
                // Of the machine, and not of the page.
                (Fault::NoSpace, Err(WalError::Io { .. })) => {}
                (_, other) => panic!("{fault:?} at call {call}: {:?}", other.map(|tools| listed(&tools))),
            }
        }
    }
    // Of the files, only the newest is read in pieces if all is well, and then in one piece: the read of it, that of its
    // end, each with both faults.
    assert_eq!((reads, at_the_end), (4, 1));
}

#[test]
fn threads_that_share_the_reading_name_the_same_place() {
    let sound = build().image();
    let segments: Vec<_> = sound.keys().filter(|name| name.ends_with(".wal")).collect();
    assert!(segments.len() >= 3);
    let names_one_of = |disk: &FaultDisk, spoiled: &[&String]| {
        let opened = open(disk).map(|_| ());
        match &opened {
            Err(WalError::Unreadable { file, offset, .. }) => {
                *offset == 2 * PAGE_BYTES as u64 && spoiled.iter().any(|name| file.ends_with(short_name(name)))
            }
            _ => false,
        }
    };
    for name in &segments {
        let disk = FaultDisk::with_image(&sound);
        disk.allow_background();
        disk.spoil(name, 2 * PAGE_BYTES..3 * PAGE_BYTES);
        assert!(names_one_of(&disk, &[name]), "{name}");
        let (entries, bad) = listed(&held(&disk));
        assert!(bad.len() == 1 && entries.len() < ENTRIES as usize, "{name}");
        assert!(entries.is_sorted(), "{name}: in the order of the files");
    }
    let disk = FaultDisk::with_image(&sound);
    disk.allow_background();
    segments.iter().for_each(|name| disk.spoil(name, 2 * PAGE_BYTES..3 * PAGE_BYTES));
    assert!(names_one_of(&disk, &segments));
    // And as often as one likes: nothing is left locked.
    assert!(names_one_of(&disk, &segments));
}
