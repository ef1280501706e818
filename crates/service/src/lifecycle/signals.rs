//! Signals: the first SIGTERM or SIGINT stops in order, the second at once, SIGHUP reloads.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use super::reload::ReloadTrigger;
use super::tasks::Tasks;

/// Listens from now on; the handle ends it.
pub(super) fn listen(tasks: Tasks, reload: ReloadTrigger) -> io::Result<AbortOnDropHandle<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let listener = async move {
        loop {
            let kind = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = hangup.recv() => {
                    reload.request();
                    continue;
                }
            };
            let name = if kind == SignalKind::interrupt() { "SIGINT" } else { "SIGTERM" };
            if tasks.stopping().is_cancelled() {
                tracing::warn!("{name} while stopping: exiting at once");
                // What a shell reports for a process that died of the signal.
                std::process::exit(128 + kind.as_raw_value());
            }
            tracing::info!("{name}: stopping; a second one exits at once");
            tasks.stop();
        }
    };
    Ok(AbortOnDropHandle::new(tokio::spawn(listener)))
}
