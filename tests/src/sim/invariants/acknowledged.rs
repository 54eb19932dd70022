//! What a node acknowledges is on its disk, and what a leader counts on is on its followers'. Raft paper §5.1 (stable
//! storage before responding); etcd `raft.go`, msgsAfterAppend.
//!
//! An acknowledgement in a term that is over on that very disk is not looked at: a later leader may have replaced the
//! entries before they were written, in the same write, and that leader's election is what makes it harmless.

use super::{ensure, Verdict};

const NAME: &str = "acknowledged is durable";

/// What a node's disk holds for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDisk {
    /// Its term.
    pub term: u64,
    /// The last index of its log.
    pub last: u64,
}

/// An acknowledgement of entries up to `index` leaves a node in `term`.
pub fn check(id: u64, index: u64, term: u64, disk: OnDisk) -> Verdict {
    ensure(NAME, disk.term > term || (disk.term == term && index <= disk.last), || {
        format!("node {id} acknowledges entries up to {index} in term {term}; its disk holds {disk:?}")
    })
}

/// A leader in `term` believes that a follower holds its log up to `index`, where the leader has an entry of term `own`,
/// and the follower's disk, whose term is `follower_term`, one of term `durable`.
pub fn check_match(
    (leader, term): (u64, u64),
    (follower, follower_term): (u64, u64),
    index: u64,
    own: Option<u64>,
    durable: Option<u64>,
) -> Verdict {
    ensure(NAME, index == 0 || own == durable || follower_term > term, || {
        format!("leader {leader} counts on entry {index} ({own:?}) of {follower}, whose disk has {durable:?} there")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_before_the_sync_is_found() {
        let disk = OnDisk { term: 3, last: 5 };
        assert_eq!(check(1, 5, 3, disk), Ok(()));
        assert_eq!(check(1, 9, 2, disk), Ok(()), "of a term that is over");
        assert!(check(1, 6, 3, disk).is_err());
        assert!(check(1, 5, 4, disk).is_err(), "the term itself is not durable");
        assert_eq!(check_match((1, 3), (2, 3), 5, Some(3), Some(3)), Ok(()));
        assert_eq!(check_match((1, 3), (2, 4), 5, Some(3), Some(4)), Ok(()));
        assert!(check_match((1, 3), (2, 3), 5, Some(3), Some(2)).is_err());
        assert!(check_match((1, 3), (2, 2), 5, Some(3), None).is_err());
    }
}
