//! Figures beside their goals, one per line, in the form of the benchmarks.

use std::fmt;

/// What a campaign found out.
#[derive(Debug)]
pub(crate) struct Report {
    area: &'static str,
    seed: u64,
    lines: Vec<Line>,
}

#[derive(Debug)]
enum Line {
    Figure {
        name: String,
        value: f64,
        unit: &'static str,
        most: Option<f64>,
    },
    Skipped {
        name: String,
        reason: String,
    },
}

impl Report {
    pub(crate) fn new(area: &'static str, seed: u64) -> Self {
        Self {
            area,
            seed,
            lines: Vec::new(),
        }
    }

    /// A figure without a goal.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.add(name.into(), value, unit, None);
    }

    /// A figure that must not be more than this.
    pub(crate) fn at_most(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        most: f64,
    ) {
        self.add(name.into(), value, unit, Some(most));
    }

    fn add(&mut self, name: String, value: f64, unit: &'static str, most: Option<f64>) {
        self.lines.push(Line::Figure {
            name,
            value,
            unit,
            most,
        });
    }

    /// Something that this machine cannot do.
    pub(crate) fn skip(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        let (name, reason) = (name.into(), reason.into());
        self.lines.push(Line::Skipped { name, reason });
    }

    /// How many goals were missed.
    pub(crate) fn short(&self) -> usize {
        let missed = |line: &&Line| match line {
            Line::Figure { value, most, .. } => most.is_some_and(|most| !meets(*value, most)),
            Line::Skipped { .. } => false,
        };
        self.lines.iter().filter(missed).count()
    }

    /// How much was skipped.
    pub(crate) fn skipped(&self) -> usize {
        let lines = self.lines.iter();
        lines
            .filter(|line| matches!(line, Line::Skipped { .. }))
            .count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let area = self.area;
        writeln!(f, "seed {}", self.seed)?;
        for line in &self.lines {
            match line {
                Line::Figure {
                    name,
                    value,
                    unit,
                    most,
                } => {
                    write!(f, "FIGURE {area}.{name} {} {unit}", number(*value))?;
                    if let Some(most) = most {
                        let verdict = if meets(*value, *most) { "ok" } else { "short" };
                        write!(f, " goal <= {} {verdict}", number(*most))?;
                    }
                    writeln!(f)?;
                }
                Line::Skipped { name, reason } => {
                    writeln!(f, "SKIPPED {area}.{name} reason={reason}")?;
                }
            }
        }
        Ok(())
    }
}

/// What is no number, such as the mean of nothing, meets no goal.
fn meets(value: f64, most: f64) -> bool {
    value <= most
}

/// A number with as many decimals as mean something, and at least one.
fn number(value: f64) -> String {
    if value.abs() >= 1000.0 {
        return format!("{value:.0}");
    }
    let text = format!("{value:.3}");
    let short = text.trim_end_matches('0');
    if short.ends_with('.') {
        format!("{short}0")
    } else {
        short.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_whether_the_goal_was_met() {
        let mut report = Report::new("discovery", 7);
        report.figure("herd_naive_rps", 3000.0, "req/s");
        report.at_most("herd_ratio", 0.0585, "ratio", 0.1);
        report.at_most("etcd_failed", 2.0, "calls", 0.0);
        report.at_most("etcd_mean", f64::NAN, "ms", 1.0);
        report.skip("mdns", "no network namespaces");
        assert_eq!((report.short(), report.skipped()), (2, 1));
        assert_eq!(
            report.to_string(),
            "seed 7\n\
             FIGURE discovery.herd_naive_rps 3000 req/s\n\
             FIGURE discovery.herd_ratio 0.059 ratio goal <= 0.1 ok\n\
             FIGURE discovery.etcd_failed 2.0 calls goal <= 0.0 short\n\
             FIGURE discovery.etcd_mean NaN ms goal <= 1.0 short\n\
             SKIPPED discovery.mdns reason=no network namespaces\n"
        );
    }
}
