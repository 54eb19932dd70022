//! What a membership becomes when it is changed.

use super::{BrokenInvariant, ConfChangeError};
use crate::pb::{ConfChangeSingle, ConfChangeType};
use crate::tracker::{Config, Inflights, Progress, ProgressMap, ProgressTracker};

/// A membership and the progress of its members, after a change.
pub type Changed = (Config, ProgressMap);

/// Computes changes of one membership. It borrows the membership and leaves it alone: the results are new ones.
#[derive(Clone, Copy, Debug)]
pub struct Changer<'a> {
    tracker: &'a ProgressTracker,
    last_index: u64,
}

impl<'a> Changer<'a> {
    /// Changes to the tracker's membership. New members are first probed at the leader's `last_index`.
    pub fn new(tracker: &'a ProgressTracker, last_index: u64) -> Self {
        Changer { tracker, last_index }
    }

    /// Changes one voter at most, and any number of learners, in one step.
    pub fn simple(&self, changes: &[ConfChangeSingle]) -> Result<Changed, ConfChangeError> {
        let mut draft = self.draft()?;
        if draft.config.is_joint() {
            return Err(ConfChangeError::SimpleInJoint);
        }
        draft.apply(changes)?;
        let before = self.tracker.config.voters.incoming.ids();
        if before.symmetric_difference_len(draft.config.voters.incoming.ids()) > 1 {
            return Err(ConfChangeError::MoreThanOneVoter);
        }
        draft.finish()
    }

    /// Begins a joint change: the voters of now become the outgoing half, `changes` make the incoming one.
    pub fn enter_joint(&self, auto_leave: bool, changes: &[ConfChangeSingle]) -> Result<Changed, ConfChangeError> {
        let mut draft = self.draft()?;
        if draft.config.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        if draft.config.voters.incoming.is_empty() {
            return Err(ConfChangeError::ZeroVotersJoint);
        }
        draft.config.voters.outgoing = draft.config.voters.incoming.clone();
        draft.apply(changes)?;
        draft.config.auto_leave = auto_leave;
        draft.finish()
    }

    /// Ends a joint change: the outgoing half goes, and who was only in it; `learners_next` become learners.
    pub fn leave_joint(&self) -> Result<Changed, ConfChangeError> {
        let mut draft = self.draft()?;
        if !draft.config.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        for id in std::mem::take(&mut draft.config.learners_next).iter() {
            draft.config.learners.insert(id);
            if let Some(progress) = draft.progress.get_mut(&id) {
                progress.is_learner = true;
            }
        }
        for id in std::mem::take(&mut draft.config.voters.outgoing).iter() {
            if !draft.config.voters.incoming.contains(id) && !draft.config.learners.contains(id) {
                draft.progress.remove(&id);
            }
        }
        draft.config.auto_leave = false;
        draft.finish()
    }

    /// A copy to work on, once the original is known to be sound.
    fn draft(&self) -> Result<Draft, ConfChangeError> {
        check_invariants(&self.tracker.config, &self.tracker.progress)?;
        Ok(Draft {
            config: self.tracker.config.clone(),
            progress: self.tracker.progress.clone(),
            newcomer: newcomer(self.last_index, self.tracker.new_inflights()),
        })
    }
}

/// The progress with which a member begins.
pub(super) fn newcomer(last_index: u64, inflights: Inflights) -> Progress {
    // Probing at the end of the log is right for a node that was fed by other means; one that is empty will say so, and
    // the snapshot that it needs then costs one round trip more. Counted as active, or the next quorum check would
    // depose a leader that has just added a voter.
    let mut progress = Progress::new(last_index.max(1), inflights);
    progress.recent_active = true;
    progress
}

/// A membership in the course of being changed.
struct Draft {
    config: Config,
    progress: ProgressMap,
    newcomer: Progress,
}

impl Draft {
    fn apply(&mut self, changes: &[ConfChangeSingle]) -> Result<(), ConfChangeError> {
        for change in changes {
            let id = change.node_id;
            // etcd zeroes the id of a change that its application rejects.
            if id == 0 {
                continue;
            }
            match ConfChangeType::try_from(change.change_type) {
                Ok(ConfChangeType::ConfChangeAddNode) => self.make_voter(id),
                Ok(ConfChangeType::ConfChangeAddLearnerNode) => self.make_learner(id),
                Ok(ConfChangeType::ConfChangeRemoveNode) => self.remove(id),
                Ok(ConfChangeType::ConfChangeUpdateNode) => {}
                Err(_) => return Err(ConfChangeError::UnknownChangeType(change.change_type)),
            }
        }
        if self.config.voters.incoming.is_empty() {
            return Err(ConfChangeError::RemovedAllVoters);
        }
        Ok(())
    }

    fn make_voter(&mut self, id: u64) {
        self.progress.get_or_insert_with(id, || self.newcomer.clone()).is_learner = false;
        self.config.learners.remove(id);
        self.config.learners_next.remove(id);
        self.config.voters.incoming.insert(id);
    }

    fn make_learner(&mut self, id: u64) {
        let progress = self.progress.get_or_insert_with(id, || self.newcomer.clone());
        self.config.voters.incoming.remove(id);
        if self.config.voters.outgoing.contains(id) {
            // Its vote still counts in the outgoing half: a learner only once that is left.
            self.config.learners_next.insert(id);
        } else {
            progress.is_learner = true;
            self.config.learners.insert(id);
        }
    }

    fn remove(&mut self, id: u64) {
        self.config.voters.incoming.remove(id);
        self.config.learners.remove(id);
        self.config.learners_next.remove(id);
        // The outgoing half still needs to know how far it is.
        if !self.config.voters.outgoing.contains(id) {
            self.progress.remove(&id);
        }
    }

    fn finish(self) -> Result<Changed, ConfChangeError> {
        check_invariants(&self.config, &self.progress)?;
        Ok((self.config, self.progress))
    }
}

/// Whether a membership is sound in itself; see the rules in the [module's documentation](super).
pub fn check_invariants(config: &Config, progress: &ProgressMap) -> Result<(), BrokenInvariant> {
    let Config { voters, auto_leave, learners, learners_next } = config;
    let is_learner = |id: u64| progress.get(&id).is_some_and(|progress| progress.is_learner);
    for id in voters.ids().iter().chain(learners.iter()).chain(learners_next.iter()) {
        if !progress.contains_key(&id) {
            return Err(BrokenInvariant::NoProgress(id));
        }
    }
    for id in learners_next.iter() {
        if !voters.outgoing.contains(id) {
            return Err(BrokenInvariant::NextLearnerNotOutgoing(id));
        }
        if is_learner(id) {
            return Err(BrokenInvariant::NextLearnerIsLearner(id));
        }
    }
    for id in learners.iter() {
        if voters.outgoing.contains(id) {
            return Err(BrokenInvariant::LearnerInOutgoing(id));
        }
        if voters.incoming.contains(id) {
            return Err(BrokenInvariant::LearnerInIncoming(id));
        }
        if !is_learner(id) {
            return Err(BrokenInvariant::LearnerNotMarked(id));
        }
    }
    if !voters.is_joint() {
        if !learners_next.is_empty() {
            return Err(BrokenInvariant::NextLearnersNotJoint);
        }
        if *auto_leave {
            return Err(BrokenInvariant::AutoLeaveNotJoint);
        }
    }
    Ok(())
}
