//! The log through its public face, on real files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use bytes::Bytes;
use raft_core::pb::{ConfState, Entry, HardState, SnapshotMetadata};
use wal::disk::{Disk, Listed, Region, Sink, Source};
use wal::{Options, OsDisk, Recovered, Wal, WalError};

const SMALL: Options = Options { segment_bytes: 4096 };

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    Entry { term, index, ..Entry::normal(vec![(index % 251) as u8; bytes]) }
}

fn entries(term: u64, from: u64, to: u64, bytes: usize) -> Vec<Entry> {
    (from..=to).map(|index| entry(term, index, bytes)).collect()
}

fn state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit }
}

fn snapshot_at(index: u64, term: u64) -> SnapshotMetadata {
    SnapshotMetadata { conf_state: ConfState { voters: vec![1, 2, 3], ..ConfState::default() }, index, term }
}

fn open(dir: &Path, options: Options) -> (Wal, Recovered) {
    Wal::open(dir, options, b"node 1").expect("the log opens")
}

fn reopen(dir: &Path) -> Recovered {
    open(dir, SMALL).1
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    found.sort();
    found
}

/// Where each batch begins, by its magic (payloads in these tests never contain it).
fn batches(path: &Path) -> Vec<usize> {
    let bytes = fs::read(path).unwrap();
    (1024..bytes.len() - 4).step_by(8).filter(|at| &bytes[*at..*at + 4] == b"BTCH").collect()
}

fn alter(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_saved_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, recovered) = open(dir.path(), SMALL);
    assert!(recovered.fresh && recovered.held_entries().is_empty() && !recovered.needs_snapshot());
    let mut odd = entry(2, 3, 0);
    odd.entry_type = 77;
    log.save(Some(&state(1, 2, 0)), &entries(1, 1, 2, 100)).unwrap();
    log.save(Some(&state(2, 3, 1)), std::slice::from_ref(&odd)).unwrap();
    log.save(Some(&state(2, 3, 2)), &[]).unwrap();
    drop(log);
    let recovered = reopen(dir.path());
    assert!(!recovered.fresh);
    assert_eq!(recovered.torn, None);
    assert_eq!(recovered.metadata, "node 1");
    assert_eq!(recovered.hard_state, state(2, 3, 2));
    let expected = [entries(1, 1, 2, 100), vec![odd]].concat();
    assert_eq!(recovered.held_entries(), expected);
    assert_eq!(recovered.entries(2).unwrap(), &expected[2..]);
    assert!(recovered.entries(3).unwrap().is_empty());
}

#[test]
fn segments_follow_each_other_and_are_named_by_sequence_and_first_index() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path(), SMALL);
    for index in 1..=30 {
        log.save(Some(&state(1, 1, index - 1)), &[entry(1, index, 1000)]).unwrap();
    }
    // A batch that no segment of the usual length can hold.
    log.save(None, &[entry(1, 31, 50_000)]).unwrap();
    log.save(None, &[entry(1, 32, 10)]).unwrap();
    assert!(log.segment_count() > 8);
    drop(log);
    let files = segments(dir.path());
    assert_eq!(files[0].file_name().unwrap(), "0000000000000000-0000000000000001.wal");
    assert!(files[1].file_name().unwrap().to_str().unwrap().starts_with("0000000000000001-"));
    assert!(files.iter().any(|file| fs::metadata(file).unwrap().len() > 50_000));
    let recovered = reopen(dir.path());
    assert_eq!(recovered.held_entries().len(), 32);
    assert_eq!(recovered.entries(30).unwrap().first(), Some(entry(1, 31, 50_000)));
    assert_eq!(recovered.hard_state, state(1, 1, 29));
    // And once more, going on in between.
    let (mut log, _) = open(dir.path(), SMALL);
    log.save(Some(&state(1, 1, 32)), &[entry(1, 33, 3000)]).unwrap();
    drop(log);
    assert_eq!(reopen(dir.path()).held_entries().len(), 33);
}

#[test]
fn space_is_allocated_and_not_sparse() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let (_log, _) = open(dir.path(), Options { segment_bytes: 1 << 20 });
    let metadata = fs::metadata(&segments(dir.path())[0]).unwrap();
    assert_eq!(metadata.len(), 1 << 20);
    assert!(metadata.blocks() * 512 >= 1 << 20, "{} blocks", metadata.blocks());
}

#[test]
fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let held = open(dir.path(), SMALL);
    let refused = Wal::open(dir.path(), SMALL, b"node 1").unwrap_err();
    assert!(matches!(refused, WalError::InUse { .. }), "{refused}");
    drop(held);
    open(dir.path(), SMALL);
}

#[test]
fn another_nodes_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), SMALL);
    let refused = Wal::open(dir.path(), SMALL, b"node 2").unwrap_err();
    assert!(refused.to_string().contains("\"node 1\"") && refused.to_string().contains("\"node 2\""), "{refused}");
}

#[test]
fn a_conflicting_suffix_is_replaced_whatever_the_snapshot_says() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path(), SMALL);
    log.save(Some(&state(1, 1, 5)), &entries(1, 1, 10, 10)).unwrap();
    // A new leader replaces 6.. by a shorter suffix, then a snapshot covers all of it.
    log.save(Some(&state(2, 0, 7)), &entries(2, 6, 7, 10)).unwrap();
    log.save_snapshot(&snapshot_at(7, 2)).unwrap();
    drop(log);
    let recovered = reopen(dir.path());
    assert_eq!(recovered.held_entries(), [entries(1, 1, 5, 10), entries(2, 6, 7, 10)].concat());
    assert!(recovered.entries(7).unwrap().is_empty(), "8 to 10 of the old leader must not come back");
    assert_eq!(recovered.snapshots, [snapshot_at(7, 2)]);
}

#[test]
fn an_installed_snapshot_resets_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path(), SMALL);
    log.save(Some(&state(1, 1, 3)), &entries(1, 1, 10, 10)).unwrap();
    log.save_snapshot(&snapshot_at(2, 1)).unwrap();
    log.save_snapshot(&snapshot_at(100, 4)).unwrap();
    assert_eq!(log.last_index(), 100);
    let recovered = {
        drop(log);
        reopen(dir.path())
    };
    // Even if the node dies before it saves the hard state that goes with it.
    assert_eq!(recovered.hard_state, state(4, 0, 100));
    assert_eq!(recovered.snapshots, [snapshot_at(100, 4)], "nothing older leads anywhere");
    assert!(recovered.held_entries().is_empty() && recovered.needs_snapshot());
    let (mut log, _) = open(dir.path(), SMALL);
    log.save(Some(&state(4, 0, 101)), &entries(4, 101, 102, 10)).unwrap();
    drop(log);
    assert_eq!(reopen(dir.path()).entries(100).unwrap(), entries(4, 101, 102, 10));
}

#[test]
fn a_snapshot_inside_the_log_that_contradicts_it_resets_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path(), SMALL);
    log.save(Some(&state(1, 1, 3)), &entries(1, 1, 10, 10)).unwrap();
    log.save_snapshot(&snapshot_at(8, 3)).unwrap();
    drop(log);
    let recovered = reopen(dir.path());
    assert!(recovered.held_entries().is_empty());
    assert_eq!((recovered.first_index, recovered.hard_state.commit), (9, 8));
}

#[test]
fn old_segments_go_once_a_snapshot_covers_them() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path(), SMALL);
    for index in 1..=40 {
        log.save(Some(&state(1, 1, index)), &[entry(1, index, 800)]).unwrap();
    }
    assert_eq!(log.purge(40).unwrap(), 0, "without a snapshot nothing may go");
    let before = log.segment_count();
    log.save_snapshot(&snapshot_at(30, 1)).unwrap();
    let purged = log.purge(40).unwrap();
    assert!(purged > 5 && log.segment_count() == before - purged);
    drop(log);
    assert_eq!(segments(dir.path()).len(), before - purged);
    let recovered = reopen(dir.path());
    assert!(recovered.first_index > 20 && recovered.first_index <= 31 && recovered.needs_snapshot());
    assert_eq!(recovered.entries(30).unwrap(), entries(1, 31, 40, 800));
    assert_eq!(recovered.snapshots, [snapshot_at(30, 1)]);
    // A segment that is still needed is missed.
    let files = segments(dir.path());
    fs::remove_file(&files[0]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    let refused = Wal::open(dir.path(), SMALL, b"node 1").unwrap_err();
    assert!(matches!(refused, WalError::Missing { .. }), "{refused}");
}

#[test]
fn a_hole_between_segments_and_a_missing_last_one_are_noticed() {
    for position in [1, 2, usize::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path(), SMALL);
        for index in 1..=12 {
            log.save(None, &[entry(1, index, 1000)]).unwrap();
        }
        drop(log);
        for file in fs::read_dir(dir.path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "next") {
                fs::remove_file(path).unwrap();
            }
        }
        let files = segments(dir.path());
        fs::remove_file(&files[position.min(files.len() - 1)]).unwrap();
        let refused = Wal::open(dir.path(), SMALL, b"node 1").unwrap_err();
        assert!(matches!(refused, WalError::Missing { .. }), "{refused}");
    }
}

#[test]
fn what_would_contradict_the_log_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path(), SMALL);
    log.save(Some(&state(2, 1, 5)), &entries(2, 1, 10, 10)).unwrap();
    let commit_beyond = log.save(Some(&state(2, 1, 11)), &[]);
    let gap = log.save(None, &[entry(2, 12, 1)]);
    let committed = log.save(None, &[entry(2, 5, 1)]);
    let inner_gap = log.save(None, &[entry(2, 11, 1), entry(2, 13, 1)]);
    let older_term = log.save(None, &[entry(1, 11, 1)]);
    let term_back = log.save(Some(&state(1, 1, 5)), &[]);
    let second_vote = log.save(Some(&state(2, 3, 5)), &[]);
    let commit_back = log.save(Some(&state(2, 1, 4)), &[]);
    let snapshot_of_other_term = log.save_snapshot(&snapshot_at(4, 1));
    for refused in [
        commit_beyond,
        gap,
        committed,
        inner_gap,
        older_term,
        term_back,
        second_vote,
        commit_back,
        snapshot_of_other_term,
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, WalError::Refused { .. }) && !error.is_fatal(), "{error}");
    }
    log.save(Some(&state(2, 1, 11)), &[entry(2, 11, 1)]).unwrap();
    drop(log);
    assert_eq!(reopen(dir.path()).held_entries().len(), 11);
}

/// A log of five batches in one segment. The watermark is taken out of it, as if the system had not written it back yet.
fn five_batches() -> (tempfile::TempDir, PathBuf, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path(), Options { segment_bytes: 32 << 10 });
    for index in 1..=5 {
        log.save(Some(&state(1, 1, index - 1)), &[entry(1, index, 3000)]).unwrap();
    }
    drop(log);
    let path = segments(dir.path()).remove(0);
    alter(&path, |bytes| bytes[512..552].fill(0));
    let at = batches(&path);
    assert_eq!(at.len(), 7, "the first batch of the segment, five, and a mark");
    (dir, path, at)
}

#[test]
fn a_torn_last_batch_is_cut_and_the_log_goes_on() {
    let (dir, path, at) = five_batches();
    alter(&path, |bytes| bytes[at[5] + 1000..].fill(0));
    let (mut log, recovered) = open(dir.path(), SMALL);
    let torn = recovered.torn.clone().unwrap();
    assert_eq!((torn.file, torn.offset), (path.clone(), at[5] as u64));
    assert_eq!(recovered.held_entries(), entries(1, 1, 4, 3000));
    assert_eq!(recovered.hard_state.commit, 3);
    log.save(Some(&state(1, 1, 5)), &[entry(1, 5, 20)]).unwrap();
    drop(log);
    let recovered = reopen(dir.path());
    assert_eq!((recovered.torn.as_ref(), recovered.held_entries().len()), (None, 5));
}

#[test]
fn damage_before_the_last_batch_is_refused_where_it_stands() {
    // The cases in which etcd's log loses entries 3 to 5 without an error.
    type Damage = fn(&mut [u8], usize);
    let cases: [(&str, Damage); 4] = [
        ("a zeroed sector", |bytes, at| bytes[at..].iter_mut().skip(1024).take(512).for_each(|byte| *byte = 0)),
        ("a zeroed header", |bytes, at| bytes[at..at + 40].fill(0)),
        ("a flipped bit in the length", |bytes, at| bytes[at + 17] ^= 1),
        ("a flipped bit in the payload", |bytes, at| bytes[at + 700] ^= 0x80),
    ];
    for (name, damage) in cases {
        let (dir, path, at) = five_batches();
        alter(&path, |bytes| damage(bytes, at[3]));
        let before = fs::read(&path).unwrap();
        match Wal::open(dir.path(), SMALL, b"node 1").unwrap_err() {
            WalError::Damaged { file, offset, .. } => {
                assert_eq!((file, offset), (path.clone(), at[3] as u64), "{name}")
            }
            other => panic!("{name}: {other}"),
        }
        assert!(fs::read(&path).unwrap() == before, "{name}: nothing may be changed");
    }
}

#[test]
fn the_mark_proves_the_last_batch_too() {
    let (dir, path, at) = five_batches();
    alter(&path, |bytes| bytes[at[5] + 1000] ^= 1);
    let refused = Wal::open(dir.path(), SMALL, b"node 1").unwrap_err();
    assert!(matches!(refused, WalError::Damaged { offset, .. } if offset == at[5] as u64), "{refused}");
}

#[test]
fn the_watermark_proves_what_the_mark_went_down_with() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path(), SMALL);
    for index in 1..=5 {
        log.save(None, &[entry(1, index, 20)]).unwrap();
    }
    drop(log);
    let path = segments(dir.path()).remove(0);
    let at = batches(&path);
    alter(&path, |bytes| bytes[at[2] + 8..].fill(0));
    let refused = Wal::open(dir.path(), SMALL, b"node 1").unwrap_err();
    assert!(matches!(refused, WalError::Damaged { offset, .. } if offset == at[2] as u64), "{refused}");
}

#[test]
fn every_damaged_byte_of_a_header_is_refused() {
    let (dir, path, _) = five_batches();
    let good = fs::read(&path).unwrap();
    for at in 0..64 {
        alter(&path, |bytes| bytes[at] ^= 0x10);
        let refused = Wal::open(dir.path(), SMALL, b"node 1").unwrap_err();
        assert!(matches!(refused, WalError::Damaged { offset: 0, .. }), "byte {at}: {refused}");
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn another_format_version_is_named() {
    let (dir, path, _) = five_batches();
    alter(&path, |bytes| {
        bytes[8..12].copy_from_slice(&7_u32.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    });
    let refused = Wal::open(dir.path(), SMALL, b"node 1").unwrap_err();
    assert!(matches!(refused, WalError::OtherVersion { found: 7, known: 1, .. }), "{refused}");
}

#[test]
fn a_file_in_the_wrong_place_is_refused() {
    let (dir, path, _) = five_batches();
    let name = |text: &str| dir.path().join(text);
    fs::rename(&path, name("0000000000000003-0000000000000001.wal")).unwrap();
    let refused = Wal::open(dir.path(), SMALL, b"node 1").unwrap_err();
    assert!(refused.to_string().contains("another file"), "{refused}");
    fs::rename(name("0000000000000003-0000000000000001.wal"), name("3-1.wal")).unwrap();
    let refused = Wal::open(dir.path(), SMALL, b"node 1").unwrap_err();
    assert!(refused.to_string().contains("name"), "{refused}");
}

#[test]
fn stale_bytes_of_another_log_do_not_validate() {
    // Same operations, so same lengths and offsets, in another log.
    let (dir, path, at) = five_batches();
    let (_other, other_path, other_at) = five_batches();
    assert_eq!(at, other_at);
    let stale = fs::read(other_path).unwrap();
    alter(&path, |bytes| bytes[at[4]..].copy_from_slice(&stale[at[4]..]));
    let recovered = open(dir.path(), SMALL).1;
    assert_eq!(recovered.held_entries(), entries(1, 1, 3, 3000));
    assert!(recovered.torn.is_some());
}

#[test]
fn an_exchanged_batch_breaks_the_chain() {
    let (dir, path, at) = five_batches();
    let old = fs::read(&path).unwrap();
    // Cut after batch 3, write others of the same shape, then bring an old one back in its old place.
    alter(&path, |bytes| bytes[at[4]..].fill(0));
    let (mut log, _) = open(dir.path(), SMALL);
    for index in 4..=5 {
        let other = Entry { term: 1, index, ..Entry::normal(vec![99; 3000]) };
        log.save(Some(&state(1, 1, index - 1)), &[other]).unwrap();
    }
    drop(log);
    alter(&path, |bytes| bytes[at[4]..at[5]].copy_from_slice(&old[at[4]..at[5]]));
    let refused = Wal::open(dir.path(), SMALL, b"node 1").unwrap_err();
    assert!(refused.to_string().contains("exchanged"), "{refused}");
}

#[test]
fn an_unused_prepared_segment_is_removed_and_a_begun_one_is_adopted() {
    let (dir, path, _) = five_batches();
    fs::write(dir.path().join("0000000000000001.next"), [0; 4096]).unwrap();
    drop(open(dir.path(), SMALL));
    assert!(!dir.path().join("0000000000000001.next").exists());

    let (mut log, _) = open(dir.path(), SMALL);
    for index in 6..=20 {
        log.save(Some(&state(1, 1, index)), &[entry(1, index, 2000)]).unwrap();
    }
    drop(log);
    let files = segments(dir.path());
    assert_eq!(files[0], path);
    let begun = dir.path().join("0000000000000001.next");
    for later in &files[2..] {
        fs::remove_file(later).unwrap();
    }
    let _ = fs::remove_file(dir.path().join(format!("{:016x}.next", files.len())));
    let last_of_first = batches(&path);
    // As after a crash before the rename; nothing of the seal was written then.
    fs::rename(&files[1], &begun).unwrap();
    alter(&begun, |bytes| {
        let at = bytes.windows(4).rposition(|window| window == b"BTCH").unwrap();
        bytes[at..].fill(0);
    });
    let recovered = open(dir.path(), SMALL).1;
    assert!(recovered.held_entries().len() > 5 && last_of_first.len() > 6);
    assert!(files[1].exists() && !begun.exists());
}

/// The real disk, with syncs of segments that fail when told to.
struct FailingSync {
    disk: OsDisk,
    failing: Arc<AtomicBool>,
}

struct FailingRegion {
    region: Box<dyn Region>,
    failing: Arc<AtomicBool>,
}

impl Region for FailingRegion {
    fn len_bytes(&self) -> usize {
        self.region.len_bytes()
    }
    fn slice_mut(&mut self, range: std::ops::Range<usize>) -> io::Result<&mut [u8]> {
        self.region.slice_mut(range)
    }
    fn sync(&mut self, range: std::ops::Range<usize>) -> io::Result<()> {
        match self.failing.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the disk is gone")),
            false => self.region.sync(range),
        }
    }
}

impl FailingSync {
    fn wrap(&self, region: io::Result<Box<dyn Region>>) -> io::Result<Box<dyn Region>> {
        region.map(|region| Box::new(FailingRegion { region, failing: self.failing.clone() }) as Box<dyn Region>)
    }
}

impl Disk for FailingSync {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Send>> {
        self.disk.lock(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        self.disk.list(dir)
    }
    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn Region>> {
        self.wrap(self.disk.create(path, len_bytes))
    }
    fn map(&self, path: &Path) -> io::Result<Box<dyn Region>> {
        self.wrap(self.disk.map(path))
    }
    fn read(&self, path: &Path) -> io::Result<Bytes> {
        self.disk.read(path)
    }
    fn settle(&self, path: &Path) -> io::Result<()> {
        self.disk.settle(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn link(&self, path: &Path, name: &Path) -> io::Result<()> {
        self.disk.link(path, name)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn create_stream(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        self.disk.create_stream(path)
    }
    fn open_stream(&self, path: &Path) -> io::Result<Box<dyn Source>> {
        self.disk.open_stream(path)
    }
    fn unique(&self) -> u64 {
        self.disk.unique()
    }
}

#[test]
fn a_failed_sync_is_final_for_the_handle() {
    let dir = tempfile::tempdir().unwrap();
    let failing = Arc::new(AtomicBool::new(false));
    let disk = Arc::new(FailingSync { disk: OsDisk, failing: failing.clone() });
    let (mut log, _) = Wal::open_on(disk, dir.path(), SMALL, b"node 1").unwrap();
    log.save(None, &[entry(1, 1, 10)]).unwrap();
    failing.store(true, Ordering::Relaxed);
    let first = log.save(None, &[entry(1, 2, 10)]).unwrap_err();
    assert!(first.is_fatal() && first.to_string().contains("the disk is gone"), "{first}");
    // The disk recovers, the handle does not.
    failing.store(false, Ordering::Relaxed);
    for later in [
        log.save(None, &[entry(1, 2, 10)]),
        log.save(Some(&state(1, 0, 1)), &[]),
        log.save_snapshot(&snapshot_at(1, 1)),
        log.sync(),
        log.purge(1).map(drop),
    ] {
        assert!(matches!(later.unwrap_err(), WalError::Poisoned { .. }));
    }
    drop(log);
    assert!(!reopen(dir.path()).held_entries().is_empty());
}

#[test]
fn a_file_is_never_mapped_for_reading_and_storing_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path(), SMALL);
    let path = segments(dir.path()).remove(0);
    assert_eq!(OsDisk.read(&path).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    assert!(OsDisk.map(&path).is_err());
    drop(log);
    let _lock = OsDisk.lock(dir.path()).unwrap();
    let (one, two) = (OsDisk.read(&path).unwrap(), OsDisk.read(&path).unwrap());
    assert!(OsDisk.map(&path).is_err());
    drop(one);
    assert!(OsDisk.map(&path).is_err());
    drop(two);
    OsDisk.map(&path).unwrap();
}

#[test]
fn a_file_is_mapped_only_while_its_directory_is_locked_and_keeps_it_locked() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), SMALL));
    let path = segments(dir.path()).remove(0);
    let refusals = [
        OsDisk.read(&path).map(drop).unwrap_err(),
        OsDisk.map(&path).map(drop).unwrap_err(),
        OsDisk.create(&dir.path().join("new"), 4096).map(drop).unwrap_err(),
    ];
    assert!(refusals.iter().all(|error| error.kind() == io::ErrorKind::PermissionDenied), "{refusals:?}");
    assert!(!dir.path().join("new").exists());
    let lock = OsDisk.lock(dir.path()).unwrap();
    let region = OsDisk.map(&path).unwrap();
    drop(lock);
    let refused = Wal::open(dir.path(), SMALL, b"node 1").unwrap_err();
    assert!(matches!(refused, WalError::InUse { .. }), "the map is still there: {refused}");
    drop(region);
    reopen(dir.path());
}

#[test]
fn a_directory_that_was_there_is_made_durable_all_the_same() {
    // There it cannot be: a directory of the system's own, which it does not sync.
    let error = OsDisk.create_dir(Path::new("/proc/self")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
}

#[test]
fn a_save_makes_durable_what_an_append_before_it_left() {
    for (appended, more) in [(Some(state(5, 2, 0)), vec![]), (None, vec![entry(5, 2, 10)])] {
        let dir = tempfile::tempdir().unwrap();
        let failing = Arc::new(AtomicBool::new(false));
        let disk = Arc::new(FailingSync { disk: OsDisk, failing: failing.clone() });
        let (mut log, _) = Wal::open_on(disk, dir.path(), SMALL, b"node 1").unwrap();
        log.save(None, &[entry(1, 1, 10)]).unwrap();
        log.append(appended.as_ref(), &more).unwrap();
        failing.store(true, Ordering::Relaxed);
        // It repeats what was appended, or says nothing at all; what it promises must have been synced.
        assert!(log.save(appended.as_ref(), &[]).is_err(), "it was not synced");
    }
}

#[test]
fn the_highest_index_of_all_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path(), SMALL);
    let refused = log.save_snapshot(&snapshot_at(u64::MAX, 1)).unwrap_err();
    assert!(matches!(refused, WalError::Refused { .. }), "{refused}");
    log.save_snapshot(&snapshot_at(u64::MAX - 2, 1)).unwrap();
    let last = entry(1, u64::MAX - 1, 10);
    let refused = log.save(None, &[last.clone(), entry(1, u64::MAX, 10)]).unwrap_err();
    assert!(matches!(refused, WalError::Refused { .. }), "{refused}");
    log.save(None, std::slice::from_ref(&last)).unwrap();
    let refused = log.save(None, &[entry(1, u64::MAX, 10)]).unwrap_err();
    assert!(matches!(refused, WalError::Refused { .. }), "{refused}");
    // On to the next segment.
    log.save_snapshot(&snapshot_at(u64::MAX - 1, 1)).unwrap();
    for term in 2..100 {
        log.save(Some(&state(term, 0, u64::MAX - 1)), &[]).unwrap();
    }
    assert!(log.segment_count() > 1);
    drop(log);
    assert_eq!(reopen(dir.path()).entries(u64::MAX - 2).unwrap(), [last]);
}
