//! Configuration changes: when they take effect, and what follows from them.
//!
//! A change takes effect when its entry is *applied* on each node, not when it is appended as in the Raft paper (§6);
//! one change at a time makes that safe (etcd `raft.go`, applyConfChange; Raft thesis chapter 4). How one configuration
//! turns into the next is the business of module `confchange`.

use crate::confchange::{self, Changer};
use crate::config::NONE;
use crate::error::Error;
use crate::pb::{ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType};
use crate::storage::Storage;
use crate::tracker::{Config, ProgressMap};

use super::{Raft, StateType};

impl<S: Storage> Raft<S> {
    /// The configuration that storage remembers, taken over at the start.
    pub(super) fn restore_configuration(&mut self, conf_state: &ConfState, last: u64) -> Result<(), Error> {
        let (max_msgs, max_bytes) = (self.tracker.max_inflight_msgs, self.tracker.max_inflight_bytes);
        let (config, progress) = confchange::restore(conf_state, last, max_msgs, max_bytes)?;
        self.switch_to(config, progress)?;
        Ok(())
    }

    /// Applies a change to the configuration in force. On an error, nothing has changed.
    pub(crate) fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, Error> {
        if bug!(ChangeWhenAppended | ChangeNotTakenBack | LeaveJointWhenProposed) && self.is_in_force(change)? {
            return Ok(self.tracker.conf_state());
        }
        let last = self.log.last_index();
        let changer = Changer::new(&self.tracker, last);
        let (config, progress) = if change.leave_joint() {
            changer.leave_joint()?
        } else if let Some(auto_leave) = change.enter_joint()? {
            changer.enter_joint(auto_leave, &change.changes)?
        } else {
            changer.simple(&change.changes)?
        };
        self.switch_to(config, progress)
    }

    /// Puts a configuration in force. A leader may find itself removed, or more committed than before.
    pub(super) fn switch_to(&mut self, config: Config, progress: ProgressMap) -> Result<ConfState, Error> {
        self.tracker.config = config;
        self.tracker.progress = progress;
        info!("{:x} switched to configuration {}", self.id, self.tracker.config);
        let conf_state = self.tracker.conf_state();
        if self.state != StateType::Leader {
            return Ok(conf_state);
        }
        if self.tracker.progress.get(&self.id).is_none_or(|own| own.is_learner) {
            // It goes on replicating if it is not told to step down: somebody has to tell the others.
            if self.config.step_down_on_removal {
                self.become_follower(self.term, NONE)?;
            }
            return Ok(conf_state);
        }
        if conf_state.voters.is_empty() {
            return Ok(conf_state);
        }
        // The new quorum may be smaller than the old one.
        if self.maybe_commit()? {
            self.release_pending_reads()?;
            self.broadcast_append()?;
        } else {
            // Newcomers hear from us at once.
            for to in self.tracker.progress.keys().copied().filter(|id| *id != self.id).collect::<Vec<_>>() {
                self.maybe_send_append(to, false)?;
            }
        }
        self.release_confirmed_reads();
        if self.lead_transferee != NONE && !self.tracker.voter_ids().contains(self.lead_transferee) {
            self.abort_transfer();
        }
        Ok(conf_state)
    }

    /// A joint configuration that is to be left automatically is left by the leader as soon as it is applied. Tried
    /// again at every apply, because anything may have stood in the way (etcd `raft.go`, appliedTo).
    pub(super) fn maybe_leave_joint(&mut self) -> Result<(), Error> {
        let due = self.tracker.config.auto_leave && self.log.applied >= self.pending_conf_index;
        if !due || self.state != StateType::Leader {
            return Ok(());
        }
        let leave = Entry { entry_type: EntryType::EntryConfChangeV2 as i32, ..Entry::default() };
        let proposal = Message { from: self.id, entries: [leave].into(), ..Message::of(MessageType::MsgProp) };
        match self.step(proposal) {
            Ok(()) => {
                info!("initiating automatic transition out of joint configuration {}", self.tracker.config);
                Ok(())
            }
            Err(error) if error.is_fatal() => Err(error),
            Err(error) => {
                debug!(
                    "not initiating automatic transition out of joint configuration {}: {error}",
                    self.tracker.config
                );
                Ok(())
            }
        }
    }
}
