//! What was read since the last commit. Pure.

use std::time::Instant;

use auditflow_event::{Event, Priority, Timestamp};
use auditflow_rules::DropReason;
use auditflow_wire::{Loss, LossReason, LossSource, RuleSetVersion, TimeRange};

use crate::source::{Cursor, SourceName};
use crate::spool::Commit;

/// At how many bytes it is committed without waiting any longer.
const FULL_BYTES: usize = 256 << 10;
/// Beyond how many bytes nothing more is taken in (while the spool can't be written).
const MAX_BYTES: usize = 1 << 20;

/// The next commit in the making.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    commit: Commit,
    bytes: usize,
    since: Option<Instant>,
}

impl Gathering {
    pub(super) fn add(&mut self, event: Event) {
        self.touch();
        self.bytes += event.weight();
        self.commit.urgent |= event.priority == Priority::High;
        self.commit.events.push(event);
    }

    /// Losses of one kind add up, unless they name serials.
    pub(super) fn lose(&mut self, loss: Loss) {
        self.touch();
        let same = |known: &&mut Loss| (known.reason, known.source) == (loss.reason, loss.source);
        let known = self.commit.losses.iter_mut().filter(|known| known.serials.is_none()).find(same);
        match known {
            Some(known) if loss.serials.is_none() => {
                known.count = known.count.zip(loss.count).map(|(a, b)| a.saturating_add(b));
                known.times = match (known.times, loss.times) {
                    (Some(a), Some(b)) => Some(a.join(b)),
                    (a, b) => a.or(b),
                };
            }
            _ => {
                self.bytes += size_of::<Loss>();
                self.commit.losses.push(loss);
            }
        }
    }

    pub(super) fn move_cursor(&mut self, source: SourceName, cursor: Cursor) {
        self.touch();
        match self.commit.cursors.iter_mut().find(|(name, _)| name == source.0) {
            Some((_, known)) => *known = cursor.0,
            None => self.commit.cursors.push((source.0.to_owned(), cursor.0)),
        }
    }

    pub(super) fn commit(&self) -> &Commit {
        &self.commit
    }

    /// It is committed.
    pub(super) fn clear(&mut self) {
        *self = Self {
            commit: Commit { rule_set: self.commit.rule_set, ..Commit::default() },
            ..Self::default()
        };
    }

    /// Its events can't be written: they are declared instead.
    pub(super) fn give_up_events(&mut self) {
        let count = self.commit.events.len() as u64;
        self.commit.events = Vec::new();
        self.commit.urgent = false;
        self.bytes = self.commit.losses.len() * size_of::<Loss>();
        let (reason, source) = (LossReason::Undecodable, LossSource::Agent);
        self.lose(Loss { reason, source, count: Some(count), times: None, serials: None });
    }

    /// Takes the version of the rules that judge from now on. False: what another version judged is still to be
    /// written.
    pub(super) fn take_rule_set(&mut self, version: RuleSetVersion) -> bool {
        if self.is_empty() {
            self.commit.rule_set = version;
        }
        self.commit.rule_set == version
    }

    pub(super) fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    /// Since when the first of it waits.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.commit.urgent
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= FULL_BYTES
    }

    pub(super) fn has_room(&self) -> bool {
        self.bytes < MAX_BYTES
    }

    fn touch(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }
}

/// One event that a rule dropped.
pub(super) fn filtered(reason: DropReason, source: LossSource, time: Timestamp) -> Loss {
    let reason = match reason {
        DropReason::Filtered => LossReason::Filtered,
        DropReason::Sampled => LossReason::Sampled,
        DropReason::RateLimited => LossReason::RateLimited,
    };
    Loss { reason, source, count: Some(1), times: Some(TimeRange::new(time, time)), serials: None }
}

/// The source as losses name it.
pub(super) fn loss_source(source: SourceName) -> LossSource {
    let known = [
        LossSource::KernelAudit,
        LossSource::AuditLog,
        LossSource::Journald,
        LossSource::FileIntegrity,
        LossSource::KubernetesAudit,
        LossSource::Synthetic,
    ];
    known.into_iter().find(|known| known.as_str() == source.0).unwrap_or(LossSource::Agent)
}

/// A rule set's version (16 hexadecimal digits) as batches carry it: its eight bytes, then zeroes.
pub(super) fn wire_version(version: &str) -> RuleSetVersion {
    let mut bytes = [0; RuleSetVersion::LEN];
    for (byte, pair) in bytes.iter_mut().zip(version.as_bytes().chunks_exact(2)) {
        *byte =
            std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
    }
    RuleSetVersion::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(priority: Priority) -> Event {
        let text = r#"{"event_type":"user_login","timestamp":"2026-01-31T10:00:00Z"}"#;
        Event { priority, ..Event::synthetic(None, [0; 16], 0, text).unwrap() }
    }

    fn loss(count: Option<u64>, serials: Option<(u32, u32)>) -> Loss {
        Loss { reason: LossReason::SerialGap, source: LossSource::KernelAudit, count, times: None, serials }
    }

    #[test]
    fn one_urgent_event_makes_all_of_it_urgent_and_clearing_ends_that() {
        let mut gathering = Gathering::default();
        gathering.add(event(Priority::Normal));
        assert!(!gathering.is_urgent() && !gathering.is_empty());
        gathering.add(event(Priority::High));
        gathering.add(event(Priority::Low));
        assert!(gathering.is_urgent());
        gathering.clear();
        assert!(!gathering.is_urgent() && gathering.is_empty());
    }

    #[test]
    fn losses_of_a_kind_add_up_and_those_that_name_serials_stay_apart() {
        let mut gathering = Gathering::default();
        for one in [loss(Some(1), None), loss(Some(2), Some((4, 5))), loss(Some(3), None), loss(None, None)] {
            gathering.lose(one);
        }
        assert_eq!(gathering.commit().losses, [loss(None, None), loss(Some(2), Some((4, 5)))]);
    }

    #[test]
    fn only_the_last_cursor_of_a_source_counts() {
        let mut gathering = Gathering::default();
        gathering.move_cursor(SourceName("a"), Cursor(vec![1]));
        gathering.move_cursor(SourceName("b"), Cursor(vec![2]));
        gathering.move_cursor(SourceName("a"), Cursor(vec![3]));
        assert_eq!(gathering.commit().cursors, [("a".to_owned(), vec![3]), ("b".to_owned(), vec![2])]);
    }

    #[test]
    fn it_is_full_before_it_has_no_room() {
        let mut gathering = Gathering::default();
        while !gathering.is_full() {
            assert!(gathering.has_room());
            gathering.add(event(Priority::Normal));
        }
        assert!(gathering.has_room());
        while gathering.has_room() {
            gathering.add(event(Priority::Normal));
        }
        assert!(gathering.bytes < MAX_BYTES + 4096);
    }

    #[test]
    fn events_that_are_given_up_are_declared_and_the_cursor_stays() {
        let mut gathering = Gathering::default();
        gathering.add(event(Priority::High));
        gathering.move_cursor(SourceName("a"), Cursor(vec![1]));
        gathering.give_up_events();
        let commit = gathering.commit();
        assert_eq!((commit.events.len(), commit.cursors.len(), commit.losses[0].count), (0, 1, Some(1)));
        assert!(!gathering.is_urgent());
    }

    #[test]
    fn what_is_not_yet_written_keeps_the_rule_set_that_judged_it() {
        let (old, new) = (wire_version("01"), wire_version("02"));
        let mut gathering = Gathering::default();
        assert!(gathering.take_rule_set(old));
        gathering.add(event(Priority::Normal));
        assert!(gathering.take_rule_set(old));
        assert!(!gathering.take_rule_set(new));
        assert_eq!(gathering.commit().rule_set, old);
        gathering.clear();
        assert!(gathering.take_rule_set(new));
        assert_eq!(gathering.commit().rule_set, new);
    }

    #[test]
    fn a_rule_sets_version_keeps_its_digits() {
        assert_eq!(wire_version("0123456789abcdef").to_string(), "0123456789abcdef0000000000000000");
    }
}
