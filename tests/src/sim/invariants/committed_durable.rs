//! Committed is durable: when a leader commits an entry, a quorum of its configuration holds it where no crash can take
//! it, and so it stays. Raft paper §5.1 (servers update stable storage before responding) and §5.3 (commit rule);
//! etcd's TLA+ specification has it as CommittedIsDurableInv.

use raft_core::tracker::Config;

use super::{ensure, Verdict};

/// A leader under this configuration commits `index`, whose entry is of `term`. `durable` tells the term of the entry
/// that a node's disk holds there for good; a snapshot holds everything below it.
pub fn check(config: &Config, index: u64, term: u64, durable: impl Fn(u64) -> Option<u64>) -> Verdict {
    for half in [&config.voters.incoming, &config.voters.outgoing] {
        let holders = half.iter().filter(|id| durable(*id) == Some(term)).count();
        ensure("committed is durable", half.is_empty() || holders > half.len() / 2, || {
            format!(
                "entry {index} of term {term} is committed, but durable on {holders} of {} voters ({config})",
                half.len()
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_holders_are_found() {
        let mut config = Config::default();
        config.voters.incoming = [1, 2, 3].into_iter().collect();
        config.learners = [4, 5].into_iter().collect();
        let holds = |ids: &'static [u64]| move |id: u64| ids.contains(&id).then_some(7);
        assert_eq!(check(&config, 9, 7, holds(&[1, 3])), Ok(()));
        assert!(check(&config, 9, 7, holds(&[1, 4, 5])).is_err(), "learners do not count");
        assert!(check(&config, 9, 6, holds(&[1, 3])).is_err(), "another entry");
        config.voters.outgoing = [4, 5, 6].into_iter().collect();
        assert!(check(&config, 9, 7, holds(&[1, 3])).is_err(), "both halves must agree");
        assert_eq!(check(&config, 9, 7, holds(&[1, 3, 4, 6])), Ok(()));
    }
}
