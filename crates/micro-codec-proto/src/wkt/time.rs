//! Points and spans of time: from and to those of std, and as text.

use std::fmt;
use std::time::{Duration as StdDuration, SystemTime, UNIX_EPOCH};

use super::{Duration, Timestamp};

/// A time that the other type cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange(());

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time is out of range")
    }
}

impl std::error::Error for OutOfRange {}

const NANOS: i64 = 1_000_000_000;

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let (seconds, nanos) = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => (clamp(since.as_secs()), i64::from(since.subsec_nanos())),
            // Nanoseconds count forward, also before the epoch.
            Err(before) => {
                let before = before.duration();
                match i64::from(before.subsec_nanos()) {
                    0 => (-clamp(before.as_secs()), 0),
                    nanos => (-clamp(before.as_secs()) - 1, NANOS - nanos),
                }
            }
        };
        Self {
            seconds,
            nanos: nanos as i32,
        }
    }
}

fn clamp(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

impl TryFrom<Timestamp> for SystemTime {
    type Error = OutOfRange;

    fn try_from(time: Timestamp) -> Result<Self, OutOfRange> {
        let nanos = u32::try_from(time.nanos)
            .ok()
            .filter(|&nanos| i64::from(nanos) < NANOS)
            .ok_or(OutOfRange(()))?;
        let seconds = StdDuration::from_secs(time.seconds.unsigned_abs());
        let whole = match time.seconds < 0 {
            true => UNIX_EPOCH.checked_sub(seconds),
            false => UNIX_EPOCH.checked_add(seconds),
        };
        whole
            .and_then(|whole| whole.checked_add(StdDuration::from_nanos(nanos.into())))
            .ok_or(OutOfRange(()))
    }
}

impl TryFrom<StdDuration> for Duration {
    type Error = OutOfRange;

    fn try_from(duration: StdDuration) -> Result<Self, OutOfRange> {
        Ok(Self {
            seconds: i64::try_from(duration.as_secs()).map_err(|_| OutOfRange(()))?,
            nanos: duration.subsec_nanos() as i32,
        })
    }
}

impl TryFrom<Duration> for StdDuration {
    type Error = OutOfRange;

    /// A span below zero is out of range.
    fn try_from(duration: Duration) -> Result<Self, OutOfRange> {
        match (
            u64::try_from(duration.seconds),
            u32::try_from(duration.nanos),
        ) {
            (Ok(seconds), Ok(nanos)) if i64::from(nanos) < NANOS => Ok(Self::new(seconds, nanos)),
            _ => Err(OutOfRange(())),
        }
    }
}

/// The text of proto3's JSON, and back.
#[cfg(feature = "json")]
pub(super) mod text {
    use super::{Duration, NANOS, Timestamp};

    /// The first second of the year 1 and the last one of the year 9999.
    const TIMES: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    /// Ten thousand years either way.
    const SPAN: i64 = 315_576_000_000;

    /// A fraction of a second with as many digits as it takes: none, 3, 6 or 9.
    fn fraction(nanos: i32) -> String {
        match nanos {
            0 => String::new(),
            _ if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
            _ if nanos % 1000 == 0 => format!(".{:06}", nanos / 1000),
            _ => format!(".{nanos:09}"),
        }
    }

    /// Reads digits behind a point.
    fn read_fraction(digits: &str) -> Option<i32> {
        let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits || !(1..=9).contains(&digits.len()) {
            return None;
        }
        format!("{digits:0<9}").parse().ok()
    }

    pub(in crate::wkt) fn write_duration(duration: &Duration) -> Option<String> {
        let Duration { seconds, nanos } = *duration;
        let fits = (-SPAN..=SPAN).contains(&seconds)
            && i64::from(nanos).abs() < NANOS
            // Both have the same sign.
            && i64::from(nanos).signum() * seconds.signum() >= 0;
        if !fits {
            return None;
        }
        let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
        Some(format!(
            "{sign}{}{}s",
            seconds.unsigned_abs(),
            fraction(nanos.abs())
        ))
    }

    pub(in crate::wkt) fn read_duration(text: &str) -> Option<Duration> {
        let text = text.strip_suffix('s')?;
        let (sign, text) = match text.strip_prefix('-') {
            Some(text) => (-1, text),
            None => (1, text),
        };
        let (seconds, nanos) = match text.split_once('.') {
            Some((seconds, digits)) => (seconds, read_fraction(digits)?),
            None => (text, 0),
        };
        if !seconds.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let seconds: i64 = seconds.parse().ok().filter(|&seconds| seconds <= SPAN)?;
        Some(Duration {
            seconds: sign * seconds,
            nanos: sign as i32 * nanos,
        })
    }

    pub(in crate::wkt) fn write_timestamp(time: &Timestamp) -> Option<String> {
        let nanos = i64::from(time.nanos);
        if !TIMES.contains(&time.seconds) || !(0..NANOS).contains(&nanos) {
            return None;
        }
        let (year, month, day) = date(time.seconds.div_euclid(86_400));
        let second = time.seconds.rem_euclid(86_400);
        Some(format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            fraction(time.nanos),
        ))
    }

    /// Reads RFC 3339, with any offset.
    pub(in crate::wkt) fn read_timestamp(text: &str) -> Option<Timestamp> {
        let number = |from: usize, to: usize| -> Option<i64> {
            let digits = text.get(from..to)?;
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            digits.parse().ok()
        };
        let sign = |at: usize, wanted: &[u8]| {
            text.as_bytes()
                .get(at)
                .filter(|found| wanted.contains(found))
        };
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        for (at, wanted) in [(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")] {
            sign(at, wanted.as_bytes())?;
        }
        let in_range = (1..=12).contains(&month)
            && (1..=days_of(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !in_range {
            return None;
        }
        let mut at = 19;
        let mut nanos = 0;
        if sign(at, b".").is_some() {
            let digits = text
                .get(20..)?
                .bytes()
                .take_while(u8::is_ascii_digit)
                .count();
            nanos = read_fraction(text.get(20..20 + digits)?)?;
            at = 20 + digits;
        }
        let (offset, end) = match sign(at, b"Zz+-")? {
            b'Z' | b'z' => (0, at + 1),
            direction => {
                sign(at + 3, b":")?;
                let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                let offset = hours * 3600 + minutes * 60;
                (if *direction == b'-' { -offset } else { offset }, at + 6)
            }
        };
        if end != text.len() {
            return None;
        }
        let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
        TIMES
            .contains(&seconds)
            .then_some(Timestamp { seconds, nanos })
    }

    fn days_of(year: i64, month: i64) -> i64 {
        match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    // Howard Hinnant, "chrono-compatible low-level date algorithms": years begin in March, so that
    // the odd day comes last, and 400 of them make an era.

    /// Days since 1970-01-01.
    fn days(year: i64, month: i64, day: i64) -> i64 {
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    /// Year, month and day.
    fn date(days: i64) -> (i64, i64, i64) {
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        (year, month, day)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn timestamps_as_the_specification_has_them() {
            for (text, seconds, nanos) in [
                ("1972-01-01T10:00:20.021Z", 63_108_020, 21_000_000),
                ("1970-01-01T00:00:00Z", 0, 0),
                ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
                (
                    "9999-12-31T23:59:59.999999999Z",
                    253_402_300_799,
                    999_999_999,
                ),
                ("2000-02-29T12:00:00.000001Z", 951_825_600, 1000),
                ("1969-12-31T23:59:59.500Z", -1, 500_000_000),
            ] {
                let time = Timestamp { seconds, nanos };
                assert_eq!(write_timestamp(&time).as_deref(), Some(text));
                assert_eq!(read_timestamp(text), Some(time), "{text}");
            }
            let offset = read_timestamp("1972-01-01T11:30:20.021+01:30");
            assert_eq!(offset, read_timestamp("1972-01-01T10:00:20.021Z"));
            for days in (-719_162..2_932_896).step_by(97) {
                let (year, month, day) = date(days);
                assert_eq!(super::days(year, month, day), days);
            }
        }

        #[test]
        fn what_is_no_timestamp_is_refused() {
            for text in [
                "",
                "1972-01-01",
                "1972-01-01T10:00:20",
                "1972-13-01T10:00:20Z",
                "1971-02-29T10:00:20Z",
                "1972-01-01T24:00:00Z",
                "1972-01-01T10:00:20.Z",
                "1972-01-01T10:00:20.0123456789Z",
                "1972-01-01T10:00:20Zx",
                "1972-01-01T10:00:20+1:00",
                "0001-01-01T00:00:00+00:01",
                "+972-01-01T10:00:20Z",
                "1972-01-01T10:00:20é",
            ] {
                assert_eq!(read_timestamp(text), None, "{text}");
            }
            for (seconds, nanos) in [(-62_135_596_801, 0), (253_402_300_800, 0), (0, -1)] {
                assert_eq!(write_timestamp(&Timestamp { seconds, nanos }), None);
            }
        }

        #[test]
        fn durations_as_the_specification_has_them() {
            for (text, seconds, nanos) in [
                ("0s", 0, 0),
                ("3s", 3, 0),
                ("3.000000001s", 3, 1),
                ("3.000001s", 3, 1000),
                ("-0.500s", 0, -500_000_000),
                ("-315576000000.999999999s", -315_576_000_000, -999_999_999),
            ] {
                let duration = Duration { seconds, nanos };
                assert_eq!(write_duration(&duration).as_deref(), Some(text));
                assert_eq!(read_duration(text), Some(duration));
            }
            for text in [
                "",
                "s",
                "3",
                "3.s",
                "+3s",
                "--3s",
                "3.0000000001s",
                "315576000001s",
            ] {
                let read = read_duration(text);
                assert_eq!(read, None, "{text}");
            }
            for (seconds, nanos) in [(1, -1), (-1, 1), (315_576_000_001, 0), (0, 1_000_000_000)] {
                assert_eq!(write_duration(&Duration { seconds, nanos }), None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_time_goes_there_and_back() {
        for (nanos, seconds, fraction) in [
            (0, 0, 0),
            (1_500_000_000, 1, 500_000_000),
            (-500_000_000, -1, 500_000_000),
            (-1_000_000_000, -1, 0),
        ] {
            let offset = StdDuration::from_nanos(i64::unsigned_abs(nanos));
            let time = match nanos < 0 {
                true => UNIX_EPOCH - offset,
                false => UNIX_EPOCH + offset,
            };
            let stamp = Timestamp::from(time);
            assert_eq!((stamp.seconds, stamp.nanos), (seconds, fraction));
            assert_eq!(SystemTime::try_from(stamp), Ok(time));
        }
        assert!(
            SystemTime::try_from(Timestamp {
                seconds: 0,
                nanos: -1
            })
            .is_err()
        );
    }
}
