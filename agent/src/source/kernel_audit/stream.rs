//! The stream of one attachment after another: records in, outputs out, losses counted.

use std::time::{Duration, Instant};

use auditflow_audit_record::{Assembler, AuditEvent, Limits, Record, RecordType};
use auditflow_event::Event;
use auditflow_wire::{Loss, LossReason, LossSource};
use nix::unistd::Pid;

use super::attach::{Attached, Attachment};
use super::drift::Watch;
use super::gaps::{Gap, Gaps};
use super::listening::ListeningClock;
use super::{NAME, Parts, Position, drops};
use crate::netlink::Received;
use crate::source::{Cursor, Output};

/// How long one wait for the kernel lasts: the source looks up to see whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// Events that are complete are handed over after so many, or when nothing more waits.
const MAX_EVENTS_AT_ONCE: usize = 128;

/// How often the counters are asked.
const COUNTER_INTERVAL: Duration = Duration::from_secs(1);

/// Why reading an attachment ended.
pub(super) enum Ended {
    /// The agent stops.
    Stopped,
    /// The attachment is no good any more.
    Lost(String),
}

/// What outlives an attachment.
pub(super) struct Stream<'p> {
    parts: &'p Parts,
    clock: ListeningClock,
    assembler: Assembler,
    gaps: Gaps,
    rules: Watch,
    resumed: bool,
    /// The last serial that a run after this one need not ask about.
    settled: Option<u32>,
    losses: Vec<Loss>,
    events: Vec<Event>,
}

/// The counters of one attachment as they were last read.
struct Counters {
    drops: Option<u64>,
    lost: Option<u32>,
    overflowed: bool,
    next: Instant,
}

impl<'p> Stream<'p> {
    pub(super) fn new(parts: &'p Parts) -> Self {
        Self {
            parts,
            clock: ListeningClock::new(Instant::now()),
            assembler: Assembler::new(Limits::default()),
            gaps: Gaps::default(),
            rules: Watch::new(parts.rules_state.clone(), parts.rules_reporter.clone()),
            resumed: false,
            settled: None,
            losses: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Reads until the agent stops or the attachment breaks.
    pub(super) fn read(&mut self, mut attachment: Attachment) -> Ended {
        let mut counters = Counters { drops: None, lost: None, overflowed: false, next: Instant::now() };
        self.ask_counters(&mut attachment, &mut counters);
        for (kind, payload) in std::mem::take(&mut attachment.early) {
            self.take(kind, &payload);
        }
        while !self.parts.stop.is_cancelled() {
            let waits = !self.events.is_empty() || !self.losses.is_empty();
            match attachment.stream.receive(if waits { Duration::ZERO } else { PATIENCE }) {
                Ok(Received::Message(message)) if message.is_record() => {
                    let (kind, payload) = (message.kind, message.payload);
                    self.take(kind, payload);
                    if self.events.len() >= MAX_EVENTS_AT_ONCE {
                        self.hand_over(attachment.mode);
                    }
                }
                Ok(Received::Message(_)) => {}
                Ok(Received::Overflow) => counters.overflowed = true,
                Ok(Received::Nothing) => self.hand_over(attachment.mode),
                Err(error) => return Ended::Lost(format!("reading the audit socket failed: {error}")),
            }
            if Instant::now() >= counters.next {
                self.complete_what_is_due();
                let now = self.clock.look(Instant::now());
                self.rules.look(attachment.control.as_mut(), now);
                if let Some(reason) = self.ask_counters(&mut attachment, &mut counters) {
                    return Ended::Lost(reason);
                }
            }
        }
        self.assembler.flush();
        self.collect();
        self.hand_over(attachment.mode);
        Ended::Stopped
    }

    fn take(&mut self, kind: u16, payload: &[u8]) {
        let now = self.clock.look(Instant::now());
        match Record::from_netlink(kind, payload) {
            Ok(record) => {
                self.resume(record.stamp.serial);
                self.gaps.see(record.stamp.serial, now);
                self.rules.see(&record, now);
                self.assembler.push(record, now);
                self.collect();
            }
            Err(error) => {
                tracing::debug!(error = %error, record.kind = kind, "a record of the kernel is not understood");
                self.lose(LossReason::Undecodable, Some(1), None);
            }
        }
    }

    fn complete_what_is_due(&mut self) {
        self.assembler.advance(self.clock.look(Instant::now()));
        self.collect();
    }

    /// On the first record of this run: what passed while the agent was not running.
    fn resume(&mut self, serial: u32) {
        if std::mem::replace(&mut self.resumed, true) {
            return;
        }
        let Some(cursor) = &self.parts.cursor else { return };
        match position_of(cursor) {
            Some(last) if last.boot == *self.parts.boot.as_bytes() => {
                let ahead = auditflow_audit_record::serial_distance(last.serial, serial);
                if ahead > 1 {
                    let missed = Gap { first: last.serial.wrapping_add(1), last: serial.wrapping_sub(1) };
                    self.lose(LossReason::NotRunning, Some(missed.count()), Some(missed));
                }
            }
            _ => self.lose(LossReason::Unknown, None, None),
        }
    }

    fn collect(&mut self) {
        while let Some(event) = self.assembler.pop() {
            if !is_own(&event) {
                self.events.push(Event::audit(Some(self.parts.station.node), event));
            }
        }
    }

    /// Hands over what is complete. What the pipeline has no room for is lost, and said to be.
    fn hand_over(&mut self, mode: Attached) {
        if self.events.is_empty() && self.losses.is_empty() {
            return;
        }
        // Records of events that are not whole, and serials that may still come, die with the process: should it be
        // killed now, they are to be declared by the next run. So the cursor stays below them.
        if self.assembler.counters().pending_events == 0 && self.gaps.is_settled() {
            self.settled = self.gaps.latest();
        }
        let position = self.settled.map(|serial| Position { boot: *self.parts.boot.as_bytes(), serial });
        let cursor = position.and_then(|position| serde_json::to_vec(&position).ok()).map(Cursor);
        let events = std::mem::take(&mut self.events);
        let losses = std::mem::take(&mut self.losses);
        let Err(output) = self.parts.outlet.try_send(Output { source: NAME, events, losses, cursor }) else {
            return;
        };
        self.losses = output.losses;
        if !output.events.is_empty() {
            tracing::debug!(
                events = output.events.len(),
                source.mode = mode.as_str(),
                "the pipeline is full"
            );
            self.lose(LossReason::QueueFull, Some(output.events.len() as u64), None);
        }
    }

    /// Reads the counters and declares what they say; returns why the attachment is no good any more, if it is not.
    fn ask_counters(&mut self, attachment: &mut Attachment, counters: &mut Counters) -> Option<String> {
        counters.next = Instant::now() + COUNTER_INTERVAL;
        let mut explained = false;
        let drops = attachment.stream.port().and_then(drops::of_socket);
        if let (Some(before), Some(now)) = (counters.drops, drops)
            && now > before
        {
            self.lose(LossReason::SocketDropped, Some(now - before), None);
            explained = true;
        } else if counters.overflowed {
            self.lose(LossReason::SocketDropped, None, None);
            explained = true;
        }
        if explained && matches!(attachment.mode, Attached::Unicast) {
            // What a full socket did not take waits in the kernel's retry queue. What does not fit from there either is
            // dropped, and without `audit=1` on the kernel's command line is not counted by anybody.
            self.lose(LossReason::Unknown, None, None);
        }
        counters.overflowed = false;
        counters.drops = drops.or(counters.drops);

        let status = attachment.control.as_mut().and_then(|control| control.status().ok());
        if let Some(status) = status {
            let rise = counters.lost.map_or(0, |before| status.lost.wrapping_sub(before));
            // The counter can be reset (`auditctl --reset-lost`); a fall is no loss of four billion.
            if rise > 0 && rise < u32::MAX / 2 {
                self.lose(LossReason::KernelLost, Some(rise.into()), None);
                explained = true;
            }
            counters.lost = Some(status.lost);
        }
        let now = self.clock.look(Instant::now());
        while let Some(gap) = self.gaps.pop(now) {
            if explained {
                tracing::debug!(gap.first, gap.last, "serials are missing, as the counters say");
            } else {
                self.lose(LossReason::SerialGap, Some(gap.count()), Some(gap));
            }
        }
        let replaced = status.filter(|status| !attachment.is_current(status))?;
        Some(format!("process {} has become the audit daemon", replaced.pid))
    }

    fn lose(&mut self, reason: LossReason, count: Option<u64>, gap: Option<Gap>) {
        let serials = gap.map(|gap| (gap.first, gap.last));
        let loss = Loss { reason, source: LossSource::KernelAudit, count, times: None, serials };
        let known = std::mem::take(&mut self.losses);
        self.losses = Loss::merge(known.into_iter().chain([loss]));
    }
}

/// The agent's own doings, which on multicast it would hear for ever. (The kernel never audits its registered daemon.)
fn is_own(event: &AuditEvent) -> bool {
    let own = u64::from(Pid::this().as_raw().unsigned_abs());
    let syscall = event.record(RecordType::SYSCALL);
    syscall.and_then(|record| record.field("pid")).and_then(|value| value.as_u64()) == Some(own)
}

fn position_of(cursor: &Cursor) -> Option<Position> {
    serde_json::from_slice(&cursor.0).ok()
}
