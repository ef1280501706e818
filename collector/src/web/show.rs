//! Numbers and times as people read them.

use auditflow_event::Timestamp;

/// A number with thousands apart: `1,234,567`.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of things: `1 batch`, `1,312 batches`.
pub fn count(value: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(value), if value == 1 { one } else { many })
}

/// A time to the second: `2026-11-23 03:10:07`.
pub fn second(time: Timestamp) -> String {
    let text = time.to_string();
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

/// A time to the minute, with its date only if that is not today's: `03:10`, `2026-11-22 03:10`.
pub fn minute(time: Timestamp, now: Timestamp) -> String {
    let (text, today) = (second(time), second(now));
    let whole = text.get(..16).unwrap_or(&text);
    if text.get(..10) == today.get(..10) {
        return whole.get(11..).unwrap_or(whole).to_owned();
    }
    whole.to_owned()
}

/// How long ago: `just now`, `42 s ago`, `5 min ago`, `3 h ago`, `12 days ago`.
pub fn ago(time: Timestamp, now: Timestamp) -> String {
    match seconds(time, now) {
        ..2 => "just now".to_owned(),
        seconds => format!("{} ago", duration(seconds)),
    }
}

/// A duration in its largest sensible unit.
pub fn duration(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Seconds from one to the other.
pub fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    to.as_micros().saturating_sub(from.as_micros()) / 1_000_000
}

/// The beginning of an id or digest.
pub fn short(text: &str) -> &str {
    text.get(..12).unwrap_or(text)
}

/// A name with underscores as words: `kernel_audit` as `kernel audit`.
pub fn words(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOON, at};

    #[test]
    fn numbers_have_their_thousands_apart() {
        for (value, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            (count(1, "batch", "batches"), count(2, "batch", "batches")),
            ("1 batch".into(), "2 batches".into())
        );
    }

    #[test]
    fn times_say_as_much_as_is_needed() {
        assert_eq!(second(at(7)), "2026-11-23 12:00:07");
        assert_eq!(minute(at(600), at(0)), "12:10");
        assert_eq!(minute(at(-86_400), at(0)), "2026-11-22 12:00");
        let cases = [
            (0, "just now"),
            (119, "119 s ago"),
            (600, "10 min ago"),
            (7_200, "2 h ago"),
            (200_000, "2 days ago"),
        ];
        for (seconds, text) in cases {
            assert_eq!(ago(Timestamp::from_micros(NOON - seconds * 1_000_000), at(0)), text);
        }
        assert_eq!(ago(at(60), at(0)), "just now", "a clock that is ahead");
    }
}
