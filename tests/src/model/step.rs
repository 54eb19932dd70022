//! What an event does to a state: the node is called, its Ready is carried out, and what leaves goes under way.

use std::sync::Arc;

use raft_core::pb::{ConfChangeV2, ConfState, Entry, Message, Snapshot};
use raft_core::{
    ConfChangeKind, Error, MemoryStorage, RawNode, Ready, SnapshotStatus, Storage as _, LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
};

use super::history::{self, History};
use super::invariants;
use super::scenario::{Scenario, StorageMode};
use super::state::{digest_of, hash_of, Event, LogView, Mark, Member, State};

/// What became of a step.
pub enum Outcome {
    /// The state after it.
    Next(State),
    /// More messages would be under way than the scenario allows.
    Bounded,
}

/// What a node does in one step, as the rest of the cluster sees it.
#[derive(Default)]
pub(super) struct Effects {
    /// Under way from here on.
    pub(super) sent: Vec<Message>,
    /// Reads answered: number, index.
    pub(super) answered: Vec<(u64, u64)>,
    /// Configuration changes applied: index, resulting configuration.
    pub(super) configured: Vec<(u64, ConfState)>,
}

impl State {
    /// The state after `event`, with all invariants checked.
    ///
    /// # Errors
    /// Which invariant is broken, and how.
    pub fn after(&self, scenario: &Scenario, event: Event) -> Result<Outcome, String> {
        let mut next = self.clone();
        let Some((id, mut message)) = next.take_event(event) else { return Ok(Outcome::Next(next)) };
        let before = Arc::clone(self.member(id));
        let mut member = Member::clone(&before);
        let mut effects = Effects::default();
        member.raw.forget_history();
        match event {
            Event::Crash(_) | Event::CrashHalfway(_) => {
                if matches!(event, Event::CrashHalfway(_)) {
                    member.persist_entries_only()?;
                }
                member = Member::restart(scenario, id, member.raw.storage().clone())?;
            }
            _ => member.act(scenario, event, message.take(), &next.history, &mut effects)?,
        }
        member.settle(scenario, &mut effects)?;
        member.refresh_views()?;
        let mut history = Arc::clone(&next.history);
        if let Event::Read(_) = event {
            let history = Arc::make_mut(&mut history);
            history.reads.insert(history.reads.len() as u64 + 1, history.committed.len() as u64);
        }
        let member = Arc::new(member);
        next.replace(id, Arc::clone(&member));
        invariants::check(&next, &mut history, &before, &member, event, &effects)?;
        if !Arc::ptr_eq(&history, &next.history) {
            next.history_hash = hash_of(&*history);
            next.history = history;
        }
        if before.durable_state.term != next.member(id).durable_state.term {
            next.bury(id);
        }
        for message in effects.sent {
            if !next.is_dead(&message) {
                next.send(message);
            }
        }
        if next.network.len() > scenario.in_flight {
            return Ok(Outcome::Bounded);
        }
        Ok(Outcome::Next(next))
    }

    /// Takes what the event uses up out of budget and network; answers whom it is about, and the message that arrives.
    /// `None` if nobody is.
    fn take_event(&mut self, event: Event) -> Option<(u64, Option<Message>)> {
        let budget = &mut self.budget;
        let (counter, id) = match event {
            Event::Deliver(at) => {
                let (_, message) = self.network.remove(at);
                return self.receiver(&message);
            }
            Event::Duplicate(at) => {
                budget.duplicates -= 1;
                let message = Arc::clone(&self.network[at].1);
                return self.receiver(&message);
            }
            Event::Drop(at) => {
                budget.drops -= 1;
                self.network.remove(at);
                return None;
            }
            Event::Start(id) | Event::Sync(id) | Event::Answer(id) | Event::Apply(id) => return Some((id, None)),
            Event::Campaign(id) => (&mut budget.campaigns, id),
            Event::Tick(id) if self.members[id as usize - 1].role() == raft_core::StateType::Leader => {
                (&mut budget.beats, id)
            }
            Event::Tick(id) => (&mut budget.ticks, id),
            Event::Crash(id) | Event::CrashHalfway(id) => (&mut budget.crashes, id),
            Event::Propose(id) => (&mut budget.proposals, id),
            Event::Change(id, _) => (&mut budget.changes, id),
            Event::Transfer(id, _) => (&mut budget.transfers, id),
            Event::Read(id) => (&mut budget.reads, id),
            Event::Compact(id) => (&mut budget.compactions, id),
            Event::SnapshotFailed(id, _) => (&mut budget.snapshot_failures, id),
        };
        *counter = counter.saturating_sub(1);
        Some((id, None))
    }

    /// Whether a message can do nothing any more: it is of a term below the one that its receiver has on disk, and the
    /// receiver takes no notice of it, which is tried. Such messages are buried: they would only multiply the states.
    fn is_dead(&self, message: &Message) -> bool {
        if !self.is_member(message.to) {
            return true;
        }
        let receiver = self.member(message.to);
        if message.term == 0 || message.term >= receiver.durable_state.term {
            return false;
        }
        let mut copy = receiver.raw.clone();
        copy.step(message.clone()).is_ok() && hash_of(&copy) == hash_of(&receiver.raw)
    }

    /// Buries the messages to a node whose term on disk has risen.
    fn bury(&mut self, to: u64) {
        let network = std::mem::take(&mut self.network);
        let alive = network.into_iter().filter(|(_, message)| message.to != to || !self.is_dead(message));
        self.network = alive.collect();
    }

    fn receiver(&self, message: &Message) -> Option<(u64, Option<Message>)> {
        self.is_member(message.to).then(|| (message.to, Some(message.clone())))
    }

    fn is_member(&self, id: u64) -> bool {
        id >= 1 && id <= self.members.len() as u64
    }

    pub(super) fn replace(&mut self, id: u64, member: Arc<Member>) {
        self.member_hashes[id as usize - 1] = hash_of(&*member);
        self.members[id as usize - 1] = member;
    }

    pub(super) fn send(&mut self, message: Message) {
        let hash = hash_of(&message);
        if let Err(at) = self.network.binary_search_by_key(&hash, |(hash, _)| *hash) {
            self.network.insert(at, (hash, Arc::new(message)));
        }
    }
}

/// A refusal is part of life; what an honest cluster can never cause is not.
fn honest(what: &str, result: Result<(), Error>) -> Result<(), String> {
    match result {
        Err(error) if error.is_fatal() || matches!(error, Error::Malformed { .. } | Error::LogForeign { .. }) => {
            Err(format!("no honest cluster causes this: {what}: {error}"))
        }
        _ => Ok(()),
    }
}

/// Calls of the harness's own that cannot fail unless the node misleads it.
fn own<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

impl Member {
    /// A node that starts with this storage, for the first time or again.
    pub(super) fn restart(scenario: &Scenario, id: u64, storage: MemoryStorage) -> Result<Self, String> {
        let config = scenario.config(id);
        let snapshot = own("snapshot", storage.snapshot())?;
        let (hard_state, conf_state) = own("initial state", storage.initial_state())?;
        let is_new = hard_state.is_empty() && conf_state == Default::default();
        let raw = if is_new { RawNode::join(config, storage) } else { RawNode::restart(config, storage) };
        let mut member = Member {
            raw: own(&format!("node {id} does not start again"), raw)?,
            ready: None,
            appends: Default::default(),
            applies: Default::default(),
            answers: Default::default(),
            conf_state,
            applied: snapshot.metadata.index,
            chain: chain_of(&snapshot),
            log: LogView::default(),
            durable: LogView::default(),
            durable_state: hard_state,
        };
        member.raw.forget_history();
        member.refresh_views()?;
        Ok(member)
    }

    fn act(
        &mut self,
        scenario: &Scenario,
        event: Event,
        message: Option<Message>,
        history: &History,
        effects: &mut Effects,
    ) -> Result<(), String> {
        let raw = &mut self.raw;
        match event {
            Event::Campaign(_) => honest("campaign", raw.campaign()),
            Event::Tick(_) => honest("tick", raw.tick()),
            Event::Propose(_) => honest("propose", raw.propose("x")),
            Event::Read(_) => {
                let number = history.reads.len() as u64 + 1;
                honest("read", raw.read_index(number.to_le_bytes().to_vec()))
            }
            Event::Change(_, which) => match scenario.changes.get(which) {
                Some(change) => honest("change", raw.propose_conf_change(ConfChangeV2::from(change))),
                None => Ok(()),
            },
            Event::Transfer(_, to) => honest("transfer", raw.transfer_leader(to)),
            Event::SnapshotFailed(_, to) => {
                raw.report_snapshot(to, SnapshotStatus::Failure);
                Ok(())
            }
            Event::Compact(_) => self.compact(),
            Event::Sync(_) => match scenario.storage {
                StorageMode::Asynchronous => self.carry_out_append(effects),
                _ => match self.ready.take() {
                    Some(ready) => self.persist(ready, effects),
                    None => Ok(()),
                },
            },
            Event::Answer(_) => match self.answers.pop_front() {
                Some(answer) => honest("answer of the append thread", self.raw.step(answer)),
                None => Ok(()),
            },
            Event::Apply(_) => self.carry_out_apply(effects),
            Event::Deliver(_) | Event::Duplicate(_) => match message {
                Some(message) => honest("message", raw.step(message)),
                None => Ok(()),
            },
            Event::Start(_) | Event::Drop(_) | Event::Crash(_) | Event::CrashHalfway(_) => Ok(()),
        }
    }

    fn compact(&mut self) -> Result<(), String> {
        let (applied, data) = (self.applied, self.chain.to_le_bytes().to_vec());
        let conf_state = self.conf_state.clone();
        let storage = self.raw.storage_mut();
        own("snapshot", storage.create_snapshot(applied, Some(conf_state), data))?;
        own("compaction", storage.compact(applied))
    }

    /// Takes Readys out, as far as the storage mode lets them.
    fn settle(&mut self, scenario: &Scenario, effects: &mut Effects) -> Result<(), String> {
        // A node that is never quiet would keep the search here for ever.
        for _ in 0..100 {
            if self.ready.is_some() || !self.raw.has_ready() {
                return Ok(());
            }
            self.raw.forget_history();
            let mut ready = own("ready", self.raw.ready())?;
            effects.sent.extend(self.route(ready.take_messages()));
            for read in ready.take_read_states() {
                if let Ok(number) = <[u8; 8]>::try_from(read.request_ctx.as_ref()) {
                    effects.answered.push((u64::from_le_bytes(number), read.index));
                }
            }
            match scenario.storage {
                StorageMode::AtOnce => self.persist(ready, effects)?,
                // Nothing to lose in a crash: taking it apart would only make more states.
                StorageMode::InTwoSteps if is_volatile(&ready) => self.persist(ready, effects)?,
                StorageMode::InTwoSteps => self.ready = Some(ready),
                StorageMode::Asynchronous => {}
            }
        }
        Err("the node always has another Ready".to_string())
    }

    /// What the storage threads get stays here; the rest goes under way.
    fn route(&mut self, messages: impl Iterator<Item = Message>) -> Vec<Message> {
        let mut sent = Vec::new();
        for message in messages {
            match message.to {
                LOCAL_APPEND_THREAD => self.appends.push_back(message),
                LOCAL_APPLY_THREAD => self.applies.push_back(message),
                _ => sent.push(message),
            }
        }
        sent
    }

    fn take_over_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        own("snapshot", self.raw.storage_mut().apply_snapshot(snapshot.clone()))?;
        self.conf_state = snapshot.metadata.conf_state.clone();
        self.applied = snapshot.metadata.index;
        self.chain = chain_of(snapshot);
        Ok(())
    }

    /// Makes a Ready durable, sends its promises, applies, and advances.
    fn persist(&mut self, ready: Ready, effects: &mut Effects) -> Result<(), String> {
        if let Some(snapshot) = ready.snapshot() {
            self.take_over_snapshot(&snapshot.clone())?;
        }
        if let Some(hard_state) = ready.hard_state() {
            self.raw.storage_mut().set_hard_state(hard_state);
        }
        own("append", self.raw.storage_mut().append(ready.entries()))?;
        let mut persisted = ready.persisted();
        effects.sent.extend(persisted.take_messages());
        for entry in persisted.take_committed_entries() {
            self.apply(&entry, effects)?;
        }
        honest("advance", self.raw.advance(persisted))
    }

    /// The power fails when the entries of the outstanding Ready are written and its hard state is not.
    fn persist_entries_only(&mut self) -> Result<(), String> {
        let Some(ready) = self.ready.take() else { return Ok(()) };
        if let Some(snapshot) = ready.snapshot() {
            self.take_over_snapshot(&snapshot.clone())?;
        }
        own("append", self.raw.storage_mut().append(ready.entries()))
    }

    fn carry_out_append(&mut self, effects: &mut Effects) -> Result<(), String> {
        let Some(mut work) = self.appends.pop_front() else { return Ok(()) };
        if let Some(snapshot) = work.take_snapshot() {
            self.take_over_snapshot(&snapshot)?;
        }
        if work.term != 0 {
            let hard_state = raft_core::pb::HardState { term: work.term, vote: work.vote, commit: work.commit };
            self.raw.storage_mut().set_hard_state(hard_state);
        }
        own("append", self.raw.storage_mut().append(&work.entries))?;
        let id = self.raw.basic_status().id;
        let (own, others): (Vec<_>, Vec<_>) = work.responses.into_iter().partition(|message| message.to == id);
        self.answers.extend(own);
        effects.sent.extend(others);
        Ok(())
    }

    fn carry_out_apply(&mut self, effects: &mut Effects) -> Result<(), String> {
        let Some(work) = self.applies.pop_front() else { return Ok(()) };
        for entry in &work.entries {
            self.apply(entry, effects)?;
        }
        for response in work.responses {
            honest("answer of the apply thread", self.raw.step(response))?;
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry, effects: &mut Effects) -> Result<(), String> {
        if entry.index != self.applied + 1 {
            return Err(format!("entries are applied in order: {} comes after {}", entry.index, self.applied));
        }
        self.applied = entry.index;
        self.chain = history::chain(self.chain, &mark(entry));
        if entry.is_conf_change() {
            let change = own("configuration change", ConfChangeKind::decode(entry))?;
            match self.raw.apply_conf_change(change) {
                Ok(conf_state) => self.conf_state = conf_state,
                // A change that cannot follow on the present configuration changes nothing, on any node alike.
                Err(Error::ConfChange(_)) => {}
                Err(error) => return Err(format!("a committed configuration change cannot be applied: {error}")),
            }
            effects.configured.push((entry.index, self.conf_state.clone()));
        }
        Ok(())
    }

    /// Looks at the logs again.
    pub(super) fn refresh_views(&mut self) -> Result<(), String> {
        let storage = self.raw.storage();
        self.durable = own("durable log", view_of_storage(storage))?;
        self.durable_state = own("durable state", storage.initial_state())?.0;
        let (index, term, entries) = own("log", self.raw.whole_log())?;
        self.log = LogView { base: (index, term), marks: entries.iter().map(mark).collect() };
        Ok(())
    }
}

/// Whether a Ready holds nothing that is to be written or applied.
fn is_volatile(ready: &Ready) -> bool {
    ready.hard_state().is_none()
        && ready.entries().is_empty()
        && ready.snapshot().is_none()
        && ready.committed_entries().is_empty()
}

fn view_of_storage(storage: &MemoryStorage) -> Result<LogView, raft_core::StorageError> {
    let (first, last) = (storage.first_index()?, storage.last_index()?);
    let base = (first - 1, storage.term(first - 1)?);
    let entries = if first <= last { storage.entries(first, last + 1, u64::MAX)? } else { Vec::new().into() };
    Ok(LogView { base, marks: entries.iter().map(mark).collect() })
}

fn mark(entry: &Entry) -> Mark {
    let digest = digest_of(&(entry.entry_type, &entry.data));
    Mark { term: entry.term, digest, is_conf_change: entry.is_conf_change() }
}

fn chain_of(snapshot: &Snapshot) -> u64 {
    <[u8; 8]>::try_from(snapshot.data.as_ref()).map_or(0, u64::from_le_bytes)
}
