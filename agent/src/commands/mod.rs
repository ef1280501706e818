//! What the command line can do besides `run`, one file per command.

pub mod check;
pub mod config_default;
pub mod decode;

use std::io;

use auditflow_service::args::Exit;

/// Writing to a pipe that nobody reads any more ends a command in peace.
fn unless_closed(result: io::Result<()>) -> anyhow::Result<Exit> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Ok),
    }
}
