//! Term, commit index and applied index never fall while a node runs, term and vote not even across a crash, and
//! `applied ≤ commit ≤ last`. Raft paper, figure 2 ("latest term server has seen", "increases monotonically").

use super::{ensure, Verdict};

const NAME: &str = "monotonic";

/// What is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The term.
    pub term: u64,
    /// The vote in it.
    pub vote: u64,
    /// The commit index.
    pub commit: u64,
    /// The applied index.
    pub applied: u64,
}

/// One node's.
#[derive(Debug, Default)]
pub struct Monotonic {
    seen: Seen,
}

impl Monotonic {
    /// The commit index that was seen last.
    pub fn commit(&self) -> u64 {
        self.seen.commit
    }

    /// A running node is in this state, with a log that ends at `last`.
    pub fn runs(&mut self, id: u64, now: Seen, last: u64) -> Verdict {
        let before = std::mem::replace(&mut self.seen, now);
        let falls = now.term < before.term || now.commit < before.commit || now.applied < before.applied;
        ensure(NAME, !falls, || format!("node {id} goes from {before:?} to {now:?}"))?;
        let changes_vote = now.term == before.term && before.vote != 0 && now.vote != before.vote;
        ensure(NAME, !changes_vote, || {
            format!("node {id} changes its vote of term {} from {before:?} to {now:?}", now.term)
        })?;
        ensure(NAME, now.applied <= now.commit && now.commit <= last, || {
            format!("node {id} is at {now:?} with a log that ends at {last}")
        })
    }

    /// The node starts again, in this state; what it had made durable of term and vote is `durable`.
    pub fn starts(&mut self, id: u64, now: Seen, durable: (u64, u64)) -> Verdict {
        self.seen = now;
        let (term, vote) = durable;
        ensure(NAME, now.term > term || (now.term == term && (vote == 0 || now.vote == vote)), || {
            format!("node {id} had voted for {vote} in term {term} and comes back as {now:?}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_falls_is_found() {
        let seen = |term, vote, commit, applied| Seen { term, vote, commit, applied };
        let start = || Monotonic { seen: seen(3, 1, 10, 8) };
        assert_eq!(start().runs(1, seen(3, 1, 11, 9), 11), Ok(()));
        assert_eq!(start().runs(1, seen(4, 2, 10, 8), 11), Ok(()));
        assert!(start().runs(1, seen(2, 1, 10, 8), 11).is_err());
        assert!(start().runs(1, seen(3, 1, 9, 8), 11).is_err());
        assert!(start().runs(1, seen(3, 1, 10, 7), 11).is_err());
        assert!(start().runs(1, seen(3, 2, 10, 8), 11).is_err(), "another vote in the same term");
        assert!(start().runs(1, seen(3, 1, 12, 8), 11).is_err(), "commit beyond the log");
        assert!(start().runs(1, seen(3, 1, 10, 11), 11).is_err(), "applied beyond commit");
        assert_eq!(start().starts(1, seen(3, 1, 2, 0), (3, 1)), Ok(()), "commit may be behind after a crash");
        assert!(start().starts(1, seen(2, 0, 2, 0), (3, 1)).is_err());
        assert!(start().starts(1, seen(3, 0, 2, 0), (3, 1)).is_err(), "the vote is forgotten");
    }
}
