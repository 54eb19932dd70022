//! A million arbitrary steps on small clusters: no panic, and Raft's promises checked after each one.
//!
//! Every history comes from a seed. One step is one of: a tick, the delivery, loss or duplication of a message, a
//! proposal, a configuration change, a read, a transfer, storage work done, a crash with what was not persisted, a
//! compaction, a storage fault, a forged message.
//!
//! Checked after each step, on the node that it touched (Raft paper figure 3):
//! - election safety: one leader a term;
//! - log matching: an (index, term) has one content and one predecessor, everywhere and for ever;
//! - leader completeness: a new leader has what was committed in earlier terms;
//! - state machine safety: one entry per committed index, and entries are applied in order;
//! - term, commit and applied never fall; `applied ≤ committed ≤ last`.
//!
//! Forged messages can do what a traitor can do, so histories with them promise less: no panic, and nothing falls.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use crate::confchange::ConfChangeKind;
use crate::config::{is_local_thread, LOCAL_APPEND_THREAD};
use crate::pb::*;
use crate::rng::SplitMix64;
use crate::*;

/// Steps of each of the two tests, unless RAFT_FUZZ_STEPS says otherwise.
const STEPS: usize = 1_000_000;
const STEPS_PER_SEED: usize = 5_000;
/// Three founders, and two that may be added.
const FOUNDERS: u64 = 3;
const NODES: u64 = 5;

/// A storage that fails when told to.
#[derive(Debug, Default, Clone)]
struct Brittle {
    inner: MemoryStorage,
    /// Reads until the next one fails; 0 for never.
    fuse: Cell<u32>,
}

impl Brittle {
    fn burn(&self) -> Result<(), StorageError> {
        match self.fuse.get() {
            0 => Ok(()),
            1 => {
                self.fuse.set(0);
                Err(StorageError::Other("injected".to_string()))
            }
            left => {
                self.fuse.set(left - 1);
                Ok(())
            }
        }
    }
}

impl Storage for Brittle {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.inner.initial_state()
    }
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Entries, StorageError> {
        self.burn().and_then(|()| self.inner.entries(low, high, max_bytes))
    }
    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.burn().and_then(|()| self.inner.term(index))
    }
    fn first_index(&self) -> Result<u64, StorageError> {
        self.inner.first_index()
    }
    fn last_index(&self) -> Result<u64, StorageError> {
        self.inner.last_index()
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.burn().and_then(|()| self.inner.snapshot())
    }
}

/// A node, its application and its storage threads.
struct Actor {
    raw: RawNode<Brittle>,
    config: Config,
    conf_state: ConfState,
    applied: u64,
    /// What the storage threads have to do, in order; lost in a crash.
    appends: VecDeque<Message>,
    applies: VecDeque<Message>,
    /// Their answers to this node: never lost, never out of order, gone in a crash.
    answers: VecDeque<Message>,
    /// What was seen last of (term, commit).
    seen: (u64, u64),
}

/// What all nodes together have shown.
#[derive(Default)]
struct History {
    leaders: BTreeMap<u64, u64>,
    /// (index, term) → (predecessor's term, data).
    entries: BTreeMap<(u64, u64), (u64, bytes::Bytes)>,
    /// index → (entry's term, a term in which it was known to be committed).
    committed: BTreeMap<u64, (u64, u64)>,
}

struct World {
    actors: BTreeMap<u64, Actor>,
    network: Vec<Message>,
    random: SplitMix64,
    history: History,
    seed: u64,
    step: usize,
    forged: bool,
    proposals: u64,
    /// Configuration changes that came into force, on whichever node.
    changes: usize,
}

impl World {
    fn new(seed: u64, forged: bool) -> Self {
        let mut random = SplitMix64::new(seed, 77);
        let peers: Vec<Peer> = (1..=FOUNDERS).map(|id| Peer { id, ..Peer::default() }).collect();
        let mut actors = BTreeMap::new();
        let asynchronous = random.below(2) == 0;
        let mut config = Config::new(1);
        config.async_storage_writes = asynchronous;
        config.check_quorum = random.below(4) != 0;
        config.pre_vote = random.below(4) != 0;
        config.step_down_on_removal = random.below(4) != 0;
        config.max_size_per_msg = [0, 40, 1 << 20][random.below(3)];
        config.max_inflight_msgs = [1, 3, 256][random.below(3)];
        config.max_inflight_bytes = [0, 1 << 20][random.below(2)];
        config.max_committed_size_per_ready = [0, 30, 1 << 20][random.below(3)];
        config.max_uncommitted_entries_size = [0, 100][random.below(2)];
        config.seed = seed;
        for id in 1..=NODES {
            let config = Config { id, ..config.clone() };
            let raw = if id <= FOUNDERS {
                RawNode::bootstrap(config.clone(), Brittle::default(), &peers)
            } else {
                RawNode::join(config.clone(), Brittle::default())
            };
            let raw = raw.expect("a good configuration");
            let actor = Actor {
                raw,
                config,
                conf_state: ConfState::default(),
                applied: 0,
                appends: VecDeque::new(),
                applies: VecDeque::new(),
                answers: VecDeque::new(),
                seen: (0, 0),
            };
            actors.insert(id, actor);
        }
        let history = History::default();
        World { actors, network: Vec::new(), random, history, seed, step: 0, forged, proposals: 0, changes: 0 }
    }

    fn context(&self) -> String {
        format!("seed {} step {}", self.seed, self.step)
    }

    fn any_id(&mut self) -> u64 {
        1 + self.random.below(NODES as usize) as u64
    }

    /// A node with storage work to do, if there is one.
    fn busy_id(&mut self, or: u64) -> u64 {
        let is_busy = |actor: &Actor| {
            let queues = [&actor.appends, &actor.applies, &actor.answers];
            actor.raw.has_ready() || queues.iter().any(|queue| !queue.is_empty())
        };
        let busy: Vec<u64> = self.actors.iter().filter(|(_, actor)| is_busy(actor)).map(|(id, _)| *id).collect();
        match busy.len() {
            0 => or,
            count => busy[self.random.below(count)],
        }
    }

    fn actor(&mut self, id: u64) -> &mut Actor {
        self.actors.get_mut(&id).expect("ids are of the pool")
    }

    /// One arbitrary step.
    fn act(&mut self) {
        self.step += 1;
        let id = self.any_id();
        let touched = match self.random.below(1000) {
            0..=59 => {
                let _ = self.actor(id).raw.tick();
                id
            }
            60..=429 => self.deliver(),
            430..=869 => {
                let id = self.busy_id(id);
                self.storage_work(id);
                id
            }
            870..=919 => {
                self.propose(id);
                id
            }
            920..=934 => {
                self.propose_conf_change(id);
                id
            }
            935..=944 => {
                let _ = self.actor(id).raw.read_index("read");
                id
            }
            945..=949 => {
                let to = self.any_id();
                let _ = self.actor(id).raw.transfer_leader(to);
                id
            }
            950..=954 => {
                let _ = self.actor(id).raw.campaign();
                id
            }
            955..=959 => {
                let other = self.any_id();
                let status = if self.random.below(2) == 0 { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.actor(id).raw.report_unreachable(other);
                self.actor(id).raw.report_snapshot(other, status);
                id
            }
            960..=963 => {
                let _ = self.actor(id).raw.forget_leader();
                id
            }
            964..=969 => {
                self.crash(id);
                id
            }
            970..=979 => {
                self.compact(id);
                id
            }
            980..=982 => {
                let fuse = 1 + self.random.below(5) as u32;
                self.actor(id).raw.storage().fuse.set(fuse);
                id
            }
            983..=996 if self.forged => {
                let message = self.forge();
                // Keeping strangers from speaking for the storage threads is the transport's part.
                let stranger = is_local_thread(message.from) && self.actor(id).config.async_storage_writes;
                if !stranger {
                    let _ = self.actor(id).raw.step(message);
                }
                id
            }
            _ => {
                // A burst of ticks: somebody's election timeout.
                for _ in 0..12 {
                    let _ = self.actor(id).raw.tick();
                }
                id
            }
        };
        self.check(touched);
    }

    fn deliver(&mut self) -> u64 {
        if self.network.is_empty() {
            return 1;
        }
        // Mostly the older ones, or everything would arrive hopelessly late.
        let window = if self.random.below(10) == 0 { self.network.len() } else { self.network.len().min(6) };
        let at = self.random.below(window);
        let message = match self.random.below(40) {
            0 => {
                self.network.remove(at);
                return 1;
            }
            1 => self.network[at].clone(),
            _ => self.network.remove(at),
        };
        let to = message.to;
        if let Some(actor) = self.actors.get_mut(&to) {
            let result = actor.raw.step(message);
            let honest = !matches!(result, Err(Error::LogForeign { .. } | Error::LogLost { .. }));
            assert!(honest || self.forged, "{}: {result:?}", self.context());
            return to;
        }
        1
    }

    fn propose(&mut self, id: u64) {
        self.proposals += 1;
        let data = format!("p{}", self.proposals);
        let _ = self.actor(id).raw.propose(data);
    }

    fn propose_conf_change(&mut self, id: u64) {
        let types = [
            ConfChangeType::ConfChangeAddNode,
            ConfChangeType::ConfChangeRemoveNode,
            ConfChangeType::ConfChangeAddLearnerNode,
            ConfChangeType::ConfChangeUpdateNode,
        ];
        let count = self.random.below(4);
        let mut changes = Vec::new();
        for _ in 0..count {
            changes.push(ConfChangeSingle::new(types[self.random.below(4)], self.any_id()));
        }
        let transition = self.random.below(3) as i32;
        let change = ConfChangeV2 { transition, changes, ..ConfChangeV2::default() };
        let _ = self.actor(id).raw.propose_conf_change(change);
    }

    /// A Ready, or the oldest job of one of the storage threads; sometimes cut short by a crash.
    fn storage_work(&mut self, id: u64) {
        let (choice, crash) = (self.random.below(4), self.random.below(60) == 0);
        let asynchronous = self.actor(id).config.async_storage_writes;
        match choice {
            1 if asynchronous => self.append(id),
            2 if asynchronous => self.apply_job(id),
            3 if asynchronous => drop(self.answer(id)),
            _ if self.actor(id).raw.has_ready() => match self.actor(id).raw.ready() {
                Ok(ready) if asynchronous => self.dispatch(id, ready),
                Ok(ready) => self.handle(id, ready, crash),
                Err(_) => {}
            },
            _ => {}
        }
    }

    fn dispatch(&mut self, id: u64, mut ready: Ready) {
        for message in ready.take_messages() {
            match message.to {
                to if !is_local_thread(to) => self.network.push(message),
                LOCAL_APPEND_THREAD => self.actor(id).appends.push_back(message),
                _ => self.actor(id).applies.push_back(message),
            }
        }
    }

    fn append(&mut self, id: u64) {
        let Some(mut job) = self.actor(id).appends.pop_front() else { return };
        let hard_state = HardState { term: job.term, vote: job.vote, commit: job.commit };
        let snapshot = job.take_snapshot().map(|snapshot| *snapshot);
        self.persist(id, snapshot, Some(hard_state).filter(|state| !state.is_empty()), &job.entries);
        self.respond(id, job.responses);
    }

    fn respond(&mut self, id: u64, responses: Vec<Message>) {
        let (own, others): (Vec<_>, Vec<_>) = responses.into_iter().partition(|message| message.to == id);
        self.actor(id).answers.extend(own);
        self.network.extend(others);
    }

    fn answer(&mut self, id: u64) -> bool {
        let actor = self.actor(id);
        match actor.answers.pop_front() {
            Some(message) => {
                let _ = actor.raw.step(message);
                true
            }
            None => false,
        }
    }

    fn apply_job(&mut self, id: u64) {
        let Some(job) = self.actor(id).applies.pop_front() else { return };
        self.apply(id, job.entries);
        self.respond(id, job.responses);
    }

    fn handle(&mut self, id: u64, mut ready: Ready, crash: bool) {
        self.network.extend(ready.take_messages());
        if crash {
            self.crash(id);
            return;
        }
        self.persist(id, ready.snapshot().cloned(), ready.hard_state(), ready.entries());
        let mut persisted = ready.persisted();
        self.network.extend(persisted.take_messages());
        self.apply(id, persisted.take_committed_entries());
        let _ = self.actor(id).raw.advance(persisted);
    }

    fn persist(&mut self, id: u64, snapshot: Option<Snapshot>, hard_state: Option<HardState>, entries: &[Entry]) {
        let context = self.context();
        let forged = self.forged;
        let actor = self.actor(id);
        let storage = &mut actor.raw.storage_mut().inner;
        if let Some(snapshot) = snapshot {
            let metadata = snapshot.metadata.clone();
            match storage.apply_snapshot(snapshot) {
                Ok(()) => {
                    actor.applied = metadata.index;
                    actor.conf_state = metadata.conf_state;
                }
                // An older one may still be under way when the application has made a newer one itself.
                Err(error) => assert_eq!(error, StorageError::SnapshotOutOfDate, "{context}"),
            }
        }
        let storage = &mut actor.raw.storage_mut().inner;
        if let Some(hard_state) = hard_state {
            storage.set_hard_state(hard_state);
        }
        let appended = storage.append(entries);
        assert!(forged || appended.is_ok(), "{context}: {appended:?}");
        let mut previous = entries.first().and_then(|entry| storage.term(entry.index - 1).ok());
        for entry in entries {
            if let (Some(previous), false) = (previous, forged) {
                let content = (previous, entry.data.clone());
                let known = self.history.entries.entry((entry.index, entry.term)).or_insert_with(|| content.clone());
                assert_eq!(*known, content, "{context}: log matching at {}/{}", entry.term, entry.index);
            }
            previous = Some(entry.term);
        }
    }

    fn apply(&mut self, id: u64, entries: Entries) {
        let context = self.context();
        let forged = self.forged;
        let mut changes = 0;
        let actor = self.actor(id);
        for entry in entries {
            if forged && entry.index != actor.applied + 1 {
                continue;
            }
            // The storage threads are independent: a snapshot may overtake what it includes.
            if actor.config.async_storage_writes && entry.index <= actor.applied {
                continue;
            }
            assert_eq!(entry.index, actor.applied + 1, "{context}: node {id} applies out of order");
            actor.applied = entry.index;
            if entry.is_conf_change() {
                let change = ConfChangeKind::decode(&entry).expect("the leader has checked it");
                // A change that cannot follow is refused on every node alike.
                if let Ok(conf_state) = actor.raw.apply_conf_change(change) {
                    actor.conf_state = conf_state;
                    changes += 1;
                }
            }
        }
        self.changes += changes;
    }

    fn compact(&mut self, id: u64) {
        let actor = self.actor(id);
        let (applied, conf_state) = (actor.applied, actor.conf_state.clone());
        let storage = &mut actor.raw.storage_mut().inner;
        // The state may be ahead of the log on disk (asynchronous storage); then there is nothing to stand on yet.
        if storage.create_snapshot(applied, Some(conf_state), applied.to_string()).is_ok() {
            let _ = storage.compact(applied);
        }
    }

    /// Starts anew from what is persisted.
    fn crash(&mut self, id: u64) {
        let context = self.context();
        let forged = self.forged;
        let actor = self.actor(id);
        let mut storage = actor.raw.storage().clone();
        storage.fuse = Cell::new(0);
        let pristine = storage.inner.initial_state().expect("in memory") == Default::default()
            && storage.inner.last_index().expect("in memory") == 0;
        let snapshot = storage.inner.snapshot().expect("in memory");
        let raw = if !pristine {
            RawNode::restart(actor.config.clone(), storage)
        } else if id <= FOUNDERS {
            let peers: Vec<Peer> = (1..=FOUNDERS).map(|id| Peer { id, ..Peer::default() }).collect();
            RawNode::bootstrap(actor.config.clone(), storage, &peers)
        } else {
            RawNode::join(actor.config.clone(), storage)
        };
        match raw {
            Ok(raw) => {
                actor.raw = raw;
                actor.conf_state = snapshot.metadata.conf_state;
                actor.applied = snapshot.metadata.index;
                actor.appends.clear();
                actor.applies.clear();
                actor.answers.clear();
                actor.seen = (0, 0);
            }
            Err(error) => assert!(forged, "{context}: node {id} does not restart: {error}"),
        }
    }

    /// Any message at all, near enough to a real one to get past the first question.
    fn forge(&mut self) -> Message {
        let mut number = |bound: usize| match self.random.below(12) {
            0 => u64::MAX - self.random.below(3) as u64,
            1 => 0,
            _ => self.random.below(bound) as u64,
        };
        let mut message = Message {
            msg_type: number(26) as i32,
            to: number(7),
            from: number(7),
            term: number(40),
            log_term: number(40),
            index: number(300),
            commit: number(300),
            reject: number(2) == 1,
            reject_hint: number(300),
            vote: number(7),
            ..Message::default()
        };
        let (count, gap) = (number(4).min(4), number(10));
        for offset in 0..count {
            let index = message.index.wrapping_add(1 + offset + u64::from(gap == 5));
            let data = vec![number(256) as u8; number(5).min(5) as usize].into();
            message.entries.push(Entry { entry_type: number(4) as i32, term: number(40), index, data });
        }
        if number(3) == 1 {
            let conf_state = ConfState {
                voters: vec![number(7), number(7)],
                learners: vec![number(7)],
                voters_outgoing: vec![number(7)],
                ..ConfState::default()
            };
            let metadata = SnapshotMetadata { conf_state, index: number(300), term: number(40) };
            message.snapshot = Some(Box::new(Snapshot { metadata, ..Snapshot::default() }));
        }
        if number(3) == 1 {
            message.context = number(9).to_le_bytes().to_vec().into();
        }
        message
    }

    fn check(&mut self, id: u64) {
        let context = self.context();
        // A node that is out of order is started anew, as its owner would.
        if self.actor(id).raw.is_faulted() {
            self.crash(id);
        }
        let forged = self.forged;
        let actor = self.actors.get_mut(&id).expect("ids are of the pool");
        let (raft, history) = (actor.raw.raft(), &mut self.history);
        let (term, committed, applied) = (raft.term, raft.log.committed, raft.log.applied);
        let last = raft.log.last_index();
        assert!(applied <= committed && committed <= last, "{context}: node {id}: {}", raft.log);
        assert!(actor.seen.0 <= term && actor.seen.1 <= committed, "{context}: node {id}: term or commit fell");
        for (member, progress) in &raft.tracker.progress {
            assert!(progress.match_index < progress.next_index, "{context}: {member}: {progress}");
        }
        if forged {
            actor.seen = (term, committed);
            return;
        }
        if raft.state == StateType::Leader {
            let leader = *history.leaders.entry(term).or_insert(id);
            assert_eq!(leader, id, "{context}: two leaders in term {term}");
            for (index, (entry_term, known_in)) in &history.committed {
                if *known_in < term && *index > committed {
                    let own = raft.log.term(*index);
                    if matches!(own, Err(Error::Storage(_))) {
                        break;
                    }
                    assert_eq!(own, Ok(Some(*entry_term)), "{context}: leader {id} of term {term} lacks {index}");
                }
            }
        }
        for index in actor.seen.1 + 1..=committed {
            let Ok(Some(entry_term)) = raft.log.term(index) else { continue };
            let known = history.committed.entry(index).or_insert((entry_term, term));
            assert_eq!(known.0, entry_term, "{context}: node {id} commits another entry at {index}");
        }
        actor.seen = (term, committed);
    }

    /// Faults are over: within a bounded time, something new is committed.
    fn recover(&mut self) {
        let config = &self.actor(1).config;
        if !config.check_quorum && !config.pre_vote {
            // As in etcd, a leader of a lower term is then not told so. A node that is ahead in terms, behind in its
            // log and needed for a quorum may ignore it for ever (seed 12466).
            return;
        }
        let before = self.history.committed.len();
        for round in 0..600 {
            for id in 1..=NODES {
                if round % 50 == 0 && !self.actor(id).config.step_down_on_removal && !self.actor(id).raw.is_member() {
                    // Without that option, a removed leader leads on, and drops what is proposed, until it is stopped.
                    self.crash(id);
                }
                if round % 50 == 25 {
                    // The application's part: it reports snapshots that were lost, and makes new ones, which know the
                    // members of today.
                    self.compact(id);
                    for other in 1..=NODES {
                        self.actor(id).raw.report_snapshot(other, SnapshotStatus::Failure);
                    }
                }
                self.actor(id).raw.storage().fuse.set(0);
                let _ = self.actor(id).raw.tick();
                if round % 20 == 10 {
                    self.propose(id);
                }
                for _ in 0..4 {
                    self.run_storage(id);
                }
            }
            for message in std::mem::take(&mut self.network) {
                let to = message.to;
                if let Some(actor) = self.actors.get_mut(&to) {
                    let _ = actor.raw.step(message);
                    self.check(to);
                }
            }
            if self.history.committed.len() > before + 1 {
                return;
            }
        }
        let states: Vec<String> = self
            .actors
            .values()
            .map(|actor| {
                let raft = actor.raw.raft();
                format!(
                    "{} {} term {} lead {} [{}] {} transferee {}",
                    raft.id, raft.state, raft.term, raft.lead, raft.log, raft.tracker.config, raft.lead_transferee
                ) + &raft.tracker.progress.iter().map(|(id, p)| format!("\n    {id}: {p}")).collect::<String>()
            })
            .collect();
        panic!("{}: the cluster does not come back:\n{}", self.context(), states.join("\n"));
    }

    fn run_storage(&mut self, id: u64) {
        while self.actor(id).raw.has_ready() {
            match self.actor(id).raw.ready() {
                Ok(ready) if self.actor(id).config.async_storage_writes => self.dispatch(id, ready),
                Ok(ready) => self.handle(id, ready, false),
                Err(_) => break,
            }
        }
        while !self.actor(id).appends.is_empty() {
            self.append(id);
        }
        while !self.actor(id).applies.is_empty() {
            self.apply_job(id);
        }
        while self.answer(id) {}
        self.check(id);
    }

    /// Everything that can be seen of the world, for comparison.
    fn trace(&self) -> String {
        let mut trace = String::new();
        for actor in self.actors.values() {
            trace += &format!("{:?} {:?}\n", actor.raw.status(), actor.raw.storage().inner);
        }
        trace + &format!("{:?}", self.network)
    }
}

fn seeds() -> u64 {
    let steps = std::env::var("RAFT_FUZZ_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(STEPS);
    (steps / STEPS_PER_SEED) as u64
}

#[test]
fn a_million_arbitrary_steps_break_no_promise() {
    let (mut committed, mut terms, mut changes) = (0, 0, 0);
    for seed in 0..seeds() {
        let mut world = World::new(seed, false);
        for _ in 0..STEPS_PER_SEED {
            world.act();
        }
        world.recover();
        committed += world.history.committed.len();
        terms += world.history.leaders.len();
        changes += world.changes;
    }
    let steps = seeds() * STEPS_PER_SEED as u64;
    println!("{steps} steps: {committed} entries committed in {terms} terms, {changes} configuration changes applied");
    // Histories in which nothing happens prove nothing.
    assert!(committed > 5_000 && terms > 1_000 && changes > 1_000);
}

#[test]
fn a_million_steps_with_forged_messages_do_not_panic() {
    for seed in 0..seeds() {
        let mut world = World::new(seed, true);
        for _ in 0..STEPS_PER_SEED {
            world.act();
        }
    }
}

#[test]
fn equal_seeds_give_equal_histories() {
    for seed in 0..10 {
        let run = || {
            let mut world = World::new(seed, false);
            (0..3_000).map(|_| world.act()).for_each(drop);
            world.trace()
        };
        assert!(run() == run(), "seed {seed}");
    }
}
