//! The bug zoo: each known mistake is let loose in turn, and the simulator, the model check, or the check of damaged logs
//! must catch it.
//!
//! ```text
//! RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/with-bug-zoo cargo run --release -p tests --bin zoo            all of them
//! RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/with-bug-zoo cargo run --release -p tests --bin zoo -- ForgetVote
//! ```
//!
//! `raft-core/src/zoo.rs` lists the mistakes. They are in no build that is made without that wrapper, and then this
//! says so.
//!
//! The machines go after every mistake as CI runs them, and know nothing of it: the simulator with whole histories of
//! its usual plans, in several series of seeds that have none in common, each until the first history that fails; the
//! model check with its usual scenarios. A series that comes to its end without a failure counts as one of `SEEDS` + 1
//! in the medians. Mistakes in what becomes of damaged bytes show in neither: small logs are damaged sector by sector
//! for them, as `tests/wal_mutations.rs` does it more thoroughly.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[cfg(not(raft_bug_zoo))]
fn main() -> ExitCode {
    eprintln!("built without --cfg raft_bug_zoo: there are no mistakes in this build");
    ExitCode::from(2)
}

#[cfg(raft_bug_zoo)]
fn main() -> ExitCode {
    zoo::main()
}

#[cfg(raft_bug_zoo)]
mod zoo {
    use std::path::Path as FilePath;
    use std::process::ExitCode;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;
    use std::time::Instant;

    use bytes::Bytes;
    use raft_core::zoo::{let_loose, Bug};
    use tests::fault_disk::SECTOR_BYTES;
    use tests::model::{scenarios, search, Limits, Scenario};
    use tests::sim::plan::Order;
    use tests::sim::{run, Violation};
    use tests::wal_workload::{shapes, Expected, Shape};

    /// Series of seeds for each mistake; an odd number has a middle.
    const SERIES: u64 = 5;
    /// Seeds in a series, at most.
    pub(super) const SEEDS: u64 = 30;
    /// How far the first seeds of two series are apart.
    const APART: u64 = 1_000_000;
    /// States of each scenario that the model check looks at, a little of all.
    const STATES: usize = 5_000;
    /// And more, as long as nobody has caught the mistake.
    const STATES_AT_LAST: [usize; 2] = [30_000, 200_000];

    /// What became of one series.
    struct Series {
        /// The number of the history that failed, from 1.
        seeds: u64,
        violation: Option<Violation>,
    }

    /// How the model check found it.
    struct Path {
        scenario: &'static str,
        what: String,
        steps: usize,
        states: usize,
    }

    pub(super) fn main() -> ExitCode {
        // A panic is a finding like any other.
        std::panic::set_hook(Box::new(|_| {}));
        let wanted: Vec<String> = std::env::args().skip(1).collect();
        let is_wanted = |bug: &Bug| wanted.is_empty() || wanted.contains(&format!("{bug:?}"));
        let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(is_wanted).collect();
        let (scenarios, begun) = (scenarios(), Instant::now());
        // Without a mistake nothing may be found.
        let_loose(None);
        let shapes = shapes();
        if let Some(damage) = damage(&shapes) {
            println!("zoo without a mistake: {}", damage.what);
            return ExitCode::FAILURE;
        }
        let (mut seeds, mut states, mut caught) = (Vec::new(), Vec::new(), Caught::default());
        for bug in &bugs {
            let_loose(Some(*bug));
            let series = simulate();
            let by_simulator = series.iter().any(|one| one.violation.is_some());
            let damage = damage(&shapes);
            let mut path = hunt(&scenarios, &[STATES]);
            if path.is_none() && !by_simulator && damage.is_none() {
                path = hunt(&scenarios, &STATES_AT_LAST);
            }
            let_loose(None);
            let mut counts: Vec<u64> = series.iter().map(|one| one.seeds).collect();
            let middle = median(&mut counts);
            println!("zoo bug={bug:?} {} {}", told_by_simulator(&series, middle), told_by_model(path.as_ref()));
            if let Some(Damage { images, what }) = &damage {
                println!("zoo bug={bug:?} damage={images} images: {what}");
            }
            seeds.push(middle);
            states.extend(path.as_ref().map(|path| path.states as u64));
            caught.simulator += usize::from(by_simulator);
            caught.model += usize::from(path.is_some());
            caught.damage += usize::from(damage.is_some());
            if by_simulator || path.is_some() || damage.is_some() {
                caught.all += 1;
            } else {
                println!("zoo bug={bug:?} ESCAPED");
            }
        }
        println!(
            "zoo bugs={} caught={} by_simulator={} by_model={} by_damage={} median_seeds={} median_states={} seconds={}",
            bugs.len(),
            caught.all,
            caught.simulator,
            caught.model,
            caught.damage,
            median(&mut seeds),
            median(&mut states),
            begun.elapsed().as_secs()
        );
        match caught.all == bugs.len() && caught.all > 0 {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    /// How many mistakes were caught, and by whom.
    #[derive(Default)]
    struct Caught {
        all: usize,
        simulator: usize,
        model: usize,
        damage: usize,
    }

    /// A damaged log from which something acknowledged was lost without a word.
    struct Damage {
        /// How many were tried.
        images: usize,
        what: String,
    }

    /// Every sector of every small log, emptied or with a bit turned over.
    fn damage(shapes: &[Shape]) -> Option<Damage> {
        let mut count = 0;
        for shape in shapes {
            for (file, image) in shape.files.iter().enumerate() {
                for at in (0..image.bytes.len()).step_by(SECTOR_BYTES) {
                    for turned in [None, Some(at + 40), Some(at + 100), Some(at + 333)] {
                        let mut images = shape.files.clone();
                        let mut bytes = image.bytes.to_vec();
                        match turned.and_then(|turned| bytes.get_mut(turned)) {
                            Some(byte) => *byte ^= 4,
                            None => bytes[at..].iter_mut().take(SECTOR_BYTES).for_each(|byte| *byte = 0),
                        }
                        images[file].bytes = Bytes::from(bytes);
                        count += 1;
                        if let Err(what) = judge(shape, &images) {
                            let what = format!("{}: {} at {at}: {what}", shape.name, image.name);
                            return Some(Damage { images: count, what });
                        }
                    }
                }
            }
        }
        None
    }

    /// What recovery makes of it: everything acknowledged, or a refusal. Only a log that was cut off before its last sync
    /// was noted anywhere may lose what that sync brought.
    fn judge(shape: &Shape, images: &[wal::Image]) -> Result<(), String> {
        let Ok(recovered) = wal::recover_images(FilePath::new("wal"), images) else { return Ok(()) };
        let found = Expected::of(&recovered);
        let Some(steps) = (0..=shape.workload.steps.len()).rev().find(|steps| shape.workload.after(*steps) == &found)
        else {
            return Err("something was made up".to_string());
        };
        let least = if shape.has_mark { shape.workload.certain(shape.done) } else { shape.before_last_group() };
        match steps >= least {
            true => Ok(()),
            false => Err(format!("{steps} steps are left of {least} that were acknowledged")),
        }
    }

    fn median(numbers: &mut [u64]) -> u64 {
        numbers.sort_unstable();
        numbers.get(numbers.len() / 2).copied().unwrap_or(0)
    }

    fn told_by_simulator(series: &[Series], middle: u64) -> String {
        let found: Vec<&Violation> = series.iter().filter_map(|one| one.violation.as_ref()).collect();
        let mut names: Vec<&str> = found.iter().map(|violation| violation.invariant).collect();
        names.sort_unstable();
        names.dedup();
        let counts: Vec<String> = series
            .iter()
            .map(|one| if one.violation.is_some() { one.seeds.to_string() } else { format!("over-{SEEDS}") })
            .collect();
        format!(
            "simulator={}/{} seeds={} median={middle} invariants={:?}",
            found.len(),
            series.len(),
            counts.join(","),
            names.join(", ")
        )
    }

    fn told_by_model(path: Option<&Path>) -> String {
        match path {
            None => "model=no".to_string(),
            Some(Path { scenario, what, steps, states }) => {
                format!("model={scenario} states={states} steps={steps}: {what}")
            }
        }
    }

    /// The series, several at a time.
    fn simulate() -> Vec<Series> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicU64::new(0);
        let mut all: Vec<(u64, Series)> = thread::scope(|scope| {
            let work = || {
                let mut done = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= SERIES {
                        return done;
                    }
                    done.push((number, run_series(number * APART)));
                }
            };
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
        });
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, series)| series).collect()
    }

    fn run_series(first: u64) -> Series {
        for count in 1..=SEEDS {
            if let Err(failure) = run(&Order::new(first + count - 1)) {
                return Series { seeds: count, violation: Some(failure.violation) };
            }
        }
        Series { seeds: SEEDS + 1, violation: None }
    }

    /// The model check.
    fn hunt(scenarios: &[Scenario], limits: &[usize]) -> Option<Path> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let mut states = 0;
        for limit in limits.iter().copied() {
            for scenario in scenarios {
                let path = |what: String, steps, states| Path { scenario: scenario.name, what, steps, states };
                match search(scenario, Limits { states: limit, threads }) {
                    Ok(report) => {
                        states += report.states;
                        if let Some(violation) = report.violation {
                            return Some(path(violation.what, violation.path.len(), states));
                        }
                    }
                    // It does not even begin.
                    Err(what) => return Some(path(what, 0, states)),
                }
            }
        }
        None
    }
}
