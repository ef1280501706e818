//! The node's clocks: read at the edge, compared purely.
//!
//! [`Clock`] reads them, whoever calls the spool passes the reading in, and [`ClockWatch`] notices from one reading
//! to the next that the wall clock stepped or became synchronised, which the next sealed batch declares.

use std::path::Path;
use std::time::Duration;
use std::{fs, mem};

use auditflow_event::Timestamp;
use auditflow_wire::BootId;
use auditflow_wire::facts::{ClockCause, ClockFact, Clocks};
use nix::time::{ClockId, clock_gettime};

/// systemd-timesyncd makes this file when it has set the clock for the first time in a boot.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What the wall clock may move against the boot clock between two readings without having stepped. A slewing clock
/// gains 0.5 ms per second at most, and the spool reads far more often than once in a quarter of an hour.
const STEP_MICROS: u64 = 500_000;
/// What waits for the next batch at most; one place in the batch is left for the reading at its sealing.
const MAX_NOTED: usize = 7;

/// The clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since boot, suspension included.
    pub boottime: Duration,
    /// Which boot.
    pub boot: BootId,
    /// Whether the wall clock is known to be synchronised.
    pub synchronised: bool,
}

impl Now {
    pub(super) fn fact(&self, cause: ClockCause) -> ClockFact {
        ClockFact {
            cause,
            wall: self.wall,
            boottime_micros: u64::try_from(self.boottime.as_micros()).unwrap_or(u64::MAX),
            synchronised: self.synchronised,
        }
    }

    /// Wall clock minus boot clock: constant while nobody sets the wall clock.
    fn offset(&self) -> i64 {
        self.wall.as_micros().saturating_sub(i64::try_from(self.boottime.as_micros()).unwrap_or(i64::MAX))
    }
}

/// Reads the node's clocks.
#[derive(Debug, Clone)]
pub struct Clock {
    boot: BootId,
}

impl Clock {
    /// Reads the boot id, which stays as long as the process lives.
    pub fn open() -> Self {
        let text = fs::read_to_string(BOOT_ID).unwrap_or_default();
        Self { boot: BootId::parse_uuid(&text).unwrap_or(BootId::UNKNOWN) }
    }

    /// The clocks now.
    pub fn now(&self) -> Now {
        Now {
            wall: Timestamp::from_micros(micros(ClockId::CLOCK_REALTIME)),
            boottime: Duration::from_micros(micros(ClockId::CLOCK_BOOTTIME).unsigned_abs()),
            boot: self.boot,
            synchronised: Path::new(SYNCHRONISED).exists(),
        }
    }
}

fn micros(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000)
}

/// Notices steps and the first synchronisation.
#[derive(Debug)]
pub(super) struct ClockWatch {
    last: Now,
    noted: Vec<ClockFact>,
}

impl ClockWatch {
    pub(super) fn start(now: Now) -> Self {
        Self { last: now, noted: vec![now.fact(ClockCause::Start)] }
    }

    /// The reading before this one, if the wall clock stepped or became synchronised in between: what was committed
    /// up to then is to be sealed with that reading.
    pub(super) fn before_change(&self, now: &Now) -> Option<Now> {
        let changed = self.stepped(now) || (now.synchronised && !self.last.synchronised);
        changed.then_some(self.last)
    }

    pub(super) fn observe(&mut self, now: Now) {
        if self.stepped(&now) {
            self.note(now.fact(ClockCause::Step));
        }
        if now.synchronised && !self.last.synchronised {
            self.note(now.fact(ClockCause::Synchronised));
        }
        self.last = now;
    }

    /// The latest reading.
    pub(super) fn last(&self) -> Now {
        self.last
    }

    /// Whether a fact waits to be sealed.
    pub(super) fn has_news(&self) -> bool {
        !self.noted.is_empty()
    }

    /// What the batch being sealed declares: everything noted, and the clocks at its sealing.
    pub(super) fn facts(&self, now: &Now) -> Clocks {
        let mut facts = self.noted.clone();
        facts.push(now.fact(ClockCause::Seal));
        Clocks { boot: now.boot, facts }
    }

    /// The batch with the noted facts is in the spool.
    pub(super) fn sealed(&mut self) {
        mem::take(&mut self.noted);
    }

    fn stepped(&self, now: &Now) -> bool {
        now.offset().abs_diff(self.last.offset()) > STEP_MICROS
    }

    fn note(&mut self, fact: ClockFact) {
        // A clock that is set again and again before a batch is sealed: the latest place is what counts.
        if self.noted.len() == MAX_NOTED {
            self.noted.pop();
        }
        self.noted.push(fact);
    }
}

/// The clocks of a batch whose events were committed at `now`, and that declares no more than that.
pub(super) fn sealed_at(now: &Now) -> Clocks {
    Clocks { boot: now.boot, facts: vec![now.fact(ClockCause::Seal)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: i64, boottime: u64, synchronised: bool) -> Now {
        Now {
            wall: Timestamp::from_micros(wall * 1_000_000),
            boottime: Duration::from_secs(boottime),
            boot: BootId::from_bytes([1; 16]),
            synchronised,
        }
    }

    #[test]
    fn step_and_first_synchronisation_are_noted_once_and_with_the_clocks_after_them() {
        let mut watch = ClockWatch::start(at(100, 10, false));
        watch.sealed();
        watch.observe(at(110, 20, false));
        assert!(!watch.has_news());
        let stepped = at(5000, 30, true);
        assert_eq!(watch.before_change(&stepped), Some(at(110, 20, false)));
        watch.observe(stepped);
        let causes: Vec<_> = watch.facts(&stepped).facts.iter().map(|fact| fact.cause).collect();
        assert_eq!(causes, [ClockCause::Step, ClockCause::Synchronised, ClockCause::Seal]);
        watch.sealed();
        let later = at(5010, 40, true);
        assert_eq!(watch.before_change(&later), None);
        watch.observe(later);
        assert!(!watch.has_news());
    }

    #[test]
    fn clock_that_is_set_without_end_fills_no_more_than_a_header_holds() {
        let mut watch = ClockWatch::start(at(0, 0, false));
        for turn in 0..100 {
            watch.observe(at(turn * turn * 1000, 1, false));
        }
        let facts = watch.facts(&at(0, 1, false)).facts;
        assert!(facts.len() <= auditflow_wire::facts::MAX_CLOCK_FACTS);
    }

    #[test]
    fn the_clocks_of_this_machine_can_be_read() {
        let now = Clock::open().now();
        assert_ne!(now.boot, BootId::UNKNOWN);
        assert!(now.boottime > Duration::ZERO);
    }
}
