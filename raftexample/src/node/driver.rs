//! The raft thread: one loop in which everything happens that must happen in order.
//!
//! ```text
//!   wait for input, or for the tick
//!     │ take everything that waits, up to a limit
//!     ▼
//!   propose what clients want ── as one message; ask for reads ── as one question
//!     ▼
//!   while there is a Ready:
//!     send what may go at once          (a leader's entries travel while its own disk writes)
//!     write: snapshot, hard state, entries ── one batch, one sync
//!     send what promises something      (votes, acknowledgements: true only now)
//!     apply what is committed, answer those who waited for it
//!     send what a follower has missed   (much, perhaps, and no client waits for it)
//!     ▼
//!   let those reads go whose index is applied; take a snapshot if enough has been applied
//! ```
//!
//! The order of the middle part is what makes the node safe, and the types of `raft-core` hold it: promises and committed
//! entries come out of a `Ready` only after it was declared persisted.
//!
//! **Time** is counted in ticks, from this thread's own clock. After a pause (a slow disk, a stopped process) the ticks
//! that were missed are skipped, not made up for: while it could not listen, the node cannot know that the leader was
//! silent. What is due by the clock, such as an answer to a client, does not wait for a tick, which may be seconds away:
//! the thread looks at the clock every [`LOOK_INTERVAL`] at least.
//!
//! Some subjects have files of their own: `driver/applying.rs`, `driver/snapshots.rs`, `driver/membership.rs`,
//! `driver/transfer.rs` (handing over leadership), `driver/leaving.rs` (the end in order), and `driver/forwarding.rs`
//! (proposals of other nodes).
//!
//! What is left out: threads of its own for the log and for applying.

mod applying;
mod forwarding;
mod leaving;
mod membership;
mod notes;
mod snapshots;
mod transfer;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use kvstore::Store;
use parking_lot::RwLock;
use raft_core::pb::{ConfState, Entry, Message, MessageType};
use raft_core::{Config, Error, MemoryStorage, Peer, RawNode, Ready, SnapshotStatus, StateType, Storage};

use self::leaving::{Handover, Leaving};
use super::change::Written;
use super::disk::{Disk, State, StorageFailed};
use super::reads::Reads;
use super::roster::Roster;
use super::status::NodeStatus;
use super::waiting_changes::WaitingChanges;
use super::writes::Writes;
use super::{Ending, Inbox, Input, Leader, Refused, Reply, STOPPING};
use crate::address::PeerUrl;
use crate::cli::{NodeOptions, Timing};
use crate::codec::{Codec, Content, Dialect};
use crate::members::Members;
use crate::metrics::Metrics;
use crate::snapshots::SnapshotFiles;
use crate::transport::register::{Number, Register};
use crate::transport::{Event, Lost, Transport};
use snapshots::Snapshots;
pub(super) use transfer::transfer_timeout;

/// Inputs to take in before the next Ready.
const INPUTS_PER_TURN: usize = 4096;
/// Bytes of entries to take in before the next Ready: a batch in the log should not grow without end.
const BYTES_PER_TURN: usize = 8 << 20;
/// Bytes of clients' requests to propose before the next Ready.
const PROPOSAL_BYTES: usize = 1 << 20;
/// Entries that go out in one message; one entry always may.
const MESSAGE_BYTES: u64 = 128 << 10;
/// What one follower may be sent ahead of its answers. A follower that comes back after a long time is sent this much in
/// one turn, and clients wait for the end of the turn: with four times as much, the slowest write in a hundred took more
/// than twice its usual time meanwhile (the benchmark `catch_up`). The price: a follower gets no more than this, and what
/// is left of the last message, for each round trip and each sync of its own.
const INFLIGHT_BYTES: u64 = 256 << 10;
/// Election timeouts without a leader after which clients are told at once instead of after their timeout.
const HOPELESS_ELECTIONS: usize = 3;
/// Longest time between two looks at the clock; every tick is one, too.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Everything that the raft thread owns.
pub(super) struct Driver {
    id: u64,
    cluster: Vec<PeerUrl>,
    codec: Arc<dyn Codec>,
    /// All members run this program; see [`Dialect::extensions`].
    extensions: bool,
    snapshot_count: Option<u64>,
    timing: Timing,
    boot: u64,
    inbox: Inbox,
    raw: RawNode<MemoryStorage>,
    // Before the disk, whose lock is what keeps another process out: one may be being written.
    snapshots: Snapshots,
    disk: Disk,
    store: Arc<RwLock<Store>>,
    members: Members,
    /// The configuration as of the last applied entry.
    conf_state: ConfState,
    register: Register,
    /// The number of this node's data directory, if the members tell each other theirs.
    own_data: Option<u64>,
    /// The number for the cluster, should it need one.
    birth_offer: u64,
    /// Until then, nothing more is proposed for the address book.
    note_pause_ticks: usize,
    transport: Transport,
    writes: Writes,
    reads: Reads,
    changes: WaitingChanges,
    transfers: Vec<transfer::Transfer>,
    /// The leader has given back writes: none is proposed until the next look at the clock.
    hold_writes: bool,
    /// The leader has given back, or refused, a change: none is proposed until the next look at the clock.
    hold_changes: bool,
    /// Index and term of the last applied entry.
    applied: (u64, u64),
    /// Entries up to here were committed before this process started: history, told again.
    history: u64,
    leader: u64,
    leaderless_ticks: usize,
    /// Members that say that this node was removed, since it has had no leader.
    told_removed: BTreeSet<u64>,
    /// Members that say that this node is not who it seems to be, since it has had no leader.
    told_strange: BTreeSet<(Number, u64)>,
    /// Who asked this node for its own removal, which it has applied: told at the end, when the others have recorded it.
    farewell: Vec<Reply>,
    /// When to end, if this node was removed.
    end_at: Option<Instant>,
    /// Set when it was told to stop.
    leaving: Option<Leaving>,
    handover: Handover,
    metrics: Arc<Metrics>,
}

/// An answer, and where it goes.
type Answer = (Reply, Result<(), Refused>);

/// Why the loop cannot go on.
struct Fatal(String);

impl From<Error> for Fatal {
    fn from(error: Error) -> Fatal {
        Fatal(error.to_string())
    }
}

impl From<StorageFailed> for Fatal {
    fn from(error: StorageFailed) -> Fatal {
        Fatal(format!("the disk failed, so this node stops: {error}"))
    }
}

impl Driver {
    /// Puts together a node from what the disk remembers, or a new one.
    // Each part is made by somebody else and given to nobody else.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        options: &NodeOptions,
        dialect: &Dialect,
        boot: u64,
        (disk, state): (Disk, State),
        mut transport: Transport,
        register: Register,
        inbox: Inbox,
        metrics: Arc<Metrics>,
    ) -> Result<Driver, String> {
        let State { storage, snapshot, empty } = state;
        let files = SnapshotFiles::new(disk.snapshot_dir(), Arc::clone(&dialect.codec), options.cluster.clone());
        let mut snapshots = Snapshots::new(files.clone(), dialect.check_quorum);
        let (members, store, conf_state, applied) = match snapshot {
            None => (Members::default(), Store::new(), ConfState::default(), (0, 0)),
            Some(snapshot) => {
                let metadata = snapshot.metadata().clone();
                let read = files.read(&metadata, snapshot);
                let (members, store, data_bytes) =
                    read.map_err(|error| format!("the snapshot of index {}: {error}", metadata.index))?;
                snapshots.note(metadata.index, data_bytes);
                (members, store, metadata.conf_state, (metadata.index, metadata.term))
            }
        };
        let history = storage.initial_state().map_err(|error| error.to_string())?.0.commit;
        let config = Config {
            election_tick: usize::from(options.timing.election_ticks),
            heartbeat_tick: usize::from(options.timing.heartbeat_ticks),
            applied: applied.0,
            check_quorum: dialect.check_quorum,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_bytes: INFLIGHT_BYTES,
            seed: boot,
            ..Config::new(options.id)
        };
        let founders = (1..).zip(&options.cluster).map(|(id, _)| Peer { id, ..Peer::default() });
        let raw = match (empty, options.join) {
            (true, false) => RawNode::bootstrap(config, storage, &founders.collect::<Vec<_>>()),
            (true, true) => RawNode::join(config, storage),
            (false, _) => RawNode::restart(config, storage),
        };
        let raw = raw.map_err(|error| error.to_string())?;
        // A node that knows nothing yet must be able to answer whoever calls: the command line says where they are.
        for (id, url) in (1..).zip(&options.cluster).filter(|(id, _)| !members.was_removed(*id)) {
            transport.add(id, url);
        }
        let own_data = register.borrow().own_data;
        let mut driver = Driver {
            id: options.id,
            cluster: options.cluster.clone(),
            codec: Arc::clone(&dialect.codec),
            extensions: dialect.extensions,
            snapshot_count: options.snapshot_count,
            timing: options.timing,
            boot,
            inbox,
            raw,
            disk,
            store: Arc::new(RwLock::new(store)),
            members,
            conf_state,
            own_data,
            register,
            // 0 means that there is none.
            birth_offer: super::random().max(1),
            note_pause_ticks: 0,
            transport,
            writes: Writes::default(),
            reads: Reads::new(boot),
            changes: WaitingChanges::new(boot),
            transfers: Vec::new(),
            hold_writes: false,
            hold_changes: false,
            applied,
            snapshots,
            history,
            leader: 0,
            leaderless_ticks: 0,
            told_removed: BTreeSet::new(),
            told_strange: BTreeSet::new(),
            farewell: Vec::new(),
            end_at: None,
            leaving: None,
            handover: Handover::default(),
            metrics,
        };
        driver.follow_members();
        Ok(driver)
    }

    /// The store, for readers.
    pub(super) fn store(&self) -> Arc<RwLock<Store>> {
        Arc::clone(&self.store)
    }

    /// Runs until told to stop, removed, or out of order. Everybody who waits has been answered then.
    pub(super) fn run(mut self) -> Ending {
        let ending = self.turn_until_the_end().unwrap_or_else(|Fatal(reason)| Ending::Failed(reason));
        self.refuse_what_waits();
        self.writes.end(STOPPING);
        self.reads.end(STOPPING);
        self.changes.end(STOPPING);
        for transfer in self.transfers.drain(..) {
            transfer.give_up(STOPPING);
        }
        for reply in self.farewell.drain(..) {
            reply.send(Ok(()));
        }
        ending
    }

    /// Refuses what nobody has taken out of the inbox.
    fn refuse_what_waits(&mut self) {
        while let Ok(input) = self.inbox.try_recv() {
            if let Input::Write { reply, .. }
            | Input::Read { reply }
            | Input::Change { reply, .. }
            | Input::Transfer { reply, .. } = input
            {
                reply.send(Err(Refused::NotDone(STOPPING)));
            }
        }
    }

    fn turn_until_the_end(&mut self) -> Result<Ending, Fatal> {
        let tick = self.timing.tick;
        let look = tick.min(LOOK_INTERVAL);
        let mut next_tick = Instant::now() + tick;
        let mut next_look = Instant::now() + look;
        loop {
            self.turn()?;
            let now = Instant::now();
            self.count(now);
            if self.has_left(now)? {
                self.disk.sync()?;
                return Ok(Ending::Stopped);
            }
            if self.end_at.is_some_and(|end_at| end_at <= now) {
                return Ok(Ending::Removed);
            }
            if now >= next_tick {
                self.tick()?;
                // Ticks that were missed are skipped.
                next_tick = if now >= next_tick + tick { now + tick } else { next_tick + tick };
                next_look = now;
            }
            if now >= next_look {
                self.look_at_clock(now);
                next_look = now + look;
                continue;
            }
            match self.inbox.recv_timeout(next_tick.min(next_look) - now) {
                Ok(input) => self.take_all(input)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Ending::Stopped),
            }
        }
    }

    /// Lets the metrics follow.
    fn count(&self, now: Instant) {
        let (status, raft) = (self.raw.basic_status(), &self.metrics.raft);
        raft.leader.set(status.soft_state.lead);
        raft.is_learner.set(u64::from(self.conf_state.learners.contains(&self.id)));
        raft.term.set(status.hard_state.term);
        raft.committed.set(status.hard_state.commit);
        raft.applied.set(self.applied.0);
        raft.snapshot.set(self.snapshots.index);
        raft.pending.set(self.writes.len() as u64);
        self.metrics.note_turn(now);
    }

    /// Takes an input, and those that have gathered behind it, up to a limit.
    fn take_all(&mut self, first: Input) -> Result<(), Fatal> {
        let now = Instant::now();
        let mut bytes = 0;
        let mut next = Some(first);
        for _ in 0..INPUTS_PER_TURN {
            let Some(input) = next else { return Ok(()) };
            if let Input::Peer(Event::Message(message), _) = &input {
                bytes += message.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
            }
            self.take(input, now)?;
            if bytes >= BYTES_PER_TURN {
                return Ok(());
            }
            next = self.inbox.try_recv().ok();
        }
        // The limit is looked at before the inbox is: nothing that was taken out is left.
        match next {
            Some(input) => self.take(input, now),
            None => Ok(()),
        }
    }

    fn take(&mut self, input: Input, now: Instant) -> Result<(), Fatal> {
        match input {
            Input::Write { counter, data, reply } => self.writes.add(counter, data, reply, now),
            Input::Read { reply } => self.reads.add(reply, now),
            Input::Change { change, reply } => self.take_change(change, reply, now),
            Input::Transfer { to, reply } => self.take_transfer(to, reply, now)?,
            Input::Roster { reply } => {
                let roster = Roster::of(self.id, self.applied.0, self.leader, &self.members, &self.conf_state);
                // An error means that nobody waits any more.
                let _ = reply.send(roster);
            }
            Input::Status { reply } => {
                let keys = self.store.read().len();
                // An error means that nobody waits any more.
                let (newest, transfers) = (self.snapshots.index, self.transport.snapshot_transfers());
                let _ = reply.send(NodeStatus::gather(&self.raw, &self.members, keys, newest, transfers));
            }
            Input::Peer(event, _permit) => self.take_event(event, now)?,
            Input::Stop => self.begin_to_leave(now),
        }
        Ok(())
    }

    fn take_event(&mut self, event: Event, now: Instant) -> Result<(), Fatal> {
        match event {
            // A snapshot comes with its data, or not at all.
            Event::Message(message) if message.kind() == Some(MessageType::MsgSnap) => {}
            Event::Message(message) => return self.take_message(message),
            Event::Snapshot(received) => return self.take_snapshot(*received),
            Event::Unreachable { id } => self.raw.report_unreachable(id),
            Event::SnapshotSent { id, transfer, .. } if !self.transport.is_newest_transfer(id, transfer) => {}
            Event::SnapshotSent { id, delivered, .. } => {
                let status = if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raw.report_snapshot(id, status);
            }
            Event::Undelivered { entries } => self.undelivered(entries),
            Event::ToldRemoved { by, at } => self.hear_of_removal(by, at, now),
            Event::ToldStranger { by, number } => self.hear_of_strangeness(by, number)?,
        }
        Ok(())
    }

    /// Lets Raft take a message. A message that it does not want does no harm; answers whether it was taken.
    fn step(&mut self, message: Message) -> Result<bool, Fatal> {
        let kind = message.kind();
        match self.raw.step(message) {
            Ok(()) => Ok(true),
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(error) => {
                log::debug!("message {kind:?} was not taken: {error}");
                Ok(false)
            }
        }
    }

    /// Entries of proposals that never left this node: those of its own clients are proposed again, at the next look
    /// at the clock. At once they would be lost again, and this turn would never end.
    fn undelivered(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if entry.is_conf_change() {
                if let Ok(written) = Written::read(&entry) {
                    self.changes.undelivered(written.request);
                }
            } else {
                self.hold_writes |= self.undelivered_write(entry);
            }
        }
    }

    /// As [`Self::undelivered`], for an entry that is no change of the membership; says whether it was this node's.
    fn undelivered_write(&mut self, entry: Entry) -> bool {
        let Ok(Content::Request(id, _)) = self.codec.decode_entry(entry.data) else { return false };
        let own = id.filter(|id| id.node == self.id && id.boot == self.boot);
        if let Some(id) = own {
            self.writes.undelivered(id.counter);
        }
        own.is_some()
    }

    fn tick(&mut self) -> Result<(), Fatal> {
        self.raw.tick()?;
        self.note_pause_ticks = self.note_pause_ticks.saturating_sub(1);
        self.leaderless_ticks = if self.leader == 0 { self.leaderless_ticks + 1 } else { 0 };
        Ok(())
    }

    /// Answers those whose time is over, and lets go what was held for a moment.
    fn look_at_clock(&mut self, now: Instant) {
        (self.hold_writes, self.hold_changes) = (false, false);
        let hopeless_ticks = HOPELESS_ELECTIONS * usize::from(self.timing.election_ticks);
        let leader = match self.leaderless_ticks {
            0 => Leader::Known,
            ticks if ticks <= hopeless_ticks => Leader::Unknown,
            _ => Leader::Hopeless,
        };
        if leader == Leader::Hopeless {
            self.handover.give_up();
        }
        self.writes.expire(now, leader);
        self.reads.expire(now, leader);
        self.changes.expire(now, leader);
        self.expire_transfers(now);
    }

    /// Hands the clients' wishes to Raft, then does what Raft asks for, until it asks for nothing.
    fn turn(&mut self) -> Result<(), Fatal> {
        self.note_handover()?;
        self.propose_writes()?;
        self.propose_changes()?;
        self.propose_notes()?;
        self.ask_for_reads()?;
        while self.raw.has_ready() {
            self.process_ready()?;
            // More may be waiting than fits into one batch, and a leader may just have been found.
            self.propose_writes()?;
        }
        self.reads.release(self.applied.0);
        self.notice_own_removal();
        self.snapshot_if_due()
    }

    /// Proposes what is held, as one message.
    fn propose_writes(&mut self) -> Result<(), Fatal> {
        if !self.writes.any_held() || self.end_at.is_some() || self.hold_writes {
            return Ok(());
        }
        let status = self.raw.basic_status();
        if status.soft_state.lead == 0 {
            return Ok(());
        }
        let batch = self.writes.next_batch(PROPOSAL_BYTES);
        if batch.is_empty() {
            return Ok(());
        }
        let (entries, counters) = batch.split();
        let proposal = Message { from: self.id, entries: entries.into(), ..Message::of(MessageType::MsgProp) };
        if self.step(proposal)? {
            let leading = status.soft_state.state == StateType::Leader;
            self.writes.proposed(counters, status.hard_state.term, leading);
        } else {
            self.writes.put_back(counters);
        }
        Ok(())
    }

    fn ask_for_reads(&mut self) -> Result<(), Fatal> {
        if self.leader == 0 {
            return Ok(());
        }
        let Some(context) = self.reads.next_question(Instant::now()) else { return Ok(()) };
        match self.raw.read_index(context.clone()) {
            Ok(()) => Ok(()),
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(_) => {
                self.reads.dropped(Some(&context));
                Ok(())
            }
        }
    }

    /// One Ready, in the order that makes it safe.
    fn process_ready(&mut self) -> Result<(), Fatal> {
        let mut ready = self.raw.ready()?;
        self.note_soft_state(&ready);
        let (at_once, mut missed) = set_apart_what_was_missed(ready.take_messages().collect());
        self.send(at_once);
        self.persist(&ready)?;
        for context in ready.dropped_reads() {
            self.reads.dropped(Some(context));
        }
        for state in ready.take_read_states() {
            self.reads.answered(&state.request_ctx, state.index);
        }
        let mut persisted = ready.persisted();
        self.send(persisted.take_messages().collect());
        let committed = persisted.take_committed_entries();
        if committed.iter().any(Entry::is_conf_change) {
            // Who is removed cannot be reached afterwards, and the news may be among it.
            self.send(std::mem::take(&mut missed));
        }
        self.apply(committed)?;
        self.raw.advance(persisted)?;
        self.send(missed);
        Ok(())
    }

    fn note_soft_state(&mut self, ready: &Ready) {
        let Some(soft_state) = ready.soft_state() else { return };
        if soft_state.lead != self.leader {
            self.leader = soft_state.lead;
            self.metrics.raft.leader_changes.add(u64::from(soft_state.lead != 0));
            self.leaderless_ticks = 0;
            self.told_removed.clear();
            self.told_strange.clear();
            self.answer_transfers();
            // Whoever was asked is not the one to answer any more.
            self.reads.dropped(None);
        }
    }

    /// Hands messages to the transport, and what it could not take back to where it came from.
    fn send(&mut self, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        let (messages, useless): (Vec<_>, Vec<_>) = messages.into_iter().partition(Self::is_of_use);
        for message in useless {
            self.raw.report_snapshot(message.to, SnapshotStatus::Failure);
        }
        let Lost { unreachable, snapshots, proposals } = self.transport.send(messages);
        for id in unreachable {
            self.raw.report_unreachable(id);
        }
        for id in snapshots {
            self.raw.report_snapshot(id, SnapshotStatus::Failure);
        }
        self.undelivered(proposals);
    }

    /// Makes a Ready durable, then lets the readable copy of the log follow.
    fn persist(&mut self, ready: &Ready) -> Result<(), Fatal> {
        if let Some(snapshot) = ready.snapshot() {
            self.install(&snapshot.metadata)?;
        }
        let began = Instant::now();
        self.disk.save(ready.hard_state().as_ref(), ready.entries())?;
        if ready.must_sync() {
            self.metrics.disk.wal_sync.observe(began.elapsed());
            let bytes = ready.entries().iter().map(|entry| entry.data.len() as u64).sum();
            self.metrics.disk.entry_bytes.add(bytes);
        }
        let storage = self.raw.storage_mut();
        storage.append(ready.entries()).map_err(Error::Storage)?;
        if let Some(hard_state) = ready.hard_state() {
            storage.set_hard_state(hard_state);
        }
        Ok(())
    }
}

/// Sets apart the entries for those followers that get some which are committed already, without them: they are much,
/// perhaps, and no client waits for them, so what clients do wait for should not begin its way behind them. What a
/// follower gets of the log stays in order.
fn set_apart_what_was_missed(messages: Vec<Message>) -> (Vec<Message>, Vec<Message>) {
    let is_append = |message: &Message| message.kind() == Some(MessageType::MsgApp);
    let is_missed = |message: &Message| message.entries.last().is_some_and(|entry| entry.index <= message.commit);
    let appends = messages.iter().filter(|message| is_append(message));
    let behind: BTreeSet<u64> = appends.filter(|message| is_missed(message)).map(|message| message.to).collect();
    messages.into_iter().partition(|message| !(is_append(message) && behind.contains(&message.to)))
}

#[cfg(test)]
mod tests;
