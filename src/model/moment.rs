//! Lengths of time and foreign text, in the words that all faces use.

use jiff::SignedDuration;

/// Text without control characters other than the end of a line.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A length of time in seconds, as the database gives it.
pub fn seconds(seconds: f64) -> String {
    duration(SignedDuration::try_from_secs_f64(seconds).unwrap_or(SignedDuration::ZERO))
}

/// A length of time, with at most two units: `4d 3h`, `2m 5s`, `350ms`.
pub fn duration(duration: SignedDuration) -> String {
    let length = duration.unsigned_abs();
    let steps: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let seconds = length.as_secs();
    let Some(first) = steps.iter().position(|(size, _)| seconds >= *size) else {
        return format!("{}ms", length.subsec_millis());
    };
    let (size, unit) = steps[first];
    let rest = steps.get(first + 1).map(|(next, unit)| ((seconds % size) / next, unit));
    match rest {
        Some((count, unit_of_rest)) if count > 0 => format!("{}{unit} {count}{unit_of_rest}", seconds / size),
        _ => format!("{}{unit}", seconds / size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_at_most_two_units() {
        for (millis, shown) in [
            (0, "0ms"),
            (350, "350ms"),
            (1000, "1s"),
            (59_999, "59s"),
            (125_000, "2m 5s"),
            (3_600_000, "1h"),
            (3_661_000, "1h 1m"),
            (356_400_000, "4d 3h"),
            (-5000, "5s"),
        ] {
            assert_eq!(duration(SignedDuration::from_millis(millis)), shown);
        }
    }
}
