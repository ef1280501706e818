//! Losses on their way into the next batch's header.
//!
//! They are added up by reason and source as they come. Those that name missing serials stay apart while there is
//! room in a header, because a sum would forget the serials.

use auditflow_event::Timestamp;
use auditflow_wire::facts::MAX_LOSSES;
use auditflow_wire::{Loss, LossReason, LossSource, TimeRange};
use rusqlite::{Connection, Row, params};

use super::epoch::seal;
use super::error::{Attempt, SpoolError};

/// The losses that no batch has declared yet.
pub(super) fn load(connection: &Connection) -> Result<Vec<Loss>, SpoolError> {
    let mut statement = connection
        .prepare_cached(
            "SELECT reason, source, count, first_time, last_time, first_serial, last_serial, seal
             FROM loss ORDER BY id",
        )
        .attempt("read undeclared losses")?;
    let rows = statement.query_map((), from_row).attempt("read undeclared losses")?;
    rows.map(|row| {
        let (loss, seal) = row.attempt("read undeclared losses")?;
        if row_seal(&loss) == seal { Ok(loss) } else { Err(SpoolError::damaged("a loss's row was altered")) }
    })
    .collect()
}

/// Adds to them.
pub(super) fn add(connection: &Connection, new: &[Loss]) -> Result<(), SpoolError> {
    if new.is_empty() {
        return Ok(());
    }
    let known = load(connection)?;
    let sum = add_up(known.iter().chain(new).copied());
    if sum == known {
        return Ok(());
    }
    clear(connection)?;
    for loss in sum {
        insert(connection, &loss)?;
    }
    Ok(())
}

/// Forgets them: a batch in the same transaction declares them.
pub(super) fn clear(connection: &Connection) -> Result<(), SpoolError> {
    connection
        .prepare_cached("DELETE FROM loss")
        .and_then(|mut statement| statement.execute(()))
        .map(drop)
        .attempt("clear declared losses")
}

/// Whether a rule of the operator's asked for it: such losses can wait for a batch, others are told soon.
pub(super) fn is_intended(loss: &Loss) -> bool {
    matches!(loss.reason, LossReason::Filtered | LossReason::Sampled | LossReason::RateLimited)
}

/// At most as many as one header carries.
pub(super) fn add_up(losses: impl Iterator<Item = Loss>) -> Vec<Loss> {
    let (apart, summed): (Vec<Loss>, Vec<Loss>) = losses.partition(|loss| loss.serials.is_some());
    let mut sum = Loss::merge(summed);
    if sum.len() + apart.len() <= MAX_LOSSES {
        sum.extend(apart);
        return sum;
    }
    let mut sum = Loss::merge(sum.into_iter().chain(apart));
    if sum.len() > MAX_LOSSES {
        // More kinds than this release has reasons and sources: what is left says so without its source.
        let rest = sum.split_off(MAX_LOSSES - 1);
        let count = rest.iter().try_fold(0_u64, |sum, loss| Some(sum.saturating_add(loss.count?)));
        let unknown = Loss {
            reason: LossReason::Unknown,
            source: LossSource::Agent,
            count,
            times: None,
            serials: None,
        };
        sum = Loss::merge(sum.into_iter().chain([unknown]));
    }
    sum
}

fn insert(connection: &Connection, loss: &Loss) -> Result<(), SpoolError> {
    let count = loss.count.map(|count| count.min(i64::MAX as u64));
    let loss = &Loss { count, ..*loss };
    connection
        .prepare_cached(
            "INSERT INTO loss (reason, source, count, first_time, last_time, first_serial, last_serial, seal)
             VALUES (?,?,?,?,?,?,?,?)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                loss.reason.code(),
                loss.source.code(),
                loss.count.map(|count| count as i64),
                loss.times.map(|times| times.start().as_micros()),
                loss.times.map(|times| times.end().as_micros()),
                loss.serials.map(|(first, _)| first),
                loss.serials.map(|(_, last)| last),
                row_seal(loss),
            ])
        })
        .map(drop)
        .attempt("write losses")
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<(Loss, [u8; 8])> {
    let count: Option<i64> = row.get(2)?;
    let (start, end): (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
    let (first, last): (Option<u32>, Option<u32>) = (row.get(5)?, row.get(6)?);
    let times = start
        .zip(end)
        .map(|(start, end)| TimeRange::new(Timestamp::from_micros(start), Timestamp::from_micros(end)));
    let loss = Loss {
        reason: LossReason::from_code(row.get(0)?),
        source: LossSource::from_code(row.get(1)?),
        count: count.map(|count| count as u64),
        times,
        serials: first.zip(last),
    };
    Ok((loss, row.get(7)?))
}

fn row_seal(loss: &Loss) -> [u8; 8] {
    let or_zero = |value: Option<u64>| value.unwrap_or_default().to_le_bytes();
    seal(&[
        b"loss",
        &[loss.reason.code(), loss.source.code()],
        &[loss.count.is_some().into(), loss.times.is_some().into(), loss.serials.is_some().into()],
        &or_zero(loss.count),
        &or_zero(loss.times.map(|times| times.start().as_micros() as u64)),
        &or_zero(loss.times.map(|times| times.end().as_micros() as u64)),
        &or_zero(loss.serials.map(|(first, _)| first.into())),
        &or_zero(loss.serials.map(|(_, last)| last.into())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(reason: LossReason, count: u64, serials: Option<(u32, u32)>) -> Loss {
        Loss { reason, source: LossSource::KernelAudit, count: Some(count), times: None, serials }
    }

    #[test]
    fn losses_of_one_kind_add_up_and_named_serials_stay_named() {
        let losses = [
            loss(LossReason::Filtered, 1, None),
            loss(LossReason::SerialGap, 2, Some((5, 6))),
            loss(LossReason::Filtered, 3, None),
            loss(LossReason::SerialGap, 1, Some((9, 9))),
        ];
        let sum = add_up(losses.into_iter());
        assert_eq!(sum, [loss(LossReason::Filtered, 4, None), losses[1], losses[3]]);
    }

    #[test]
    fn more_losses_than_a_header_carries_become_fewer_without_losing_count() {
        let gaps = (0..500).map(|serial| loss(LossReason::SerialGap, 1, Some((serial, serial))));
        assert_eq!(add_up(gaps), [loss(LossReason::SerialGap, 500, None)]);
        let kinds = (0..=255).map(|code| loss(LossReason::from_code(code), 2, None));
        let sum = add_up(kinds);
        assert!(sum.len() <= MAX_LOSSES);
        assert_eq!(sum.iter().filter_map(|loss| loss.count).sum::<u64>(), 512);
    }
}
