//! The life of a source that follows a log file: read, hand over, wait, until the agent stops.
//!
//! Shared by `audit_log` and `kubernetes_audit`, which say through [`Interpret`] what a line means. Reads only what
//! the pipeline has room for: while the outlet is full, the lines stay in the file. The file is looked at again after
//! a short pause; that costs less than a notification for every line that is written, and works on every file system.
//! Only looks in vain count as time in which a line did not come: while the outlet is full, or nobody runs the agent,
//! lines may well be there, unread.

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::tail::{Line, Note, Tail};
use super::{Closed, CoverageState, Outlet, Output, Reporter};

/// How soon a log is looked at again when it had nothing new, and when it could not be read.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// What the lines of a log mean.
pub(super) trait Interpret {
    /// Takes a line.
    fn line(&mut self, line: Line<'_>);
    /// Takes what befell the file.
    fn note(&mut self, note: Note);
    /// Gives out what is complete, with the cursor after all of it; `None` when there is nothing. `waited` is for how
    /// long the log had nothing new since the last time.
    fn take(&mut self, tail: &mut Tail, waited: Duration) -> Option<Output>;
    /// How the source is when the log cannot be read, and what to do.
    fn unreadable(&self, error: &io::Error) -> (CoverageState, String);
    /// How it is when it can.
    fn readable(&self) -> String;
}

/// Where a source hands over and reports, and what ends it.
pub(super) struct Surroundings {
    pub(super) outlet: Outlet,
    pub(super) reporter: Reporter,
    pub(super) stopping: CancellationToken,
}

/// Follows the log until the agent stops.
pub(super) async fn follow(
    mut tail: Tail,
    mut lines: impl Interpret,
    around: Surroundings,
) -> Result<(), Closed> {
    while !around.stopping.is_cancelled() {
        let result = tail.read(&mut |line| lines.line(line));
        let (pause, waited) = match result {
            Ok(progress) => {
                progress.notes.into_iter().for_each(|note| lines.note(note));
                around.reporter.report(CoverageState::Active, lines.readable());
                if progress.bytes == 0 { (PAUSE, PAUSE) } else { (Duration::ZERO, Duration::ZERO) }
            }
            Err(error) => {
                let (condition, reason) = lines.unreadable(&error);
                around.reporter.report(condition, reason);
                (PAUSE_AFTER_ERROR, Duration::ZERO)
            }
        };
        if let Some(output) = lines.take(&mut tail, waited) {
            tokio::select! {
                sent = around.outlet.send(output) => sent?,
                () = around.stopping.cancelled() => break,
            }
        }
        if pause > Duration::ZERO {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = around.stopping.cancelled() => break,
            }
        }
    }
    Ok(())
}
