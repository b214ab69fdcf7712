//! What all backends refuse alike, and what they say then.

use std::time::Duration;

use crate::{Capabilities, ElectOptions, Error, LockOptions, Result};

/// The longest name, in bytes.
pub const MAX_NAME: usize = 128;

/// The longest [`ElectOptions::value`], in bytes.
pub const MAX_VALUE: usize = 1024;

/// The longest time to live, one day: so long a lock may stay whose holder has crashed.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Checks the name of a lock: 1 to [`MAX_NAME`] ASCII letters, digits, `.`, `-` and `_`, beginning
/// with a letter or digit.
///
/// Names are compared as they stand. One that does not fit is refused, never changed into one that
/// does: two names could become the same.
///
/// # Errors
///
/// `InvalidArgument`, saying what is allowed.
pub fn check_name(name: &str) -> Result<()> {
    let bytes = name.as_bytes();
    let valid = bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte));
    if valid {
        return Ok(());
    }
    let shown: String = name.chars().take(40).flat_map(char::escape_debug).collect();
    Err(Error::invalid_argument(
        "a lock is named by 1 to 128 letters, digits, '.', '-' and '_', beginning with a letter or digit",
    )
    .with_context("name", shown))
}

/// Checks what is given to [`Coordinator::lock`](crate::Coordinator::lock) and
/// [`try_lock`](crate::Coordinator::try_lock).
///
/// # Errors
///
/// `InvalidArgument` for a bad name, or a time to live that is zero, too short or too long.
pub fn check_lock(name: &str, opts: &LockOptions, capabilities: &Capabilities) -> Result<()> {
    check_name(name)?;
    check_ttl(opts.ttl, capabilities.min_ttl)
}

/// Checks what is given to [`Coordinator::elect`](crate::Coordinator::elect).
///
/// # Errors
///
/// `InvalidArgument` for a bad name, a value that is too long, or a time to live that is zero, too
/// short or too long.
pub fn check_elect(name: &str, opts: &ElectOptions, capabilities: &Capabilities) -> Result<()> {
    check_name(name)?;
    check_ttl(opts.ttl, capabilities.min_ttl)?;
    if opts.value.len() > MAX_VALUE {
        return Err(Error::invalid_argument(
            "a leader's value has at most 1024 bytes; put an address there, and the rest elsewhere",
        )
        .with_context("bytes", opts.value.len()));
    }
    Ok(())
}

fn check_ttl(ttl: Duration, least: Duration) -> Result<()> {
    let message = if ttl.is_zero() {
        "a time to live is more than zero"
    } else if ttl < least {
        "the time to live is shorter than this backend can keep"
    } else if ttl > MAX_TTL {
        "a time to live is at most a day; a lock that is held is kept alive"
    } else {
        return Ok(());
    };
    Err(Error::invalid_argument(message)
        .with_context("ttl", format_args!("{ttl:?}"))
        .with_context("least", format_args!("{least:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_mean_something_else_are_refused() {
        for name in [
            "",
            "/",
            "a/b",
            "..",
            ".hidden",
            "-a",
            "a b",
            "a\0b",
            "a:b",
            "ä",
            "a\n",
            "*",
            &"x".repeat(MAX_NAME + 1),
            &"x".repeat(64 << 10),
        ] {
            let err = check_name(name).unwrap_err();
            assert!(err.to_string().len() < 400, "{err}");
        }
        for name in ["a", "Jobs.daily_report-2", "0", &"x".repeat(MAX_NAME)] {
            check_name(name).unwrap();
        }
    }

    #[test]
    fn a_ttl_has_two_ends() {
        let least = Duration::from_secs(2);
        for bad in [
            Duration::ZERO,
            Duration::from_millis(1),
            least - Duration::from_nanos(1),
            MAX_TTL + Duration::from_nanos(1),
            Duration::MAX,
        ] {
            check_ttl(bad, least).unwrap_err();
        }
        check_ttl(least, least).unwrap();
        check_ttl(MAX_TTL, least).unwrap();
    }
}
