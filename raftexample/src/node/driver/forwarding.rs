//! Proposals of other nodes, which only the leader can take: what becomes of those that it does not take.
//!
//! A follower forwards what its clients want, and in Raft it never hears of it again if the leader drops it: leadership
//! is being handed over, too much waits to be committed, another change of the membership is under way. Here the leader
//! *gives it back*: the same message returns to its sender, with `reject` set. Whoever gets its own proposal back may
//! propose it again, because it is certain that it is in nobody's log; it waits for the next tick, so that the two do not
//! play ball.
//!
//! One thing only the leader can judge: whether a learner is near enough to vote. A change that would promote one that is
//! not comes back with how far it is and how far it must be, and whoever asked for it is told.
//!
//! To a process of the original a proposal that comes back would be one to forward: in a cluster with such processes
//! nothing is given back ([`Dialect::extensions`](crate::codec::Dialect::extensions)).
//!
//! A proposal that no node could apply is not taken at all: once in the log, it would be there for good.
//!
//! What is left out: an answer to a proposal that was taken. That is in the log.

use raft_core::pb::{ConfChangeType, Entries, Entry, EntryType, Message, MessageType};
use raft_core::Error;

use super::{Driver, Fatal};
use crate::members::ChangeRefused;
use crate::node::change::{Address, Written, WrittenStep};

impl Driver {
    /// Steps a message of a peer.
    pub(super) fn step_from_peer(&mut self, message: Message) -> Result<(), Fatal> {
        if message.kind() != Some(MessageType::MsgProp) {
            return self.step(message).map(drop);
        }
        if let Some(what) = self.first_unreadable(&message.entries) {
            log::warn!(
                "a proposal that came for node {} is not taken, for no node could apply it: {what}",
                message.from
            );
            return Ok(());
        }
        if !self.extensions {
            return self.step(message).map(drop);
        }
        if message.reject {
            self.take_back(message);
            return Ok(());
        }
        let (from, entries) = (message.from, message.entries.clone());
        if let Some(behind) = self.first_learner_behind(&entries) {
            self.give_back(from, entries, Some(behind));
            return Ok(());
        }
        match self.raw.step(message) {
            Ok(()) => {}
            Err(error) if error.is_fatal() => return Err(error.into()),
            // An empty entry has taken the place of each change; what came with them is in the log.
            Err(Error::ConfChangeRefused(_)) => {
                self.give_back(from, entries.into_iter().filter(Entry::is_conf_change).collect(), None);
            }
            Err(Error::ProposalDropped(_)) => self.give_back(from, entries, None),
            Err(error) => log::debug!("a proposal of node {from} was not taken: {error}"),
        }
        Ok(())
    }

    /// What is wrong with the first entry that cannot be read. Once in the log it would end every node that applies it, at
    /// each start again.
    fn first_unreadable(&self, entries: &Entries) -> Option<String> {
        entries.iter().find_map(|entry| match entry.kind() {
            Some(EntryType::EntryNormal) if entry.data.is_empty() => None,
            Some(EntryType::EntryNormal) => {
                self.codec.decode_entry(entry.data.clone()).err().map(|error| error.to_string())
            }
            Some(_) => Written::read(entry).err(),
            None => Some(format!("it is of type {}, which is unknown", entry.entry_type)),
        })
    }

    fn give_back(&mut self, to: u64, entries: Entries, behind: Option<Behind>) {
        let (index, reject_hint) = behind.map_or((0, 0), |behind| (behind.has, behind.needs));
        let (from, reject) = (self.id, true);
        let message = Message { from, to, entries, index, reject, reject_hint, ..Message::of(MessageType::MsgProp) };
        if to == self.id {
            // Its sender led no more when it arrived there, and passed it on to the new leader: the one who had sent it.
            self.take_back(message);
        } else {
            self.send(vec![message]);
        }
    }

    /// Own proposals that the leader has not taken: they are held again, or refused.
    fn take_back(&mut self, message: Message) {
        let (has, needs) = (message.index, message.reject_hint);
        for entry in message.entries {
            if !entry.is_conf_change() {
                self.hold_writes |= self.undelivered_write(entry);
                continue;
            }
            let Ok(written) = Written::read(&entry) else { continue };
            self.hold_changes = true;
            match written.steps.iter().find(|step| self.is_promotion(step)) {
                Some(step) if needs > 0 => {
                    self.changes.refused(written.request, ChangeRefused::LearnerBehind { id: step.id, has, needs });
                }
                _ => self.changes.given_back(written.request),
            }
        }
    }

    fn is_promotion(&self, step: &WrittenStep) -> bool {
        step.kind == ConfChangeType::ConfChangeAddNode
            && step.address == Address::None
            && self.conf_state.learners.contains(&step.id)
    }

    /// On the leader: refuses to promote a learner that is far behind. Others do not know, and leave it to the leader.
    pub(super) fn judge_learners(&self, steps: &[WrittenStep]) -> Result<(), ChangeRefused> {
        match self.learner_behind(steps) {
            Some(Behind { id, has, needs }) => Err(ChangeRefused::LearnerBehind { id, has, needs }),
            None => Ok(()),
        }
    }

    fn first_learner_behind(&self, entries: &[Entry]) -> Option<Behind> {
        let mut changes = entries.iter().filter(|entry| entry.is_conf_change());
        changes.find_map(|entry| self.learner_behind(&Written::read(entry).ok()?.steps))
    }

    /// A learner votes only with nine tenths of the leader's log, as in etcd: one that is far behind would make the
    /// quorum larger without being able to acknowledge anything.
    fn learner_behind(&self, steps: &[WrittenStep]) -> Option<Behind> {
        if self.leader != self.id || !steps.iter().any(|step| self.is_promotion(step)) {
            return None;
        }
        let status = self.raw.status();
        let known = |id: u64| status.progress.get(&id).map_or(0, |progress| progress.match_index);
        let needs = known(self.id).saturating_mul(9).div_ceil(10);
        let behind = |step: &WrittenStep| Behind { id: step.id, has: known(step.id), needs };
        steps.iter().filter(|step| self.is_promotion(step)).map(behind).find(|behind| behind.has < behind.needs)
    }
}

/// A learner that is not ready to vote.
struct Behind {
    id: u64,
    has: u64,
    needs: u64,
}
