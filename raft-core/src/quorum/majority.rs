//! One set of voters that decides by majority.

use std::fmt;

use super::{AckedIndexer, IdSet, VoteResult};

/// Up to this many voters the committed index is found without allocating. Larger groups are rare, and legal.
const VOTERS_ON_STACK: usize = 7;

/// A set of voters, more than half of which must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MajorityConfig {
    voters: IdSet,
}

impl MajorityConfig {
    /// No voters: agrees with everything.
    pub const fn new() -> Self {
        MajorityConfig { voters: IdSet::new() }
    }

    /// Adds a voter; `false` if it was one already.
    pub fn insert(&mut self, id: u64) -> bool {
        self.voters.insert(id)
    }

    /// Removes a voter; `false` if it was none.
    pub fn remove(&mut self, id: u64) -> bool {
        self.voters.remove(id)
    }

    /// Whether the id is a voter.
    pub fn contains(&self, id: u64) -> bool {
        self.voters.contains(id)
    }

    /// The voters.
    pub fn ids(&self) -> &IdSet {
        &self.voters
    }

    /// The voters, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + '_ {
        self.voters.iter()
    }

    /// How many voters there are.
    pub fn len(&self) -> usize {
        self.voters.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// The highest index that a majority has acknowledged; `u64::MAX` without voters.
    ///
    /// With the acknowledged indexes in ascending order, the one at `n - (n/2 + 1)` has `n/2 + 1` voters at or above
    /// it, and is the highest one that has. A voter that never answered counts as 0.
    pub fn committed_index(&self, acked: &impl AckedIndexer) -> u64 {
        let count = self.voters.len();
        if count == 0 {
            return u64::MAX;
        }
        let mut on_stack = [0; VOTERS_ON_STACK];
        let mut on_heap = Vec::new();
        let indexes = match on_stack.get_mut(..count) {
            Some(indexes) => indexes,
            None => {
                on_heap.resize(count, 0);
                on_heap.as_mut_slice()
            }
        };
        for (slot, id) in indexes.iter_mut().zip(self.iter()) {
            *slot = acked.acked_index(id).unwrap_or(0);
        }
        indexes.sort_unstable();
        indexes.get(count - (count / 2 + usize::from(!bug!(HalfCommits)))).copied().unwrap_or(0)
    }

    /// How an election among these voters stands; `vote` says what a voter answered, if it did. Won without voters.
    pub fn vote_result(&self, vote: impl Fn(u64) -> Option<bool>) -> VoteResult {
        if self.voters.is_empty() {
            return VoteResult::Won;
        }
        let mut granted = 0;
        let mut open = 0;
        for id in self.iter() {
            match vote(id) {
                Some(true) => granted += 1,
                Some(false) => {}
                None => open += 1,
            }
        }
        let quorum = self.voters.len() / 2 + usize::from(!bug!(HalfElects));
        if granted >= quorum {
            VoteResult::Won
        } else if granted + open >= quorum {
            VoteResult::Pending
        } else {
            VoteResult::Lost
        }
    }

    /// Draws the acknowledged indexes for a reader: one line a voter, a bar as long as the number of voters behind it.
    pub fn describe(&self, acked: &impl AckedIndexer) -> String {
        let width = self.voters.len();
        if width == 0 {
            return "<empty majority quorum>".to_string();
        }
        let rows: Vec<(u64, Option<u64>)> = self.iter().map(|id| (id, acked.acked_index(id))).collect();
        let mut drawing = format!("{:width$}    idx\n", "");
        for (id, index) in &rows {
            let shown = index.unwrap_or(0);
            let bar = match index {
                Some(_) => {
                    let behind = rows.iter().filter(|(_, other)| other.unwrap_or(0) < shown).count();
                    format!("{}>", "x".repeat(behind))
                }
                None => "?".to_string(),
            };
            let column = width + 1;
            drawing.push_str(&format!("{bar:column$} {shown:>5}    (id={id:x})\n"));
        }
        drawing
    }
}

impl From<IdSet> for MajorityConfig {
    fn from(voters: IdSet) -> Self {
        MajorityConfig { voters }
    }
}

impl<const N: usize> From<[u64; N]> for MajorityConfig {
    fn from(ids: [u64; N]) -> Self {
        ids.into_iter().collect()
    }
}

impl FromIterator<u64> for MajorityConfig {
    fn from_iter<I: IntoIterator<Item = u64>>(ids: I) -> Self {
        MajorityConfig { voters: ids.into_iter().collect() }
    }
}

impl fmt::Display for MajorityConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.voters.fmt(f)
    }
}
