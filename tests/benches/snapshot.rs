//! What clients notice while a snapshot of 500 MB is taken and sent.
//!
//! ```text
//! cargo bench -p tests --bench snapshot [-- ROUNDS]
//! ```
//!
//! Three nodes with default settings hold [`VALUES`] values of [`VALUE_BYTES`] bytes, and clients write at a pace to all of
//! them. Then a learner is added. That is the one moment when a snapshot is taken without a need for more writes: each node
//! takes one that knows of the newcomer. When all three have theirs, the learner is started, and is sent the leader's. One
//! line: `snapshot before=… taking=… sending=… after=… taking/before=… sending/before=… sending/after=…`, the slowest write
//! but one in a hundred in all rounds. `taking` begins with the request to add the learner and ends a quarter of a second
//! after the last node has given its snapshot the name, so that what is tidied up then counts; `sending` lasts from the
//! learner's start until it has loaded the snapshot and applied all that was committed at its start. From then on there are
//! four nodes on this machine instead of three, in `after` too, which is what `sending` is like without a snapshot. The aim
//! is a ratio ≤ 2. `alike=LEAST..MOST` is what so short a time gives while nothing happens: the same figure of each piece of
//! `before` that is as long, the least and the most; where a phase had more writes than `before`, that is all of `before`.
//!
//! It is harsher than a cluster would be: three snapshots are taken at once, by nodes that share the processors, the
//! memory and the disk of one machine with each other, the learner and the clients. `TMPDIR=/dev/shm` takes the disk out
//! of the picture.
//!
//! On a virtual machine with two AMD EPYC cores, kernel 6.18 without preemption in the kernel, 2026-11-22, at raised priority
//! (`nice -n -19`), while other work came and went; each line is one run, `old` are nodes that wrote a snapshot at half of
//! full speed and sent it at full speed, by threads like all others, and removed old files in the raft thread:
//!
//! | nodes | before | taking | sending | ratios | a snapshot, a transfer took |
//! |---|---|---|---|---|---|
//! | old, in memory | 2.37 ms | 95.7 | 11.5 | 40, 4.9 | 1 s, 2 s |
//! | old, in memory | 5.44 ms | 82.5 | 7.4 | 15, 1.4 | 2 s, 2 s |
//! | old, in memory | 6.84 ms | 86.8 | 26.2 | 13, 3.8 | 2 s, 2 s |
//! | old, in memory | 2.66 ms | 40.3 | 21.0 | 15, 7.9 | 5 s, 3 s |
//! | these, in memory | 2.01 ms | 4.7 | 3.6 | 2.3, 1.8 | 8 s, 12 s |
//! | these, in memory | 3.05 ms | 5.3 | 4.0 | 1.7, 1.3 | 11 s, 12 s |
//! | these, in memory | 4.41 ms | 12.0 | 10.8 | 2.7, 2.5 | 22 s, 12 s |
//! | these, in memory | 3.37 ms | 6.2 | 24.3 | 1.8, 7.2 | 14 s, 12 s |
//! | old, on the disk | 142 ms | 829 | 872 | 5.8, 6.1 | 11 s, 4 s |
//! | these, on the disk | 422 ms | 55 | 214 | 0.1, 0.5 | 29 s, 12 s |
//!
//! In these runs a write counted for the phase in which a client got round to it, and not for the one in which it was due;
//! and the nodes rested from the first byte as they do behind the first 32 MiB now.
//!
//! On the one disk that all nodes share here the quiet figure itself is anything between 3 ms and a second, so the ratios
//! there prove nothing; the times themselves may say something.
//!
//! On 2026-11-29, on the same kind of machine, in memory and at raised priority as above, with no other measurement or build
//! beside it, nodes built without optimization across crates. `earlier` are those above, with the first 32 MiB written at
//! half speed; `trial` load an arrived snapshot with rests, as nodes do now, and removed the purged log by a thread of low
//! priority in steps of a MiB, which they do not (see below):
//!
//! | nodes, rounds | before | taking | sending | after | ratios | a snapshot, a transfer took |
//! |---|---|---|---|---|---|---|
//! | earlier, 2 | 5.05 ms | 11.1 | 10.4 | 8.9 | 2.2, 2.1 | 20 s, 14 s |
//! | earlier, 1 | 5.83 ms | 9.1 | 13.9 | 10.6 | 1.6, 2.4 | 25 s, 15 s |
//! | trial, 2 | 12.83 ms | 9.3 | 9.4 | 8.5 | 0.7, 0.7 | 20 s, 17 s |
//!
//! The last line proves nothing about the ratios, since its quiet figure is twice the others', for a reason that is not
//! known; the times while a snapshot is taken and sent are about what they were, or a little less. Later that day, `now`
//! being nodes as they are now, with optimization across crates, and `earlier` those above:
//!
//! | nodes, rounds | before | taking | sending | after | ratios | a snapshot, a transfer took |
//! |---|---|---|---|---|---|---|
//! | now, 2 | 10.02 ms | 6.3 | 9.3 | 16.4 | 0.6, 0.9 | 23 s, 21 s |
//! | now, 2 | 11.17 ms | 7.9 | 8.4 | 6.6 | 0.7, 0.8 | 18 s, 19 s |
//! | earlier, 2 | 56.31 ms | 7.7 | 7.5 | 8.8 | 0.1, 0.1 | 28 s, 12 s |
//! | now, 2 | 12.79 ms | 6.5 | 6.8 | 6.1 | 0.5, 0.5 | 20 s, 19 s |
//! | now, 2 | 9.46 ms | 7.5 | 7.0 | 9.9 | 0.8, 0.7 | 12 s, 18 s |
//! | now, 2 | 8.95 ms | 8.7 | 8.7 | 6.4 | 1.0, 1.0 | 9 s, 18 s |
//! | now, 2, calm | 15.83 ms | 6.7 | 8.8 | 7.0 | 0.4, 0.6 | 25 s, 19 s |
//! | now, 2, calm | 4.98 ms | 6.3 | 9.6 | 6.9 | 1.3, 1.9 | 23 s, 19 s |
//! | now, 2, calm | 3.48 ms | 5.7 | 8.5 | 6.8 | 1.6, 2.4 | 21 s, 20 s |
//! | now, 2, calm | 4.77 ms | 6.3 | 7.4 | 8.5 | 1.3, 1.5 | 8 s, 18 s |
//! | now, 2, calm | 6.15 ms | 4.8 | 4.9 | 4.8 | 0.8, 0.8 | 6 s, 17 s |
//!
//! In those called calm, `before` began five seconds after the last snapshot that the preparations had called for, and not
//! at once. `before` is spoilt all the same by single stalls in most runs, of the earlier nodes as of those of now; where
//! they come from is not known. While snapshots were taken the ratio was 0.4 to 1.6 in the ten runs of those of now: the aim
//! was met in all of them. While one was sent it was 0.5 to 2.4, above the aim in the run whose `before` was the quietest.
//! Most of that is the fourth node on two processors, and not the snapshot: `sending` was 0.6 to 1.4 times as slow as
//! `after`, when there are four nodes too and nothing is sent. Where each node has its own processors, that part should be
//! missing, which was not measured. The earlier nodes missed the aim in the first hours of that day and met it later, and no
//! difference between the nodes of that week is certain but that loading an arrived snapshot takes longer.
//!
//! What was waited for, by a trace of who had the processors (`perf sched record`). Of the old nodes: the raft thread
//! itself, which removed the snapshot before the last one (a file of 500 MB is gone after 95 ms in memory, 106 on ext4, in
//! one piece), on all three nodes one after another; and the processor, half of which each node took for a second. Of
//! the nodes of 2026-11-22, the removal of the log made 30 % of what raft threads waited for longest while a snapshot was
//! taken; a removal holds a processor for 4 milliseconds at a time, since this kernel does not take one away from a
//! thread that is in it.
//!
//! Of a trace on 2026-11-29, of the `trial`, but with loading without rests (waits of a millisecond and more for a
//! processor, by who had it meanwhile; and how much both idled in all):
//!
//! | phase | had it | idle |
//! |---|---|---|
//! | before | the nodes' sockets 30 %, other raft threads 21, the log's housekeepers 14, clients 13 | 32 % |
//! | taking | sockets 38, the writing of snapshots 20, raft 12; the removal of the log and of old snapshots less than 1 | 29 |
//! | sending | sockets 40, the receiving and loading of the snapshot 16, raft 13, clients 8 | 27 |
//! | after | sockets 52, raft 15, the recorder 8, housekeepers 7 | 19 |
//!
//! So what is left are the writes themselves, on two processors that three nodes share, and from `sending` on a fourth
//! one: `after`, in which nothing is sent, is nearly as slow as `sending`. In all phases 5 to 9 % of these waits went by
//! while the processor in question idled, and once 31 writes stood for 30 ms while both did, as if the host did not run
//! the machine. That, or other work, may be what made one transfer of 2026-11-22 seven times as slow; it did not come up
//! again. The recorder, which worked in bursts of 10 ms, had one of the processors for half of the time of the longest
//! stalls in its own trace, so its run counts for no times.
//!
//! To remove the log in steps took it out of the trace, and made no figure certainly better. It was left: a segment that
//! is shortened must have lost its name for certain, and after a failed sync of the directory nothing is certain; other
//! names of the file (a copy made of hard links) would lose its contents; and room that is given back slowly is missing on
//! a disk that is nearly full.

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
/// How long nobody may have written a snapshot before `before` begins: time to remove what it makes superfluous, half a
/// gigabyte of the log and the snapshot before it.
const CALM: Duration = Duration::from_secs(5);

const BEFORE: usize = 0;
const TAKING: usize = 1;
const SENDING: usize = 2;
const AFTER: usize = 3;

/// Waits until no node has written a snapshot for a while.
fn wait_until_calm(cluster: &Cluster) {
    let mut calm_since = Instant::now();
    eventually("no snapshot was written for some seconds", PATIENCE, || {
        if !none_is_written(cluster) {
            calm_since = Instant::now();
        }
        (calm_since.elapsed() >= CALM).then_some(())
    });
}

fn none_is_written(cluster: &Cluster) -> bool {
    VOTERS.iter().all(|&id| cluster.node(id).files_with_extension("tmp").is_empty())
}

fn newest_snapshots(cluster: &Cluster) -> [Option<PathBuf>; 3] {
    VOTERS.map(|id| cluster.node(id).files_with_extension("snap").into_iter().map(|(path, _)| path).max())
}

/// Goes through all phases; says how long the snapshots took, and the transfer.
fn go_through(cluster: &mut Cluster, times: &Times<4>) -> (Duration, Duration) {
    wait_until_calm(cluster);
    let leader = cluster.wait_for_leader();
    let learner = cluster.prepare_joining_node();
    let url = cluster.node(learner).peer_url();
    let targets: Vec<Http> = VOTERS.iter().map(|&id| cluster.http(id)).collect();
    let took = times.while_writing(&targets, || {
        let old = newest_snapshots(cluster);
        times.count(BEFORE, QUIET);
        assert!(
            newest_snapshots(cluster) == old && none_is_written(cluster),
            "a snapshot was taken in the quiet phase"
        );
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
         taking/before={:.2} sending/before={:.2} sending/after={:.2} alike={} and {} taken_and_sent_in={took:.1?} writes={:?}",
        taking / before,
        sending / before,
        sending / after,
        alike(TAKING),
        alike(SENDING),
        by_phase.each_ref().map(Vec::len),
    );
}
