//! Takes a .proto file's descriptor apart into named facts, so that two of them can be compared part by part.
//!
//! What counts is what a peer can notice: names, numbers, types, labels, oneofs, defaults of JSON names, streaming, and
//! every option with its extensions. The file's own path and the order of declarations do not.

use std::collections::BTreeMap;

use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
};

/// The facts of one file: the part's kind and full name, and what is true of it.
pub type Facts = BTreeMap<String, String>;

/// A pool of the specification's file beside the Google files it imports, which are taken from `imports`.
///
/// # Errors
/// The descriptor does not decode or resolve.
pub fn pool_of(file: &[u8], imports: &DescriptorPool) -> anyhow::Result<DescriptorPool> {
    let mut pool = DescriptorPool::new();
    for import in imports.files().filter(|import| import.name().starts_with("google/protobuf/")) {
        pool.decode_file_descriptor_proto(import.encode_to_vec().as_slice())?;
    }
    pool.decode_file_descriptor_proto(file)?;
    Ok(pool)
}

/// The facts of the file whose package is `package`; nothing when the pool has none.
#[must_use]
pub fn facts(pool: &DescriptorPool, package: &str) -> Facts {
    let mut facts = Facts::new();
    for file in pool.files().filter(|file| file.package_name() == package) {
        file_facts(&file, &mut facts);
    }
    facts
}

/// Every difference as one line that names the part; none when the files mean the same.
#[must_use]
pub fn differences(ours: &Facts, theirs: &Facts) -> Vec<String> {
    let mut lines = Vec::new();
    for (part, fact) in ours {
        match theirs.get(part) {
            None => lines.push(format!("{part}: only in ours ({fact})")),
            Some(other) if other != fact => lines.push(format!("{part}: ours is {fact}, theirs is {other}")),
            Some(_) => {}
        }
    }
    let missing = theirs.iter().filter(|(part, _)| !ours.contains_key(*part));
    lines.extend(missing.map(|(part, fact)| format!("{part}: only in theirs ({fact})")));
    lines
}

fn file_facts(file: &FileDescriptor, facts: &mut Facts) {
    let mut imports: Vec<String> = file.dependencies().map(|import| import.name().to_owned()).collect();
    imports.sort();
    let about = format!("syntax {:?}, imports {imports:?}, {}", file.syntax(), options(&file.options()));
    facts.insert("file".to_owned(), about);
    for extension in file.extensions() {
        let about = format!(
            "number {}, {} {}, extends {}",
            extension.number(),
            cardinality(extension.is_list(), false),
            kind(&extension.kind()),
            extension.containing_message().full_name()
        );
        facts.insert(format!("extension {}", extension.full_name()), about);
    }
    file.enums().for_each(|part| enum_facts(&part, facts));
    file.messages().for_each(|part| message_facts(&part, facts));
    for service in file.services() {
        facts.insert(format!("service {}", service.full_name()), options(&service.options()));
        for method in service.methods() {
            let stream = |yes| if yes { "stream " } else { "" };
            let about = format!(
                "{}{} returns {}{}, {}",
                stream(method.is_client_streaming()),
                method.input().full_name(),
                stream(method.is_server_streaming()),
                method.output().full_name(),
                options(&method.options())
            );
            facts.insert(format!("method {}", method.full_name()), about);
        }
    }
}

fn message_facts(message: &MessageDescriptor, facts: &mut Facts) {
    let mut reserved: Vec<String> = message.reserved_ranges().map(|range| format!("{range:?}")).collect();
    reserved.extend(message.reserved_names().map(str::to_owned));
    let about = format!(
        "map entry {}, reserved {reserved:?}, {}",
        message.is_map_entry(),
        options(&message.options())
    );
    facts.insert(format!("message {}", message.full_name()), about);
    message.fields().for_each(|field| field_facts(&field, facts));
    message.child_enums().for_each(|part| enum_facts(&part, facts));
    message.child_messages().for_each(|part| message_facts(&part, facts));
}

fn field_facts(field: &FieldDescriptor, facts: &mut Facts) {
    let oneof = field.containing_oneof();
    let about = format!(
        "number {}, {} {}, oneof {:?}, presence {}, packed {}, json {}, {}",
        field.number(),
        cardinality(field.is_list(), field.is_map()),
        kind(&field.kind()),
        oneof.as_ref().map(|oneof| oneof.name()),
        field.supports_presence(),
        field.is_packed(),
        field.json_name(),
        options(&field.options())
    );
    facts.insert(format!("field {}", field.full_name()), about);
}

fn enum_facts(part: &EnumDescriptor, facts: &mut Facts) {
    facts.insert(format!("enum {}", part.full_name()), options(&part.options()));
    for value in part.values() {
        // Values are scoped beside their enum, so the enum's name goes first to tell them apart.
        let name = format!("value {}.{}", part.full_name(), value.name());
        facts.insert(name, format!("number {}, {}", value.number(), options(&value.options())));
    }
}

fn cardinality(list: bool, map: bool) -> &'static str {
    match (list, map) {
        (_, true) => "map",
        (true, false) => "repeated",
        (false, false) => "one",
    }
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(part) => part.full_name().to_owned(),
        scalar => format!("{scalar:?}"),
    }
}

/// Every option that is set, in one order, extensions by full name.
fn options(options: &DynamicMessage) -> String {
    let plain = options.fields().map(|(field, value)| format!("{}={value}", field.name()));
    let extended = options.extensions().map(|(option, value)| format!("({})={value}", option.full_name()));
    let unknown = options.unknown_fields().map(|field| format!("unknown {}", field.number()));
    let mut all: Vec<String> = plain.chain(extended).chain(unknown).collect();
    all.sort();
    format!("options [{}]", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own file, changed in its encoded form, so that the comparison sees what a stranger's file would hold.
    fn changed(change: impl FnOnce(&mut Facts)) -> Vec<String> {
        let pool = DescriptorPool::decode(tns_csi_proto::FILE_DESCRIPTOR_SET).unwrap();
        let ours = facts(&pool, "csi.v1");
        let mut theirs = ours.clone();
        change(&mut theirs);
        differences(&ours, &theirs)
    }

    #[test]
    fn secrets_alpha_marks_numbers_and_streams_are_facts() {
        let pool = DescriptorPool::decode(tns_csi_proto::FILE_DESCRIPTOR_SET).unwrap();
        let facts = facts(&pool, "csi.v1");
        let has = |part: &str, fact: &str| {
            let about = facts.get(part).unwrap_or_else(|| panic!("{part} is no fact"));
            assert!(about.contains(fact), "{part}: {about}");
        };
        has("field csi.v1.NodeExpandVolumeRequest.secrets", "(csi.v1.csi_secret)=true");
        has("field csi.v1.NodeExpandVolumeRequest.secrets", "(csi.v1.alpha_field)=true");
        has("field csi.v1.NodeExpandVolumeRequest.secrets", "number 6, map");
        has("field csi.v1.VolumeCapability.mount", "oneof Some(\"access_type\")");
        has(
            "value csi.v1.VolumeCapability.AccessMode.Mode.SINGLE_NODE_SINGLE_WRITER",
            "(csi.v1.alpha_enum_value)=true",
        );
        has(
            "method csi.v1.SnapshotMetadata.GetMetadataDelta",
            "returns stream csi.v1.GetMetadataDeltaResponse",
        );
        has("extension csi.v1.csi_secret", "number 1059");
        has("file", "go_package");
    }

    #[test]
    fn a_missing_an_added_and_a_changed_part_are_each_named() {
        assert_eq!(changed(|_| ()), Vec::<String>::new());
        let missing = changed(|theirs| drop(theirs.remove("field csi.v1.Volume.volume_id")));
        assert!(
            matches!(&missing[..], [line] if line.starts_with("field csi.v1.Volume.volume_id: only in ours"))
        );
        let added = changed(|theirs| drop(theirs.insert("message csi.v1.New".to_owned(), String::new())));
        assert!(matches!(&added[..], [line] if line.starts_with("message csi.v1.New: only in theirs")));
        let other = changed(|theirs| {
            drop(theirs.insert("field csi.v1.Volume.volume_id".to_owned(), "number 9".to_owned()));
        });
        assert!(
            matches!(&other[..], [line] if line.contains("ours is number 2") && line.contains("theirs is number 9"))
        );
    }
}
