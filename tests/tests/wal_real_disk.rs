//! The log on a real file system: killed in the middle of its work, and on a disk that is full.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{chown, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use raft_core::pb::{ConfState, Entry, HardState, SnapshotMetadata};
use tests::random::Random;
use wal::tool::{verify, Held};
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

/// Every other process writes large batches: storing one takes as long as many small saves, and a kill in its midst
/// leaves half of it.
const LARGE: &str = "WAL_TEST_APPENDER_LARGE";
const LARGE_BATCH_BYTES: usize = 4 << 20;

fn options(large: bool) -> Options {
    Options { segment_bytes: if large { 16 << 20 } else { 64 << 10 } }
}

/// Appends, and prints what was acknowledged.
#[test]
#[ignore = "not a test of its own: the process that the next one starts and kills"]
fn appender() {
    let Some(dir) = std::env::var_os(APPENDER) else { return };
    let large = std::env::var_os(LARGE).is_some();
    let (mut log, recovered) = Wal::open(Path::new(&dir), options(large), b"appender").expect("the log opens");
    let mut last = log.last_index();
    let mut state = recovered.hard_state;
    state.term = 1;
    let mut out = std::io::stdout();
    let mut acknowledge = |last: u64| writeln!(out, "acknowledged {last}").and_then(|()| out.flush());
    if large {
        loop {
            // Some that are not synced yet, then one that makes all of them durable.
            for _ in 0..3 {
                last += 1;
                log.append(Some(&state), &[entry(last, LARGE_BATCH_BYTES)]).expect("append");
            }
            log.sync().expect("sync");
            acknowledge(last).expect("standard output");
            state.commit = last;
        }
    }
    loop {
        let count = 1 + last % 3;
        let entries: Vec<_> = (last + 1..=last + count).map(|index| entry(index, bytes_of(index))).collect();
        log.save(Some(&state), &entries).expect("save");
        last += count;
        acknowledge(last).expect("standard output");
        state.commit = last;
        log.save(Some(&state), &[]).expect("commit");
        if last % 50 < count {
            let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
            log.save_snapshot(&SnapshotMetadata { conf_state, index: last - 20, term: 1 }).expect("snapshot");
            log.purge(last - 20).expect("purge");
        }
    }
}

fn start_appender(dir: &Path, large: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    if large {
        command.env(LARGE, "1");
    }
    command
        .args(["--ignored", "--exact", "appender", "--nocapture", "--test-threads=1"])
        .env(APPENDER, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the appender starts")
}

/// Starts an appender, kills it after so many acknowledgements and a little more, and returns the last one that it gave.
fn kill_one(dir: &Path, large: bool, mut left: u64, more: Duration) -> u64 {
    let mut child = start_appender(dir, large);
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut lines = lines
        .map_while(Result::ok)
        .filter_map(|line| line.rsplit_once("acknowledged ").and_then(|(_, number)| number.parse::<u64>().ok()));
    let mut acknowledged = 0;
    for number in lines.by_ref() {
        acknowledged = number;
        left -= 1;
        if left == 0 {
            break;
        }
    }
    assert!(left == 0, "the appender ended by itself after {acknowledged}");
    std::thread::sleep(more);
    child.kill().expect("kill");
    acknowledged = lines.last().unwrap_or(acknowledged);
    child.wait().expect("it has ended");
    acknowledged
}

#[test]
fn a_process_that_is_killed_loses_nothing_it_acknowledged() {
    let small = tempfile::tempdir().expect("a directory");
    let mut random = Random::new(5);
    let (mut in_all, mut torn, mut unsynced) = (0, 0, 0);
    for kill in 0..KILLS {
        // Every fourth process stores large batches, into a log of its own: half of one is left by a kill in its midst.
        let large = kill % 4 == 3;
        let own = tempfile::tempdir().expect("a directory");
        let dir = if large { own.path() } else { small.path() };
        // At no particular point of its work.
        let acknowledged = match large {
            true => kill_one(dir, true, 1 + random.below(2), Duration::from_micros(random.below(15_000))),
            false => kill_one(dir, false, 1 + random.below(60), Duration::from_micros(random.below(400))),
        };
        let (log, recovered) = Wal::open(dir, options(large), b"appender")
            .unwrap_or_else(|error| panic!("kill {kill} after {acknowledged}: {error}"));
        let last = log.last_index();
        assert!(last >= acknowledged, "kill {kill}: {last} of {acknowledged} are left");
        assert!(last <= acknowledged + 6, "kill {kill}: {last} were never appended");
        let after = recovered.snapshots.last().map_or(0, |snapshot| snapshot.index);
        let expected = |index| entry(index, if large { LARGE_BATCH_BYTES } else { bytes_of(index) });
        let entries = recovered.entries(after).expect("they go on from the snapshot");
        assert_eq!(entries.len() as u64, last - after, "kill {kill}");
        assert!(
            (after + 1..).zip(entries.iter()).all(|(index, found)| found.is_ok_and(|found| found == expected(index))),
            "kill {kill}: other entries"
        );
        torn += usize::from(recovered.torn.is_some());
        unsynced += usize::from(last > acknowledged);
        in_all += if large || kill + 4 >= KILLS { acknowledged } else { 0 };
    }
    // How often a kill comes in the midst of a store is chance, and not asserted.
    println!(
        "wal kill -9: {KILLS} times, {in_all} entries acknowledged, 0 lost; {torn} torn tails passed over, {unsynced} times entries \
         were kept that had not been acknowledged yet"
    );
    assert!(in_all > KILLS as u64);
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
    assert_eq!(recovered.held_entries().len() as u64, last);
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

/// Runs one of the ignored tests with a small file system of its own in [`FILLER`]; returns what it says. `None`, and the
/// reason is printed: that is not allowed here.
fn on_a_small_disk(test: &str) -> Option<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let program = std::env::current_exe().expect("this program");
    // Its own namespace: the mount goes when the shell does. As root, or as a user who may make namespaces.
    let script = r#"mount -t tmpfs -o size=3m none "$1" || exit 77; shift; exec "$@""#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(program)
        .args(["--ignored", "--exact", test, "--nocapture", "--test-threads=1"])
        .env(FILLER, dir.path())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            println!("wal {test}: skipped, `unshare` cannot be run here ({error})");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || text.contains("unshare:") {
        println!("wal {test}: skipped, no file system may be mounted here ({})", text.trim());
        return None;
    }
    assert!(output.status.success(), "{:?} {text}", output.status);
    Some(text)
}

#[test]
fn a_full_disk_is_a_clear_error_and_loses_nothing() {
    let Some(text) = on_a_small_disk("filler") else { return };
    let told = text.lines().find(|line| line.contains("filled after")).expect("its report");
    println!("wal full disk: tmpfs of 3 MiB, no SIGBUS, {told}");
}

/// Set for the process of a user who may enter a directory and not read it: the log's place below.
const BELOW: &str = "WAL_TEST_BELOW";
/// A user who owns nothing else.
const NOBODY: u32 = 65534;

#[test]
#[ignore = "not a test of its own: the process of another user that the next one starts"]
fn below() {
    let Some(dir) = std::env::var_os(BELOW).map(PathBuf::from) else { return };
    let above = dir.parent().expect("it is below one");
    assert_eq!(fs::read_dir(above).expect_err("not ours").kind(), std::io::ErrorKind::PermissionDenied);
    let (mut log, _) = Wal::open(&dir, options(false), b"below").expect("the log opens");
    log.save(None, &[entry(1, 100)]).expect("room for it");
    println!("opened below {}", above.display());
}

#[test]
fn a_log_below_a_directory_that_may_not_be_read_opens() {
    let above = tempfile::tempdir().expect("a directory");
    let dir = above.path().join("wal");
    fs::create_dir(&dir).expect("a directory");
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--ignored", "--exact", "below", "--nocapture"]).env(BELOW, &dir);
    let mode = |mode| fs::set_permissions(above.path(), fs::Permissions::from_mode(mode)).expect("it is ours");
    // To root all directories are open.
    if chown(&dir, Some(NOBODY), Some(NOBODY)).is_ok() {
        command.uid(NOBODY).gid(NOBODY);
    }
    mode(0o311);
    let output = command.output();
    mode(0o700);
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("opened below "), "{text}");
        }
        Err(error) => println!("wal below: skipped, another user cannot run this program here ({error})"),
    }
}

#[test]
#[ignore = "not a test of its own: the process that the next one starts on a small file system"]
fn looker() {
    let Some(mount) = std::env::var_os(FILLER).map(PathBuf::from) else { return };
    let dir = mount.join("wal");
    let (mut log, _) = Wal::open(&dir, Options { segment_bytes: 64 << 10 }, b"looked at").expect("the log opens");
    log.save(None, &[entry(1, 500)]).expect("room for it");
    drop(log);
    let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(&mount).status().expect("mount runs");
    assert!(remount.success(), "{remount}");
    fs::write(dir.join("new"), b"").expect_err("nothing can be written");
    let held = Held::open(&dir, &mut |_, _| {}).expect("it can be read");
    let recovered = verify(&held, &mut |_| {}).expect("it is sound");
    assert_eq!(recovered.held_entries(), [entry(1, 500)]);
    println!("looked at {} bytes", held.len_bytes());
}

#[test]
fn a_log_on_a_disk_that_is_mounted_read_only_can_be_looked_at() {
    let Some(text) = on_a_small_disk("looker") else { return };
    assert!(text.contains("looked at "), "{text}");
}
