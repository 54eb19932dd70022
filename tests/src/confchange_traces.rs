//! Runs the test files about membership arithmetic.
//!
//! Each file begins with an empty membership; `simple`, `enter-joint [autoleave=true]` and `leave-joint` change it, the
//! changes being the input (`v1 l2 r3 u4`). The output is the membership and each member's progress, or why the change
//! was refused. Every directive, refused or not, makes the log one entry longer, so that a newcomer's `next` tells when
//! it came. Etcd: `confchange/datadriven_test.go`.

use raft_core::confchange::{parse_changes, Changer};
use raft_core::tracker::{describe_progress, ProgressTracker};

use crate::datadriven::Directive;

/// A membership that is being changed.
#[derive(Debug)]
pub struct Membership {
    tracker: ProgressTracker,
    last_index: u64,
}

impl Default for Membership {
    fn default() -> Self {
        Membership { tracker: ProgressTracker::new(10, 0), last_index: 0 }
    }
}

impl Membership {
    /// Carries out one directive and answers its output.
    pub fn handle(&mut self, directive: &Directive) -> String {
        let output = self.change(directive);
        self.last_index += 1;
        output.unwrap_or_else(|error| error + "\n")
    }

    fn change(&mut self, directive: &Directive) -> Result<String, String> {
        let changes = parse_changes(&directive.input).map_err(|error| error.to_string())?;
        let changer = Changer::new(&self.tracker, self.last_index);
        let changed = match directive.command.as_str() {
            "simple" => changer.simple(&changes),
            "enter-joint" => {
                let auto_leave = match directive.values("autoleave") {
                    Some([value]) => parse_bool(value)?,
                    Some(_) => return Err("autoleave takes one value".to_string()),
                    None => false,
                };
                changer.enter_joint(auto_leave, &changes)
            }
            "leave-joint" if changes.is_empty() => changer.leave_joint(),
            "leave-joint" => return Err("this command takes no input".to_string()),
            _ => return Err("unknown command".to_string()),
        };
        let (config, progress) = changed.map_err(|error| error.to_string())?;
        self.tracker.config = config;
        self.tracker.progress = progress;
        Ok(format!("{}\n{}", self.tracker.config, describe_progress(&self.tracker.progress)))
    }
}

/// Reads a boolean as Go does.
///
/// # Errors
/// What was not understood.
pub fn parse_bool(value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("{value:?} is neither true nor false")),
    }
}
