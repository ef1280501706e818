//! Points in time as the whole project keeps them: microseconds since the Unix epoch, UTC.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime};
use serde::{Deserialize, Serialize};

/// A point in time: microseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
///
/// Kept within the years 0001 to 9999, so that it always prints as RFC 3339; what lies beyond is moved to the
/// nearer end (a forged stamp must not be an error that takes the event with it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);
    /// 0001-01-01T00:00:00Z.
    pub const MIN: Self = Self(-62_135_596_800_000_000);
    /// 9999-12-31T23:59:59.999999Z.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// The point this many microseconds after the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        if micros < Self::MIN.0 {
            Self::MIN
        } else if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Self(micros)
        }
    }

    /// The point this many milliseconds after the epoch: the kernel's audit stamps.
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 as u64 / 1000 { Self::MAX } else { Self(millis as i64 * 1000) }
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// `Display`'s text in `out`, without formatting machinery: every event that is printed has at least one.
    pub fn format(self, out: &mut [u8; 27]) -> &str {
        let seconds = self.0.div_euclid(1_000_000);
        let micros = self.0.rem_euclid(1_000_000);
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let second_of_day = seconds.rem_euclid(86_400);
        out.copy_from_slice(b"0000-00-00T00:00:00.000000Z");
        put_digits(&mut out[0..4], year);
        put_digits(&mut out[5..7], month);
        put_digits(&mut out[8..10], day);
        put_digits(&mut out[11..13], second_of_day / 3600);
        put_digits(&mut out[14..16], second_of_day / 60 % 60);
        put_digits(&mut out[17..19], second_of_day % 60);
        put_digits(&mut out[20..26], micros);
        let mut len = out.len();
        if micros % 1000 == 0 {
            out[23] = b'Z';
            len = 24;
        }
        std::str::from_utf8(&out[..len]).unwrap_or_default()
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with milliseconds, or microseconds where they are not whole milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.format(&mut [0; 27]))
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimeError;

    /// RFC 3339; or, as the ancestor's programs write it, an offset and a `Z` both, or neither (then UTC).
    /// Digits beyond microseconds are cut off.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Longer than any time stamp: not worth a parser's attention.
        if text.len() > 64 {
            return Err(ParseTimeError);
        }
        let text = text.trim_ascii();
        let bare = text.strip_suffix(['Z', 'z']).unwrap_or(text);
        let zoned = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_rfc3339(bare));
        let micros = match zoned {
            Ok(time) => time.timestamp_micros(),
            Err(_) => NaiveDateTime::parse_from_str(bare, "%Y-%m-%dT%H:%M:%S%.f")
                .or_else(|_| NaiveDateTime::parse_from_str(bare, "%Y-%m-%d %H:%M:%S%.f"))
                .map_err(|_| ParseTimeError)?
                .and_utc()
                .timestamp_micros(),
        };
        Ok(Self::from_micros(micros))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i64::deserialize(deserializer).map(Self::from_micros)
    }
}

/// Text that is no time stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time stamp: give rfc 3339, as 2026-11-23T05:50:50.319Z")]
pub struct ParseTimeError;

/// Year, month and day of a day counted from 1970-01-01, proleptic Gregorian, by eras of 400 years that start on
/// 1 March (so that the leap day is a year's last).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn put_digits(out: &mut [u8], mut number: i64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_of_every_shape_the_ancestor_writes_are_the_same_instant() {
        let expected = Timestamp::from_micros(1_795_413_050_319_250);
        for text in [
            "2026-11-23T05:50:50.319250Z",
            "2026-11-23T05:50:50.319250+00:00",
            "2026-11-23T05:50:50.319250+00:00Z",
            "2026-11-23T06:50:50.31925+01:00",
            "2026-11-23T05:50:50.319250",
            "2026-11-23 05:50:50.319250999",
            "2026-11-23t05:50:50.319250z",
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "Z", "now", "1795413050", "2026-13-01T00:00:00Z", &"9".repeat(100)] {
            assert_eq!(text.parse::<Timestamp>(), Err(ParseTimeError), "{text}");
        }
    }

    #[test]
    fn stamps_beyond_the_printable_years_are_moved_to_the_nearer_end() {
        assert_eq!(Timestamp::from_millis(u64::MAX).to_string(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp::from_micros(i64::MIN).to_string(), "0001-01-01T00:00:00.000Z");
    }

    proptest! {
        #[test]
        fn every_time_prints_as_chrono_prints_it_and_is_read_back(micros in any::<i64>()) {
            let time = Timestamp::from_micros(micros);
            let precision = if time.as_micros() % 1000 == 0 {
                chrono::SecondsFormat::Millis
            } else {
                chrono::SecondsFormat::Micros
            };
            let oracle = DateTime::from_timestamp_micros(time.as_micros()).unwrap();
            prop_assert_eq!(time.to_string(), oracle.to_rfc3339_opts(precision, true));
            prop_assert_eq!(time.to_string().parse::<Timestamp>(), Ok(time));
        }

        #[test]
        fn parsing_any_text_as_a_time_never_panics(text in ".{0,70}") {
            let _ = text.parse::<Timestamp>();
        }
    }
}
