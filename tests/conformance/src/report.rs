//! Reads Ginkgo's JSON report of one csi-sanity run and judges it against the list of skips.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::skips;

/// Number of specs in the pinned csi-sanity. Another number means that some were lost on the way.
const SPECS: usize = 96;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    spec_reports: Option<Vec<Spec>>,
    #[serde(default)]
    special_suite_failure_reasons: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Failure,
    #[serde(default)]
    captured_ginkgo_writer_output: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Failure {
    message: String,
    location: Location,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Location {
    file_name: String,
    line_number: u32,
}

/// What a run comes to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// How many specs passed.
    pub passed: usize,
    /// How many were left out as listed.
    pub skipped: usize,
    /// Rows of [`skips::SKIPS`] that were needed.
    pub rows: BTreeSet<usize>,
    /// Everything that is wrong, each with its details.
    pub failures: Vec<String>,
}

/// Judges a report. `focused` says that only some specs were asked for: the others then count for nothing.
///
/// # Errors
/// The text is no report of Ginkgo.
pub fn judge(json: &str, focused: bool) -> anyhow::Result<Verdict> {
    let suites: Vec<Suite> = serde_json::from_str(json)?;
    let mut verdict = Verdict::default();
    let mut specs = 0;
    for suite in suites {
        for reason in suite.special_suite_failure_reasons.unwrap_or_default() {
            verdict.failures.push(format!("the whole suite: {reason}"));
        }
        for spec in suite.spec_reports.unwrap_or_default() {
            specs += usize::from(spec.leaf_node_type == "It");
            spec_verdict(&spec, focused, &mut verdict);
        }
    }
    if specs != SPECS {
        verdict.failures.push(format!("the report has {specs} specs instead of {SPECS}"));
    }
    if verdict.passed == 0 {
        verdict.failures.push("no spec passed".to_owned());
    }
    Ok(verdict)
}

fn spec_verdict(spec: &Spec, focused: bool, verdict: &mut Verdict) {
    let name = spec.name();
    match (spec.state.as_str(), spec.leaf_node_type.as_str()) {
        ("passed", "It") => verdict.passed += 1,
        // What prepares or cleans up beside the specs counts only when it fails.
        ("passed", _) => {}
        // Ginkgo gives no cause for a spec that the focus leaves out.
        ("skipped" | "pending", _) if focused && spec.failure.message.is_empty() => {}
        ("skipped" | "pending", _) => match skips::allowed(&name, &spec.failure.message) {
            Some(row) => {
                verdict.skipped += 1;
                verdict.rows.insert(row);
            }
            None => verdict.failures.push(format!(
                "{name}: {} and not on the list of skips: {}",
                spec.state,
                if spec.failure.message.is_empty() { "no cause" } else { &spec.failure.message }
            )),
        },
        (state, _) => {
            let Failure { message, location } = &spec.failure;
            let place = location.file_name.rsplit('/').next().unwrap_or_default();
            verdict.failures.push(format!(
                "{name}: {state} at {place}:{}\n{}\n{}",
                location.line_number,
                indented(message, usize::MAX),
                indented(&spec.captured_ginkgo_writer_output, 30)
            ));
        }
    }
}

impl Spec {
    fn name(&self) -> String {
        let mut texts = self.container_hierarchy_texts.clone().unwrap_or_default();
        texts.push(if self.leaf_node_text.is_empty() {
            self.leaf_node_type.clone()
        } else {
            self.leaf_node_text.clone()
        });
        texts.join(" / ")
    }
}

/// The last `lines` lines, indented below a failure's name.
fn indented(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let end = all.get(all.len().saturating_sub(lines)..).unwrap_or_default();
    end.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(containers: &[&str], text: &str, state: &str, message: &str) -> Value {
        json!({
            "ContainerHierarchyTexts": containers, "LeafNodeType": "It", "LeafNodeText": text, "State": state,
            "Failure": {"Message": message, "Location": {"FileName": "/go/pkg/sanity/node.go", "LineNumber": 7}},
            "CapturedGinkgoWriterOutput": "STEP: staging",
        })
    }

    /// A report of as many specs as csi-sanity has: the given ones, the rest passed.
    fn report(mut specs: Vec<Value>) -> String {
        while specs.len() < SPECS {
            specs.push(spec(&["Filler"], "works", "passed", ""));
        }
        json!([{"SpecReports": specs, "SpecialSuiteFailureReasons": null}]).to_string()
    }

    #[test]
    fn a_listed_skip_passes_and_names_its_row() {
        let skip =
            spec(&["CreateSnapshot [Controller Server]"], "x", "skipped", "CreateSnapshot not supported");
        let verdict = judge(&report(vec![skip]), false).unwrap();
        assert_eq!((verdict.passed, verdict.skipped, verdict.failures.len()), (95, 1, 0));
        assert_eq!(verdict.rows.len(), 1);
    }

    #[test]
    fn an_unlisted_skip_and_a_size_that_cannot_be_asked_for_fail() {
        for cause in ["GetCapacity not supported", "Required bytes not supported", ""] {
            let skip =
                spec(&["Controller Service [Controller Server]", "CreateVolume"], "x", "skipped", cause);
            let verdict = judge(&report(vec![skip]), false).unwrap();
            assert!(matches!(&verdict.failures[..], [line] if line.contains("not on the list")), "{cause}");
        }
    }

    #[test]
    fn every_other_state_is_a_failure_with_place_and_output() {
        for state in ["failed", "panicked", "timedout", "interrupted", "aborted", "something new"] {
            let verdict =
                judge(&report(vec![spec(&["Node Service"], "works", state, "boom")]), false).unwrap();
            let [failure] = &verdict.failures[..] else { panic!("{:?}", verdict.failures) };
            for part in ["Node Service / works", state, "node.go:7", "boom", "STEP: staging"] {
                assert!(failure.contains(part), "{part} is missing from {failure}");
            }
        }
    }

    #[test]
    fn a_failed_set_up_counts_and_lost_specs_are_noticed() {
        let mut failed = spec(&[], "", "failed", "no connection");
        failed["LeafNodeType"] = json!("BeforeSuite");
        let mut specs = vec![failed];
        specs.extend((0..SPECS).map(|_| spec(&["Filler"], "works", "passed", "")));
        let verdict = judge(&json!([{"SpecReports": specs}]).to_string(), false).unwrap();
        assert!(matches!(&verdict.failures[..], [line] if line.starts_with("BeforeSuite: failed")));

        let few = json!([{"SpecReports": [spec(&["Filler"], "works", "passed", "")]}]).to_string();
        assert!(
            judge(&few, false).unwrap().failures.iter().any(|line| line.contains("1 specs instead of 96"))
        );
        assert!(judge("[]", false).unwrap().failures.iter().any(|line| line == "no spec passed"));
        assert!(judge("not a report", false).is_err());
    }

    #[test]
    fn what_a_focus_leaves_out_counts_for_nothing() {
        let left_out = spec(&["Node Service"], "other", "skipped", "");
        let verdict = judge(&report(vec![left_out]), true).unwrap();
        assert_eq!((verdict.skipped, verdict.failures.len()), (0, 0));
    }
}
