//! `migrate`: brings the store to this release's schema, which `run` does as well. For those who want to do it first.

use std::io::Write;

use auditflow_service::args::Exit;

use crate::store::sqlite;

/// Migrates and says from where to where.
pub fn run(place: &super::Place) -> anyhow::Result<Exit> {
    let config = place.config()?;
    let directory = &config.storage.data_dir;
    let _lock = super::take(directory)?;
    let migrated = sqlite::migrate(directory, super::by())?;
    let done = if migrated.from == migrated.to {
        format!("{}: schema version {} is current", directory.display(), migrated.to)
    } else {
        format!("{}: schema version {} became {}", directory.display(), migrated.from, migrated.to)
    };
    super::unless_closed(writeln!(std::io::stdout(), "{done}"))
}
