//! Tables, for a terminal and for Markdown.

use std::fmt::Write as _;

/// A title, and rows below a heading. The first column stands left, the others right.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    title: String,
    heading: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<'a>(
        title: impl Into<String>,
        heading: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self {
            title: title.into(),
            heading: heading.into_iter().map(str::to_owned).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of as many cells as the heading has.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.heading.len(), "{cells:?}");
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Aligned with spaces, below its title.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.title);
        for row in std::iter::once(&self.heading).chain(&self.rows) {
            writeln!(text, "{}", self.aligned(row).join("  ").trim_end())
                .expect("a string takes any text");
        }
        text
    }

    /// As a Markdown table, below its title as a heading.
    pub(crate) fn markdown(&self) -> String {
        let rule = self
            .widths()
            .enumerate()
            .map(|(column, width)| match column {
                0 => "-".repeat(width),
                _ => "-".repeat(width - 1) + ":",
            });
        let mut text = format!("### {}\n\n", self.title);
        let mut line = |cells: Vec<String>| {
            writeln!(text, "| {} |", cells.join(" | ")).expect("a string takes any text");
        };
        line(self.aligned(&self.heading));
        line(rule.collect());
        for row in &self.rows {
            line(self.aligned(row));
        }
        text
    }

    fn widths(&self) -> impl Iterator<Item = usize> {
        let width = |column: usize| {
            std::iter::once(&self.heading)
                .chain(&self.rows)
                .map(move |row| row[column].chars().count())
        };
        (0..self.heading.len()).map(move |column| width(column).max().unwrap_or(0).max(2))
    }

    fn aligned(&self, row: &[String]) -> Vec<String> {
        let cell = |(column, (cell, width)): (usize, (&String, usize))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        };
        row.iter()
            .zip(self.widths())
            .enumerate()
            .map(cell)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("64 B", ["stack", "req/s"]);
        table.row(vec!["micro".into(), "54000".into()]);
        table.row(vec!["mux".into(), "1577000".into()]);
        table
    }

    #[test]
    fn columns_line_up() {
        assert_eq!(
            table().text(),
            "64 B\nstack    req/s\nmicro    54000\nmux    1577000\n"
        );
    }

    #[test]
    fn markdown_has_a_rule_below_the_heading() {
        assert_eq!(
            table().markdown(),
            "### 64 B\n\n| stack |   req/s |\n| ----- | ------: |\n| micro |   54000 |\n| mux   | 1577000 |\n"
        );
    }
}
