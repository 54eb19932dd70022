//! Snapshot files through their public face, on real files.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use raft_core::pb::{ConfState, Snapshot, SnapshotMetadata};
use wal::snapshot::{SnapshotReader, CHUNK_BYTES};
use wal::{SnapshotDir, WalError};

fn metadata(index: u64) -> SnapshotMetadata {
    SnapshotMetadata { conf_state: ConfState { voters: vec![1, 2, 9], ..ConfState::default() }, index, term: 3 }
}

fn snapshot(index: u64, bytes: usize) -> Snapshot {
    let data: Vec<u8> = (0..bytes).map(|at| (at as u64 * 31 + index) as u8).collect();
    Snapshot { data: Bytes::from(data), metadata: metadata(index) }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_snapshot_of_any_size_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path()).unwrap();
    for (number, bytes) in
        [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES].into_iter().enumerate()
    {
        let index = number as u64 + 1;
        let saved = snapshot(index, bytes);
        let path = snapshots.save(&saved).unwrap();
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), format!("{:016x}-{index:016x}.snap", 3));
        assert!(snapshots.load_newest(&[metadata(index)]).unwrap() == Some(saved), "{bytes} bytes");
    }
}

#[test]
fn data_streams_in_and_out_in_pieces_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path()).unwrap();
    let data = snapshot(7, 2 * CHUNK_BYTES + 12_345).data;
    let mut writer = snapshots.writer(&metadata(7)).unwrap();
    let mut rest = &data[..];
    for size in [1, 0, 70_000, CHUNK_BYTES - 3, CHUNK_BYTES + 5, 11].into_iter().cycle() {
        let (now, later) = rest.split_at(rest.len().min(size));
        writer.write_all(now).unwrap();
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    assert!(names(dir.path())[0].ends_with(".snap.tmp"), "not visible before it is complete");
    writer.finish().unwrap();
    let mut reader = snapshots.open_newest(&[metadata(7)]).unwrap().unwrap();
    assert_eq!(reader.metadata(), &metadata(7));
    let mut back = Vec::new();
    reader.read_to_end(&mut back).unwrap();
    assert!(back == data);
}

#[test]
fn only_what_the_log_has_recorded_is_chosen_and_the_newest_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path()).unwrap();
    assert_eq!(snapshots.load_newest(&[metadata(5)]).unwrap(), None);
    for index in [5, 10, 15] {
        snapshots.save(&snapshot(index, 100)).unwrap();
    }
    let newest = |covered: &[u64]| {
        let covered: Vec<_> = covered.iter().map(|index| metadata(*index)).collect();
        snapshots.load_newest(&covered).unwrap().map(|snapshot| snapshot.metadata.index)
    };
    assert_eq!(newest(&[5, 10]), Some(10));
    assert_eq!(newest(&[5, 10, 15]), Some(15));
    assert_eq!(newest(&[]), None);
    let other_term = SnapshotMetadata { term: 4, ..metadata(15) };
    assert_eq!(snapshots.load_newest(&[other_term]).unwrap(), None);
}

#[test]
fn every_damaged_byte_is_noticed_and_the_one_before_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path()).unwrap();
    let older = snapshot(5, 50);
    snapshots.save(&older).unwrap();
    let path = snapshots.save(&snapshot(6, 90)).unwrap();
    let good = fs::read(&path).unwrap();
    let covered = [metadata(5), metadata(6)];
    let mut images: Vec<(String, Vec<u8>)> = Vec::new();
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        // Another version is not damage: it is left in place for the program that can read it.
        images.push((format!("byte {at} flipped"), flipped));
        images.push((format!("cut at {at}"), good[..at].to_vec()));
    }
    images.push(("one byte too many".into(), [&good[..], &[0]].concat()));
    for (name, image) in images {
        fs::write(&path, &image).unwrap();
        let (loaded, bad) = snapshots.load_newest_reporting(&covered).unwrap();
        assert_eq!(loaded.as_ref(), Some(&older), "{name}");
        assert_eq!(bad.len(), 1, "{name}");
        assert_eq!(fs::read(&bad[0].file).unwrap(), image, "{name}: kept as it is");
        assert!(bad[0].file.to_str().unwrap().ends_with(".snap.broken"), "{name}: {}", bad[0].what);
        fs::remove_file(&bad[0].file).unwrap();
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(snapshots.load_newest(&covered).unwrap(), Some(snapshot(6, 90)));
}

#[test]
fn what_was_set_aside_before_stays() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path()).unwrap();
    for (number, ending) in [(1, ".snap.broken"), (2, ".snap.broken.2"), (3, ".snap.broken.3")] {
        let path = snapshots.save(&snapshot(6, 90)).unwrap();
        fs::write(&path, [number; 100]).unwrap();
        let (loaded, bad) = snapshots.load_newest_reporting(&[metadata(6)]).unwrap();
        assert!(loaded.is_none() && bad[0].file.to_str().unwrap().ends_with(ending), "{bad:?}");
    }
    assert_eq!(names(dir.path()).len(), 3);
    for (number, name) in (1..).zip(names(dir.path())) {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), [number; 100]);
    }
}

#[test]
fn a_file_under_anothers_name_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path()).unwrap();
    let path = snapshots.save(&snapshot(6, 10)).unwrap();
    fs::rename(&path, dir.path().join(format!("{:016x}-{:016x}.snap", 3, 8))).unwrap();
    assert_eq!(snapshots.load_newest(&[metadata(6), metadata(8)]).unwrap(), None);
}

#[test]
fn files_are_purged_by_name_and_unfinished_ones_when_dropped_or_at_opening() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path()).unwrap();
    for index in 1..=6 {
        snapshots.save(&snapshot(index, 10)).unwrap();
    }
    // 4 was never recorded: it does not count. 6 is newer than what is kept: it may be all that is left of something.
    let keep = [metadata(3), metadata(5)];
    assert_eq!(snapshots.purge(&keep).unwrap(), 3);
    assert_eq!(snapshots.purge(&keep).unwrap(), 0);
    fs::remove_file(dir.path().join(format!("{:016x}-{:016x}.snap", 3, 6))).unwrap();
    let kept: Vec<_> = [3, 5].iter().map(|index| format!("{:016x}-{index:016x}.snap", 3)).collect();
    assert_eq!(names(dir.path()), kept);
    let unfinished = || {
        let mut unfinished = snapshots.writer(&metadata(7)).unwrap();
        unfinished.write_all(&[0; 10]).unwrap();
        unfinished
    };
    let (one, other) = (unfinished(), unfinished());
    assert_eq!(names(dir.path()).len(), 4, "two of one index do not meet");
    let own = format!(".{}-", std::process::id());
    assert_eq!(
        names(dir.path()).iter().filter(|name| name.contains(&own)).count(),
        2,
        "their names say whose they are"
    );
    drop(one);
    assert_eq!(names(dir.path()).len(), 3);
    let complete = other.complete().unwrap();
    assert_eq!(names(dir.path()).len(), 3);
    drop(complete);
    assert_eq!(names(dir.path()), kept);
    // A process that is killed drops nothing.
    std::mem::forget(unfinished());
    assert_eq!(names(dir.path()).len(), 3);
    SnapshotDir::open(dir.path()).unwrap();
    assert_eq!(names(dir.path()), kept);
}

/// A history of real processes found this (2026-11-29): a node stopped, because the raft thread threw away a snapshot that
/// it did not need any more while another thread looked for old ones.
#[test]
fn a_file_that_is_given_up_while_others_list_the_directory_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path()).unwrap();
    snapshots.save(&snapshot(1, 10)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let giving_up = scope.spawn(|| {
            let mut given_up = 0;
            while !stop.load(Ordering::Relaxed) {
                // Several at a time: a listing meets many names that are about to go.
                let writers: Vec<_> = (2..18).map(|index| snapshots.writer(&metadata(index)).unwrap()).collect();
                given_up += writers.len();
                drop(writers);
            }
            given_up
        });
        let listed: Result<Vec<usize>, WalError> = (0..5_000).map(|_| snapshots.purge(&[metadata(1)])).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(giving_up.join().unwrap() > 0);
        assert!(listed.unwrap().iter().all(|&removed| removed == 0));
    });
    assert_eq!(names(dir.path()).len(), 1);
}

#[test]
fn a_file_travels_as_it_is_and_becomes_one_where_it_arrives() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sending, receiving) = (SnapshotDir::open(here.path()).unwrap(), SnapshotDir::open(there.path()).unwrap());
    let saved = snapshot(7, 5 * CHUNK_BYTES + 17);
    let path = sending.save(&saved).unwrap();
    assert!(sending.open_file(&metadata(8), |_| {}).unwrap().is_none());
    let (len_bytes, mut purged) = (fs::metadata(&path).unwrap().len(), 0);
    sending.save(&snapshot(9, 10)).unwrap();
    let file = sending.open_file(&metadata(7), |_| purged += sending.purge(&[metadata(9)]).unwrap());
    let file = file.unwrap().unwrap();
    assert_eq!((file.len_bytes, purged), (len_bytes, 1), "while it is being checked");
    let mut reader = SnapshotReader::of_stream(file.source).unwrap();
    let mut writer = receiving.writer(reader.metadata()).unwrap();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        writer.write_all(chunk).unwrap();
    }
    let complete = writer.complete().unwrap();
    assert_eq!(complete.data_bytes(), saved.data.len() as u64);
    let mut data = Vec::new();
    complete.reader().unwrap().read_to_end(&mut data).unwrap();
    assert_eq!(data, saved.data);
    assert_eq!(receiving.load_newest(&[metadata(7)]).unwrap(), None, "not before it is published");
    complete.publish().unwrap();
    assert_eq!(receiving.load_newest(&[metadata(7)]).unwrap(), Some(saved));
}

#[test]
fn a_damaged_file_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path()).unwrap();
    let path = snapshots.save(&snapshot(7, 100)).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[90] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(snapshots.open_file(&metadata(7), |_| {}).is_err());
    assert!(snapshots.free_bytes().unwrap() > 0);
}

#[test]
fn a_purge_takes_neither_everything_nor_what_is_newer_nor_what_could_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path()).unwrap();
    snapshots.save(&snapshot(5, 10)).unwrap();
    let path = snapshots.save(&snapshot(6, 10)).unwrap();
    assert!(matches!(snapshots.purge(&[]), Err(WalError::Refused { .. })));
    // Of another version: a program that reads it may come.
    let mut bytes = fs::read(&path).unwrap();
    bytes[8..12].copy_from_slice(&7_u32.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let (loaded, bad) = snapshots.load_newest_reporting(&[metadata(5), metadata(6)]).unwrap();
    assert_eq!(loaded, Some(snapshot(5, 10)));
    assert_eq!(bad[0].file, path);
    assert_eq!(snapshots.purge(&[metadata(5)]).unwrap(), 0);
    snapshots.save(&snapshot(7, 10)).unwrap();
    assert_eq!(snapshots.purge(&[metadata(7)]).unwrap(), 1, "5 goes, 6 stays");
    assert!(fs::read(&path).unwrap() == bytes);
}
