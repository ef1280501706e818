//! Which of the kernel's serials never came.
//!
//! Fed with every record's serial; tells, after a while of grace, how many are missing. Records of different events
//! interleave and events complete out of order, so a serial that is skipped may still come. Serials are 32 bits and wrap.

use std::collections::VecDeque;
use std::time::Duration;

use auditflow_audit_record::serial_distance;

/// How long a skipped serial may still come.
const GRACE: Duration = Duration::from_secs(3);

/// How many separate holes are watched; beyond it the oldest is declared early.
const MAX_HOLES: usize = 1024;

/// Serials in a row that never came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    /// The first that is missing.
    pub(super) first: u32,
    /// The last that is missing; smaller than the first where the serial wrapped.
    pub(super) last: u32,
}

impl Gap {
    /// How many are missing.
    pub(super) fn count(self) -> u64 {
        u64::from(self.last.wrapping_sub(self.first)) + 1
    }
}

/// Watches the serials of one stream.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    latest: Option<u32>,
    holes: VecDeque<(Gap, Duration)>,
}

impl Gaps {
    /// The latest serial seen, by serial order.
    pub(super) fn latest(&self) -> Option<u32> {
        self.latest
    }

    /// Whether every serial up to the latest has come or has been declared.
    pub(super) fn is_settled(&self) -> bool {
        self.holes.is_empty()
    }

    /// Notes that a record with this serial came; `now` is monotonic.
    pub(super) fn see(&mut self, serial: u32, now: Duration) {
        let Some(latest) = self.latest else {
            self.latest = Some(serial);
            return;
        };
        let ahead = serial_distance(latest, serial);
        if ahead > 1 {
            let gap = Gap { first: latest.wrapping_add(1), last: serial.wrapping_sub(1) };
            self.holes.push_back((gap, now));
        }
        if ahead > 0 {
            self.latest = Some(serial);
        } else if ahead < 0 {
            self.fill(serial);
        }
    }

    /// The next hole whose time is up, if any.
    pub(super) fn pop(&mut self, now: Duration) -> Option<Gap> {
        let (_, since) = self.holes.front()?;
        let due = self.holes.len() > MAX_HOLES || now.saturating_sub(*since) >= GRACE;
        due.then(|| self.holes.pop_front()).flatten().map(|(gap, _)| gap)
    }

    fn fill(&mut self, serial: u32) {
        let within = |gap: &Gap| serial.wrapping_sub(gap.first) <= gap.last.wrapping_sub(gap.first);
        let Some(place) = self.holes.iter().position(|(gap, _)| within(gap)) else { return };
        let Some((gap, since)) = self.holes.remove(place) else { return };
        // What is left before and after it, each where the whole stood, so that holes stay in the order of their age.
        if serial != gap.last {
            self.holes.insert(place, (Gap { first: serial.wrapping_add(1), last: gap.last }, since));
        }
        if serial != gap.first {
            self.holes.insert(place, (Gap { first: gap.first, last: serial.wrapping_sub(1) }, since));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn missing(serials: &[u32]) -> Vec<Gap> {
        let mut gaps = Gaps::default();
        for &serial in serials {
            gaps.see(serial, Duration::ZERO);
        }
        std::iter::from_fn(|| gaps.pop(GRACE)).collect()
    }

    #[test]
    fn what_comes_late_or_twice_is_not_missing() {
        assert_eq!(missing(&[1, 2, 3]), []);
        assert_eq!(missing(&[1, 3, 2, 3, 1]), []);
        assert_eq!(missing(&[1, 5, 3]), [Gap { first: 2, last: 2 }, Gap { first: 4, last: 4 }]);
    }

    #[test]
    fn a_gap_over_the_wrap_is_as_long_as_it_is() {
        let gaps = missing(&[u32::MAX - 1, 2]);
        assert_eq!(gaps, [Gap { first: u32::MAX, last: 1 }]);
        assert_eq!(gaps[0].count(), 3);
    }

    #[test]
    fn a_serial_far_behind_makes_no_gap_of_four_billion() {
        assert_eq!(missing(&[1000, 5]), []);
    }

    #[test]
    fn nothing_is_declared_before_its_time() {
        let mut gaps = Gaps::default();
        gaps.see(1, Duration::ZERO);
        assert!(gaps.is_settled());
        gaps.see(3, Duration::from_secs(1));
        assert_eq!(gaps.pop(GRACE), None);
        assert!(!gaps.is_settled());
        assert_eq!(gaps.pop(GRACE + Duration::from_secs(1)), Some(Gap { first: 2, last: 2 }));
    }

    #[test]
    fn the_number_of_holes_watched_is_bounded() {
        let mut gaps = Gaps::default();
        for serial in 0..10_000_u32 {
            gaps.see(serial * 2, Duration::ZERO);
            while gaps.pop(Duration::ZERO).is_some() {}
        }
        assert!(gaps.holes.len() <= MAX_HOLES);
    }

    proptest! {
        #[test]
        fn what_never_came_is_declared_once_and_nothing_else(
            start in any::<u32>(),
            mut offsets in prop::collection::vec(1..200_u32, 1..60),
        ) {
            offsets.insert(0, 0);
            let serials: Vec<u32> = offsets.iter().map(|offset| start.wrapping_add(*offset)).collect();
            let declared: Vec<u32> = missing(&serials)
                .into_iter()
                .flat_map(|gap| (0..gap.count() as u32).map(move |step| gap.first.wrapping_add(step)))
                .collect();
            let furthest = *offsets.iter().max().unwrap();
            let mut expected: Vec<u32> = (1..furthest).filter(|offset| !offsets.contains(offset)).collect();
            let mut found: Vec<u32> = declared.iter().map(|serial| serial.wrapping_sub(start)).collect();
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
