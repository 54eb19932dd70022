//! A disk that fails to read a place in the log: the node and the tools say where, the rest is still listed, and a repair
//! makes a log of what is left.

use std::path::Path;
use std::sync::Arc;

use raft_core::pb::{Entry, HardState};
use tests::fault_disk::{log_dir, FaultDisk};
use wal::format::RecordKind;
use wal::tool::{plan_repair, verify, walk, Held, Item};
use wal::{Options, Wal, WalError};

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

fn held(disk: &FaultDisk) -> Held {
    Held::open_on(Arc::new(disk.clone()), &log_dir(), &mut |_, _| {}).expect("the rest can be read")
}

/// The entries, and the gaps.
fn listed(held: &Held) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut entries, mut gaps) = (Vec::new(), Vec::new());
    walk(held, &mut |item, _| match item {
        Item::Record { kind: RecordKind::Entry, index, .. } => entries.push(*index),
        Item::BadPlace { offset, until, what } => {
            assert!(!what.is_empty());
            gaps.push((*offset, *until));
        }
        _ => {}
    });
    (entries, gaps)
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
            // Somewhere in it: the system reads whole pages.
            disk.spoil(name, page..page + PAGE_BYTES);
            let file = log_dir().join(Path::new(name).file_name().expect("a name"));
            let is_named = |error: &WalError| match error {
                WalError::Unreadable { file: at, offset, .. } => *at == file && *offset == page as u64,
                _ => false,
            };
            let refused = open(&disk).map(|_| ()).expect_err("the disk fails");
            assert!(is_named(&refused), "{name} at {page}: {refused}");
            let tools = held(&disk);
            let verdict = verify(&tools, &mut |_| {}).expect_err("the disk fails");
            assert!(is_named(&verdict), "{name} at {page}: {verdict}");
            let (entries, gaps) = listed(&tools);
            assert_eq!(gaps, [(page as u64, (page + PAGE_BYTES) as u64)], "{name} at {page}");
            // At most what a page holds, and two that reach into it.
            let lost = ENTRIES as usize - entries.len();
            assert!(lost <= PAGE_BYTES / 600 + 2, "{name} at {page}: {lost} entries are not shown");
            match plan_repair(&tools, &mut |_| {}) {
                Ok(plan) => {
                    let plan = plan.expect("there is something to repair");
                    assert!(plan.damage[0].contains(&format!("cannot be read at offset {page}")), "{:?}", plan.damage);
                    plan.apply(tools).expect("the disk can be written");
                    let (log, recovered) = open(&disk).expect("a repaired log");
                    assert_eq!(log.last_index(), plan.last_index, "{name} at {page}");
                    // Whatever stood before the place.
                    let before = recovered.held_entries().iter().map(|entry| entry.index);
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
