//! What the housekeeper does beside the writer, on real files: final names, and stretches that are prefilled.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft_core::pb::Entry;
use wal::disk::{Disk, Listed, Region, Sink, Source};
use wal::tool::{plan_repair, Held};
use wal::{Options, OsDisk, Wal, WalError};

const SMALL: Options = Options { segment_bytes: 4096 };

fn entry(index: u64, bytes: usize) -> Entry {
    Entry { term: 1, index, ..Entry::normal(vec![index as u8; bytes]) }
}

/// What a rename on the housekeeper's thread does.
#[derive(Clone, Copy, PartialEq)]
enum Rename {
    Slow,
    Panics,
}

/// The real disk with another way to rename.
struct Renaming {
    how: Rename,
    /// A segment was created while the one before it had no final name.
    too_early: AtomicBool,
    /// Where prefilled stretches began.
    prefilled: Mutex<Vec<usize>>,
}

impl Renaming {
    fn new(how: Rename) -> Arc<Self> {
        Arc::new(Renaming { how, too_early: AtomicBool::new(false), prefilled: Mutex::default() })
    }
}

impl Disk for Renaming {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.create_dir(dir)
    }
    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Send>> {
        OsDisk.lock(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        OsDisk.list(dir)
    }
    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn Region>> {
        if with_end(path.parent().unwrap(), "next").iter().any(|other| other != path) {
            self.too_early.store(true, Ordering::Relaxed);
        }
        OsDisk.create(path, len_bytes)
    }
    fn prefill(&self, _: &Path, range: std::ops::Range<usize>) -> io::Result<()> {
        self.prefilled.lock().unwrap().push(range.start);
        Ok(())
    }
    fn map(&self, path: &Path) -> io::Result<Box<dyn Region>> {
        OsDisk.map(path)
    }
    fn read(&self, path: &Path) -> io::Result<Bytes> {
        OsDisk.read(path)
    }
    fn settle(&self, path: &Path) -> io::Result<()> {
        OsDisk.settle(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if std::thread::current().name() == Some("wal-housekeeper") {
            match self.how {
                Rename::Slow => std::thread::sleep(Duration::from_millis(200)),
                Rename::Panics => panic!("the housekeeper of this test dies here"),
            }
        }
        OsDisk.rename(from, to)
    }
    fn link(&self, path: &Path, name: &Path) -> io::Result<()> {
        OsDisk.link(path, name)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_dir(dir)
    }
    fn create_stream(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        OsDisk.create_stream(path)
    }
    fn open_stream(&self, path: &Path) -> io::Result<Box<dyn Source>> {
        OsDisk.open_stream(path)
    }
    fn unique(&self) -> u64 {
        OsDisk.unique()
    }
}

fn with_end(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == end));
    found.sort();
    found
}

/// Eight entries in eight segments, under their final names and nothing else.
fn build(dir: &Path) -> Vec<PathBuf> {
    build_of(dir, 3500)
}

fn build_of(dir: &Path, entry_bytes: usize) -> Vec<PathBuf> {
    let (mut log, _) = Wal::open(dir, SMALL, b"names").unwrap();
    for index in 1..=8 {
        log.save(None, &[entry(index, entry_bytes)]).unwrap();
    }
    drop(log);
    with_end(dir, "next").iter().for_each(|path| fs::remove_file(path).unwrap());
    with_end(dir, "wal")
}

/// The name of a segment that has begun but was not named yet.
fn unnamed(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    path.with_file_name(format!("{}.next", name.split('-').next().unwrap()))
}

#[test]
fn no_segment_begins_before_the_one_before_it_has_its_final_name() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Renaming::new(Rename::Slow);
    let (mut log, _) = Wal::open_on(disk.clone(), dir.path(), SMALL, b"names").unwrap();
    // The second goes on in a new segment, and the third does at once, without one that was prepared.
    for index in 1..=3 {
        log.save(None, &[entry(index, 10_000)]).unwrap();
    }
    assert!(!disk.too_early.load(Ordering::Relaxed));
    drop(log);
    assert_eq!(Wal::open(dir.path(), SMALL, b"names").unwrap().1.held_entries().len(), 3);
}

#[test]
fn a_housekeeper_that_died_ends_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Wal::open_on(Renaming::new(Rename::Panics), dir.path(), SMALL, b"names").unwrap();
    log.save(None, &[entry(1, 10_000)]).unwrap();
    let ended = (0..1000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(5));
        log.sync().err()
    });
    let error = ended.expect("it is noticed");
    assert!(error.is_fatal() && error.to_string().contains("housekeeper"), "{error}");
    assert!(matches!(log.save(None, &[entry(2, 10)]), Err(WalError::Poisoned { .. })));
    drop(log);
    assert_eq!(Wal::open(dir.path(), SMALL, b"names").unwrap().1.held_entries(), [entry(1, 10_000)]);
}

#[test]
fn any_number_of_begun_segments_at_the_end_is_found_and_named() {
    for count in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        let files = build(dir.path());
        for path in &files[files.len() - count..] {
            fs::rename(path, unnamed(path)).unwrap();
        }
        let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
        assert!(plan_repair(&held, &mut |_| {}).unwrap().is_none(), "{count}: nothing is wrong");
        drop(held);
        let (mut log, recovered) = Wal::open(dir.path(), SMALL, b"names").unwrap();
        assert_eq!(recovered.held_entries(), (1..=8).map(|index| entry(index, 3500)).collect::<Vec<_>>());
        assert_eq!(with_end(dir.path(), "wal"), files, "{count}: all have their names");
        log.save(None, &[entry(9, 3500)]).unwrap();
        drop(log);
        assert_eq!(Wal::open(dir.path(), SMALL, b"names").unwrap().1.held_entries().len(), 9);
    }
}

/// Where the last mark stands: behind the last batch if there is room, else it is the watermark.
fn last_mark(bytes: &[u8]) -> std::ops::Range<usize> {
    let flags = |at: usize| bytes[at + 24..at + 28] == [0; 4];
    let last = bytes.windows(4).rposition(|window| window == b"BTCH").filter(|at| flags(*at)).unwrap_or(512);
    last..last + 40
}

#[test]
fn a_segment_cannot_vanish_once_it_has_its_final_name_also_if_recovery_gave_it() {
    // With room for the mark behind the last batch, and without.
    for (entry_bytes, has_room) in [(2000, true), (3500, false)] {
        for adopted in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let files = build_of(dir.path(), entry_bytes);
            let (last, before) = (&files[files.len() - 1], &files[files.len() - 2]);
            if adopted {
                // As after a crash between the first batch and the name.
                fs::rename(last, unnamed(last)).unwrap();
                let mut bytes = fs::read(before).unwrap();
                let mark = last_mark(&bytes);
                assert_eq!(mark.start > 512, has_room);
                bytes[mark].fill(0);
                fs::write(before, bytes).unwrap();
                let (_log, recovered) = Wal::open(dir.path(), SMALL, b"names").unwrap();
                assert_eq!(recovered.held_entries().len(), 8);
            }
            fs::remove_file(last).unwrap();
            let refused = Wal::open(dir.path(), SMALL, b"names").unwrap_err();
            assert!(matches!(refused, WalError::Missing { .. }), "{entry_bytes} {adopted}: {refused}");
            // A person may decide to go on without it.
            let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
            plan_repair(&held, &mut |_| {}).unwrap().unwrap().apply(held).unwrap();
            assert_eq!(Wal::open(dir.path(), SMALL, b"names").unwrap().1.held_entries().len(), 7);
        }
    }
}

#[test]
fn a_begun_segment_that_was_cut_off_is_not_taken_for_an_unused_one() {
    let dir = tempfile::tempdir().unwrap();
    let files = build_of(dir.path(), 2000);
    let last = &files[files.len() - 1];
    let begun = unnamed(last);
    let whole = fs::read(last).unwrap();
    let end = last_mark(&whole).start;
    fs::rename(last, &begun).unwrap();
    // The one before does not say that it is there: that is told by nothing but its own watermark.
    let before = &files[files.len() - 2];
    let mut bytes = fs::read(before).unwrap();
    let mark = last_mark(&bytes);
    bytes[mark].fill(0);
    fs::write(before, bytes).unwrap();
    for cut in (552..end).step_by(8) {
        for shortened in [false, true] {
            let mut bytes = whole.clone();
            bytes[cut..].fill(0);
            bytes.truncate(if shortened { cut } else { whole.len() });
            fs::write(&begun, &bytes).unwrap();
            let refused = Wal::open(dir.path(), SMALL, b"names").unwrap_err();
            assert!(matches!(refused, WalError::Damaged { .. }), "cut at {cut}, shortened {shortened}: {refused}");
            assert!(fs::read(&begun).unwrap() == bytes, "it is left as it is");
        }
    }
    fs::write(&begun, &whole).unwrap();
    assert_eq!(Wal::open(dir.path(), SMALL, b"names").unwrap().1.held_entries().len(), 8);
}

#[test]
fn a_hole_among_begun_segments_is_noticed_and_a_repair_takes_only_what_is_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let files = build(dir.path());
    let last = files.len() - 1;
    for path in &files[last - 2..] {
        fs::rename(path, unnamed(path)).unwrap();
    }
    fs::remove_file(unnamed(&files[last - 1])).unwrap();
    let refused = Wal::open(dir.path(), SMALL, b"names").unwrap_err();
    assert!(matches!(refused, WalError::Missing { .. }), "{refused}");
    let held = Held::open(dir.path(), &mut |_, _| {}).unwrap();
    let plan = plan_repair(&held, &mut |_| {}).unwrap().unwrap();
    assert_eq!(plan.set_aside, [unnamed(&files[last]).file_name().unwrap().to_str().unwrap()]);
    plan.apply(held).unwrap();
    drop(plan);
    let (_log, recovered) = Wal::open(dir.path(), SMALL, b"names").unwrap();
    assert_eq!(recovered.held_entries().len(), 6);
}

#[test]
fn a_begun_segment_whose_place_is_taken_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let files = build(dir.path());
    let (copy, empty) = (unnamed(&files[3]), unnamed(&files[5]));
    fs::copy(&files[3], &copy).unwrap();
    fs::write(&empty, [0; 4096]).unwrap();
    let refused = Wal::open(dir.path(), SMALL, b"names").unwrap_err();
    assert!(matches!(refused, WalError::Missing { .. }), "{refused}");
    assert!(copy.exists());
    fs::remove_file(&copy).unwrap();
    let (_log, recovered) = Wal::open(dir.path(), SMALL, b"names").unwrap();
    assert_eq!(recovered.held_entries().len(), 8);
    assert!(!empty.exists());
}

#[test]
fn prefilling_begins_at_a_page_that_the_writer_is_not_in() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Renaming::new(Rename::Slow);
    let (mut log, _) = Wal::open_on(disk.clone(), dir.path(), Options { segment_bytes: 4 << 20 }, b"names").unwrap();
    for index in 1..=4 {
        log.save(None, &[entry(index, 100)]).unwrap();
    }
    drop(log);
    let starts = disk.prefilled.lock().unwrap().clone();
    assert!(!starts.is_empty() && starts.iter().all(|start| *start > 0 && start % 4096 == 0), "{starts:?}");
}
