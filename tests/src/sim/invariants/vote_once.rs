//! A node gives its vote to one candidate in a term, and only once that vote would survive a crash. Raft paper §5.2 and
//! figure 2 (votedFor is persistent state).

use std::collections::BTreeMap;

use super::{ensure, Verdict};

const NAME: &str = "vote once per term";

/// See the module.
#[derive(Debug, Default)]
pub struct VoteOnce {
    /// (term, voter) → candidate.
    votes: BTreeMap<(u64, u64), u64>,
}

impl VoteOnce {
    /// Whether this vote was ever granted.
    pub fn has(&self, voter: u64, candidate: u64, term: u64) -> bool {
        self.votes.get(&(term, voter)) == Some(&candidate)
    }

    /// A granted vote leaves `voter`, whose disk holds `durable` (term, vote) for good.
    pub fn grants(&mut self, voter: u64, candidate: u64, term: u64, durable: (u64, u64)) -> Verdict {
        let first = *self.votes.entry((term, voter)).or_insert(candidate);
        ensure(NAME, first == candidate, || {
            format!("node {voter} votes in term {term} for {first} and for {candidate}")
        })?;
        // In a later term the vote of this one is settled.
        ensure(NAME, durable == (term, candidate) || durable.0 > term, || {
            format!("node {voter} grants {candidate} its vote in term {term}; its disk holds term and vote {durable:?}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_vote_and_a_vote_in_memory_are_found() {
        let mut votes = VoteOnce::default();
        assert_eq!(votes.grants(1, 2, 5, (5, 2)), Ok(()));
        assert_eq!(votes.grants(1, 2, 5, (6, 0)), Ok(()));
        assert_eq!(votes.grants(1, 3, 6, (6, 3)), Ok(()));
        assert!(votes.has(1, 3, 6) && !votes.has(1, 3, 5) && !votes.has(2, 3, 6));
        assert!(votes.grants(1, 3, 5, (5, 3)).is_err());
        assert!(votes.grants(4, 3, 5, (4, 3)).is_err(), "not durable");
        assert!(votes.grants(7, 3, 5, (5, 0)).is_err(), "the term is durable, the vote is not");
    }
}
