//! What a run prints: who measured what and where, the tables, then one line per figure.

use std::fmt;

use crate::Result;
use crate::figures::{self, Figure, Goals, Judged, Verdict};
use crate::machine::Machine;
use crate::options::Options;
use crate::table::Table;

/// What an area has measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) tables: Vec<Table>,
    pub(crate) figures: Vec<Figure>,
}

/// Findings beside the goals. Displays as text, or as Markdown if the options say so.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    title: String,
    notes: Vec<String>,
    tables: Vec<Table>,
    figures: Vec<Judged>,
    /// Goals of the area that no figure of this run answers.
    missing: Vec<String>,
    markdown: bool,
}

impl Report {
    /// # Errors
    ///
    /// If a figure and its goal are in different units.
    pub(crate) fn new(
        area: &str,
        options: &Options,
        machine: &Machine,
        findings: Findings,
        goals: &Goals,
    ) -> Result<Self> {
        let scale = figures::scale(machine.arc_swap_load_ns);
        let figures: Vec<Judged> = findings
            .figures
            .iter()
            .map(|figure| figure.judge(area, goals, scale))
            .collect::<Result<_>>()?;
        let missing = goals
            .of(area)
            .filter(|name| !figures.iter().any(|figure| figure.name == *name))
            .map(str::to_owned)
            .collect();
        let mut notes = vec![
            format!("Date: {}", machine.date),
            format!(
                "Machine: {}, {} cores, {}",
                machine.cpu, machine.cores, machine.kernel
            ),
            format!("Command: `{}`", options.command),
            format!(
                "{} rounds of {} s per stack; server and client {}; one ArcSwap::load takes {:.1} ns",
                options.pairs,
                options.seconds,
                if options.threads == 1 {
                    "on a core each".to_owned()
                } else {
                    format!("with {} threads each", options.threads)
                },
                machine.arc_swap_load_ns,
            ),
        ];
        if options.quick {
            notes.push("Quick: too few and too short rounds to compare by.".to_owned());
        }
        Ok(Self {
            title: area.to_owned(),
            notes,
            tables: findings.tables,
            figures,
            missing,
            markdown: options.markdown,
        })
    }

    /// How many figures have a goal.
    pub(crate) fn judged(&self) -> usize {
        self.figures
            .iter()
            .filter(|figure| figure.verdict.is_some())
            .count()
    }

    /// How many of them miss it.
    pub(crate) fn short(&self) -> usize {
        self.figures
            .iter()
            .filter(|figure| figure.verdict == Some(Verdict::Short))
            .count()
    }

    /// The goals of this area that the run says nothing about.
    pub(crate) fn not_measured(&self) -> &[String] {
        &self.missing
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.markdown {
            writeln!(f, "## {}\n", self.title)?;
            for note in &self.notes {
                writeln!(f, "- {note}")?;
            }
            for table in self.tables.iter().filter(|table| !table.is_empty()) {
                write!(f, "\n{}", table.markdown())?;
            }
            writeln!(f, "\n```text")?;
        } else {
            for note in &self.notes {
                writeln!(f, "{note}")?;
            }
            for table in self.tables.iter().filter(|table| !table.is_empty()) {
                write!(f, "\n{}", table.text())?;
            }
            writeln!(f)?;
        }
        for figure in &self.figures {
            writeln!(f, "{figure}")?;
        }
        if self.markdown {
            writeln!(f, "```")?;
        }
        Ok(())
    }
}
