//! Who leads was elected: a quorum of its configuration has its vote on disk, its own included. Raft paper §5.2 (a
//! majority of the servers) and §5.1 (stable storage before responding).

use raft_core::tracker::Config;

use super::{ensure, Verdict};

/// Node `id` leads `term` under this configuration. `own` are the term and the vote that its disk holds for good; in a later
/// term, it was elected before it got there. `granted` tells who has sent it a vote of that term; that a vote is durable when
/// it is sent, `vote_once` sees to.
pub fn check(id: u64, term: u64, config: &Config, own: (u64, u64), granted: impl Fn(u64) -> bool) -> Verdict {
    let is_own = own == (term, id) || own.0 > term;
    let has_voted = |voter: &u64| if *voter == id { is_own } else { granted(*voter) };
    for half in [&config.voters.incoming, &config.voters.outgoing] {
        let votes = half.iter().filter(has_voted).count();
        ensure("elected by a quorum", half.is_empty() || votes > half.len() / 2, || {
            format!("node {id} leads term {term} with the durable votes of {votes} of {} voters ({config})", half.len())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_without_votes_is_found() {
        let mut config = Config::default();
        config.voters.incoming = [1, 2, 3].into_iter().collect();
        config.learners = [4].into_iter().collect();
        let votes = |ids: &'static [u64]| move |voter: u64| ids.contains(&voter);
        assert_eq!(check(1, 7, &config, (7, 1), votes(&[2])), Ok(()));
        assert_eq!(check(1, 7, &config, (8, 3), votes(&[2])), Ok(()), "it has moved on");
        assert_eq!(check(1, 7, &config, (7, 0), votes(&[2, 3])), Ok(()), "it does not need its own");
        assert!(check(1, 7, &config, (7, 1), votes(&[4])).is_err(), "learners do not count");
        assert!(check(1, 7, &config, (6, 1), votes(&[2])).is_err(), "its own is not durable");
        assert!(check(1, 7, &config, (7, 3), votes(&[2])).is_err(), "its own is another's");
        config.voters.outgoing = [4, 5, 6].into_iter().collect();
        assert!(check(1, 7, &config, (7, 1), votes(&[2])).is_err(), "both halves must agree");
        assert_eq!(check(1, 7, &config, (7, 1), votes(&[2, 4, 6])), Ok(()));
    }
}
