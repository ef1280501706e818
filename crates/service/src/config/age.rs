//! A length of time, as people write it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Units in milliseconds, largest first.
const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A length of time with its unit: `30d`, `12h`, `90s`, `1h30m`. Whole milliseconds.
///
/// A bare number is refused, since nobody can know its unit. Prints the fewest units that say it exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Age(Duration);

impl Age {
    /// A length of so many days.
    pub const fn days(count: u64) -> Self {
        Self(Duration::from_secs(count * 86_400))
    }

    /// A length of so many hours.
    pub const fn hours(count: u64) -> Self {
        Self(Duration::from_secs(count * 3_600))
    }

    /// A length of so many minutes.
    pub const fn minutes(count: u64) -> Self {
        Self(Duration::from_secs(count * 60))
    }

    /// A length of so many seconds.
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// The same as a `Duration`.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

/// Text that is not a length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a length of time; write for example \"30d\", \"12h\" or \"90s\"")]
pub struct NotAnAge(String);

impl FromStr for Age {
    type Err = NotAnAge;

    fn from_str(text: &str) -> Result<Self, NotAnAge> {
        parse(text.trim())
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| NotAnAge(text.to_owned()))
    }
}

fn parse(mut rest: &str) -> Option<u64> {
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..unit_at].parse().ok()?;
        let tail = &rest[unit_at..];
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let scale = UNITS.iter().find(|(name, _)| *name == &tail[..unit_end])?.1;
        total = total.checked_add(number.checked_mul(scale)?)?;
        rest = tail[unit_end..].trim_start();
    }
    Some(total)
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        // 30d stays 30d: weeks only where nothing else remains.
        let skip = usize::from(rest % UNITS[0].1 != 0);
        for (unit, scale) in &UNITS[skip..] {
            if rest >= *scale {
                write!(f, "{}{unit}", rest / scale)?;
                rest %= scale;
            }
        }
        Ok(())
    }
}

impl Serialize for Age {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AgeVisitor;

        impl serde::de::Visitor<'_> for AgeVisitor {
            type Value = Age;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time with its unit such as \"30d\", \"12h\" or \"90s\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Age, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(AgeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_and_print_back() {
        for (text, millis, printed) in [
            ("90s", 90_000, "1m30s"),
            ("30d", 2_592_000_000, "30d"),
            ("12h", 43_200_000, "12h"),
            ("2w", 1_209_600_000, "2w"),
            ("1h 30m", 5_400_000, "1h30m"),
            ("250ms", 250, "250ms"),
            ("0s", 0, "0s"),
        ] {
            let age: Age = text.parse().unwrap();
            assert_eq!(age.duration(), Duration::from_millis(millis), "{text}");
            assert_eq!(age.to_string(), printed);
            assert_eq!(printed.parse(), Ok(age));
        }
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for text in
            ["", "30", "d", "-1d", "1.5h", "3 days", "1d 2", "99999999999999999999d", "9999999999999999d"]
        {
            assert_eq!(text.parse::<Age>(), Err(NotAnAge(text.to_owned())), "{text}");
        }
    }
}
