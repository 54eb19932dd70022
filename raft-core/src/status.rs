//! What a node can tell about itself, for people and for metrics.

use crate::pb::HardState;
use crate::raft::SoftState;
use crate::tracker::{Config, ProgressMap};

/// The cheap part of a [`Status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BasicStatus {
    /// The node.
    pub id: u64,
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// Role and leader.
    pub soft_state: SoftState,
    /// The highest index that the application has acknowledged.
    pub applied: u64,
    /// Who is to take over leadership; 0 if nobody.
    pub lead_transferee: u64,
}

/// A copy of everything that is of interest outside.
#[derive(Clone, Debug)]
pub struct Status {
    /// The cheap part.
    pub basic: BasicStatus,
    /// The configuration in force, joint halves and automatic leaving included.
    pub config: Config,
    /// What the leader knows of each member, itself included; empty on other nodes.
    pub progress: ProgressMap,
}
