//! What of SQLite's write-ahead log is on the disk for sure (<https://sqlite.org/walformat.html>).

use std::ops::Range;

const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;

/// The part of a log that is written and, as far as anybody was told, not synced: SQLite moves its index's last frame
/// after the sync that makes a commit durable, and nobody acts on a commit before.
pub(crate) fn unsynced(log: &[u8], index: &[u8]) -> Range<u64> {
    let page = index.get(14..16).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
    let last = index.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let (frame, last) = (FRAME_HEADER + u64::from(page), u64::from(last));
    let start = LOG_HEADER + last * frame;
    // A log that begins anew has other salts; until its header says so, what it holds is in the database as well.
    let salt = index.get(32..40).filter(|salt| log.get(16..24) == Some(*salt));
    let frames = (start..log.len() as u64).step_by(frame as usize);
    let of_this_log = |at: &u64| salt.is_some() && log.get(*at as usize + 8..*at as usize + 16) == salt;
    let written = frames.take_while(of_this_log).count() as u64;
    start..(start + written * frame).min(log.len() as u64).max(start)
}
