//! The log that auditd writes, or the records that it hands to a plugin on standard input.
//!
//! The file can be read again, so its cursor replays exactly what was not committed ([`super::replay`]). Standard
//! input can't: what was read and not committed when the agent is killed is lost, and auditd says so itself.

use std::io;
use std::path::Path;
use std::time::Duration;

use auditflow_audit_record::{self as audit_record, Assembler, Limits, Lines, MAX_LINE, Record};
use auditflow_event::Event;
use auditflow_service::lifecycle::Tasks;
use auditflow_wire::{Loss, LossReason, LossSource};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::follow::{Interpret, Surroundings, follow};
use super::replay::{Checkpoint, Committed, LogClock, MAX_COMMITTED, Replay};
use super::tail::{Line, Note, Place, Tail};
use super::{Closed, CoverageState, Cursor, Outlet, Output, Reporter, SourceName, Station, loss};

pub use crate::config::AuditLogConfig as Config;

/// Its name.
pub const NAME: SourceName = SourceName("audit_log");
/// How much is read at once from standard input, and how long it may say nothing before time is let pass.
const CHUNK_BYTES: usize = 16 << 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Starts reading, from `start` where there is one.
pub fn spawn(
    config: &Config,
    station: Station,
    outlet: Outlet,
    reporter: Reporter,
    start: Option<&Cursor>,
    tasks: &Tasks,
) {
    let around = Surroundings { outlet, reporter, stopping: tasks.stopping() };
    if config.path == Path::new("-") {
        tasks.spawn_job("audit_log", read_stream(tokio::io::stdin(), station, around, tasks.clone()));
        return;
    }
    let (tail, records) = open(config, station, start);
    tasks.spawn("audit_log", follow(tail, records, around));
}

/// Where to go on in the file.
#[derive(Debug, Serialize, Deserialize)]
struct FileCursor {
    place: Place,
    committed: Vec<Committed>,
}

fn open(config: &Config, station: Station, start: Option<&Cursor>) -> (Tail, Records) {
    let start = start.and_then(|cursor| match serde_json::from_slice::<FileCursor>(&cursor.0) {
        Ok(cursor) => Some(cursor),
        Err(error) => {
            tracing::warn!(source.name = %NAME, "its cursor cannot be read, so the log is read from its beginning: {error}");
            None
        }
    });
    let (place, committed) =
        start.map_or((None, Vec::new()), |cursor| (Some(cursor.place), cursor.committed));
    let position = place.as_ref().map_or(0, Place::offset);
    let records = Records::new(config, station, &Checkpoint { position, committed });
    (Tail::new(&config.path, place, MAX_LINE), records)
}

/// Records on their way to events.
struct Records {
    path: String,
    station: Station,
    assembler: Assembler,
    replay: Replay,
    clock: LogClock,
    /// The assembler's time when it was last asked.
    time: Duration,
    events: Vec<Event>,
    losses: Vec<Loss>,
}

impl Records {
    fn new(config: &Config, station: Station, checkpoint: &Checkpoint) -> Self {
        let limits = Limits::default();
        Self {
            path: config.path.display().to_string(),
            station,
            replay: Replay::new(checkpoint, limits.timeout),
            assembler: Assembler::new(limits),
            clock: LogClock::default(),
            time: Duration::ZERO,
            events: Vec::new(),
            losses: Vec::new(),
        }
    }

    fn collect(&mut self) {
        while let Some(event) = self.assembler.pop() {
            self.replay.completed(&event);
            self.events.push(Event::audit(Some(self.station.node), event));
        }
    }

    fn lost(&mut self, reason: LossReason, count: Option<u64>) {
        self.losses.push(loss(reason, LossSource::AuditLog, count));
        if self.losses.len() > 8 {
            self.losses = Loss::merge(self.losses.drain(..));
        }
    }

    /// Takes a piece of a stream, which has no positions: nothing of it can be read again.
    fn chunk(&mut self, lines: &mut Lines, mut chunk: &[u8]) {
        while let Some(line) = lines.next_line(&mut chunk) {
            match line {
                audit_record::Line::Whole(bytes) => self.line(Line { bytes, start: 0, end: 1 }),
                audit_record::Line::TooLong => self.lost(LossReason::TooLarge, Some(1)),
            }
        }
    }

    /// Lets time pass, during which nothing came.
    fn advance(&mut self, waited: Duration) {
        self.time = self.clock.waited(waited);
        self.assembler.advance(self.time);
        self.collect();
    }

    fn take(&mut self) -> Option<Output> {
        if self.events.is_empty() && self.losses.is_empty() {
            return None;
        }
        let (events, losses) = (std::mem::take(&mut self.events), std::mem::take(&mut self.losses));
        Some(Output { source: NAME, events, losses, cursor: None })
    }
}

impl Interpret for Records {
    fn line(&mut self, line: Line<'_>) {
        let Ok(record) = Record::from_line(line.bytes) else {
            return self.lost(LossReason::Undecodable, Some(1));
        };
        self.clock.saw(record.stamp.millis);
        self.advance(Duration::ZERO);
        if self.replay.admit(&record, line.start, line.end, self.time) {
            self.assembler.push(record, self.time);
            self.collect();
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Gap => {
                self.lost(LossReason::RotatedAway, None);
                // Positions before the gap can't be found again.
                self.assembler.flush();
                self.collect();
            }
            Note::LongLine => self.lost(LossReason::TooLarge, Some(1)),
            Note::CutLine => self.lost(LossReason::Undecodable, Some(1)),
        }
    }

    fn take(&mut self, tail: &mut Tail, waited: Duration) -> Option<Output> {
        self.advance(waited);
        let mut checkpoint = self.replay.checkpoint(tail.position(), self.time);
        if checkpoint.committed.len() > MAX_COMMITTED {
            self.assembler.flush();
            self.collect();
            checkpoint = self.replay.checkpoint(tail.position(), self.time);
        }
        let mut output = Self::take(self)?;
        let place = tail.place(checkpoint.position)?;
        let cursor = FileCursor { place, committed: checkpoint.committed };
        output.cursor = serde_json::to_vec(&cursor).ok().map(Cursor);
        Some(output)
    }

    fn unreadable(&self, error: &io::Error) -> (CoverageState, String) {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => format!(
                "there is no {}: start auditd, or read the kernel's own socket instead (sources.kernel_audit)",
                self.path
            ),
            io::ErrorKind::PermissionDenied => {
                format!("{} may not be read: give the agent CAP_DAC_READ_SEARCH", self.path)
            }
            _ => format!("{} cannot be read: {error}", self.path),
        };
        (CoverageState::Unavailable, reason)
    }

    fn readable(&self) -> String {
        format!("reads {}", self.path)
    }
}

/// Reads records on standard input until it ends, which is how auditd tells its plugins to stop.
async fn read_stream(
    mut input: impl AsyncRead + Unpin,
    station: Station,
    around: Surroundings,
    tasks: Tasks,
) -> Result<(), Closed> {
    let config = Config { enabled: true, path: "standard input".into() };
    let mut records = Records::new(&config, station, &Checkpoint { position: 0, committed: Vec::new() });
    around.reporter.report(CoverageState::Active, records.readable());
    let mut lines = Lines::new(MAX_LINE);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = tokio::select! {
            read = input.read(&mut chunk) => read,
            () = tokio::time::sleep(PAUSE) => Err(io::ErrorKind::TimedOut.into()),
            () = around.stopping.cancelled() => Ok(0),
        };
        match read {
            Ok(0) => break,
            Ok(read) => records.chunk(&mut lines, &chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => records.advance(PAUSE),
            Err(error) => {
                let (condition, reason) = records.unreadable(&error);
                around.reporter.report(condition, reason);
                break;
            }
        }
        if let Some(output) = records.take() {
            around.outlet.send(output).await?;
        }
    }
    if let Some(audit_record::Line::Whole(rest)) = lines.take_rest() {
        records.line(Line { bytes: rest, start: 0, end: 1 });
    }
    records.assembler.flush();
    records.collect();
    if let Some(output) = records.take() {
        around.outlet.send(output).await?;
    }
    around.reporter.report(CoverageState::Stopped, "standard input has ended");
    tasks.stop();
    Ok(())
}

#[cfg(test)]
mod tests;
