//! Election safety: at most one leader in a term. Raft paper, figure 3 and §5.2.

use std::collections::BTreeMap;

use super::{ensure, Verdict};

/// See the module.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<u64, u64>,
}

impl ElectionSafety {
    /// A node leads, or spoke as only a leader may, in a term.
    pub fn leads(&mut self, term: u64, id: u64) -> Verdict {
        let leader = *self.leaders.entry(term).or_insert(id);
        ensure("election safety", leader == id, || format!("nodes {leader} and {id} both lead in term {term}"))
    }

    /// The latest term that had a leader; 0 if there was none.
    pub fn newest(&self) -> u64 {
        self.leaders.last_key_value().map_or(0, |(term, _)| *term)
    }

    /// How many terms had a leader.
    pub fn count(&self) -> usize {
        self.leaders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_in_a_term_are_found() {
        let mut safety = ElectionSafety::default();
        assert_eq!(safety.leads(3, 1), Ok(()));
        assert_eq!(safety.leads(3, 1), Ok(()));
        assert_eq!(safety.leads(4, 2), Ok(()));
        assert!(safety.leads(3, 2).is_err());
        assert_eq!((safety.count(), safety.newest()), (2, 4));
    }
}
