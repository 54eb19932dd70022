//! A small set of node ids, kept as a sorted vector.
//!
//! Memberships hold a handful of ids, are read at every commit and change perhaps once a day. A sorted vector is read
//! without chasing pointers and always in the same order, which the determinism of the whole crate rests on.

use std::fmt;

/// Node ids in ascending order, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IdSet {
    /// `ids[i] < ids[i + 1]`
    ids: Vec<u64>,
}

impl IdSet {
    /// No ids.
    pub const fn new() -> Self {
        IdSet { ids: Vec::new() }
    }

    /// Adds an id; `false` if it was there already.
    pub fn insert(&mut self, id: u64) -> bool {
        match self.ids.binary_search(&id) {
            Ok(_) => false,
            Err(position) => {
                self.ids.insert(position, id);
                true
            }
        }
    }

    /// Removes an id; `false` if it was not there.
    pub fn remove(&mut self, id: u64) -> bool {
        match self.ids.binary_search(&id) {
            Ok(position) => {
                self.ids.remove(position);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether the id is a member.
    pub fn contains(&self, id: u64) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// All of them, ascending.
    pub fn as_slice(&self) -> &[u64] {
        &self.ids
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + '_ {
        self.ids.iter().copied()
    }

    /// Members of either set.
    pub fn union(&self, other: &IdSet) -> IdSet {
        self.iter().chain(other.iter()).collect()
    }

    /// How many ids are in one of the sets but not in both.
    pub fn symmetric_difference_len(&self, other: &IdSet) -> usize {
        let only_here = self.iter().filter(|id| !other.contains(*id)).count();
        let only_there = other.iter().filter(|id| !self.contains(*id)).count();
        only_here + only_there
    }
}

impl FromIterator<u64> for IdSet {
    fn from_iter<I: IntoIterator<Item = u64>>(ids: I) -> Self {
        let mut ids: Vec<u64> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        IdSet { ids }
    }
}

impl Extend<u64> for IdSet {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, ids: I) {
        self.ids.extend(ids);
        self.ids.sort_unstable();
        self.ids.dedup();
    }
}

impl<const N: usize> From<[u64; N]> for IdSet {
    fn from(ids: [u64; N]) -> Self {
        ids.into_iter().collect()
    }
}

impl fmt::Display for IdSet {
    /// `(1 2 a)`: ascending, in hexadecimal, as all of etcd's log lines print ids.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (position, id) in self.ids.iter().enumerate() {
            let gap = if position == 0 { "" } else { " " };
            write!(f, "{gap}{id:x}")?;
        }
        f.write_str(")")
    }
}
