//! Who is in the cluster, how far each member is, and who voted how.
//!
//! [`Config`] is the membership in force: voters (two halves during a joint change) and learners. A [`ProgressTracker`]
//! adds what a node needs to lead and to campaign under it: one [`Progress`] per member and the votes of the current
//! election. It only keeps count; the decisions are the state machine's, the arithmetic is [`crate::quorum`]'s, and the
//! membership is changed by [`crate::confchange`] alone, which hands back a new pair of both.
//!
//! Everything is ordered by id, so that messages and log lines come out in the same order on every run.
//!
//! Compare etcd's `raft/tracker`. A callback visitor is left out: `progress` is an ordered map and can be iterated.

mod inflights;
mod progress;
mod progress_map;

use std::collections::BTreeMap;
use std::fmt;

pub use inflights::Inflights;
pub use progress::{Progress, ProgressState};
pub use progress_map::ProgressMap;

use crate::pb::ConfState;
use crate::quorum::{AckedIndexer, IdSet, JointConfig, VoteResult};

/// The membership in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Config {
    /// Who votes.
    pub voters: JointConfig,
    /// The joint configuration is left as soon as it is applied. `auto_leave ⇒ voters.outgoing ≠ ∅`
    pub auto_leave: bool,
    /// Members that do not vote. `learners ∩ voters = ∅`, in both halves.
    pub learners: IdSet,
    /// Voters of the outgoing half that become learners when the joint configuration is left: until then their vote
    /// still counts, so they cannot be learners yet. `learners_next ⊆ voters.outgoing \ voters.incoming`
    pub learners_next: IdSet,
}

impl Config {
    /// Whether a joint change is under way.
    pub fn is_joint(&self) -> bool {
        self.voters.is_joint()
    }

    /// The same as it is stored in snapshots and answered to applications.
    pub fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.incoming.ids().as_slice().to_vec(),
            voters_outgoing: self.voters.outgoing.ids().as_slice().to_vec(),
            learners: self.learners.as_slice().to_vec(),
            learners_next: self.learners_next.as_slice().to_vec(),
            auto_leave: self.auto_leave,
        }
    }
}

impl fmt::Display for Config {
    /// `voters=(1 2)&&(1 3) learners=(4) learners_next=(3) autoleave`; what is empty is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "voters={}", self.voters)?;
        if !self.learners.is_empty() {
            write!(f, " learners={}", self.learners)?;
        }
        if !self.learners_next.is_empty() {
            write!(f, " learners_next={}", self.learners_next)?;
        }
        if self.auto_leave {
            f.write_str(" autoleave")?;
        }
        Ok(())
    }
}

/// The membership, each member's progress, and the votes of the current election.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProgressTracker {
    /// The membership in force.
    pub config: Config,
    /// `progress.keys() = voters of both halves ∪ learners`
    pub progress: ProgressMap,
    /// Who answered, and whether the vote was granted. May hold ids that are no voters: those do not count.
    pub votes: BTreeMap<u64, bool>,
    /// Appends under way per follower, at most.
    pub max_inflight_msgs: usize,
    /// Payload bytes under way per follower, about at most; 0: no limit.
    pub max_inflight_bytes: u64,
}

impl ProgressTracker {
    /// An empty membership.
    pub fn new(max_inflight_msgs: usize, max_inflight_bytes: u64) -> Self {
        ProgressTracker {
            config: Config::default(),
            progress: ProgressMap::new(),
            votes: BTreeMap::new(),
            max_inflight_msgs,
            max_inflight_bytes,
        }
    }

    /// An empty window with this tracker's limits.
    pub fn new_inflights(&self) -> Inflights {
        Inflights::new(self.max_inflight_msgs, self.max_inflight_bytes)
    }

    /// The membership as it is stored.
    pub fn conf_state(&self) -> ConfState {
        self.config.conf_state()
    }

    /// Whether there is one voter and no change under way: then the leader agrees with itself.
    pub fn is_singleton(&self) -> bool {
        self.config.voters.incoming.len() == 1 && !self.config.is_joint()
    }

    /// The highest index that a quorum holds; whether it may be committed depends on its term too (paper, §5.4.2).
    pub fn committed(&self) -> u64 {
        if bug!(LearnerCommits) {
            return crate::quorum::MajorityConfig::from(self.voter_ids().union(&self.config.learners))
                .committed_index(self);
        }
        self.config.voters.committed_index(self)
    }

    /// Whether a quorum of voters was heard from lately.
    pub fn quorum_active(&self) -> bool {
        let active = |id: u64| {
            let progress = self.progress.get(&id)?;
            (!progress.is_learner).then_some(progress.recent_active)
        };
        self.config.voters.vote_result(active) == VoteResult::Won
    }

    /// The voters of both halves.
    pub fn voter_ids(&self) -> IdSet {
        self.config.voters.ids()
    }

    /// The learners. Those in `learners_next` still vote, and are not among them.
    pub fn learner_ids(&self) -> &IdSet {
        &self.config.learners
    }

    /// Forgets all votes: a new election begins.
    pub fn reset_votes(&mut self) {
        self.votes.clear();
    }

    /// Notes how a member voted. Its first answer counts; a vote is given once per term.
    pub fn record_vote(&mut self, id: u64, granted: bool) {
        self.votes.entry(id).or_insert(granted);
    }

    /// How many members granted and refused their vote, and what follows.
    pub fn tally_votes(&self) -> (usize, usize, VoteResult) {
        let (mut granted, mut rejected) = (0, 0);
        for (id, progress) in &self.progress {
            match self.votes.get(id) {
                _ if progress.is_learner => {}
                Some(true) => granted += 1,
                Some(false) => rejected += 1,
                None => {}
            }
        }
        let result = self.config.voters.vote_result(|id| self.votes.get(&id).copied());
        (granted, rejected, result)
    }
}

impl AckedIndexer for ProgressTracker {
    #[inline]
    fn acked_index(&self, id: u64) -> Option<u64> {
        self.progress.get(&id).map(|progress| progress.match_index)
    }
}

/// One line per member, ascending: `1: StateProbe match=0 next=1`.
pub fn describe_progress(progress: &ProgressMap) -> String {
    progress.iter().map(|(id, one)| format!("{id}: {one}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker(voters: &[u64], outgoing: &[u64], learners: &[u64]) -> ProgressTracker {
        let mut tracker = ProgressTracker::new(10, 0);
        tracker.config.voters.incoming = voters.iter().copied().collect();
        tracker.config.voters.outgoing = outgoing.iter().copied().collect();
        tracker.config.learners = learners.iter().copied().collect();
        for id in tracker.voter_ids().union(&tracker.config.learners).iter() {
            let mut progress = Progress::new(1, tracker.new_inflights());
            progress.is_learner = learners.contains(&id);
            tracker.progress.insert(id, progress);
        }
        tracker
    }

    #[test]
    fn prints() {
        let mut config = Config::default();
        assert_eq!(config.to_string(), "voters=()");
        config.voters = JointConfig { incoming: [1, 2].into(), outgoing: [1, 3].into() };
        config.learners = [4, 16].into();
        config.learners_next = [3].into();
        config.auto_leave = true;
        assert_eq!(config.to_string(), "voters=(1 2)&&(1 3) learners=(4 10) learners_next=(3) autoleave");
        let state = config.conf_state();
        assert_eq!((state.voters, state.voters_outgoing), (vec![1, 2], vec![1, 3]));
        assert_eq!((state.learners, state.learners_next, state.auto_leave), (vec![4, 16], vec![3], true));
        let tracker = tracker(&[1], &[], &[2]);
        let lines = "1: StateProbe match=0 next=1 inactive\n2: StateProbe match=0 next=1 learner inactive\n";
        assert_eq!(describe_progress(&tracker.progress), lines);
    }

    #[test]
    fn the_first_vote_counts_and_learners_do_not() {
        let mut tracker = tracker(&[1, 2, 3], &[], &[4]);
        tracker.record_vote(1, true);
        tracker.record_vote(1, false);
        tracker.record_vote(4, true);
        tracker.record_vote(9, true);
        assert_eq!(tracker.tally_votes(), (1, 0, VoteResult::Pending));
        tracker.record_vote(2, false);
        assert_eq!(tracker.tally_votes(), (1, 1, VoteResult::Pending));
        tracker.record_vote(3, true);
        assert_eq!(tracker.tally_votes(), (2, 1, VoteResult::Won));
        tracker.reset_votes();
        assert_eq!(tracker.tally_votes(), (0, 0, VoteResult::Pending));
    }

    #[test]
    fn a_joint_vote_needs_both_halves() {
        let mut tracker = tracker(&[1, 2, 3], &[3, 4, 5], &[]);
        tracker.record_vote(1, true);
        tracker.record_vote(2, true);
        assert_eq!(tracker.tally_votes(), (2, 0, VoteResult::Pending));
        tracker.record_vote(4, false);
        tracker.record_vote(5, false);
        assert_eq!(tracker.tally_votes(), (2, 2, VoteResult::Lost));
    }

    #[test]
    fn committed_and_activity_look_at_voters_only() {
        let mut tracker = tracker(&[1, 2, 3], &[], &[4, 5, 6]);
        for (id, progress) in tracker.progress.iter_mut() {
            progress.match_index = id * 10;
            progress.recent_active = *id > 2;
        }
        assert_eq!(tracker.committed(), 20);
        assert!(!tracker.quorum_active());
        if let Some(progress) = tracker.progress.get_mut(&1) {
            progress.recent_active = true;
        }
        assert!(tracker.quorum_active());
        assert!(!tracker.is_singleton());
        assert!(tests::tracker(&[1], &[], &[2]).is_singleton());
        assert!(!tests::tracker(&[1], &[1], &[]).is_singleton());
    }
}
