//! Templates of names and comments: the part of Go's `text/template` that such names need.
//!
//! The rule it keeps: a template either gives text for every request of its class or says why not, with the position;
//! a variable that was not sent is an error and never an empty word, which would make names collide.
//!
//! `{{ .PVCName }}` gives a variable, `{{ .PVCName | lower | trunc 20 }}` passes it through functions, `{{ lower .PVCName }}`
//! is the same for one; `{{-` and `-}}` take away the white space beside them.

use std::fmt;

/// The variables: name in templates and where the value comes from.
const VARIABLES: [(&str, Variable); 3] =
    [("PVCName", Variable::PvcName), ("PVCNamespace", Variable::PvcNamespace), ("PVName", Variable::PvName)];
const KNOWN: &str = "known are the variables .PVCName, .PVCNamespace and .PVName and the functions lower, upper and \
                     trunc LENGTH";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    PvcName,
    PvcNamespace,
    PvName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Lower,
    Upper,
    /// At most so many characters.
    Trunc(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Variable, Vec<Function>),
}

/// What a template is rendered with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    /// Name of the claim.
    pub pvc_name: Option<&'a str>,
    /// Its namespace.
    pub pvc_namespace: Option<&'a str>,
    /// Name in the create request, which is the name of the PersistentVolume.
    pub pv_name: &'a str,
}

/// A template, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

/// Why a text is no template, or gives nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// In words, with the position where there is one.
    pub message: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// An action that is not closed, empty, or names what is not known; with the character at which it begins.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let (mut rest, mut trim) = (text, false);
        loop {
            let Some((before, action)) = rest.split_once("{{") else {
                push_text(&mut parts, if trim { rest.trim_start() } else { rest });
                return Ok(Template { parts });
            };
            let position = text.len() - action.len() - 2;
            let at = |what: String| TemplateError {
                message: format!(
                    "{what} at character {}; {KNOWN}",
                    text.get(..position).map_or(0, |t| t.chars().count()) + 1
                ),
            };
            let Some((inside, after)) = action.split_once("}}") else {
                return Err(at("\"{{\" is not closed by \"}}\"".to_owned()));
            };
            // As in Go, the minus needs white space beside it.
            let opened = inside.strip_prefix('-').filter(|i| i.starts_with(char::is_whitespace));
            let inner = opened.unwrap_or(inside);
            let closed = inner.strip_suffix('-').filter(|i| i.ends_with(char::is_whitespace));
            let before = if trim { before.trim_start() } else { before };
            push_text(&mut parts, if opened.is_some() { before.trim_end() } else { before });
            parts.push(pipeline(closed.unwrap_or(inner)).map_err(at)?);
            (rest, trim) = (after, closed.is_some());
        }
    }

    /// The text for one request.
    ///
    /// # Errors
    /// A variable that was not sent, or a result without any visible character.
    pub fn render(&self, values: Values<'_>) -> Result<String, TemplateError> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Value(variable, functions) => {
                    let value = values.get(*variable)?.to_owned();
                    out.push_str(&functions.iter().fold(value, |value, f| f.apply(&value)));
                }
            }
        }
        if out.trim().is_empty() {
            return Err(TemplateError { message: "it renders to nothing".to_owned() });
        }
        Ok(out)
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

/// Reads what stands between the braces. The error is words without position.
fn pipeline(inside: &str) -> Result<Part, String> {
    let mut stages = inside.split('|').map(|stage| stage.split_whitespace().collect::<Vec<_>>());
    let first = stages.next().unwrap_or_default();
    let Some((operand, call)) = first.split_last() else { return Err("an empty action".to_owned()) };
    let Some(name) = operand.strip_prefix('.') else { return Err(format!("{operand:?} is no variable")) };
    let Some((_, variable)) = VARIABLES.into_iter().find(|(known, _)| *known == name) else {
        return Err(format!("unknown variable {operand:?}"));
    };
    let mut functions = Vec::new();
    if !call.is_empty() {
        functions.push(function(call)?);
    }
    for stage in stages {
        functions.push(function(&stage)?);
    }
    Ok(Part::Value(variable, functions))
}

fn function(words: &[&str]) -> Result<Function, String> {
    match words {
        ["lower"] => Ok(Function::Lower),
        ["upper"] => Ok(Function::Upper),
        ["trunc", length] => match length.parse() {
            Ok(length) if length > 0 => Ok(Function::Trunc(length)),
            _ => Err(format!("trunc takes a length of at least 1, not {length:?}")),
        },
        [] => Err("a function is missing after \"|\"".to_owned()),
        _ => Err(format!("unknown function {:?}", words.join(" "))),
    }
}

impl Function {
    fn apply(self, value: &str) -> String {
        match self {
            Function::Lower => value.to_lowercase(),
            Function::Upper => value.to_uppercase(),
            Function::Trunc(length) => value.chars().take(length).collect(),
        }
    }
}

impl Values<'_> {
    fn get(&self, variable: Variable) -> Result<&str, TemplateError> {
        let (name, value) = match variable {
            Variable::PvName => (".PVName", Some(self.pv_name)),
            Variable::PvcName => (".PVCName", self.pvc_name),
            Variable::PvcNamespace => (".PVCNamespace", self.pvc_namespace),
        };
        value.filter(|v| !v.is_empty()).ok_or_else(|| TemplateError {
            message: format!(
                "{name} was not sent with the request; run external-provisioner with --extra-create-metadata"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUES: Values<'_> =
        Values { pvc_name: Some("Data"), pvc_namespace: Some("team-a"), pv_name: "pvc-1" };

    fn render(text: &str) -> Result<String, TemplateError> {
        Template::parse(text)?.render(VALUES)
    }

    #[test]
    fn variables_and_functions_are_put_in_place() {
        for (template, text) in [
            ("{{ .PVCNamespace }}-{{ .PVCName }}", "team-a-Data"),
            ("{{.PVName}}", "pvc-1"),
            ("x {{- .PVCName -}} y", "xDatay"),
            ("{{ .PVCName | lower }}", "data"),
            ("{{ upper .PVCName | trunc 2 }}", "DA"),
            ("plain } text", "plain } text"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(text), "{template}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused_with_its_position() {
        for (template, words) in [
            ("ab{{ .PVCName", "is not closed by \"}}\" at character 3"),
            ("é{{ .Claim }}", "unknown variable \".Claim\" at character 2; known are the variables .PVCName"),
            ("{{ }}", "an empty action at character 1"),
            ("{{ .PVCName | title }}", "unknown function \"title\""),
            ("{{ .PVCName | }}", "a function is missing"),
            ("{{ .PVCName | trunc -3 }}", "trunc"),
            ("{{ \"text\" }}", "is no variable"),
        ] {
            let refused = Template::parse(template).unwrap_err();
            assert!(refused.message.contains(words), "{template}: {refused}");
        }
    }

    #[test]
    fn nothing_and_a_missing_variable_are_errors() {
        assert!(render("   ").unwrap_err().message.contains("nothing"));
        let bare = Values { pv_name: "pvc-1", ..Values::default() };
        let refused = Template::parse("a-{{ .PVCName }}").unwrap().render(bare).unwrap_err();
        assert!(refused.message.contains("--extra-create-metadata"), "{refused}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([a-z{}|. -]|\\{\\{|\\}\\}|\\PC){0,40}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.render(VALUES);
            }
        }

        #[test]
        fn text_without_braces_stays(text in "[a-zA-Z0-9 -]{0,20}x") {
            prop_assert_eq!(render(&text), Ok(text));
        }
    }
}
