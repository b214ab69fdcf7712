//! Moments that may be far away.

use std::time::Duration;

use tokio::time::Instant;

/// `after` later, or as far as time goes.
pub(crate) fn far(from: Instant, after: Duration) -> Instant {
    // tokio itself takes thirty years for forever.
    const FOREVER: Duration = Duration::from_secs(86_400 * 365 * 30);
    from.checked_add(after.min(FOREVER)).unwrap_or(from)
}
