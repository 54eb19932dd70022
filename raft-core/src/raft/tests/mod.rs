//! The protocol, rule by rule, with a look inside. Grouped by theme; `raft-core/tests/README.md` says which test of
//! etcd's is answered by which test here.
//!
//! This file is the bench: plain nodes ([`plain`], [`node`]), whose storage works when it is told to
//! ([`Raft::flush`]), and a net of them ([`Net`]). Nothing is random and nothing waits.

mod check_quorum;
mod elections;
mod flow;
mod hostile;
mod learners;
mod leases;
mod membership;
mod reads;
mod replication;
mod self_promises;
mod snapshots;
mod transfer;
mod votes;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::*;
use crate::confchange::ConfChangeKind;
use crate::config::NO_LIMIT;
use crate::log::Slice;
use crate::pb::{ConfState, Entries, Entry, SnapshotMetadata};
use crate::storage::{encoded_size, payload_size, MemoryStorage};
use crate::tracker::{Progress, ProgressState};

pub(super) type Node = Raft<MemoryStorage>;

/// Settings without limits, leases, pre-votes: each test switches on what it is about.
pub(super) fn plain(id: u64) -> Config {
    Config {
        max_size_per_msg: NO_LIMIT,
        max_committed_size_per_ready: NO_LIMIT,
        max_uncommitted_entries_size: 0,
        max_inflight_bytes: 0,
        check_quorum: false,
        pre_vote: false,
        step_down_on_removal: false,
        seed: id,
        ..Config::new(id)
    }
}

pub(super) fn members(voters: &[u64], learners: &[u64]) -> ConfState {
    ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() }
}

/// A log with an empty entry of each of `terms`, from index 1; the hard state is at the last one's term.
pub(super) fn stored(conf_state: ConfState, terms: &[u64]) -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    storage.set_conf_state(conf_state);
    storage.append(entries_from(1, terms)).unwrap();
    storage.set_hard_state(HardState { term: terms.last().copied().unwrap_or(0), ..HardState::default() });
    storage
}

pub(super) fn entries_from(first: u64, terms: &[u64]) -> Entries {
    terms.iter().zip(first..).map(|(term, index)| Entry { term: *term, index, ..Entry::default() }).collect()
}

pub(super) fn snapshot_at(index: u64, term: u64, conf_state: ConfState) -> Snapshot {
    Snapshot { metadata: SnapshotMetadata { conf_state, index, term }, data: "state".into() }
}

pub(super) fn node_of(config: Config, storage: MemoryStorage) -> Node {
    Raft::new(config, storage).unwrap()
}

/// A plain node among `voters`, with an empty log.
pub(super) fn node(id: u64, voters: &[u64]) -> Node {
    node_of(plain(id), stored(members(voters, &[]), &[]))
}

/// The same with `change` made to its settings.
pub(super) fn node_with(id: u64, voters: &[u64], change: impl FnOnce(&mut Config)) -> Node {
    let mut config = plain(id);
    change(&mut config);
    node_of(config, stored(members(voters, &[]), &[]))
}

/// Leads term 1 among `voters`; its empty entry, index 1, is durable and on its way. Nothing is in the queues.
pub(super) fn leader(id: u64, voters: &[u64]) -> Node {
    let mut node = node(id, voters);
    node.win();
    node
}

pub(super) fn message(kind: MessageType, from: u64, term: u64) -> Message {
    Message { from, term, ..Message::of(kind) }
}

/// A peer's answer to an append: it has everything up to `index`.
pub(super) fn ack(from: u64, term: u64, index: u64) -> Message {
    Message { index, ..message(MessageType::MsgAppResp, from, term) }
}

pub(super) fn proposal(data: impl Into<Bytes>) -> Message {
    Message { entries: [Entry::normal(data)].into(), ..Message::of(MessageType::MsgProp) }
}

pub(super) fn kinds(messages: &[Message]) -> Vec<MessageType> {
    messages.iter().map(|message| message.kind().unwrap()).collect()
}

/// The helpers of the bench.
impl Raft<MemoryStorage> {
    /// The read answers and refusals that wait for the application.
    pub(super) fn take_reads(&mut self) -> (Vec<ReadState>, Vec<Bytes>) {
        (std::mem::take(&mut self.read_only.answered), std::mem::take(&mut self.read_only.dropped))
    }

    /// Storage makes everything durable that it was given so far.
    pub(super) fn persist(&mut self) {
        let snapshot = self.log.unstable.next_snapshot().cloned();
        let entries = self.log.unstable.entries.to_vec();
        let last = entries.last().map(|entry| EntryId { term: entry.term, index: entry.index }).unwrap_or_default();
        self.log.unstable.accept_in_progress();
        if let Some(snapshot) = &snapshot {
            self.log.storage.apply_snapshot(snapshot.clone()).unwrap();
        }
        self.log.storage.append(&entries).unwrap();
        let hard_state = self.hard_state();
        self.log.storage.set_hard_state(hard_state);
        self.appended(self.term, last, snapshot.map(|snapshot| snapshot.metadata.index)).unwrap();
    }

    /// Everything becomes durable and the node hears its own promises, until there is nothing left to do. Returns what
    /// goes to others.
    pub(super) fn flush(&mut self) -> Vec<Message> {
        let mut out = Vec::new();
        loop {
            self.persist();
            out.append(&mut self.messages);
            let promises = std::mem::take(&mut self.messages_after_append);
            if promises.is_empty() {
                return out;
            }
            for promise in promises {
                if promise.to == self.id {
                    self.step(promise).unwrap();
                } else {
                    out.push(promise);
                }
            }
        }
    }

    /// The application applies what is committed.
    pub(super) fn apply(&mut self) -> Entries {
        let page = self.log.next_committed(true).unwrap();
        let Some(last) = page.last() else { return page };
        let (index, bytes) = (last.index, encoded_size(&page));
        self.log.accept_applying(index, bytes, true);
        for entry in page.iter().filter(|entry| entry.is_conf_change()) {
            self.apply_conf_change(&ConfChangeKind::decode(entry).unwrap().into_v2()).unwrap();
        }
        self.applied_entries(index, bytes, payload_size(&page)).unwrap();
        page
    }

    pub(super) fn hear(&mut self, message: Message) -> Vec<Message> {
        self.step(message).unwrap();
        self.flush()
    }

    pub(super) fn start_campaign(&mut self) -> Vec<Message> {
        self.hear(Message { from: self.id, ..Message::of(MessageType::MsgHup) })
    }

    /// Campaigns and gets everybody's vote; what it then sends is thrown away.
    pub(super) fn win(&mut self) {
        self.start_campaign();
        let own = self.id;
        for (state, kind) in
            [(StateType::PreCandidate, MessageType::MsgPreVoteResp), (StateType::Candidate, MessageType::MsgVoteResp)]
        {
            for from in self.tracker.voter_ids().iter().filter(|id| *id != own) {
                if self.state == state {
                    let term = self.term + u64::from(state == StateType::PreCandidate);
                    self.step(message(kind, from, term)).unwrap();
                }
            }
            self.flush();
        }
        assert_eq!(self.state, StateType::Leader);
    }

    pub(super) fn propose(&mut self, data: &'static str) -> Vec<Message> {
        self.hear(proposal(data))
    }

    /// The log from its first index, as terms.
    pub(super) fn log_terms(&self) -> Vec<u64> {
        self.log_entries().iter().map(|entry| entry.term).collect()
    }

    pub(super) fn log_data(&self) -> Vec<Bytes> {
        self.log_entries().into_iter().map(|entry| entry.data).filter(|data| !data.is_empty()).collect()
    }

    pub(super) fn log_entries(&self) -> Entries {
        match self.log.entries_from(self.log.first_index().unwrap(), NO_LIMIT).unwrap() {
            Slice::Entries(entries) => entries,
            Slice::Compacted => panic!("the first index is never compacted"),
        }
    }

    pub(super) fn progress(&self, id: u64) -> &Progress {
        self.tracker.progress.get(&id).unwrap()
    }

    pub(super) fn progress_mut(&mut self, id: u64) -> &mut Progress {
        self.tracker.progress.get_mut(&id).unwrap()
    }

    pub(super) fn ticks(&mut self, count: usize) -> Vec<Message> {
        let mut out = Vec::new();
        for _ in 0..count {
            self.tick().unwrap();
            out.extend(self.flush());
        }
        out
    }

    /// Ends the log here: storage keeps what is applied as a snapshot only.
    pub(super) fn compact(&mut self) -> u64 {
        let applied = self.log.applied;
        let conf_state = self.tracker.conf_state();
        self.log.storage.create_snapshot(applied, Some(conf_state), "state").unwrap();
        self.log.storage.compact(applied).unwrap();
        applied
    }
}

/// Nodes that can talk, unless a link is cut or a kind of message gets lost.
pub(super) struct Net {
    pub(super) nodes: BTreeMap<u64, Node>,
    cut: BTreeSet<(u64, u64)>,
    pub(super) ignored: BTreeSet<MessageType>,
    /// Kinds of message, as they are delivered.
    pub(super) seen: Vec<MessageType>,
}

impl Net {
    pub(super) fn of(nodes: impl IntoIterator<Item = Node>) -> Self {
        Net {
            nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
            cut: BTreeSet::new(),
            ignored: BTreeSet::new(),
            seen: Vec::new(),
        }
    }

    /// `count` plain voters.
    pub(super) fn plain(count: u64) -> Self {
        Self::with(count, |_| {})
    }

    pub(super) fn with(count: u64, change: impl Fn(&mut Config)) -> Self {
        let ids: Vec<u64> = (1..=count).collect();
        Self::of(ids.iter().map(|id| node_with(*id, &ids, &change)))
    }

    /// Voters 1 to n with these logs.
    pub(super) fn with_logs(logs: &[&[u64]], change: impl Fn(&mut Config)) -> Self {
        let ids: Vec<u64> = (1..=logs.len() as u64).collect();
        Self::of(ids.iter().zip(logs).map(|(id, terms)| {
            let mut config = plain(*id);
            change(&mut config);
            node_of(config, stored(members(&ids, &[]), terms))
        }))
    }

    pub(super) fn at(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(super) fn cut(&mut self, a: u64, b: u64) {
        self.cut.extend([(a, b), (b, a)]);
    }

    pub(super) fn isolate(&mut self, id: u64) {
        let others: Vec<u64> = self.nodes.keys().copied().filter(|other| *other != id).collect();
        others.into_iter().for_each(|other| self.cut(id, other));
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.ignored.clear();
    }

    /// Everybody persists, applies, sends and hears until there is silence.
    pub(super) fn settle(&mut self) {
        loop {
            let mut quiet = true;
            let mut mail = Vec::new();
            for node in self.nodes.values_mut() {
                mail.extend(node.flush());
                while !node.apply().is_empty() {
                    quiet = false;
                }
            }
            for message in mail {
                quiet = false;
                self.deliver(message);
            }
            if quiet {
                return;
            }
        }
    }

    /// Refusals are lost; faults are not.
    pub(super) fn deliver(&mut self, message: Message) {
        let kind = message.kind().unwrap();
        if self.cut.contains(&(message.from, message.to)) || self.ignored.contains(&kind) {
            return;
        }
        self.seen.push(kind);
        if let Some(node) = self.nodes.get_mut(&message.to) {
            if let Err(error) = node.step(message) {
                assert!(!error.is_fatal(), "{error}");
            }
        }
    }

    /// A node hears a message of its own side, and everything follows from it.
    pub(super) fn tell(&mut self, id: u64, message: Message) -> Result<(), Error> {
        let result = self.at(id).step(message);
        self.settle();
        result
    }

    pub(super) fn campaign(&mut self, id: u64) {
        self.tell(id, Message { from: id, ..Message::of(MessageType::MsgHup) }).unwrap();
    }

    pub(super) fn propose(&mut self, id: u64, data: &'static str) -> Result<(), Error> {
        self.tell(id, proposal(data))
    }

    pub(super) fn beat(&mut self, id: u64) {
        self.tell(id, Message { from: id, ..Message::of(MessageType::MsgBeat) }).unwrap();
    }

    /// Time passes for one node alone.
    pub(super) fn ticks(&mut self, id: u64, count: usize) {
        for _ in 0..count {
            self.at(id).tick().unwrap();
            self.settle();
        }
    }

    pub(super) fn state(&self, id: u64) -> (StateType, u64) {
        (self.nodes[&id].state, self.nodes[&id].term)
    }

    pub(super) fn committed(&self) -> Vec<u64> {
        self.nodes.values().map(|node| node.log.committed).collect()
    }

    pub(super) fn logs_are_equal(&self) {
        let mut logs = self.nodes.values().map(|node| (node.log_entries(), node.log.committed));
        let first = logs.next().unwrap();
        logs.for_each(|log| assert_eq!(log, first));
    }
}
