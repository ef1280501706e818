//! Logging: set up once by `main`, its level changeable while the program runs.
//!
//! Fed by `tracing` events of every crate; writes to exactly one place. Field names are dotted and the event schema's
//! (`node.id`, `batch.seq`). In the journal they become upper case with underscores behind `AUDITFLOW_`
//! (`AUDITFLOW_NODE_ID`), with the plain text in `MESSAGE` and the level in `PRIORITY`.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Prefix of field names in the journal.
const JOURNAL_PREFIX: &str = "AUDITFLOW";
/// The target prefix of this project's crates.
const OWN_TARGETS: &str = "auditflow";

/// The `[log]` section.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// What is logged.
    pub level: LogLevel,
    /// Where to and how.
    pub format: LogFormat,
}

/// Where logs go and how they look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `journald` if the journal reads our standard error, else `text`.
    #[default]
    Auto,
    /// Lines for people, to standard error.
    Text,
    /// One JSON object per line, to standard output.
    Json,
    /// The journal with its fields; `text` where there is no journal.
    Journald,
}

/// What is logged: a level (`off`, `error`, `warn`, `info`, `debug`, `trace`), optionally followed by levels for
/// single modules: `info,auditflow_agent::spool=debug`.
///
/// A plain level above `info` is meant for this project's own code; libraries stay at `info` unless they are named
/// (`debug,hyper=debug`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel {
    text: String,
    base: LevelFilter,
    targets: Vec<(String, LevelFilter)>,
}

impl LogLevel {
    fn filter(&self) -> Targets {
        Targets::new()
            .with_default(self.base.min(LevelFilter::INFO))
            .with_target(OWN_TARGETS, self.base)
            .with_targets(self.targets.iter().cloned())
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self { text: "info".to_owned(), base: LevelFilter::INFO, targets: Vec::new() }
    }
}

/// Text that is not a log level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a log level; write off, error, warn, info, debug or trace, or for example \"info,auditflow_agent=debug\""
)]
pub struct NotALevel(String);

impl FromStr for LogLevel {
    type Err = NotALevel;

    fn from_str(text: &str) -> Result<Self, NotALevel> {
        let wrong = || NotALevel(text.chars().take(100).collect());
        let mut level = Self { text: text.trim().to_owned(), base: LevelFilter::INFO, targets: Vec::new() };
        for (index, part) in text.split(',').map(str::trim).enumerate() {
            match part.split_once('=') {
                Some((target, name)) if is_target(target) => {
                    level.targets.push((target.to_owned(), named_level(name).ok_or_else(wrong)?));
                }
                None if index == 0 => level.base = named_level(part).ok_or_else(wrong)?,
                _ => return Err(wrong()),
            }
        }
        Ok(level)
    }
}

/// Only names: `LevelFilter`'s own parser takes numbers too.
fn named_level(name: &str) -> Option<LevelFilter> {
    let known = ["off", "error", "warn", "info", "debug", "trace"];
    known.iter().any(|known| known.eq_ignore_ascii_case(name)).then(|| name.parse().ok()).flatten()
}

fn is_target(target: &str) -> bool {
    !target.is_empty() && target.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-'))
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for LogLevel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("logging is already set up in this process")]
pub struct AlreadySetUp;

/// Changes what is logged while the program runs. Cheap to clone.
#[derive(Clone)]
pub struct LogControl {
    handle: reload::Handle<Targets, Registry>,
    current: Arc<Mutex<LogLevel>>,
}

impl LogControl {
    /// Logs at this level from now on, for example `debug`.
    pub fn set_level(&self, level: &str) -> Result<(), NotALevel> {
        let level: LogLevel = level.parse()?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if self.handle.reload(level.filter()).is_ok() {
            *current = level;
        }
        Ok(())
    }

    /// The level in force, as it was written.
    pub fn level(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).text.clone()
    }
}

/// Sets up logging for the process; panics are logged from here on too. `program` names it in the journal, `color`
/// applies to `text` only.
pub fn init(program: &str, config: &LogConfig, color: bool) -> Result<LogControl, AlreadySetUp> {
    let format = resolve(config.format, journal_reads_stderr());
    let (dispatch, control, warning) = match format {
        LogFormat::Journald => match journal(program) {
            Ok(layer) => build(&config.level, layer, None),
            Err(error) => {
                let warning =
                    format!("no journal to log to, logging text to standard error instead: {error}");
                build(&config.level, text(io::stderr, color), Some(warning))
            }
        },
        LogFormat::Json => build(&config.level, json(io::stdout), None),
        LogFormat::Auto | LogFormat::Text => build(&config.level, text(io::stderr, color), None),
    };
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| AlreadySetUp)?;
    log_panics();
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    Ok(control)
}

type BoxedLayer = Box<dyn Layer<Filtered> + Send + Sync>;
type Filtered = tracing_subscriber::layer::Layered<reload::Layer<Targets, Registry>, Registry>;

fn build(
    level: &LogLevel,
    layer: BoxedLayer,
    warning: Option<String>,
) -> (Dispatch, LogControl, Option<String>) {
    let (filter, handle) = reload::Layer::new(level.filter());
    let control = LogControl { handle, current: Arc::new(Mutex::new(level.clone())) };
    (Dispatch::new(Registry::default().with(filter).with(layer)), control, warning)
}

fn text<W>(writer: W, color: bool) -> BoxedLayer
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(color).boxed()
}

fn json<W>(writer: W) -> BoxedLayer
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_writer(writer)
        .boxed()
}

fn journal(program: &str) -> io::Result<BoxedLayer> {
    let layer = tracing_journald::layer()?;
    let layer =
        layer.with_syslog_identifier(program.to_owned()).with_field_prefix(Some(JOURNAL_PREFIX.to_owned()));
    Ok(layer.boxed())
}

fn resolve(format: LogFormat, journal_reads_stderr: bool) -> LogFormat {
    match format {
        LogFormat::Auto if journal_reads_stderr => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        chosen => chosen,
    }
}

/// systemd sets `JOURNAL_STREAM` to device and inode of the stream it gave us (systemd.exec(5)). Children inherit the
/// variable but maybe not the stream, so both are compared.
fn journal_reads_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|meta| stream == format!("{}:{}", meta.dev(), meta.ino()))
}

/// A panic in a task must reach the log that is read, not only standard error.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(panic.location = location, "panic: {message}");
    }));
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// What was logged, kept in memory.
    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Captured {
        type Writer = Self;

        fn make_writer(&'w self) -> Self {
            self.clone()
        }
    }

    fn level(text: &str) -> LogLevel {
        text.parse().unwrap()
    }

    #[test]
    fn json_is_one_object_per_line_with_dotted_fields() {
        let captured = Captured::default();
        let (dispatch, ..) = build(&level("info"), json(captured.clone()), None);
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!(node.id = "ab", batch.seq = 7, "batch\nstored");
            tracing::warn!("second");
        });
        let text = captured.take();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["node.id"], "ab");
        assert_eq!(lines[0]["batch.seq"], 7);
        assert_eq!(lines[0]["message"], "batch\nstored");
        assert_eq!(lines[0]["level"], "INFO");
        assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn level_changes_while_running_and_a_bad_one_changes_nothing() {
        let captured = Captured::default();
        let (dispatch, control, _) = build(&level("warn"), text(captured.clone(), false), None);
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!("one");
            control.set_level("debug").unwrap();
            tracing::debug!("two");
            assert_eq!(control.set_level("debgu").unwrap_err(), NotALevel("debgu".to_owned()));
            tracing::debug!("three");
            assert_eq!(control.level(), "debug");
            control.set_level("off").unwrap();
            tracing::error!("four");
        });
        let text = captured.take();
        let seen: Vec<bool> =
            ["one", "two", "three", "four"].iter().map(|word| text.contains(word)).collect();
        assert_eq!(seen, [false, true, true, false], "{text}");
    }

    #[test]
    fn libraries_stay_at_info_unless_named() {
        let captured = Captured::default();
        let (dispatch, control, _) = build(&level("debug"), text(captured.clone(), false), None);
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::debug!(target: "hyper::proto", "chatter");
            tracing::info!(target: "hyper::proto", "notice");
            control.set_level("debug,hyper=trace").unwrap();
            tracing::trace!(target: "hyper::proto", "detail");
        });
        let text = captured.take();
        assert!(!text.contains("chatter") && text.contains("notice") && text.contains("detail"), "{text}");
    }

    #[test]
    fn text_has_colour_only_where_asked_for() {
        for color in [false, true] {
            let captured = Captured::default();
            let (dispatch, ..) = build(&level("info"), text(captured.clone(), color), None);
            tracing::dispatcher::with_default(&dispatch, || tracing::info!("hello"));
            assert_eq!(captured.take().contains('\x1b'), color);
        }
    }

    #[test]
    fn levels_are_checked() {
        for good in
            ["info", "DEBUG", "off", "info,auditflow_agent::spool=trace", "warn, hyper=debug", "hyper=debug"]
        {
            assert!(good.parse::<LogLevel>().is_ok(), "{good}");
        }
        for bad in
            ["", "5", "verbose", "info,debug", "info,=debug", "info,a b=debug", "info,hyper=loud", "info,"]
        {
            assert!(bad.parse::<LogLevel>().is_err(), "{bad}");
        }
    }

    #[test]
    fn automatic_format_follows_the_journal_stream() {
        assert_eq!(resolve(LogFormat::Auto, true), LogFormat::Journald);
        assert_eq!(resolve(LogFormat::Auto, false), LogFormat::Text);
        assert_eq!(resolve(LogFormat::Json, true), LogFormat::Json);
    }
}
