//! Reads a schema and a value, gives back the value with defaults or the findings.
//!
//! Types are strict: an integer is not a string, a float is not an integer, a boolean is not an integer. A plain string
//! has at most 1,024 characters even where the schema does not say so.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::failure::Item;

type Types = BTreeMap<String, Value>;

/// The limit of every plain string, in characters.
const LONGEST_STRING: u64 = 1024;

fn resolve<'a>(types: &'a Types, schema: &'a Value) -> (&'a Value, Option<&'a str>) {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(name) => (types.get(name).unwrap_or(&Value::Null), Some(name)),
        None => (schema, None),
    }
}

/// The value of an absent optional field or parameter; `None`: the field stays away.
pub(super) fn default_of(types: &Types, schema: &Value) -> Option<Value> {
    let (target, name) = resolve(types, schema);
    match (schema.get("default"), name) {
        (Some(default @ Value::Object(_)), Some(_)) => {
            let mut none = Vec::new();
            check(types, schema, default, "", &mut none).or_else(|| Some(default.clone()))
        }
        (Some(default), _) => Some(default.clone()),
        // An options object whose fields all have defaults is itself optional.
        (None, Some(_)) if target.get("required").is_none() && target.get("properties").is_some() => {
            let mut none = Vec::new();
            check(types, schema, &Value::Object(Map::new()), "", &mut none)
        }
        _ => None,
    }
}

/// Checks one value; findings are appended in the models' order. `None` when there were any.
pub(super) fn check(
    types: &Types,
    schema: &Value,
    value: &Value,
    path: &str,
    findings: &mut Vec<Item>,
) -> Option<Value> {
    let (schema, name) = resolve(types, schema);
    if let Some(discriminator) = schema.get("discriminator") {
        return tagged(types, discriminator, value, path, findings);
    }
    if let Some(members) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
        return union(types, members, value, path, findings);
    }
    if let Some(constant) = schema.get("const") {
        return literal(&[constant], value, path, findings);
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
        return literal(&choices.iter().collect::<Vec<_>>(), value, path, findings);
    }
    let before = findings.len();
    let result = match schema.get("type").and_then(Value::as_str) {
        None => Some(value.clone()),
        Some("object") => object(types, schema, name, value, path, findings),
        Some("array") => array(types, schema, value, path, findings),
        Some("string") => {
            string(schema, value, path, findings);
            Some(value.clone())
        }
        Some("integer") => {
            integer(schema, value, path, findings);
            Some(value.clone())
        }
        Some("boolean") => {
            if !value.is_boolean() {
                findings.push(Item::new(path, "Input should be a valid boolean"));
            }
            Some(value.clone())
        }
        Some("number") => {
            if !value.is_number() {
                findings.push(Item::new(path, "Input should be a valid number"));
            }
            Some(value.clone())
        }
        Some("null") => {
            if !value.is_null() {
                findings.push(Item::new(path, "Input should be None"));
            }
            Some(Value::Null)
        }
        Some(other) => {
            findings.push(Item::new(path, format!("the API table has an unknown type {other}")));
            None
        }
    };
    if findings.len() == before { result } else { None }
}

fn pair(item: &Value) -> Option<(&str, &Value)> {
    match item.as_array()?.as_slice() {
        [Value::String(key), value] => Some((key.as_str(), value)),
        _ => None,
    }
}

/// Ordered pairs of the table: fields of an object, members of a tagged union.
fn pairs(list: Option<&Value>) -> Option<Vec<(&str, &Value)>> {
    Some(list?.as_array()?.iter().filter_map(pair).collect())
}

fn join(path: &str, part: impl std::fmt::Display) -> String {
    if path.is_empty() { part.to_string() } else { format!("{path}.{part}") }
}

fn object(
    types: &Types,
    schema: &Value,
    name: Option<&str>,
    value: &Value,
    path: &str,
    findings: &mut Vec<Item>,
) -> Option<Value> {
    let Value::Object(given) = value else {
        let words = match name {
            Some(name) => format!("Input should be a valid dictionary or instance of {name}"),
            None => "Input should be a valid dictionary".to_owned(),
        };
        findings.push(Item::new(path, words));
        return None;
    };
    let Some(properties) = pairs(schema.get("properties")) else {
        return Some(value.clone());
    };
    let required = schema.get("required").and_then(Value::as_array);
    let mut out = Map::new();
    for (field, field_schema) in &properties {
        let field = *field;
        match given.get(field) {
            Some(inner) => {
                let before = findings.len();
                let checked = check(types, field_schema, inner, &join(path, field), findings);
                let optional_without_default = !required.is_some_and(|r| r.iter().any(|n| n == field))
                    && field_schema.get("default").is_none();
                if findings.len() > before && optional_without_default && is_plain_union(field_schema) {
                    // The models mark an absent field by a value of its own, which is a member of the union.
                    let words = "Input should be an instance of _NotRequired";
                    findings.push(Item::new(join(path, format!("{field}.is-instance[_NotRequired]")), words));
                }
                if let Some(checked) = checked {
                    out.insert(field.to_owned(), checked);
                }
            }
            None if required.is_some_and(|r| r.iter().any(|n| n == field)) => {
                findings.push(Item::new(join(path, field), "Field required"));
            }
            None => {
                if field_schema.get("default").is_some()
                    && let Some(default) = default_of(types, field_schema)
                {
                    out.insert(field.to_owned(), default);
                }
            }
        }
    }
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    for (field, inner) in
        given.iter().filter(|(field, _)| !properties.iter().any(|(known, _)| known == field))
    {
        if closed {
            findings.push(Item::new(join(path, field), "Extra inputs are not permitted"));
        } else if schema.get("additionalProperties").is_some() {
            out.insert(field.clone(), inner.clone());
        }
    }
    Some(Value::Object(out))
}

fn is_plain_union(schema: &Value) -> bool {
    schema.get("anyOf").and_then(Value::as_array).is_some_and(|m| !m.iter().any(is_null_type))
}

fn is_null_type(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

fn array(
    types: &Types,
    schema: &Value,
    value: &Value,
    path: &str,
    findings: &mut Vec<Item>,
) -> Option<Value> {
    let Value::Array(given) = value else {
        findings.push(Item::new(path, "Input should be a valid list"));
        return None;
    };
    let items = schema.get("items").unwrap_or(&Value::Null);
    let mut out = Vec::with_capacity(given.len());
    for (index, inner) in given.iter().enumerate() {
        if items.is_null() {
            out.push(inner.clone());
        } else if let Some(checked) = check(types, items, inner, &join(path, index), findings) {
            out.push(checked);
        }
    }
    let unique = schema.get("uniqueItems") == Some(&Value::Bool(true));
    let repeated = || given.iter().enumerate().any(|(i, a)| given.iter().skip(i + 1).any(|b| a == b));
    if unique && repeated() {
        findings.push(Item::new(path, "List must be unique"));
    }
    Some(Value::Array(out))
}

fn string(schema: &Value, value: &Value, path: &str, findings: &mut Vec<Item>) {
    let Value::String(text) = value else {
        findings.push(Item::new(path, "Input should be a valid string"));
        return;
    };
    let length = text.chars().count() as u64;
    let most = schema.get("maxLength").and_then(Value::as_u64).unwrap_or(LONGEST_STRING);
    let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0);
    if length > most {
        findings.push(Item::new(path, format!("String should have at most {most} characters")));
    } else if length < least {
        let unit = if least == 1 { "character" } else { "characters" };
        findings.push(Item::new(path, format!("String should have at least {least} {unit}")));
    } else if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        // The only pattern of the table: a property key that holds a colon.
        if pattern == ".*:.*" && !text.contains(':') {
            findings.push(Item::new(path, format!("String should match pattern '{pattern}'")));
        }
    }
}

fn integer(schema: &Value, value: &Value, path: &str, findings: &mut Vec<Item>) {
    let number = match value {
        Value::Number(n) => n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from)),
        _ => None,
    };
    let Some(number) = number else {
        findings.push(Item::new(path, "Input should be a valid integer"));
        return;
    };
    let bound = |key: &str| schema.get(key).and_then(Value::as_i64).map(i128::from);
    if let Some(least) = bound("minimum")
        && number < least
    {
        findings.push(Item::new(path, format!("Input should be greater than or equal to {least}")));
    } else if let Some(most) = bound("maximum")
        && number > most
    {
        findings.push(Item::new(path, format!("Input should be less than or equal to {most}")));
    } else if let Some(above) = bound("exclusiveMaximum")
        && number >= above
    {
        findings.push(Item::new(path, format!("Input should be less than {above}")));
    }
}

fn spell(value: &Value) -> String {
    match value {
        Value::String(s) => format!("'{s}'"),
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        other => other.to_string(),
    }
}

fn literal(choices: &[&Value], value: &Value, path: &str, findings: &mut Vec<Item>) -> Option<Value> {
    if choices.contains(&value) {
        return Some(value.clone());
    }
    let spelled: Vec<String> = choices.iter().map(|c| spell(c)).collect();
    let words = match spelled.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    };
    findings.push(Item::new(path, format!("Input should be {words}")));
    None
}

/// The path component by which the models name a member of a union.
fn label(types: &Types, schema: &Value) -> String {
    let (target, name) = resolve(types, schema);
    if let Some(name) = name {
        return name.to_owned();
    }
    if let Some(constant) = target.get("const") {
        return format!("literal[{}]", spell(constant));
    }
    if let Some(choices) = target.get("enum").and_then(Value::as_array) {
        return format!("literal[{}]", choices.iter().map(spell).collect::<Vec<_>>().join(","));
    }
    let constrained = ["minimum", "maximum", "minLength", "maxLength", "exclusiveMaximum", "pattern"]
        .iter()
        .any(|key| target.get(*key).is_some());
    let base = match target.get("type").and_then(Value::as_str) {
        Some("integer") => "int",
        Some("string") => "str",
        Some("boolean") => "bool",
        Some("number") => "float",
        Some("array") => return "list[any]".into(),
        _ => return "dict[str,any]".into(),
    };
    if constrained { format!("constrained-{base}") } else { base.into() }
}

fn union(
    types: &Types,
    members: &[Value],
    value: &Value,
    path: &str,
    findings: &mut Vec<Item>,
) -> Option<Value> {
    if value.is_null() && members.iter().any(is_null_type) {
        return Some(Value::Null);
    }
    let members: Vec<&Value> = members.iter().filter(|m| !is_null_type(m)).collect();
    if let [only] = members.as_slice() {
        return check(types, only, value, path, findings);
    }
    let mut rejected = Vec::new();
    for member in members {
        let mut own = Vec::new();
        let at = join(path, label(types, member));
        if let Some(accepted) = check(types, member, value, &at, &mut own) {
            return Some(accepted);
        }
        rejected.extend(own);
    }
    findings.extend(rejected);
    None
}

fn tagged(
    types: &Types,
    discriminator: &Value,
    value: &Value,
    path: &str,
    findings: &mut Vec<Item>,
) -> Option<Value> {
    let property = discriminator.get("propertyName").and_then(Value::as_str).unwrap_or_default();
    let mapping = pairs(discriminator.get("mapping")).unwrap_or_default();
    let Value::Object(given) = value else {
        findings.push(Item::new(path, "Input should be a valid dictionary or object to extract fields from"));
        return None;
    };
    let Some(tag) = given.get(property) else {
        findings.push(Item::new(join(path, property), "Field required"));
        return None;
    };
    let known = mapping.iter().find(|(known, _)| tag.as_str() == Some(known));
    let name = known.and_then(|(_, name)| name.as_str());
    let (Some(tag), Some(name)) = (tag.as_str(), name) else {
        let expected: Vec<String> = mapping.iter().map(|(tag, _)| spell_tag(property, tag)).collect();
        let words = format!(
            "Input tag {} found using '{property}' does not match any of the expected tags: {}",
            spell(tag),
            expected.join(", ")
        );
        findings.push(Item::new(path, words));
        return None;
    };
    check(types, &serde_json::json!({"$ref": name}), value, &join(path, tag), findings)
}

/// The login mechanisms are members of a Python enum and are spelled so; other tags are plain strings.
fn spell_tag(property: &str, tag: &str) -> String {
    if property == "mechanism" { format!("<AuthMech.{tag}: '{tag}'>") } else { format!("'{tag}'") }
}
