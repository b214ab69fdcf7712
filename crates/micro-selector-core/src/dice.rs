//! The chance of one pick.

/// Random numbers for one pick, all from [`PickHint::random`](crate::PickHint::random): the same
/// hint gives the same numbers.
///
/// The generator is `SplitMix64`, as in `micro_core::SeededRandom`, but without an atomic.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, each as likely as the others; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // Multiply and shift (Lemire, 2019): its bias, below n / 2^64, is not seen in balancing.
        let wide = u128::from(self.roll()) * u128::from(n);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// True with this likelihood, from 0 to 1.
    pub fn chance(&mut self, likelihood: f64) -> bool {
        // 53 bits: what an `f64` holds, so 1 is always true and 0 never.
        ((self.roll() >> 11) as f64) < likelihood * (1_u64 << 53) as f64
    }

    /// An index into something of this length; 0 if it is empty.
    pub fn index(&mut self, len: usize) -> usize {
        // It fits: the number is below `len`.
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_range_and_spread() {
        let mut dice = Dice::new(1);
        let mut counts = [0; 7];
        for _ in 0..70_000 {
            counts[dice.index(7)] += 1;
        }
        assert!(
            counts.iter().all(|n| (9_500..10_500).contains(n)),
            "{counts:?}"
        );
        assert_eq!((dice.below(0), dice.index(0), dice.below(1)), (0, 0, 0));
        assert!((0..1000).all(|_| dice.chance(1.0) && !dice.chance(0.0)));
        let third = (0..9_000).filter(|_| dice.chance(1.0 / 3.0)).count();
        assert!((2_800..3_200).contains(&third), "{third}");
        assert!((0..1000).all(|_| dice.below(u64::MAX) < u64::MAX));
    }
}
