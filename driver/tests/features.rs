//! `docs/features.md` is held against the code: every row of the feature list is there once, every parameter that the
//! driver knows is named with its group, and every test that a row names exists.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise, in their helpers too"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tns_csi::volume::parameter;

/// The rows that the page answers for: protocols and access, parameters, metadata, names, capacity and health.
const ROWS: [std::ops::RangeInclusive<u32>; 3] = [1..=76, 90..=104, 111..=125];

/// What a row may say of itself.
const STATES: [&str; 4] = ["done", "part", "not done", "never"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

struct Row {
    number: u32,
    state: String,
    parameters: BTreeSet<String>,
    tests: Vec<String>,
}

/// `| # | feature | parameter | default | state | shown by |`
fn rows(page: &str) -> Vec<Row> {
    let lines = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #"));
    lines
        .map(|line| {
            // A bar inside a cell is written as `\|`.
            let line = line.replace("\\|", "\u{1}");
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 6, "a row has six cells: {line}");
            Row {
                number: cells[0].parse().unwrap_or_else(|_| panic!("no number: {line}")),
                parameters: quoted(cells[2]),
                state: cells[4].to_owned(),
                tests: quoted(cells[5]).into_iter().collect(),
            }
        })
        .collect()
}

/// The words in backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// All Rust sources of the repository.
fn sources(directory: &Path, all: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_row_is_there_once_and_says_how_far_it_is() {
    let page = fs::read_to_string(repository().join("docs/features.md")).unwrap();
    let rows = rows(&page);
    let numbers: Vec<u32> = rows.iter().map(|row| row.number).collect();
    let wanted: Vec<u32> = ROWS.into_iter().flatten().collect();
    assert_eq!(numbers, wanted);
    for row in rows {
        assert!(STATES.contains(&row.state.as_str()), "row {}: {:?}", row.number, row.state);
        let shown = row.state == "done" || row.state == "part";
        assert_eq!(!row.tests.is_empty(), shown, "row {}: what is done names its test", row.number);
    }
}

#[test]
fn every_parameter_has_a_row_and_every_named_parameter_exists() {
    let page = fs::read_to_string(repository().join("docs/features.md")).unwrap();
    let named: BTreeSet<String> = rows(&page)
        .into_iter()
        .filter(|row| row.state == "done" || row.state == "part")
        .flat_map(|row| row.parameters)
        .collect();
    let known: BTreeSet<String> = parameter::table().map(|definition| definition.name.to_owned()).collect();
    assert_eq!(named, known);
}

#[test]
fn every_test_that_a_row_names_exists() {
    let repository = repository();
    let page = fs::read_to_string(repository.join("docs/features.md")).unwrap();
    let mut all = String::new();
    sources(&repository, &mut all);
    for row in rows(&page) {
        for test in row.tests {
            // A scenario of the lab, a run of csi-sanity, or a test function.
            let scenario = all.contains(&format!("name: \"{test}\""));
            let function = test.rsplit("::").next().unwrap_or_default();
            assert!(
                scenario || all.contains(&format!("fn {function}(")),
                "row {}: there is no test or scenario {test}",
                row.number
            );
        }
    }
}
