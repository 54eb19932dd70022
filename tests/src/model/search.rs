//! The search: breadth-first, layer by layer, on several threads.
//!
//! Of a visited state only its 128-bit hash is kept, and where it came from: the number of the state before it and which
//! of that one's events led here. A path is found by going back and played by executing it again. The states themselves
//! live for two layers, and share the nodes and messages that they are made of. Threads share nothing but the set of visited hashes, which does not change while they work, and
//! their results are taken in in a fixed order: the same search finds the same states, whatever the number of threads.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::thread;

use raft_core::pb::Message;

use super::history::History;
use super::scenario::Scenario;
use super::state::{Event, Member, State};
use super::step::Outcome;

/// A key that is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

type Visited = HashMap<u128, u32, BuildHasherDefault<AsItIs>>;

/// How long to search.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Stop after the layer in which there are this many states.
    pub states: usize,
    /// How many threads.
    pub threads: usize,
}

/// A broken invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which, and how.
    pub what: String,
    /// The choices that lead there: the place of each event in [`State::events`].
    pub path: Vec<u16>,
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Distinct states.
    pub states: usize,
    /// Steps taken, those to known states included.
    pub transitions: u64,
    /// Steps cut off because the network was full.
    pub bounded: u64,
    /// The layers that were searched to the end.
    pub depth: usize,
    /// No state is left to look at.
    pub complete: bool,
    /// The shortest path to a broken invariant.
    pub violation: Option<Violation>,
}

struct Found {
    hash: u128,
    parent: u32,
    choice: u16,
    state: State,
}

#[derive(Default)]
struct Batch {
    found: Vec<Found>,
    transitions: u64,
    bounded: u64,
    violation: Option<(u32, u16, String)>,
}

/// Most states of a layer are made of the same few nodes and messages: each is kept once.
#[derive(Default)]
struct Shared {
    members: HashMap<u128, Arc<Member>, BuildHasherDefault<AsItIs>>,
    messages: HashMap<u128, Arc<Message>, BuildHasherDefault<AsItIs>>,
    histories: HashMap<u128, Arc<History>, BuildHasherDefault<AsItIs>>,
}

impl Shared {
    fn share(&mut self, mut state: State) -> State {
        for (member, hash) in state.members.iter_mut().zip(&state.member_hashes) {
            *member = Arc::clone(self.members.entry(*hash).or_insert_with(|| Arc::clone(member)));
        }
        for (hash, message) in &mut state.network {
            *message = Arc::clone(self.messages.entry(*hash).or_insert_with(|| Arc::clone(message)));
        }
        let history = self.histories.entry(state.history_hash).or_insert_with(|| Arc::clone(&state.history));
        state.history = Arc::clone(history);
        state
    }
}

/// How many states of a layer are looked at before the results are taken in: bounds what is in memory twice.
const BATCH: usize = 16_384;

/// Searches a scenario.
///
/// # Errors
/// If the scenario cannot begin.
pub fn search(scenario: &Scenario, limits: Limits) -> Result<Report, String> {
    let initial = scenario.initial()?;
    let mut visited = Visited::default();
    // links[number] = (number of the state before, choice).
    let mut links: Vec<(u32, u16)> = vec![(0, 0)];
    visited.insert(initial.fingerprint(), 0);
    let mut layer = vec![(0u32, initial)];
    let mut shared = Shared::default();
    let mut report = Report::default();
    while !layer.is_empty() {
        let mut next = Vec::new();
        for batch in layer.chunks(BATCH) {
            let share = batch.len().div_ceil(limits.threads.max(1));
            let visited_now = &visited;
            let results: Vec<Batch> = thread::scope(|scope| {
                let workers: Vec<_> = batch
                    .chunks(share)
                    .map(|states| scope.spawn(move || expand(scenario, states, visited_now)))
                    .collect();
                workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
            });
            if results.len() != batch.chunks(share).len() {
                return Err("a search thread has panicked: a node must never do that".to_string());
            }
            for result in results {
                report.transitions += result.transitions;
                report.bounded += result.bounded;
                for found in result.found {
                    let number = links.len() as u32;
                    if visited.contains_key(&found.hash) {
                        continue;
                    }
                    visited.insert(found.hash, number);
                    links.push((found.parent, found.choice));
                    next.push((number, shared.share(found.state)));
                }
                if let Some((parent, choice, what)) = result.violation {
                    let mut path = path_to(&links, parent);
                    path.push(choice);
                    report.states = links.len();
                    report.violation = Some(Violation { what, path });
                    return Ok(report);
                }
            }
        }
        report.depth += 1;
        layer = next;
        if links.len() >= limits.states {
            break;
        }
    }
    report.complete = layer.is_empty();
    report.states = links.len();
    Ok(report)
}

fn expand(scenario: &Scenario, states: &[(u32, State)], visited: &Visited) -> Batch {
    let mut batch = Batch::default();
    for (number, state) in states {
        for (event, choice) in state.events(scenario).into_iter().zip(0u16..) {
            batch.transitions += 1;
            match state.after(scenario, event) {
                Ok(Outcome::Next(next)) => {
                    let hash = next.fingerprint();
                    if !visited.contains_key(&hash) {
                        batch.found.push(Found { hash, parent: *number, choice, state: next });
                    }
                }
                Ok(Outcome::Bounded) => batch.bounded += 1,
                Err(what) => {
                    batch.violation = Some((*number, choice, what));
                    return batch;
                }
            }
        }
    }
    batch
}

fn path_to(links: &[(u32, u16)], number: u32) -> Vec<u16> {
    let mut path = Vec::new();
    let mut at = number;
    while at != 0 {
        let Some((parent, choice)) = links.get(at as usize) else { break };
        path.push(*choice);
        at = *parent;
    }
    path.reverse();
    path
}

/// A path, played.
pub struct Played {
    /// Each state with the event that happened in it.
    pub steps: Vec<(State, Event)>,
    /// The state at the end, or the invariant that the last event breaks.
    pub end: Result<State, String>,
}

/// Plays a path from the beginning.
///
/// # Errors
/// If the scenario cannot begin, or the path does not fit it.
pub fn replay(scenario: &Scenario, path: &[u16]) -> Result<Played, String> {
    let mut state = scenario.initial()?;
    let mut steps = Vec::new();
    for (choice, number) in path.iter().zip(1..) {
        let events = state.events(scenario);
        let event = *events.get(usize::from(*choice)).ok_or_else(|| {
            format!("step {number}: there is no event {choice}; the path is another scenario's or another version's")
        })?;
        let outcome = state.after(scenario, event);
        steps.push((state, event));
        state = match outcome {
            Ok(Outcome::Next(next)) => next,
            Ok(Outcome::Bounded) => return Err(format!("step {number} was cut off: the network is full")),
            Err(what) => return Ok(Played { steps, end: Err(what) }),
        };
    }
    Ok(Played { steps, end: Ok(state) })
}
