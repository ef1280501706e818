//! What a pre-filter rule does, and how that is written.
//!
//! ```yaml
//! action: sample
//! sample: 0.1                # a tenth, the same events everywhere and always
//! ---
//! action: rate_limit
//! rate_limit: { events: 100, seconds: 60, by: [process.executable] }
//! ---
//! action: tag
//! tag: [noisy, nightly]
//! ---
//! action: priority
//! priority: high
//! ```

use std::time::Duration;

use auditflow_event::{EventId, Priority};
use yaml_serde::{Mapping, Value};

use crate::document::Document;

/// What a rule does with what it matches.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Keep, and look at no further rule.
    Keep,
    /// Drop.
    Drop,
    /// Keep a share, and look at no further rule.
    Sample(Ratio),
    /// Keep so many in so much time, and look at no further rule.
    RateLimit(Rate),
    /// Add names to the event's tags, and go on.
    Tag(Vec<Box<str>>),
    /// Set the event's priority, and go on.
    Priority(Priority),
}

/// A share of events between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

/// So many events in so much time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many are kept.
    pub events: u32,
    /// In how much time, from the first on.
    pub per: Duration,
    /// The fields whose values are limited each by themselves; empty: all matches together.
    pub by: Vec<Box<str>>,
}

/// Keys of a document that are ours and not Sigma's.
pub(super) const KEYS: &[&str] = &["action", "sample", "rate_limit", "tag", "priority", "enabled"];

const MAX_TAGS: usize = 16;
const MAX_TAG_BYTES: usize = 64;

type Refused = (&'static str, String);

impl Action {
    /// Whether rules after it are not looked at.
    pub fn ends(&self) -> bool {
        !matches!(self, Self::Tag(_) | Self::Priority(_))
    }

    /// The word in rule files.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drop => "drop",
            Self::Sample(_) => "sample",
            Self::RateLimit(_) => "rate_limit",
            Self::Tag(_) => "tag",
            Self::Priority(_) => "priority",
        }
    }

    pub(super) fn parse(document: &Document) -> Result<Self, Refused> {
        const WORDS: &str = "keep, drop, sample, rate_limit, tag or priority";
        let word = document.get("action").and_then(Value::as_str);
        let word = word.ok_or_else(|| ("action", format!("a pre-filter rule needs an action: {WORDS}")))?;
        let action = match word {
            "keep" => Self::Keep,
            "drop" => Self::Drop,
            "sample" => Self::Sample(ratio(document.get("sample"))?),
            "rate_limit" => Self::RateLimit(rate(document.get("rate_limit"))?),
            "tag" => Self::Tag(names(document.get("tag"))?),
            "priority" => Self::Priority(priority(document.get("priority"))?),
            other => return Err(("action", format!("{other} is not an action; use {WORDS}"))),
        };
        for other in ["sample", "rate_limit", "tag", "priority"] {
            if other != action.as_str() && document.get(other).is_some() {
                return Err((
                    other,
                    format!(
                        "{other} has no meaning beside action: {word}; remove it, or write a rule for it"
                    ),
                ));
            }
        }
        Ok(action)
    }
}

impl Ratio {
    /// The share.
    pub fn get(self) -> f64 {
        self.0
    }

    /// Whether the event is in the share: a function of its id alone, so that every replay decides alike.
    pub fn keeps(self, id: &EventId) -> bool {
        // The first 48 bits of a UUIDv5 are all digest.
        let digest = id.as_bytes().iter().take(6).fold(0_u64, |digest, byte| digest << 8 | u64::from(*byte));
        let position = digest as f64 / (1_u64 << 48) as f64;
        position < self.0
    }
}

fn ratio(value: Option<&Value>) -> Result<Ratio, Refused> {
    let ratio = value.and_then(Value::as_f64).filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.map(Ratio).ok_or_else(|| ("sample", "sample is a share between 0 and 1, such as 0.1".into()))
}

fn rate(value: Option<&Value>) -> Result<Rate, Refused> {
    let wrong = || {
        ("rate_limit", "rate_limit is { events: N, seconds: N, by: [fields] }, by may be left out".to_owned())
    };
    let map = value.and_then(Value::as_mapping).ok_or_else(wrong)?;
    if map.keys().any(|key| !matches!(key.as_str(), Some("events" | "seconds" | "by"))) {
        return Err(wrong());
    }
    let number = |key: &str| {
        map.get(key).and_then(Value::as_u64).filter(|n| *n > 0).and_then(|n| u32::try_from(n).ok())
    };
    let (events, seconds) = number("events").zip(number("seconds")).ok_or_else(wrong)?;
    let by = texts(map, "by").ok_or_else(wrong)?;
    Ok(Rate { events, per: Duration::from_secs(seconds.into()), by })
}

fn names(value: Option<&Value>) -> Result<Vec<Box<str>>, Refused> {
    let mut map = Mapping::new();
    map.insert("tag".into(), value.cloned().unwrap_or_default());
    let names = texts(&map, "tag").filter(|names| !names.is_empty() && names.len() <= MAX_TAGS);
    let names =
        names.filter(|names| names.iter().all(|name| !name.is_empty() && name.len() <= MAX_TAG_BYTES));
    names.ok_or_else(|| {
        (
            "tag",
            format!("tag is a name or a list of at most {MAX_TAGS}, each of at most {MAX_TAG_BYTES} bytes"),
        )
    })
}

fn priority(value: Option<&Value>) -> Result<Priority, Refused> {
    let word = value.and_then(Value::as_str);
    let all = [Priority::Low, Priority::Normal, Priority::High];
    let found = all.into_iter().find(|priority| Some(priority.as_str()) == word);
    found.ok_or_else(|| ("priority", "priority is low, normal or high".into()))
}

/// A text or a list of texts; nothing is an empty list.
fn texts(map: &Mapping, key: &str) -> Option<Vec<Box<str>>> {
    match map.get(key) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(text)) => Some(vec![text.as_str().into()]),
        Some(Value::Sequence(items)) => items.iter().map(|item| item.as_str().map(Into::into)).collect(),
        Some(_) => None,
    }
}
