//! Histories as text: in files, a line for each operation, and drawn, for people.
//!
//! ```text
//! # client key called_ns answered_ns action
//! 0 colour 1000 2500 put 17
//! 1 colour 1800 ? delete
//! 2 colour 3000 3100 get 17
//! 2 colour 3200 3300 get -
//! ```

use std::fmt;

use super::{Action, Operation, Violation};

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Put(value) => write!(f, "put {value}"),
            Action::Delete => write!(f, "delete"),
            Action::Get(Some(value)) => write!(f, "get {value}"),
            Action::Get(None) => write!(f, "get -"),
        }
    }
}

/// A history for a file. `comment` may have several lines.
pub fn write(history: &[Operation], comment: &str) -> String {
    let mut text: String = comment.lines().map(|line| format!("# {line}\n")).collect();
    text.push_str("# client key called_ns answered_ns action\n");
    for operation in history {
        let answered = operation.answered_ns.map_or("?".to_string(), |answered| answered.to_string());
        let Operation { client, key, called_ns, action, .. } = operation;
        text.push_str(&format!("{client} {key} {called_ns} {answered} {action}\n"));
    }
    text
}

/// The history in a file.
///
/// # Errors
/// The first line that is none.
pub fn read(text: &str) -> Result<Vec<Operation>, String> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|(number, line)| read_line(line).ok_or_else(|| format!("line {number} is no operation: {line}")))
        .collect()
}

fn read_line(line: &str) -> Option<Operation> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (&[client, key, called, answered], action) = words.split_first_chunk::<4>()?;
    let action = match *action {
        ["put", value] => Action::Put(value.parse().ok()?),
        ["delete"] => Action::Delete,
        ["get", "-"] => Action::Get(None),
        ["get", value] => Action::Get(Some(value.parse().ok()?)),
        _ => return None,
    };
    let called_ns = called.parse().ok()?;
    let answered_ns = if answered == "?" { None } else { Some(answered.parse().ok()?) };
    let in_order = answered_ns.map_or(!matches!(action, Action::Get(_)), |answered| called_ns <= answered);
    in_order.then_some(Operation { client: client.parse().ok()?, key: key.to_string(), called_ns, answered_ns, action })
}

/// The operations, one below the other, and when each was under way: time runs to the right, from event to event.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operations = &self.contradiction;
        let mut times: Vec<u64> = operations
            .iter()
            .flat_map(|operation| [Some(operation.called_ns), operation.answered_ns])
            .flatten()
            .collect();
        times.sort_unstable();
        times.dedup();
        let column = |time: u64| 2 * times.partition_point(|&earlier| earlier < time);
        let key = operations.first().map_or("", |operation| operation.key.as_str());
        writeln!(f, "not linearizable: no order explains these {} operations on {key}", operations.len())?;
        writeln!(f, "{:>7} {:>14} {:>14}  {:<24} when", "client", "called ms", "answered ms", "action")?;
        for operation in operations {
            let begin = column(operation.called_ns);
            let bar = match operation.answered_ns {
                Some(answered) => format!("|{}|", "-".repeat(column(answered).saturating_sub(begin + 1))),
                None => format!("|{}?", "-".repeat((2 * times.len()).saturating_sub(begin + 1))),
            };
            let answered = operation.answered_ns.map_or("never".to_string(), ms);
            let (called, action) = (ms(operation.called_ns), operation.action.to_string());
            let (client, space) = (operation.client, " ".repeat(begin));
            writeln!(f, "{client:>7} {called:>14} {answered:>14}  {action:<24} {space}{bar}")?;
        }
        Ok(())
    }
}

fn ms(ns: u64) -> String {
    format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000)
}
