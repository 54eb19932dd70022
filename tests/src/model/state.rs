//! A state of the searched cluster, its hash, and what may happen in it.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use raft_core::describe;
use raft_core::pb::{ConfState, HardState, Message};
use raft_core::{MemoryStorage, RawNode, Ready, StateType};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::history::History;
use super::scenario::{Scenario, StorageMode};

/// A 128-bit hash: with a hundred million states, two different ones share it with a probability of 10⁻²³.
pub fn hash_of(value: &impl Hash) -> u128 {
    let mut hasher = SipHasher13::new();
    value.hash(&mut hasher);
    hasher.finish128().as_u128()
}

/// A 64-bit hash, for payloads.
pub(super) fn digest_of(value: &impl Hash) -> u64 {
    let mut hasher = SipHasher13::new();
    value.hash(&mut hasher);
    Hasher::finish(&hasher)
}

/// An entry of a log, as far as comparing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// Its term.
    pub term: u64,
    /// Its type and payload, hashed.
    pub digest: u64,
    /// It changes the configuration.
    pub is_conf_change: bool,
}

/// A log as the invariants look at it; derived from the node after each step, and no part of the hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogView {
    /// Index and term of the entry before the first one.
    pub base: (u64, u64),
    /// `marks[i]` is the entry of index `base.0 + 1 + i`.
    pub marks: Vec<Mark>,
}

impl LogView {
    /// The index of the last entry.
    pub fn last(&self) -> u64 {
        self.base.0 + self.marks.len() as u64
    }

    /// The entry at an index, if it is not compacted.
    pub fn get(&self, index: u64) -> Option<&Mark> {
        self.marks.get(usize::try_from(index.checked_sub(self.base.0 + 1)?).ok()?)
    }

    /// The term at an index from the base on.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        self.get(index).map(|mark| mark.term)
    }
}

/// One node with its storage threads and its application.
#[derive(Clone, Debug)]
pub struct Member {
    /// The node; its storage is the durable one.
    pub raw: RawNode<MemoryStorage>,
    /// Taken out, its free messages sent, and not yet persisted.
    pub ready: Option<Ready>,
    /// Asynchronous storage: work of the append thread, in order.
    pub appends: VecDeque<Message>,
    /// Asynchronous storage: work of the apply thread, in order.
    pub applies: VecDeque<Message>,
    /// Asynchronous storage: what the append thread has to say to the node.
    pub answers: VecDeque<Message>,
    /// The configuration as of the last applied entry.
    pub conf_state: ConfState,
    /// The last applied index.
    pub applied: u64,
    /// Everything applied, folded into one number: what a snapshot holds.
    pub chain: u64,
    /// The log in memory.
    pub log: LogView,
    /// The durable log.
    pub durable: LogView,
    /// The durable hard state.
    pub durable_state: HardState,
}

impl Hash for Member {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        // The views are derived from `raw`, all else counts.
        let Member {
            raw,
            ready,
            appends,
            applies,
            answers,
            conf_state,
            applied,
            chain,
            log: _,
            durable: _,
            durable_state: _,
        } = self;
        (raw, ready, appends, applies, answers).hash(hasher);
        (conf_state, applied, chain).hash(hasher);
    }
}

impl Member {
    /// The node's role.
    pub fn role(&self) -> StateType {
        self.raw.basic_status().soft_state.state
    }

    /// The node's term.
    pub fn term(&self) -> u64 {
        self.raw.basic_status().hard_state.term
    }
}

/// How many events of each limited kind may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Elections started at any time.
    pub campaigns: u8,
    /// Ticks of a node that does not lead.
    pub ticks: u8,
    /// Ticks of a leader: heartbeats, quorum checks, the end of a transfer's time.
    pub beats: u8,
    /// Messages that are lost.
    pub drops: u8,
    /// Messages that arrive and stay under way.
    pub duplicates: u8,
    /// Crashes.
    pub crashes: u8,
    /// Proposals.
    pub proposals: u8,
    /// Configuration changes, each any of the scenario's.
    pub changes: u8,
    /// Leadership transfers asked for.
    pub transfers: u8,
    /// Linearizable reads asked for.
    pub reads: u8,
    /// Snapshots made and logs compacted.
    pub compactions: u8,
    /// Reports that a snapshot was not delivered.
    pub snapshot_failures: u8,
}

/// What can happen. Nodes are named by id, messages by their place in [`State::network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node's first Readys are taken out; only before the search.
    Start(u64),
    /// An election timeout.
    Campaign(u64),
    /// A tick.
    Tick(u64),
    /// A message arrives.
    Deliver(usize),
    /// A message arrives and will arrive again.
    Duplicate(usize),
    /// A message is lost.
    Drop(usize),
    /// The outstanding Ready, or the append thread's next work, becomes durable.
    Sync(u64),
    /// The append thread's word arrives.
    Answer(u64),
    /// The apply thread's next work is done.
    Apply(u64),
    /// The node loses everything that is not durable and starts again.
    Crash(u64),
    /// As `Crash`, in the middle of writing the outstanding Ready: the entries are durable, the hard state is not.
    CrashHalfway(u64),
    /// A proposal at a leader.
    Propose(u64),
    /// A configuration change at a leader; which one of the scenario's.
    Change(u64, usize),
    /// A leader is asked to hand over to the second node.
    Transfer(u64, u64),
    /// A read is asked of a node.
    Read(u64),
    /// A node makes a snapshot of what it applied and drops its log up to there.
    Compact(u64),
    /// A leader hears that its snapshot to the second node was lost.
    SnapshotFailed(u64, u64),
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct State {
    /// By id, from 1.
    pub members: Vec<Arc<Member>>,
    /// `hash_of` each member.
    pub(super) member_hashes: Vec<u128>,
    /// What is under way, by hash, each message once.
    pub network: Vec<(u128, Arc<Message>)>,
    /// What may still happen.
    pub budget: Budget,
    pub(super) history: Arc<History>,
    pub(super) history_hash: u128,
}

impl State {
    /// Stands for the whole state.
    pub fn fingerprint(&self) -> u128 {
        let mut hasher = SipHasher13::new();
        self.member_hashes.hash(&mut hasher);
        self.network.len().hash(&mut hasher);
        for (hash, _) in &self.network {
            hash.hash(&mut hasher);
        }
        (self.budget, self.history_hash).hash(&mut hasher);
        hasher.finish128().as_u128()
    }

    /// Every field of the state, written out: the long form of the fingerprint.
    pub fn long_form(&self) -> String {
        let messages: Vec<&Message> = self.network.iter().map(|(_, message)| message.as_ref()).collect();
        format!("{:?}\n{messages:?}\n{:?}\n{:?}", self.members, self.budget, self.history)
    }

    /// The member of this id.
    pub fn member(&self, id: u64) -> &Arc<Member> {
        &self.members[id as usize - 1]
    }

    /// Everything that may happen now, always in the same order.
    pub fn events(&self, scenario: &Scenario) -> Vec<Event> {
        let mut events = Vec::new();
        for at in 0..self.network.len() {
            events.push(Event::Deliver(at));
        }
        for (member, id) in self.members.iter().zip(1u64..) {
            self.node_events(scenario, member, id, &mut events);
        }
        for at in 0..self.network.len() {
            if self.budget.duplicates > 0 {
                events.push(Event::Duplicate(at));
            }
            if self.budget.drops > 0 {
                events.push(Event::Drop(at));
            }
        }
        events
    }

    fn node_events(&self, scenario: &Scenario, member: &Member, id: u64, events: &mut Vec<Event>) {
        let (budget, ids) = (&self.budget, 1..=self.members.len() as u64);
        let status = member.raw.basic_status();
        let leads = status.soft_state.state == StateType::Leader;
        if member.ready.is_some() || !member.appends.is_empty() {
            events.push(Event::Sync(id));
        }
        if !member.answers.is_empty() {
            events.push(Event::Answer(id));
        }
        if !member.applies.is_empty() {
            events.push(Event::Apply(id));
        }
        // In a cluster where nothing has happened yet, whoever campaigns first may as well be called 1.
        let may_begin = id == 1 || !scenario.start.is_empty() || budget.campaigns < scenario.budget.campaigns;
        if budget.campaigns > 0 && !leads && status.hard_state.term < scenario.max_term && may_begin {
            events.push(Event::Campaign(id));
        }
        if (leads && budget.beats > 0) || (!leads && budget.ticks > 0) {
            events.push(Event::Tick(id));
        }
        if budget.crashes > 0 {
            events.push(Event::Crash(id));
            let tearable = member.ready.as_ref().is_some_and(|ready| {
                ready.hard_state().is_some() && (!ready.entries().is_empty() || ready.snapshot().is_some())
            });
            if tearable && scenario.storage == StorageMode::InTwoSteps {
                events.push(Event::CrashHalfway(id));
            }
        }
        if budget.reads > 0 && status.soft_state.lead != 0 {
            events.push(Event::Read(id));
        }
        if budget.compactions > 0 && member.applied > member.log.base.0 {
            events.push(Event::Compact(id));
        }
        if !leads {
            return;
        }
        if budget.proposals > 0 {
            events.push(Event::Propose(id));
        }
        if budget.changes > 0 {
            events.extend((0..scenario.changes.len()).map(|which| Event::Change(id, which)));
        }
        if budget.transfers > 0 {
            events.extend(ids.clone().filter(|to| *to != id).map(|to| Event::Transfer(id, to)));
        }
        if budget.snapshot_failures > 0 {
            events.extend(ids.filter(|to| *to != id).map(|to| Event::SnapshotFailed(id, to)));
        }
    }

    /// An event in words.
    pub fn describe(&self, scenario: &Scenario, event: Event) -> String {
        let message = |at: usize| self.network.get(at).map(|(_, one)| describe::message(one)).unwrap_or_default();
        match event {
            Event::Start(id) => format!("node {id} starts"),
            Event::Campaign(id) => format!("node {id}'s election timeout runs out"),
            Event::Tick(id) => format!("node {id}'s clock ticks"),
            Event::Deliver(at) => format!("arrives: {}", message(at)),
            Event::Duplicate(at) => format!("arrives, and will arrive again: {}", message(at)),
            Event::Drop(at) => format!("is lost: {}", message(at)),
            Event::Sync(id) => format!("node {id}'s writes are durable"),
            Event::Answer(id) => format!("node {id} hears that writes are durable"),
            Event::Apply(id) => format!("node {id} applies"),
            Event::Crash(id) => format!("node {id} crashes and restarts; what was not durable is gone"),
            Event::CrashHalfway(id) => {
                format!("node {id} crashes and restarts; its new entries are durable, its new hard state is not")
            }
            Event::Propose(id) => format!("node {id} is given a proposal"),
            Event::Change(id, which) => {
                let notation = scenario.changes.get(which).map_or("", |change| change.notation);
                format!("node {id} is given the configuration change {notation}")
            }
            Event::Transfer(id, to) => format!("node {id} is asked to hand leadership to {to}"),
            Event::Read(id) => format!("node {id} is asked for a linearizable read"),
            Event::Compact(id) => format!("node {id} makes a snapshot and compacts its log"),
            Event::SnapshotFailed(id, to) => format!("node {id} hears that its snapshot to {to} was lost"),
        }
    }
}

/// One line for a node: `2: Follower term 2 vote 1 commit 3, log 1/1 2/2, durable 1/1, voters=(1 2 3)`.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.raw.basic_status();
        let (soft, hard) = (status.soft_state, status.hard_state);
        let list = |log: &LogView| {
            let mut words = Vec::new();
            if log.base.0 > 0 {
                words.push(format!("[..{}/{}]", log.base.0, log.base.1));
            }
            words.extend(log.marks.iter().zip(log.base.0 + 1..).map(|(mark, index)| format!("{index}/{}", mark.term)));
            words.join(" ")
        };
        let role = soft.state.to_string();
        write!(
            f,
            "{}: {} term {} vote {} lead {} commit {} applied {}, log {}, durable {} (term {} vote {} commit {}), {}",
            status.id,
            role.trim_start_matches("State"),
            hard.term,
            hard.vote,
            soft.lead,
            hard.commit,
            self.applied,
            list(&self.log),
            list(&self.durable),
            self.durable_state.term,
            self.durable_state.vote,
            self.durable_state.commit,
            self.raw.status().config
        )
    }
}
