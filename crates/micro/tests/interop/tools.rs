//! Saying that a test was skipped.

use std::io::Write as _;

/// Tells `cargo xtask test`, and whoever reads, that a test could not run.
pub(crate) fn skip(test: &str, reason: &str, cure: &str) {
    if let Some(log) = std::env::var_os("MICRO_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log of skips opens");
        writeln!(log, "{test}\t{reason}\t{cure}").expect("the log of skips takes a line");
    }
    let mut stderr = std::io::stderr();
    writeln!(stderr, "skipped {test}: {reason}; {cure}").expect("stderr takes a line");
}
