//! The protocol: one node's state, and what each message and tick does to it.
//!
//! This file holds the state, the way in ([`Raft::step`]: terms first, then votes, then the role) and the way out
//! ([`Raft::send`]). Each role has a file of its own, so that "what does a follower do with AppendEntries?" has one
//! place:
//!
//! | file | answers |
//! |---|---|
//! | `election.rs` | when a node campaigns, how votes are cast and counted, what a change of role resets |
//! | `follower.rs` | appends, heartbeats, snapshots, forwarding |
//! | `candidate.rs` | what a candidate hears |
//! | `leader.rs` | proposals, replication, commit, heartbeats, transfer |
//! | `read_index.rs` | linearizable reads |
//! | `lease.rs` | for how long a leader may answer them alone |
//! | `membership.rs` | configuration changes and what follows from them |
//! | `validate.rs` | what a message must look like to be looked at |
//!
//! Messages leave through two queues. What *promises* something (a vote, an acknowledgement) waits in
//! `messages_after_append` until the state that it promises is durable, the node's promises to itself included; the
//! rest may leave at once (etcd `raft.go`, msgs and msgsAfterAppend).
//!
//! Left out here: everything that touches the outside world, and the [`Ready`](crate::Ready) contract (`raw_node.rs`).

mod candidate;
mod election;
mod follower;
mod leader;
mod lease;
mod membership;
mod read_index;
pub(crate) mod validate;

use std::fmt;

use crate::config::{limit_or_none, Config, ReadOnlyOption, NONE};
use crate::error::Error;
use crate::log::{EntryId, RaftLog};
use crate::pb::{HardState, Message, MessageType, Snapshot};
use crate::rng::SplitMix64;
use crate::storage::{Storage, StorageError};
use crate::tracker::ProgressTracker;

use election::Campaign;
use lease::Lease;
use read_index::ReadOnly;

pub use read_index::ReadState;

/// The part a node plays (Raft paper figure 4, and the thesis' pre-candidate).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StateType {
    /// Answers leaders and candidates.
    #[default]
    Follower,
    /// Asks for votes in a term of its own.
    Candidate,
    /// Replicates its log; at most one a term.
    Leader,
    /// Asks whether votes could be had, without raising its term.
    PreCandidate,
}

impl fmt::Display for StateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StateType::Follower => "StateFollower",
            StateType::Candidate => "StateCandidate",
            StateType::Leader => "StateLeader",
            StateType::PreCandidate => "StatePreCandidate",
        })
    }
}

/// What is worth telling the application and need not be durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SoftState {
    /// Who leads, as far as this node knows; 0 for nobody.
    pub lead: u64,
    /// The part that this node plays.
    pub state: StateType,
}

impl fmt::Display for SoftState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lead:{} State:{}", self.lead, self.state)
    }
}

/// One node's whole state. Fields follow Raft paper figure 2 where it has them.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Raft<S> {
    pub(crate) id: u64,
    /// Latest term seen; never falls.
    pub(crate) term: u64,
    /// Who got this node's vote in `term`.
    pub(crate) vote: u64,
    pub(crate) state: StateType,
    /// The leader of `term`, once known.
    pub(crate) lead: u64,
    pub(crate) log: RaftLog<S>,
    /// The configuration and, on a leader, the progress of each member.
    pub(crate) tracker: ProgressTracker,
    /// May leave at once.
    pub(crate) messages: Vec<Message>,
    /// Must wait until everything appended so far, and the hard state, is durable.
    pub(crate) messages_after_append: Vec<Message>,
    /// The leader is handing over to this node; proposals are dropped meanwhile.
    pub(crate) lead_transferee: u64,
    /// No configuration change stands unapplied above this index: another one may be proposed once it is applied.
    /// On followers without meaning.
    pub(crate) pending_conf_index: u64,
    /// Payload bytes in the leader's uncommitted tail; a lower bound.
    uncommitted_bytes: u64,
    pub(crate) read_only: ReadOnly,
    /// Untouched unless reads rely on leases.
    lease: Lease,
    /// A leader told us of entries that we had acknowledged and do not have: 0, or an index above the log's end.
    lost_up_to: u64,
    /// Ticks since the election timer was last reset; on a leader since the last quorum check.
    election_elapsed: usize,
    /// Ticks since the last heartbeat, on a leader.
    heartbeat_elapsed: usize,
    /// In `[election_tick, 2 * election_tick - 1]`, drawn at each change of role or term.
    randomized_election_timeout: usize,
    random: SplitMix64,
    config: Config,
}

impl<S: Storage> Raft<S> {
    /// The node as its storage remembers it, as a follower. Etcd: newRaft.
    pub(crate) fn new(config: Config, storage: S) -> Result<Self, Error> {
        config.validate()?;
        let (hard_state, conf_state) = storage.initial_state()?;
        let log = RaftLog::new(storage, config.max_applying_bytes())?;
        let mut raft = Raft {
            id: config.id,
            term: 0,
            vote: NONE,
            state: StateType::Follower,
            lead: NONE,
            log,
            tracker: ProgressTracker::new(config.max_inflight_msgs, limit_or_none(config.max_inflight_bytes)),
            messages: Vec::new(),
            messages_after_append: Vec::new(),
            lead_transferee: NONE,
            pending_conf_index: 0,
            uncommitted_bytes: 0,
            read_only: ReadOnly::new(),
            lease: Lease::new(),
            lost_up_to: 0,
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            randomized_election_timeout: 0,
            random: SplitMix64::new(config.seed, config.id),
            config,
        };
        let last = raft.log.last_index();
        raft.restore_configuration(&conf_state, last)?;
        raft.load_hard_state(hard_state)?;
        raft.load_applied()?;
        raft.become_follower(raft.term, NONE)?;
        let voters: Vec<String> = raft.tracker.voter_ids().iter().map(|id| format!("{id:x}")).collect();
        let last = raft.log.last_id()?;
        info!(
            "newRaft {:x} [peers: [{}], term: {}, commit: {}, applied: {}, lastindex: {}, lastterm: {}]",
            raft.id,
            voters.join(","),
            raft.term,
            raft.log.committed,
            raft.log.applied,
            last.index,
            last.term
        );
        Ok(raft)
    }

    fn load_hard_state(&mut self, hard_state: HardState) -> Result<(), Error> {
        if hard_state.is_empty() {
            return Ok(());
        }
        if hard_state.term > validate::MAX_NUMBER {
            return Err(StorageError::Other(format!("the stored term {} is impossible", hard_state.term)).into());
        }
        let last = self.log.last_index();
        if hard_state.commit > last {
            return Err(Error::HardStateOutOfRange { commit: hard_state.commit, last });
        }
        // Below the snapshot it is merely behind: a snapshot holds nothing that is not committed, and it may have
        // become durable first.
        self.log.committed = self.log.committed.max(hard_state.commit);
        self.term = if bug!(ForgetTerm) { 0 } else { hard_state.term };
        self.vote = if bug!(ForgetVote) { NONE } else { hard_state.vote };
        if self.lease_based_reads() {
            // It may have promised before it ended.
            self.lease.promise(self.config.election_tick);
        }
        Ok(())
    }

    fn load_applied(&mut self) -> Result<(), Error> {
        let applied = self.config.applied;
        if applied == 0 {
            return Ok(());
        }
        let (first, committed) = (self.log.applied, self.log.committed);
        if applied < first || applied > committed {
            return Err(Error::AppliedOutOfRange { applied, first, committed });
        }
        self.log.applied_to(applied, 0);
        Ok(())
    }

    #[inline]
    pub(crate) fn soft_state(&self) -> SoftState {
        SoftState { lead: self.lead, state: self.state }
    }

    #[inline]
    pub(crate) fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.log.committed }
    }

    #[inline]
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Queues a message to `to`. It carries the node's own term, unless `fill`, which puts in all the rest, says another
    /// one: a pre-vote asks for a term that is not the node's.
    #[inline]
    fn send(&mut self, kind: MessageType, to: u64, fill: impl FnOnce(&mut Message)) {
        let promises = match kind {
            MessageType::MsgVoteResp if bug!(VoteBeforeSync) && to != self.id => false,
            MessageType::MsgAppResp if bug!(AckBeforeSync) && to != self.id => false,
            MessageType::MsgVoteResp | MessageType::MsgPreVoteResp | MessageType::MsgAppResp => true,
            // A promise, which a node that forgets the term does not know of.
            MessageType::MsgHeartbeatResp => self.lease_based_reads(),
            _ => false,
        };
        let (from, term) = (self.id, self.term);
        let queue = if promises { &mut self.messages_after_append } else { &mut self.messages };
        // Made and filled where it is to stand. It is large, and to move what was only just written costs most of all.
        queue.extend(std::iter::once_with(|| Message { to, from, term, ..Message::of(kind) }));
        if let Some(message) = queue.last_mut() {
            fill(message);
        }
    }

    /// Queues what only `to` can do. It stays signed by whoever asked, because the answer must go there; a proposal or a
    /// read carries no term.
    fn pass_on(&mut self, kind: MessageType, to: u64, message: Message) {
        let from = if message.from == NONE { self.id } else { message.from };
        let term = if kind == MessageType::MsgTransferLeader { self.term } else { 0 };
        self.messages.push(Message { to, from, term, ..message });
    }

    /// One tick of the node's clock.
    pub(crate) fn tick(&mut self) -> Result<(), Error> {
        if self.lease_based_reads() {
            self.lease.tick();
        }
        match self.state {
            StateType::Leader => self.tick_leader(),
            _ => self.tick_election(),
        }
    }

    /// Takes in a message that the node makes up itself.
    pub(crate) fn step(&mut self, mut message: Message) -> Result<(), Error> {
        self.take_in(&mut message)
    }

    /// Takes a message in. The order of the questions is the protocol's: is it well-formed, is its term mine, is it a
    /// vote, and only then what my role makes of it (Raft paper figure 2, "Rules for Servers"). What is of use to the
    /// node is taken out of the message; what is left of it has no meaning.
    pub(crate) fn take_in(&mut self, message: &mut Message) -> Result<(), Error> {
        let kind = validate::validate(message)?;
        if message.term > self.term {
            if !self.step_higher_term(kind, message)? {
                return Ok(());
            }
        } else if message.term < self.term && message.term != 0 && !bug!(TakeOldTerms) {
            return self.step_lower_term(kind, message);
        }
        if matches!(kind, MessageType::MsgVoteResp | MessageType::MsgPreVoteResp) {
            self.learn_commit(message)?;
        }
        match kind {
            MessageType::MsgHup if self.config.pre_vote => self.hup(Campaign::PreElection),
            MessageType::MsgHup => self.hup(Campaign::Election),
            MessageType::MsgVote | MessageType::MsgPreVote => self.handle_vote_request(kind, message),
            // Storage threads report through `RawNode`, which calls the methods below; nobody else may.
            kind if is_storage(kind) => Err(Error::StepLocalMessage),
            _ => match self.state {
                StateType::Leader => self.step_leader(kind, message),
                StateType::Candidate | StateType::PreCandidate => self.step_candidate(kind, message),
                StateType::Follower => self.step_follower(kind, message),
            },
        }
    }

    /// A message from a later term makes this node a follower there, with the exceptions that keep a node that was
    /// away from disturbing a working cluster. Answers whether the message is to be looked at any further.
    fn step_higher_term(&mut self, kind: MessageType, message: &Message) -> Result<bool, Error> {
        let is_request = matches!(kind, MessageType::MsgVote | MessageType::MsgPreVote);
        if is_request && message.context != Campaign::TRANSFER_CONTEXT && (self.in_lease() || self.lease.is_promised())
        {
            self.log_vote("ignored", kind, message, &self.lease_text())?;
            return Ok(false);
        }
        match kind {
            // Asks about a term that nobody is in yet.
            MessageType::MsgPreVote => {}
            // Answers about that term. The real election raises the term, if it comes to that.
            MessageType::MsgPreVoteResp if !message.reject => {}
            _ => {
                info!(
                    "{:x} [term: {}] received a {kind:?} message with higher term from {:x} [term: {}]",
                    self.id, self.term, message.from, message.term
                );
                let from_leader =
                    matches!(kind, MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgSnap);
                self.become_follower(message.term, if from_leader { message.from } else { NONE })?;
            }
        }
        Ok(true)
    }

    /// A message from a term gone by is dropped, but its sender may need to hear that time has moved on.
    fn step_lower_term(&mut self, kind: MessageType, message: &Message) -> Result<(), Error> {
        let leases = self.config.check_quorum || self.config.pre_vote;
        match kind {
            // A leader of an old term, whose heartbeats we would otherwise ignore for ever while our votes cannot
            // depose it either: an answer of our term makes it step down (thesis §9.6; etcd issue 8501).
            MessageType::MsgApp | MessageType::MsgHeartbeat if leases => {
                self.send(MessageType::MsgAppResp, message.from, |_| {});
            }
            // A node may be stuck in a term below ours, asking for pre-votes of a term below ours.
            MessageType::MsgPreVote => {
                self.log_vote("rejected", kind, message, "")?;
                self.send(MessageType::MsgPreVoteResp, message.from, |refusal| refusal.reject = true);
            }
            // A candidate that nobody else talks to would come after our term one by one, or never, if somebody raises it.
            MessageType::MsgVote if leases => {
                self.log_vote("rejected", kind, message, "")?;
                self.send(MessageType::MsgVoteResp, message.from, |refusal| refusal.reject = true);
            }
            _ => info!(
                "{:x} [term: {}] ignored a {kind:?} message with lower term from {:x} [term: {}]",
                self.id, self.term, message.from, message.term
            ),
        }
        Ok(())
    }

    /// Storage reports what it appended. `term` is the node's term when the work was handed out: if it has changed,
    /// other entries may stand at the same indexes by now, and the report says nothing about those (etcd
    /// `rawnode.go`, newStorageAppendRespMsg: the ABA problem). A snapshot is the same whatever the term.
    pub(crate) fn appended(&mut self, term: u64, last: EntryId, snapshot_index: Option<u64>) -> Result<(), Error> {
        if term < self.term && !bug!(BelieveOldStorage) {
            if last.index != 0 {
                info!(
                    "{:x} [term: {}] ignored entry appends from a MsgStorageAppendResp message with lower term \
                     [term: {term}]",
                    self.id, self.term
                );
            }
        } else if last.index != 0 {
            self.log.unstable.stable_to(last);
        }
        match snapshot_index {
            Some(index) => {
                self.log.unstable.stable_snapshot_to(index);
                self.applied(index, 0)
            }
            None => Ok(()),
        }
    }

    /// The application acknowledges committed entries: `bytes` encoded, `payload_bytes` of data.
    pub(crate) fn applied_entries(&mut self, index: u64, bytes: u64, payload_bytes: u64) -> Result<(), Error> {
        self.applied(index, bytes)?;
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(payload_bytes);
        Ok(())
    }

    /// Moves the applied index, which may let a leader leave a joint configuration.
    fn applied(&mut self, index: u64, bytes: u64) -> Result<(), Error> {
        self.log.applied_to(index, bytes);
        self.maybe_leave_joint()
    }

    /// Whether this node may become leader: a voting member that is not waiting for a snapshot to become durable, and
    /// whose log is known to be all there.
    pub(crate) fn promotable(&self) -> bool {
        let voting = self.tracker.progress.get(&self.id).is_some_and(|progress| !progress.is_learner);
        voting && !self.log.has_snapshot_pending() && self.lost_up_to == 0
    }

    /// Test hook: makes the election timeout known.
    pub(crate) fn set_randomized_election_timeout(&mut self, ticks: usize) {
        self.randomized_election_timeout = ticks;
    }

    /// Test hook: as if nothing had been drawn yet, and the shortest timeout had come out.
    pub(crate) fn forget_draws(&mut self) {
        self.random = SplitMix64::new(self.config.seed, self.id);
        self.randomized_election_timeout = self.config.election_tick;
    }

    /// The configuration that a snapshot carries, taken over before its log is. `last` is the log's end.
    fn tracker_for(&self, snapshot: &Snapshot) -> Result<ProgressTracker, Error> {
        let metadata = &snapshot.metadata;
        let mut tracker = ProgressTracker::new(self.tracker.max_inflight_msgs, self.tracker.max_inflight_bytes);
        let (config, progress) = crate::confchange::restore(
            &metadata.conf_state,
            metadata.index,
            tracker.max_inflight_msgs,
            tracker.max_inflight_bytes,
        )?;
        tracker.config = config;
        tracker.progress = progress;
        Ok(tracker)
    }

    /// Whether reads may rely on the lease alone.
    fn lease_based_reads(&self) -> bool {
        self.config.read_only_option == ReadOnlyOption::LeaseBased
    }
}

#[inline]
fn is_storage(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgStorageAppend
            | MessageType::MsgStorageAppendResp
            | MessageType::MsgStorageApply
            | MessageType::MsgStorageApplyResp
    )
}

#[cfg(test)]
mod tests;
