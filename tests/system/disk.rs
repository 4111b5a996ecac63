//! Disks of virtual machines: what `qemu-img` wrote comes out of an image byte for byte, and nothing that it points at.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use tranship_tests::command::tranship_output;
use tranship_tests::{need_tools, run, tranship};

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Stored bytes of the uppermost layer of what was just converted.
fn layer_len(printed: &str) -> u64 {
    let told: serde_json::Value = serde_json::from_str(printed).expect("JSON");
    told["size"].as_u64().expect("a size")
}

#[test]
fn a_qcow2_disk_comes_back_through_an_image() {
    need_tools(&["qemu-img", "mkfs.ext4"]);
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let at = |name: &str| scratch.path().join(name);
    let (raw, qcow2, exported) = (at("disk.raw"), at("disk.qcow2"), at("exported"));
    let (base, upper) = (
        format!("oci:{}:v1", shown(&at("base"))),
        format!("oci:{}:v1", shown(&at("upper"))),
    );
    // A filesystem with files in a disk of which most was never written.
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/system");
    let options = ["-q", "-F", "-d", source, "-E", "root_owner=0:0"];
    run(
        "mkfs.ext4",
        &[&options[..], &[&shown(&raw), "256M"]].concat(),
    );
    let pack = ["convert", "-c", "-O", "qcow2"];
    run(
        "qemu-img",
        &[&pack[..], &[&shown(&raw), &shown(&qcow2)]].concat(),
    );

    let args = ["--output", "json", "convert"];
    let printed = tranship(&[&args[..], &[&shown(&qcow2), &base]].concat());
    assert!(layer_len(&printed) < 4 << 20, "{printed}");
    tranship(&["verify", &base]);
    tranship(&["export", &base, "--raw", &shown(&exported)]);
    run("cmp", &[&shown(&raw), &shown(&exported)]);
    let from_raw = format!("oci:{}:v1", shown(&at("raw")));
    let again = tranship(&[&args[..], &[&shown(&raw), &from_raw]].concat());
    assert_eq!(
        layer_len(&printed),
        layer_len(&again),
        "a disk is its sectors"
    );

    // One sector differs.
    let disk = OpenOptions::new().write(true).open(&raw);
    disk.expect("the disk")
        .write_all_at(b"changed", 100 << 20)
        .expect("a changed sector");
    let printed = tranship(&[&args[..], &[&shown(&raw), &upper, "--base", &base]].concat());
    assert!(layer_len(&printed) < 16 << 10, "{printed}");
    tranship(&["export", &upper, "--raw", &shown(&exported)]);
    run("cmp", &[&shown(&raw), &shown(&exported)]);
}

#[test]
fn a_qcow2_that_points_at_a_file_takes_nothing_of_it() {
    need_tools(&["qemu-img"]);
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let at = |name: &str| shown(&scratch.path().join(name));
    fs::write(at("secret"), vec![b's'; 1 << 20]).expect("a secret");
    let secret = at("secret");
    let backed = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &secret];
    run("qemu-img", &[&backed[..], &[&at("disk")]].concat());
    let to = format!("oci:{}:v1", at("layout"));
    let (code, _, said) = tranship_output(&["convert", &at("disk"), &to]);
    assert_eq!(code, 8, "{said}");
    assert!(said.contains("secret"), "the file is named: {said}");
}
