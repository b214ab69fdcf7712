//! Adds up what the test binaries print.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::process::Ended;

/// What a test said when it could not run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Skip {
    test: String,
    reason: String,
    cure: String,
}

/// The state of reading one or more runs of `cargo test`.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    /// Conformance cases that ask for a capability the backend does not claim.
    not_applicable: Vec<String>,
    skips: Vec<Skip>,
    failures: Vec<String>,
    /// Names of passed tests: one that also stands in the skip log did not run.
    passed_names: Vec<String>,
    binary: Binary,
}

/// The test binary whose output is being read.
#[derive(Debug, Default)]
struct Binary {
    name: String,
    conformance: bool,
    /// Whether its line of results was seen.
    summed_up: bool,
}

impl Tally {
    /// Reads one line of output.
    pub(crate) fn line(&mut self, raw: &str) {
        let line = without_colors(raw);
        let line = line.trim();
        if let Some(name) = running(line) {
            self.binary = name;
        } else if let Some(name) = line.strip_prefix("Doc-tests ") {
            self.binary = Binary {
                name: format!("doctests of {name}"),
                ..Binary::default()
            };
        } else if let Some(results) = line.strip_prefix("test result: ") {
            self.passed += count(results, "passed");
            self.failed += count(results, "failed");
            self.binary.summed_up = true;
        } else if let Some(test) = line.strip_prefix("test ") {
            self.test(test);
        } else if line.starts_with("error: test failed, to rerun")
            || line.starts_with("error: doctest failed, to rerun")
        {
            // It crashed, or it is no libtest binary and said nothing we can count.
            if !self.binary.summed_up {
                self.binary.summed_up = true;
                self.failed += 1;
                let name = &self.binary.name;
                self.failures
                    .push(format!("{name} (ended without results)"));
            }
        }
    }

    fn test(&mut self, line: &str) {
        let Some((name, verdict)) = line.split_once(" ... ") else {
            return;
        };
        let name = name.trim().to_owned();
        let (verdict, reason) = verdict.split_once(',').unwrap_or((verdict, ""));
        match verdict.trim() {
            "ok" => self.passed_names.push(name),
            "FAILED" => self
                .failures
                .push(format!("{name} in {}", self.binary.name)),
            "ignored" if self.binary.conformance => {
                self.not_applicable.push(name);
            }
            "ignored" => {
                let (reason, cure) = reason_and_cure(reason.trim(), &name);
                self.skips.push(Skip {
                    test: name,
                    reason,
                    cure,
                });
            }
            _ => {}
        }
    }

    /// A run of cargo is over. A run that failed and shows no failure did not build.
    pub(crate) fn finish(&mut self, what: &str, ended: Ended) {
        if !ended.success() && self.failed == 0 {
            self.failed += 1;
            self.failures.push(format!(
                "{what}: cargo {} before it had results",
                ended.describe()
            ));
        }
        self.binary = Binary::default();
    }

    /// Reads the file that tests wrote their skips to.
    pub(crate) fn skip_log(&mut self, text: &str) {
        // Two binaries may share a helper that skips under one name: one line is one skip, told once.
        let lines: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        for line in lines {
            let mut parts = line.split('\t').map(str::trim);
            let test = parts.next().unwrap_or_default().to_owned();
            let reason = parts.next().unwrap_or_default().to_owned();
            let cure = parts.next().unwrap_or_default().to_owned();
            if let Some(at) = self.passed_names.iter().position(|name| same(name, &test)) {
                self.passed_names.swap_remove(at);
                self.passed = self.passed.saturating_sub(1);
            }
            self.skips.retain(|skip| !same(&skip.test, &test));
            self.not_applicable.retain(|name| !same(name, &test));
            self.skips.push(Skip { test, reason, cure });
        }
    }

    pub(crate) fn skipped(&self) -> usize {
        self.skips.len()
    }

    /// Skips whose cure has none of these texts, which are separated by commas.
    pub(crate) fn skipped_beyond(&self, cures: &str) -> usize {
        let cured = |skip: &&Skip| {
            cures
                .split(',')
                .filter(|cure| !cure.is_empty())
                .any(|cure| skip.cure.contains(cure))
        };
        self.skips.iter().filter(|skip| !cured(skip)).count()
    }

    /// The lists that stand before the totals.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::from("\n");
        if !self.skips.is_empty() {
            text.push_str("skipped:\n");
        }
        for Skip { test, reason, cure } in &self.skips {
            let or = |text: &str, other: &str| {
                if text.is_empty() {
                    other.to_owned()
                } else {
                    text.to_owned()
                }
            };
            let _ = writeln!(text, "  {test}");
            let _ = writeln!(text, "    reason: {}", or(reason, "it gave none"));
            let _ = writeln!(text, "    cure:   {}", or(cure, "it names none"));
        }
        if !self.not_applicable.is_empty() {
            let _ = writeln!(
                text,
                "not applicable: {} (conformance cases for a capability the backend does not claim)",
                self.not_applicable.len()
            );
        }
        if !self.failures.is_empty() {
            text.push_str("failed:\n");
        }
        for failure in &self.failures {
            let _ = writeln!(text, "  {failure}");
        }
        text
    }

    /// The one line of totals.
    pub(crate) fn totals(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed,
            self.skipped()
        )
    }
}

/// `Running tests/conformance.rs (target/debug/deps/conformance-0123)`.
fn running(line: &str) -> Option<Binary> {
    let (source, rest) = line.strip_prefix("Running ")?.split_once(" (")?;
    let program = rest.strip_suffix(')')?;
    let program = program.rsplit('/').next().unwrap_or(program);
    let program = program
        .rsplit_once('-')
        .map_or(program, |(name, _hash)| name);
    Some(Binary {
        name: format!("{program} ({source})"),
        // `wire`: the same suite once more, between two programs.
        conformance: source.starts_with("tests/conformance") || source == "tests/wire.rs",
        summed_up: false,
    })
}

/// The number before `word` in `ok. 5 passed; 0 failed; …`.
fn count(results: &str, word: &str) -> usize {
    results
        .split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        .unwrap_or(0)
}

/// `#[ignore = "needs x; cure: command"]`; without a cure, the command that runs the test after all.
fn reason_and_cure(said: &str, test: &str) -> (String, String) {
    let (reason, cure) = match said.split_once("cure:") {
        Some((reason, cure)) => (
            reason.trim_end_matches([';', ',', ' ']),
            cure.trim().to_owned(),
        ),
        None => (
            said,
            format!("cargo xtask test -- --ignored --exact '{test}'"),
        ),
    };
    let reason = if reason.is_empty() {
        "marked `ignore` without a reason"
    } else {
        reason
    };
    (reason.to_owned(), cure)
}

/// Whether two names mean one test: a log may leave out the module path, or put a crate before it.
fn same(one: &str, other: &str) -> bool {
    let tail = |long: &str, short: &str| {
        long.strip_suffix(short)
            .is_some_and(|head| head.is_empty() || head.ends_with("::"))
    };
    tail(one, other) || tail(other, one)
}

/// Takes terminal colors out of a line.
fn without_colors(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        text.push_str(before);
        rest = after.find('m').map_or("", |end| &after[end + 1..]);
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Ended = Ended {
        code: Some(0),
        timed_out: false,
    };
    const BAD: Ended = Ended {
        code: Some(101),
        timed_out: false,
    };

    fn read(text: &str) -> Tally {
        let mut tally = Tally::default();
        for line in text.lines() {
            tally.line(line);
        }
        tally
    }

    #[test]
    fn binaries_add_up() {
        let tally = read(
            "   Compiling x v0.1.0
     Running unittests src/lib.rs (target/debug/deps/x-0123)
running 3 tests
test a ... ok
test b::c ... FAILED
test d ... ok
test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
error: test failed, to rerun pass `-p x --lib`
   Doc-tests x
test crates/x/src/lib.rs - (line 3) ... ok
test crates/x/src/lib.rs - y (line 9) - compile ... ok
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        );
        assert_eq!(tally.totals(), "4 passed, 1 failed, 0 skipped");
        assert!(tally.summary().contains("b::c in x (unittests src/lib.rs)"));
    }

    #[test]
    fn a_cure_may_be_allowed_to_be_missing() {
        let mut tally = Tally::default();
        tally.skip_log("a\tno url\tcargo xtask services up consul\nb\tno url\tinstall go\n");
        assert_eq!(tally.skipped(), 2);
        assert_eq!(tally.skipped_beyond("up consul"), 1);
        assert_eq!(tally.skipped_beyond(""), 2);
    }

    #[test]
    fn an_ignored_conformance_case_is_not_a_skip() {
        let mut tally = read(
            "     Running tests/conformance.rs (target/debug/deps/conformance-77)
test a_case     ... ok
test needs_ttl  ... ignored
test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
     Running tests/other.rs (target/debug/deps/other-78)
test slow ... ignored, takes an hour; cure: cargo xtask faults store
test bare ... ignored
test result: ok. 0 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        tally.finish("the workspace", OK);
        assert_eq!(tally.totals(), "1 passed, 0 failed, 2 skipped");
        let summary = tally.summary();
        assert!(summary.contains("not applicable: 1"), "{summary}");
        assert!(summary.contains("reason: takes an hour\n"), "{summary}");
        assert!(
            summary.contains("cure:   cargo xtask faults store"),
            "{summary}"
        );
        assert!(summary.contains("--exact 'bare'"), "{summary}");
    }

    #[test]
    fn a_logged_skip_is_not_a_pass() {
        let mut tally = read(
            "     Running tests/avahi.rs (target/debug/deps/avahi-1)
test avahi::sees_us ... ok
test other ... ok
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        tally.skip_log(
            "sees_us\tno avahi\tcargo xtask services up avahi\n\nconformance\tno url\tset it\n",
        );
        assert_eq!(tally.totals(), "1 passed, 0 failed, 2 skipped");
        assert!(tally.summary().contains("cargo xtask services up avahi"));
    }

    #[test]
    fn a_crash_and_a_broken_build_count_as_failures() {
        let mut crash = read(
            "     Running tests/a.rs (target/debug/deps/a-1)
test x ... error: test failed, to rerun pass `-p x --test a`
error: test failed, to rerun pass `-p x --test a`",
        );
        crash.finish("the workspace", BAD);
        assert_eq!(crash.totals(), "0 passed, 1 failed, 0 skipped");

        let mut broken = read("error: could not compile `x` (lib) due to 1 previous error");
        broken.finish("the workspace", BAD);
        assert_eq!(broken.totals(), "0 passed, 1 failed, 0 skipped");
        assert!(broken.summary().contains("exit status 101"));
    }

    #[test]
    fn colors_do_not_hide_a_line() {
        let tally = read(
            "\u{1b}[1m\u{1b}[32m     Running\u{1b}[0m tests/conformance.rs (target/debug/deps/conformance-7)
test x ... \u{1b}[33mignored\u{1b}[0m",
        );
        assert_eq!(tally.not_applicable, ["x"]);
    }
}
