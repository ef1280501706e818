//! Waiting for a condition, with a limit that is far beyond what it takes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

/// How long anything may take before a test gives up on it: long, because machines that run tests are slow and shared.
const LIMIT: Duration = Duration::from_mins(2);

/// Asks again and again until there is an answer; fails, naming `what`, when there is none in the end.
pub fn until<T>(what: &str, mut answer: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let deadline = Instant::now() + LIMIT;
    let mut last_error = None;
    loop {
        match answer() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(error) => last_error = Some(error),
        }
        if Instant::now() > deadline {
            let error = last_error.map(|error| format!(" (at last: {error:#})")).unwrap_or_default();
            bail!("{what}: not within {} s{error}", LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
}
