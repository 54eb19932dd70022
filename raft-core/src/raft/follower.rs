//! What a follower does: it takes the leader's word, and passes on what only the leader can do.
//!
//! Raft paper figure 2 (AppendEntries RPC, receiver) and §7 (InstallSnapshot). Learners are followers too.

use crate::config::NONE;
use crate::error::{DropReason, Error};
use crate::log::EntryId;
use crate::pb::{Message, MessageType, Snapshot};
use crate::storage::Storage;

use super::election::Campaign;
use super::{Raft, ReadState, StateType};

impl<S: Storage> Raft<S> {
    pub(super) fn step_follower(&mut self, kind: MessageType, message: &mut Message) -> Result<(), Error> {
        match kind {
            MessageType::MsgProp => {
                if self.lead == NONE {
                    info!("{:x} no leader at term {}; dropping proposal", self.id, self.term);
                    return Err(Error::ProposalDropped(DropReason::NoLeader));
                }
                if self.config.disable_proposal_forwarding {
                    info!(
                        "{:x} not forwarding to leader {:x} at term {}; dropping proposal",
                        self.id, self.lead, self.term
                    );
                    let reason = DropReason::ForwardingDisabled { leader: self.lead };
                    return Err(Error::ProposalDropped(reason));
                }
                self.pass_on(kind, self.lead, std::mem::take(message));
                Ok(())
            }
            MessageType::MsgReadIndex => {
                if self.lead == NONE {
                    info!("{:x} no leader at term {}; dropping index reading msg", self.id, self.term);
                    return Err(Error::ReadDropped(DropReason::NoLeader));
                }
                self.pass_on(kind, self.lead, std::mem::take(message));
                Ok(())
            }
            MessageType::MsgTransferLeader => {
                if self.lead == NONE {
                    info!("{:x} no leader at term {}; dropping leader transfer msg", self.id, self.term);
                    return Err(Error::TransferDropped(DropReason::NoLeader));
                }
                // The transferee stands in `from`, and stays there.
                self.pass_on(kind, self.lead, std::mem::take(message));
                Ok(())
            }
            MessageType::MsgApp => {
                self.hear_from_leader(message.from);
                self.handle_append(message)
            }
            MessageType::MsgHeartbeat => {
                self.hear_from_leader(message.from);
                self.handle_heartbeat(message)
            }
            MessageType::MsgSnap => {
                self.hear_from_leader(message.from);
                self.handle_snapshot(message)
            }
            // Only the leader knows. An answer of a former one is late, and the read is asked again.
            MessageType::MsgReadIndexResp if message.from != self.lead => Ok(()),
            MessageType::MsgReadIndexResp => {
                self.handle_read_answer(message);
                Ok(())
            }
            MessageType::MsgForgetLeader => {
                self.forget_leader();
                Ok(())
            }
            MessageType::MsgTimeoutNow => {
                info!(
                    "{:x} [term {}] received MsgTimeoutNow from {:x} and starts an election to get leadership.",
                    self.id, self.term, message.from
                );
                // No pre-vote: the leader itself wants to be replaced.
                self.hup(Campaign::Transfer)
            }
            _ => Ok(()),
        }
    }

    fn hear_from_leader(&mut self, leader: u64) {
        self.election_elapsed = 0;
        self.lead = leader;
    }

    /// A follower that forgets its leader may vote at once instead of waiting out the lease. With reads that rely on
    /// that very lease, it must not.
    fn forget_leader(&mut self) {
        if self.lease_based_reads() {
            error!("ignoring MsgForgetLeader due to ReadOnlyLeaseBased");
        } else if self.lead != NONE {
            info!("{:x} forgetting leader {:x} at term {}", self.id, self.lead, self.term);
            self.lead = NONE;
        }
    }

    fn handle_read_answer(&mut self, message: &mut Message) {
        match <[_; 1]>::try_from(std::mem::take(&mut message.entries).into_vec()) {
            Ok([entry]) => {
                self.read_only.answered.push(ReadState { index: message.index, request_ctx: entry.data });
            }
            Err(entries) => error!(
                "{:x} invalid format of MsgReadIndexResp from {:x}, entries count: {}",
                self.id,
                message.from,
                entries.len()
            ),
        }
    }

    pub(super) fn handle_append(&mut self, message: &mut Message) -> Result<(), Error> {
        let (from, probed) = (message.from, EntryId { term: message.log_term, index: message.index });
        self.check_foreign(probed)?;
        // What comes with it, too: to answer that all up to the commit index is the leader's would be a false promise.
        for entry in message.entries.iter().take_while(|entry| entry.index <= self.log.committed) {
            self.check_foreign(EntryId { term: entry.term, index: entry.index })?;
        }
        if probed.index < self.log.committed {
            // Late or repeated: what is committed is the leader's already.
            let index = self.log.committed;
            self.send(MessageType::MsgAppResp, from, |answer| answer.index = index);
            return Ok(());
        }
        let old_end = if bug!(AckOldEnd) { self.log.last_index() } else { 0 };
        let new = if bug!(ChangeNotTakenBack) { self.log.find_conflict(&message.entries)? } else { None };
        if let Some(last) = self.log.maybe_append(from, probed, std::mem::take(&mut message.entries), message.commit)? {
            self.check_lost()?;
            if let Some(first) = new {
                self.change_too_early(first)?;
            }
            let index = last.max(old_end);
            self.send(MessageType::MsgAppResp, from, |answer| answer.index = index);
            return Ok(());
        }
        debug!(
            "{:x} [logterm: {}, index: {}] rejected MsgApp [logterm: {}, index: {}] from {from:x}",
            self.id,
            self.log.term(probed.index)?.unwrap_or(0),
            probed.index,
            probed.term,
            probed.index
        );
        // The leader's previous entry is of term `probed.term`. Anything of ours that it may share is of that term at
        // most, so the search can skip all that is later; the leader then does the same with our hint.
        let hint = self.log.find_conflict_by_term(probed.index.min(self.log.last_index()), probed.term)?;
        self.send(MessageType::MsgAppResp, from, |answer| {
            answer.index = probed.index;
            answer.reject = true;
            answer.reject_hint = hint.index;
            answer.log_term = hint.term;
        });
        Ok(())
    }

    pub(super) fn handle_heartbeat(&mut self, message: &mut Message) -> Result<(), Error> {
        // The leader bounds the commit index by what we acknowledged. If it is beyond our log, we lost entries.
        if let Err(error) = self.log.commit_to(message.commit) {
            if let Error::LogLost { need, .. } = error {
                self.lost_up_to = self.lost_up_to.max(need);
            }
            return Err(error);
        }
        if self.lease_based_reads() {
            self.lease.promise(self.config.election_tick);
        }
        let context = std::mem::take(&mut message.context);
        self.send(MessageType::MsgHeartbeatResp, message.from, |answer| answer.context = context);
        Ok(())
    }

    /// By leader completeness (Raft paper §5.4.3), a leader has every committed entry. One that has another entry in
    /// such a place was elected by a cluster that is not this node's.
    fn check_foreign(&self, probed: EntryId) -> Result<(), Error> {
        if probed.index > self.log.committed {
            return Ok(());
        }
        match self.log.term(probed.index)? {
            Some(own_term) if own_term != probed.term => {
                Err(Error::LogForeign { index: probed.index, own_term, leader_term: probed.term })
            }
            _ => Ok(()),
        }
    }

    /// A node that lost entries takes part again once it has them back.
    fn check_lost(&mut self) -> Result<(), Error> {
        if self.lost_up_to != 0 && self.log.last_index() >= self.lost_up_to {
            self.lost_up_to = 0;
        }
        Ok(())
    }

    pub(super) fn handle_snapshot(&mut self, message: &mut Message) -> Result<(), Error> {
        let Some(snapshot) = message.take_snapshot() else { return Ok(()) };
        let (index, term) = (snapshot.metadata.index, snapshot.metadata.term);
        let restored = self.restore(*snapshot)?;
        let what = if restored { "restored" } else { "ignored" };
        info!("{:x} [commit: {}] {what} snapshot [index: {index}, term: {term}]", self.id, self.log.committed);
        let matched = if restored || bug!(AckWholeLogForSnapshot) { self.log.last_index() } else { self.log.committed };
        self.check_lost()?;
        self.send(MessageType::MsgAppResp, message.from, |answer| answer.index = matched);
        Ok(())
    }

    /// Puts the snapshot in the place of log and configuration, if it brings anything new.
    fn restore(&mut self, snapshot: Snapshot) -> Result<bool, Error> {
        let metadata = &snapshot.metadata;
        if metadata.index <= self.log.committed {
            return Ok(false);
        }
        if self.state != StateType::Follower {
            // Cannot happen: candidates become followers before they get here. Kept because the price of being wrong
            // is a leader with a log that is not its own.
            warning!("{:x} attempted to restore snapshot as leader; should never happen", self.id);
            self.become_follower(self.term + 1, NONE)?;
            return Ok(false);
        }
        let members = &metadata.conf_state;
        if ![&members.voters, &members.learners, &members.voters_outgoing].iter().any(|ids| ids.contains(&self.id)) {
            warning!(
                "{:x} attempted to restore snapshot but it is not in the ConfState {members:?}; should never happen",
                self.id
            );
            return Ok(false);
        }
        let id = EntryId { term: metadata.term, index: metadata.index };
        if self.log.matches(id)? {
            // Our log holds all of it: only the commit index is news.
            let last = self.log.last_id()?;
            info!(
                "{:x} [commit: {}, lastindex: {}, lastterm: {}] fast-forwarded commit to snapshot [index: {}, term: {}]",
                self.id, self.log.committed, last.index, last.term, id.index, id.term
            );
            self.log.commit_to(id.index)?;
            return Ok(false);
        }
        // Anything that is wrong with the configuration must show before the log is given up.
        let tracker = self.tracker_for(&snapshot)?;
        self.log.restore(snapshot);
        self.tracker.reset_votes();
        self.switch_to(tracker.config, tracker.progress)?;
        let last = self.log.last_id()?;
        info!(
            "{:x} [commit: {}, lastindex: {}, lastterm: {}] restored snapshot [index: {}, term: {}]",
            self.id, self.log.committed, last.index, last.term, id.index, id.term
        );
        Ok(true)
    }
}
