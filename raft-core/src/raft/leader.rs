//! What a leader does: append, replicate, commit, beat, and hand over.
//!
//! Raft paper §5.3, §5.4.2; transfer is thesis §3.10. What the leader knows of each member is its
//! [`Progress`](crate::tracker::Progress); flow control lives there (etcd `tracker/progress.go`).

use crate::confchange::ConfChangeKind;
use crate::config::{limit_or_none, NONE};
use crate::error::{ConfChangeRefusal, DropReason, Error};
use crate::log::{EntryId, Slice};
use crate::pb::{ConfChangeV2, Entries, Entry, Message, MessageType};
use crate::storage::{payload_size, Storage, StorageError};
use crate::tracker::ProgressState;

use super::{Raft, StateType};

impl<S: Storage> Raft<S> {
    /// A tick of the leader's clock. The quorum check comes before the beat: a leader that steps down does not beat.
    pub(super) fn tick_leader(&mut self) -> Result<(), Error> {
        self.heartbeat_elapsed += 1;
        self.election_elapsed += 1;
        if self.election_elapsed >= self.config.election_tick {
            self.election_elapsed = 0;
            if self.config.check_quorum {
                self.check_quorum()?;
            }
            // A transferee that has not taken over in an election timeout will not.
            if self.state == StateType::Leader {
                self.abort_transfer();
            }
        }
        if self.state == StateType::Leader && self.heartbeat_elapsed >= self.config.heartbeat_tick {
            self.heartbeat_elapsed = 0;
            self.broadcast_heartbeat();
        }
        Ok(())
    }

    pub(super) fn step_leader(&mut self, kind: MessageType, message: &mut Message) -> Result<(), Error> {
        match kind {
            MessageType::MsgBeat => {
                self.broadcast_heartbeat();
                return Ok(());
            }
            MessageType::MsgCheckQuorum => return self.check_quorum(),
            MessageType::MsgProp => return self.handle_propose(std::mem::take(&mut message.entries)),
            MessageType::MsgReadIndex => return self.handle_read(std::mem::take(message)),
            // A leader knows who leads.
            MessageType::MsgForgetLeader => return Ok(()),
            _ => {}
        }
        // The rest is about the sender's progress.
        if !self.tracker.progress.contains_key(&message.from) {
            debug!("{:x} no progress available for {:x}", self.id, message.from);
            return Ok(());
        }
        match kind {
            MessageType::MsgAppResp if message.reject && !bug!(RejectionAcknowledges) => {
                self.handle_append_rejection(message)
            }
            MessageType::MsgAppResp => self.handle_append_response(message),
            MessageType::MsgHeartbeatResp => self.handle_heartbeat_response(message),
            MessageType::MsgSnapStatus => {
                self.handle_snapshot_status(message.from, message.reject);
                Ok(())
            }
            MessageType::MsgUnreachable => {
                self.handle_unreachable(message.from);
                Ok(())
            }
            MessageType::MsgTransferLeader => self.handle_transfer(message.from),
            _ => Ok(()),
        }
    }

    /// Steps down if no quorum was active since the last check (thesis §6.2): behind a partition, a leader would
    /// otherwise keep its clients waiting for ever.
    fn check_quorum(&mut self) -> Result<(), Error> {
        if !self.tracker.quorum_active() {
            warning!("{:x} stepped down to follower since quorum is not active", self.id);
            self.become_follower(self.term, NONE)?;
        }
        let own = self.id;
        for (id, progress) in self.tracker.progress.iter_mut() {
            if *id != own {
                progress.recent_active = false;
            }
        }
        Ok(())
    }

    fn handle_propose(&mut self, mut entries: Entries) -> Result<(), Error> {
        if !self.tracker.progress.contains_key(&self.id) {
            return Err(Error::ProposalDropped(DropReason::Removed));
        }
        if self.lead_transferee != NONE {
            debug!(
                "{:x} [term {}] transfer leadership to {:x} is in progress; dropping proposal",
                self.id, self.term, self.lead_transferee
            );
            return Err(Error::ProposalDropped(DropReason::TransferInProgress { to: self.lead_transferee }));
        }
        // A leader that drops the proposal must not remember changes of it.
        let pending_before = self.pending_conf_index;
        let last = self.log.last_index();
        let mut refusal = None;
        for (entry, index) in entries.iter_mut().zip(last + 1..) {
            if !entry.is_conf_change() {
                continue;
            }
            let change = ConfChangeKind::decode(entry)?.into_v2();
            match self.check_conf_change(&change) {
                Some(reason) if !self.config.disable_conf_change_validation => {
                    info!(
                        "{:x} ignoring conf change {} at config {}: {reason}",
                        self.id,
                        crate::describe::conf_change(&change),
                        self.tracker.config
                    );
                    *entry = Entry::default();
                    refusal = Some(reason);
                }
                _ => self.pending_conf_index = index,
            }
        }
        if let Err(error) = self.append_entries(entries) {
            self.pending_conf_index = pending_before;
            return Err(error);
        }
        if bug!(ChangeWhenAppended | ChangeNotTakenBack | LeaveJointWhenProposed) {
            self.change_too_early(last + 1)?;
        }
        self.broadcast_append()?;
        match refusal {
            Some(reason) => Err(Error::ConfChangeRefused(reason)),
            None => Ok(()),
        }
    }

    /// One change at a time, counted until it is applied; and a joint configuration is left before anything else
    /// (Raft paper §6; thesis §4.3; etcd `raft.go`, stepLeader).
    fn check_conf_change(&self, change: &ConfChangeV2) -> Option<ConfChangeRefusal> {
        let joint = self.tracker.config.is_joint();
        let wants_to_leave = change.changes.is_empty();
        if self.pending_conf_index > self.log.applied && !bug!(TwoChangesAtOnce) {
            Some(ConfChangeRefusal::Pending { index: self.pending_conf_index, applied: self.log.applied })
        } else if joint && !wants_to_leave {
            Some(ConfChangeRefusal::MustLeaveJoint)
        } else if !joint && wants_to_leave {
            Some(ConfChangeRefusal::NotJoint)
        } else {
            None
        }
    }

    /// Gives the entries their places and appends them, unless too much waits for commit already. The leader's own
    /// acknowledgement follows when they are durable.
    pub(super) fn append_entries(&mut self, mut entries: Entries) -> Result<(), Error> {
        let limit = limit_or_none(self.config.max_uncommitted_entries_size);
        let bytes = payload_size(&entries);
        // One proposal passes however large it is, and empty ones always: they carry the protocol itself.
        if self.uncommitted_bytes > 0 && bytes > 0 && self.uncommitted_bytes.saturating_add(bytes) > limit {
            debug!(
                "{:x} appending new entries to log would exceed uncommitted entry size limit; dropping proposal",
                self.id
            );
            return Err(Error::ProposalDropped(DropReason::UncommittedLimit));
        }
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_add(bytes);
        let last = self.log.last_index();
        for (entry, index) in entries.iter_mut().zip(last + 1..) {
            entry.term = self.term;
            entry.index = index;
        }
        let index = self.log.append(entries)?;
        if let Some(own) = self.tracker.progress.get_mut(&self.id).filter(|_| bug!(OwnAckBeforeSync)) {
            own.maybe_update(index);
        }
        self.send(MessageType::MsgAppResp, self.id, |own| own.index = index);
        Ok(())
    }

    /// The other member whose id comes next after `id`, in ascending order; the first one after 0.
    fn peer_after(&self, id: u64) -> Option<u64> {
        // Few members: to look at them all is quicker than to look one up.
        self.tracker.progress.keys().copied().find(|other| *other > id && *other != self.id)
    }

    /// Sends everyone what they lack, or at least the commit index.
    pub(super) fn broadcast_append(&mut self) -> Result<(), Error> {
        let mut peer = self.peer_after(NONE);
        while let Some(to) = peer {
            self.maybe_send_append(to, true)?;
            peer = self.peer_after(to);
        }
        Ok(())
    }

    /// Sends `to` the entries that it lacks as far as flow control lets them through, or a snapshot if they are
    /// compacted away. Without entries, sends the commit index only if `send_if_empty`. Says whether anything went.
    pub(super) fn maybe_send_append(&mut self, to: u64, send_if_empty: bool) -> Result<bool, Error> {
        let Some(progress) = self.tracker.progress.get_mut(&to) else { return Ok(false) };
        if progress.is_paused() {
            return Ok(false);
        }
        // Asked after each acknowledgement, and mostly the answer.
        if !send_if_empty && progress.next_index > self.log.last_index() {
            return Ok(false);
        }
        let previous = progress.next_index - 1;
        let Some(log_term) = self.log.term(previous)? else { return self.maybe_send_snapshot(to) };
        let mut entries = Entries::new();
        // With a full window an empty message may still go: it carries the commit index, and its rejection is what
        // gets a window moving again whose messages were all lost.
        if progress.state != ProgressState::Replicate || !progress.inflights.is_full() {
            entries = match self.log.entries_from(progress.next_index, self.config.max_size_per_msg)? {
                Slice::Entries(entries) => entries,
                Slice::Compacted => return self.maybe_send_snapshot(to),
            };
        }
        if entries.is_empty() && !send_if_empty {
            return Ok(false);
        }
        let commit = self.log.committed;
        if !progress.sent_entries(entries.len(), payload_size(&entries)) {
            return Ok(false);
        }
        progress.sent_commit(commit);
        self.send(MessageType::MsgApp, to, |append| {
            append.index = previous;
            append.log_term = log_term;
            append.entries = entries;
            append.commit = commit;
        });
        Ok(true)
    }

    /// Sends the newest snapshot, if `to` shows signs of life and there is one to be had.
    fn maybe_send_snapshot(&mut self, to: u64) -> Result<bool, Error> {
        let first = self.log.first_index()?;
        let Some(progress) = self.tracker.progress.get_mut(&to) else { return Ok(false) };
        if !progress.recent_active {
            debug!("ignore sending snapshot to {to:x} since it is not recently active");
            return Ok(false);
        }
        let Some(snapshot) = self.log.snapshot()? else {
            debug!("{:x} failed to send snapshot to {to:x} because snapshot is temporarily unavailable", self.id);
            return Ok(false);
        };
        let (index, term) = (snapshot.metadata.index, snapshot.metadata.term);
        // The storage has compacted entries away and has nothing that stands for them.
        if index + 1 < first || index == 0 {
            let what = format!("the newest snapshot (index {index}) does not reach the log's first index {first}");
            return Err(StorageError::Other(what).into());
        }
        debug!(
            "{:x} [firstindex: {first}, commit: {}] sent snapshot[index: {index}, term: {term}] to {to:x} [{progress}]",
            self.id, self.log.committed
        );
        progress.become_snapshot(index);
        debug!("{:x} paused sending replication messages to {to:x} [{progress}]", self.id);
        self.send(MessageType::MsgSnap, to, |message| message.snapshot = Some(Box::new(snapshot)));
        Ok(true)
    }

    pub(super) fn broadcast_heartbeat(&mut self) {
        let context = self.heartbeat_context();
        let mut peer = self.peer_after(NONE);
        while let Some(to) = peer {
            peer = self.peer_after(to);
            let Some(progress) = self.tracker.progress.get_mut(&to) else { continue };
            // Never beyond what the peer is known to have: it takes the commit index without a log check.
            let known = if bug!(CommitBeyondMatch) { self.log.committed } else { progress.match_index };
            let commit = known.min(self.log.committed);
            progress.sent_commit(commit);
            self.send(MessageType::MsgHeartbeat, to, |beat| {
                beat.commit = commit;
                beat.context = context.clone();
            });
        }
    }

    fn handle_append_rejection(&mut self, message: &Message) -> Result<(), Error> {
        let from = message.from;
        debug!(
            "{:x} received MsgAppResp(rejected, hint: (index {}, term {})) from {from:x} for index {}",
            self.id, message.reject_hint, message.log_term, message.index
        );
        let mut next_probe = message.reject_hint;
        if message.log_term > 0 {
            // The follower has `log_term` at `reject_hint`. Entries of ours that are later than that cannot match.
            next_probe = self.log.find_conflict_by_term(message.reject_hint, message.log_term)?.index;
        }
        let Some(progress) = self.tracker.progress.get_mut(&from) else { return Ok(()) };
        progress.recent_active = true;
        if progress.maybe_decr_to(message.index, next_probe) {
            debug!("{:x} decreased progress of {from:x} to [{progress}]", self.id);
            if progress.state == ProgressState::Replicate {
                progress.become_probe();
            }
            self.maybe_send_append(from, true)?;
        }
        Ok(())
    }

    fn handle_append_response(&mut self, message: &Message) -> Result<(), Error> {
        let (own, from) = (self.id, message.from);
        if message.index > self.log.last_index() {
            return Err(Error::Malformed { from, what: "it acknowledges entries that the leader does not have" });
        }
        let Some(progress) = self.tracker.progress.get_mut(&from) else { return Ok(()) };
        progress.recent_active = true;
        // A probe that is answered with the known match still says that the peer is there and in step.
        let news = progress.maybe_update(message.index)
            || (progress.match_index == message.index && progress.state == ProgressState::Probe);
        if !news {
            return Ok(());
        }
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            ProgressState::Snapshot if progress.match_index + 1 >= self.log.first_index()? => {
                // Caught up as far as our log reaches back, by whatever means: the snapshot has done its work.
                debug!(
                    "{own:x} recovered from needing snapshot, resumed sending replication messages to {from:x} \
                     [{progress}]"
                );
                progress.become_probe();
                progress.become_replicate();
            }
            ProgressState::Snapshot => {}
            ProgressState::Replicate => progress.inflights.free_to(message.index),
        }
        // What is committed already cannot make a quorum for more.
        if message.index > self.log.committed && self.maybe_commit()? {
            self.release_pending_reads()?;
            self.broadcast_append()?;
        } else if from != own && self.can_bump_commit(from) {
            self.maybe_send_append(from, true)?;
        }
        if from != own {
            // Room in the window may let several messages through.
            while self.maybe_send_append(from, false)? {}
        }
        if from == self.lead_transferee && self.match_index(from) == Some(self.log.last_index()) {
            info!("{own:x} sent MsgTimeoutNow to {from:x} after received MsgAppResp");
            self.send(MessageType::MsgTimeoutNow, from, |_| {});
        }
        Ok(())
    }

    fn can_bump_commit(&self, id: u64) -> bool {
        self.tracker.progress.get(&id).is_some_and(|progress| progress.can_bump_commit(self.log.committed))
    }

    fn match_index(&self, id: u64) -> Option<u64> {
        self.tracker.progress.get(&id).map(|progress| progress.match_index)
    }

    /// Commits what a quorum has, if its last entry is of this term.
    pub(super) fn maybe_commit(&mut self) -> Result<bool, Error> {
        let index = self.tracker.committed();
        let term = if bug!(CommitOldTerm) { self.log.term(index)?.unwrap_or(0) } else { self.term };
        self.log.maybe_commit(EntryId { term, index })
    }

    fn handle_heartbeat_response(&mut self, message: &Message) -> Result<(), Error> {
        self.check_read_ack(message)?;
        let last = self.log.last_index();
        let Some(progress) = self.tracker.progress.get_mut(&message.from) else { return Ok(()) };
        progress.recent_active = true;
        progress.msg_app_flow_paused = false;
        // A probe may have been lost, and a full window too: either way the peer is there again.
        if progress.match_index < last || progress.state == ProgressState::Probe {
            self.maybe_send_append(message.from, true)?;
        }
        self.handle_read_ack(message.from, &message.context);
        Ok(())
    }

    fn handle_snapshot_status(&mut self, from: u64, failed: bool) {
        let Some(progress) = self.tracker.progress.get_mut(&from) else { return };
        if progress.state != ProgressState::Snapshot {
            return;
        }
        if failed {
            // The snapshot did not arrive: what it would have brought must not be skipped.
            progress.pending_snapshot = 0;
            progress.become_probe();
            debug!("{:x} snapshot failed, resumed sending replication messages to {from:x} [{progress}]", self.id);
        } else {
            progress.become_probe();
            debug!("{:x} snapshot succeeded, resumed sending replication messages to {from:x} [{progress}]", self.id);
        }
        // Success: the peer's own answer comes when it has the snapshot. Failure: do not try again at once. Either
        // way the next heartbeat's answer lets the flow go on.
        progress.msg_app_flow_paused = true;
    }

    fn handle_unreachable(&mut self, from: u64) {
        let Some(progress) = self.tracker.progress.get_mut(&from) else { return };
        // Messages sent on optimistically were probably lost.
        if progress.state == ProgressState::Replicate {
            progress.become_probe();
        }
        debug!("{:x} failed to send message to {from:x} because it is unreachable [{progress}]", self.id);
    }

    fn handle_transfer(&mut self, transferee: u64) -> Result<(), Error> {
        let Some(progress) = self.tracker.progress.get(&transferee) else { return Ok(()) };
        if progress.is_learner {
            debug!("{:x} is learner. Ignored transferring leadership", self.id);
            return Ok(());
        }
        if self.lead_transferee == transferee {
            info!(
                "{:x} [term {}] transfer leadership to {transferee:x} is in progress, ignores request to same node \
                 {transferee:x}",
                self.id, self.term
            );
            return Ok(());
        }
        if self.lead_transferee != NONE {
            info!(
                "{:x} [term {}] abort previous transferring leadership to {:x}",
                self.id, self.term, self.lead_transferee
            );
            self.abort_transfer();
        }
        if transferee == self.id {
            debug!("{:x} is already leader. Ignored transferring leadership to self", self.id);
            return Ok(());
        }
        info!("{:x} [term {}] starts to transfer leadership to {transferee:x}", self.id, self.term);
        self.lease.give_up();
        // The transfer has an election timeout from now.
        self.election_elapsed = 0;
        self.lead_transferee = transferee;
        if self.match_index(transferee) == Some(self.log.last_index()) {
            self.send(MessageType::MsgTimeoutNow, transferee, |_| {});
            info!(
                "{:x} sends MsgTimeoutNow to {transferee:x} immediately as {transferee:x} already has up-to-date log",
                self.id
            );
        } else {
            self.maybe_send_append(transferee, true)?;
        }
        Ok(())
    }
}
