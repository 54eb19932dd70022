//! An acknowledged write is never lost: not with the leader, not with `kill -9` of everybody, not in the middle of it.
#![forbid(unsafe_code)]

use std::process::Command;
use std::time::Duration;

use tests::black_box::small_disk::SmallDisk;
use tests::cluster::load::{Outcomes, Writers};
use tests::cluster::{eventually, raftexample, Cluster, Process, Signal, PATIENCE, VALUE_MAX_BYTES};

#[test]
fn acknowledged_writes_survive_the_loss_of_the_leader_again_and_again() {
    let cluster = Cluster::start(3);
    let writers = Writers::start(&cluster, "w", 6);
    for _ in 0..3 {
        writers.wait_for_progress(100);
        let leader = cluster.wait_for_leader();
        cluster.node(leader).kill();
        cluster.wait_for_leader();
        writers.wait_for_progress(100);
        cluster.node(leader).start_and_wait();
    }
    let outcomes = writers.stop();
    assert!(outcomes.acknowledged.len() >= 600);
    outcomes.assert_kept(&cluster);
}

#[test]
fn acknowledged_writes_survive_kill_9_of_all_three_nodes_at_once() {
    let cluster = Cluster::start(3);
    let mut outcomes = Outcomes::default();
    for round in 0..3 {
        let writers = Writers::start(&cluster, &format!("round-{round}"), 6);
        writers.wait_for_progress(200);
        cluster.kill_all();
        outcomes.extend(writers.stop());
        for node in cluster.nodes() {
            node.start();
        }
        cluster.wait_for_leader();
        outcomes.assert_kept(&cluster);
    }
}

/// Any one of them, followers too, while writes go on.
#[test]
fn acknowledged_writes_survive_kill_9_of_each_node_in_turn() {
    let cluster = Cluster::start_with(3, &["--snapshot-count", "100"]);
    let writers = Writers::start(&cluster, "w", 6);
    for node in cluster.nodes() {
        writers.wait_for_progress(100);
        node.kill();
        writers.wait_for_progress(100);
        node.start_and_wait();
    }
    writers.stop().assert_kept(&cluster);
}

/// The original then kept its HTTP port closed until the log had grown beyond its old end.
#[test]
fn a_leader_that_dies_with_an_uncommitted_tail_serves_http_right_after_its_restart() {
    let cluster = Cluster::start(3);
    let old_leader = cluster.wait_for_leader();
    let followers = cluster.followers_of(old_leader);
    cluster.http(old_leader).must_put("/kept", "acknowledged");
    for &follower in &followers {
        cluster.node(follower).kill();
    }
    // These reach the leader's log and nobody else.
    std::thread::scope(|scope| {
        for number in 0..5 {
            let http = cluster.http(old_leader);
            scope.spawn(move || {
                let answer = http.put(format!("/tail-{number}"), "never acknowledged");
                assert!(matches!(answer.status, 503 | 504), "{} {}", answer.status, answer.text());
            });
        }
    });
    cluster.node(old_leader).kill();
    for &follower in &followers {
        cluster.node(follower).start();
    }
    cluster.wait_for_leader();

    cluster.node(old_leader).start_and_wait();
    assert_eq!(cluster.http(old_leader).must_get("/kept"), b"acknowledged");
    assert_eq!(cluster.http(old_leader).get("/tail-0").status, 404, "the new leader never knew it");
    cluster.http(old_leader).must_put("/after", "x");
    assert_eq!(cluster.http(followers[0]).must_get("/after"), b"x");
}

#[test]
fn a_follower_that_was_down_reads_what_was_written_without_it() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let down = cluster.followers_of(leader)[0];
    cluster.node(down).kill();
    for number in 0..50 {
        cluster.http(leader).must_put(format!("/missed-{number}"), number.to_string());
    }
    cluster.node(down).start_and_wait();
    cluster.wait_for_leader();
    for number in 0..50 {
        assert_eq!(cluster.http(down).must_get(format!("/missed-{number}")), number.to_string().as_bytes());
    }
}

#[test]
fn a_single_node_keeps_its_data_over_kill_9() {
    let cluster = Cluster::start(1);
    let http = cluster.http(1);
    for number in 0..20 {
        http.must_put(format!("/key-{number}"), number.to_string());
    }
    assert_eq!(http.delete("/key-7").status, 204);
    cluster.node(1).kill();
    cluster.node(1).start();
    cluster.wait_for_leader();
    for number in (0..20).filter(|&number| number != 7) {
        assert_eq!(http.must_get(format!("/key-{number}")), number.to_string().as_bytes());
    }
    assert_eq!(http.get("/key-7").status, 404, "a deleted key stays deleted");
}

#[test]
fn sigterm_ends_a_node_in_order_and_its_data_stays() {
    let cluster = Cluster::start(3);
    cluster.http(1).must_put("/polite", "x");
    for node in cluster.nodes() {
        node.signal(Signal::TERM);
    }
    for node in cluster.nodes() {
        let status = node.wait_for_exit(Duration::from_secs(10));
        assert!(status.success(), "node {}: {status}", node.id);
        assert!(!node.process().stderr().iter().any(|line| line.contains("panicked")));
    }
    for node in cluster.nodes() {
        node.start();
    }
    cluster.wait_for_leader();
    assert_eq!(cluster.http(2).must_get("/polite"), b"x");
}

/// A pause longer than an election timeout, as of a virtual machine that is moved.
#[test]
fn a_leader_that_is_paused_is_replaced_and_comes_back_as_a_follower() {
    let cluster = Cluster::start(3);
    let old_leader = cluster.wait_for_leader();
    cluster.http(old_leader).must_put("/paused", "one");
    cluster.node(old_leader).pause();
    let others: Vec<u64> = (1..=3).filter(|&id| id != old_leader).collect();
    let new_leader = cluster.wait_for_leader_among(&others);
    cluster.http(new_leader).must_put("/paused", "two");
    cluster.node(old_leader).resume();
    assert_eq!(cluster.http(old_leader).must_get("/paused"), b"two");
    eventually("the old leader follows", PATIENCE, || {
        cluster.node(old_leader).status().filter(|status| status.role == "follower")
    });
}

/// Whatever the disk refuses ends the node: it must not go on with a log that it cannot write.
#[test]
fn a_log_that_cannot_be_written_ends_the_node_with_one_clear_line() {
    let cluster = Cluster::prepare(1, &["--wal-segment-mib", "1"]);
    let node = cluster.node(1);
    // No file may grow beyond 1 MiB, which is one segment; with the signal ignored the system call fails instead.
    let mut limited = Command::new("bash");
    limited.args(["-c", r#"trap '' XFSZ; ulimit -f 1024; exec "$0" "$@""#]).arg(raftexample()).args(node.arguments());
    limited.current_dir(cluster.folder()).env_remove("RUST_LOG");
    let process = Process::start_command("the node with a limit", limited);
    eventually("it takes a write", PATIENCE, || {
        assert!(process.is_running(), "{:#?}", process.stderr());
        cluster.http(1).try_request("PUT", "/small", b"x").ok().filter(|answer| answer.status == 204)
    });
    // The largest value and its frame need a longer segment.
    let answer = cluster.http(1).try_request("PUT", "/large", &vec![b'x'; VALUE_MAX_BYTES]);
    assert!(!answer.as_ref().is_ok_and(|answer| answer.status < 500), "{answer:?}");
    let status = process.wait_for_exit(PATIENCE);
    let stderr = process.stderr();
    assert_eq!(status.code(), Some(1), "{stderr:#?}");
    let told: Vec<&String> = stderr.iter().filter(|line| line.starts_with("raftexample: ")).collect();
    assert_eq!(told.len(), 1, "{stderr:#?}");
    assert_eq!(stderr.last(), Some(told[0]), "nothing comes after it");
    assert!(
        told[0].contains("/node1/wal/") && told[0].contains("too large"),
        "it names the file and the reason: {told:?}"
    );
    assert!(!stderr.iter().any(|line| line.contains("panicked")), "{stderr:#?}");

    // Without the limit it goes on from what it had acknowledged.
    node.start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(cluster.http(1).must_get("/small"), b"x");
    cluster.http(1).must_put("/large", vec![b'x'; VALUE_MAX_BYTES]);
}

/// A full disk in particular. Nothing is at risk when the next segment finds no room, so the node ends without harm.
#[test]
fn a_full_disk_ends_the_node_with_one_clear_line_and_loses_nothing_that_it_acknowledged() {
    let cluster = Cluster::prepare(1, &["--wal-segment-mib", "1"]);
    let node = cluster.node(1);
    let Some(disk) = SmallDisk::mount(node.data_dir()) else { return };
    node.start_and_wait();
    cluster.wait_for_leader();
    disk.fill();
    let value = |number: usize| vec![number as u8; 50_000];
    let put = |number: usize| cluster.http(1).try_request("PUT", format!("/{number}"), &value(number));
    // Until the segments that are there are full; those that need another are not acknowledged.
    let acknowledged: Vec<usize> =
        (0..1000).take_while(|number| put(*number).is_ok_and(|answer| answer.status == 204)).collect();
    assert!((1..1000).contains(&acknowledged.len()), "{} writes", acknowledged.len());
    let process = node.process();
    let status = process.wait_for_exit(PATIENCE);
    let stderr = process.stderr();
    assert_eq!(status.code(), Some(1), "{stderr:#?}");
    let told: Vec<&String> = stderr.iter().filter(|line| line.starts_with("raftexample: ")).collect();
    assert_eq!(told.len(), 1, "{stderr:#?}");
    for part in ["no room for the next log segment", "/node1/wal/", "1048576 bytes", "nothing is lost, free some space"]
    {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }

    // Still full: it starts, and serves what it has.
    node.start_and_wait();
    cluster.wait_for_leader();
    for number in &acknowledged {
        assert!(cluster.http(1).must_get(format!("/{number}")) == value(*number), "{number}");
    }
    node.kill();
    disk.clear();
    node.start_and_wait();
    cluster.wait_for_leader();
    for number in &acknowledged {
        assert!(cluster.http(1).must_get(format!("/{number}")) == value(*number), "{number}");
    }
    cluster.http(1).must_put("/more", value(7));
}
