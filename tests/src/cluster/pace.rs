//! Writers at a pace: what clients notice while something else goes on, whatever it is.
//!
//! Each write's time counts from the moment when it was due, not from when a client got round to it: a stall is noticed by
//! all writes that fall into it. The pace does not fill a machine, so that a time is a wait and not a place in a queue.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

use super::{Cluster, Http};

const CLIENTS: u32 = 16;
/// Between two writes of one client.
const INTERVAL: Duration = Duration::from_millis(10);
const VALUE_BYTES: usize = 100;

/// When a write was due, and how long it took.
pub type Write = (Instant, Duration);

/// The time of each write, by the phase in which it was due: what a stall holds up counts where the stall was, even if it
/// gets done later.
pub struct Times<const PHASES: usize> {
    /// Since when it has been which phase, in order. A number beyond the last means that writes are not counted.
    changes: Mutex<Vec<(Instant, usize)>>,
    writes: Mutex<Vec<Write>>,
}

impl<const PHASES: usize> Default for Times<PHASES> {
    fn default() -> Self {
        Times { changes: Mutex::default(), writes: Mutex::default() }
    }
}

impl<const PHASES: usize> Times<PHASES> {
    /// From now on, the writes that become due are those of this phase.
    pub fn enter(&self, phase: usize) {
        self.changes.lock().expect("nobody has panicked").push((Instant::now(), phase));
    }

    /// From now on, writes are not counted.
    pub fn leave(&self) {
        self.enter(usize::MAX);
    }

    /// This phase lasts for so long.
    pub fn count(&self, phase: usize, lasting: Duration) {
        self.enter(phase);
        std::thread::sleep(lasting);
        self.leave();
    }

    /// All writes, by phase.
    pub fn by_phase(self) -> [Vec<Write>; PHASES] {
        let changes = self.changes.into_inner().expect("nobody has panicked");
        let mut by_phase = [const { Vec::new() }; PHASES];
        for write in self.writes.into_inner().expect("nobody has panicked") {
            let begun = changes.partition_point(|&(since, _)| since <= write.0);
            let phase = begun.checked_sub(1).map_or(usize::MAX, |last| changes[last].1);
            if let Some(writes) = by_phase.get_mut(phase) {
                writes.push(write);
            }
        }
        by_phase
    }

    /// Clients write to these nodes, at the pace, while the work is done.
    ///
    /// # Panics
    /// When a write is not acknowledged: for healthy clusters only.
    pub fn while_writing<T>(&self, targets: &[Http], work: impl FnOnce() -> T) -> T {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (http, stop) = (&targets[client as usize % targets.len()], &stop);
                scope.spawn(move || self.write_at_pace(http, client, stop));
            }
            std::thread::sleep(Duration::from_millis(500));
            let done = work();
            stop.store(true, Ordering::SeqCst);
            done
        })
    }

    fn write_at_pace(&self, http: &Http, client: u32, stop: &AtomicBool) {
        let mut connection = http.connect().expect("a healthy node accepts connections");
        let begin = Instant::now() + INTERVAL * client / CLIENTS;
        for number in 0.. {
            let due = begin + INTERVAL * number;
            // What has been held up is done first: it counts.
            if stop.load(Ordering::SeqCst) && due > Instant::now() {
                return;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let path = format!("/paced-{client}-{}", number % 1000);
            let answer = connection.request("PUT", path.as_bytes(), &[], &[b'p'; VALUE_BYTES]).expect("an answer");
            assert_eq!(answer.status, 204, "{}", answer.text());
            let took = due.elapsed();
            self.writes.lock().expect("nobody has panicked").push((due, took));
        }
    }
}

/// The slowest of these writes but one in a hundred, in milliseconds.
pub fn p99_ms<'a>(writes: impl IntoIterator<Item = &'a Write>) -> f64 {
    let mut times: Vec<Duration> = writes.into_iter().map(|&(_, took)| took).collect();
    times.sort_unstable();
    times.get(times.len() * 99 / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// The least and the most of [`p99_ms`] over pieces of about `count` writes, which were due one after another.
pub fn pieces_p99_ms(writes: &mut [Write], count: usize) -> (f64, f64) {
    writes.sort_unstable();
    let pieces = (writes.len() / count.max(1)).max(1);
    let each = writes.chunks(writes.len().div_ceil(pieces).max(1)).map(p99_ms);
    each.fold((f64::INFINITY, 0.0), |(least, most), p99| (p99.min(least), p99.max(most)))
}

/// The processors for all but a node that is caught up, and its own: elsewhere it would have a machine to itself.
pub struct Processors {
    shared: CpuSet,
    own: CpuSet,
}

impl Processors {
    /// This process and all that it starts share all processors but the last one, from now on. `None`, and nothing is
    /// changed, if there is only one.
    ///
    /// # Panics
    /// When the system does not allow it.
    pub fn divide() -> Option<Processors> {
        let mut shared = sched_getaffinity(None).ok()?;
        let last = (0..CpuSet::MAX_CPU).rev().find(|&number| shared.is_set(number))?;
        shared.unset(last);
        let mut own = CpuSet::new();
        own.set(last);
        if shared.count() == 0 {
            return None;
        }
        stay_on(&shared);
        Some(Processors { shared, own })
    }
}

/// From now on this thread runs there, and all threads and processes that it starts.
fn stay_on(set: &CpuSet) {
    sched_setaffinity(None, set).expect("a thread may choose among its processors");
}

/// Starts a node on the processor of its own.
///
/// # Panics
/// When it runs already, or the system does not allow it.
pub fn start_apart(cluster: &Cluster, id: u64, processors: Option<&Processors>) {
    // A process has its processors from the thread that starts it.
    if let Some(processors) = processors {
        stay_on(&processors.own);
    }
    cluster.node(id).start();
    if let Some(processors) = processors {
        stay_on(&processors.shared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_counts_in_the_phase_in_which_it_was_due() {
        let times = Times::<2>::default();
        let start = Instant::now();
        let at = |tenths: u32| start + Duration::from_millis(100) * tenths;
        *times.changes.lock().unwrap() = vec![(at(10), 0), (at(20), 1), (at(30), usize::MAX)];
        let took = Duration::from_secs(5);
        *times.writes.lock().unwrap() = [9, 10, 19, 20, 29, 30, 40].map(|tenths| (at(tenths), took)).to_vec();
        let [first, second] = times.by_phase();
        assert_eq!(first, [(at(10), took), (at(19), took)], "however late they were done");
        assert_eq!(second, [(at(20), took), (at(29), took)]);
    }
}
