//! Leader append-only: a leader never overwrites or deletes entries of its own log. Raft paper, figure 3 and §5.3.

use super::{ensure, Verdict};

/// A node that led before and leads still puts entries from `first` on into a log that ended at `last`.
pub fn check(leads: bool, last: u64, first: u64) -> Verdict {
    ensure("leader append-only", !leads || first == last + 1, || {
        format!("a leader whose log ends at {last} writes entries from {first} on")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_overwrites_is_found() {
        assert_eq!(check(true, 7, 8), Ok(()));
        assert_eq!(check(false, 7, 5), Ok(()));
        assert!(check(true, 7, 7).is_err());
        assert!(check(true, 7, 9).is_err());
    }
}
