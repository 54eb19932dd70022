//! What a leader believes of a follower stays within bounds: `match < next`, `match ≤ last`, windows within their limits,
//! and each state with what belongs to it. Raft paper, figure 2 (nextIndex, matchIndex); etcd `tracker/progress.go`.

use raft_core::tracker::{Progress, ProgressState};

use super::{ensure, Verdict};

/// The leader's limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The last index of its log.
    pub last: u64,
    /// Appends in a window.
    pub max_inflight_msgs: usize,
    /// Payload bytes in a window, 0 for no limit.
    pub max_inflight_bytes: u64,
    /// Payload bytes of the largest entry: an append may pass the window's limit by one message.
    pub message_bytes: u64,
}

/// A leader believes this of a member.
pub fn check(leader: u64, id: u64, progress: &Progress, is_learner: bool, limits: Limits) -> Verdict {
    let Progress { match_index, next_index, state, pending_snapshot, inflights, .. } = progress;
    let replicates = *state == ProgressState::Replicate;
    let window = limits.max_inflight_bytes;
    let holds = match_index < next_index
        && *match_index <= limits.last
        && *next_index <= limits.last + 1
        && (*state == ProgressState::Snapshot) == (*pending_snapshot != 0)
        && pending_snapshot < next_index
        && (replicates || inflights.count() == 0)
        && inflights.count() <= limits.max_inflight_msgs
        && (window == 0 || inflights.bytes() < window.saturating_add(limits.message_bytes))
        && progress.is_learner == is_learner;
    ensure("progress bounds", holds, || {
        format!("leader {leader} believes of {id}: {progress} with {} bytes in flight; {limits:?}", inflights.bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::tracker::Inflights;

    #[test]
    fn what_is_out_of_bounds_is_found() {
        let limits = Limits { last: 10, max_inflight_msgs: 2, max_inflight_bytes: 100, message_bytes: 50 };
        let good = || {
            let mut progress = Progress::new(8, Inflights::new(9, 0));
            progress.match_index = 5;
            progress
        };
        let verdict = |change: &dyn Fn(&mut Progress)| {
            let mut progress = good();
            change(&mut progress);
            check(1, 2, &progress, false, limits)
        };
        assert_eq!(verdict(&|_| {}), Ok(()));
        assert!(verdict(&|progress| progress.match_index = 8).is_err());
        assert!(verdict(&|progress| (progress.match_index, progress.next_index) = (11, 12)).is_err());
        assert!(verdict(&|progress| progress.next_index = 12).is_err());
        assert!(verdict(&|progress| progress.pending_snapshot = 5).is_err());
        assert!(verdict(&|progress| progress.state = ProgressState::Snapshot).is_err());
        assert!(verdict(&|progress| progress.is_learner = true).is_err());
        assert!(verdict(&|progress| assert!(progress.inflights.add(7, 1))).is_err(), "a window while probing");
        let streams = |appends: &[(u64, u64)]| {
            verdict(&|progress| {
                progress.state = ProgressState::Replicate;
                appends.iter().for_each(|(index, bytes)| assert!(progress.inflights.add(*index, *bytes)));
            })
        };
        assert_eq!(streams(&[(6, 99), (7, 50)]), Ok(()));
        assert!(streams(&[(6, 100), (7, 50)]).is_err(), "too many bytes");
        assert!(streams(&[(6, 1), (7, 1), (8, 1)]).is_err(), "too many appends");
    }
}
