//! Dotted paths into a row. A dot inside a key is escaped by a backslash; a number reaches into a list.

use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    parts: Vec<String>,
}

impl Path {
    pub fn parse(text: &str) -> Self {
        let mut parts = vec![String::new()];
        let mut characters = text.chars().peekable();
        while let Some(c) = characters.next() {
            match c {
                '\\' if characters.peek() == Some(&'.') => {
                    characters.next();
                    if let Some(last) = parts.last_mut() {
                        last.push('.');
                    }
                }
                '.' => parts.push(String::new()),
                c => {
                    if let Some(last) = parts.last_mut() {
                        last.push(c);
                    }
                }
            }
        }
        Self { parts }
    }

    pub fn parts(&self) -> &[String] {
        &self.parts
    }
}

fn step<'a>(value: &'a Value, part: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(part),
        Value::Array(list) => list.get(part.parse::<usize>().ok()?),
        _ => None,
    }
}

/// The single value at a path without wildcards.
pub(super) fn get<'a>(row: &'a Value, path: &Path) -> Option<&'a Value> {
    path.parts.iter().try_fold(row, |at, part| step(at, part))
}

/// Every value at a path; `*` stands for all elements of a list or all values of an object.
pub(super) fn all<'a>(row: &'a Value, path: &Path) -> Vec<&'a Value> {
    let mut at = vec![row];
    for part in &path.parts {
        at = at
            .into_iter()
            .flat_map(|value| match (part.as_str(), value) {
                ("*", Value::Array(list)) => list.iter().collect::<Vec<_>>(),
                ("*", Value::Object(map)) => map.values().collect(),
                _ => step(value, part).into_iter().collect(),
            })
            .collect();
    }
    at
}
