//! Snapshots: what they must keep, what they must free, and how a node that fell behind catches up by one.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use tests::cluster::load::put_all;
use tests::cluster::{eventually, Cluster, Node, PATIENCE};

/// Writes until the node has put a new snapshot file on disk.
fn write_until_a_snapshot(cluster: &Cluster, node: &Node) {
    let newest = || node.files_with_extension("snap").into_iter().map(|(path, _)| path).max();
    let before: Option<PathBuf> = newest();
    let mut number = 0;
    eventually("a snapshot is taken", PATIENCE, || {
        for _ in 0..20 {
            number += 1;
            cluster.http(node.id).must_put("/filler", number.to_string());
        }
        (newest() > before).then_some(())
    });
}

/// The original's second defect: after its first snapshot a restarted node never opened its HTTP port again.
#[test]
fn a_node_that_restarts_after_a_snapshot_serves_http() {
    let cluster = Cluster::start_with(3, &["--snapshot-count", "20"]);
    cluster.http(1).must_put("/early", "before the snapshot");
    write_until_a_snapshot(&cluster, cluster.node(2));
    cluster.http(1).must_put("/late", "after the snapshot");

    cluster.node(2).kill();
    cluster.node(2).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(cluster.http(2).must_get("/early"), b"before the snapshot");
    assert_eq!(cluster.http(2).must_get("/late"), b"after the snapshot");
}

/// The original wrote its snapshot as a JSON map of strings: `a\xff` came back as `a\u{fffd}`.
#[test]
fn binary_values_and_keys_survive_a_snapshot_and_a_restart_of_all() {
    let cluster = Cluster::start_with(3, &["--snapshot-count", "20"]);
    let every_byte: Vec<u8> = (0..=255).collect();
    cluster.http(1).must_put("/binary", &every_byte);
    cluster.http(1).must_put("/%FF%00key", b"a\xff");
    cluster.http(1).must_put("/gone", "x");
    assert_eq!(cluster.http(1).delete("/gone").status, 204);
    for node in cluster.nodes() {
        write_until_a_snapshot(&cluster, node);
    }
    cluster.kill_all();
    for node in cluster.nodes() {
        node.start();
    }
    cluster.wait_for_leader();
    for node in cluster.nodes() {
        assert_eq!(node.http().must_get("/binary"), every_byte, "node {}", node.id);
        assert_eq!(node.http().must_get("/%FF%00key"), b"a\xff", "node {}", node.id);
        assert_eq!(node.http().get("/gone").status, 404, "node {}", node.id);
    }
}

/// Also the membership at the time of the snapshot is in it: a node that joins later, and restarts, knows everybody.
#[test]
fn a_node_that_joins_after_a_snapshot_gets_everything() {
    let mut cluster = Cluster::start_with(3, &["--snapshot-count", "20"]);
    cluster.http(1).must_put("/early", "before the snapshot");
    write_until_a_snapshot(&cluster, cluster.node(1));
    write_until_a_snapshot(&cluster, cluster.node(1));
    let leader = cluster.wait_for_leader();
    let fourth = cluster.prepare_joining_node();
    assert_eq!(cluster.http(leader).post(format!("/{fourth}"), cluster.node(fourth).peer_url()).status, 204);
    cluster.node(fourth).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(cluster.http(fourth).must_get("/early"), b"before the snapshot");
    cluster.node(fourth).kill();
    cluster.node(fourth).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(cluster.http(fourth).must_get("/early"), b"before the snapshot");
    let status = cluster.node(fourth).status().expect("a status");
    assert_eq!(status.page["members"].as_array().map(Vec::len), Some(4), "{status:?}");
}

/// What 20 000 writes may leave behind on each node, with a snapshot every 1 000.
const SNAPSHOT_FILES: usize = 6;
/// 20 MB are written; the folder may hold what a few snapshot intervals need, in whole segments.
const LOG_BYTES: u64 = 10 << 20;

#[test]
fn twenty_thousand_writes_leave_bounded_folders_and_a_node_that_slept_through_them_catches_up_by_snapshot() {
    const WRITES: u64 = 20_000;
    let cluster = Cluster::start_with(3, &["--snapshot-count", "1000", "--wal-segment-mib", "1"]);
    let leader = cluster.wait_for_leader();
    let asleep = cluster.followers_of(leader)[0];
    let awake: Vec<u64> = (1..=3).filter(|&id| id != asleep).collect();
    cluster.http(leader).must_put("/before", "x");
    cluster.node(asleep).kill();

    let value = |number: u64| format!("{number:>1000}").into_bytes();
    let clients: Vec<_> = awake.iter().map(|&id| cluster.http(id)).collect();
    put_all(&clients, 64, "key-", WRITES, value);

    for &id in &awake {
        let node = cluster.node(id);
        // The last one may be under way: it is written while writes go on.
        let is_written = || node.files_with_extension("tmp").is_empty().then_some(());
        eventually("no snapshot is being written", PATIENCE, is_written);
        let snapshots = node.files_with_extension("snap");
        assert!((1..=SNAPSHOT_FILES).contains(&snapshots.len()), "node {id}: {snapshots:#?}");
        let segments = node.files_with_extension("wal");
        let prepared = node.files_with_extension("next");
        let bytes: u64 = segments.iter().chain(&prepared).map(|(_, bytes)| bytes).sum();
        assert!(bytes <= LOG_BYTES, "node {id} keeps {bytes} bytes of log: {segments:#?}");
        let known =
            |path: &Path| path.extension().is_some_and(|kind| kind == "wal" || kind == "snap" || kind == "next");
        // The folder's own number: 16 digits and the end of the line.
        let number = (node.data_dir().join("number"), 17);
        let others: Vec<_> = node.files().into_iter().filter(|file| !known(&file.0) && *file != number).collect();
        assert!(others.iter().all(|(_, bytes)| *bytes == 0), "node {id} keeps what nobody needs: {others:#?}");
    }

    cluster.node(asleep).start_and_wait();
    let goal = cluster.node(leader).status().expect("a status").commit;
    cluster.node(asleep).wait_until_applied(goal);
    cluster
        .node(asleep)
        .process()
        .wait_for_line("that it installed a snapshot", PATIENCE, |line| line.contains("restored snapshot"));
    let mut connection = cluster.http(asleep).connect().expect("a connection");
    for number in (0..WRITES).step_by(97).chain([WRITES - 1]) {
        let path = format!("/key-{number}?read=local");
        let answer = connection.request("GET", path.as_bytes(), &[], b"").expect("an answer");
        assert_eq!((answer.status, answer.body), (200, value(number)), "{path}");
    }
    assert_eq!(cluster.http(asleep).must_get("/before"), b"x");

    // And it survives what it was given.
    cluster.node(asleep).kill();
    cluster.node(asleep).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(cluster.http(asleep).must_get("/key-0"), value(0));
}
