//! One node of the environment: the state machine, its storage, and the application on top.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::pb::{ConfState, Entries, Entry, HardState, Message, Snapshot, SnapshotMetadata};
use raft_core::{ConfChangeKind, Config, MemoryStorage, RawNode, Storage, StorageError};

use super::{Failure, Output};

/// A log in memory whose snapshot is always the application's newest state.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeStorage {
    pub(super) log: MemoryStorage,
    /// The application's state after each entry that it applied, oldest first; the first one is where it began.
    pub(super) history: Vec<Snapshot>,
    /// Every read of the log fails with this.
    pub(super) fault: Option<String>,
    /// There is no snapshot to be had for the moment.
    pub(super) snapshot_unavailable: bool,
}

impl NodeStorage {
    fn check(&self) -> Result<(), StorageError> {
        self.fault.clone().map_or(Ok(()), |fault| Err(StorageError::Other(fault)))
    }

    /// Makes snapshot, hard state and entries durable.
    pub(super) fn persist(
        &mut self,
        hard_state: Option<HardState>,
        snapshot: Option<&Snapshot>,
        entries: &[Entry],
    ) -> Result<(), Failure> {
        if let Some(hard_state) = hard_state.filter(|state| !state.is_empty()) {
            self.log.set_hard_state(hard_state);
        }
        let Some(snapshot) = snapshot.filter(|snapshot| !snapshot.is_empty()) else {
            return self.log.append(entries).map_err(Failure::storage);
        };
        if !entries.is_empty() {
            return Err(Failure::text("can't apply snapshot and entries at the same time"));
        }
        self.log.apply_snapshot(snapshot.clone()).map_err(Failure::storage)?;
        self.history.push(snapshot.clone());
        Ok(())
    }

    /// The application's state now.
    pub(super) fn state(&self) -> Snapshot {
        self.history.last().cloned().unwrap_or_default()
    }

    /// The application adds an entry's data to its own: its state is all that was ever applied, one after the other.
    fn apply(&mut self, entry: &Entry, data: &[u8], conf_state: Option<ConfState>) {
        let before = self.state();
        // With asynchronous storage, a snapshot may have overtaken entries that were on their way to be applied.
        if entry.index <= before.metadata.index {
            return;
        }
        let metadata = SnapshotMetadata {
            index: entry.index,
            term: entry.term,
            conf_state: conf_state.unwrap_or(before.metadata.conf_state),
        };
        self.history.push(Snapshot { data: Bytes::from([&before.data, data].concat()), metadata });
    }

    /// Throws away all entries from `from` on, as a disk does that did not keep what it had promised.
    pub(super) fn lose_from(&mut self, from: u64) -> Result<(), StorageError> {
        let first = self.log.first_index()?;
        let kept = if from > first { self.log.entries(first, from, u64::MAX)? } else { Entries::new() };
        let (hard_state, conf_state) = self.log.initial_state()?;
        let mut log = MemoryStorage::new();
        let metadata = SnapshotMetadata { index: first - 1, term: self.log.term(first - 1)?, conf_state };
        log.apply_snapshot(Snapshot { metadata, data: Bytes::new() })?;
        log.append(&kept)?;
        log.set_hard_state(hard_state);
        self.log = log;
        Ok(())
    }
}

impl Storage for NodeStorage {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.check()?;
        // After a restart the configuration is the one of the state that the application starts from.
        let (hard_state, _) = self.log.initial_state()?;
        Ok((hard_state, self.state().metadata.conf_state))
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Entries, StorageError> {
        self.check()?;
        self.log.entries(low, high, max_bytes)
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.check()?;
        self.log.term(index)
    }

    fn first_index(&self) -> Result<u64, StorageError> {
        self.check()?;
        self.log.first_index()
    }

    fn last_index(&self) -> Result<u64, StorageError> {
        self.check()?;
        self.log.last_index()
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.check()?;
        if self.snapshot_unavailable {
            return Err(StorageError::SnapshotTemporarilyUnavailable);
        }
        Ok(self.state())
    }
}

/// A node runs, or only its storage is left.
#[derive(Debug)]
pub(super) enum Machine {
    Up(Box<RawNode<NodeStorage>>),
    Down(Box<NodeStorage>),
}

/// A node of the environment.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) config: Config,
    pub(super) machine: Machine,
    /// What the append thread has to do. Empty unless storage writes are asynchronous.
    pub(super) append_work: VecDeque<Message>,
    /// What the apply thread has to do.
    pub(super) apply_work: VecDeque<Message>,
}

impl Node {
    /// The state machine.
    pub(super) fn raw(&mut self) -> Result<&mut RawNode<NodeStorage>, Failure> {
        match &mut self.machine {
            Machine::Up(raw) => Ok(raw),
            Machine::Down(_) => Err(Failure::text(format!("node {} is down", self.id))),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.machine, Machine::Up(_))
    }

    pub(super) fn has_ready(&self) -> bool {
        match &self.machine {
            Machine::Up(raw) => raw.has_ready(),
            Machine::Down(_) => false,
        }
    }

    pub(super) fn storage(&self) -> &NodeStorage {
        match &self.machine {
            Machine::Up(raw) => raw.storage(),
            Machine::Down(storage) => storage,
        }
    }

    pub(super) fn storage_mut(&mut self) -> &mut NodeStorage {
        match &mut self.machine {
            Machine::Up(raw) => raw.storage_mut(),
            Machine::Down(storage) => storage,
        }
    }

    /// Carries out one Ready; answers the messages that go out.
    pub(super) fn process_ready(&mut self, output: &Output) -> Result<Vec<Message>, Failure> {
        let asynchronous = self.config.async_storage_writes;
        let raw = self.raw()?;
        let mut ready = raw.ready()?;
        output.write(&ready.to_string());
        if !ready.dropped_reads().is_empty() {
            let contexts: Vec<String> =
                ready.dropped_reads().iter().map(|read| raft_core::describe::quote(read)).collect();
            output.line(&format!("DroppedReads {}", contexts.join(" ")));
        }
        let mut messages: Vec<_> = ready.take_messages().collect();
        if asynchronous {
            return Ok(messages);
        }
        raw.storage_mut().persist(ready.hard_state(), ready.snapshot(), ready.entries())?;
        let mut persisted = ready.persisted();
        messages.extend(persisted.take_messages());
        apply(raw, &persisted.take_committed_entries(), output)?;
        raw.advance(persisted)?;
        Ok(messages)
    }

    /// Takes one piece of work of the append thread and carries it out; answers the messages that go out.
    pub(super) fn process_append_work(&mut self, output: &Output) -> Result<Vec<Message>, Failure> {
        let Some(mut work) = self.append_work.pop_front() else {
            output.write("no append work to perform");
            return Ok(Vec::new());
        };
        let responses = show_work(&mut work, output);
        let hard_state = HardState { term: work.term, vote: work.vote, commit: work.commit };
        self.raw()?.storage_mut().persist(Some(hard_state), work.snapshot.as_deref(), &work.entries)?;
        show_responses(&responses, output);
        Ok(responses)
    }

    /// Takes one piece of work of the apply thread and carries it out; answers the messages that go out.
    pub(super) fn process_apply_work(&mut self, output: &Output) -> Result<Vec<Message>, Failure> {
        let Some(mut work) = self.apply_work.pop_front() else {
            output.write("no apply work to perform");
            return Ok(Vec::new());
        };
        let responses = show_work(&mut work, output);
        apply(self.raw()?, &work.entries, output)?;
        show_responses(&responses, output);
        Ok(responses)
    }
}

fn show_work(work: &mut Message, output: &Output) -> Vec<Message> {
    let responses = std::mem::take(&mut work.responses);
    output.line("Processing:");
    output.line(&raft_core::describe::message(work));
    responses
}

fn show_responses(responses: &[Message], output: &Output) {
    output.line("Responses:");
    responses.iter().for_each(|response| output.line(&raft_core::describe::message(response)));
}

/// The application applies committed entries, configuration changes among them.
fn apply(raw: &mut RawNode<NodeStorage>, entries: &[Entry], output: &Output) -> Result<(), Failure> {
    for entry in entries {
        if !entry.is_conf_change() {
            raw.storage_mut().apply(entry, &entry.data, None);
            continue;
        }
        let kind = ConfChangeKind::decode(entry).map_err(raft_core::Error::from)?;
        let context = kind.context().clone();
        match raw.apply_conf_change(kind) {
            Ok(conf_state) => raw.storage_mut().apply(entry, &context, Some(conf_state)),
            Err(error) if error.is_fatal() => return Err(error.into()),
            // Every node finds the same fault in it, and leaves it out.
            Err(error) => output.line(&format!("not applied: {error}")),
        }
    }
    Ok(())
}
