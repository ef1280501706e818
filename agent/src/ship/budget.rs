//! The uplink budget: bytes per day with a burst. Pure.
//!
//! Bulk waits until the budget covers it. Urgent batches never wait, but what they take is owed, so that the bulk
//! behind them pays for it and the daily sum holds.

use std::time::Duration;

const DAY_NANOS: u128 = 24 * 3600 * 1_000_000_000;

/// A budget that fills at an even rate up to its burst.
#[derive(Debug, Clone)]
pub struct Budget {
    per_day: u64,
    burst: u64,
    /// Bytes in hand; negative while urgent batches are being paid for.
    balance: i128,
    as_of: Duration,
}

impl Budget {
    /// A full budget of `per_day` bytes a day, of which `burst` may be saved up.
    pub fn new(per_day: u64, burst: u64, now: Duration) -> Self {
        let (per_day, burst) = (per_day.max(1), burst.max(1));
        Self { per_day, burst, balance: i128::from(burst), as_of: now }
    }

    /// When `bytes` of bulk may be sent: `None` is now. What is larger than the burst waits for a full budget.
    pub fn wait(&mut self, bytes: u64, now: Duration) -> Option<Duration> {
        self.fill(now);
        let missing = i128::from(bytes.min(self.burst)) - self.balance;
        if missing <= 0 {
            return None;
        }
        let nanos = (missing as u128 * DAY_NANOS).div_ceil(u128::from(self.per_day));
        Some(now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2)))
    }

    /// Takes what was sent, bulk or urgent.
    pub fn take(&mut self, bytes: u64, now: Duration) {
        self.fill(now);
        self.balance -= i128::from(bytes);
    }

    fn fill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.as_of).as_nanos();
        let earned = elapsed * u128::from(self.per_day) / DAY_NANOS;
        if earned == 0 {
            return;
        }
        let burst = i128::from(self.burst);
        self.balance = (self.balance + earned as i128).min(burst);
        // Only the time that whole bytes were earned in is spent: asking often must not round a slow budget to none.
        let spent = (earned * DAY_NANOS).div_ceil(u128::from(self.per_day));
        self.as_of += Duration::from_nanos(u64::try_from(spent.min(elapsed)).unwrap_or(u64::MAX / 2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3600;

    #[test]
    fn bulk_waits_for_what_urgent_batches_have_taken() {
        let mut budget = Budget::new(2400, 100, Duration::ZERO);
        assert_eq!(budget.wait(100, Duration::ZERO), None);
        budget.take(300, Duration::ZERO);
        assert_eq!(budget.wait(100, Duration::ZERO), Some(Duration::from_secs(3 * HOUR)));
        assert_eq!(budget.wait(100, Duration::from_secs(3 * HOUR)), None);
    }

    proptest! {
        #[test]
        fn no_more_is_let_through_than_the_burst_and_the_rate(
            per_day in 1_u64..1_000_000,
            burst in 1_u64..100_000,
            steps in proptest::collection::vec((0_u64..100_000, 1_u64..1000), 1..200),
        ) {
            let mut budget = Budget::new(per_day, burst, Duration::ZERO);
            let (mut now, mut sent) = (Duration::ZERO, 0_u128);
            for (millis, bytes) in steps {
                now += Duration::from_millis(millis);
                let bytes = bytes.min(burst);
                if budget.wait(bytes, now).is_none() {
                    budget.take(bytes, now);
                    sent += u128::from(bytes);
                }
                let earned = now.as_nanos() * u128::from(per_day) / DAY_NANOS;
                prop_assert!(sent <= u128::from(burst) + earned);
            }
        }
    }
}
