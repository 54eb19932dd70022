//! The bug zoo: each known mistake is let loose in turn, and the model check must catch it.
//!
//! ```text
//! RUSTFLAGS="--cfg raft_bug_zoo" cargo run --release -p tests --bin zoo --target-dir target/zoo
//! ```
//!
//! `raft-core/src/zoo.rs` lists the mistakes. Without the flag there are none in the build, and this says so.
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
    use std::process::ExitCode;

    use raft_core::zoo::{let_loose, Bug};
    use tests::model::{scenarios, search, walk, Limits, Scenario};

    /// Who caught a mistake.
    struct Caught {
        scenario: &'static str,
        what: String,
        steps: usize,
        states: usize,
    }

    pub(super) fn main() -> ExitCode {
        let wanted = std::env::args().nth(1);
        let scenarios = scenarios();
        let bugs: Vec<Bug> = Bug::ALL
            .iter()
            .copied()
            .filter(|bug| wanted.as_ref().is_none_or(|name| format!("{bug:?}") == *name))
            .collect();
        let (mut caught, mut states, mut seeds) = (0, Vec::new(), Vec::new());
        for bug in &bugs {
            let_loose(Some(*bug));
            let walked = walk_for(&scenarios);
            let limits: &[usize] = if walked.is_some() { &[5_000, 40_000] } else { &[5_000, 40_000, 200_000] };
            let found = hunt(&scenarios, limits);
            let_loose(None);
            let seeds_text = walked.map_or("none".to_string(), |count| count.to_string());
            seeds.extend(walked);
            match found {
                Some(found) => {
                    caught += 1;
                    states.push(found.states);
                    println!(
                        "zoo bug={bug:?} caught-by=model scenario={} states={} steps={} walk-seeds={seeds_text}: {}",
                        found.scenario, found.states, found.steps, found.what
                    );
                }
                None if walked.is_some() => {
                    caught += 1;
                    println!("zoo bug={bug:?} caught-by=walk walk-seeds={seeds_text}");
                }
                None => println!("zoo bug={bug:?} NOT CAUGHT"),
            }
        }
        println!(
            "zoo bugs={} caught={caught} median-states={} walks-caught={} median-walk-seeds={}",
            bugs.len(),
            median(&mut states),
            seeds.len(),
            median(&mut seeds)
        );
        if caught == bugs.len() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn median(numbers: &mut [usize]) -> usize {
        numbers.sort_unstable();
        numbers.get(numbers.len() / 2).copied().unwrap_or(0)
    }

    /// The model check: all scenarios a little, then all of them longer, so that the right one comes soon.
    fn hunt(scenarios: &[Scenario], limits: &[usize]) -> Option<Caught> {
        let mut states = 0;
        for limit in limits.iter().copied() {
            for scenario in scenarios {
                let caught = |what: String, steps, states| Caught { scenario: scenario.name, what, steps, states };
                match search(scenario, Limits { states: limit, threads: 2 }) {
                    Ok(report) => {
                        states += report.states;
                        if let Some(violation) = report.violation {
                            return Some(caught(violation.what, violation.path.len(), states));
                        }
                    }
                    // It does not even begin.
                    Err(what) => return Some(caught(what, 0, states)),
                }
            }
        }
        None
    }

    /// Random walks through all scenarios, one of each a seed: how many seeds it took.
    fn walk_for(scenarios: &[Scenario]) -> Option<usize> {
        (1..=500).find(|seed| scenarios.iter().any(|scenario| walk(scenario, *seed as u64, 120).is_err()))
    }
}
