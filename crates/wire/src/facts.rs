//! What a node declares besides its events: losses, clocks, the last acknowledgement it saw.
//!
//! Fed by the agent's pipeline; travels in batch headers, folds and states. Layouts (varints as in `layout`):
//!
//! - **times**: start, microseconds `i64` · length varint, microseconds
//! - **loss**: flags `u8` (1 count known, 2 times, 4 serials) · reason `u8` · source `u8` · as flagged: count varint,
//!   times, first serial varint and last serial varint
//! - **clocks**: boot id 16 · count `u8` ≤ 8 · each: cause and bit 7 synchronised `u8` · wall `i64` microseconds ·
//!   boottime varint microseconds
//! - **acknowledgement seen**: `u8` 0 none, 1 of this epoch, 2 of another (then its epoch 16) · unless none: number
//!   varint · digest 32

use auditflow_event::Timestamp;

use crate::ids::{BatchSeq, BootId, Digest, EpochId};
use crate::layout::{ParseError, Reader, Writer};

/// The most losses one header or fold declares; an agent merges by reason and source before it comes near.
pub const MAX_LOSSES: usize = 64;
/// The most clock facts one header or state carries.
pub const MAX_CLOCK_FACTS: usize = 8;

/// From the earliest to the latest of some times, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    start: Timestamp,
    end: Timestamp,
}

impl TimeRange {
    /// The range between two times in either order.
    pub fn new(a: Timestamp, b: Timestamp) -> Self {
        if a <= b { Self { start: a, end: b } } else { Self { start: b, end: a } }
    }

    /// The earliest time.
    pub fn start(self) -> Timestamp {
        self.start
    }

    /// The latest time.
    pub fn end(self) -> Timestamp {
        self.end
    }

    /// The smallest range that holds both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    pub(crate) fn write(self, out: &mut Writer) {
        out.time(self.start);
        out.varint(self.end.as_micros().abs_diff(self.start.as_micros()));
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let start = reader.time("time range")?;
        let end = start.as_micros().checked_add_unsigned(reader.varint()?);
        let end = end.ok_or_else(|| reader.invalid("time range"))?;
        Ok(Self { start, end: reader.time_of(end, "time range")? })
    }
}

/// Declares an enumeration with one byte per value; codes of a later release are kept as `Other`.
macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
            /// A code that this program does not know, from a newer agent.
            Other(u8),
        }

        impl $name {
            /// The code as it travels.
            pub fn code(self) -> u8 {
                match self {
                    $(Self::$variant => $code,)+
                    Self::Other(code) => code,
                }
            }

            /// The value with this code.
            pub fn from_code(code: u8) -> Self {
                match code {
                    $($code => Self::$variant,)+
                    code => Self::Other(code),
                }
            }

            /// The name in metrics, in the API and on the page.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(_) => "other",
                }
            }
        }
    };
}

coded! {
    /// Why events (or records, where the reason says so) never reach the collector.
    LossReason {
        /// The kernel's own `lost` counter rose: its queue was full.
        KernelLost = 1 "kernel_lost",
        /// The audit socket's drop column rose, or a read said ENOBUFS.
        SocketDropped = 2 "socket_dropped",
        /// Serials that never came, modulo 2³², unexplained by the counters.
        SerialGap = 3 "serial_gap",
        /// What happened while the agent was not running.
        NotRunning = 4 "not_running",
        /// A pre-filter rule with action drop.
        Filtered = 5 "filtered",
        /// A pre-filter rule with action sample.
        Sampled = 6 "sampled",
        /// A pre-filter rule with action `rate_limit`.
        RateLimited = 7 "rate_limited",
        /// The spool was full.
        Evicted = 8 "evicted",
        /// Bytes that could not be decoded.
        Undecodable = 9 "undecodable",
        /// An event larger than an event may be.
        TooLarge = 10 "too_large",
        /// Arrived when its event had been completed without it.
        TooLate = 11 "too_late",
        /// A queue inside the agent was full.
        QueueFull = 12 "queue_full",
        /// The spool or the cursor was lost, so what was lost with it is not known.
        Unknown = 13 "unknown",
        /// A file was rotated or truncated away before it was read.
        RotatedAway = 14 "rotated_away",
    }
}

coded! {
    /// Which source suffered the loss.
    LossSource {
        /// All of them, or the agent itself.
        Agent = 0 "agent",
        /// The kernel's audit socket.
        KernelAudit = 1 "kernel_audit",
        /// audit.log or standard input.
        AuditLog = 2 "audit_log",
        /// The journal.
        Journald = 3 "journald",
        /// File integrity.
        FileIntegrity = 4 "file_integrity",
        /// The Kubernetes API server's audit log.
        KubernetesAudit = 5 "kubernetes_audit",
        /// The generator.
        Synthetic = 6 "synthetic",
    }
}

/// One declared loss. Counts are since the previous declaration, never totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub reason: LossReason,
    /// Where.
    pub source: LossSource,
    /// How many; `None` when that cannot be known.
    pub count: Option<u64>,
    /// When, as far as known.
    pub times: Option<TimeRange>,
    /// First and last missing kernel serial; the last is smaller where the serial wrapped.
    pub serials: Option<(u32, u32)>,
}

impl Loss {
    const COUNT: u8 = 1;
    const TIMES: u8 = 2;
    const SERIALS: u8 = 4;

    pub(crate) fn write(&self, out: &mut Writer) {
        let flag = |present: bool, bit: u8| if present { bit } else { 0 };
        out.u8(flag(self.count.is_some(), Self::COUNT)
            | flag(self.times.is_some(), Self::TIMES)
            | flag(self.serials.is_some(), Self::SERIALS));
        out.u8(self.reason.code());
        out.u8(self.source.code());
        if let Some(count) = self.count {
            out.varint(count);
        }
        if let Some(times) = self.times {
            times.write(out);
        }
        if let Some((first, last)) = self.serials {
            out.varint(first.into());
            out.varint(last.into());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let flags = reader.u8()?;
        if flags & !(Self::COUNT | Self::TIMES | Self::SERIALS) != 0 {
            return Err(reader.invalid("loss flags"));
        }
        let reason = LossReason::from_code(reader.u8()?);
        let source = LossSource::from_code(reader.u8()?);
        let count = if flags & Self::COUNT == 0 { None } else { Some(reader.varint()?) };
        let times = if flags & Self::TIMES == 0 { None } else { Some(TimeRange::read(reader)?) };
        let mut serial = || reader.bounded("serial", u32::MAX.into()).map(|serial| serial as u32);
        let serials = if flags & Self::SERIALS == 0 { None } else { Some((serial()?, serial()?)) };
        Ok(Self { reason, source, count, times, serials })
    }

    pub(crate) fn write_all(losses: &[Self], out: &mut Writer) {
        out.varint(losses.len() as u64);
        for loss in losses {
            loss.write(out);
        }
    }

    pub(crate) fn read_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, ParseError> {
        let count = reader.bounded("losses", MAX_LOSSES as u64)?;
        (0..count).map(|_| Self::read(reader)).collect()
    }

    /// Adds declarations up by reason and source: counts added (unknown if any is), times joined. Serials survive
    /// where there is a single declaration of the kind.
    pub fn merge(losses: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::new();
        for loss in losses {
            match merged.iter_mut().find(|known| (known.reason, known.source) == (loss.reason, loss.source)) {
                None => merged.push(loss),
                Some(known) => {
                    known.count = known.count.zip(loss.count).map(|(a, b)| a.saturating_add(b));
                    known.times = match (known.times, loss.times) {
                        (Some(a), Some(b)) => Some(a.join(b)),
                        (a, b) => a.or(b),
                    };
                    known.serials = None;
                }
            }
        }
        merged
    }
}

/// Why a clock fact was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClockCause {
    /// The batch was sealed now.
    Seal,
    /// The agent started.
    Start,
    /// The wall clock was found to have stepped; wall and boottime are those after the step.
    Step,
    /// The clock became synchronised for the first time in this boot.
    Synchronised,
}

impl ClockCause {
    const ALL: [Self; 4] = [Self::Seal, Self::Start, Self::Step, Self::Synchronised];
}

/// The node's clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockFact {
    /// Why it was noted.
    pub cause: ClockCause,
    /// The wall clock.
    pub wall: Timestamp,
    /// `CLOCK_BOOTTIME`, microseconds.
    pub boottime_micros: u64,
    /// Whether the kernel says that the wall clock is synchronised.
    pub synchronised: bool,
}

/// Which boot, and its clocks at up to eight moments, in the order in which they were noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clocks {
    /// The boot that all facts are of.
    pub boot: BootId,
    /// The facts.
    pub facts: Vec<ClockFact>,
}

impl Clocks {
    const SYNCHRONISED: u8 = 0x80;

    pub(crate) fn write(&self, out: &mut Writer) {
        out.raw(self.boot.as_bytes());
        out.u8(self.facts.len() as u8);
        for fact in &self.facts {
            out.u8(fact.cause as u8 | if fact.synchronised { Self::SYNCHRONISED } else { 0 });
            out.time(fact.wall);
            out.varint(fact.boottime_micros);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let boot = BootId::from_bytes(reader.array()?);
        let count = reader.u8()?;
        if usize::from(count) > MAX_CLOCK_FACTS {
            return Err(reader.invalid("number of clock facts"));
        }
        let mut fact = || {
            let cause = reader.u8()?;
            let synchronised = cause & Self::SYNCHRONISED != 0;
            let cause = ClockCause::ALL.get(usize::from(cause & !Self::SYNCHRONISED)).copied();
            let cause = cause.ok_or_else(|| reader.invalid("clock fact"))?;
            let wall = reader.time("wall clock")?;
            Ok(ClockFact { cause, wall, boottime_micros: reader.varint()?, synchronised })
        };
        let facts = (0..count).map(|_| fact()).collect::<Result<_, ParseError>>()?;
        Ok(Self { boot, facts })
    }
}

/// The newest acknowledgement that the agent had seen and accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckSeen {
    /// The epoch that it acknowledged.
    pub epoch: EpochId,
    /// Stored through this number.
    pub number: BatchSeq,
    /// That batch's digest.
    pub digest: Digest,
}

impl AckSeen {
    pub(crate) fn write(seen: Option<&Self>, own: EpochId, out: &mut Writer) {
        let Some(seen) = seen else { return out.u8(0) };
        if seen.epoch == own {
            out.u8(1);
        } else {
            out.u8(2);
            out.raw(seen.epoch.as_bytes());
        }
        out.varint(seen.number.get());
        out.raw(seen.digest.as_bytes());
    }

    pub(crate) fn read(reader: &mut Reader<'_>, own: EpochId) -> Result<Option<Self>, ParseError> {
        let epoch = match reader.u8()? {
            0 => return Ok(None),
            1 => own,
            2 => {
                Some(reader.epoch()?).filter(|epoch| *epoch != own).ok_or_else(|| reader.invalid("epoch"))?
            }
            _ => return Err(reader.invalid("acknowledgement seen")),
        };
        let number = BatchSeq::new(reader.varint()?).ok_or_else(|| reader.invalid("acknowledged number"))?;
        Ok(Some(Self { epoch, number, digest: reader.digest()? }))
    }
}
