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

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use tests::cluster::load::put_all;
use tests::cluster::{Cluster, Http};

/// Writes that the follower misses, unless it misses none.
const WRITES: u64 = 100_000;
const CLIENTS: u32 = 16;
/// What is looked at as a whole, from the follower's start.
const WINDOW: Duration = Duration::from_secs(10);
/// Between two writes of one client.
const INTERVAL: Duration = Duration::from_millis(10);
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

const PHASES: [&str; 4] = ["before", "down", "during", "after"];

/// The time of each write, by phase. A phase number beyond the last means that the writes are not counted.
struct Times {
    phase: AtomicUsize,
    /// When each write was due, and how long it took.
    by_phase: Mutex<[Vec<(Instant, Duration)>; PHASES.len()]>,
}

impl Times {
    fn count(&self, phase: usize, lasting: Duration) {
        self.phase.store(phase, Ordering::SeqCst);
        std::thread::sleep(lasting);
        self.phase.store(usize::MAX, Ordering::SeqCst);
    }
}

/// Writes at a pace until told to stop.
fn write_at_pace(http: &Http, client: u32, stop: &AtomicBool, times: &Times) {
    let mut connection = http.connect().expect("a healthy node accepts connections");
    let begin = Instant::now() + INTERVAL * client / CLIENTS;
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let due = begin + INTERVAL * number;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let phase = times.phase.load(Ordering::SeqCst);
        let path = format!("/paced-{client}-{}", number % 1000);
        let answer = connection.request("PUT", path.as_bytes(), &[], &[b'p'; VALUE_BYTES]).expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
        let took = due.elapsed();
        let mut by_phase = times.by_phase.lock().expect("nobody has panicked");
        if let Some(phase) = by_phase.get_mut(phase) {
            phase.push((due, took));
        }
    }
}

/// The processors for all but the follower that comes back, and its own.
struct Processors {
    shared: CpuSet,
    own: CpuSet,
}

impl Processors {
    /// `None` if this process may use no more than one.
    fn divide() -> Option<Processors> {
        let mut shared = sched_getaffinity(None).ok()?;
        let last = (0..CpuSet::MAX_CPU).rev().find(|&number| shared.is_set(number))?;
        shared.unset(last);
        let mut own = CpuSet::new();
        own.set(last);
        (shared.count() > 0).then_some(Processors { shared, own })
    }

    /// From now on this thread runs there, and all threads and processes that it starts.
    fn stay_on(set: &CpuSet) {
        sched_setaffinity(None, set).expect("a thread may choose among its processors");
    }
}

/// Starts a node, which has its processors from the thread that starts it.
fn start_apart(cluster: &Cluster, id: u64, processors: Option<&Processors>) {
    let starting = || {
        if let Some(processors) = processors {
            Processors::stay_on(&processors.own);
        }
        cluster.node(id).start();
    };
    std::thread::scope(|scope| scope.spawn(starting).join().expect("the node can be started"));
}

fn p99_ms<'a>(writes: impl IntoIterator<Item = &'a (Instant, Duration)>) -> f64 {
    let mut times: Vec<Duration> = writes.into_iter().map(|&(_, took)| took).collect();
    times.sort_unstable();
    times.get(times.len() * 99 / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// The least and the most of [`p99_ms`] over pieces of about `count` writes, which were due one after another.
fn pieces_p99_ms(writes: &mut [(Instant, Duration)], count: usize) -> (f64, f64) {
    writes.sort_unstable();
    let each = writes.chunks_exact(count.clamp(1, writes.len().max(1))).map(p99_ms);
    each.fold((f64::INFINITY, 0.0), |(least, most), p99| (p99.min(least), p99.max(most)))
}

fn go_through(case: &Case, processors: Option<&Processors>) {
    let cluster = Cluster::start_with(3, case.arguments);
    let times = Times { phase: AtomicUsize::new(usize::MAX), by_phase: Mutex::default() };
    let mut catching_up = Vec::new();
    for round in 0..case.rounds {
        let leader = cluster.wait_for_leader();
        let absent = cluster.followers_of(leader)[0];
        let others: Vec<Http> = (1..=3).filter(|&id| id != absent).map(|id| cluster.http(id)).collect();
        let paced = |work: &dyn Fn()| {
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for client in 0..CLIENTS {
                    let (http, stop, times) = (&others[client as usize % others.len()], &stop, &times);
                    scope.spawn(move || write_at_pace(http, client, stop, times));
                }
                std::thread::sleep(Duration::from_millis(500));
                work();
                stop.store(true, Ordering::SeqCst);
            });
        };
        paced(&|| times.count(0, Duration::from_secs(3)));
        cluster.node(absent).kill();
        paced(&|| times.count(1, Duration::from_secs(3)));
        put_all(&others, 64, &format!("round-{round}-"), case.writes, |_| vec![b'v'; case.value_bytes]);
        let took = Mutex::new(Duration::ZERO);
        paced(&|| {
            let began = Instant::now();
            times.phase.store(2, Ordering::SeqCst);
            start_apart(&cluster, absent, processors);
            let goal = cluster.node(leader).status().expect("a status").commit;
            cluster.node(absent).wait_until_applied(goal);
            *took.lock().expect("nobody has panicked") = began.elapsed();
            times.count(3, WINDOW.saturating_sub(began.elapsed()).max(Duration::from_secs(2)));
        });
        catching_up.push(took.into_inner().expect("nobody has panicked").as_secs_f64());
    }
    let mut by_phase = times.by_phase.into_inner().expect("nobody has panicked");
    let [before, down, during, after] = by_phase.each_ref().map(p99_ms);
    let window = p99_ms(by_phase[2].iter().chain(&by_phase[3]));
    let count = by_phase[2].len() / case.rounds;
    let (least, most) = pieces_p99_ms(&mut by_phase[0], count);
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
    match &processors {
        Some(processors) => Processors::stay_on(&processors.shared),
        None => println!("catch-up: one processor for all, so the follower takes from the others what it uses"),
    }
    for case in CASES.iter().filter(|case| case.name.starts_with(&wanted)) {
        go_through(case, processors.as_ref());
    }
}
