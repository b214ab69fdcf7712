//! A readable log for programs that install none.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Installs a subscriber that writes to standard error, unless the program has one.
pub(crate) fn install(filter: Option<&str>) {
    let filter =
        EnvFilter::try_new(filter.unwrap_or("info")).unwrap_or_else(|_| EnvFilter::new("info"));
    // Fails if there is a subscriber already, and then that one is right.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}
