//! Harmless events in the ancestor's shape: made at a rate that can be changed while it runs, or posted one by one.
//!
//! For trying things out, for demonstrations and for load. With a seed the same events come at every start, save for
//! their times. Made events wait for room in the pipeline (what is not made yet is not lost); a posted one is refused
//! when there is none.

mod generator;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use auditflow_event::{Event, EventId, OriginError};
use auditflow_service::lifecycle::Tasks;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Closed, CoverageState, Outlet, Output, Reporter, SourceName, Station};
use crate::clock;
use crate::config::MAX_RATE;
use generator::Generator;

pub use crate::config::SyntheticConfig as Config;

/// Its name.
pub const NAME: SourceName = SourceName("synthetic");
/// How often events are made, and the most that are handed over at once.
const TICK: Duration = Duration::from_millis(10);
const MAX_EVENTS_AT_ONCE: usize = 256;

/// Starts the generator and gives what controls it.
pub fn spawn(
    config: &Config,
    station: Station,
    outlet: Outlet,
    reporter: &Reporter,
    tasks: &Tasks,
) -> Result<Control, getrandom::Error> {
    let seed = match config.seed {
        Some(seed) => seed,
        None => getrandom::u64()?,
    };
    let control = Control(Arc::new(Shared {
        rate: AtomicU32::new(config.rate.min(MAX_RATE)),
        rate_changed: Notify::new(),
        numbers: AtomicU64::new(0),
        station,
        outlet,
    }));
    reporter.report(CoverageState::Active, "makes events at the rate of PUT /rate");
    tasks.spawn("synthetic", generate(control.clone(), Generator::new(seed), tasks.stopping()));
    Ok(control)
}

/// What the admin interface does with the generator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rate: AtomicU32,
    rate_changed: Notify,
    /// The numbers of made and posted events alike.
    numbers: AtomicU64,
    station: Station,
    outlet: Outlet,
}

/// Why a posted event was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// It is no event.
    #[error("{0}")]
    NotAnEvent(#[from] OriginError),
    /// It has no type.
    #[error("event has no event_type: add it")]
    NoType,
    /// The pipeline has no room.
    #[error("the pipeline is full, try again")]
    Full,
}

/// A rate that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rate is above {MAX_RATE} events per second")]
pub struct TooFast;

impl Control {
    /// Events per second.
    pub fn rate(&self) -> u32 {
        self.0.rate.load(Ordering::Relaxed)
    }

    /// Makes so many events per second from now on.
    pub fn set_rate(&self, rate: u32) -> Result<(), TooFast> {
        if rate > MAX_RATE {
            return Err(TooFast);
        }
        self.0.rate.store(rate, Ordering::Relaxed);
        self.0.rate_changed.notify_one();
        Ok(())
    }

    /// Takes a posted event. What the ancestor's generator fills in is filled in here too: id, time and source, and
    /// host, user, result, severity and details where they are missing.
    pub fn post(&self, event: Map<String, Value>) -> Result<EventId, PostError> {
        if !event.get("event_type").is_some_and(Value::is_string) {
            return Err(PostError::NoType);
        }
        let (number, id) = self.0.next();
        let text = completed(event, id).to_string();
        let event =
            Event::synthetic(Some(self.0.station.node), *self.0.station.run.as_bytes(), number, &text)?;
        self.0.outlet.try_send(Output::live(NAME, vec![event])).map_err(|_| PostError::Full)?;
        Ok(id)
    }
}

impl Shared {
    fn next(&self) -> (u64, EventId) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        (number, EventId::counted(Some(self.station.node), "synthetic", *self.station.run.as_bytes(), number))
    }
}

fn completed(mut event: Map<String, Value>, id: EventId) -> Value {
    event.insert("event_id".into(), id.to_string().into());
    event.insert("timestamp".into(), clock::wall().to_string().into());
    event.insert("source_service".into(), "audit-event-generator-api".into());
    let defaults = [
        ("server_hostname", Value::from(generator::HOSTS[0])),
        ("user_id", generator::USERS[0].into()),
        ("action_result", "SUCCESS".into()),
        ("severity", "INFO".into()),
        ("details", Value::Object(Map::new())),
    ];
    for (name, value) in defaults {
        event.entry(name).or_insert(value);
    }
    Value::Object(event)
}

async fn generate(
    control: Control,
    mut generator: Generator,
    stopping: CancellationToken,
) -> Result<(), Closed> {
    let shared = &control.0;
    let mut due = Due::default();
    while !stopping.is_cancelled() {
        let rate = control.rate();
        let count = due.at(rate, Instant::now());
        let mut left = count;
        while left > 0 {
            let batch = left.min(MAX_EVENTS_AT_ONCE);
            left -= batch;
            let events = (0..batch).filter_map(|_| make(shared, &mut generator)).collect();
            tokio::select! {
                sent = shared.outlet.send(Output::live(NAME, events)) => sent?,
                () = stopping.cancelled() => return Ok(()),
            }
        }
        let pause = if rate == 0 { Duration::MAX } else { TICK };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.rate_changed.notified() => due = Due::default(),
            () = stopping.cancelled() => {}
        }
    }
    Ok(())
}

fn make(shared: &Shared, generator: &mut Generator) -> Option<Event> {
    let (number, id) = shared.next();
    let text = generator.event(id, clock::wall());
    Event::synthetic(Some(shared.station.node), *shared.station.run.as_bytes(), number, &text).ok()
}

/// How many events are due. After a pause (a full pipeline) at most a second's worth is made up for.
#[derive(Debug, Default)]
struct Due {
    last: Option<Instant>,
    /// Millionths of an event that were due and not whole.
    remainder: u64,
}

impl Due {
    fn at(&mut self, rate: u32, now: Instant) -> usize {
        let elapsed = self.last.map_or(Duration::ZERO, |last| now - last).min(Duration::from_secs(1));
        self.last = Some(now);
        let millionths = elapsed.as_micros() as u64 * u64::from(rate) + self.remainder;
        self.remainder = millionths % 1_000_000;
        (millionths / 1_000_000) as usize
    }
}

#[cfg(test)]
mod tests;
