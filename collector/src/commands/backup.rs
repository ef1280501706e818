//! `backup`: a copy of the store and the site's keys that `run --data` can start from, taken while the collector runs.

use std::io::Write;
use std::path::Path;

use anyhow::ensure;
use auditflow_service::args::Exit;

use crate::site;
use crate::store::sqlite;

/// Copies into a directory that must not exist.
pub fn run(place: &super::Place, destination: &Path) -> anyhow::Result<Exit> {
    let config = place.config()?;
    let directory = &config.storage.data_dir;
    ensure!(
        !destination.exists(),
        "{} exists already: name a directory that does not, so that nothing is overwritten",
        destination.display()
    );
    if let Err(error) = copy(directory, destination) {
        // Half a backup is worse than none: it might be taken for a whole one.
        let _ = std::fs::remove_dir_all(destination);
        return Err(error);
    }
    super::unless_closed(writeln!(
        std::io::stdout(),
        "{} holds the store and the site's secret keys: keep it as safe as the original",
        destination.display()
    ))
}

fn copy(directory: &Path, destination: &Path) -> anyhow::Result<()> {
    site::backup(directory, destination)?;
    Ok(sqlite::backup(directory, destination)?)
}
