//! `backup`: a copy of the store and the site's keys that `run --data` can start from, taken while the collector runs.

use std::io::Write;
use std::path::Path;

use anyhow::ensure;
use auditflow_service::args::Exit;
use serde_json::json;

use crate::site;
use crate::store::{Action, sqlite};

/// Copies into a directory that must not exist.
pub fn run(place: &super::Place, destination: &Path) -> anyhow::Result<Exit> {
    let config = place.config()?;
    let directory = &config.storage.data_dir;
    ensure!(
        !destination.exists(),
        "{} exists already: name a directory that does not, so that nothing is overwritten",
        destination.display()
    );
    let store = super::open_store(&config)?;
    let is_embedded = !config.storage.postgres.is_set();
    let copied = copy(directory, destination, is_embedded).inspect_err(|_| {
        // Half a backup is worse than none: it might be taken for a whole one.
        let _ = std::fs::remove_dir_all(destination);
    });
    super::recorded(&store, (Action::StoreBackup, destination.display().to_string()), json!({}), copied)?;
    let destination = destination.display();
    let said = if is_embedded {
        format!("{destination} holds the store and the site's secret keys: keep it as safe as the original")
    } else {
        format!(
            "{destination} holds the site's secret keys: keep it as safe as the original\n\
             the store is in PostgreSQL and is not in it: copy that with pg_dump or a base backup, after this"
        )
    };
    super::unless_closed(writeln!(std::io::stdout(), "{said}"))
}

fn copy(directory: &Path, destination: &Path, is_embedded: bool) -> anyhow::Result<()> {
    site::backup(directory, destination)?;
    if is_embedded {
        sqlite::backup(directory, destination)?;
    }
    Ok(())
}
