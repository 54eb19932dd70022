//! What clients notice while a snapshot of 500 MB is taken and sent.
//!
//! ```text
//! cargo bench -p tests --bench snapshot [-- ROUNDS]
//! ```
//!
//! Three nodes with default settings hold [`VALUES`] values of [`VALUE_BYTES`] bytes, and clients write at a pace to all of
//! them. Then a learner is added. That is the one moment when a snapshot is taken without a need for more writes: each
//! node takes one that knows of the newcomer. When all three have theirs, the learner is started, and is sent the leader's.
//! One line: `snapshot before=… taking=… sending=… after=… taking/before=… sending/before=…`, the slowest write but one in a
//! hundred in all rounds. `taking` begins with the request to add the learner and ends a quarter of a second after the
//! last node has given its snapshot the name, so that what is tidied up then counts; `sending` lasts from the learner's
//! start until it has loaded the snapshot and applied all that was committed at its start. The aim is a ratio ≤ 2.
//! `alike=LEAST..MOST` is what so short a time gives while nothing happens: the same figure of each piece of `before`
//! that is as long, the least and the most.
//!
//! It is harsher than a cluster would be: three snapshots are taken at once, by nodes that share the processors, the
//! memory and the disk of one machine with each other, the learner and the clients. `TMPDIR=/dev/shm` takes the disk out
//! of the picture.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tests::cluster::load::put_all;
use tests::cluster::pace::{p99_ms, pieces_p99_ms, Times};
use tests::cluster::{eventually, Cluster, Http};

const VALUES: u64 = 100_000;
const VALUE_BYTES: usize = 5000;
const VOTERS: [u64; 3] = [1, 2, 3];
const ROUNDS: usize = 2;
/// For a snapshot to be taken, or sent, on whatever disk.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long `before` and `after` last in each round.
const QUIET: Duration = Duration::from_secs(5);
/// What follows on a snapshot's name.
const TIDYING: Duration = Duration::from_millis(250);

const BEFORE: usize = 0;
const TAKING: usize = 1;
const SENDING: usize = 2;
const AFTER: usize = 3;

/// Waits until no node is writing a snapshot.
fn wait_until_none_is_taken(cluster: &Cluster) {
    // It begins with the next write that is due, if it begins.
    std::thread::sleep(Duration::from_secs(1));
    eventually("no snapshot is being written", PATIENCE, || {
        VOTERS.iter().all(|&id| cluster.node(id).files_with_extension("tmp").is_empty()).then_some(())
    });
}

fn newest_snapshots(cluster: &Cluster) -> [Option<PathBuf>; 3] {
    VOTERS.map(|id| cluster.node(id).files_with_extension("snap").into_iter().map(|(path, _)| path).max())
}

/// Goes through all phases; says how long the snapshots took, and the transfer.
fn go_through(cluster: &mut Cluster, times: &Times<4>) -> (Duration, Duration) {
    wait_until_none_is_taken(cluster);
    let leader = cluster.wait_for_leader();
    let learner = cluster.prepare_joining_node();
    let url = cluster.node(learner).peer_url();
    let targets: Vec<Http> = VOTERS.iter().map(|&id| cluster.http(id)).collect();
    let took = times.while_writing(&targets, || {
        times.count(BEFORE, QUIET);
        let old = newest_snapshots(cluster);
        let began = Instant::now();
        times.enter(TAKING);
        let answer = cluster.http(leader).post(format!("/{learner}?learner=true"), &url);
        assert_eq!(answer.status, 204, "{}", answer.text());
        eventually("all have taken one", PATIENCE, || {
            newest_snapshots(cluster).iter().zip(&old).all(|(new, old)| new != old).then_some(())
        });
        let taken_in = began.elapsed();
        std::thread::sleep(TIDYING);
        let began = Instant::now();
        times.enter(SENDING);
        cluster.node(learner).start();
        let goal = cluster.node(leader).status().expect("a status").commit;
        eventually("the learner has everything", PATIENCE, || {
            cluster.node(learner).status().filter(|status| status.applied >= goal)
        });
        let sent_in = began.elapsed();
        times.count(AFTER, QUIET);
        (taken_in, sent_in)
    });
    let answer = cluster.http(leader).delete(format!("/{learner}"));
    assert_eq!(answer.status, 204, "{}", answer.text());
    cluster.node(learner).wait_for_exit(PATIENCE);
    took
}

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let rounds = wanted.map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let mut cluster = Cluster::start_with(3, &[]);
    let targets: Vec<Http> = VOTERS.iter().map(|&id| cluster.http(id)).collect();
    put_all(&targets, 64, "large-", VALUES, |_| vec![b'v'; VALUE_BYTES]);
    let times = Times::<4>::default();
    let mut took = Vec::new();
    for _ in 0..rounds {
        took.push(go_through(&mut cluster, &times));
    }
    let mut by_phase = times.by_phase();
    let [before, taking, sending, after] = by_phase.each_ref().map(p99_ms);
    let mut alike = |phase: usize| {
        let count = by_phase[phase].len() / rounds;
        let (least, most) = pieces_p99_ms(&mut by_phase[BEFORE], count);
        format!("{least:.2}..{most:.2}ms")
    };
    println!(
        "snapshot before={before:.2}ms taking={taking:.2}ms sending={sending:.2}ms after={after:.2}ms \
         taking/before={:.2} sending/before={:.2} alike={} and {} taken_and_sent_in={took:.1?} writes={:?}",
        taking / before,
        sending / before,
        alike(TAKING),
        alike(SENDING),
        by_phase.each_ref().map(Vec::len),
    );
}
