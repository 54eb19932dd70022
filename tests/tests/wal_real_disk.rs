//! The log on a real file system: killed in the middle of its work, and on a disk that is full.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use raft_core::pb::{ConfState, Entry, HardState, SnapshotMetadata};
use tests::random::Random;
use wal::{Options, Wal, WalError};

const KILLS: usize = 200;
/// Set for the process that appends: the directory.
const APPENDER: &str = "WAL_TEST_APPENDER";
/// Set for the process that fills a disk: where to mount it.
const FILLER: &str = "WAL_TEST_FILLER";

fn entry(index: u64, bytes: usize) -> Entry {
    Entry { term: 1, index, ..Entry::normal(vec![index as u8; bytes]) }
}

fn bytes_of(index: u64) -> usize {
    [10, 120, 900, 5000][index as usize % 4]
}

/// Appends, and prints what was acknowledged.
#[test]
#[ignore = "not a test of its own: the process that the next one starts and kills"]
fn appender() {
    let Some(dir) = std::env::var_os(APPENDER) else { return };
    let options = Options { segment_bytes: 64 << 10 };
    let (mut log, recovered) = Wal::open(Path::new(&dir), options, b"appender").expect("the log opens");
    let mut last = log.last_index();
    let mut state = recovered.hard_state;
    state.term = 1;
    let mut out = std::io::stdout();
    loop {
        let count = 1 + last % 3;
        let entries: Vec<_> = (last + 1..=last + count).map(|index| entry(index, bytes_of(index))).collect();
        log.save(Some(&state), &entries).expect("save");
        last += count;
        writeln!(out, "acknowledged {last}").and_then(|()| out.flush()).expect("standard output");
        state.commit = last;
        log.save(Some(&state), &[]).expect("commit");
        if last % 50 < count {
            let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
            log.save_snapshot(&SnapshotMetadata { conf_state, index: last - 20, term: 1 }).expect("snapshot");
            log.purge(last - 20).expect("purge");
        }
    }
}

fn start_appender(dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "appender", "--nocapture", "--test-threads=1"])
        .env(APPENDER, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the appender starts")
}

#[test]
fn a_process_that_is_killed_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut random = Random::new(5);
    let mut acknowledged = 0;
    let mut torn = 0;
    for kill in 0..KILLS {
        let mut child = start_appender(dir.path());
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        // Killed at no particular point of its work: so many acknowledgements, and then a little.
        let mut left = 1 + random.below(60);
        let mut lines = lines
            .map_while(Result::ok)
            .filter_map(|line| line.rsplit_once("acknowledged ").and_then(|(_, number)| number.parse::<u64>().ok()));
        for number in lines.by_ref() {
            acknowledged = number;
            left -= 1;
            if left == 0 {
                break;
            }
        }
        assert!(left == 0, "kill {kill}: the appender ended by itself after {acknowledged}");
        std::thread::sleep(Duration::from_micros(random.below(400)));
        child.kill().expect("kill");
        acknowledged = lines.last().unwrap_or(acknowledged);
        child.wait().expect("it has ended");
        let options = Options { segment_bytes: 64 << 10 };
        let (log, recovered) = Wal::open(dir.path(), options, b"appender")
            .unwrap_or_else(|error| panic!("kill {kill} after {acknowledged}: {error}"));
        assert!(log.last_index() >= acknowledged, "kill {kill}: {} of {acknowledged} are left", log.last_index());
        assert!(log.last_index() <= acknowledged + 3, "kill {kill}: {} were never appended", log.last_index());
        let after = recovered.snapshots.last().map_or(0, |snapshot| snapshot.index);
        let expected: Vec<_> = (after + 1..=log.last_index()).map(|index| entry(index, bytes_of(index))).collect();
        assert!(recovered.entries(after) == expected, "kill {kill}: other entries than were appended");
        torn += usize::from(recovered.torn.is_some());
    }
    println!("wal kill -9: {KILLS} times, {acknowledged} entries acknowledged, 0 lost, {torn} torn tails cut");
    assert!(acknowledged > KILLS as u64);
}

/// Appends until the disk is full, and goes on when there is room again.
fn fill(dir: &Path) {
    let mut state = HardState { term: 1, vote: 1, commit: 0 };
    let options = Options { segment_bytes: 256 << 10 };
    let (mut log, _) = Wal::open(dir, options.clone(), b"full").expect("the log opens");
    let mut last = 0;
    let refused = loop {
        match log.save(Some(&state), &[entry(last + 1, 5000)]) {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, WalError::NoSpace { .. }) && !refused.is_fatal(), "{refused}");
    assert!(refused.to_string().contains("free some space"), "{refused}");
    let mut state_only = state;
    state_only.commit = last;
    assert!(last > 100, "{last} entries fit");
    // Nothing has happened to the log: what needs no new segment still works, and so does a restart.
    state = state_only;
    drop(log);
    let (mut log, recovered) = Wal::open(dir, options, b"full").expect("a full disk is no damage");
    assert_eq!(recovered.entries(0).len() as u64, last);
    // Once there is room, it goes on.
    let again = log.save(Some(&state), &[entry(last + 1, 5000)]).expect_err("still full");
    assert!(matches!(again, WalError::NoSpace { .. }), "{again}");
    fs::remove_file(dir.join("../ballast")).expect("the ballast");
    for index in last + 1..=last + 60 {
        log.save(Some(&state), &[entry(index, 5000)]).expect("there is room again");
    }
    println!("filled after {last} entries: {refused}");
}

#[test]
#[ignore = "not a test of its own: the process that the next one starts on a small file system"]
fn filler() {
    let Some(mount) = std::env::var_os(FILLER).map(PathBuf::from) else { return };
    fs::write(mount.join("ballast"), vec![1; 1 << 20]).expect("the ballast");
    fill(&mount.join("wal"));
}

#[test]
fn a_full_disk_is_a_clear_error_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = std::env::current_exe().expect("this program");
    // Its own namespace: the mount goes when the shell does. As root, or as a user who may make namespaces.
    let script = r#"mount -t tmpfs -o size=3m none "$1" || exit 77; shift; exec "$@""#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(program)
        .args(["--ignored", "--exact", "filler", "--nocapture", "--test-threads=1"])
        .env(FILLER, dir.path())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return println!("wal full disk: skipped, `unshare` cannot be run here ({error})"),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let not_allowed = output.status.code() == Some(77) || text.contains("unshare:");
    if not_allowed {
        return println!("wal full disk: skipped, no file system may be mounted here ({})", text.trim());
    }
    assert!(output.status.success(), "{:?} {text}", output.status);
    let told = text.lines().find(|line| line.contains("filled after")).expect("its report");
    println!("wal full disk: tmpfs of 3 MiB, no SIGBUS, {told}");
}
