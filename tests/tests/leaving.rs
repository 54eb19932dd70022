//! SIGTERM, as an operator sends it: the leader hands over, everybody gets an answer, and the exit code is 0.
#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use tests::cluster::load::{value_of, Outcomes};
use tests::cluster::{eventually, Cluster, Http, Signal, PATIENCE};

/// Writers that behave as a good HTTP client does, each on one connection at a time: one that the server says it will
/// close is not used again, and the next node is taken. Unlike the harness's other writers they keep every outcome.
struct PoliteWriters {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<JoinHandle<(Outcomes, Vec<String>)>>,
}

impl PoliteWriters {
    fn start(cluster: &Cluster, name: &str, writers: usize) -> PoliteWriters {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let targets: Vec<Http> = cluster.nodes().iter().map(|node| node.http()).collect();
        let threads = (0..writers)
            .map(|writer| {
                let (stop, count, targets) = (Arc::clone(&stop), Arc::clone(&count), targets.clone());
                let name = format!("{name}-{writer}");
                std::thread::spawn(move || write_until(&stop, &count, &targets, writer, &name))
            })
            .collect();
        PoliteWriters { stop, count, threads }
    }

    fn wait_for_progress(&self, writes: u64) {
        let goal = self.count.load(Ordering::SeqCst) + writes;
        eventually("writes go on", PATIENCE, || (self.count.load(Ordering::SeqCst) >= goal).then_some(()));
    }

    /// What was acknowledged or refused, and what is not known.
    fn stop(mut self) -> (Outcomes, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let (mut outcomes, mut unknown) = (Outcomes::default(), Vec::new());
        for thread in self.threads.drain(..) {
            let (known, not_known) = thread.join().expect("a writer does not panic");
            outcomes.extend(known);
            unknown.extend(not_known);
        }
        (outcomes, unknown)
    }
}

impl Drop for PoliteWriters {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn write_until(
    stop: &AtomicBool,
    count: &AtomicU64,
    targets: &[Http],
    first: usize,
    name: &str,
) -> (Outcomes, Vec<String>) {
    let (mut outcomes, mut unknown) = (Outcomes::default(), Vec::new());
    let (mut target, mut open, mut number) = (first, None, 0);
    while !stop.load(Ordering::SeqCst) {
        let connection = match open.take().map_or_else(|| targets[target % targets.len()].connect(), Ok) {
            Ok(connection) => connection,
            Err(error) => {
                // Nothing was sent.
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
                target += 1;
                continue;
            }
        };
        let mut connection = connection;
        number += 1;
        let key = format!("{name}-{number}");
        match connection.request("PUT", format!("/{key}").as_bytes(), &[], &value_of(&key)) {
            Ok(answer) => {
                match answer.status {
                    204 => outcomes.acknowledged.push(key),
                    503 => outcomes.refused.push(key),
                    status => unknown.push(format!("{key}: {status} {}", answer.text())),
                }
                count.fetch_add(1, Ordering::SeqCst);
                if answer.header("connection").as_deref() == Some("close") {
                    target += 1;
                } else {
                    open = Some(connection);
                }
            }
            Err(error) => {
                unknown.push(format!("{key}: {error}"));
                target += 1;
            }
        }
    }
    (outcomes, unknown)
}

#[test]
fn a_leader_that_is_told_to_stop_under_load_hands_over_and_leaves_nobody_in_doubt() {
    let cluster = Cluster::start(3);
    for round in 0..3 {
        let leader = cluster.wait_for_leader();
        let term = cluster.node(leader).status().expect("a status").term;
        let writers = PoliteWriters::start(&cluster, &format!("round-{round}"), 12);
        writers.wait_for_progress(300);
        cluster.node(leader).signal(Signal::TERM);
        assert_eq!(cluster.node(leader).wait_for_exit(PATIENCE).code(), Some(0));
        writers.wait_for_progress(300);
        let (outcomes, unknown) = writers.stop();
        assert_eq!(unknown, Vec::<String>::new(), "nobody is left in doubt");
        assert_eq!(outcomes.refused, Vec::<String>::new(), "and nobody is turned away");

        // It was told to campaign: nobody's election timeout has passed. Another election would have cost another term.
        let successor = cluster.wait_for_leader();
        assert_eq!(cluster.node(successor).status().expect("a status").term, term + 1);
        let told = cluster.node(leader).process().stderr();
        let handed = format!("handing leadership over to node {successor}");
        assert!(told.iter().any(|line| line.ends_with(&handed)), "{told:#?}");
        cluster.node(leader).start_and_wait();
        outcomes.assert_kept(&cluster);
    }
}

#[test]
fn a_follower_that_is_told_to_stop_leaves_the_leader_alone() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let term = cluster.node(leader).status().expect("a status").term;
    let writers = PoliteWriters::start(&cluster, "key", 6);
    writers.wait_for_progress(100);
    let follower = cluster.followers_of(leader)[0];
    cluster.node(follower).signal(Signal::TERM);
    assert_eq!(cluster.node(follower).wait_for_exit(PATIENCE).code(), Some(0));
    writers.wait_for_progress(100);
    let (outcomes, unknown) = writers.stop();
    assert_eq!((unknown, outcomes.refused.clone()), (Vec::new(), Vec::new()));
    let status = cluster.node(leader).status().expect("a status");
    assert_eq!((status.role.as_str(), status.term), ("leader", term));
    outcomes.assert_kept(&cluster);
}

#[test]
fn without_a_majority_a_node_stops_all_the_same_and_a_second_signal_ends_it_at_once() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let followers = cluster.followers_of(leader);
    for &follower in &followers {
        cluster.node(follower).kill();
    }
    let waiting = cluster.http(leader);
    let waiting = std::thread::spawn(move || waiting.put("/nobody", "agrees").status);
    cluster.node(leader).signal(Signal::TERM);
    assert_eq!(cluster.node(leader).wait_for_exit(PATIENCE).code(), Some(0));
    // Refused, or in doubt; it may also have come too late to be let in.
    assert!(!matches!(waiting.join(), Ok(204)));

    // Paused nodes look as if they were there: the one that leads waits for them, and can be told not to.
    for id in 1..=3 {
        cluster.node(id).start();
    }
    let leader = cluster.wait_for_leader();
    for &follower in &cluster.followers_of(leader) {
        cluster.node(follower).pause();
    }
    cluster.node(leader).signal(Signal::TERM);
    cluster.node(leader).process().wait_for_line("that it stops", PATIENCE, |line| line.contains("told to stop"));
    cluster.node(leader).signal(Signal::TERM);
    assert_eq!(cluster.node(leader).wait_for_exit(PATIENCE).code(), Some(1));
    let told = cluster.node(leader).process().stderr();
    assert!(told.iter().any(|line| line.contains("told twice")), "{told:#?}");
}
