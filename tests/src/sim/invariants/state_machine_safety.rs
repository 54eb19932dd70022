//! State machine safety: at one index, all nodes commit and apply the same entry, in order and once. Raft paper, figure 3
//! and §5.4.3.

use super::{ensure, Verdict};
use crate::sim::shadow::Mark;

const NAME: &str = "state machine safety";

/// See the module.
#[derive(Debug, Default)]
pub struct StateMachineSafety {
    /// At position i, the entry committed at index i + 1.
    committed: Vec<Mark>,
}

impl StateMachineSafety {
    /// The highest index known to be committed anywhere.
    pub fn last(&self) -> u64 {
        self.committed.len() as u64
    }

    /// What is committed there.
    pub fn get(&self, index: u64) -> Option<Mark> {
        self.committed.get(usize::try_from(index.checked_sub(1)?).ok()?).copied()
    }

    /// A node holds this entry to be committed. `true`: it is the first to do so.
    pub fn committed(&mut self, id: u64, index: u64, mark: Option<Mark>) -> Result<bool, super::Violation> {
        let known = self.get(index);
        let (Some(mark), true) = (mark, index <= self.last() + 1) else {
            return ensure(NAME, false, || format!("node {id} takes {index} for committed and does not have it"))
                .map(|()| false);
        };
        match known {
            None => {
                self.committed.push(mark);
                Ok(true)
            }
            Some(known) => ensure(NAME, known == mark, || {
                format!("node {id} takes {mark:?} for committed at {index}, others {known:?}")
            })
            .map(|()| false),
        }
    }

    /// A node that has applied everything up to `before` applies this entry.
    pub fn applied(&self, id: u64, before: u64, index: u64, mark: Mark) -> Verdict {
        ensure(NAME, index == before + 1, || format!("node {id} applies {index} after {before}"))?;
        let known = self.get(index);
        ensure(NAME, known == Some(mark), || format!("node {id} applies {mark:?} at {index}, committed is {known:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_entries_at_one_index_are_found() {
        let mark = |digest| Mark { term: 1, digest };
        let mut safety = StateMachineSafety::default();
        assert_eq!(safety.committed(1, 1, Some(mark(1))), Ok(true));
        assert_eq!(safety.committed(2, 1, Some(mark(1))), Ok(false));
        assert!(safety.committed(2, 1, Some(mark(2))).is_err());
        assert!(safety.committed(2, 1, None).is_err(), "it does not have it");
        assert!(safety.committed(2, 3, Some(mark(3))).is_err(), "a gap");
        assert_eq!(safety.applied(1, 0, 1, mark(1)), Ok(()));
        assert!(safety.applied(1, 0, 1, mark(2)).is_err());
        assert!(safety.applied(1, 1, 1, mark(1)).is_err(), "twice");
        assert!(safety.applied(1, 1, 2, mark(1)).is_err(), "not committed");
    }
}
