//! `migrate`: brings the store to this release's schema, which `run` does as well. For those who want to do it first.

use std::io::Write;

use auditflow_service::args::Exit;
use auditflow_service::lifecycle;

use crate::database;
use crate::store::postgres::PostgresStore;
use crate::store::{Migrated, sqlite};

/// Migrates and says from where to where.
pub fn run(place: &super::Place) -> anyhow::Result<Exit> {
    let config = place.config()?;
    if let Some(options) = database::options(&config.storage.postgres)? {
        let migrated =
            lifecycle::block_on(async { PostgresStore::new(&options)?.migrate(super::by()).await })??;
        return tell("the database", migrated);
    }
    let directory = &config.storage.data_dir;
    let _lock = super::take(directory)?;
    let migrated = sqlite::migrate(directory, super::by())?;
    tell(&directory.display().to_string(), migrated)
}

fn tell(what: &str, Migrated { from, to }: Migrated) -> anyhow::Result<Exit> {
    let done = if from == to {
        format!("{what}: schema version {to} is current")
    } else {
        format!("{what}: schema version {from} became {to}")
    };
    super::unless_closed(writeln!(std::io::stdout(), "{done}"))
}
