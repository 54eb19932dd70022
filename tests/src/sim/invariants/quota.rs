//! The leader's quota of uncommitted bytes: a proposal is refused for it only if it is exceeded, and taken only if it is
//! not. etcd `raft.go`, increaseUncommittedSize: one proposal always passes when nothing is uncommitted, and empty ones
//! always do.
//!
//! A leader counts what it appended until it has applied it. What it applies of its predecessors' entries is taken off
//! the count as well, so the count is a lower bound; by how much at most, is known here.

use std::collections::VecDeque;

use super::{ensure, Verdict};

const NAME: &str = "quota";

/// One leader's, from the moment that it leads.
#[derive(Debug, Default)]
pub struct Quota {
    /// Payload bytes of its own entries that it has not applied.
    tail_bytes: u64,
    /// Payload bytes of earlier leaders' entries that it applied while leading.
    foreign_bytes: u64,
    /// Payloads that were taken, oldest first.
    taken: VecDeque<u64>,
}

impl Quota {
    /// It took a proposal of so many payload bytes.
    pub fn takes(&mut self, leader: u64, bytes: u64, limit: u64) -> Verdict {
        let least = self.tail_bytes.saturating_sub(self.foreign_bytes);
        let (tail, foreign) = (self.tail_bytes, self.foreign_bytes);
        self.tail_bytes += bytes;
        if bytes > 0 {
            self.taken.push_back(bytes);
        }
        ensure(NAME, limit == 0 || bytes == 0 || least == 0 || least + bytes <= limit, || {
            format!("leader {leader} takes {bytes} bytes with at least {tail} - {foreign} uncommitted; the limit is {limit}")
        })
    }

    /// It refused such a proposal because of the quota.
    pub fn refuses(&self, leader: u64, bytes: u64, limit: u64) -> Verdict {
        let exceeded = limit != 0 && self.tail_bytes > 0 && self.tail_bytes + bytes > limit;
        ensure(NAME, exceeded && bytes > 0, || {
            format!("leader {leader} refuses {bytes} bytes with {} uncommitted; the limit is {limit}", self.tail_bytes)
        })
    }

    /// It has applied an entry of `bytes` payload, its own or an earlier leader's.
    pub fn applies(&mut self, bytes: u64, own: bool) {
        if own && bytes > 0 {
            self.tail_bytes = self.tail_bytes.saturating_sub(bytes);
            self.taken.pop_front();
        } else if !own {
            self.foreign_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_refusals_and_wrong_admissions_are_found() {
        let mut quota = Quota::default();
        assert!(quota.refuses(1, 500, 100).is_err(), "the first one always passes");
        assert_eq!(quota.takes(1, 500, 100), Ok(()));
        assert_eq!(quota.refuses(1, 1, 100), Ok(()));
        assert!(quota.refuses(1, 0, 100).is_err(), "an empty one always passes");
        assert!(quota.takes(1, 1, 100).is_err());
        quota.applies(500, true);
        quota.applies(1, true);
        assert!(quota.refuses(1, 1, 100).is_err(), "bytes that were never given back");
        assert_eq!(quota.takes(1, 60, 100), Ok(()));
        quota.applies(30, false);
        assert_eq!(quota.takes(1, 60, 100), Ok(()), "the count may be 30 by now");
        assert!(quota.takes(1, 60, 100).is_err());
    }
}
