//! What several files say together: every set of files that four segments can leave has one verdict, and it is the right
//! one.
//!
//! Of each of the four segments there is nothing, the file under its final name, the same under its temporary name, a
//! prepared one that was never begun (zeros, or half a header), a final name with a damaged header, two files at once, or a
//! begun one of another log or of another length. A fifth may be prepared. All combinations are tried, against a statement of the rule that shares nothing with the code.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use raft_core::pb::{ConfState, Entry, HardState, SnapshotMetadata};
use wal::{recover_images, Image, Options, Wal, WalError};

const SEGMENTS: usize = 4;
const SEGMENT_BYTES: u64 = 4096;
/// Recorded in the last segment: the log may begin after it, for its file stands for what came before.
const SNAPSHOT_INDEX: u64 = 2;

/// What there is of one segment.
#[derive(Clone, Copy, Debug, PartialEq)]
enum There {
    Nothing,
    Published,
    /// Under its temporary name, and in use.
    Begun,
    Blank,
    /// Half a header.
    Debris,
    DamagedHeader,
    /// The final name and a prepared file that holds nothing.
    PublishedAndBlank,
    /// The final name and the same once more under the temporary one.
    PublishedAndBegun,
    /// Under its temporary name, and in use by another log.
    OfAnotherLog,
    /// Under its temporary name, in use, and longer than it was.
    Longer,
}

const ALL: [There; 10] = [
    There::Nothing,
    There::Published,
    There::Begun,
    There::Blank,
    There::Debris,
    There::DamagedHeader,
    There::PublishedAndBlank,
    There::PublishedAndBegun,
    There::OfAnotherLog,
    There::Longer,
];

/// Entry n is in segment n - 1.
fn build(dir: &Path) -> Vec<Image> {
    let (mut log, _) = Wal::open(dir, Options { segment_bytes: SEGMENT_BYTES }, b"sets").unwrap();
    for index in 1..=SEGMENTS as u64 {
        log.save(None, &[Entry { term: 1, index, ..Entry::normal(vec![7; 2300]) }]).unwrap();
    }
    let state = HardState { term: 1, vote: 1, commit: SNAPSHOT_INDEX };
    log.save(Some(&state), &[]).unwrap();
    let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
    log.save_snapshot(&SnapshotMetadata { conf_state, index: SNAPSHOT_INDEX, term: 1 }).unwrap();
    drop(log);
    let mut images: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .filter(|(name, _)| name.ends_with(".wal"))
        .map(|(name, bytes)| Image { name, bytes: Bytes::from(bytes) })
        .collect();
    images.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(images.len(), SEGMENTS);
    images
}

fn prepared(sequence: usize, bytes: Vec<u8>) -> Image {
    Image { name: format!("{sequence:016x}.next"), bytes: Bytes::from(bytes) }
}

fn files(of: &Image, other: &Image, sequence: usize, there: There) -> Vec<Image> {
    let blank = || prepared(sequence, vec![0; SEGMENT_BYTES as usize]);
    let begun = || prepared(sequence, of.bytes.to_vec());
    match there {
        There::Nothing => vec![],
        There::Published => vec![of.clone()],
        There::Begun => vec![begun()],
        There::Blank => vec![blank()],
        There::Debris => {
            let mut bytes = vec![0; SEGMENT_BYTES as usize];
            bytes[..30].copy_from_slice(&of.bytes[..30]);
            vec![prepared(sequence, bytes)]
        }
        There::DamagedHeader => {
            let mut bytes = of.bytes.to_vec();
            bytes[20] ^= 1;
            vec![Image { name: of.name.clone(), bytes: Bytes::from(bytes) }]
        }
        There::PublishedAndBlank => vec![of.clone(), blank()],
        There::PublishedAndBegun => vec![of.clone(), begun()],
        There::OfAnotherLog => vec![prepared(sequence, other.bytes.to_vec())],
        There::Longer => vec![prepared(sequence, [&of.bytes[..], &[0; 4096]].concat())],
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    /// No log was ever acknowledged.
    Fresh,
    /// Sound, and it begins with this segment.
    From(usize),
    Refused,
}

/// The rule. A log is the segments from one on, all of those that have their final names, then those that have begun. It
/// is whole if there is none missing in between, none at the end (the last segment is in use, those before it say that
/// one follows), and none at the beginning that no snapshot stands for. Prepared files that hold nothing may lie where
/// the log has gone past, and one at its end.
fn rule(set: &[There; SEGMENTS], fifth: bool) -> Verdict {
    let holds_final_name = |there: &There| {
        use There::{DamagedHeader, Published, PublishedAndBegun, PublishedAndBlank};
        matches!(there, Published | PublishedAndBlank | PublishedAndBegun | DamagedHeader)
    };
    let Some(first) = set.iter().position(holds_final_name) else {
        // Creation was cut off, if that is all: the first segment prepared, and nothing more than that.
        let only_the_first = set[1..].iter().all(|there| *there == There::Nothing) && !fifth;
        let holds_nothing = matches!(set[0], There::Nothing | There::Blank | There::Debris);
        return if only_the_first && holds_nothing { Verdict::Fresh } else { Verdict::Refused };
    };
    let last_named = set.iter().rposition(holds_final_name).unwrap();
    let whole_names =
        set[first..=last_named].iter().all(|there| matches!(there, There::Published | There::PublishedAndBlank));
    let passed_by = set[..first].iter().all(|there| matches!(there, There::Nothing | There::Blank | There::Debris));
    let begun = set[last_named + 1..].iter().all(|there| *there == There::Begun);
    // Entry `first` is the last one before the log.
    let anchored = first as u64 <= SNAPSHOT_INDEX;
    match whole_names && passed_by && begun && anchored {
        true => Verdict::From(first),
        false => Verdict::Refused,
    }
}

#[test]
fn every_set_of_files_has_the_one_verdict_that_follows_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let segments = build(dir.path());
    let another = tempfile::tempdir().unwrap();
    let others = build(another.path());
    let (mut fresh, mut sound, mut refused) = (0, 0, 0);
    for number in 0..ALL.len().pow(SEGMENTS as u32) {
        let set: [There; SEGMENTS] = std::array::from_fn(|at| ALL[number / ALL.len().pow(at as u32) % ALL.len()]);
        for fifth in [false, true] {
            let mut images: Vec<_> =
                (0..SEGMENTS).flat_map(|at| files(&segments[at], &others[at], at, set[at])).collect();
            if fifth {
                images.push(prepared(SEGMENTS, vec![0; SEGMENT_BYTES as usize]));
            }
            // The order in which a directory lists its files means nothing.
            let turn = number % images.len().max(1);
            images.rotate_left(turn);
            let expected = rule(&set, fifth);
            match (recover_images(Path::new("wal"), &images), expected) {
                (Ok(recovered), Verdict::Fresh) => {
                    assert!(recovered.fresh && recovered.held_entries().is_empty(), "{set:?}");
                    fresh += 1;
                }
                (Ok(recovered), Verdict::From(first)) => {
                    let indexes: Vec<_> = recovered.held_entries().iter().map(|entry| entry.unwrap().index).collect();
                    let expected: Vec<_> = (first as u64 + 1..=SEGMENTS as u64).collect();
                    assert!(!recovered.fresh && indexes == expected, "{set:?}: {indexes:?}");
                    assert_eq!(recovered.entries(SNAPSHOT_INDEX).unwrap().len(), SEGMENTS - SNAPSHOT_INDEX as usize);
                    assert_eq!(recovered.entries(0).is_err(), first > 0, "entries that are gone are not passed over");
                    sound += 1;
                }
                (Err(WalError::Damaged { .. } | WalError::Missing { .. }), Verdict::Refused) => refused += 1,
                (found, expected) => panic!("{set:?}, prepared {fifth}: {expected:?}, but {found:?}"),
            }
        }
    }
    println!("verdicts over sets of files: {fresh} fresh, {sound} sound, {refused} refused");
    assert!(fresh > 0 && sound > 50 && refused > 1000);
}

#[test]
fn what_the_log_does_not_reach_is_no_empty_list() {
    let dir = tempfile::tempdir().unwrap();
    let recovered = recover_images(Path::new("wal"), &build(dir.path())).unwrap();
    assert!(recovered.entries(SEGMENTS as u64).unwrap().is_empty());
    for beyond in [SEGMENTS as u64 + 1, u64::MAX - 1, u64::MAX] {
        let error = recovered.entries(beyond).unwrap_err();
        assert!(error.to_string().contains("begins with entry 1 and ends with entry 4"), "{error}");
    }
}
