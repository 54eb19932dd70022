//! A read index is never stale: it is at least what was committed anywhere when the read was asked for. Raft paper §8;
//! thesis §6.4; etcd issue 20418.

use super::{ensure, Verdict};

/// A node is told that it may serve a read at `index`; when it was asked for, everything up to `committed` was committed
/// somewhere.
pub fn check(id: u64, index: u64, committed: u64) -> Verdict {
    ensure("read index", index >= committed, || {
        format!("node {id} may serve a read at {index}, but {committed} was committed before it was asked for")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_read_index_is_found() {
        assert_eq!(check(1, 5, 5), Ok(()));
        assert!(check(1, 4, 5).is_err());
    }
}
