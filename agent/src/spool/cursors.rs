//! The cursors' rows: moved in the transaction that commits what they describe.

use rusqlite::{Connection, params};

use super::epoch::seal;
use super::error::{Attempt, SpoolError};
use super::mirror::Cursors;

pub(super) fn load(connection: &Connection) -> Result<Cursors, SpoolError> {
    let mut statement =
        connection.prepare("SELECT source, body, seal FROM cursor").attempt("read the cursors")?;
    let rows = statement
        .query_map((), |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, [u8; 8]>(2)?))
        })
        .attempt("read the cursors")?;
    rows.map(|row| {
        let (source, body, found) = row.attempt("read the cursors")?;
        if row_seal(&source, &body) == found {
            Ok((source, body))
        } else {
            Err(SpoolError::damaged("a cursor's row was altered"))
        }
    })
    .collect()
}

pub(super) fn save(connection: &Connection, source: &str, body: &[u8]) -> Result<(), SpoolError> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO cursor (source, body, seal) VALUES (?,?,?)")
        .and_then(|mut statement| statement.execute(params![source, body, row_seal(source, body)]))
        .map(drop)
        .attempt("write a cursor")
}

fn row_seal(source: &str, body: &[u8]) -> [u8; 8] {
    seal(&[b"cursor", source.as_bytes(), body])
}
