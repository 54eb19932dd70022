//! `raftexample wal …` as a person runs it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use raft_core::pb::{Entry, HardState};
use wal::{Options, Wal};

fn raftexample(words: &[&str], dir: &Path) -> Output {
    let program = tests::cluster::raftexample();
    Command::new(program).arg("wal").args(words).arg(dir).output().expect("raftexample runs")
}

/// What it ends with if nobody reads what it prints any more.
fn code_unread(words: &[&str], dir: &Path) -> Option<i32> {
    let (output, reader) = UnixStream::pair().expect("sockets");
    drop(reader);
    let program = tests::cluster::raftexample();
    let task =
        Command::new(program).arg("wal").args(words).arg(dir).stdout(Stdio::from(OwnedFd::from(output))).status();
    task.expect("raftexample runs").code()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_log_is_dumped_verified_and_repaired_from_the_command_line() {
    let data = tempfile::tempdir().expect("a directory");
    let dir = data.path().join("wal");
    let (mut log, _) = Wal::open(&dir, Options { segment_bytes: 8192 }, b"tool").expect("a log");
    for index in 1..=3 {
        let state = HardState { term: 1, vote: 1, commit: index };
        log.save(Some(&state), &[Entry { term: 1, index, ..Entry::normal(vec![7; 500]) }]).expect("save");
    }
    let in_use = raftexample(&["verify"], data.path());
    assert_eq!(in_use.status.code(), Some(1), "a running node's log is left alone");
    drop(log);

    let sound = raftexample(&["verify"], data.path());
    assert_eq!(sound.status.code(), Some(0));
    assert!(text(&sound).starts_with("sound: 3 entries from index 1, term 1, vote 1, commit 3"), "{}", text(&sound));
    let dump = raftexample(&["dump"], &dir);
    assert!(text(&dump).contains("index 2 term 1, 500 bytes  ok") && text(&dump).ends_with("verdict: sound\n"));

    let path = fs::read_dir(&dir).expect("the log").map(|file| file.expect("a file").path()).next().expect("a segment");
    let mut bytes = fs::read(&path).expect("the segment");
    let second = bytes.windows(100).position(|window| window == [7; 100]).expect("the first entry") + 600;
    bytes[second + 50] ^= 1;
    fs::write(&path, &bytes).expect("the segment");

    let damaged = raftexample(&["verify"], &dir);
    assert_eq!(damaged.status.code(), Some(2));
    assert!(text(&damaged).contains("is damaged at offset"), "{}", text(&damaged));
    assert!(text(&damaged).ends_with("; the first damaged record is entry index 2 term 1\n"), "{}", text(&damaged));
    let json = raftexample(&["dump", "--json"], &dir);
    assert_eq!(json.status.code(), Some(2));
    let items: Vec<serde_json::Value> =
        text(&json).lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect();
    assert!(items.iter().any(|item| item["what"] == "batch" && item["valid"] == false));
    assert!(items.iter().any(|item| item["kind"] == "entry" && item["index"] == 3), "what follows is still shown");
    assert!(items.iter().any(|item| item["kind"] == "entry" && item["index"] == 2 && item["valid"] == false));

    let dry = raftexample(&["repair"], &dir);
    assert_eq!(dry.status.code(), Some(2));
    assert!(text(&dry).contains("end at index 1; 1 readable entries"), "{}", text(&dry));
    assert!(fs::read(&path).expect("the segment") == bytes, "a dry run changes nothing");
    for task in ["verify", "dump", "repair"] {
        assert_eq!(code_unread(&[task], &dir), Some(2), "{task}");
    }
    assert_eq!(code_unread(&["repair", "--yes"], &dir), Some(0), "it is done all the same");
    assert!(text(&raftexample(&["verify"], &dir)).starts_with("sound: 1 entries"));
    let nowhere = raftexample(&["dump"], &data.path().join("nowhere"));
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("no such directory"));

    // Nothing can be cut where not even the beginning is left; and what another version has written is not damaged.
    let mut bytes = fs::read(&path).expect("the segment");
    let head = bytes[..16].to_vec();
    bytes[8..12].copy_from_slice(&7_u32.to_le_bytes());
    fs::write(&path, &bytes).expect("the segment");
    for task in ["verify", "dump", "repair"] {
        let damaged = raftexample(&[task], &dir);
        assert_eq!(damaged.status.code(), Some(2), "{task}: {}", text(&damaged));
        assert!(text(&damaged).contains("its header cannot be read"), "{task}: {}", text(&damaged));
    }
    let checksum = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, &bytes).expect("the segment");
    for task in ["verify", "dump", "repair"] {
        let other = raftexample(&[task], &dir);
        assert_eq!(other.status.code(), Some(1), "{task}: {}", text(&other));
        let said = text(&other) + &String::from_utf8_lossy(&other.stderr);
        assert!(said.contains("format version 7") && !said.contains("damaged"), "{task}: {said}");
    }
    bytes[..16].copy_from_slice(&head);
    fs::write(&path, &bytes).expect("the segment");
    assert_eq!(raftexample(&["verify"], &dir).status.code(), Some(0));
}
