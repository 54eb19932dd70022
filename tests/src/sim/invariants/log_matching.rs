//! Log matching: two entries with the same index and term are the same, and so is everything before them. Raft paper,
//! figure 3 and §5.3.
//!
//! It is enough to remember, of each (index, term) ever written anywhere, the content and the term of the entry before:
//! by induction, whoever agrees on that agrees on the whole log up to there.

use super::{ensure, Verdict};
use crate::sim::shadow::Mark;

/// See the module.
#[derive(Debug, Default)]
pub struct LogMatching {
    /// At position i, what was ever seen at index i + 1: the entry and the term before it.
    entries: Vec<Vec<(Mark, u64)>>,
}

impl LogMatching {
    /// Somebody has this entry, behind one of `previous_term`.
    pub fn entry(&mut self, index: u64, mark: Mark, previous_term: u64) -> Verdict {
        let position = index.saturating_sub(1) as usize;
        if self.entries.len() <= position {
            self.entries.resize(position + 1, Vec::new());
        }
        let seen = &mut self.entries[position];
        match seen.iter().rev().find(|(known, _)| known.term == mark.term) {
            None => {
                seen.push((mark, previous_term));
                Ok(())
            }
            Some((known, before)) => ensure("log matching", *known == mark && *before == previous_term, || {
                format!(
                    "entry {index} of term {} is {mark:?} after term {previous_term}, and elsewhere {known:?} after {before}",
                    mark.term
                )
            }),
        }
    }

    /// How many different entries there were.
    pub fn count(&self) -> usize {
        self.entries.iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_entries_in_one_place_are_found() {
        let mut matching = LogMatching::default();
        let mark = Mark { term: 2, digest: 9 };
        assert_eq!(matching.entry(5, mark, 1), Ok(()));
        assert_eq!(matching.entry(5, mark, 1), Ok(()));
        assert_eq!(matching.entry(5, Mark { term: 3, digest: 1 }, 1), Ok(()));
        assert!(matching.entry(5, Mark { term: 2, digest: 8 }, 1).is_err());
        assert!(matching.entry(5, mark, 2).is_err(), "the same entry behind another one");
        assert_eq!(matching.count(), 2);
    }
}
