//! Compiles the two APIs with protox, so that no protoc is needed on the machine, and writes a `Debug` for every
//! message that holds secrets.
//!
//! What is secret comes from the descriptors: every field with the option `csi_secret` (extension 1059), and every
//! `mount_flags`, which CSI forbids to leak without marking it. A map called `volume_context` shows all but the
//! service account tokens that the orchestrator may put there.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

/// How a field is shown.
#[derive(PartialEq)]
enum Shown {
    /// As it is.
    Whole,
    /// Only that it is there; of a map the keys.
    Secret,
    /// A map of which only some keys are secret.
    Context,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=csi");
    println!("cargo:rerun-if-changed=helper");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(["csi/v1/csi.proto", "helper/v1/helper.proto"])?;
    let pool = compiler.descriptor_pool();

    let guarded: Vec<MessageDescriptor> = pool
        .all_messages()
        .filter(|m| !m.is_map_entry() && ours(m) && m.fields().any(|f| shown(&pool, &f) != Shown::Whole))
        .collect();
    fs::write(out.join("redacted.rs"), debug_impls(&pool, &guarded)?)?;
    fs::write(out.join("redacted_samples.rs"), samples(&pool, &guarded)?)?;

    tonic_prost_build::configure()
        .btree_map(".")
        .skip_debug(guarded.iter().map(|m| format!(".{}", m.full_name())))
        .compile_fds(compiler.file_descriptor_set())?;

    // Without comments: only names, numbers and options matter to a reader of the descriptors. Encoded from the
    // pool, which keeps the extension options that prost's own types drop.
    let mut bare = protox::Compiler::new(["."])?;
    bare.include_imports(true).include_source_info(false);
    bare.open_files(["csi/v1/csi.proto", "helper/v1/helper.proto"])?;
    fs::write(out.join("descriptors.bin"), bare.encode_file_descriptor_set())?;
    Ok(())
}

/// Whether the message belongs to one of the two APIs, not to the imported Google types.
fn ours(message: &MessageDescriptor) -> bool {
    matches!(message.package_name(), "csi.v1" | "tns_csi.helper.v1")
}

fn shown(pool: &DescriptorPool, field: &FieldDescriptor) -> Shown {
    let marked = pool
        .get_extension_by_name("csi.v1.csi_secret")
        .and_then(|option| field.options().get_extension(&option).as_bool())
        .unwrap_or(false);
    if marked || field.name() == "mount_flags" {
        Shown::Secret
    } else if field.is_map() && field.name() == "volume_context" {
        Shown::Context
    } else {
        Shown::Whole
    }
}

/// `impl Debug` for each message: like the derived one, with secret fields wrapped in `Secret`.
fn debug_impls(pool: &DescriptorPool, messages: &[MessageDescriptor]) -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    for message in messages {
        writeln!(code, "impl ::core::fmt::Debug for {} {{", rust_path(message))?;
        writeln!(code, "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{")?;
        writeln!(code, "        f.debug_struct({:?})", message.name())?;
        for field in message.fields() {
            let name = field.name();
            if field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic()) {
                // The enum that prost makes of a oneof derives its Debug and would show the value.
                return Err(
                    format!("{}: a oneof beside secret fields is not supported", field.full_name()).into()
                );
            }
            match shown(pool, &field) {
                Shown::Whole => writeln!(code, "            .field({name:?}, &self.{name})")?,
                Shown::Secret => writeln!(code, "            .field({name:?}, &Secret(&self.{name}))")?,
                Shown::Context => writeln!(code, "            .field({name:?}, &Context(&self.{name}))")?,
            }
        }
        writeln!(code, "            .finish()\n    }}\n}}")?;
    }
    Ok(code)
}

/// For the test: each message with `value` in every secret field, as its Debug shows it, with its full name.
fn samples(pool: &DescriptorPool, messages: &[MessageDescriptor]) -> Result<String, Box<dyn Error>> {
    let mut code = String::from("vec![\n");
    for message in messages {
        write!(code, "    ({:?}, vec![", message.full_name())?;
        for field in message.fields().filter(|f| shown(pool, f) != Shown::Whole) {
            write!(code, "{:?}, ", field.name())?;
        }
        writeln!(code, "], format!(\"{{:?}} {{0:#?}}\", {} {{", rust_path(message))?;
        for field in message.fields() {
            let value = match shown(pool, &field) {
                Shown::Whole => continue,
                Shown::Context => "tokens(value)",
                Shown::Secret if field.is_map() => "map(value)",
                Shown::Secret if field.is_list() => "list(value)",
                Shown::Secret if field.kind() == Kind::String => "value.to_owned()",
                Shown::Secret => return Err(format!("{}: no sample for its type", field.full_name()).into()),
            };
            writeln!(code, "        {}: {value},", field.name())?;
        }
        writeln!(code, "        ..Default::default()\n    }})),")?;
    }
    code.push_str("]\n");
    Ok(code)
}

/// The Rust path that prost gives the message; a wrong one does not compile.
fn rust_path(message: &MessageDescriptor) -> String {
    let mut path = format!("crate::{}", message.package_name().replace('.', "::").replace("tns_csi::", ""));
    let mut outer = Vec::new();
    let mut parent = message.parent_message();
    while let Some(enclosing) = parent {
        outer.push(snake(enclosing.name()));
        parent = enclosing.parent_message();
    }
    for module in outer.iter().rev() {
        path.push_str("::");
        path.push_str(module);
    }
    format!("{path}::{}", message.name())
}

/// `VolumeCapability` to `volume_capability`; enough for names without acronyms.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for (i, c) in name.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
