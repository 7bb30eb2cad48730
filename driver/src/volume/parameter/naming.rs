//! Parameters that name the volume on the appliance.
//!
//! The rule it keeps: the same request gives the same name, whatever the class says; two requests that come to one name
//! meet at one dataset, where the second is refused (`tns-csi:csi_volume_name` tells them apart).

use std::collections::BTreeMap;

use crate::volume::failure::Failure;
use crate::volume::name;
use crate::volume::parameter::Definition;
use crate::volume::protocol::Protocol;
use crate::volume::template::{Template, Values};

/// Longest comment in characters: that of a user property in TrueNAS's API models.
const MAX_COMMENT: usize = 1024;

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[
    Definition {
        name: "nameTemplate",
        protocols: &Protocol::ALL,
        values: "a template such as {{ .PVCNamespace }}-{{ .PVCName }}; it wins over namePrefix and nameSuffix",
        check: is_text,
    },
    Definition { name: "namePrefix", protocols: &Protocol::ALL, values: TEXT, check: is_text },
    Definition { name: "nameSuffix", protocols: &Protocol::ALL, values: TEXT, check: is_text },
    Definition {
        name: "commentTemplate",
        protocols: &Protocol::ALL,
        values: "a template such as {{ .PVCNamespace }}/{{ .PVCName }}",
        check: is_text,
    },
];

const TEXT: &str = "a text without control characters";

fn is_text(value: &str) -> bool {
    !value.is_empty() && !value.contains(char::is_control)
}

/// How the dataset and its comment are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {
    name: Option<Template>,
    prefix: String,
    suffix: String,
    comment: Option<Template>,
}

impl Naming {
    /// Reads the group from a class's own keys, whose values the table has checked one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a text that is no template, with the position.
    pub fn read(given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let template = |key: &str| {
            let read = given.get(key).map(|text| Template::parse(text)).transpose();
            read.map_err(|why| Failure::invalid(format!("parameter {key}: {why}")))
        };
        let text = |key: &str| given.get(key).cloned().unwrap_or_default();
        Ok(Naming {
            name: template("nameTemplate")?,
            prefix: text("namePrefix"),
            suffix: text("nameSuffix"),
            comment: template("commentTemplate")?,
        })
    }

    /// Whether names come from the claim, so that two requests may come to one.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.name.is_some()
    }

    /// The leaf of the volume's dataset.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the template needs what was not sent, or gives nothing that a dataset could be called.
    pub fn leaf(&self, values: Values<'_>) -> Result<String, Failure> {
        let Some(template) = &self.name else {
            return Ok(name::leaf(&format!("{}{}{}", self.prefix, values.pv_name, self.suffix)));
        };
        let refused = |why: &str| Failure::invalid(format!("parameter nameTemplate: {why}"));
        let rendered = template.render(values).map_err(|why| refused(&why.message))?;
        if !rendered.contains(|c: char| c.is_ascii_alphanumeric()) {
            return Err(refused(&format!(
                "{rendered:?} has no letter or digit that a dataset may be called by"
            )));
        }
        Ok(name::leaf(&rendered))
    }

    /// The dataset's comment; by default namespace and name of the claim, or the volume's name. It is cut where it is
    /// longer than the appliance takes.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: as for the name.
    pub fn comment(&self, values: Values<'_>) -> Result<String, Failure> {
        let refused = |why: String| Failure::invalid(format!("parameter commentTemplate: {why}"));
        let Some(template) = &self.comment else {
            return Ok(match (values.pvc_namespace, values.pvc_name) {
                (Some(namespace), Some(claim)) => format!("{namespace}/{claim}"),
                _ => values.pv_name.to_owned(),
            });
        };
        let comment = template.render(values).map_err(|why| refused(why.message))?;
        Ok(comment.chars().take(MAX_COMMENT).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::volume::node_id::hash_of;

    fn naming(pairs: &[(&str, &str)]) -> Result<Naming, Failure> {
        Naming::read(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn values(claim: &str) -> Values<'_> {
        Values { pvc_name: Some(claim), pvc_namespace: Some("team"), pv_name: "pvc-1" }
    }

    #[test]
    fn names_and_comments_follow_the_class() {
        let leaf = |pairs: &[(&str, &str)]| naming(pairs).unwrap().leaf(values("data")).unwrap();
        assert_eq!(leaf(&[]), "pvc-1");
        assert_eq!(leaf(&[("namePrefix", "east-"), ("nameSuffix", ".db")]), "east-pvc-1.db");
        let template = ("nameTemplate", "{{ .PVCNamespace }}-{{ .PVCName }}");
        assert_eq!(leaf(&[template, ("namePrefix", "east-")]), "team-data", "the template wins");
        assert_eq!(
            leaf(&[("nameTemplate", "{{ .PVCNamespace }}/{{ .PVCName }}")]),
            format!("team-data-{}", hash_of("team/data")),
            "a name that had to be changed carries a hash"
        );
        let comment = |pairs: &[(&str, &str)]| naming(pairs).unwrap().comment(values("data")).unwrap();
        assert_eq!(comment(&[]), "team/data");
        assert_eq!(comment(&[("commentTemplate", "of {{ .PVName }}")]), "of pvc-1");
        let long = format!("{{{{ .PVName }}}}{}", "ü".repeat(MAX_COMMENT));
        assert_eq!(comment(&[("commentTemplate", &long)]).chars().count(), MAX_COMMENT, "it is cut");
    }

    #[test]
    fn a_template_that_fails_or_gives_nothing_is_refused() {
        assert!(naming(&[("nameTemplate", "{{ .X }}")]).unwrap_err().message.contains("character 1"));
        let nothing = naming(&[("nameTemplate", "- / -")]).unwrap().leaf(values("data")).unwrap_err();
        assert!(nothing.message.contains("nameTemplate"), "{nothing}");
        let bare = Values { pv_name: "pvc-1", ..Values::default() };
        let missing = naming(&[("nameTemplate", "{{ .PVCName }}")]).unwrap().leaf(bare).unwrap_err();
        assert!(missing.message.contains("--extra-create-metadata"), "{missing}");
    }

    /// tns-csi found volumes by the beginning of their names.
    #[test]
    fn t1_a_name_that_begins_another_is_another() {
        let by_claim = naming(&[("nameTemplate", "{{ .PVCName }}")]).unwrap();
        assert_ne!(by_claim.leaf(values("data")).unwrap(), by_claim.leaf(values("data-2")).unwrap());
    }

    proptest! {
        #[test]
        fn a_prefix_and_a_name_of_any_unicode_give_a_component(prefix in "\\PC{1,64}", name in "\\PC{1,128}") {
            let naming = naming(&[("namePrefix", &prefix)]).unwrap();
            let leaf = naming.leaf(Values { pv_name: &name, ..Values::default() }).unwrap();
            prop_assert!(leaf.len() <= name::MAX_LEAF && crate::volume::id::is_component(&leaf), "{:?}", leaf);
        }
    }
}
