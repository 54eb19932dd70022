//! The model check in small, and what its soundness rests on. `cargo run --release -p tests --bin model` does it in large.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use tests::model::state::State;
use tests::model::{scenarios, search, story, Limits, Scenario, Step};
use tests::random::Random;

#[test]
fn no_scenario_breaks_an_invariant() {
    for scenario in scenarios() {
        let report = search(&scenario, Limits { states: 2_000, threads: 2 }).expect("the scenario begins");
        println!("{}", story::summary(&scenario, &report));
        if let Some(violation) = &report.violation {
            panic!("{}", story::tell_violation(&scenario, violation).expect("its path can be played"));
        }
        assert!(report.complete || report.states >= 2_000, "{} has stopped early", scenario.name);
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let scenario = &scenarios()[0];
    let with = |threads| search(scenario, Limits { states: 3_000, threads }).expect("the scenario begins");
    let (one, three) = (with(1), with(3));
    assert_eq!((one.states, one.depth), (three.states, three.depth));
}

/// States that a random walk comes through.
fn walk(scenario: &Scenario, random: &mut Random, steps: usize) -> Vec<State> {
    let mut states = vec![scenario.initial().expect("the scenario begins")];
    for _ in 0..steps {
        let state = states.last().expect("there is one");
        let events = state.events(scenario);
        let Some(event) = events.get(random.below(events.len() as u64) as usize) else { break };
        match state.after(scenario, *event).expect("no invariant is broken") {
            Step::Next(next) => states.push(next),
            Step::Bounded => {}
        }
    }
    states
}

/// Equal hashes: the same in every field, and the same in everything that may follow. Different hashes: some field
/// differs. The long form is derived without the hash's help.
#[test]
fn a_hash_stands_for_every_field_of_a_state_and_for_its_future() {
    let mut meetings = 0;
    for scenario in scenarios() {
        let mut random = Random::new(7);
        let mut seen: HashMap<u128, (State, String)> = HashMap::new();
        let mut by_form: HashMap<String, u128> = HashMap::new();
        for _ in 0..60 {
            for state in walk(&scenario, &mut random, 25) {
                let (hash, form) = (state.fingerprint(), state.long_form());
                assert_eq!(*by_form.entry(form.clone()).or_insert(hash), hash, "one state, two hashes: {form}");
                match seen.get(&hash) {
                    Some((other, other_form)) => {
                        assert_eq!(*other_form, form, "two states, one hash");
                        meetings += same_future(&scenario, other, &state, &mut random);
                    }
                    None => {
                        seen.insert(hash, (state, form));
                    }
                }
            }
        }
    }
    println!("{meetings} steps from states that were reached twice");
    assert!(meetings > 1_000, "only {meetings} steps were compared");
}

fn same_future(scenario: &Scenario, one: &State, two: &State, random: &mut Random) -> usize {
    let (mut one, mut two) = (one.clone(), two.clone());
    for step in 0..6 {
        let events = one.events(scenario);
        assert_eq!(events, two.events(scenario));
        let Some(event) = events.get(random.below(events.len() as u64) as usize) else { return step };
        match (one.after(scenario, *event), two.after(scenario, *event)) {
            (Ok(Step::Next(left)), Ok(Step::Next(right))) => {
                assert_eq!(left.fingerprint(), right.fingerprint());
                (one, two) = (left, right);
            }
            (Ok(Step::Bounded), Ok(Step::Bounded)) => {}
            _ => panic!("equal states go different ways"),
        }
    }
    6
}

#[test]
fn a_path_is_printed_parsed_and_told() {
    let path = story::parse_path("0.0.1").expect("a path");
    assert_eq!(story::print_path(&path), "0.0.1");
    assert!(story::parse_path("0.x").is_err());
    let scenario = &scenarios()[0];
    let text = story::tell(scenario, &path).expect("it can be played");
    assert!(text.contains("node 1's election timeout runs out"), "{text}");
    assert!(text.ends_with("All invariants hold.\n"), "{text}");
    assert!(story::tell(scenario, &[9999]).is_err());
}
