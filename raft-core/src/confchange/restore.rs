//! From a stored membership back to a working one.

use super::changer::{newcomer, Changed};
use super::{check_invariants, ConfChangeError};
use crate::config::is_local_thread;
use crate::pb::ConfState;
use crate::quorum::{IdSet, JointConfig};
use crate::tracker::{Config, Inflights, ProgressMap};

/// Rebuilds a membership from what a snapshot says, with every member at the beginning of its progress.
///
/// etcd replays the changes that lead there; this builds the same thing directly, in time linear in its size, and
/// refuses what no changes lead to: an id that is zero, a storage thread's or listed twice, a learner that votes, no voters.
pub fn restore(
    state: &ConfState,
    last_index: u64,
    max_inflight_msgs: usize,
    max_inflight_bytes: u64,
) -> Result<Changed, ConfChangeError> {
    if bug!(RestoreOneHalf) && !state.voters_outgoing.is_empty() {
        let half = ConfState { voters: state.voters.clone(), learners: state.learners.clone(), ..ConfState::default() };
        return restore(&half, last_index, max_inflight_msgs, max_inflight_bytes);
    }
    let config = Config {
        voters: JointConfig {
            incoming: unique("voters", &state.voters)?.into(),
            outgoing: unique("voters_outgoing", &state.voters_outgoing)?.into(),
        },
        auto_leave: state.auto_leave,
        learners: unique("learners", &state.learners)?,
        learners_next: unique("learners_next", &state.learners_next)?,
    };
    let members = config.voters.ids().union(&config.learners).union(&config.learners_next);
    if config.voters.incoming.is_empty() && !members.is_empty() {
        return Err(ConfChangeError::RemovedAllVoters);
    }
    if let Some(id) = config.learners_next.iter().find(|id| config.voters.incoming.contains(*id)) {
        return Err(ConfChangeError::NotRestorable(format!("{id} is in learners_next and in voters")));
    }
    let mut progress = ProgressMap::new();
    for id in members.iter() {
        let mut one = newcomer(last_index, Inflights::new(max_inflight_msgs, max_inflight_bytes));
        one.is_learner = config.learners.contains(id);
        progress.insert(id, one);
    }
    check_invariants(&config, &progress)?;
    if !equivalent(state, &config.conf_state()) {
        return Err(ConfChangeError::NotRestorable(format!("it would become {config}")));
    }
    Ok((config, progress))
}

fn unique(list: &str, ids: &[u64]) -> Result<IdSet, ConfChangeError> {
    let set: IdSet = ids.iter().copied().collect();
    if set.contains(0) {
        return Err(ConfChangeError::NotRestorable(format!("{list} contains the id 0")));
    }
    if let Some(id) = set.iter().find(|id| is_local_thread(*id)) {
        return Err(ConfChangeError::NotRestorable(format!("{list} contains {id}, which is a local storage thread's")));
    }
    if set.len() != ids.len() {
        return Err(ConfChangeError::NotRestorable(format!("{list} contains an id twice: {ids:?}")));
    }
    Ok(set)
}

/// Whether two stored memberships say the same: the order of ids does not matter, how often one is listed does.
pub fn equivalent(a: &ConfState, b: &ConfState) -> bool {
    fn sorted(ids: &[u64]) -> Vec<u64> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    }
    sorted(&a.voters) == sorted(&b.voters)
        && sorted(&a.voters_outgoing) == sorted(&b.voters_outgoing)
        && sorted(&a.learners) == sorted(&b.learners)
        && sorted(&a.learners_next) == sorted(&b.learners_next)
        && a.auto_leave == b.auto_leave
}
