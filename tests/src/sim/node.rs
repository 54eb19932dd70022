//! One simulated machine, and the process that runs on it while it is up.

use std::collections::{BTreeMap, VecDeque};

use kvstore::Store;
use raft_core::pb::{ConfState, Message};
use raft_core::{MemoryStorage, RawNode, Ready, StateType};

use super::invariants::lease::{Lease, Stance};
use super::invariants::monotonic::Monotonic;
use super::invariants::quota::Quota;
use super::invariants::recovery::Recovery;
use super::journal::Journal;
use super::shadow::Shadow;
use crate::fault_disk::FaultDisk;

/// Messages that wait for a node that is busy, paused or gathering. Further ones are lost.
pub(super) const INBOX_MESSAGES: usize = 256;

/// What stands in a rack: a disk and a clock. Processes come and go.
pub(super) struct Machine {
    pub(super) id: u64,
    pub(super) disk: FaultDisk,
    /// What the disk must give back.
    pub(super) recovery: Recovery,
    pub(super) monotonic: Monotonic,
    /// Counts the processes; an event of an earlier one is void.
    pub(super) boot: u64,
    pub(super) process: Option<Box<Process>>,
    /// The disk is to lose nothing before the next start.
    pub(super) nothing_lost: bool,
    /// A fault is armed on the disk.
    pub(super) armed: bool,
    /// The disk failed, and the process could bear it: what was not written back then, the system may tell later, also to
    /// the next process.
    pub(super) failed_unseen: bool,
    pub(super) tick_ms: u64,
    pub(super) paused_until: u64,
    /// Messages that arrived, and from which machine.
    pub(super) inbox: VecDeque<(usize, Message)>,
    /// It will wake and look into its inbox.
    pub(super) woken: bool,
}

/// A wish of a client that this process has proposed.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingWrite {
    /// What was finished when it began.
    pub(super) begun: u64,
    pub(super) leading: bool,
}

/// A read that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRead {
    pub(super) key: u64,
    /// What was finished when it began.
    pub(super) begun: u64,
    /// What was committed anywhere when it began.
    pub(super) committed: u64,
    /// Where it may be served, once that is known.
    pub(super) index: Option<u64>,
    pub(super) leading: bool,
    /// How many messages the process had taken in when it began.
    pub(super) heard: u64,
}

/// A process: Raft, its log, the store, and who waits for an answer.
pub(super) struct Process {
    pub(super) raw: RawNode<MemoryStorage>,
    pub(super) journal: Journal,
    pub(super) store: Store,
    pub(super) conf_state: ConfState,
    /// Index and term of the last applied entry.
    pub(super) applied: (u64, u64),
    /// The newest snapshot.
    pub(super) snapshot_index: u64,
    /// A leader's snapshot that is on its way to the disk: nothing before it is to be applied any more.
    pub(super) snapshot_under_way: u64,
    /// The log as Raft has it.
    pub(super) log: Shadow,
    /// Where the configuration changes in it stand.
    pub(super) changes: Vec<u64>,
    pub(super) stance: Stance,
    /// The last term in which it was seen to lead.
    pub(super) elected_in: u64,
    /// The commit index that was looked at last.
    pub(super) commit_seen: u64,
    pub(super) lease: Lease,
    pub(super) quota: Quota,
    pub(super) transferee: u64,
    /// The Ready whose write is under way.
    pub(super) writing: Option<Ready>,
    /// Work of the two storage threads, oldest first; whether the oldest is under way.
    pub(super) appends: VecDeque<Message>,
    pub(super) appending: bool,
    pub(super) applies: VecDeque<Message>,
    pub(super) applying: bool,
    pub(super) writes: BTreeMap<u64, PendingWrite>,
    pub(super) reads: BTreeMap<u64, PendingRead>,
    /// Reads whose index is known.
    pub(super) waiting: usize,
    pub(super) segments: usize,
    /// Messages that it has taken in.
    pub(super) heard: u64,
}

impl Process {
    /// Whether it can take anything in now.
    pub(super) fn is_busy(&self) -> bool {
        self.writing.is_some()
    }

    pub(super) fn leads(&self) -> bool {
        self.stance.role == StateType::Leader
    }

    /// What it is right now.
    pub(super) fn stance_now(&self) -> Stance {
        let status = self.raw.basic_status();
        Stance {
            term: status.hard_state.term,
            vote: status.hard_state.vote,
            role: status.soft_state.state,
            lead: status.soft_state.lead,
        }
    }
}
