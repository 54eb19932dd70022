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

fn recovery_takes_no_more_than_twice_the_log() {
    // Of many segments; of one, nearly full; of nothing but the records themselves.
    for (entry_bytes, count, segment_mib) in
        [(1024_usize, 100_000_u64, 16), (64, 500_000, 16), (1 << 20, 100, 16), (1000, 60_000, 64), (0, 1_000_000, 16)]
    {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options { segment_bytes: segment_mib * MIB };
        {
            let (mut log, _) = Wal::open(dir.path(), options.clone(), b"").expect("a log");
            let step = 100.min(count);
            for first in (1..=count).step_by(step as usize) {
                let entries: Vec<_> = (first..first + step)
                    .map(|index| Entry { term: 1, index, ..Entry::normal(vec![index as u8; entry_bytes]) })
                    .collect();
                log.append(None, &entries).expect("room for it");
            }
            log.sync().expect("room for it");
        }
        let files = fs::read_dir(dir.path()).expect("the log");
        let log_bytes: u64 = files.map(|file| file.and_then(|file| file.metadata()).expect("a file").len()).sum();
        let before = reset_peak();
        let (log, recovered) = Wal::open(dir.path(), options, b"").expect("the log");
        let used = peak_bytes() - before;
        assert_eq!(log.last_index(), count);
        assert_eq!(recovered.held_entries().len() as u64, count);
        println!(
            "wal recovery memory: log of {:.0} MiB, entries of {entry_bytes} bytes: {:.0} MiB at most, {:.2} of the log",
            in_mib(log_bytes),
            in_mib(used),
            used as f64 / log_bytes as f64
        );
        // An empty entry's record is shorter than the entry itself is in memory.
        let entries_bytes = if entry_bytes == 0 { count * size_of::<Entry>() as u64 } else { 0 };
        assert!(used <= 2 * log_bytes + entries_bytes, "{used} bytes for a log of {log_bytes}");
    }
}

/// One test: there is one peak for the whole process.
#[test]
fn memory_is_bounded() {
    snapshot_streams_in_and_out();
    recovery_takes_no_more_than_twice_the_log();
}
