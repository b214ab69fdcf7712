//! What the tests over a real server share.

use std::io::Write as _;

/// The URL of the server that `cargo xtask services` started; without it, the test is skipped, and
/// says so.
pub(crate) fn server(test: &str) -> Option<String> {
    const VARIABLE: &str = "MICRO_TEST_POSTGRES_URL";
    if let Ok(url) = std::env::var(VARIABLE) {
        return Some(url);
    }
    let reason = format!("{VARIABLE} is not set");
    let cure = "cargo xtask services up postgres, then cargo xtask test";
    let _ = writeln!(std::io::stderr(), "skipped {test}: {reason}; {cure}");
    if let Some(log) = std::env::var_os("MICRO_SKIP_LOG") {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log);
        let mut log = log.expect("the log of skips opens");
        writeln!(log, "{test}\t{reason}\t{cure}").expect("the log of skips is written");
    }
    None
}
