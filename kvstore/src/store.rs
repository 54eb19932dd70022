//! The state, and the one way to change it.
//!
//! [`Store::apply`] takes the index of the log entry along with the command. The store remembers the highest index it
//! has seen, and an entry at or below it is not applied again ([`Outcome::AlreadyApplied`]): replaying a log over a
//! snapshot is harmless by construction, not by the caller's care.
//!
//! Keys and values are copied when they are stored. The bytes of a command usually are a slice of something larger (a
//! message from a peer, a segment of the log), and a value of a few bytes must not keep a megabyte alive.
//!
//! **A copy costs nothing.** [`Store::clone`] copies one pointer; the two share every node of their map until one of them
//! changes it, and then that one copies the few nodes that are touched. Whoever writes a snapshot takes a copy and reads
//! it for as long as it likes, while the original goes on.
//!
//! What is left out: history. A put forgets the value before; revisions are for the day when somebody may ask for them.

use bytes::Bytes;
use imbl::OrdMap;
use smallvec::SmallVec;

use crate::Command;

/// A key as the map keeps it: a short one in the node itself, so that to compare with it is to look at memory that is
/// being looked at. (It is not larger than `Bytes`.)
pub(crate) type Key = SmallVec<[u8; 24]>;

/// Keys and values, as of an index of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    /// Every entry up to here has had its effect; never goes down.
    pub(crate) applied: u64,
    /// In key order, so that equal states make equal snapshots.
    pub(crate) pairs: OrdMap<Key, Bytes>,
}

/// The answer for whoever proposed the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The put was carried out.
    Stored {
        /// The key had a value before.
        replaced: bool,
    },
    /// The delete was carried out.
    Deleted {
        /// There was such a key.
        existed: bool,
    },
    /// The index is not beyond [`Store::applied`]; nothing was done.
    AlreadyApplied,
}

/// What changed, for whoever watches. One command may change several things, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `key` has `value` since `index`.
    Put {
        /// The index of the entry that did it.
        index: u64,
        /// The key.
        key: Bytes,
        /// Its value now.
        value: Bytes,
    },
    /// `key` is gone since `index`.
    Delete {
        /// The index of the entry that did it.
        index: u64,
        /// The key.
        key: Bytes,
    },
}

impl Store {
    /// An empty store, as of index 0.
    pub fn new() -> Store {
        Store::default()
    }

    /// Carries out the command of the log entry at `index`. Deterministic: the same calls leave the same state, give
    /// the same answers and the same events on every node.
    pub fn apply(&mut self, index: u64, command: Command) -> (Outcome, Vec<Event>) {
        if index <= self.applied {
            return (Outcome::AlreadyApplied, Vec::new());
        }
        self.applied = index;
        match command {
            Command::Put { key, value } => {
                // A copy of its own size: the command's is a piece of an entry, or of more. The event keeps that, since a
                // share of a copy would cost an allocation, kept as long as the pair is.
                let stored = Bytes::copy_from_slice(&value);
                let replaced = match self.pairs.get_mut(&key[..]) {
                    Some(value) => {
                        *value = stored;
                        true
                    }
                    None => self.pairs.insert(Key::from_slice(&key), stored).is_some(),
                };
                (Outcome::Stored { replaced }, vec![Event::Put { index, key, value }])
            }
            Command::Delete { key } => match self.pairs.remove(&key[..]) {
                Some(_) => (Outcome::Deleted { existed: true }, vec![Event::Delete { index, key }]),
                None => (Outcome::Deleted { existed: false }, Vec::new()),
            },
        }
    }

    /// Notes that the entry at `index` held no command (a new leader's empty entry, a configuration change).
    pub fn skip(&mut self, index: u64) {
        self.applied = self.applied.max(index);
    }

    /// The index of the last entry that has had its effect; 0 before the first.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The value of `key`, shared, not copied.
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.pairs.get(key).cloned()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// All keys and their values, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Bytes)> {
        self.pairs.iter().map(|(key, value)| (&key[..], value))
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(key: &str, value: &str) -> Command {
        Command::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::copy_from_slice(value.as_bytes()) }
    }

    fn delete(key: &str) -> Command {
        Command::Delete { key: Bytes::copy_from_slice(key.as_bytes()) }
    }

    #[test]
    fn a_put_stores_and_says_whether_it_replaced() {
        let mut store = Store::new();
        let (outcome, events) = store.apply(1, put("a", "1"));
        assert_eq!(outcome, Outcome::Stored { replaced: false });
        assert_eq!(events, [Event::Put { index: 1, key: "a".into(), value: "1".into() }]);
        assert_eq!(store.apply(2, put("a", "2")).0, Outcome::Stored { replaced: true });
        assert_eq!(store.get(b"a"), Some("2".into()));
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn a_delete_says_whether_there_was_something() {
        let mut store = Store::new();
        store.apply(1, put("a", "1"));
        let (outcome, events) = store.apply(2, delete("a"));
        assert_eq!(outcome, Outcome::Deleted { existed: true });
        assert_eq!(events, [Event::Delete { index: 2, key: "a".into() }]);
        assert_eq!(store.apply(3, delete("a")), (Outcome::Deleted { existed: false }, Vec::new()));
        assert!(store.is_empty());
        assert_eq!(store.applied(), 3, "a delete of nothing still uses up its index");
    }

    #[test]
    fn a_copy_does_not_see_what_happens_afterwards() {
        let mut store = Store::new();
        for index in 1..=1000 {
            store.apply(index, put(&index.to_string(), "old"));
        }
        let copy = store.clone();
        for index in 1..=500 {
            store.apply(1000 + index, put(&index.to_string(), "new"));
            store.apply(1500 + index, delete(&(500 + index).to_string()));
        }
        assert_eq!((copy.len(), copy.applied()), (1000, 1000));
        assert!(copy.iter().all(|(_, value)| value == "old"));
        assert_eq!(store.len(), 500);
    }

    #[test]
    fn keys_of_every_length_are_kept_in_order_and_restored() {
        let mut store = Store::new();
        let keys: Vec<String> = (0..60).map(|length| "k".repeat(length)).collect();
        for (index, key) in (1..).zip(keys.iter().rev()) {
            store.apply(index, put(key, key));
        }
        assert!(store.iter().map(|(key, _)| key).eq(keys.iter().map(|key| key.as_bytes())));
        assert_eq!(Store::restore(&store.snapshot()), Ok(store.clone()));
        for (index, key) in (100..).zip(&keys) {
            assert_eq!(store.apply(index, delete(key)).0, Outcome::Deleted { existed: true });
        }
        assert!(store.is_empty());
    }

    #[test]
    fn an_index_is_applied_once() {
        let mut store = Store::new();
        store.apply(5, put("a", "new"));
        assert_eq!(store.apply(5, put("a", "again")), (Outcome::AlreadyApplied, Vec::new()));
        assert_eq!(store.apply(4, delete("a")).0, Outcome::AlreadyApplied);
        assert_eq!(store.get(b"a"), Some("new".into()));
        store.skip(9);
        store.skip(2);
        assert_eq!(store.applied(), 9);
        assert_eq!(store.apply(9, delete("a")).0, Outcome::AlreadyApplied);
    }

    #[test]
    fn empty_and_binary_keys_and_values_are_ordinary() {
        let mut store = Store::new();
        store.apply(1, Command::Put { key: Bytes::new(), value: Bytes::new() });
        store.apply(2, Command::Put { key: Bytes::from_static(b"\0\xff"), value: Bytes::from_static(b"a\xff\0b") });
        assert_eq!(store.get(b""), Some(Bytes::new()));
        assert_eq!(store.get(b"\0\xff"), Some(Bytes::from_static(b"a\xff\0b")));
        assert_eq!(store.get(b"\0"), None);
    }

    proptest! {
        /// Against a plain map: same contents, and the same answers, whatever the commands.
        #[test]
        fn the_store_is_a_map(steps in proptest::collection::vec((0u8..6, proptest::option::of(0u8..4)), 0..60)) {
            let mut store = Store::new();
            let mut model = std::collections::HashMap::new();
            for (position, (key, value)) in steps.into_iter().enumerate() {
                let index = position as u64 + 1;
                let (key, command) = match value {
                    Some(value) => (key, put(&key.to_string(), &value.to_string())),
                    None => (key, delete(&key.to_string())),
                };
                let expected = match value {
                    Some(value) => Outcome::Stored { replaced: model.insert(key, value).is_some() },
                    None => Outcome::Deleted { existed: model.remove(&key).is_some() },
                };
                prop_assert_eq!(store.apply(index, command).0, expected);
            }
            prop_assert_eq!(store.len(), model.len());
            for (key, value) in model {
                prop_assert_eq!(store.get(key.to_string().as_bytes()), Some(value.to_string().into()));
            }
        }
    }
}
