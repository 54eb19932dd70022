//! What is searched: which nodes, with which settings, from where, and how much of what may happen.

use std::sync::Arc;

use raft_core::confchange::parse_changes;
use raft_core::pb::{
    ConfChange, ConfChangeTransition, ConfChangeV2, ConfState, Entry, HardState, Message, MessageType,
};
use raft_core::{ConfChangeKind, Config, MemoryStorage, NO_LIMIT};

use super::history::History;
use super::state::{hash_of, Budget, Event, Member, State};
use super::step::Outcome;

/// How a node's storage works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageMode {
    /// Durable within the step that asks for it. Fewest states.
    AtOnce,
    /// A Ready is taken out in one step and durable in a later one; anything may happen in between.
    InTwoSteps,
    /// Asynchronous storage writes: an append thread and an apply thread, each in order, at their own pace.
    Asynchronous,
}

/// A configuration change that may be proposed.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// `v3` adds a voter, `l3` a learner, `r3` removes; several are carried out together.
    pub notation: &'static str,
    /// How.
    pub transition: ConfChangeTransition,
}

impl From<&Change> for ConfChangeV2 {
    fn from(change: &Change) -> Self {
        let changes = parse_changes(change.notation).unwrap_or_default();
        ConfChangeV2 { transition: change.transition as i32, changes, ..ConfChangeV2::default() }
    }
}

/// What happens before the search. Messages to nodes that are away are lost; all others arrive in order, and all writes
/// are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    what: What,
    node: u64,
    away: &'static [u64],
    /// With asynchronous storage, this node does not hear what its append thread has done.
    deaf: u64,
    /// And of this one, the append thread stops before it writes entries.
    slow: u64,
    /// And of this one, the apply thread does nothing.
    late: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The node campaigns, and wins if it can.
    Lead,
    /// The node campaigns, and wins if it can; its first appends are lost.
    Elect,
    /// The node campaigns, and wins if it can; the first append that others can take arrives, and their word of it is lost.
    Begin,
    /// The leader takes a proposal.
    Propose,
    /// The leader takes one of the scenario's configuration changes.
    Change(usize),
    /// The node compacts its log.
    Compact,
    /// The node crashes and comes back, as a follower.
    Restart,
}

const fn with(what: What, node: u64, away: &'static [u64]) -> Move {
    Move { what, node, away, deaf: 0, slow: 0, late: 0 }
}

/// A node restarts, while node 2 does not hear its append thread.
const fn restart(node: u64) -> Move {
    Move { deaf: 2, ..with(What::Restart, node, &[]) }
}

/// Node 1 or 3 begins to lead, while node 2 does not hear its append thread.
const fn begin(node: u64, away: &'static [u64]) -> Move {
    Move { deaf: 2, ..with(What::Begin, node, away) }
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about, in a line.
    pub about: &'static str,
    /// Nodes `1..=nodes` exist.
    pub nodes: u64,
    /// These are members at the start.
    pub voters: &'static [u64],
    /// How storage works.
    pub storage: StorageMode,
    /// What has happened; nothing, for a new cluster.
    pub start: &'static [Move],
    /// How many messages may be under way.
    pub in_flight: usize,
    /// Nobody campaigns at this term any more.
    pub max_term: u64,
    /// What may happen.
    pub budget: Budget,
    /// Configuration changes that may be proposed.
    pub changes: &'static [Change],
    /// `check_quorum` and `pre_vote`.
    pub leases: bool,
    /// Entries travel one by one.
    pub one_entry_a_message: bool,
}

const NOTHING: Budget = Budget {
    campaigns: 0,
    ticks: 0,
    beats: 0,
    drops: 0,
    duplicates: 0,
    crashes: 0,
    proposals: 0,
    changes: 0,
    transfers: 0,
    reads: 0,
    compactions: 0,
    snapshot_failures: 0,
};

/// Node 1 leads in term 1 and everybody knows.
const LED: &[Move] = &[with(What::Lead, 1, &[])];

/// Node 3 has missed two entries, which node 1 has compacted away.
const BEHIND: &[Move] = &[with(What::Lead, 1, &[]), with(What::Propose, 1, &[3]), with(What::Compact, 1, &[])];

/// Raft paper, figure 8, (b): nodes 1 and 3 each hold an entry of their own leadership at index 2, node 2 none.
const FIGURE_8: &[Move] = &[with(What::Lead, 1, &[]), with(What::Propose, 1, &[2, 3]), with(What::Elect, 3, &[1])];

/// Node 1 holds two entries that nobody else has; nodes 2 and 3 have committed one of a later term.
const LONGER_AND_OLDER: &[Move] = &[
    with(What::Lead, 1, &[]),
    with(What::Propose, 1, &[2, 3]),
    with(What::Propose, 1, &[2, 3]),
    with(What::Lead, 3, &[1]),
];

/// Node 2 has written the entry of index 2 that node 1 proposed, then node 3's in its place, and is about to write node 1's
/// again; of none of that it knows that it is done.
const WRITTEN_TWICE: &[Move] = &[
    with(What::Lead, 1, &[]),
    with(What::Propose, 1, &[2, 3]),
    with(What::Elect, 3, &[1]),
    // Each of them wins at the second attempt: at the first, its term is the one in which node 2 has voted already.
    restart(1),
    begin(1, &[3]),
    begin(1, &[3]),
    restart(3),
    begin(3, &[1]),
    begin(3, &[1]),
    restart(1),
    begin(1, &[3]),
    Move { slow: 2, ..begin(1, &[3]) },
];

/// Nodes 3 and 2 were removed one after the other, which node 2 has in its log and has not applied: it knows that the first
/// is committed. Node 1 leads alone.
const REMOVED_AND_LATE: &[Move] = &[
    with(What::Lead, 1, &[]),
    Move { late: 2, ..with(What::Change(0), 1, &[]) },
    Move { late: 2, ..with(What::Change(1), 1, &[]) },
];

const BASE: Scenario = Scenario {
    name: "",
    about: "",
    nodes: 3,
    voters: &[1, 2, 3],
    storage: StorageMode::InTwoSteps,
    start: &[],
    in_flight: 4,
    max_term: 3,
    budget: NOTHING,
    changes: &[],
    leases: false,
    one_entry_a_message: false,
};

const SIMPLE: ConfChangeTransition = ConfChangeTransition::ConfChangeTransitionAuto;
const JOINT: ConfChangeTransition = ConfChangeTransition::ConfChangeTransitionJointImplicit;

/// All scenarios.
pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "elections",
            about: "rival candidates, lost and repeated votes, crashes before and after a vote is durable",
            in_flight: 5,
            budget: Budget { campaigns: 3, crashes: 2, duplicates: 1, ..NOTHING },
            ..BASE
        },
        Scenario {
            name: "replication",
            about: "two leaderships, proposals, crashes with entries that are not durable",
            start: LED,
            budget: Budget { campaigns: 2, crashes: 1, proposals: 2, beats: 1, drops: 2, duplicates: 1, ..NOTHING },
            ..BASE
        },
        Scenario {
            name: "figure-8",
            about: "three leaderships over one another's uncommitted entries (Raft paper, figure 8)",
            storage: StorageMode::AtOnce,
            start: FIGURE_8,
            one_entry_a_message: true,
            max_term: 5,
            budget: Budget { campaigns: 3, ..NOTHING },
            ..BASE
        },
        Scenario {
            name: "longer-and-older",
            about: "a longer log of an earlier term against a shorter one that is committed",
            start: LONGER_AND_OLDER,
            max_term: 4,
            budget: Budget { campaigns: 2, crashes: 1, beats: 1, proposals: 1, ..NOTHING },
            ..BASE
        },
        Scenario {
            name: "asynchronous",
            about: "asynchronous storage writes: overlapping appends, leaders that change in between",
            storage: StorageMode::Asynchronous,
            start: LED,
            budget: Budget { campaigns: 2, crashes: 1, proposals: 1, drops: 1, ..NOTHING },
            ..BASE
        },
        Scenario {
            name: "written-twice",
            about: "asynchronous storage that is late to say what it wrote: an entry, another in its place, the first again",
            storage: StorageMode::Asynchronous,
            start: WRITTEN_TWICE,
            one_entry_a_message: true,
            max_term: 6,
            budget: Budget { campaigns: 1, beats: 2, crashes: 1, drops: 1, ..NOTHING },
            ..BASE
        },
        Scenario {
            name: "leases",
            about: "pre-votes, leases and quorum checks, with clocks that tick at any rate",
            storage: StorageMode::AtOnce,
            start: LED,
            leases: true,
            budget: Budget { ticks: 7, beats: 3, proposals: 1, crashes: 1, drops: 2, ..NOTHING },
            ..BASE
        },
        Scenario {
            name: "membership",
            about: "one voter more, one less, a learner; while leaders change and nodes crash",
            voters: &[1, 2],
            storage: StorageMode::AtOnce,
            start: LED,
            budget: Budget { campaigns: 2, crashes: 1, changes: 2, drops: 2, beats: 1, ..NOTHING },
            changes: &[
                Change { notation: "v3", transition: SIMPLE },
                Change { notation: "r2", transition: SIMPLE },
                Change { notation: "l3", transition: SIMPLE },
                Change { notation: "r1", transition: SIMPLE },
            ],
            ..BASE
        },
        Scenario {
            name: "late-changes",
            about: "a leader that is alone, and one that it has removed and that has not applied that",
            storage: StorageMode::Asynchronous,
            start: REMOVED_AND_LATE,
            budget: Budget { campaigns: 1, proposals: 1, ..NOTHING },
            changes: &[
                Change { notation: "r3", transition: SIMPLE },
                Change { notation: "r2", transition: SIMPLE },
            ],
            ..BASE
        },
        Scenario {
            name: "joint",
            about: "joint changes that replace voters, and leave by themselves",
            voters: &[1, 2],
            storage: StorageMode::AtOnce,
            start: LED,
            budget: Budget { campaigns: 2, crashes: 1, changes: 1, drops: 2, proposals: 1, beats: 1, ..NOTHING },
            changes: &[
                Change { notation: "r1 v3", transition: JOINT },
                Change { notation: "l2 v3", transition: JOINT },
            ],
            ..BASE
        },
        Scenario {
            name: "reads",
            about: "linearizable reads at leaders and followers, transfers, deposed leaders that do not know it",
            storage: StorageMode::AtOnce,
            start: LED,
            budget: Budget { campaigns: 1, transfers: 1, reads: 2, proposals: 1, beats: 1, drops: 2, ..NOTHING },
            ..BASE
        },
        Scenario {
            name: "late-echoes",
            about: "the answer to an earlier heartbeat reaches a leader that was deposed meanwhile",
            storage: StorageMode::AtOnce,
            start: LED,
            in_flight: 6,
            max_term: 2,
            budget: Budget { campaigns: 1, reads: 2, ..NOTHING },
            ..BASE
        },
        Scenario {
            name: "snapshots",
            about: "a follower that needs a snapshot, one that is lost, compaction, leaders that change meanwhile",
            start: BEHIND,
            budget: Budget {
                campaigns: 1,
                crashes: 1,
                proposals: 1,
                compactions: 1,
                beats: 2,
                drops: 1,
                snapshot_failures: 1,
                ..NOTHING
            },
            ..BASE
        },
    ]
}

impl Scenario {
    /// A node's settings. The shortest timers there are: a leader beats at every tick, and checks at every other one.
    pub fn config(&self, id: u64) -> Config {
        Config {
            election_tick: 2,
            heartbeat_tick: 1,
            check_quorum: self.leases,
            pre_vote: self.leases,
            async_storage_writes: self.storage == StorageMode::Asynchronous,
            max_size_per_msg: if self.one_entry_a_message { 0 } else { NO_LIMIT },
            max_inflight_bytes: 0,
            max_inflight_msgs: 2,
            ..Config::new(id)
        }
    }

    /// Where the search begins.
    ///
    /// # Errors
    /// If an invariant is broken on the way.
    pub fn initial(&self) -> Result<State, String> {
        let mut members = Vec::new();
        for id in 1..=self.nodes {
            let storage = if self.voters.contains(&id) { self.founders_storage()? } else { MemoryStorage::new() };
            members.push(Arc::new(Member::restart(self, id, storage)?));
        }
        let history = History::default();
        let mut state = State {
            member_hashes: members.iter().map(|member| hash_of(&**member)).collect(),
            members,
            network: Vec::new(),
            budget: NOTHING,
            history_hash: hash_of(&history),
            history: Arc::new(history),
        };
        for id in 1..=self.nodes {
            state = self.perform(state, Event::Start(id))?;
        }
        state = self.settle(state, &with(What::Lead, 0, &[]))?;
        for one in self.start {
            state.budget = Budget { campaigns: 1, proposals: 1, changes: 1, compactions: 1, crashes: 1, ..NOTHING };
            state = self.carry_out(state, *one)?;
        }
        state.budget = self.budget;
        Ok(state)
    }

    fn perform(&self, state: State, event: Event) -> Result<State, String> {
        let roomy = Scenario { in_flight: 1000, ..self.clone() };
        match state.after(&roomy, event)? {
            Outcome::Next(next) => Ok(next),
            Outcome::Bounded => Err("more messages than anybody would send".to_string()),
        }
    }

    /// Where all are members from the start, storage says so. Where others join, they must find it in the log.
    fn founders_storage(&self) -> Result<MemoryStorage, String> {
        let mut storage = MemoryStorage::new();
        if self.nodes == self.voters.len() as u64 {
            storage.set_conf_state(ConfState { voters: self.voters.to_vec(), ..ConfState::default() });
            return Ok(storage);
        }
        let founders = self.voters.iter().zip(1..).map(|(node_id, index)| {
            let change = ConfChange { node_id: *node_id, ..ConfChange::default() };
            let (kind, data) = ConfChangeKind::V1(change).encode();
            Entry { entry_type: kind as i32, term: 1, index, data }
        });
        let founders: Vec<Entry> = founders.collect();
        storage.append(&founders).map_err(|error| error.to_string())?;
        storage.set_hard_state(HardState { term: 1, vote: 0, commit: founders.len() as u64 });
        Ok(storage)
    }

    fn carry_out(&self, state: State, one: Move) -> Result<State, String> {
        let event = match one.what {
            What::Lead | What::Elect | What::Begin => Event::Campaign(one.node),
            What::Propose => Event::Propose(one.node),
            What::Change(which) => Event::Change(one.node, which),
            What::Compact => Event::Compact(one.node),
            What::Restart => Event::Crash(one.node),
        };
        let state = self.perform(state, event)?;
        self.settle(state, &one)
    }

    /// Everything is durable, applied and delivered, except for what the move says.
    fn settle(&self, mut state: State, one: &Move) -> Result<State, String> {
        loop {
            state.network.retain(|(_, message)| !one.away.contains(&message.to) && one.passes(message));
            let quiet = |event: &Event| match event {
                Event::Deliver(_) => true,
                Event::Apply(id) => *id != one.late,
                Event::Answer(id) => *id != one.deaf,
                Event::Sync(id) => {
                    let next = state.member(*id).appends.front();
                    *id != one.slow || next.is_none_or(|work| work.entries.is_empty())
                }
                _ => false,
            };
            match state.events(self).into_iter().find(quiet) {
                Some(event) => state = self.perform(state, event)?,
                None => return Ok(state),
            }
        }
    }
}

impl Move {
    /// Whether this message arrives.
    fn passes(&self, message: &Message) -> bool {
        let kind = message.kind();
        let is_vote = matches!(kind, Some(MessageType::MsgVote | MessageType::MsgVoteResp));
        let is_append = match kind {
            Some(MessageType::MsgApp) => true,
            Some(MessageType::MsgAppResp) => message.reject,
            _ => false,
        };
        match self.what {
            What::Elect => is_vote,
            What::Begin => is_vote || is_append,
            What::Lead | What::Propose | What::Change(_) | What::Compact | What::Restart => true,
        }
    }
}
