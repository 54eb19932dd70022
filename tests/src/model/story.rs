//! Paths, for people: what happened, and what it made of the node that it happened to.

use std::fmt::Write as _;

use super::scenario::Scenario;
use super::search::{replay, Played, Report, Violation};
use super::state::State;

/// The line that stands for a search.
pub fn summary(scenario: &Scenario, report: &Report) -> String {
    let Report { states, transitions, bounded, depth, complete, violation } = report;
    format!(
        "model scenario={} states={states} transitions={transitions} depth={depth} complete={complete} \
         cut-off={bounded} violations={}",
        scenario.name,
        usize::from(violation.is_some())
    )
}

/// The bounds of a scenario, in a line.
pub fn bounds(scenario: &Scenario) -> String {
    let b = &scenario.budget;
    let counts = [
        (b.campaigns, "campaigns"),
        (b.ticks, "ticks"),
        (b.beats, "leader's ticks"),
        (b.drops, "losses"),
        (b.duplicates, "duplicates"),
        (b.crashes, "crashes"),
        (b.proposals, "proposals"),
        (b.changes, "configuration changes"),
        (b.transfers, "transfers"),
        (b.reads, "reads"),
        (b.compactions, "compactions"),
        (b.snapshot_failures, "failed snapshots"),
    ];
    let counts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    format!(
        "{}: {}; {} nodes, storage {:?}; at most {} messages under way, term {}, {}",
        scenario.name,
        scenario.about,
        scenario.nodes,
        scenario.storage,
        scenario.in_flight,
        scenario.max_term,
        counts.join(", ")
    )
}

/// A path as it is given to `--replay`.
pub fn print_path(path: &[u16]) -> String {
    path.iter().map(u16::to_string).collect::<Vec<_>>().join(".")
}

/// The opposite of [`print_path`].
///
/// # Errors
/// If it is not one.
pub fn parse_path(text: &str) -> Result<Vec<u16>, String> {
    let choices = text.split('.').filter(|word| !word.is_empty());
    choices.map(|word| word.parse().map_err(|_| format!("{word:?} is no number: a path looks like 0.3.1"))).collect()
}

/// Everything about a violation: its story, and the command that plays it again.
///
/// # Errors
/// If the path cannot be played.
pub fn tell_violation(scenario: &Scenario, violation: &Violation) -> Result<String, String> {
    let mut text = format!("VIOLATION in scenario {}: {}\n\n", scenario.name, violation.what);
    text.push_str(&tell(scenario, &violation.path)?);
    let path = print_path(&violation.path);
    let _ = writeln!(
        text,
        "\nplay it again: cargo run --release -p tests --bin model -- --scenario {} --replay {path}",
        scenario.name
    );
    Ok(text)
}

/// A path as a story.
///
/// # Errors
/// If the path cannot be played.
pub fn tell(scenario: &Scenario, path: &[u16]) -> Result<String, String> {
    let Played { steps, end } = replay(scenario, path)?;
    let mut text = String::from("In the beginning:\n");
    if let Some((first, _)) = steps.first() {
        for member in &first.members {
            let _ = writeln!(text, "    {member}");
        }
    }
    for (number, (state, event)) in steps.iter().enumerate() {
        let _ = writeln!(text, "{:>3}. {}", number + 1, state.describe(scenario, *event));
        let after = match (steps.get(number + 1), &end) {
            (Some((next, _)), _) => Some(next),
            (None, Ok(last)) => Some(last),
            (None, Err(_)) => None,
        };
        if let Some(after) = after {
            text.push_str(&difference(state, after));
        }
    }
    match end {
        Ok(_) => text.push_str("All invariants hold.\n"),
        Err(what) => {
            let _ = writeln!(text, "     and that breaks: {what}");
        }
    }
    Ok(text)
}

/// The nodes that look different afterwards.
fn difference(before: &State, after: &State) -> String {
    let mut text = String::new();
    for (old, new) in before.members.iter().zip(&after.members) {
        let line = new.to_string();
        if line != old.to_string() {
            let _ = writeln!(text, "       {line}");
        }
    }
    text
}
