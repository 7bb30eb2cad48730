//! The table of figures: name, measured, target, verdict.

use std::fmt;

/// What a figure means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within its target.
    Met,
    /// Over its target.
    Over,
    /// Not measured, for this reason.
    Missing(String),
}

#[derive(Debug)]
enum Line {
    Heading(String),
    Row { name: String, measured: String, target: String, verdict: Verdict, details: Option<String> },
}

/// The figures in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Table {
    lines: Vec<Line>,
}

impl Table {
    /// Begins a group of rows.
    pub fn heading(&mut self, text: &str) {
        self.lines.push(Line::Heading(text.to_owned()));
    }

    /// Adds a figure. `details` is printed below a figure that is over its target.
    pub fn row(&mut self, name: &str, measured: String, target: String, met: bool, details: Option<String>) {
        let verdict = if met { Verdict::Met } else { Verdict::Over };
        self.lines.push(Line::Row { name: name.to_owned(), measured, target, verdict, details });
    }

    /// Adds a figure that could not be measured.
    pub fn missing(&mut self, name: &str, target: String, reason: &anyhow::Error) {
        let verdict = Verdict::Missing(format!("{reason:#}"));
        let measured = "not measured".to_owned();
        self.lines.push(Line::Row { name: name.to_owned(), measured, target, verdict, details: None });
    }

    /// Whether every figure was measured.
    pub fn complete(&self) -> bool {
        !self.rows().any(|verdict| matches!(verdict, Verdict::Missing(_)))
    }

    fn rows(&self) -> impl Iterator<Item = &Verdict> {
        self.lines.iter().filter_map(|line| match line {
            Line::Row { verdict, .. } => Some(verdict),
            Line::Heading(_) => None,
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |of: fn(&Line) -> usize| self.lines.iter().map(of).max().unwrap_or_default();
        let names = width(|line| match line {
            Line::Row { name, .. } => name.chars().count(),
            Line::Heading(_) => 0,
        });
        let figures = width(|line| match line {
            Line::Row { measured, .. } => measured.chars().count(),
            Line::Heading(_) => 0,
        });
        let targets = width(|line| match line {
            Line::Row { target, .. } => target.chars().count(),
            Line::Heading(_) => 0,
        });
        for line in &self.lines {
            let (name, measured, target, verdict, details) = match line {
                Line::Heading(text) => {
                    writeln!(f, "\n{text}")?;
                    continue;
                }
                Line::Row { name, measured, target, verdict, details } => {
                    (name, measured, target, verdict, details)
                }
            };
            let word = match verdict {
                Verdict::Met => "ok",
                Verdict::Over => "OVER",
                Verdict::Missing(_) => "MISSING",
            };
            writeln!(f, "  {name:names$}  {measured:>figures$}  target {target:<targets$}  {word}")?;
            if let (Verdict::Over, Some(text)) | (Verdict::Missing(text), _) = (verdict, details) {
                writeln!(f, "      {text}")?;
            }
        }
        let over = self.rows().filter(|verdict| **verdict == Verdict::Over).count();
        let missing = self.rows().filter(|verdict| matches!(verdict, Verdict::Missing(_))).count();
        let all = self.rows().count();
        writeln!(f, "\n{} figures: {} ok, {over} over, {missing} not measured", all, all - over - missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_beside_their_targets_and_details_only_below_those_over() {
        let mut table = Table::default();
        table.heading("Memory");
        table.row("node agent", "5 MiB".into(), "10 MiB".into(), true, Some("hidden".into()));
        table.row("controller", "16 MiB".into(), "15 MiB".into(), false, Some("heap 9 MiB".into()));
        assert!(table.complete());
        let text = table.to_string();
        assert!(text.contains("node agent   5 MiB  target 10 MiB  ok\n"), "{text}");
        assert!(text.contains("OVER\n      heap 9 MiB\n") && !text.contains("hidden"), "{text}");
        table.missing("helper", "10 MiB".into(), &anyhow::anyhow!("needs root"));
        assert!(!table.complete());
        let text = table.to_string();
        assert!(
            text.contains("needs root") && text.contains("3 figures: 1 ok, 1 over, 1 not measured"),
            "{text}"
        );
    }
}
