//! The bug zoo: each known mistake is let loose in turn, and the simulator, the model check, the check of damaged logs or
//! that of crashed ones must catch it.
//!
//! ```text
//! RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/with-bug-zoo cargo run --release -p tests --bin zoo               all of them, by all
//! RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/with-bug-zoo cargo run --release -p tests --bin zoo -- --quick    as CI does
//! RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/with-bug-zoo cargo run --release -p tests --bin zoo -- ForgetVote
//! ```
//!
//! `raft-core/src/zoo.rs` lists the mistakes. They are in no build that is made without that wrapper, and then this
//! says so.
//!
//! The machines go after every mistake as CI runs them, and know nothing of it: the simulator with whole histories of
//! its usual plans, in several series of seeds that have none in common, each until the first history that fails; the
//! model check with its usual scenarios. A series that comes to its end without a failure counts as one more than it has
//! seeds in the medians. Mistakes in what becomes of bytes hardly show in either: small logs are damaged sector by sector
//! for them, as `tests/wal_mutations.rs` does it more thoroughly, and logs at work are crashed, recovered and given the
//! same work again, as `tests/wal_crashes.rs` does it at every call.
//!
//! With `--quick` a mistake is left alone as soon as one of them has caught it, the simulator first, and those that are
//! known to take hundreds of seeds are left out. Seeds are fixed: every run finds the same.
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
    use tests::fault_disk::{FaultDisk, Image, Moment, SECTOR_BYTES};
    use tests::model::{scenarios, search, Limits, Scenario};
    use tests::random::Random;
    use tests::sim::plan::Order;
    use tests::sim::{run, Violation};
    use tests::wal_workload::{self, shapes, Expected, Shape, Workload};

    /// How far the first seeds of two series are apart.
    const APART: u64 = 1_000_000;
    /// States of each scenario that the model check looks at; more, as long as nobody has caught the mistake.
    const STATES: [usize; 3] = [5_000, 30_000, 200_000];

    /// How much is done about each mistake.
    #[derive(Clone, Copy)]
    struct Effort {
        /// Series of seeds; an odd number has a middle.
        series: u64,
        /// Seeds in a series, at most.
        seeds: u64,
        /// One machine is enough.
        quick: bool,
    }

    const THOROUGH: Effort = Effort { series: 5, seeds: 200, quick: false };
    const QUICK: Effort = Effort { series: 3, seeds: 30, quick: true };

    /// So few mistakes, unless they are named, would prove little.
    const LEAST: usize = 25;

    /// Those that take more seeds than `QUICK` has; it leaves them out.
    const RARE: &[Bug] = &[Bug::PromiseEndsWithTerm];

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

    /// An image of a log from which something was lost, or made up, without a word.
    struct Broken {
        /// How many were tried.
        images: usize,
        what: String,
    }

    /// What the machines say to one mistake.
    #[derive(Default)]
    struct Catch {
        series: Vec<Series>,
        damage: Option<Broken>,
        crash: Option<Broken>,
        path: Option<Path>,
    }

    impl Catch {
        fn by_simulator(&self) -> bool {
            self.series.iter().any(|one| one.violation.is_some())
        }

        fn is_one(&self) -> bool {
            self.by_simulator() || self.damage.is_some() || self.crash.is_some() || self.path.is_some()
        }

        /// Over the series.
        fn median_seeds(&self) -> u64 {
            median(&mut self.series.iter().map(|one| one.seeds).collect::<Vec<_>>())
        }
    }

    pub(super) fn main() -> ExitCode {
        // A panic is a finding like any other.
        std::panic::set_hook(Box::new(|_| {}));
        let mut wanted: Vec<String> = std::env::args().skip(1).collect();
        let effort = if wanted.iter().any(|word| word == "--quick") { QUICK } else { THOROUGH };
        wanted.retain(|word| word != "--quick");
        let names: Vec<String> = Bug::ALL.iter().map(|bug| format!("{bug:?}")).collect();
        if let Some(unknown) = wanted.iter().find(|word| !names.contains(word)) {
            eprintln!("there is no {unknown}; there are --quick and {}", names.join(" "));
            return ExitCode::from(2);
        }
        let is_wanted = |bug: &Bug| match wanted.is_empty() {
            true => !(effort.quick && RARE.contains(bug)),
            false => wanted.contains(&format!("{bug:?}")),
        };
        let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(is_wanted).collect();
        let (scenarios, begun) = (scenarios(), Instant::now());
        // Without a mistake nothing may be found.
        let_loose(None);
        let shapes = shapes();
        if let Some(what) = false_alarm(effort, &shapes, &scenarios) {
            println!("zoo without a mistake: {what}");
            return ExitCode::FAILURE;
        }
        let mut caught = Vec::new();
        for bug in &bugs {
            let begun = Instant::now();
            let_loose(Some(*bug));
            let catch = hunt(effort, &shapes, &scenarios);
            let_loose(None);
            tell(*bug, effort, &catch, begun);
            caught.push(catch);
        }
        let count = |by: fn(&Catch) -> bool| caught.iter().filter(|catch| by(catch)).count();
        let all = count(Catch::is_one);
        let mut seeds: Vec<u64> = caught.iter().map(Catch::median_seeds).collect();
        let mut states: Vec<u64> =
            caught.iter().filter_map(|catch| catch.path.as_ref()).map(|path| path.states as u64).collect();
        println!(
            "zoo caught={all}/{} median_seeds={} by_simulator={} by_model={} by_damage={} by_crash={} median_states={} \
             seconds={}",
            bugs.len(),
            median(&mut seeds),
            count(Catch::by_simulator),
            count(|catch| catch.path.is_some()),
            count(|catch| catch.damage.is_some()),
            count(|catch| catch.crash.is_some()),
            median(&mut states),
            begun.elapsed().as_secs()
        );
        match all == bugs.len() && (!wanted.is_empty() || all >= LEAST) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    /// What the machines say where nothing is wrong.
    fn false_alarm(effort: Effort, shapes: &[Shape], scenarios: &[Scenario]) -> Option<String> {
        let image = damaged(shapes).or_else(crashed).map(|found| found.what);
        image.or_else(|| search_all(scenarios, STATES[0]).map(|path| path.what)).or_else(|| {
            let violation = simulate(effort).into_iter().find_map(|series| series.violation)?;
            Some(format!("{}: {}", violation.invariant, violation.what))
        })
    }

    /// Lets the machines loose on the mistake that is loose. If one is enough, the rest stays in.
    fn hunt(effort: Effort, shapes: &[Shape], scenarios: &[Scenario]) -> Catch {
        let mut catch = Catch { series: simulate(effort), ..Catch::default() };
        let goes_on = |catch: &Catch| !(effort.quick && catch.is_one());
        if goes_on(&catch) {
            catch.damage = damaged(shapes);
        }
        if goes_on(&catch) {
            catch.crash = crashed();
        }
        for states in STATES {
            if catch.path.is_none() && goes_on(&catch) && (states == STATES[0] || !catch.is_one()) {
                catch.path = search_all(scenarios, states);
            }
        }
        catch
    }

    fn tell(bug: Bug, effort: Effort, catch: &Catch, begun: Instant) {
        let found: Vec<&Violation> = catch.series.iter().filter_map(|one| one.violation.as_ref()).collect();
        let mut invariants: Vec<&str> = found.iter().map(|violation| violation.invariant).collect();
        invariants.sort_unstable();
        invariants.dedup();
        let count = |one: &Series| match one.violation {
            Some(_) => one.seeds.to_string(),
            None => format!("over-{}", effort.seeds),
        };
        let counts: Vec<String> = catch.series.iter().map(count).collect();
        print!(
            "zoo bug={bug:?} simulator={}/{} seeds={} median={}",
            found.len(),
            catch.series.len(),
            counts.join(","),
            catch.median_seeds()
        );
        if !found.is_empty() {
            print!(" invariants={:?}", invariants.join(", "));
        }
        for (name, broken) in [("damage", &catch.damage), ("crash", &catch.crash)] {
            if let Some(Broken { images, what }) = broken {
                print!(" {name}={images} images: {what}");
            }
        }
        if let Some(Path { scenario, what, steps, states }) = &catch.path {
            print!(" model={scenario} states={states} steps={steps}: {what}");
        }
        println!("{} seconds={:.1}", if catch.is_one() { "" } else { " ESCAPED" }, begun.elapsed().as_secs_f64());
    }

    /// Every sector of every small log, emptied or with a bit turned over.
    fn damaged(shapes: &[Shape]) -> Option<Broken> {
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
                        if let Err(what) = judge_damage(shape, &images) {
                            let what = format!("{}: {} at {at}: {what}", shape.name, image.name);
                            return Some(Broken { images: count, what });
                        }
                    }
                }
            }
        }
        None
    }

    /// What recovery makes of it: everything acknowledged, or a refusal. Only a log that was cut off before its last sync
    /// was noted anywhere may lose what that sync brought.
    fn judge_damage(shape: &Shape, images: &[wal::Image]) -> Result<(), String> {
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

    /// Logs at work, crashed at every call in a few ways each.
    fn crashed() -> Option<Broken> {
        let mut count = 0;
        for workload in wal_workload::all() {
            let disk = FaultDisk::new();
            disk.record();
            workload.run(&disk);
            for moment in disk.take_moments() {
                let mut found = None;
                moment.images(3, SECTOR_BYTES / 2, &mut Random::new(moment.call), |image| {
                    if found.is_none() {
                        count += 1;
                        found = judge_crash(&workload, &moment, &image).err();
                    }
                });
                if let Some(what) = found {
                    let what = format!("{} at call {}: {what}", workload.name, moment.call);
                    return Some(Broken { images: count, what });
                }
            }
        }
        None
    }

    /// What recovery makes of it: what was acknowledged, and a beginning of the rest. Given the same work once more, it
    /// holds that and nothing else.
    fn judge_crash(workload: &Workload, moment: &Moment, image: &Image) -> Result<(), String> {
        let disk = FaultDisk::with_image(image);
        let (log, recovered, snapshots) = workload.open(&disk).map_err(|error| error.to_string())?;
        let Some(steps) = workload.explain(&Expected::of(&recovered), moment.progress) else {
            return Err("something was lost or made up".to_string());
        };
        workload.redo(&disk, (log, snapshots), steps)
    }

    fn median(numbers: &mut [u64]) -> u64 {
        numbers.sort_unstable();
        numbers.get(numbers.len() / 2).copied().unwrap_or(0)
    }

    /// The series, several at a time.
    fn simulate(effort: Effort) -> Vec<Series> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicU64::new(0);
        let mut all: Vec<(u64, Series)> = thread::scope(|scope| {
            let work = || {
                let mut done = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= effort.series {
                        return done;
                    }
                    done.push((number, run_series(number * APART, effort.seeds)));
                }
            };
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
        });
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, series)| series).collect()
    }

    fn run_series(first: u64, seeds: u64) -> Series {
        for count in 1..=seeds {
            if let Err(failure) = run(&Order::new(first + count - 1)) {
                return Series { seeds: count, violation: Some(failure.violation) };
            }
        }
        Series { seeds: seeds + 1, violation: None }
    }

    /// The model check, so far into each scenario.
    fn search_all(scenarios: &[Scenario], limit: usize) -> Option<Path> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let mut states = 0;
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
        None
    }
}
