//! Filters: `[field, operator, value]`, and `["OR", [...]]` up to three deep, an inner list meaning AND.

use std::cmp::Ordering;

use regex::Regex;
use serde_json::Value;

use super::path::{Path, all};

const OPERATORS: &[&str] =
    &["=", "!=", ">", ">=", "<", "<=", "~", "in", "nin", "rin", "rnin", "^", "!^", "$", "!$"];
const DEEPEST: usize = 3;

/// Splits off the case-insensitive prefix `C`.
fn operator(op: &str) -> (&str, bool) {
    match op.strip_prefix('C') {
        Some(rest) if OPERATORS.contains(&rest) => (rest, true),
        _ => (op, false),
    }
}

/// Checks the shape of a filter list; the error is in the appliance's words.
pub fn check(filters: &Value) -> Result<(), String> {
    let Value::Array(filters) = filters else { return Err("Filters must be a list".into()) };
    filters.iter().try_for_each(|filter| check_one(filter, 0))
}

fn check_one(filter: &Value, depth: usize) -> Result<(), String> {
    if depth > DEEPEST {
        return Err("query-filters max recursion depth exceeded".into());
    }
    let Value::Array(parts) = filter else { return Err("Invalid filter name".into()) };
    match parts.as_slice() {
        [Value::String(or), Value::Array(branches)] if or == "OR" => {
            branches.iter().try_for_each(|branch| match branch {
                Value::Array(inner) if inner.first().is_some_and(Value::is_array) => {
                    inner.iter().try_for_each(|f| check_one(f, depth + 1))
                }
                other => check_one(other, depth + 1),
            })
        }
        [Value::String(_), Value::String(op), value] => {
            let (op, _) = operator(op);
            if !OPERATORS.contains(&op) {
                return Err(format!("Invalid operation: {op}"));
            }
            if op == "~" && value.as_str().is_none_or(|pattern| Regex::new(pattern).is_err()) {
                return Err("Invalid regular expression".into());
            }
            Ok(())
        }
        [_, _, _] => Err("Invalid filter name".into()),
        _ => Err(format!("Invalid filter {filter}")),
    }
}

/// Whether a row matches every filter of the (checked) list.
pub(super) fn matches_all(filters: &Value, row: &Value) -> bool {
    filters.as_array().is_none_or(|filters| filters.iter().all(|filter| matches(filter, row)))
}

fn matches(filter: &Value, row: &Value) -> bool {
    let Some(parts) = filter.as_array() else { return false };
    match parts.as_slice() {
        [Value::String(or), Value::Array(branches)] if or == "OR" => {
            branches.iter().any(|branch| match branch.as_array().and_then(|b| b.first()) {
                Some(Value::Array(_)) => matches_all(branch, row),
                _ => matches(branch, row),
            })
        }
        [Value::String(field), Value::String(op), wanted] => {
            let (op, folded) = operator(op);
            let found = match row.get(field) {
                Some(value) => vec![value],
                None => all(row, &Path::parse(field)),
            };
            found.into_iter().any(|value| {
                if folded { apply(op, &fold(value), &fold(wanted)) } else { apply(op, value, wanted) }
            })
        }
        _ => false,
    }
}

fn fold(value: &Value) -> Value {
    match value {
        Value::String(s) => s.to_lowercase().into(),
        Value::Array(list) => list.iter().map(fold).collect(),
        other => other.clone(),
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

/// Order of two values of one kind; `None` where Python would not compare.
pub(super) fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn contains(haystack: &Value, needle: &Value) -> bool {
    match haystack {
        Value::Array(list) => list.iter().any(|item| equal(item, needle)),
        Value::String(text) => needle.as_str().is_some_and(|needle| text.contains(needle)),
        Value::Object(map) => needle.as_str().is_some_and(|needle| map.contains_key(needle)),
        _ => false,
    }
}

fn apply(op: &str, value: &Value, wanted: &Value) -> bool {
    let ordered = |accept: fn(Ordering) -> bool| compare(value, wanted).is_some_and(accept);
    let texts = || value.as_str().zip(wanted.as_str());
    match op {
        "=" => equal(value, wanted),
        "!=" => !equal(value, wanted),
        ">" => ordered(Ordering::is_gt),
        ">=" => ordered(Ordering::is_ge),
        "<" => ordered(Ordering::is_lt),
        "<=" => ordered(Ordering::is_le),
        // Python's `re.match` anchors at the start only.
        "~" => texts().is_some_and(|(v, pattern)| {
            Regex::new(&format!("^(?:{pattern})")).is_ok_and(|regex| regex.is_match(v))
        }),
        "in" => contains(wanted, value),
        "nin" => !contains(wanted, value),
        "rin" => contains(value, wanted),
        "rnin" => !value.is_null() && !contains(value, wanted),
        "^" => texts().is_some_and(|(v, w)| v.starts_with(w)),
        "!^" => texts().is_some_and(|(v, w)| !v.starts_with(w)),
        "$" => texts().is_some_and(|(v, w)| v.ends_with(w)),
        "!$" => texts().is_some_and(|(v, w)| !v.ends_with(w)),
        _ => false,
    }
}
