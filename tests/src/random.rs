//! Chance that can be repeated: a test that fails says its seed, and runs the same way when it is given it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The environment variable that sets the seed.
const SEED: &str = "AUDITFLOW_TEST_SEED";

/// A generator of numbers (`SplitMix64`); good enough for choosing moments and bytes, and for nothing else.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// With the seed that `AUDITFLOW_TEST_SEED` sets, else another one at each run. Says which, so that whoever sees a
    /// test fail can repeat it.
    pub fn announced(test: &str) -> Self {
        let set = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        let seed = set.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32)
        });
        eprintln!("{test}: repeat this run with {SEED}={seed}");
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is above zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    /// Whether something that happens once in so many times happens now.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// A stretch of time up to `most`.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.below(most.as_micros() as u64 + 1))
    }

    /// So many letters and digits, which hardly compress.
    pub fn text(&mut self, length: usize) -> String {
        const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
        (0..length).map(|_| char::from(LETTERS[self.below(64) as usize])).collect()
    }

    /// Another generator, whose numbers have nothing to do with what is drawn from this one later.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self(self.number())
    }
}
