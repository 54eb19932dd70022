//! Our nodes and processes of the original raftexample in one cluster: they elect, replicate, lose nodes and catch up,
//! and no original ever ends of what we send.
//!
//! `apt-get install golang-go golang-etcd-server-dev`, then `cargo test -p tests --test interop -- --ignored`.

use std::collections::BTreeMap;
use std::path::Path;

use tests::cluster::load::{put_all, value_of, Writers};
use tests::cluster::{eventually, PATIENCE};
use tests::interop::{original, Kind, Mixed, Programs};
use Kind::{Original, Ours};

/// Writes each way.
const WRITES: u64 = 1_000;

fn start(kinds: &[Kind], extra_arguments: &[&str]) -> Mixed {
    let programs = Programs {
        ours: Path::new(env!("CARGO_BIN_EXE_interop-node")),
        original: original(Path::new(env!("CARGO_TARGET_TMPDIR"))),
    };
    Mixed::start(programs, kinds, extra_arguments)
}

/// Writes `/{prefix}{n}` for each `n` at these nodes; returns what all nodes must hold then.
fn write(mixed: &Mixed, ids: &[u64], prefix: &str, count: u64) -> BTreeMap<String, String> {
    let targets: Vec<_> = ids.iter().map(|&id| mixed.node(id).http()).collect();
    put_all(&targets, 8, prefix, count, |number| format!("{prefix}-{number}").into_bytes());
    let written = (0..count).map(|number| (format!("/{prefix}{number}"), format!("{prefix}-{number}"))).collect();
    for &id in ids.iter().filter(|&&id| mixed.node(id).kind == Original) {
        mixed.repeat_lost(id, &written);
    }
    written
}

/// Each node leads once, and under each leader both kinds of nodes take writes.
fn agree_whoever_leads(kinds: &[Kind]) {
    let mixed = start(kinds, &[]);
    let mut expected = BTreeMap::new();
    let rounds: Vec<u64> = mixed.nodes().iter().map(|node| node.id).collect();
    for &leader in &rounds {
        mixed.make_leader(leader);
        for kind in [Original, Ours] {
            let prefix = format!("led-by-{leader}-via-{kind:?}-").to_lowercase();
            expected.extend(write(&mixed, &mixed.running(kind), &prefix, WRITES));
        }
        mixed.wait_for_contents(&expected);
    }
}

/// Writers at our nodes among `ids`: only what those acknowledge is known to be committed.
fn writers_at(mixed: &Mixed, name: &str, ids: &[u64]) -> Writers {
    let targets: Vec<_> = ids.iter().map(|&id| mixed.node(id).http()).collect();
    Writers::start_at(&targets, name, 4)
}

/// Stops them; returns what all nodes must hold then.
fn stop(writers: Writers) -> BTreeMap<String, String> {
    let text = |key: &str| String::from_utf8_lossy(&value_of(key)).into_owned();
    writers.stop().acknowledged.into_iter().map(|key| (format!("/{key}"), text(&key))).collect()
}

#[test]
#[ignore = "needs Debian's packages golang-go and golang-etcd-server-dev"]
fn two_originals_and_ours_agree_whoever_leads() {
    agree_whoever_leads(&[Original, Original, Ours]);
}

#[test]
#[ignore = "needs Debian's packages golang-go and golang-etcd-server-dev"]
fn an_original_and_two_of_ours_agree_whoever_leads() {
    agree_whoever_leads(&[Original, Ours, Ours]);
}

#[test]
#[ignore = "needs Debian's packages golang-go and golang-etcd-server-dev"]
fn an_original_leader_is_killed_and_ours_takes_over() {
    let mixed = start(&[Original, Ours, Ours], &[]);
    mixed.make_leader(1);
    let writers = writers_at(&mixed, "w", &[2, 3]);
    writers.wait_for_progress(100);
    mixed.node(1).kill();
    let leader = mixed.wait_for_leader();
    assert_eq!(mixed.node(leader).kind, Ours);
    writers.wait_for_progress(100);
    mixed.node(1).start();
    writers.wait_for_progress(100);
    mixed.wait_for_contents(&stop(writers));
}

#[test]
#[ignore = "needs Debian's packages golang-go and golang-etcd-server-dev"]
fn our_leader_is_killed_and_the_remaining_mix_goes_on() {
    let mixed = start(&[Original, Original, Ours, Ours, Ours], &[]);
    mixed.make_leader(3);
    let writers = writers_at(&mixed, "w", &[4, 5]);
    writers.wait_for_progress(100);
    mixed.node(3).kill();
    let next = mixed.wait_for_leader();
    mixed.make_leader(if next == 1 { 2 } else { 1 });
    writers.wait_for_progress(100);
    mixed.node(5).kill();
    writers.wait_for_progress(100);
    mixed.wait_for_contents(&stop(writers));
}

#[test]
#[ignore = "needs Debian's packages golang-go and golang-etcd-server-dev"]
fn our_leader_of_two_originals_is_killed_and_an_original_takes_over() {
    let mixed = start(&[Original, Original, Ours], &[]);
    mixed.make_leader(3);
    let mut expected = write(&mixed, &[3], "before", WRITES);
    // The originals' own word counts for little: what was acknowledged by our node, up to its end, must still be there
    // when it comes back.
    let writers = writers_at(&mixed, "w", &[3]);
    writers.wait_for_progress(100);
    let led_before = led(&mixed);
    mixed.node(3).kill();
    eventually("an original leads", PATIENCE, || (led(&mixed) > led_before).then_some(()));
    expected.extend(stop(writers));
    expected.extend(write(&mixed, &[1, 2], "meanwhile", WRITES));
    mixed.node(3).start();
    assert_ne!(mixed.wait_for_leader(), 3);
    expected.extend(write(&mixed, &[3], "after", WRITES));
    mixed.wait_for_contents(&expected);
}

/// How often the originals have said that one of them became leader, or that they follow one.
fn led(mixed: &Mixed) -> usize {
    let lines = mixed.running(Original).into_iter().filter_map(|id| mixed.node(id).process()).flat_map(|it| it.lines());
    lines.filter(|line| line.contains("became leader at term")).count()
}

#[test]
#[ignore = "needs Debian's packages golang-go and golang-etcd-server-dev"]
fn ours_is_restarted_while_writes_run() {
    for kinds in [[Original, Original, Ours], [Original, Ours, Ours]] {
        let mixed = start(&kinds, &[]);
        mixed.make_leader(1);
        let mut expected = write(&mixed, &[1, 3], "before", WRITES);
        for round in 0..3 {
            mixed.node(3).kill();
            expected.extend(write(&mixed, &[1, 2], &format!("without{round}-"), WRITES));
            mixed.node(3).start();
            mixed.node(3).wait_until_it_serves();
            expected.extend(write(&mixed, &[3], &format!("with{round}-"), 100));
        }
        mixed.wait_for_contents(&expected);
    }
}

#[test]
#[ignore = "needs Debian's packages golang-go and golang-etcd-server-dev"]
fn an_original_sends_us_a_snapshot() {
    let mixed = start(&[Original, Original, Ours], &[]);
    let mut expected = write(&mixed, &[1, 2], "before", 100);
    mixed.wait_for_contents(&expected);
    mixed.node(3).kill();
    // The original takes a snapshot every 10 000 entries and keeps 10 000 behind it.
    expected.extend(write(&mixed, &[1, 2], "meanwhile", 20_500));
    mixed.wait_for_contents(&expected);
    mixed.node(3).start();
    // A linearizable read is answered once this node has caught up.
    eventually("ours has caught up", PATIENCE, || {
        (mixed.node(3).http().try_get("/none").ok()?.status == 404).then_some(())
    });
    let lacking = mixed.lacking(3, &expected);
    // The original does not wait for its store before it takes a snapshot: the last entry before it may be missing.
    assert!(lacking.len() <= 1, "{lacking:?} are missing");
    lacking.iter().for_each(|(key, value)| mixed.node(3).http().must_put(key, value));
    mixed.wait_for_contents(&expected);
    let log = mixed.node(3).process().expect("it runs").lines();
    assert!(log.iter().any(|line| line.contains("took over a snapshot")), "it caught up without one");
    expected.extend(write(&mixed, &[3], "after", WRITES));
    mixed.wait_for_contents(&expected);
}

#[test]
#[ignore = "needs Debian's packages golang-go and golang-etcd-server-dev"]
fn we_send_an_original_a_snapshot() {
    let mixed = start(&[Original, Ours, Ours], &["--snapshot-count", "100"]);
    let mut expected = write(&mixed, &[1, 2, 3], "before", 150);
    mixed.make_leader(2);
    mixed.wait_for_contents(&expected);
    mixed.node(1).kill();
    expected.extend(write(&mixed, &[2, 3], "meanwhile", WRITES));
    mixed.node(1).start();
    mixed.wait_for_contents(&expected);
    let log = mixed.node(1).process().expect("it runs").lines();
    assert!(log.iter().any(|line| line.contains("loading snapshot at term")), "it caught up without one");
    expected.extend(write(&mixed, &[1], "after", WRITES));
    mixed.wait_for_contents(&expected);
}

#[test]
#[ignore = "needs Debian's packages golang-go and golang-etcd-server-dev"]
fn a_paused_node_of_either_kind_comes_back() {
    let mixed = start(&[Original, Ours, Ours], &[]);
    let mut expected = BTreeMap::new();
    for paused in [1, 3] {
        mixed.make_leader(paused);
        mixed.node(paused).pause();
        let others: Vec<u64> = mixed.nodes().iter().map(|node| node.id).filter(|&id| id != paused).collect();
        eventually("another leader", PATIENCE, || {
            let leader = mixed.node(2).status()?["leader"].as_u64()?;
            others.contains(&leader).then_some(())
        });
        expected.extend(write(&mixed, &[2], &format!("without{paused}-"), WRITES));
        mixed.node(paused).resume();
        mixed.wait_for_contents(&expected);
    }
}
