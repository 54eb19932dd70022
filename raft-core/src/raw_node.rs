//! The state machine as an application drives it: [`RawNode`], and the [`Ready`] contract.
//!
//! The application feeds in ticks, messages and proposals, and asks again and again whether anything is
//! [`ready`](RawNode::ready). A `Ready` is a batch of work whose order matters, and the types keep that order:
//!
//! 1. [`Ready::take_messages`] may be sent at once: a leader replicates while its own disk writes (thesis §10.2.1).
//! 2. The snapshot, the entries and the hard state are made durable, in this order or in one atomic batch. The hard state
//!    comes last because its commit index may speak of entries of the same `Ready`: a crash between the two would leave a
//!    log that ends before it, and a node that does not start ([`Error::HardStateOutOfRange`]).
//! 3. [`Ready::persisted`] turns the `Ready` into a [`Persisted`]. Only that holds what promises something, votes and
//!    acknowledgements, and what may be applied.
//! 4. [`Persisted::take_messages`] is sent, [`Persisted::take_committed_entries`] is applied.
//! 5. [`RawNode::advance`] takes the `Persisted` back. Only then is there a next `Ready`.
//!
//! With [`Config::async_storage_writes`] there is no such cycle: storage work leaves as messages to two pseudo nodes,
//! the append thread and the apply thread, and their answers come back through [`RawNode::step`]. Each MsgStorageAppend
//! is carried out in order (snapshot, entries, hard state if `term` is set), made durable if it has responses, and then
//! its `responses` are sent, some to this node, some to others. Etcd: `rawnode.go`. Work that waits may be older than a
//! snapshot that the application has taken of itself meanwhile, and its commit index may be lower than the snapshot's:
//! whoever writes it must write the higher of the two, or the durable commit index would fall.
//!
//! Left out: threads ([`Node`](crate::Node) has one), timers and the network.

use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;

use crate::confchange::ConfChangeKind;
use crate::config::{is_local_thread, Config, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, NONE};
use crate::error::Error;
use crate::log::{EntryId, RaftLog, Slice};
use crate::pb::{
    ConfChange, ConfChangeType, ConfChangeV2, ConfState, Entry, HardState, Message, MessageType, Snapshot,
};
use crate::raft::validate::{is_local, is_response};
use crate::raft::{Raft, SoftState, StateType};
use crate::ready::{Persisted, Ready, Work};
use crate::status::{BasicStatus, Status};
use crate::storage::{payload_size, Storage};

/// A founding member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: u64,
    /// Opaque to Raft; travels in the configuration change that adds the peer.
    pub context: Bytes,
}

/// How the delivery of a snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStatus {
    /// The peer has received it.
    Finish,
    /// It did not arrive.
    Failure,
}

/// What `advance` does for the `Ready` that is outstanding.
#[derive(Clone, Debug, Hash)]
struct Outstanding {
    number: u64,
    append: Option<AppendDone>,
    apply: Option<ApplyDone>,
}

/// Memory to be used again. Whether there is some says nothing about the node's state.
#[derive(Clone, Default)]
struct Spare(Option<Box<Work>>);

impl Hash for Spare {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl fmt::Debug for Spare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spare")
    }
}

/// That everything up to `last` is durable, seen from `term`.
#[derive(Clone, Debug, Hash)]
struct AppendDone {
    term: u64,
    last: EntryId,
    snapshot_index: Option<u64>,
}

/// That committed entries up to `index` are applied.
#[derive(Clone, Debug, Hash)]
struct ApplyDone {
    index: u64,
    /// In the measure of [`RaftLog::applying_size`].
    bytes: u64,
    payload_bytes: u64,
}

impl ApplyDone {
    #[inline]
    fn of<S: Storage>(entries: &[Entry], log: &RaftLog<S>) -> Option<Self> {
        let index = entries.last()?.index;
        Some(ApplyDone { index, bytes: log.applying_size(entries), payload_bytes: payload_size(entries) })
    }
}

/// One Raft node, driven by its owner. See the module's text.
///
/// `Clone` and `Hash` are for searches that follow several futures of one state, and both take in every field. A copy is
/// the same member: never let two of them speak to one cluster.
#[derive(Clone, Debug, Hash)]
pub struct RawNode<S: Storage> {
    raft: Raft<S>,
    /// What the application was told last.
    last_soft_state: SoftState,
    last_hard_state: HardState,
    outstanding: Option<Outstanding>,
    /// The node's votes and acknowledgements to itself that wait for the outstanding `Ready`.
    to_self: Vec<Message>,
    /// The memory of the last `Ready`, for the next one.
    spare: Spare,
    /// Numbers the Readys, so that `advance` gets the right one.
    ready_count: u64,
    /// The storage fault that put the node out of order.
    fault: Option<Error>,
}

impl<S: Storage> RawNode<S> {
    /// A founding member of a new cluster. All founders are given the same peers in the same order; the log then starts
    /// with one entry for each, committed by decree.
    ///
    /// # Errors
    /// [`Error::WrongConstructor`] if the storage is not empty or there are no peers; [`Error::Config`].
    pub fn bootstrap(config: Config, storage: S, peers: &[Peer]) -> Result<Self, Error> {
        if peers.is_empty() {
            return Err(Error::WrongConstructor(
                "bootstrap needs the founding peers; use join() to be added to others",
            ));
        }
        if peers.iter().any(|peer| is_local_thread(peer.id)) {
            return Err(Error::Config("a founder's id is a local storage thread's".to_string()));
        }
        let mut node = Self::join(config, storage)?;
        node.raft.bootstrap(peers)?;
        // What was just made up is news to the application.
        node.last_hard_state = HardState::default();
        Ok(node)
    }

    /// A new member of an existing cluster: knows nothing and waits for the leader to call.
    ///
    /// # Errors
    /// [`Error::WrongConstructor`] if the storage is not empty; [`Error::Config`].
    pub fn join(config: Config, storage: S) -> Result<Self, Error> {
        let node = Self::new(config, storage)?;
        if !node.is_pristine()? {
            return Err(Error::WrongConstructor("the storage already holds a log; use restart()"));
        }
        Ok(node)
    }

    /// A node that has run before, as its storage remembers it.
    ///
    /// # Errors
    /// [`Error::WrongConstructor`] on an empty storage; [`Error::HardStateOutOfRange`] and
    /// [`Error::AppliedOutOfRange`] if log, hard state and `config.applied` do not belong together; [`Error::Config`].
    pub fn restart(config: Config, storage: S) -> Result<Self, Error> {
        let node = Self::new(config, storage)?;
        if node.is_pristine()? {
            return Err(Error::WrongConstructor("the storage is empty; use bootstrap() or join()"));
        }
        Ok(node)
    }

    fn new(config: Config, storage: S) -> Result<Self, Error> {
        let raft = Raft::new(config, storage)?;
        Ok(RawNode {
            last_soft_state: raft.soft_state(),
            last_hard_state: raft.hard_state(),
            raft,
            outstanding: None,
            to_self: Vec::new(),
            spare: Spare::default(),
            ready_count: 0,
            fault: None,
        })
    }

    fn is_pristine(&self) -> Result<bool, Error> {
        let (hard_state, conf_state) = self.raft.log.storage.initial_state()?;
        let nothing_said = hard_state.is_empty() && conf_state == ConfState::default();
        Ok(nothing_said && self.raft.log.last_index() == 0)
    }

    /// Out of order, for good?
    #[inline]
    fn check(&self) -> Result<(), Error> {
        match &self.fault {
            None => Ok(()),
            Some(fault) => Err(fault.clone()),
        }
    }

    /// A storage fault may have struck in the middle of a transition: nothing after it can be trusted.
    #[inline]
    fn guard(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            // A result is as large as the largest error: said anew, that all is well is one word.
            Ok(()) => Ok(()),
            Err(error) => self.fail(error),
        }
    }

    #[cold]
    fn fail<T>(&mut self, error: Error) -> Result<T, Error> {
        self.note_fault(&error);
        Err(error)
    }

    fn note_fault(&mut self, error: &Error) {
        match error {
            Error::Storage(_) => {
                error!("{:x} is out of order: {error}", self.raft.id);
                self.fault = Some(error.clone());
                // Whatever it was about to become: it leads nobody, and must not say so.
                self.raft.state = StateType::Follower;
                self.raft.lead = NONE;
            }
            Error::LogLost { .. } | Error::LogForeign { .. } => error!("{:x}: {error}", self.raft.id),
            _ => {}
        }
    }

    fn step_own(&mut self, message: Message) -> Result<(), Error> {
        self.check()?;
        let result = self.raft.step(message);
        self.guard(result)
    }

    /// One tick of the clock; its length is the application's choice.
    ///
    /// # Errors
    /// Only fatal ones.
    pub fn tick(&mut self) -> Result<(), Error> {
        self.check()?;
        let result = self.raft.tick();
        self.guard(result)
    }

    /// Starts an election now, as if the election timeout had run out.
    ///
    /// # Errors
    /// Only fatal ones; a node that may not campaign says so in the log.
    pub fn campaign(&mut self) -> Result<(), Error> {
        self.step_own(Message { from: self.raft.id, ..Message::of(MessageType::MsgHup) })
    }

    /// Proposes application data. Success means that it was taken up, not that it will commit: look for it among the
    /// committed entries.
    ///
    /// # Errors
    /// [`Error::ProposalDropped`] says why it was not taken up.
    pub fn propose(&mut self, data: impl Into<Bytes>) -> Result<(), Error> {
        self.propose_entry(Entry::normal(data))
    }

    /// Proposes a configuration change, [`ConfChange`] or [`ConfChangeV2`].
    ///
    /// # Errors
    /// [`Error::ConfChangeRefused`] on a leader whose state forbids it now; an empty entry is appended in its place. A
    /// follower forwards the change and cannot know.
    pub fn propose_conf_change(&mut self, change: impl Into<ConfChangeKind>) -> Result<(), Error> {
        let (kind, data) = change.into().encode();
        self.propose_entry(Entry { entry_type: kind as i32, data, ..Entry::default() })
    }

    fn propose_entry(&mut self, entry: Entry) -> Result<(), Error> {
        self.step_own(Message { from: self.raft.id, entries: [entry].into(), ..Message::of(MessageType::MsgProp) })
    }

    /// Puts a committed configuration change in force. To be called for each committed entry that holds one, when it is
    /// applied; a change that the application rejects is not applied, on any node alike.
    ///
    /// # Errors
    /// [`Error::ConfChange`] if the change cannot follow on the present configuration; nothing has changed then.
    pub fn apply_conf_change(&mut self, change: impl Into<ConfChangeKind>) -> Result<ConfState, Error> {
        self.check()?;
        let change: ConfChangeV2 = change.into().into_v2();
        self.raft.apply_conf_change(&change).or_else(|error| self.fail(error))
    }

    /// Takes in a message from a peer; with asynchronous storage writes, also one from this node or its storage
    /// threads. A transport must not pass on what claims to come from a storage thread
    /// ([`is_local_thread`](crate::is_local_thread)).
    ///
    /// # Errors
    /// [`Error::StepLocalMessage`], [`Error::StepPeerNotFound`], [`Error::Malformed`] and the dropped kinds: the message
    /// was not used, the node is fine. [`Error::is_fatal`]: stop the node.
    pub fn step(&mut self, mut message: Message) -> Result<(), Error> {
        self.check()?;
        let result = self.step_checked(&mut message);
        self.guard(result)
    }

    fn step_checked(&mut self, message: &mut Message) -> Result<(), Error> {
        let from = message.from;
        let Some(kind) = message.kind() else {
            return Err(Error::Malformed { from, what: "its type is unknown" });
        };
        if message.to != NONE && message.to != self.raft.id {
            return Err(Error::Malformed { from, what: "it is addressed to another node" });
        }
        if self.raft.config().async_storage_writes {
            match (kind, from) {
                (MessageType::MsgStorageAppendResp, LOCAL_APPEND_THREAD) => return self.storage_appended(message),
                (MessageType::MsgStorageApplyResp, LOCAL_APPLY_THREAD) => return self.storage_applied(message),
                _ => {}
            }
        }
        // A leader of such a name would be sent what is meant for the storage threads.
        if is_local(kind) || is_local_thread(from) {
            return Err(Error::StepLocalMessage);
        }
        let may_be_unsigned =
            matches!(kind, MessageType::MsgProp | MessageType::MsgReadIndex | MessageType::MsgForgetLeader);
        if from == NONE && !may_be_unsigned {
            return Err(Error::Malformed { from, what: "it has no sender" });
        }
        if from == self.raft.id && !self.may_come_back(kind) {
            return Err(Error::Malformed { from, what: "it claims to come from this node itself" });
        }
        if is_response(kind) && !self.raft.tracker.progress.contains_key(&from) {
            return Err(Error::StepPeerNotFound { from });
        }
        self.raft.take_in(message)
    }

    /// What may arrive under the node's own name: requests that others pass on, and, with asynchronous storage writes,
    /// its own votes and acknowledgements. A node that took itself for its leader would send itself proposals for ever.
    fn may_come_back(&self, kind: MessageType) -> bool {
        match kind {
            MessageType::MsgProp | MessageType::MsgReadIndex | MessageType::MsgTransferLeader => true,
            MessageType::MsgForgetLeader => true,
            MessageType::MsgAppResp | MessageType::MsgVoteResp | MessageType::MsgPreVoteResp => {
                self.raft.config().async_storage_writes
            }
            _ => false,
        }
    }

    fn storage_appended(&mut self, message: &mut Message) -> Result<(), Error> {
        if message.term > self.raft.term {
            return Err(Error::Malformed { from: message.from, what: "it reports on a term that never was" });
        }
        let last = EntryId { term: message.log_term, index: message.index };
        let snapshot_index = message.take_snapshot().map(|snapshot| snapshot.metadata.index);
        self.raft.appended(message.term, last, snapshot_index)
    }

    fn storage_applied(&mut self, message: &Message) -> Result<(), Error> {
        match ApplyDone::of(&message.entries, &self.raft.log) {
            Some(done) if done.index > self.raft.log.applying => {
                Err(Error::Malformed { from: message.from, what: "it reports entries that were never handed out" })
            }
            Some(done) => self.raft.applied_entries(done.index, done.bytes, done.payload_bytes),
            None => Ok(()),
        }
    }

    /// Asks for a linearizable read. The answer is a [`ReadState`](crate::ReadState) with the same context in a later `Ready`, or the
    /// context in [`Ready::dropped_reads`]; on a follower it may also get lost on the way, so use a timeout.
    ///
    /// # Errors
    /// [`Error::ReadDropped`] if there is no leader to ask.
    pub fn read_index(&mut self, context: impl Into<Bytes>) -> Result<(), Error> {
        self.step_own(Message { entries: [Entry::normal(context)].into(), ..Message::of(MessageType::MsgReadIndex) })
    }

    /// Asks the leader to hand leadership to `transferee`. Whether it happens is seen in the soft state; the leader gives
    /// up after an election timeout.
    ///
    /// # Errors
    /// [`Error::TransferDropped`] if there is no leader to ask; [`Error::StepPeerNotFound`] for the id 0.
    pub fn transfer_leader(&mut self, transferee: u64) -> Result<(), Error> {
        if transferee == NONE {
            return Err(Error::StepPeerNotFound { from: transferee });
        }
        self.step_own(Message { from: transferee, ..Message::of(MessageType::MsgTransferLeader) })
    }

    /// Makes a follower forget its leader, so that it votes without waiting out the lease: for when something else than
    /// missing heartbeats says that the leader is gone.
    ///
    /// # Errors
    /// Only fatal ones.
    pub fn forget_leader(&mut self) -> Result<(), Error> {
        self.step_own(Message::of(MessageType::MsgForgetLeader))
    }

    /// The last message to `id` could not be delivered.
    pub fn report_unreachable(&mut self, id: u64) {
        // A fatal error stays with the node and comes out of the next call.
        let _ = self.step_own(Message { from: id, ..Message::of(MessageType::MsgUnreachable) });
    }

    /// How sending a snapshot to `id` ended. A failure must be reported, or `id` gets nothing any more.
    pub fn report_snapshot(&mut self, id: u64, status: SnapshotStatus) {
        let reject = status == SnapshotStatus::Failure;
        // As above.
        let _ = self.step_own(Message { from: id, reject, ..Message::of(MessageType::MsgSnapStatus) });
    }

    /// Whether committed entries are handed out before they are durable on this very node. They are on a quorum; with
    /// `Ready`'s order of work, they are durable here before they are applied.
    fn hands_out_unstable(&self) -> bool {
        !self.raft.config().async_storage_writes
    }

    /// Whether [`Self::ready`] would return anything.
    #[inline]
    pub fn has_ready(&self) -> bool {
        if self.outstanding.is_some() || self.fault.is_some() {
            return false;
        }
        let (raft, unstable) = (&self.raft, &self.raft.log.unstable);
        let hard_state = raft.hard_state();
        raft.soft_state() != self.last_soft_state
            || (hard_state != self.last_hard_state && !hard_state.is_empty())
            || unstable.next_snapshot().is_some()
            || !raft.messages.is_empty()
            || !raft.messages_after_append.is_empty()
            || unstable.has_next_entries()
            || raft.log.has_next_committed(self.hands_out_unstable())
            || !raft.read_only.answered.is_empty()
            || !raft.read_only.dropped.is_empty()
    }

    /// Takes the next batch of work out; it may be empty.
    ///
    /// # Errors
    /// [`Error::ReadyNotAdvanced`] while the previous one is outstanding; storage faults.
    pub fn ready(&mut self) -> Result<Ready, Error> {
        self.check()?;
        if self.outstanding.is_some() {
            return Err(Error::ReadyNotAdvanced);
        }
        self.build_ready().or_else(|error| self.fail(error))
    }

    fn build_ready(&mut self) -> Result<Ready, Error> {
        let hands_out_unstable = self.hands_out_unstable();
        let (soft_state, hard_state) = (self.raft.soft_state(), self.raft.hard_state());
        let mut work = self.spare.0.take().unwrap_or_default();
        work.committed_entries = self.raft.log.next_committed(hands_out_unstable)?;
        self.ready_count += 1;
        (work.node, work.number) = (self.raft.id, self.ready_count);
        work.soft_state = (soft_state != self.last_soft_state).then_some(soft_state);
        work.hard_state = (hard_state != self.last_hard_state && !hard_state.is_empty())
            .then_some(HardState { vote: if bug!(VoteNotWritten) { NONE } else { hard_state.vote }, ..hard_state });
        work.entries = self.raft.log.unstable.next_entries();
        if let Some(snapshot) = self.raft.log.unstable.next_snapshot().filter(|_| !bug!(SnapshotNotWritten)) {
            work.snapshot = Some(snapshot.clone());
        }
        work.must_sync = !work.entries.is_empty()
            || hard_state.vote != self.last_hard_state.vote
            || hard_state.term != self.last_hard_state.term;
        std::mem::swap(&mut work.messages, &mut self.raft.messages);
        std::mem::swap(&mut work.read_states, &mut self.raft.read_only.answered);
        std::mem::swap(&mut work.dropped_reads, &mut self.raft.read_only.dropped);
        let apply = ApplyDone::of(&work.committed_entries, &self.raft.log);
        let accepted = apply.as_ref().map(|done| (done.index, done.bytes));
        if self.raft.config().async_storage_writes {
            let promises = std::mem::take(&mut self.raft.messages_after_append);
            self.add_storage_messages(&mut work, promises)?;
        } else {
            let append = self.append_done(work.snapshot.as_ref())?;
            std::mem::swap(&mut work.promises, &mut self.raft.messages_after_append);
            self.keep_own(&mut work.promises);
            self.outstanding = Some(Outstanding { number: work.number, append, apply });
        }
        self.last_soft_state = soft_state;
        if work.hard_state.is_some() {
            self.last_hard_state = hard_state;
        }
        self.raft.log.unstable.accept_in_progress();
        if let Some((index, bytes)) = accepted {
            self.raft.log.accept_applying(index, bytes, hands_out_unstable);
        }
        Ok(Ready { work })
    }

    /// Takes out what the node promises to itself.
    fn keep_own(&mut self, promises: &mut Vec<Message>) {
        let own = self.raft.id;
        if promises.iter().all(|promise| promise.to == own) {
            self.to_self.append(promises);
        } else if promises.iter().any(|promise| promise.to == own) {
            for promise in std::mem::take(promises) {
                if promise.to == own { &mut self.to_self } else { &mut *promises }.push(promise);
            }
        }
    }

    /// What storage will be able to report once it has carried out everything up to this `Ready`. Also when this one
    /// brings no entries but earlier ones are in progress: their own report may be dropped for its old term, and
    /// without another one they would stay unstable for ever.
    fn append_done(&self, snapshot: Option<&Snapshot>) -> Result<Option<AppendDone>, Error> {
        let has_entries = !self.raft.log.unstable.entries.is_empty();
        if !has_entries && snapshot.is_none() {
            return Ok(None);
        }
        Ok(Some(AppendDone {
            term: self.raft.term,
            last: if has_entries { self.raft.log.last_id()? } else { EntryId::default() },
            snapshot_index: snapshot.map(|snapshot| snapshot.metadata.index),
        }))
    }

    /// Asynchronous storage writes: the work of this `Ready` as messages, with the answers to be sent when it is done.
    fn add_storage_messages(&self, work: &mut Work, mut responses: Vec<Message>) -> Result<(), Error> {
        let id = self.raft.id;
        let has_work = !work.entries.is_empty() || work.hard_state.is_some() || work.snapshot.is_some();
        if has_work || !responses.is_empty() {
            if let Some(done) = self.append_done(work.snapshot.as_ref())? {
                responses.push(Message {
                    to: id,
                    from: LOCAL_APPEND_THREAD,
                    term: done.term,
                    log_term: done.last.term,
                    index: done.last.index,
                    snapshot: work.snapshot.clone().map(Box::new),
                    ..Message::of(MessageType::MsgStorageAppendResp)
                });
            }
            let hard_state = work.hard_state.unwrap_or_default();
            work.messages.push(Message {
                to: LOCAL_APPEND_THREAD,
                from: id,
                term: hard_state.term,
                vote: hard_state.vote,
                commit: hard_state.commit,
                entries: work.entries.clone(),
                snapshot: work.snapshot.clone().map(Box::new),
                responses,
                ..Message::of(MessageType::MsgStorageAppend)
            });
        }
        if !work.committed_entries.is_empty() {
            work.messages.push(Message {
                to: LOCAL_APPLY_THREAD,
                from: id,
                entries: work.committed_entries.clone(),
                responses: vec![Message {
                    to: id,
                    from: LOCAL_APPLY_THREAD,
                    entries: work.committed_entries.clone(),
                    ..Message::of(MessageType::MsgStorageApplyResp)
                }],
                ..Message::of(MessageType::MsgStorageApply)
            });
        }
        Ok(())
    }

    /// The work of the outstanding `Ready` is done: its promises are sent, its committed entries applied.
    ///
    /// # Errors
    /// [`Error::AdvanceUnexpected`] if this is not the outstanding one; fatal ones.
    pub fn advance(&mut self, persisted: Persisted) -> Result<(), Error> {
        self.check()?;
        let mut work = persisted.work;
        let same = |outstanding: &mut Outstanding| outstanding.number == work.number && self.raft.id == work.node;
        let Some(outstanding) = self.outstanding.take_if(same) else { return Err(Error::AdvanceUnexpected) };
        work.clear();
        self.spare.0 = Some(work);
        let result = self.carry_out(outstanding);
        self.guard(result)
    }

    fn carry_out(&mut self, outstanding: Outstanding) -> Result<(), Error> {
        for mut message in self.to_self.drain(..) {
            // A vote or acknowledgement to itself may have become void in the meantime, like anybody's.
            match self.raft.take_in(&mut message) {
                Err(error) if error.is_fatal() => return Err(error),
                _ => {}
            }
        }
        if let Some(done) = outstanding.append {
            self.raft.appended(done.term, done.last, done.snapshot_index)?;
        }
        if let Some(done) = outstanding.apply {
            self.raft.applied_entries(done.index, done.bytes, done.payload_bytes)?;
        }
        Ok(())
    }

    /// A copy of everything of interest; not cheap on a leader of many.
    pub fn status(&self) -> Status {
        let progress = match self.raft.state {
            StateType::Leader => self.raft.tracker.progress.clone(),
            _ => Default::default(),
        };
        Status { basic: self.basic_status(), config: self.raft.tracker.config.clone(), progress }
    }

    /// The cheap part of [`Self::status`].
    #[inline]
    pub fn basic_status(&self) -> BasicStatus {
        BasicStatus {
            id: self.raft.id,
            hard_state: self.raft.hard_state(),
            soft_state: self.raft.soft_state(),
            applied: self.raft.log.applied,
            lead_transferee: self.raft.lead_transferee,
        }
    }

    /// Whether the node is in its own configuration, as a voter of either half or as a learner.
    pub fn is_member(&self) -> bool {
        self.raft.tracker.progress.contains_key(&self.raft.id)
    }

    /// The storage given at the start.
    pub fn storage(&self) -> &S {
        &self.raft.log.storage
    }

    /// The storage, to put into it what a `Ready` asks for.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.raft.log.storage
    }

    /// Whether the node is out of order, for tests.
    #[cfg(test)]
    pub(crate) fn is_faulted(&self) -> bool {
        self.fault.is_some()
    }

    /// The protocol's state, for tests that look behind the API.
    #[cfg(test)]
    pub(crate) fn raft(&self) -> &Raft<S> {
        &self.raft
    }

    /// Test hook: fixes the election timeout until the next change of role or term.
    #[doc(hidden)]
    pub fn set_randomized_election_timeout(&mut self, ticks: usize) {
        self.raft.set_randomized_election_timeout(ticks);
    }

    /// Test hook: puts what only tells how the node came here (draws of the generator, the count of Readys) at fixed
    /// values, so that a search which meets the same state twice sees that. The election timeout becomes the shortest.
    #[doc(hidden)]
    pub fn forget_history(&mut self) {
        self.raft.forget_draws();
        if self.outstanding.is_none() {
            self.ready_count = 0;
        }
    }

    /// Test hook: index and term of the entry before the log's first one, and the log, durable or not.
    ///
    /// # Errors
    /// The storage's.
    #[doc(hidden)]
    pub fn whole_log(&self) -> Result<(u64, u64, Vec<Entry>), Error> {
        let log = &self.raft.log;
        let first = log.first_index()?;
        let term = log.term(first - 1)?.unwrap_or(0);
        match log.entries_from(first, crate::config::NO_LIMIT)? {
            Slice::Entries(entries) => Ok((first - 1, term, entries.into_vec())),
            Slice::Compacted => Ok((first - 1, term, Vec::new())),
        }
    }
}

impl<S: Storage> Raft<S> {
    /// The start of a cluster's log: one change per founder, in term 1, committed and in force (etcd `bootstrap.go`).
    fn bootstrap(&mut self, peers: &[Peer]) -> Result<(), Error> {
        self.start_at_term(1)?;
        let mut entries = Vec::with_capacity(peers.len());
        for (peer, index) in peers.iter().zip(1..) {
            let change = ConfChange {
                change_type: ConfChangeType::ConfChangeAddNode as i32,
                node_id: peer.id,
                context: peer.context.clone(),
                ..ConfChange::default()
            };
            let (kind, data) = ConfChangeKind::V1(change).encode();
            entries.push(Entry { entry_type: kind as i32, term: 1, index, data });
        }
        self.log.append(entries)?;
        self.log.committed = peers.len() as u64;
        for peer in peers {
            let change = ConfChange { node_id: peer.id, ..ConfChange::default() };
            self.apply_conf_change(&ConfChangeKind::V1(change).into_v2())?;
        }
        Ok(())
    }
}
