//! The window of appends that were sent to a follower and not acknowledged yet.
//!
//! A leader in [`ProgressState::Replicate`](super::ProgressState) does not wait for one append to be answered before it
//! sends the next. This window bounds how many may be under way, by count and by payload bytes. It holds, for each
//! append, the index of its last entry; an acknowledgement of an index frees everything up to it, because a follower
//! that holds an entry holds all before it.
//!
//! The byte limit is soft: an append that starts below it is sent whole, so one may overshoot. Memory grows with what is
//! really under way, not with the limit, which may be "no limit". Compare etcd's `tracker/inflights.go`, whose ring
//! buffer is a `VecDeque` here.

use std::collections::VecDeque;

/// Appends under way to one follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inflights {
    /// Last index and payload bytes of each append, oldest first. `appends[i].0 < appends[i + 1].0`
    appends: VecDeque<(u64, u64)>,
    /// `bytes = Σ appends[i].1` (saturating)
    bytes: u64,
    /// `appends.len() ≤ max_msgs`
    max_msgs: usize,
    /// 0: no limit. Else no append starts while `bytes ≥ max_bytes`.
    max_bytes: u64,
}

impl Inflights {
    /// An empty window for at most `max_msgs` appends, and `max_bytes` payload bytes unless that is 0.
    pub fn new(max_msgs: usize, max_bytes: u64) -> Self {
        Inflights { appends: VecDeque::new(), bytes: 0, max_msgs, max_bytes }
    }

    /// Notes an append whose last entry is `index`. `false`, and nothing noted, if the window is full.
    #[must_use]
    #[inline]
    pub fn add(&mut self, index: u64, bytes: u64) -> bool {
        if self.is_full() {
            return false;
        }
        self.appends.push_back((index, bytes));
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }

    /// Frees all appends up to and including the one that ends at `index`.
    #[inline]
    pub fn free_to(&mut self, index: u64) {
        while let Some(&(last, bytes)) = self.appends.front() {
            if last > index {
                break;
            }
            self.bytes = self.bytes.saturating_sub(bytes);
            self.appends.pop_front();
        }
    }

    /// Whether no further append may be sent.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.appends.len() >= self.max_msgs || (self.max_bytes != 0 && self.bytes >= self.max_bytes)
    }

    /// How many appends are under way.
    pub fn count(&self) -> usize {
        self.appends.len()
    }

    /// How many payload bytes are under way.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets everything; the memory is kept.
    pub fn reset(&mut self) {
        self.appends.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Add { ahead: u64, bytes: u64 },
        Free { back: u64 },
        Reset,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1u64..4, 0u64..50).prop_map(|(ahead, bytes)| Step::Add { ahead, bytes }),
            3 => (0u64..20).prop_map(|back| Step::Free { back }),
            1 => Just(Step::Reset),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_list(
            max_msgs in 1usize..8,
            max_bytes in prop_oneof![Just(0u64), 1u64..120],
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let mut window = Inflights::new(max_msgs, max_bytes);
            let mut model: Vec<(u64, u64)> = Vec::new();
            let mut last = 0;
            for step in steps {
                match step {
                    Step::Add { ahead, bytes } => {
                        let sum: u64 = model.iter().map(|append| append.1).sum();
                        let room = model.len() < max_msgs && (max_bytes == 0 || sum < max_bytes);
                        prop_assert_eq!(window.add(last + ahead, bytes), room);
                        if room {
                            last += ahead;
                            model.push((last, bytes));
                        }
                    }
                    Step::Free { back } => {
                        let index = last.saturating_sub(back);
                        window.free_to(index);
                        model.retain(|append| append.0 > index);
                    }
                    Step::Reset => {
                        window.reset();
                        model.clear();
                    }
                }
                let sum: u64 = model.iter().map(|append| append.1).sum();
                prop_assert_eq!(window.count(), model.len());
                prop_assert_eq!(window.bytes(), sum);
                prop_assert_eq!(window.is_full(), model.len() == max_msgs || (max_bytes != 0 && sum >= max_bytes));
            }
        }
    }

    #[test]
    fn one_append_may_overshoot_the_byte_limit() {
        let mut window = Inflights::new(10, 100);
        assert!(window.add(1, 99));
        assert!(window.add(2, 1_000_000), "99 of 100 bytes are taken, so one more may start");
        assert!(!window.add(3, 0));
        window.free_to(1);
        assert!(!window.add(3, 0), "the large one is still under way");
        window.free_to(2);
        assert!(window.add(3, 0));
    }

    #[test]
    fn an_unlimited_window_takes_no_memory_up_front() {
        let window = Inflights::new(usize::MAX, 0);
        assert_eq!(window.appends.capacity(), 0);
    }

    #[test]
    fn hostile_sizes_do_not_overflow() {
        let mut window = Inflights::new(10, 0);
        assert!(window.add(1, u64::MAX));
        assert!(window.add(2, u64::MAX));
        window.free_to(u64::MAX);
        assert_eq!((window.count(), window.bytes()), (0, 0));
    }
}
