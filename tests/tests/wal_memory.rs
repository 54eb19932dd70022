//! How much memory a long log and a large snapshot take: measured on the process, page tables, maps and all.
//!
//! `WAL_SNAPSHOT_MIB=1024` makes the snapshot larger than the usual 256 MiB.

use std::fs;
use std::io::Write;

use raft_core::pb::{ConfState, Entry, SnapshotMetadata};
use wal::{Options, SnapshotDir, Wal};

const MIB: u64 = 1 << 20;

/// The most memory that the process has had at once since the last reset.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a Linux system");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the peak");
    line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number") * 1024
}

/// Starts a new peak; returns what is in use now.
fn reset_peak() -> u64 {
    fs::write("/proc/self/clear_refs", "5").expect("a Linux system");
    peak_bytes()
}

fn in_mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

fn snapshot_streams_in_and_out() {
    let mib = std::env::var("WAL_SNAPSHOT_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(256);
    let dir = tempfile::tempdir().expect("a directory");
    let snapshots = SnapshotDir::open(dir.path()).expect("a directory");
    let metadata =
        SnapshotMetadata { conf_state: ConfState { voters: vec![1], ..ConfState::default() }, index: 9, term: 2 };
    let before = reset_peak();
    let mut writer = snapshots.writer(&metadata).expect("a writer");
    let mut piece = vec![0_u8; 300_000];
    let mut written = 0_u64;
    while written < mib * MIB {
        piece.fill(written as u8);
        writer.write_all(&piece).expect("room for it");
        written += piece.len() as u64;
    }
    writer.finish().expect("a snapshot");
    let writing = peak_bytes() - before;
    let before = reset_peak();
    let mut reader = snapshots.open_newest(&[metadata]).expect("a directory").expect("the snapshot");
    let mut read = 0_u64;
    while let Some(chunk) = reader.next_chunk().expect("a sound file") {
        read += chunk.len() as u64;
    }
    let reading = peak_bytes() - before;
    println!(
        "wal snapshot memory: {:.0} MiB streamed in with {:.1} MiB, out with {:.1} MiB",
        in_mib(written),
        in_mib(writing),
        in_mib(reading)
    );
    assert_eq!(read, written);
    assert!(writing.max(reading) < 16 * MIB, "{writing} {reading}");
}

/// A log to be opened.
struct Kind {
    name: &'static str,
    entry_bytes: usize,
    count: u64,
    batch: u64,
    segment_mib: u64,
    /// Of each batch, how many entries the next one replaces.
    replaced: u64,
    /// Each entry has a term of its own.
    many_terms: bool,
    /// Otherwise nothing but its first batch has been synced when it is left.
    synced: bool,
}

fn kinds() -> Vec<Kind> {
    let kind = |name, entry_bytes, count, segment_mib| Kind {
        name,
        entry_bytes,
        count,
        batch: 100.min(count),
        segment_mib,
        replaced: 0,
        many_terms: false,
        synced: true,
    };
    vec![
        kind("many segments", 1024, 50_000, 16),
        kind("small entries", 64, 250_000, 16),
        kind("large entries", 1 << 20, 50, 16),
        kind("one segment, nearly full", 1000, 30_000, 32),
        Kind { synced: false, ..kind("one segment, never synced", 1000, 30_000, 32) },
        // Nothing but the records themselves: an entry is longer in memory.
        kind("empty entries", 0, 1_000_000, 16),
        kind("empty entries, one segment, nearly full", 0, 1_000_000, 32),
        Kind { synced: false, ..kind("empty entries, one segment, never synced", 0, 1_000_000, 32) },
        Kind { batch: 1_000_000, ..kind("empty entries, one batch", 0, 1_000_000, 32) },
        Kind { batch: 1, ..kind("empty entries, a batch each", 0, 300_000, 16) },
        Kind { many_terms: true, ..kind("empty entries, a term each", 0, 1_000_000, 32) },
        Kind { replaced: 50, ..kind("empty entries, half of them replaced", 0, 1_000_000, 16) },
    ]
}

fn recovery_takes_no_more_than_twice_the_log() {
    for kind in kinds() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options { segment_bytes: kind.segment_mib * MIB };
        let mut last = 0;
        {
            let (mut log, _) = Wal::open(dir.path(), options.clone(), b"").expect("a log");
            for _ in 0..kind.count / kind.batch {
                let first = last.max(kind.replaced) - kind.replaced + 1;
                last = first + kind.batch - 1;
                let term = |index| if kind.many_terms { index } else { 1 };
                let data = |index| vec![index as u8; kind.entry_bytes];
                let entry = |index| Entry { term: term(index), index, ..Entry::normal(data(index)) };
                log.append(None, &(first..=last).map(entry).collect::<Vec<_>>()).expect("room for it");
            }
            if kind.synced {
                log.sync().expect("room for it");
            }
        }
        let files = fs::read_dir(dir.path()).expect("the log");
        let log_bytes: u64 = files.map(|file| file.and_then(|file| file.metadata()).expect("a file").len()).sum();
        let before = reset_peak();
        let (log, recovered) = Wal::open(dir.path(), options, b"").expect("the log");
        let used = peak_bytes() - before;
        assert_eq!(log.last_index(), last);
        assert_eq!(recovered.held_entries().len() as u64, last);
        assert_eq!(recovered.held_entries().last().map(|entry| entry.index), Some(last));
        println!(
            "wal recovery memory: {}: log of {:.0} MiB, {last} entries of {} bytes: {:.0} MiB at most, {:.2} of the log",
            kind.name,
            in_mib(log_bytes),
            kind.entry_bytes,
            in_mib(used),
            used as f64 / log_bytes as f64
        );
        assert!(used <= 2 * log_bytes, "{}: {used} bytes for a log of {log_bytes}", kind.name);
    }
}

/// One test: there is one peak for the whole process.
#[test]
fn memory_is_bounded() {
    snapshot_streams_in_and_out();
    recovery_takes_no_more_than_twice_the_log();
}
