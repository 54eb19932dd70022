//! What the others notice of a follower that was down for long and comes back.
//!
//! ```text
//! cargo bench -p tests --bench catch_up [-- CASE]
//! ```
//!
//! Three nodes; one dies, [`WRITES`] writes go on without it, and it comes back. Before, while it is down, while it catches
//! up and afterwards, clients at the other two write at a pace that does not fill the machine, and each write's time counts
//! from the moment when it was due, not from when a client got round to it. One line a case:
//! `catch-up <case> before=… down=… during=… after=… ratio=… window=…`, all of them the slowest write but one in a hundred;
//! `ratio` is `during` by `before`, the aim is ≤ 2. `during` lasts until the follower has everything that was committed when
//! it was started, which is less than a second unless the data is large; `after` is what is left of ten seconds, or two at
//! least. `window` is both together, by `before`: what a page that shows the last ten seconds makes of it.
//! `alike=LEAST..MOST` is what so short a time gives without any follower that comes back: the same figure of each piece of
//! `before` that is as long as the catching up was, the least and the most. One stall makes one piece.
//!
//! All three nodes and the clients share this machine. In production the one that catches up would have a processor and a
//! disk of its own. So it has the last processor for itself here, and everything else shares the others, all the time;
//! where there is only one, its figures say little. `TMPDIR=/dev/shm` takes the disk out of the picture.
//!
//! | case | it catches up |
//! |---|---|
//! | `restart` | at once: it has missed next to nothing, so this is what a start alone costs |
//! | `log` | by the leader's log: nobody has taken a snapshot since |
//! | `snapshot` | by a snapshot, with the default settings |
//! | `large` | by a snapshot of 600 MB, while the others go on taking snapshots of as much |
//!
//! On a virtual machine with two AMD EPYC cores, 2026-11-21, in memory, at raised priority (`nice -n -19`), three runs
//! of `log`: before 1.3, 1.6 and 2.4 ms; during 2.2, 1.8 and 1.3, so 1.6, 1.1 and 0.6 times before; window 1.0, 0.7 and 0.5.
//! In turns with them, nodes that send a follower a megabyte ahead of its answers and not a quarter of it: 2.9, 2.3 and 2.5
//! times before, window 0.9 to 1.1, and they catch up no sooner (all in 0.2 to 0.7 s). By a trace of all threads, what is
//! waited for is work in bursts: the follower stores what it was sent and acknowledges it all at once, and for the next
//! megabyte the leader copies 8000 entries (0.5 ms), encodes and writes them (1.3 ms), on the processor that it shares
//! with the third node and all clients. `restart`, two short runs: 1.1 to 1.2 times before. On one disk for all three,
//! one run of a node that still read all the rest of the log for each message: `log` 20 times before, window 3.2.

use std::time::{Duration, Instant};

use tests::cluster::load::put_all;
use tests::cluster::pace::{p99_ms, pieces_p99_ms, start_apart, Processors, Times};
use tests::cluster::{Cluster, Http};

/// Writes that the follower misses, unless it misses none.
const WRITES: u64 = 100_000;
/// What is looked at as a whole, from the follower's start.
const WINDOW: Duration = Duration::from_secs(10);
const VALUE_BYTES: usize = 100;

/// What a follower misses, and how it comes by it.
struct Case {
    name: &'static str,
    arguments: &'static [&'static str],
    writes: u64,
    value_bytes: usize,
    /// It is gone through so often, with one cluster.
    rounds: usize,
}

const NO_SNAPSHOTS: &[&str] = &["--snapshot-count", "100000000"];
const CASES: [Case; 4] = [
    Case { name: "restart", arguments: NO_SNAPSHOTS, writes: 0, value_bytes: VALUE_BYTES, rounds: 3 },
    Case { name: "log", arguments: NO_SNAPSHOTS, writes: WRITES, value_bytes: VALUE_BYTES, rounds: 3 },
    Case { name: "snapshot", arguments: &[], writes: WRITES, value_bytes: VALUE_BYTES, rounds: 3 },
    Case { name: "large", arguments: &["--snapshot-count", "2000"], writes: 6000, value_bytes: 100_000, rounds: 1 },
];

const BEFORE: usize = 0;
const DOWN: usize = 1;
const DURING: usize = 2;
const AFTER: usize = 3;

fn go_through(case: &Case, processors: Option<&Processors>) {
    let cluster = Cluster::start_with(3, case.arguments);
    let times = Times::<4>::default();
    let mut catching_up = Vec::new();
    for round in 0..case.rounds {
        let leader = cluster.wait_for_leader();
        let absent = cluster.followers_of(leader)[0];
        let others: Vec<Http> = (1..=3).filter(|&id| id != absent).map(|id| cluster.http(id)).collect();
        times.while_writing(&others, || times.count(BEFORE, Duration::from_secs(3)));
        cluster.node(absent).kill();
        times.while_writing(&others, || times.count(DOWN, Duration::from_secs(3)));
        put_all(&others, 64, &format!("round-{round}-"), case.writes, |_| vec![b'v'; case.value_bytes]);
        let took = times.while_writing(&others, || {
            let began = Instant::now();
            times.enter(DURING);
            start_apart(&cluster, absent, processors);
            let goal = cluster.node(leader).status().expect("a status").commit;
            cluster.node(absent).wait_until_applied(goal);
            let took = began.elapsed();
            times.count(AFTER, WINDOW.saturating_sub(took).max(Duration::from_secs(2)));
            took
        });
        catching_up.push(took.as_secs_f64());
    }
    let mut by_phase = times.by_phase();
    let [before, down, during, after] = by_phase.each_ref().map(p99_ms);
    let window = p99_ms(by_phase[DURING].iter().chain(&by_phase[AFTER]));
    let count = by_phase[DURING].len() / case.rounds;
    let (least, most) = pieces_p99_ms(&mut by_phase[BEFORE], count);
    println!(
        "catch-up {} before={before:.2}ms down={down:.2}ms during={during:.2}ms after={after:.2}ms ratio={:.2} window={:.2} \
         alike={least:.2}..{most:.2}ms caught_up_in={catching_up:.2?}s writes={:?}",
        case.name,
        during / before,
        window / before,
        by_phase.each_ref().map(Vec::len),
    );
}

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    let processors = Processors::divide();
    if processors.is_none() {
        println!("catch-up: one processor for all, so the follower takes from the others what it uses");
    }
    for case in CASES.iter().filter(|case| case.name.starts_with(&wanted)) {
        go_through(case, processors.as_ref());
    }
}
