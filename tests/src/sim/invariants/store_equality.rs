//! Nodes that have applied the same index hold the same keys and values. Raft paper §2 (replicated state machines) and
//! figure 3; the contract of crate `kvstore`.

use kvstore::Store;

use super::{ensure, Verdict};
use crate::sim::shadow::{fold, fold_bytes};

/// See the module.
#[derive(Debug, Default)]
pub struct StoreEquality {
    /// At position i, a digest of the store after index i + 1; 0 if nobody was seen there.
    digests: Vec<u64>,
}

/// A digest of keys and values; never 0.
pub fn digest(store: &Store) -> u64 {
    let pairs =
        store.iter().fold(store.len() as u64, |digest, (key, value)| fold_bytes(fold_bytes(digest, key), value));
    fold(pairs, 1) | 1
}

impl StoreEquality {
    /// A node's store, as of `index`, has this digest.
    pub fn applied(&mut self, id: u64, index: u64, digest: u64) -> Verdict {
        let position = index.saturating_sub(1) as usize;
        if self.digests.len() <= position {
            self.digests.resize(position + 1, 0);
        }
        let known = &mut self.digests[position];
        if *known == 0 {
            *known = digest;
        }
        ensure("store equality", *known == digest, || {
            format!("after {index}, node {id} holds another state than others")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvstore::Command;

    #[test]
    fn stores_that_differ_are_found() {
        let put = |value: &'static str| {
            let mut store = Store::new();
            store.apply(4, Command::Put { key: "k".into(), value: value.into() });
            digest(&store)
        };
        let mut equality = StoreEquality::default();
        assert_eq!(equality.applied(1, 4, put("a")), Ok(()));
        assert_eq!(equality.applied(2, 4, put("a")), Ok(()));
        assert_eq!(equality.applied(2, 5, put("b")), Ok(()));
        assert!(equality.applied(3, 4, put("b")).is_err());
        assert!(equality.applied(3, 4, digest(&Store::new())).is_err());
    }
}
