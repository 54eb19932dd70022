//! The randomness of election timeouts: a seeded generator, so that a run can be repeated.
//!
//! SplitMix64 (Steele, Lea, Flood 2014): eight bytes of state, good enough to tell nodes apart, useless for secrets.

/// See the module's text.
#[derive(Clone, Debug, Hash)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// Nodes that share a seed still differ by their ids.
    pub(crate) fn new(seed: u64, id: u64) -> Self {
        let mut generator = SplitMix64(seed);
        generator.0 ^= SplitMix64(id).next();
        generator
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `[0, bound)`; 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        match bound as u64 {
            0 => 0,
            bound => (self.next() % bound) as usize,
        }
    }
}
