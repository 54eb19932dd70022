//! A node of ours and one of the other library, each with its storage and an application that remembers what it got.

use protobuf::Message as _;
use raft::eraftpb as theirs;
use raft_core::pb;
use raft_core::{ConfChangeKind, Config, MemoryStorage, RawNode, StateType, Storage as _};

use crate::said::Members;
use crate::storage::Double;
use crate::NODES;

/// What is compared of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) role: StateType,
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) lead: u64,
    pub(crate) commit: u64,
    /// Index and term before the first entry.
    pub(crate) base: (u64, u64),
    pub(crate) log: Vec<(u64, u64)>,
    /// Index and term of each entry or snapshot.
    pub(crate) applied: Vec<(u64, u64)>,
    pub(crate) reads: Vec<(Vec<u8>, u64)>,
    pub(crate) members: Members,
    /// Index and term of the newest snapshot.
    pub(crate) snapshot: Option<(u64, u64)>,
    pub(crate) transferee: u64,
}

impl Shown {
    /// Whether the log has this entry, or begins right behind it.
    pub(crate) fn holds(&self, id: (u64, u64)) -> bool {
        id == self.base || self.log.contains(&id)
    }
}

fn founders() -> Vec<u64> {
    (1..=NODES).collect()
}

pub(crate) struct Here {
    pub(crate) raw: RawNode<MemoryStorage>,
    config: Config,
    applied: Vec<(u64, u64)>,
    reads: Vec<(Vec<u8>, u64)>,
    conf_state: pb::ConfState,
}

impl Here {
    pub(crate) fn new(config: Config) -> Self {
        let mut storage = MemoryStorage::new();
        let conf_state = pb::ConfState { voters: founders(), ..Default::default() };
        storage.set_conf_state(conf_state.clone());
        let raw = RawNode::restart(config.clone(), storage).expect("a node");
        let mut node = Here { raw, config, applied: Vec::new(), reads: Vec::new(), conf_state };
        node.raw.forget_history();
        node
    }

    /// From its storage: everything behind the newest snapshot is applied anew.
    pub(crate) fn restart(&mut self) {
        let storage = self.raw.storage().clone();
        let (_, conf_state) = storage.initial_state().expect("a state");
        let applied = storage.snapshot().map_or(0, |snapshot| snapshot.metadata.index);
        let config = Config { applied, ..self.config.clone() };
        self.raw = RawNode::restart(config, storage).expect("restart");
        self.raw.forget_history();
        (self.applied, self.reads, self.conf_state) = (Vec::new(), Vec::new(), conf_state);
    }

    /// Makes a snapshot of what is applied and drops the log up to `keep` entries before. Answers where, if it can.
    pub(crate) fn compact(&mut self, keep: u64) -> Option<(u64, u64)> {
        let index = self.raw.basic_status().applied;
        let storage = self.raw.storage_mut();
        let first = storage.first_index().ok()?;
        let known = storage.snapshot().map_or(0, |snapshot| snapshot.metadata.index);
        let cut = index.checked_sub(keep).filter(|cut| *cut >= first && index > known)?;
        let data = format!("as of {index}").into_bytes();
        storage.create_snapshot(index, Some(self.conf_state.clone()), data).expect("a snapshot");
        storage.compact(cut).expect("compaction");
        Some((index, cut))
    }

    pub(crate) fn work(&mut self) -> Vec<pb::Message> {
        let mut sent = Vec::new();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready().expect("ready");
            sent.extend(ready.take_messages());
            for read in ready.take_read_states() {
                self.reads.push((read.request_ctx.to_vec(), read.index));
            }
            let storage = self.raw.storage_mut();
            if let Some(snapshot) = ready.snapshot() {
                storage.apply_snapshot(snapshot.clone()).expect("a snapshot that is news");
                self.applied.push((snapshot.metadata.index, snapshot.metadata.term));
                self.conf_state = snapshot.metadata.conf_state.clone();
            }
            if let Some(hard_state) = ready.hard_state() {
                storage.set_hard_state(hard_state);
            }
            storage.append(ready.entries()).expect("append");
            let mut persisted = ready.persisted();
            sent.extend(persisted.take_messages());
            for entry in persisted.take_committed_entries() {
                self.applied.push((entry.index, entry.term));
                if entry.is_conf_change() {
                    let change = ConfChangeKind::decode(&entry).expect("a change of ours");
                    if let Ok(conf_state) = self.raw.apply_conf_change(change) {
                        self.conf_state = conf_state;
                    }
                }
            }
            self.raw.advance(persisted).expect("advance");
        }
        self.raw.forget_history();
        sent
    }

    pub(crate) fn shown(&self) -> Shown {
        let status = self.raw.basic_status();
        let (index, term, entries) = self.raw.whole_log().expect("log");
        let snapshot = self.raw.storage().snapshot().ok().map(|snapshot| snapshot.metadata);
        Shown {
            role: status.soft_state.state,
            term: status.hard_state.term,
            vote: status.hard_state.vote,
            lead: status.soft_state.lead,
            commit: status.hard_state.commit,
            base: (index, term),
            log: entries.iter().map(|entry| (entry.index, entry.term)).collect(),
            applied: self.applied.clone(),
            reads: self.reads.clone(),
            members: Members::of_ours(&self.conf_state),
            snapshot: snapshot.filter(|one| one.index > 0).map(|one| (one.index, one.term)),
            transferee: status.lead_transferee,
        }
    }
}

pub(crate) struct There {
    pub(crate) raw: raft::RawNode<Double>,
    storage: Double,
    config: raft::Config,
    applied: Vec<(u64, u64)>,
    reads: Vec<(Vec<u8>, u64)>,
    conf_state: theirs::ConfState,
}

impl There {
    pub(crate) fn new(config: raft::Config) -> Self {
        let storage = Double::default();
        let conf_state: theirs::ConfState = (founders(), Vec::<u64>::new()).into();
        storage.kept().conf_state = conf_state.clone();
        let raw = Self::start(&config, &storage);
        There { raw, storage, config, applied: Vec::new(), reads: Vec::new(), conf_state }
    }

    fn start(config: &raft::Config, storage: &Double) -> raft::RawNode<Double> {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        raft::RawNode::new(config, storage.clone(), &logger).expect("a node")
    }

    pub(crate) fn restart(&mut self) {
        let (applied, conf_state) = {
            let mut kept = self.storage.kept();
            let metadata = kept.snapshot.as_ref().map(|snapshot| snapshot.get_metadata().clone());
            let conf_state = match &metadata {
                Some(metadata) => metadata.get_conf_state().clone(),
                None => (founders(), Vec::<u64>::new()).into(),
            };
            kept.conf_state = conf_state.clone();
            (metadata.map_or(0, |metadata| metadata.index), conf_state)
        };
        self.raw = Self::start(&raft::Config { applied, ..self.config.clone() }, &self.storage);
        (self.applied, self.reads, self.conf_state) = (Vec::new(), Vec::new(), conf_state);
    }

    /// As ours has done it.
    pub(crate) fn compact(&mut self, (index, cut): (u64, u64)) {
        let mut kept = self.storage.kept();
        let mut snapshot =
            theirs::Snapshot { data: format!("as of {index}").into_bytes().into(), ..Default::default() };
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = kept.term(index).expect("an entry that is there");
        snapshot.mut_metadata().set_conf_state(self.conf_state.clone());
        kept.snapshot = Some(snapshot);
        kept.compact(cut);
    }

    fn apply(&mut self, entries: Vec<theirs::Entry>) {
        for entry in entries {
            self.applied.push((entry.index, entry.term));
            if entry.get_entry_type() == theirs::EntryType::EntryConfChangeV2 {
                let mut change = theirs::ConfChangeV2::default();
                change.merge_from_bytes(&entry.data).expect("a change of ours");
                if let Ok(conf_state) = self.raw.apply_conf_change(&change) {
                    self.conf_state = conf_state;
                }
            }
        }
    }

    pub(crate) fn work(&mut self) -> Vec<theirs::Message> {
        let mut sent = Vec::new();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            sent.extend(ready.take_messages());
            for read in ready.take_read_states() {
                self.reads.push((read.request_ctx, read.index));
            }
            if !ready.snapshot().is_empty() {
                let metadata = ready.snapshot().get_metadata();
                self.applied.push((metadata.index, metadata.term));
                self.conf_state = metadata.get_conf_state().clone();
                self.storage.kept().install(ready.snapshot().clone());
            }
            self.apply(ready.take_committed_entries());
            {
                let mut kept = self.storage.kept();
                kept.append(ready.entries());
                if let Some(hard_state) = ready.hs() {
                    kept.hard_state = hard_state.clone();
                }
            }
            sent.extend(ready.take_persisted_messages());
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.storage.kept().hard_state.commit = commit;
            }
            sent.extend(light.take_messages());
            self.apply(light.take_committed_entries());
            self.raw.advance_apply();
        }
        sent
    }

    pub(crate) fn shown(&self) -> Shown {
        let raft = &self.raw.raft;
        let entries = raft.raft_log.all_entries();
        let kept = self.storage.kept();
        Shown {
            role: match raft.state {
                raft::StateRole::Follower => StateType::Follower,
                raft::StateRole::Candidate => StateType::Candidate,
                raft::StateRole::Leader => StateType::Leader,
                raft::StateRole::PreCandidate => StateType::PreCandidate,
            },
            term: raft.term,
            vote: raft.vote,
            lead: raft.leader_id,
            commit: raft.raft_log.committed,
            base: kept.base(),
            log: entries.iter().map(|entry| (entry.index, entry.term)).collect(),
            applied: self.applied.clone(),
            reads: self.reads.clone(),
            members: Members::of_theirs(&self.conf_state),
            snapshot: kept.snapshot.as_ref().map(|one| (one.get_metadata().index, one.get_metadata().term)),
            transferee: raft.lead_transferee.unwrap_or(0),
        }
    }
}
