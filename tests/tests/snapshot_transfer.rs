//! A node is caught up by a large snapshot over a slow link: nobody else notices, and a broken transfer is made up for.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use raft_core::pb::{Message, MessageType, SnapshotMetadata};
use raftexample::transport::wire;
use serde_json::Value;
use tests::cluster::load::{put_all, Writers};
use tests::cluster::{eventually, Cluster, Fault, Network, Node, PATIENCE};

/// A cluster in which one node is dead and lacks so much that it needs a snapshot.
struct Behind {
    cluster: Cluster,
    network: Network,
    leader: u64,
    behind: u64,
}

/// `count` values of `value_bytes` are written while a node is dead; when at least `in_snapshot` of them are in a snapshot,
/// and not in the log any more, it comes back over a link that carries this much.
fn fall_behind(count: u64, in_snapshot: u64, value_bytes: usize, bytes_per_second: u64) -> Behind {
    fall_behind_with(count, in_snapshot, value_bytes, Fault::Throttle { bytes_per_second })
}

fn fall_behind_with(count: u64, in_snapshot: u64, value_bytes: usize, link: Fault) -> Behind {
    let (cluster, network) = Cluster::start_on_network(3, &["--snapshot-count", "400"]);
    let leader = cluster.wait_for_leader();
    let behind = cluster.followers_of(leader)[0];
    cluster.http(leader).must_put("/before", "x");
    cluster.node(behind).kill();
    eventually("the leader knows that it is gone", PATIENCE, || {
        let status = cluster.node(leader).status()?;
        let progress = status.page["progress"].as_array()?.iter().find(|progress| progress["id"] == behind)?;
        (progress["recent_active"] == false).then_some(())
    });
    let value = |number: u64| vec![number as u8; value_bytes];
    put_all(&[cluster.http(leader)], 16, "large-", count, value);
    let mut small = 0;
    eventually("the log's beginning is gone", 4 * PATIENCE, || {
        small += 100;
        put_all(&[cluster.http(leader)], 16, &format!("small-{small}-"), 100, |_| b"x".to_vec());
        (cluster.node(leader).status()?.page["first"].as_u64()? > in_snapshot + 10).then_some(())
    });
    network.set(leader, behind, link);
    cluster.node(behind).start();
    Behind { cluster, network, leader, behind }
}

impl Behind {
    fn transfer(&self, id: u64, direction: &str) -> Option<Value> {
        let status = self.cluster.node(id).status()?;
        let transfers = status.page["snapshot_transfers"].as_array()?.clone();
        transfers.into_iter().find(|transfer| transfer["direction"] == direction)
    }

    /// Waits until the leader's status page shows that this much has been sent.
    fn wait_until_sent(&self, bytes: u64) -> Value {
        eventually("a snapshot is on its way", PATIENCE, || {
            self.transfer(self.leader, "out").filter(|transfer| transfer["bytes"].as_u64() > Some(bytes))
        })
    }

    fn term(&self) -> (u64, u64) {
        let status = self.cluster.node(self.leader).status().expect("a status");
        (status.term, status.leader)
    }

    /// Waits until the node has what the leader has now.
    fn wait_until_caught_up(&self, within: Duration) {
        let goal = self.cluster.node(self.leader).status().expect("a status").commit;
        eventually("the node has caught up", within, || {
            self.cluster.node(self.behind).status().filter(|status| status.applied >= goal)
        });
    }
}

/// The most memory that its process has ever had, in MiB.
fn peak_memory_mib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.process().id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the system says it");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
}

#[test]
fn a_snapshot_over_a_slow_link_starts_no_election_and_stops_no_write() {
    let scene = fall_behind(1200, 400, 20_000, 4 << 20);
    let before = scene.term();
    let writers = Writers::start_at(&[scene.cluster.http(scene.leader)], "meanwhile", 2);
    let sent = scene.wait_until_sent(1 << 20);
    assert_eq!((sent["peer"].as_u64(), sent["attempt"].as_u64()), (Some(scene.behind), Some(1)), "{sent}");
    assert!(sent["total"].as_u64() > Some(8_000_000), "{sent}");
    let received = eventually("it is seen at the other end", PATIENCE, || scene.transfer(scene.behind, "in"));
    assert_eq!((received["peer"].as_u64(), &received["index"]), (Some(scene.leader), &sent["index"]));
    writers.wait_for_progress(100);
    assert!(scene.transfer(scene.leader, "out").is_some(), "all that while it is being sent");
    let outcomes = writers.stop();
    scene.wait_until_caught_up(PATIENCE);
    assert_eq!(scene.term(), before, "term and leader");
    assert_eq!(scene.cluster.http(scene.behind).must_get("/large-7"), vec![7; 20_000]);
    outcomes.assert_kept(&scene.cluster);
    let log = scene.cluster.node(scene.leader).process();
    log.wait_for_line("how far it was", PATIENCE, |line| line.contains(" MiB (") && line.contains("snapshot of index"));
    log.wait_for_line("the end", PATIENCE, |line| line.contains("delivered"));
}

/// A body for the peer port at this path that begins so and then comes in drops, again and again, until told to stop.
fn drip(port: u16, path: &str, beginning: &[u8], stop: &AtomicBool) {
    let header = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nX-Etcd-Cluster-ID: 1000\r\nX-Server-Version: 3.4.23\r\n\
         X-Min-Cluster-Version: 3.0.0\r\nX-Server-From: 4d\r\nContent-Length: 100000000\r\n\r\n"
    );
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let mut sent = stream.write_all(header.as_bytes()).and_then(|()| stream.write_all(beginning));
        while sent.is_ok() && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
            sent = stream.write_all(&[0]);
        }
    }
}

/// Strangers who announce snapshots of the latest of terms, and others with messages, all of which hardly move.
#[test]
fn slow_strangers_do_not_keep_a_members_snapshot_out() {
    let scene = fall_behind_with(1200, 400, 20_000, Fault::Cut);
    let before = scene.term();
    let mut announced = Message::of(MessageType::MsgSnap);
    (announced.from, announced.to, announced.term) = (0x4d, scene.behind, u64::MAX / 2);
    announced.snapshot.insert(Box::default()).metadata =
        SnapshotMetadata { index: 1 << 40, term: 1 << 30, ..SnapshotMetadata::default() };
    let announced = wire::encode(announced);
    let announced = [&(announced.len() as u64).to_be_bytes()[..], &announced].concat();
    let (port, stop) = (scene.cluster.node(scene.behind).peer_port, AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| drip(port, "/raft/snapshot", &announced, &stop));
            scope.spawn(|| drip(port, "/raft", &[0x0a], &stop));
        }
        let caught_up = std::panic::catch_unwind(AssertUnwindSafe(|| {
            eventually("a stranger has the place", PATIENCE, || {
                scene.transfer(scene.behind, "in").filter(|transfer| transfer["peer"] == 0x4d)
            });
            scene.network.set(scene.leader, scene.behind, Fault::Throttle { bytes_per_second: 4 << 20 });
            scene.wait_until_caught_up(PATIENCE);
        }));
        stop.store(true, Ordering::Relaxed);
        caught_up.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(scene.term(), before, "term and leader");
    let log = scene.cluster.node(scene.leader).process();
    let refused = |line: &&String| line.contains("did not get to node") && line.contains("it answers");
    let told = log.lines();
    assert!(!told.iter().any(|line| refused(&line)), "{:#?}", told.iter().filter(refused).collect::<Vec<_>>());
    assert_eq!(scene.cluster.http(scene.behind).must_get("/large-7"), vec![7; 20_000]);
}

#[test]
fn a_broken_transfer_is_tried_again_and_ends_well() {
    let scene = fall_behind(1200, 400, 20_000, 4 << 20);
    scene.wait_until_sent(2 << 20);
    scene.network.set(scene.leader, scene.behind, Fault::Break { percent: 100 });
    let log = scene.cluster.node(scene.leader).process();
    log.wait_for_line("that it failed", PATIENCE, |line| line.contains("did not get to node"));
    assert!(scene.cluster.node(scene.behind).files_with_extension("tmp").len() <= 1);
    assert_eq!(scene.cluster.node(scene.behind).files_with_extension("snap"), [], "it has given nothing up");
    scene.network.set(scene.leader, scene.behind, Fault::None);
    scene.wait_until_caught_up(PATIENCE);
    log.wait_for_line("that it was tried again", PATIENCE, |line| {
        line.contains("attempt") && line.contains("delivered")
    });
    assert_eq!(scene.cluster.http(scene.behind).must_get("/large-7"), vec![7; 20_000]);
    // It may be writing one of its own by now.
    eventually("nothing is left of the first", PATIENCE, || {
        scene.cluster.node(scene.behind).files_with_extension("tmp").is_empty().then_some(())
    });
}

/// `cargo test -p tests --test snapshot_transfer -- --ignored --nocapture`
#[test]
#[ignore = "moves a gigabyte, for a minute"]
fn a_snapshot_of_a_gigabyte_starts_no_election() {
    const RATE: u64 = 50 << 20;
    let began = Instant::now();
    let scene = fall_behind(1075, 1075, 1_000_000, RATE);
    println!("written after {:?}", began.elapsed());
    let before = scene.term();
    let writers = Writers::start_at(&[scene.cluster.http(scene.leader)], "meanwhile", 2);
    let sent = scene.wait_until_sent(0);
    let began = Instant::now();
    let silence = |to| scene.network.take_longest_silence(scene.leader, to);
    let third = scene.cluster.followers_of(scene.leader).into_iter().find(|id| *id != scene.behind).expect("a third");
    let _from_now_on = [scene.behind, third].map(silence);
    scene.wait_until_caught_up(Duration::from_secs(240));
    let took = began.elapsed();
    let [to_receiver, to_third] = [scene.behind, third].map(silence);
    println!(
        "longest time between two heartbeats of 100 ms: to the receiver {to_receiver:?}, to the other {to_third:?}"
    );
    let outcomes = writers.stop();
    assert_eq!(scene.term(), before, "term and leader");
    // The shortest election timeout is a second: until then a heartbeat is in time.
    assert!(to_receiver.max(to_third) < Duration::from_secs(1), "{to_receiver:?}, {to_third:?}");
    let memory = |id| peak_memory_mib(scene.cluster.node(id));
    println!("{sent}: caught up in {took:?} at {RATE} bytes/s; term and leader {before:?} before and after");
    println!("peak memory: leader {} MiB, receiver {} MiB", memory(scene.leader), memory(scene.behind));
    outcomes.assert_kept(&scene.cluster);
}
