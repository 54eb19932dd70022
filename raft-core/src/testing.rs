//! A whole cluster in one place, without threads, clocks or sockets: for examples, tests and experiments.
//!
//! [`Cluster`] carries out every [`Ready`](crate::Ready) as an application should, keeps messages in one queue, and
//! delivers them when asked. Links can be cut, nodes crashed and restarted. Everything is deterministic.
//!
//! Left out: lost or torn disk writes, reordering, delays; the project's simulator (crate `tests`) has those.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::confchange::ConfChangeKind;
use crate::error::Error;
use crate::pb::{ConfState, Entry, Message, MessageType};
use crate::raft::ReadState;
use crate::raw_node::{Peer, RawNode};
use crate::storage::MemoryStorage;
use crate::{Config, StateType};

/// One node with its application: what it applied, what it answered.
#[derive(Debug)]
pub struct Member {
    /// The node itself.
    pub raw: RawNode<MemoryStorage>,
    /// Committed entries with data, in the order in which they were applied; emptied by a snapshot.
    pub applied: Vec<Entry>,
    /// The configuration as of the last applied entry.
    pub conf_state: ConfState,
    /// Reads that may be served.
    pub reads: Vec<ReadState>,
    /// Contexts of reads that will not be answered.
    pub dropped_reads: Vec<Bytes>,
    config: Config,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Cluster {
    members: BTreeMap<u64, Member>,
    /// Directed links that lose everything.
    cut: BTreeSet<(u64, u64)>,
    /// Messages on their way, oldest first.
    pub in_flight: VecDeque<Message>,
    /// Message types that are lost wherever they go.
    pub ignored: BTreeSet<MessageType>,
}

impl Cluster {
    /// A new cluster of the nodes `1..=count` with the default configuration.
    ///
    /// # Errors
    /// Only if `count` is 0.
    pub fn new(count: u64) -> Result<Self, Error> {
        Self::with(count, |_| {})
    }

    /// The same, with a say in each node's configuration.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn with(count: u64, configure: impl Fn(&mut Config)) -> Result<Self, Error> {
        let peers: Vec<Peer> = (1..=count).map(|id| Peer { id, ..Peer::default() }).collect();
        let mut cluster = Cluster::default();
        for peer in &peers {
            let mut config = Config::new(peer.id);
            configure(&mut config);
            let raw = RawNode::bootstrap(config.clone(), MemoryStorage::new(), &peers)?;
            cluster.insert(config, raw);
        }
        Ok(cluster)
    }

    /// A node that is to be added by a configuration change.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn join(&mut self, config: Config) -> Result<(), Error> {
        let raw = RawNode::join(config.clone(), MemoryStorage::new())?;
        self.insert(config, raw);
        Ok(())
    }

    /// Adds a node that the caller has made.
    pub fn insert(&mut self, config: Config, raw: RawNode<MemoryStorage>) {
        let member = Member {
            raw,
            applied: Vec::new(),
            conf_state: ConfState::default(),
            reads: Vec::new(),
            dropped_reads: Vec::new(),
            config,
        };
        self.members.insert(member.config.id, member);
    }

    /// The ids of all nodes, ascending.
    pub fn ids(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    /// A node's state machine.
    ///
    /// # Errors
    /// [`Error::StepPeerNotFound`] if there is no such node.
    pub fn node(&mut self, id: u64) -> Result<&mut RawNode<MemoryStorage>, Error> {
        self.member(id).map(|member| &mut member.raw)
    }

    /// A node with its application.
    ///
    /// # Errors
    /// [`Error::StepPeerNotFound`] if there is no such node.
    pub fn member(&mut self, id: u64) -> Result<&mut Member, Error> {
        self.members.get_mut(&id).ok_or(Error::StepPeerNotFound { from: id })
    }

    /// The data that a node has applied, in order.
    pub fn applied(&self, id: u64) -> Vec<Bytes> {
        let entries = self.members.get(&id).map(|member| member.applied.as_slice()).unwrap_or_default();
        entries.iter().map(|entry| entry.data.clone()).collect()
    }

    /// Who leads: the leader of the highest term, if any.
    pub fn leader(&self) -> Option<u64> {
        let statuses = self.members.values().map(|member| member.raw.basic_status());
        let leaders = statuses.filter(|status| status.soft_state.state == StateType::Leader);
        leaders.max_by_key(|status| status.hard_state.term).map(|status| status.id)
    }

    /// Cuts both directions between two nodes.
    pub fn cut(&mut self, a: u64, b: u64) {
        self.cut.extend([(a, b), (b, a)]);
    }

    /// Cuts a node off from everybody.
    pub fn isolate(&mut self, id: u64) {
        for other in self.ids() {
            if other != id {
                self.cut(id, other);
            }
        }
    }

    /// Mends all links and lets all message types through.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.ignored.clear();
    }

    /// Kills a node and starts it again from what it had persisted.
    ///
    /// # Errors
    /// As [`RawNode::restart`].
    pub fn restart(&mut self, id: u64) -> Result<(), Error> {
        let member = self.member(id)?;
        let mut config = member.config.clone();
        config.applied = 0;
        let storage = member.raw.storage().clone();
        member.raw = RawNode::restart(config, storage)?;
        member.applied.clear();
        Ok(())
    }

    /// One tick for every node, and everything that follows from it.
    ///
    /// # Errors
    /// Fatal ones of any node.
    pub fn tick(&mut self) -> Result<(), Error> {
        for member in self.members.values_mut() {
            member.raw.tick()?;
        }
        self.settle()
    }

    /// Ticks until there is a leader that everybody reachable follows; at most `ticks` times.
    ///
    /// # Errors
    /// Fatal ones of any node.
    pub fn elect(&mut self, ticks: usize) -> Result<Option<u64>, Error> {
        for _ in 0..ticks {
            if let Some(leader) = self.leader() {
                return Ok(Some(leader));
            }
            self.tick()?;
        }
        Ok(self.leader())
    }

    /// Carries out Readys and delivers messages until nothing is left to do.
    ///
    /// # Errors
    /// Fatal ones of any node.
    pub fn settle(&mut self) -> Result<(), Error> {
        loop {
            let mut quiet = true;
            for id in self.ids() {
                while self.handle_ready(id)? {
                    quiet = false;
                }
            }
            while let Some(message) = self.in_flight.pop_front() {
                quiet = false;
                self.deliver(message)?;
            }
            if quiet {
                return Ok(());
            }
        }
    }

    /// Delivers one message, unless its link is cut; what the receiver refuses is lost.
    ///
    /// # Errors
    /// Fatal ones of the receiver.
    pub fn deliver(&mut self, message: Message) -> Result<(), Error> {
        let lost = self.cut.contains(&(message.from, message.to))
            || message.kind().is_some_and(|kind| self.ignored.contains(&kind));
        let Some(member) = self.members.get_mut(&message.to).filter(|_| !lost) else { return Ok(()) };
        match member.raw.step(message) {
            Err(error) if error.is_fatal() => Err(error),
            _ => Ok(()),
        }
    }

    /// Carries out one Ready of a node, the way an application should. Says whether there was one.
    ///
    /// # Errors
    /// Fatal ones of the node, and of its storage.
    pub fn handle_ready(&mut self, id: u64) -> Result<bool, Error> {
        let Some(member) = self.members.get_mut(&id) else { return Ok(false) };
        if !member.raw.has_ready() {
            return Ok(false);
        }
        let mut ready = member.raw.ready()?;
        self.in_flight.extend(ready.take_messages());
        member.reads.append(&mut ready.take_read_states());
        member.dropped_reads.extend_from_slice(ready.dropped_reads());
        let storage = member.raw.storage_mut();
        if let Some(snapshot) = ready.snapshot() {
            storage.apply_snapshot(snapshot.clone())?;
            member.conf_state = snapshot.metadata.conf_state.clone();
            member.applied.clear();
        }
        if let Some(hard_state) = ready.hard_state() {
            storage.set_hard_state(hard_state);
        }
        storage.append(ready.entries())?;
        let mut persisted = ready.persisted();
        self.in_flight.extend(persisted.take_messages());
        for entry in persisted.take_committed_entries() {
            if entry.is_conf_change() {
                member.conf_state = member.raw.apply_conf_change(ConfChangeKind::decode(&entry)?)?;
            } else if !entry.data.is_empty() {
                member.applied.push(entry);
            }
        }
        member.raw.advance(persisted)?;
        Ok(true)
    }

    /// Makes a snapshot of a node's state and drops its log up to there; the data is the applied payloads' count.
    ///
    /// # Errors
    /// The storage's.
    pub fn compact(&mut self, id: u64) -> Result<u64, Error> {
        let member = self.member(id)?;
        let index = member.raw.basic_status().applied;
        let (conf_state, data) = (member.conf_state.clone(), member.applied.len().to_string());
        let storage = member.raw.storage_mut();
        storage.create_snapshot(index, Some(conf_state), data)?;
        storage.compact(index)?;
        Ok(index)
    }
}
