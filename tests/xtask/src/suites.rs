//! Counts what the test programs report, suite by suite.
//!
//! Rule: a suite that ends badly without having named a failure counts as one failure, and a suite without any passed
//! test is a failure too: silence is no success.

use std::time::Duration;

use crate::progress::minutes;

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
}

impl Count {
    /// Adds what one line of output reports: cargo's `test result: …` or the `N passed, N failed` with which our own
    /// programs close. An indented line is what a program passes on from another and counts in its own closing line.
    pub fn add_line(&mut self, line: &str) {
        let line = line.trim_end();
        let report = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
            .map_or(line, |(_, rest)| rest);
        let own = line.starts_with(|letter: char| letter.is_ascii_digit());
        if !own && !line.starts_with("test result: ") {
            return;
        }
        let mut words = report.split([' ', ',', ';']).filter(|word| !word.is_empty());
        if let (Some(Ok(passed)), Some("passed"), Some(Ok(failed)), Some("failed")) = (
            words.next().map(str::parse::<u64>),
            words.next(),
            words.next().map(str::parse::<u64>),
            words.next(),
        ) {
            self.passed += passed;
            self.failed += failed;
        }
    }

    /// The count of a suite that ended: see the rule above.
    #[must_use]
    pub fn closed(mut self, success: bool) -> Self {
        if (!success || self.passed == 0) && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

/// The suites of a run.
#[derive(Debug, Default)]
pub struct Suites {
    rows: Vec<(String, Count, Duration)>,
}

impl Suites {
    /// Records a suite that ended.
    pub fn add(&mut self, name: &str, count: Count, took: Duration) {
        println!("== {name}: {} passed, {} failed, {}", count.passed, count.failed, minutes(took));
        self.rows.push((name.to_owned(), count, took));
    }

    /// Prints all suites and the closing line, and tells whether nothing failed.
    #[must_use]
    pub fn close(&self) -> bool {
        let width = self.rows.iter().map(|(name, ..)| name.len()).max().unwrap_or_default();
        println!();
        let mut total = Count::default();
        for (name, count, took) in &self.rows {
            println!(
                "{name:width$}  {:>5} passed  {:>3} failed  {:>9}",
                count.passed,
                count.failed,
                minutes(*took)
            );
            total.passed += count.passed;
            total.failed += count.failed;
        }
        println!("{} passed, {} failed", total.passed, total.failed);
        total.failed == 0 && total.passed > 0
    }
}

#[cfg(test)]
mod tests {
    use super::Count;

    fn counted(text: &str) -> Count {
        let mut count = Count::default();
        text.lines().for_each(|line| count.add_line(line));
        count
    }

    #[test]
    fn cargo_and_own_reports_are_counted() {
        let text = "running 3 tests\ntest a ... ok\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n\
            4 passed, 2 failed\n";
        assert_eq!(counted(text), Count { passed: 9, failed: 3 });
    }

    #[test]
    fn other_lines_count_for_nothing() {
        assert_eq!(
            counted("3 volumes passed by\n  5 passed, 0 failed\nnfs: 7 passed, 1 failed\n12\n\n1 passed\n"),
            Count::default()
        );
    }

    #[test]
    fn silence_is_no_success() {
        assert_eq!(Count::default().closed(true).failed, 1);
        assert_eq!(Count { passed: 5, failed: 0 }.closed(false).failed, 1);
        assert_eq!(Count { passed: 5, failed: 0 }.closed(true).failed, 0);
        assert_eq!(Count { passed: 5, failed: 2 }.closed(false).failed, 2);
    }
}
