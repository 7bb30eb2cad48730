//! The list of scenarios and how they are run.
//!
//! A scenario is a short function over the [`Lab`]; it fails by an error that names what it saw. After a failure the
//! logs of all processes are printed and everything is set up anew, so that one failure does not make others.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::lab::Lab;
use crate::logs::log_tails;

/// Time a scenario may take.
const DEADLINE: Duration = Duration::from_secs(420);

/// What a scenario returns while it runs.
pub type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// One scenario.
pub struct Scenario {
    /// Name on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// What it needs, and how it runs.
    pub run: Run,
}

/// What a scenario needs, and how it runs.
pub enum Run {
    /// Only the prepared guest.
    Guest(fn() -> Running<'static>),
    /// All programs.
    Chain(for<'a> fn(&'a mut Lab) -> Running<'a>),
}

/// Passed and failed scenarios.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
}

impl Count {
    /// Reads `N passed, N failed`, the closing line of our test programs.
    pub fn parse(line: &str) -> Option<Self> {
        let (passed, failed) = line.trim().split_once(" passed, ")?;
        Some(Self { passed: passed.parse().ok()?, failed: failed.strip_suffix(" failed")?.parse().ok()? })
    }
}

/// Prints names and what they show.
pub fn list() {
    let all = crate::scenarios::all();
    let width = all.iter().map(|scenario| scenario.name.len()).max().unwrap_or_default();
    for scenario in all {
        println!("{:width$}  {}", scenario.name, scenario.about);
    }
}

/// Runs the named scenarios, or all, and prints each with its time. The programs start when the first scenario needs
/// them.
pub async fn run(names: &[String]) -> anyhow::Result<Count> {
    let all = crate::scenarios::all();
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|scenario| scenario.name == **name)) {
        bail!("no scenario is called {unknown}; `lab list` prints them");
    }
    let chosen =
        all.iter().filter(|scenario| names.is_empty() || names.iter().any(|name| name == scenario.name));
    let mut lab = None;
    let mut count = Count::default();
    let mut failures = Vec::new();
    for scenario in chosen {
        println!("-- {}: {}", scenario.name, scenario.about);
        let start = Instant::now();
        let result = one(scenario, &mut lab).await;
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                count.passed += 1;
                println!("-- {}: passed, {seconds:.1} s", scenario.name);
            }
            Err(error) => {
                count.failed += 1;
                println!("{}", log_tails());
                println!("-- {}: FAILED, {seconds:.1} s: {error:#}", scenario.name);
                failures.push(format!("{}: {error:#}", scenario.name));
                if let Some(lab) = lab.take() {
                    lab.clear().await?;
                }
            }
        }
    }
    for failure in failures {
        println!("failed: {failure}");
    }
    if let Some(mut lab) = lab {
        lab.stop().await?;
    }
    Ok(count)
}

async fn one(scenario: &Scenario, lab: &mut Option<Lab>) -> anyhow::Result<()> {
    let late = || anyhow::anyhow!("did not end within {} s", DEADLINE.as_secs());
    match scenario.run {
        Run::Guest(run) => tokio::time::timeout(DEADLINE, run()).await.map_err(|_| late())?,
        Run::Chain(run) => {
            let lab = match lab {
                Some(lab) => lab,
                None => lab.insert(Lab::start().await?),
            };
            tokio::time::timeout(DEADLINE, run(lab)).await.map_err(|_| late())??;
            lab.must_be_clean().context("passed, but left something behind")?;
            lab.must_keep_to_schemas().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn only_a_closing_line_counts() {
        let count = Count::parse("12 passed, 3 failed").unwrap();
        assert_eq!((count.passed, count.failed), (12, 3));
        for other in [
            "",
            "12 passed",
            "12 passed, 3 failed, 1 skipped",
            "x passed, 3 failed",
            "nfs: 1 passed, 2 failed",
        ] {
            assert!(Count::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn names_of_scenarios_are_unique() {
        let mut names: Vec<&str> = crate::scenarios::all().iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
