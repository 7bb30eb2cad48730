//! Our `csi.proto` means the same on the wire as the specification's, message by message and option by option.

use conformance::{descriptor, golang, must_run};
use prost_reflect::DescriptorPool;

#[test]
fn our_csi_proto_is_the_specifications() {
    let theirs = match golang::spec_descriptor() {
        Ok(theirs) => theirs,
        Err(error) if must_run() => panic!("the specification's descriptor is needed: {error:#}"),
        Err(error) => {
            eprintln!("NOT RUN: our csi.proto was not compared with the specification's: {error:#}");
            return;
        }
    };
    let ours = DescriptorPool::decode(tns_csi_proto::FILE_DESCRIPTOR_SET).unwrap();
    let theirs = descriptor::pool_of(&theirs, &ours).unwrap();
    let (ours, theirs) = (descriptor::facts(&ours, "csi.v1"), descriptor::facts(&theirs, "csi.v1"));
    assert!(theirs.len() > 400, "only {} parts in the specification's descriptor", theirs.len());
    let differences = descriptor::differences(&ours, &theirs);
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}
