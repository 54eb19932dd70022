//! Leader completeness: what was committed in a term is in the logs of the leaders of all later terms. Raft paper,
//! figure 3 and §5.4.3.

use super::{ensure, Verdict};
use crate::sim::shadow::{Mark, Shadow};

/// See the module.
#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    /// At position i, of the entry at index i + 1: the entry, and the lowest term in which it was known to be committed.
    committed: Vec<(Mark, u64)>,
}

impl LeaderCompleteness {
    /// The entry was known to be committed in `term`. Indexes come without gaps, or again.
    pub fn committed(&mut self, index: u64, mark: Mark, term: u64) {
        let position = index.saturating_sub(1) as usize;
        match self.committed.get_mut(position) {
            Some((_, known)) => *known = term.min(*known),
            None => self.committed.push((mark, term)),
        }
    }

    /// A node with this log begins to lead in `term`. By log matching, the last of the entries in question is enough.
    pub fn leads(&self, term: u64, log: &Shadow) -> Verdict {
        let Some(position) = self.committed.iter().rposition(|(_, known_in)| *known_in < term) else { return Ok(()) };
        let (index, (mark, known_in)) = (position as u64 + 1, &self.committed[position]);
        let found = log.get(index);
        ensure("leader completeness", log.base().0 >= index || found == Some(*mark), || {
            format!(
                "entry {index} ({mark:?}) was committed in term {known_in}; the leader of term {term} has {found:?}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_without_a_committed_entry_is_found() {
        let mark = |term| Mark { term, digest: term };
        let mut completeness = LeaderCompleteness::default();
        completeness.committed(1, mark(1), 1);
        completeness.committed(2, mark(2), 2);
        let mut log = Shadow::default();
        assert!(log.put(1, mark(1)));
        assert_eq!(completeness.leads(2, &log), Ok(()), "of its own term it need not know");
        assert!(completeness.leads(3, &log).is_err());
        assert!(log.put(2, mark(1)));
        assert!(completeness.leads(3, &log).is_err(), "another entry in its place");
        assert!(log.put(2, mark(2)));
        assert_eq!(completeness.leads(3, &log), Ok(()));
        log.reset(2, 2);
        assert_eq!(completeness.leads(3, &log), Ok(()), "a snapshot holds it");
    }
}
