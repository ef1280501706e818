//! Exporting what a spool holds into a file that can be verified elsewhere with public keys alone.

use std::io::Write;
use std::path::Path;

use auditflow_wire::{FrameWriter, export};
use rusqlite::{OptionalExtension, params};

use super::database;
use super::error::{Attempt, SpoolError};
use super::reader::{Pushed, Row};

/// How full a frame gets before the next one begins, in bytes.
const FRAME: usize = 1 << 20;

/// What an export came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Rows written: batches, evicted headers, folded ranges.
    pub rows: u64,
    /// Batches left out because their payload was altered on the disk.
    pub damaged: u64,
}

/// Writes all batches that the spool in `dir` holds, oldest first. A spool in use can be exported: each row is read in
/// a transaction of its own.
pub fn export(dir: &Path, out: &mut dyn Write) -> Result<Exported, SpoolError> {
    let failed = |error: std::io::Error| SpoolError::io("write the export", &error);
    let connection = database::open_for_reading(dir)?;
    let mut statement = connection
        .prepare(
            "SELECT id, digest, signed, eviction, payload FROM batch WHERE id > ? AND stored = 0 ORDER BY id LIMIT 1",
        )
        .attempt("read the batches")?;
    let mut exported = Exported::default();
    let mut frame = FrameWriter::new();
    let mut after = 0;
    out.write_all(&export::MAGIC).map_err(failed)?;
    loop {
        let next = statement
            .query_row(params![after], |row| {
                let batch = Row {
                    digest: row.get(1)?,
                    signed: row.get(2)?,
                    eviction: row.get(3)?,
                    payload: row.get(4)?,
                };
                Ok((row.get::<_, i64>(0)?, batch))
            })
            .optional()
            .attempt("read a batch")?;
        if (next.is_none() || frame.len() >= FRAME) && !frame.is_empty() {
            let bytes = std::mem::take(&mut frame).finish();
            out.write_all(&export::prefix(&bytes)).map_err(failed)?;
            out.write_all(&bytes).map_err(failed)?;
        }
        let Some((id, row)) = next else { break };
        match row.push(&mut frame, None)? {
            Pushed::Yes => exported.rows += 1,
            Pushed::PayloadDamaged => exported.damaged += 1,
            Pushed::NoRoom => return Err(SpoolError::damaged("a batch does not fit into a frame")),
        }
        after = id;
    }
    out.flush().map_err(failed)?;
    Ok(exported)
}
