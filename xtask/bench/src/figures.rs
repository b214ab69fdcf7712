//! Figures, the goals they are held to, and the verdict: the same for every area.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Error, Result};

/// What one `ArcSwap::load` takes on the machine that goals in ns are stated for.
const YARDSTICK_NS: f64 = 14.0;

/// One figure: what was seen in each round, and its median as the value.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    /// Ascending and not empty.
    samples: Vec<f64>,
}

impl Figure {
    /// A figure of one sample per round. The name goes without its area.
    ///
    /// # Panics
    ///
    /// If there is no sample or one is not a number, which is a mistake of the area.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, mut samples: Vec<f64>) -> Self {
        let name = name.into();
        assert!(
            !samples.is_empty() && samples.iter().all(|sample| sample.is_finite()),
            "{name}: {samples:?}"
        );
        samples.sort_by(f64::total_cmp);
        Self {
            name,
            unit,
            samples,
        }
    }

    /// Ours over theirs, pair by pair: the two of a pair ran one after the other, so what disturbed
    /// the machine for longer than a round cancels out.
    pub(crate) fn ratio(name: impl Into<String>, ours: &[f64], theirs: &[f64]) -> Self {
        assert_eq!(ours.len(), theirs.len(), "a ratio needs pairs");
        Self::new(
            name,
            "ratio",
            ours.iter()
                .zip(theirs)
                .map(|(ours, theirs)| ours / theirs)
                .collect(),
        )
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The quartile on the side where `better` is.
    pub(crate) fn better_quartile(&self, better: Better) -> f64 {
        self.quantile(match better {
            Better::More => 0.75,
            Better::Less => 0.25,
        })
    }

    /// Between two samples the value is on the line between them.
    fn quantile(&self, share: f64) -> f64 {
        let place = share * (self.samples.len() - 1) as f64;
        let (below, above) = (
            self.samples[place.floor() as usize],
            self.samples[place.ceil() as usize],
        );
        below + (above - below) * place.fract()
    }

    /// Holds the figure to its goal, if it has one. `scale` is what goals in ns are multiplied by.
    ///
    /// # Errors
    ///
    /// If the goal is stated in another unit.
    pub(crate) fn judge(&self, area: &str, goals: &Goals, scale: f64) -> Result<Judged> {
        let name = format!("{area}.{}", self.name);
        let goal = goals.0.get(&name).map(|goal| goal.on_a_machine(scale));
        if let Some(goal) = goal.as_ref().filter(|goal| goal.unit != self.unit) {
            return Err(format!("{name} is in {}, its goal in {}", self.unit, goal.unit).into());
        }
        let verdict = goal.as_ref().map(|goal| {
            // One round in a noisy hour must not fail a build: only what the better rounds miss too
            // is short.
            let meets = goal.meets(self.median()) || goal.meets(self.better_quartile(goal.better));
            if meets { Verdict::Ok } else { Verdict::Short }
        });
        Ok(Judged {
            name,
            value: self.median(),
            unit: self.unit,
            goal,
            verdict,
        })
    }
}

/// Which way is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

/// What a figure has to reach.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Goal {
    better: Better,
    value: f64,
    unit: String,
}

impl Goal {
    fn meets(&self, value: f64) -> bool {
        match self.better {
            Better::More => value >= self.value,
            Better::Less => value <= self.value,
        }
    }

    fn on_a_machine(&self, scale: f64) -> Self {
        let scale = if self.unit == "ns" { scale } else { 1.0 };
        Self {
            value: self.value * scale,
            ..self.clone()
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.better {
            Better::More => ">=",
            Better::Less => "<=",
        };
        write!(f, "goal {operator} {}", number(self.value))
    }
}

/// All goals, by full name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Goals(BTreeMap<String, Goal>);

impl Goals {
    /// The project's, as they were when this program was built.
    pub(crate) fn ours() -> Result<Self> {
        Self::parse(include_str!("../../goals.txt"))
    }

    /// Reads lines of the form `<area>.<name> <op> <value> <unit>`, with `#` before comments.
    ///
    /// # Errors
    ///
    /// Names the line that it could not read.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut goals = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let wrong =
                |what: &str| Error::from(format!("goals, line {}: {what}: {line}", index + 1));
            let mut words = line.split_whitespace();
            let (Some(name), Some(operator), Some(value), Some(unit), None) = (
                words.next(),
                words.next(),
                words.next(),
                words.next(),
                words.next(),
            ) else {
                return Err(wrong("expected <area>.<name> <op> <value> <unit>"));
            };
            let better = match operator {
                ">=" => Better::More,
                "<=" => Better::Less,
                _ => return Err(wrong("the operator is neither >= nor <=")),
            };
            let value = value
                .parse()
                .ok()
                .filter(|value: &f64| value.is_finite())
                .ok_or_else(|| wrong("the value is not a number"))?;
            if !name.contains('.') {
                return Err(wrong("the name has no area"));
            }
            if goals
                .insert(
                    name.to_owned(),
                    Goal {
                        better,
                        value,
                        unit: unit.to_owned(),
                    },
                )
                .is_some()
            {
                return Err(wrong("this figure already has a goal"));
            }
        }
        Ok(Self(goals))
    }

    /// The full names of the figures that an area has goals for.
    pub(crate) fn of<'a>(&'a self, area: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .keys()
            .map(String::as_str)
            .filter(move |name| name.split_once('.').is_some_and(|(its, _)| its == area))
    }
}

/// Whether a goal was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    Short,
}

/// A figure beside its goal. Displays as its line.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) name: String,
    value: f64,
    unit: &'static str,
    goal: Option<Goal>,
    pub(crate) verdict: Option<Verdict>,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "FIGURE {} {} {}",
            self.name,
            number(self.value),
            self.unit
        )?;
        if let (Some(goal), Some(verdict)) = (&self.goal, self.verdict) {
            let verdict = match verdict {
                Verdict::Ok => "ok",
                Verdict::Short => "short",
            };
            write!(f, " {goal} {verdict}")?;
        }
        Ok(())
    }
}

/// A number with as many decimals as mean something, and at least one.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        1000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        10.0.. => format!("{value:.2}"),
        _ => {
            let text = format!("{value:.3}");
            let short = text.trim_end_matches('0');
            if short.ends_with('.') {
                format!("{short}0")
            } else {
                short.to_owned()
            }
        }
    }
}

/// What one `ArcSwap::load` takes here, in ns: the best of many batches, since whatever disturbs
/// only adds.
pub(crate) fn arc_swap_load_ns() -> f64 {
    const LOADS: u32 = 10_000;
    let swap = arc_swap::ArcSwap::from_pointee(7_u64);
    let batch = || {
        let start = crate::clock::now();
        for _ in 0..LOADS {
            std::hint::black_box(**std::hint::black_box(&swap).load());
        }
        start.elapsed().as_nanos() as f64 / f64::from(LOADS)
    };
    (0..200).map(|_| batch()).fold(f64::INFINITY, f64::min)
}

/// What goals in ns are multiplied by on a machine where one load takes so long.
pub(crate) fn scale(arc_swap_load_ns: f64) -> f64 {
    arc_swap_load_ns / YARDSTICK_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(figure: &Figure, goals: &str) -> String {
        let goals = Goals::parse(goals).expect("valid goals");
        figure
            .judge("rpc", &goals, 2.0)
            .expect("the units agree")
            .to_string()
    }

    #[test]
    fn a_figure_is_the_median_of_its_samples() {
        assert_eq!(Figure::new("a", "us", vec![9.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(
            Figure::new("a", "us", vec![4.0, 1.0, 2.0, 3.0]).median(),
            2.5
        );
        assert_eq!(
            Figure::new("a", "us", vec![4.0]).better_quartile(Better::More),
            4.0
        );
    }

    #[test]
    fn a_ratio_is_taken_pair_by_pair() {
        // In the second pair the machine was twice as slow for both.
        let ratio = Figure::ratio("a", &[20.0, 10.0, 30.0], &[10.0, 5.0, 10.0]);
        assert_eq!(ratio.median(), 2.0);
        assert_eq!(ratio.better_quartile(Better::More), 2.5);
        assert_eq!(ratio.better_quartile(Better::Less), 2.0);
    }

    #[test]
    fn a_figure_is_short_only_if_the_better_quartile_misses_too() {
        let figure = Figure::new("a", "ratio", vec![0.8, 0.9, 0.9, 1.1, 1.2]);
        assert_eq!(
            line(&figure, "rpc.a >= 0.9 ratio"),
            "FIGURE rpc.a 0.9 ratio goal >= 0.9 ok"
        );
        assert_eq!(
            line(&figure, "rpc.a >= 1.0 ratio"),
            "FIGURE rpc.a 0.9 ratio goal >= 1.0 ok"
        );
        assert_eq!(
            line(&figure, "rpc.a >= 1.15 ratio"),
            "FIGURE rpc.a 0.9 ratio goal >= 1.15 short"
        );
        assert_eq!(
            line(&figure, "rpc.a <= 0.85 ratio"),
            "FIGURE rpc.a 0.9 ratio goal <= 0.85 short"
        );
    }

    #[test]
    fn a_figure_without_a_goal_ends_after_its_unit() {
        let figure = Figure::new("64b_64c_micro_rps", "req/s", vec![54_000.4]);
        assert_eq!(
            line(&figure, "other.a >= 1 ratio"),
            "FIGURE rpc.64b_64c_micro_rps 54000 req/s"
        );
    }

    #[test]
    fn goals_in_ns_are_scaled_and_no_others() {
        let goals = "rpc.a <= 100 ns\nrpc.b <= 100 us";
        assert_eq!(
            line(&Figure::new("a", "ns", vec![150.0]), goals),
            "FIGURE rpc.a 150.0 ns goal <= 200.0 ok"
        );
        assert_eq!(
            line(&Figure::new("b", "us", vec![150.0]), goals),
            "FIGURE rpc.b 150.0 us goal <= 100.0 short"
        );
        assert!((scale(28.0) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_goal_in_another_unit_is_an_error() {
        let goals = Goals::parse("rpc.a <= 1 ms").expect("valid goals");
        assert!(
            Figure::new("a", "us", vec![1.0])
                .judge("rpc", &goals, 1.0)
                .is_err()
        );
    }

    #[test]
    fn a_goal_file_has_comments_and_says_which_line_is_wrong() {
        let goals = Goals::parse(
            "# all of them\n\nrpc.a >= 1.0 ratio  # why\nrpc.b <= 2 us\nrpcs.c <= 2 us\n",
        );
        assert_eq!(
            goals.expect("valid goals").of("rpc").collect::<Vec<_>>(),
            ["rpc.a", "rpc.b"]
        );
        for wrong in [
            "rpc.a > 1 ratio",
            "rpc.a >= one ratio",
            "rpc.a >= 1",
            "a >= 1 ratio",
            "rpc.a >= 1 ratio extra",
        ] {
            let error = Goals::parse(&format!("# first\n{wrong}"))
                .expect_err("not a goal")
                .to_string();
            assert!(error.contains("line 2") && error.contains(wrong), "{error}");
        }
        assert!(Goals::parse("rpc.a >= 1 ratio\nrpc.a >= 2 ratio").is_err());
    }

    #[test]
    fn the_projects_goal_file_can_be_read() {
        assert!(Goals::ours().expect("valid goals").of("rpc").count() > 0);
    }

    #[test]
    fn a_load_takes_some_time() {
        let load = arc_swap_load_ns();
        assert!(load > 0.0 && load < 10_000.0, "{load}");
    }
}
