//! Who leads was elected: a quorum of its configuration has its vote on disk, its own included. Raft paper §5.2 (a
//! majority of the servers) and §5.1 (stable storage before responding).

use raft_core::tracker::Config;

use super::{ensure, Verdict};

/// Node `id` leads `term` under this configuration. `disk` tells the term and vote that a node's disk holds for good; a
/// voter whose disk is in a later term has voted before it got there, or not: it is not counted against anybody.
pub fn check(id: u64, term: u64, config: &Config, disk: impl Fn(u64) -> Option<(u64, u64)>) -> Verdict {
    let has_voted = |voter: &u64| disk(*voter).is_some_and(|(at, vote)| at > term || (at == term && vote == id));
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
        let votes = |ids: &'static [u64]| move |id: u64| Some(if ids.contains(&id) { (7, 1) } else { (7, 3) });
        assert_eq!(check(1, 7, &config, votes(&[1, 2])), Ok(()));
        assert_eq!(check(1, 6, &config, |_| Some((7, 3))), Ok(()), "they have moved on");
        assert!(check(1, 7, &config, votes(&[1, 4])).is_err(), "learners do not count");
        assert!(check(1, 8, &config, votes(&[1, 2])).is_err(), "votes of an earlier term");
        config.voters.outgoing = [4, 5, 6].into_iter().collect();
        assert!(check(1, 7, &config, votes(&[1, 2])).is_err(), "both halves must agree");
        assert_eq!(check(1, 7, &config, votes(&[1, 2, 4, 6])), Ok(()));
    }
}
