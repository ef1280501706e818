//! Waiting longer after each failure, never in step with others. Pure: it says how long, the caller waits.

use std::time::Duration;

/// Exponential backoff with jitter: each delay lies between half and the whole of a step that doubles from `first`
/// up to `ceiling`, so that a fleet whose collector comes back does not return as one.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// Delays from `first` to `ceiling`. `seed` should differ between processes and nodes; the same seed gives the
    /// same delays.
    pub const fn new(first: Duration, ceiling: Duration, seed: u64) -> Self {
        Self { first, ceiling, failures: 0, random: seed }
    }

    /// The delay before the next attempt, after one more failure.
    pub fn failed(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(self.failures));
        let step = doubled.min(self.ceiling);
        self.failures = self.failures.saturating_add(1);
        let nanos = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX);
        let half = nanos / 2;
        Duration::from_nanos(nanos - half + self.next_random() % half.saturating_add(1))
    }

    /// An attempt succeeded: the next failure waits `first` again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// How many attempts failed since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014): spreads any seed, good enough to desynchronise.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_ceiling_within_half_a_step() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), seed);
            for step in [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000] {
                let delay = backoff.failed().as_millis();
                assert!((step / 2..=step).contains(&delay), "seed {seed}: {delay} ms of {step} ms");
            }
        }
    }

    #[test]
    fn delay_starts_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1), 7);
        for _ in 0..40 {
            backoff.failed();
        }
        backoff.succeeded();
        assert_eq!(backoff.failures(), 0);
        assert!(backoff.failed() <= Duration::from_secs(1));
    }

    #[test]
    fn different_seeds_give_different_delays() {
        let delays = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1), seed);
            std::array::from_fn::<_, 4, _>(|_| backoff.failed())
        };
        assert_ne!(delays(1), delays(2));
        assert_eq!(delays(1), delays(1));
    }

    #[test]
    fn extreme_settings_never_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX, u64::MAX);
        for _ in 0..100 {
            backoff.failed();
        }
        let mut none = Backoff::new(Duration::ZERO, Duration::ZERO, 0);
        assert_eq!(none.failed(), Duration::ZERO);
    }
}
