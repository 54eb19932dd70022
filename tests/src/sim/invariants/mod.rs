//! What must hold after every step of every history: one small file each, each saying where it comes from.
//!
//! An invariant is a little machine of its own: it is told what was observed, remembers what it needs, and answers with
//! a [`Verdict`]. It knows nothing about the simulator, so a test beside each one feeds it a history that breaks it:
//! an invariant that cannot fail proves nothing.
//!
//! All are incremental: the cost of a step does not grow with the length of the history.

pub mod acknowledged;
pub mod committed_durable;
pub mod config_safety;
pub mod elected;
pub mod election_safety;
pub mod leader_append_only;
pub mod leader_completeness;
pub mod lease;
pub mod linearizability;
pub mod log_matching;
pub mod monotonic;
pub mod progress_bounds;
pub mod quota;
pub mod read_index;
pub mod recovery;
pub mod state_machine_safety;
pub mod store_equality;
pub mod vote_once;

use std::fmt;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// What an invariant says to an observation.
pub type Verdict = Result<(), Violation>;

/// The condition, or a violation that says what was seen instead.
pub fn ensure(invariant: &'static str, holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds {
        Ok(())
    } else {
        Err(Violation { invariant, what: what() })
    }
}

/// All invariants that look at the whole cluster. Those that look at one node are kept with it.
#[derive(Debug, Default)]
pub struct Invariants {
    /// Raft paper, figure 3.
    pub election_safety: election_safety::ElectionSafety,
    /// Raft paper, figure 3.
    pub log_matching: log_matching::LogMatching,
    /// Raft paper, figure 3.
    pub leader_completeness: leader_completeness::LeaderCompleteness,
    /// Raft paper, figure 3.
    pub state_machine_safety: state_machine_safety::StateMachineSafety,
    /// Raft paper §5.2.
    pub vote_once: vote_once::VoteOnce,
    /// Thesis chapter 4.
    pub config_safety: config_safety::ConfigSafety,
    /// Equal logs, equal stores.
    pub store_equality: store_equality::StoreEquality,
    /// What clients see.
    pub linearizability: linearizability::Linearizability,
}
