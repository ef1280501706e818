//! The chunks' rows: what one commit appended, of one priority, until it is sealed into a batch.

use std::time::Duration;

use auditflow_event::{Priority, Timestamp};
use auditflow_wire::{BootId, Codec, DictionaryId, Encoded, RuleSetVersion, TimeRange};
use rusqlite::{Connection, Row, params};

use super::clock::Now;
use super::epoch::seal;
use super::error::{Attempt, SpoolError};

/// What may be sealed together: chunks of one class, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) priority: Priority,
    pub(super) urgent: bool,
}

/// One commit's events of one class.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) epoch: i64,
    pub(super) class: Class,
    pub(super) raw_bytes: u64,
    pub(super) rule_set: RuleSetVersion,
    /// The clocks at the commit.
    pub(super) at: Now,
    pub(super) encoded: Encoded,
}

/// All waiting chunks of one class, summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) class: Class,
    pub(super) events: u64,
    pub(super) raw_bytes: u64,
    /// The boot clock when the oldest of them was committed.
    pub(super) since: Duration,
}

const COLUMNS: &str = "epoch, priority, urgent, events, raw_bytes, rule_set, wall, boottime, synchronised, \
                       first_time, last_time, codec, dictionary, seal, body";

impl Chunk {
    /// The row's size in the database, near enough to make room for it.
    pub(super) fn footprint(&self) -> u64 {
        footprint(self.encoded.bytes.len())
    }

    pub(super) fn insert(&self, connection: &Connection) -> Result<(), SpoolError> {
        let times = self.times();
        connection
            .prepare_cached(&format!("INSERT INTO chunk ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"))
            .and_then(|mut statement| {
                statement.execute(params![
                    self.epoch,
                    code_of(self.class.priority),
                    self.class.urgent,
                    self.encoded.events,
                    self.raw_bytes as i64,
                    self.rule_set.as_bytes(),
                    self.at.wall.as_micros(),
                    micros(self.at.boottime),
                    self.at.synchronised,
                    times.start().as_micros(),
                    times.end().as_micros(),
                    codec_code(self.encoded.codec),
                    self.encoded.dictionary.as_bytes(),
                    self.seal(),
                    self.encoded.bytes,
                ])
            })
            .map(drop)
            .attempt("append a chunk")
    }

    /// The oldest chunks of a class that together keep within the limits, at least one if there is any. All are of
    /// one rule set, and their last row id comes with them.
    pub(super) fn take(
        connection: &Connection,
        (epoch, boot): (i64, BootId),
        class: Class,
        max_events: u64,
        max_bytes: u64,
    ) -> Result<(Vec<Self>, i64), SpoolError> {
        let mut statement = connection
            .prepare_cached(&format!(
                "SELECT {COLUMNS}, id FROM chunk WHERE epoch = ? AND priority = ? AND urgent = ? ORDER BY id"
            ))
            .attempt("read chunks")?;
        let mut rows =
            statement.query(params![epoch, code_of(class.priority), class.urgent]).attempt("read chunks")?;
        let mut chunks: Vec<Self> = Vec::new();
        let (mut events, mut bytes, mut last) = (0, 0, 0);
        while let Some(row) = rows.next().attempt("read chunks")? {
            let chunk = Self::from_row(row, boot, class)?;
            events += u64::from(chunk.encoded.events);
            bytes += chunk.raw_bytes;
            let fits = events <= max_events
                && bytes <= max_bytes
                && chunks.first().is_none_or(|first| first.rule_set == chunk.rule_set);
            if !(fits || chunks.is_empty()) {
                break;
            }
            last = row.get("id").attempt("read chunks")?;
            chunks.push(chunk);
        }
        Ok((chunks, last))
    }

    /// Removes what [`Chunk::take`] returned.
    pub(super) fn remove(
        connection: &Connection,
        epoch: i64,
        class: Class,
        last: i64,
    ) -> Result<(), SpoolError> {
        connection
            .prepare_cached("DELETE FROM chunk WHERE epoch = ? AND priority = ? AND urgent = ? AND id <= ?")
            .and_then(|mut statement| {
                statement.execute(params![epoch, code_of(class.priority), class.urgent, last])
            })
            .map(drop)
            .attempt("remove sealed chunks")
    }

    fn from_row(row: &Row<'_>, boot: BootId, class: Class) -> Result<Self, SpoolError> {
        let (chunk, seal) = Self::parse(row, boot, class).attempt("read a chunk")?;
        let chunk = chunk.ok_or_else(|| SpoolError::damaged("a chunk's row was altered"))?;
        if chunk.seal() == seal { Ok(chunk) } else { Err(SpoolError::damaged("a chunk's row was altered")) }
    }

    fn parse(row: &Row<'_>, boot: BootId, class: Class) -> rusqlite::Result<(Option<Self>, [u8; 8])> {
        let (first, last): (i64, i64) = (row.get(9)?, row.get(10)?);
        let Some(codec) = codec_of(row.get(11)?) else { return Ok((None, [0; 8])) };
        let encoded = Encoded {
            bytes: row.get(14)?,
            codec,
            dictionary: DictionaryId::from_bytes(row.get(12)?),
            priority: class.priority,
            events: row.get(3)?,
            times: Some(TimeRange::new(Timestamp::from_micros(first), Timestamp::from_micros(last))),
        };
        let at = Now {
            wall: Timestamp::from_micros(row.get(6)?),
            boottime: Duration::from_micros(row.get::<_, i64>(7)? as u64),
            boot,
            synchronised: row.get(8)?,
        };
        let chunk = Self {
            epoch: row.get(0)?,
            class,
            raw_bytes: row.get::<_, i64>(4)? as u64,
            rule_set: RuleSetVersion::from_bytes(row.get(5)?),
            at,
            encoded,
        };
        Ok((Some(chunk), row.get(13)?))
    }

    fn times(&self) -> TimeRange {
        self.encoded.times.unwrap_or_else(|| TimeRange::new(self.at.wall, self.at.wall))
    }

    fn seal(&self) -> [u8; 8] {
        let times = self.times();
        seal(&[
            b"chunk",
            &self.epoch.to_le_bytes(),
            &[code_of(self.class.priority), self.class.urgent.into(), self.at.synchronised.into()],
            &u64::from(self.encoded.events).to_le_bytes(),
            &self.raw_bytes.to_le_bytes(),
            self.rule_set.as_bytes(),
            &self.at.wall.as_micros().to_le_bytes(),
            &micros(self.at.boottime).to_le_bytes(),
            &times.start().as_micros().to_le_bytes(),
            &times.end().as_micros().to_le_bytes(),
            &[codec_code(self.encoded.codec)],
            self.encoded.dictionary.as_bytes(),
            &self.encoded.bytes,
        ])
    }
}

impl Waiting {
    /// What waits to be sealed in an epoch, urgent and high classes first.
    pub(super) fn all(connection: &Connection, epoch: i64) -> Result<Vec<Self>, SpoolError> {
        let mut statement = connection
            .prepare_cached(
                "SELECT priority, urgent, SUM(events), SUM(raw_bytes), MIN(boottime) FROM chunk
                 WHERE epoch = ? GROUP BY priority, urgent ORDER BY urgent DESC, priority DESC",
            )
            .attempt("sum up the chunks")?;
        let rows = statement
            .query_map([epoch], |row| {
                let priority: i64 = row.get(0)?;
                let sums: (i64, i64, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
                Ok((priority, row.get(1)?, sums))
            })
            .attempt("sum up the chunks")?;
        rows.map(|row| {
            let (priority, urgent, (events, raw_bytes, since)) = row.attempt("sum up the chunks")?;
            let priority =
                priority_of(priority).ok_or_else(|| SpoolError::damaged("a chunk's priority was altered"))?;
            Ok(Self {
                class: Class { priority, urgent },
                events: events as u64,
                raw_bytes: raw_bytes as u64,
                since: Duration::from_micros(since as u64),
            })
        })
        .collect()
    }
}

/// What a row with a body of this length takes, overflow pages included.
pub(super) fn footprint(body: usize) -> u64 {
    let page = super::quota::PAGE;
    (body as u64 + 512).div_ceil(page - 4) * page
}

pub(super) fn code_of(priority: Priority) -> u8 {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}

fn priority_of(code: i64) -> Option<Priority> {
    [Priority::Low, Priority::Normal, Priority::High].get(usize::try_from(code).ok()?).copied()
}

fn codec_code(codec: Codec) -> u8 {
    match codec {
        Codec::Raw => 0,
        Codec::Zstd => 1,
        Codec::ZstdDictionary => 2,
    }
}

fn codec_of(code: i64) -> Option<Codec> {
    [Codec::Raw, Codec::Zstd, Codec::ZstdDictionary].get(usize::try_from(code).ok()?).copied()
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
