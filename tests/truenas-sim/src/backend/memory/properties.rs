//! What ZFS would show for each property: defaults, inheritance and the computed ones.

use std::collections::BTreeMap;

use super::pool::{EMPTY, Node, State};
use crate::backend::{Dataset, DatasetKind, Property, Source};

/// Inheritable native properties with ZFS's default.
const INHERITABLE: &[(&str, &str)] = &[
    ("aclinherit", "restricted"),
    ("aclmode", "discard"),
    ("acltype", "off"),
    ("atime", "on"),
    ("canmount", "on"),
    ("checksum", "on"),
    ("compression", "on"),
    ("copies", "1"),
    ("dedup", "off"),
    ("devices", "on"),
    ("dnodesize", "legacy"),
    ("exec", "on"),
    ("logbias", "latency"),
    ("primarycache", "all"),
    ("readonly", "off"),
    ("recordsize", "131072"),
    ("redundant_metadata", "all"),
    ("relatime", "on"),
    ("secondarycache", "all"),
    ("setuid", "on"),
    ("snapdev", "hidden"),
    ("snapdir", "hidden"),
    ("special_small_blocks", "0"),
    ("sync", "standard"),
    ("xattr", "sa"),
];

/// Properties that only one of the kinds has.
const FILESYSTEM_ONLY: &[&str] = &[
    "aclinherit",
    "aclmode",
    "acltype",
    "atime",
    "canmount",
    "devices",
    "dnodesize",
    "exec",
    "recordsize",
    "relatime",
    "setuid",
    "snapdir",
    "special_small_blocks",
    "xattr",
];

/// What TrueNAS sets on the root of a pool it makes.
pub(super) fn pool_root() -> BTreeMap<String, String> {
    [
        ("acltype", "posix"),
        ("aclmode", "discard"),
        ("aclinherit", "passthrough"),
        ("atime", "off"),
        ("compression", "lz4"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

/// What ZFS says against a set of native properties; `None`: nothing.
pub(super) fn refusal(native: &BTreeMap<String, String>) -> Option<String> {
    let number = |property: &str| native.get(property).and_then(|raw| raw.parse::<u64>().ok());
    if native.contains_key("copies") && !number("copies").is_some_and(|copies| (1..=3).contains(&copies)) {
        return Some("'copies' must be one of '1 | 2 | 3'".into());
    }
    if number("special_small_blocks").is_some_and(|size| size != 0 && (size < 512 || !size.is_power_of_two()))
    {
        return Some("'special_small_blocks' must be zero or a power of 2 from 512B to 16M".into());
    }
    if let (Some(reserved), Some(size)) = (number("refreservation"), number("volsize"))
        && reserved > size
    {
        return Some("'refreservation' is greater than current volume size".into());
    }
    None
}

/// The names from the dataset up to the pool.
fn lineage(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |at| at.rsplit_once('/').map(|(parent, _)| parent))
}

impl State {
    /// The dataset as ZFS shows it.
    pub fn describe(&self, name: &str, node: &Node) -> Dataset {
        let mut properties = BTreeMap::new();
        let volume = node.kind == DatasetKind::Volume;
        for (property, default) in INHERITABLE {
            if volume && FILESYSTEM_ONLY.contains(property) {
                continue;
            }
            let value = lineage(name)
                .find_map(|at| Some((at, self.nodes.get(at)?.native.get(*property)?)))
                .map_or_else(
                    || Property::new(*default, Source::Default),
                    |(at, raw)| {
                        let source =
                            if at == name { Source::Local } else { Source::Inherited(at.to_owned()) };
                        Property::new(raw.clone(), source)
                    },
                );
            properties.insert((*property).to_owned(), value);
        }
        let mut own = |property: &str, default: &str| {
            let value = match node.native.get(property) {
                Some(raw) => Property::new(raw.clone(), Source::Local),
                None => Property::new(default, Source::Default),
            };
            properties.insert(property.to_owned(), value);
        };
        own("reservation", "0");
        own("refreservation", "0");
        if volume {
            own("volsize", "0");
            own("volblocksize", "16384");
        } else {
            own("quota", "0");
            own("refquota", "0");
            own("casesensitivity", "sensitive");
        }
        let used = self.used(name);
        let reserved = node.bytes("refreservation").saturating_sub(EMPTY);
        let mut fixed = |property: &str, raw: String| {
            properties.insert(property.to_owned(), Property::new(raw, Source::None));
        };
        fixed("type", if volume { "volume".into() } else { "filesystem".into() });
        fixed("used", used.to_string());
        fixed("available", self.available(name).to_string());
        fixed("referenced", EMPTY.to_string());
        fixed("logicalused", EMPTY.to_string());
        fixed("logicalreferenced", EMPTY.to_string());
        fixed("written", EMPTY.to_string());
        fixed("usedbydataset", EMPTY.to_string());
        fixed("usedbychildren", (used - node.charge()).to_string());
        fixed("usedbyrefreservation", reserved.to_string());
        fixed("usedbysnapshots", "0".into());
        fixed("compressratio", "1.00".into());
        fixed("refcompressratio", "1.00".into());
        fixed("creation", node.creation.to_string());
        fixed("createtxg", node.createtxg.to_string());
        fixed("guid", node.guid.to_string());
        fixed("origin", node.origin.clone().unwrap_or_default());
        let root = self.encryption_root(name);
        let of_root = |property: &str, otherwise: &str| {
            root.and_then(|(_, node)| node.native.get(property)).map_or(otherwise, String::as_str).to_owned()
        };
        fixed("encryption", of_root("encryption", "off"));
        fixed("encryptionroot", root.map(|(at, _)| at.to_owned()).unwrap_or_default());
        fixed("keyformat", of_root("keyformat", "none"));
        fixed("keystatus", root.map_or("none".to_owned(), |_| of_root("keystatus", "available")));
        fixed("pbkdf2iters", of_root("pbkdf2iters", "0"));
        if !volume {
            fixed("mounted", "yes".into());
            properties.insert("mountpoint".into(), Property::new(format!("/mnt/{name}"), Source::Default));
        }
        Dataset {
            name: name.to_owned(),
            kind: node.kind,
            properties,
            user_properties: self.inherited_user_properties(name, false),
        }
    }

    /// The encrypted dataset whose key this one is locked by: itself, an ancestor, or the source of a clone's data.
    pub fn encryption_root<'a>(&'a self, name: &'a str) -> Option<(&'a str, &'a Node)> {
        if let Some(origin) = self.nodes.get(name).and_then(|node| node.origin.as_deref()) {
            let source = origin.split_once('@').map_or(origin, |(dataset, _)| dataset);
            return self.encryption_root(source);
        }
        let (at, node) = lineage(name).find_map(|at| {
            let node = self.nodes.get(at)?;
            node.native.contains_key("encryption").then_some((at, node))
        })?;
        (node.native.get("encryption").map(String::as_str) != Some("off")).then_some((at, node))
    }

    /// User properties of a dataset, those of its ancestors included. `above`: as seen from a snapshot of it, for
    /// which the dataset's own ones are inherited too.
    pub fn inherited_user_properties(&self, name: &str, above: bool) -> BTreeMap<String, Property> {
        let mut found: BTreeMap<String, Property> = BTreeMap::new();
        for at in lineage(name) {
            for (key, value) in self.nodes.get(at).into_iter().flat_map(|n| &n.user) {
                found.entry(key.clone()).or_insert_with(|| {
                    let source =
                        if at == name && !above { Source::Local } else { Source::Inherited(at.to_owned()) };
                    Property::new(value.clone(), source)
                });
            }
        }
        found
    }
}
