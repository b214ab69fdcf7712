//! The only place of this program that reads the real clock.

use std::time::Instant;

/// Now, by the machine's monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures real time; a test's paused clock is no use to it"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970, by the wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "a report carries the date it was made on"
)]
pub(crate) fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The date of a day in UTC, as `2026-11-25`.
pub(crate) fn date(seconds_since_1970: u64) -> String {
    // Counts in years that begin in March, so that the leap day is the last of its year, and in
    // cycles of 400 years.
    let days = seconds_since_1970 / 86_400 + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 {
        (month + 3, year)
    } else {
        (month - 9, year + 1)
    };
    format!("{:04}-{month:02}-{day:02}", year + cycle * 400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_709_164_800), "2024-02-29");
        assert_eq!(date(1_767_225_599), "2025-12-31");
        assert_eq!(date(1_767_225_600), "2026-01-01");
    }
}
