//! Many seeds on several threads, what they add up to, and what is done about a failure.
//!
//! Every fiftieth seed is run twice: its two traces must be equal. The first failure ends the campaign. It is shrunk by
//! trying to do without each fault, with fewer nodes, and with less time, as long as the same promise is broken; the
//! result is printed as a command.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::marks::Marks;
use super::plan::{Order, Plan, TICK_MS};
use super::{run, Failure, History, Stats, Violation};

/// One in so many seeds is run twice.
pub const TWICE_EVERY: u64 = 50;

/// What to run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The first seed.
    pub first_seed: u64,
    /// How many.
    pub seeds: u64,
    /// What each of them is allowed.
    pub order: Order,
    /// Threads.
    pub threads: usize,
    /// No new seed is begun after this time.
    pub time: Option<Duration>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds that ran to their end.
    pub seeds: u64,
    /// Seeds that were run twice, with equal traces.
    pub repeated: u64,
    /// What was counted.
    pub stats: Stats,
    /// Where it has been.
    pub marks: Marks,
    /// Different situations that clusters were in.
    pub situations: HashSet<u64>,
    /// A digest of all traces, in the order of the seeds; 0 if not all of them ran.
    pub elapsed: Duration,
}

impl Summary {
    /// Simulated hours of clusters.
    pub fn cluster_hours(&self) -> f64 {
        self.stats.milliseconds as f64 / 3_600_000.0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        write!(
            f,
            "sim seeds={} repeated={} hours={:.1} messages={} crashes={} elections={} commits={} snapshots={} \
             conf_changes={} writes={} reads={} distinct_entries={} distinct_situations={} seconds={:.0}",
            self.seeds,
            self.repeated,
            self.cluster_hours(),
            stats.messages,
            stats.crashes,
            stats.elections,
            stats.commits,
            stats.snapshots,
            stats.conf_changes,
            stats.writes,
            stats.reads,
            stats.entries,
            self.situations.len(),
            self.elapsed.as_secs_f64()
        )
    }
}

impl Campaign {
    /// Runs the seeds; the failure with the lowest seed among those found ends it.
    pub fn run(&self) -> Result<Summary, Box<Failure>> {
        let begun = Instant::now();
        let next = AtomicU64::new(self.first_seed);
        let end = self.first_seed.saturating_add(self.seeds);
        let stop = AtomicBool::new(false);
        let summary = Mutex::new(Summary::default());
        let failure: Mutex<Option<Failure>> = Mutex::new(None);
        let work = || {
            while !stop.load(Ordering::Relaxed) && self.time.is_none_or(|time| begun.elapsed() < time) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return;
                }
                let order = Order { seed, ..self.order.clone() };
                let repeated = seed % TWICE_EVERY == 0;
                match run_seed(&order, repeated) {
                    Ok(history) => {
                        let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                        summary.seeds += 1;
                        summary.repeated += u64::from(repeated);
                        summary.stats.add(&history.stats);
                        summary.marks.add(&history.marks);
                        summary.situations.extend(history.situations);
                    }
                    Err(found) => {
                        stop.store(true, Ordering::Relaxed);
                        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        if failure.as_ref().is_none_or(|known| found.order.seed < known.order.seed) {
                            *failure = Some(found);
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(work);
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(failure) => Err(Box::new(failure)),
            None => {
                let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
                summary.elapsed = begun.elapsed();
                Ok(summary)
            }
        }
    }
}

/// Runs a seed; `twice` to see that nothing but the seed decides.
fn run_seed(order: &Order, twice: bool) -> Result<History, Failure> {
    let history = run(order)?;
    if twice {
        let again = run(order)?;
        if again.trace != history.trace || again.stats != history.stats {
            let what = format!(
                "two runs differ: {:x} {:?}, {:x} {:?}",
                history.trace, history.stats, again.trace, again.stats
            );
            let violation = Violation { invariant: "determinism", what };
            return Err(Failure { order: order.clone(), violation, at_ms: 0 });
        }
    }
    Ok(history)
}

/// The smallest order, found by leaving things out one after the other, that still breaks the same promise. `attempt` is told
/// of each step that helped.
pub fn shrink(failure: &Failure, mut helped: impl FnMut(&Failure)) -> Failure {
    let mut best = failure.clone();
    let mut attempt = |best: &mut Failure, order: Order| {
        if order == best.order {
            return;
        }
        match run(&order) {
            // Another promise that is broken may be another mistake.
            Err(smaller) if smaller.violation.invariant == best.violation.invariant => {
                helped(&smaller);
                *best = smaller;
            }
            _ => {}
        }
    };
    let cut_to_time = |best: &Failure| {
        // What is broken at a tick needs none after it; the end without faults needs the whole part before.
        let ticks = (best.at_ms / TICK_MS + 1).min(best.order.ticks);
        Order { ticks, ..best.order.clone() }
    };
    let order = cut_to_time(&best);
    attempt(&mut best, order);
    loop {
        let before = best.order.clone();
        let plan = Plan::draw(&best.order);
        for fault in plan.faults.iter() {
            let order = Order { without: best.order.without.with(fault), ..best.order.clone() };
            attempt(&mut best, order);
        }
        for nodes in 1..plan.nodes {
            let order = Order { nodes: (nodes, nodes), ..best.order.clone() };
            attempt(&mut best, order);
            if best.order.nodes.1 == nodes {
                break;
            }
        }
        let order = cut_to_time(&best);
        attempt(&mut best, order);
        for part in [2, 4, 8] {
            let ticks = best.order.ticks - best.order.ticks / part;
            let order = Order { ticks, ..best.order.clone() };
            attempt(&mut best, order);
        }
        if best.order == before {
            return best;
        }
    }
}
