//! `tranship convert DISK`: what comes out of the image is the disk, and an upper layer is what differs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::{noise, tranship};

const DISK_LEN: u64 = 40 << 20;

/// A disk with data at its edges and in its middle, a lone sector, zeros that are written and holes.
fn make(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(DISK_LEN).unwrap();
    file.write_all_at(&noise(300_000, 1), 0).unwrap();
    file.write_all_at(&noise(512, 2), 7 * 512 + (9 << 20))
        .unwrap();
    file.write_all_at(&vec![0; 2 << 20], 12 << 20).unwrap();
    file.write_all_at(&noise(3 << 20, 3), (20 << 20) - 1024)
        .unwrap();
    file.write_all_at(&noise(512, 4), DISK_LEN - 512).unwrap();
}

fn convert(disk: &Path, to: &Path, more: &[&str]) -> Value {
    let to = format!("oci:{}:v1", to.display());
    let args = ["--output", "json", "convert", disk.to_str().unwrap(), &to];
    tranship(&[&args, more].concat()).json()
}

fn export(layout: &Path, scratch: &TempDir) -> PathBuf {
    let raw = scratch.path().join("exported");
    let reference = format!("oci:{}:v1", layout.display());
    tranship(&["export", &reference, "--raw", raw.to_str().unwrap()]).ok();
    raw
}

fn same(one: &Path, other: &Path) -> bool {
    fs::read(one).unwrap() == fs::read(other).unwrap()
}

#[test]
fn a_disk_comes_back_as_it_was_and_its_zeros_are_free() {
    let scratch = tempfile::tempdir().unwrap();
    let (disk, layout) = (scratch.path().join("disk"), scratch.path().join("layout"));
    make(&disk);
    let told = convert(&disk, &layout, &[]);
    assert!(same(&disk, &export(&layout, &scratch)));
    let size = told["size"].as_u64().unwrap();
    assert!((3_400_000..3_600_000).contains(&size), "{size}");
    let inspected = tranship(&[
        "--output",
        "json",
        "inspect",
        &format!("oci:{}:v1", layout.display()),
    ]);
    assert!(inspected.ok().contains("\"raw\""));
    assert!(
        fs::read_dir(scratch.path()).unwrap().count() == 3,
        "something was left behind"
    );
}

#[test]
fn a_disk_without_holes_is_the_same_layer() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = scratch.path().join("disk");
    make(&disk);
    let full = scratch.path().join("full");
    fs::write(&full, fs::read(&disk).unwrap()).unwrap();
    let one = convert(&disk, &scratch.path().join("one"), &["--threads", "1"]);
    let other = convert(&full, &scratch.path().join("other"), &["--threads", "5"]);
    assert_eq!(one["layers"], other["layers"]);
}

#[test]
fn over_a_base_only_sectors_that_differ_are_stored() {
    let scratch = tempfile::tempdir().unwrap();
    let (disk, base) = (scratch.path().join("disk"), scratch.path().join("base"));
    make(&disk);
    let below = convert(&disk, &base, &[]);
    let file = File::options().write(true).open(&disk).unwrap();
    // A byte, a sector that turns to zeros, data in a hole and behind the old end.
    file.write_all_at(b"!", (20 << 20) + 77).unwrap();
    file.write_all_at(&[0; 512], 1024).unwrap();
    file.write_all_at(&noise(512, 5), 30 << 20).unwrap();
    file.write_all_at(&noise(100, 6), DISK_LEN).unwrap();
    let upper = scratch.path().join("upper");
    let base = format!("oci:{}:v1", base.display());
    let told = convert(&disk, &upper, &["--base", &base]);
    let size = told["size"].as_u64().unwrap();
    assert!(size < 16 << 10, "{size}");
    assert_eq!(told["layers"][0], below["layers"][0]);
    assert_eq!(told["layers"].as_array().unwrap().len(), 2);
    file.set_len(DISK_LEN + 512).unwrap();
    assert!(same(&disk, &export(&upper, &scratch)));
}

#[test]
fn a_base_is_for_disks_alone() {
    let ran = tranship(&[
        "convert",
        "oci:/nowhere:v1",
        "oci:/nowhere:v2",
        "--base",
        "oci:/nowhere:v3",
    ]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("--base"), "{}", ran.stderr);
}

#[test]
fn a_qcow2_that_is_none_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = scratch.path().join("disk.qcow2");
    fs::write(&disk, b"QFI\xfb and nothing else").unwrap();
    let to = format!("oci:{}:v1", scratch.path().join("layout").display());
    let ran = tranship(&["convert", disk.to_str().unwrap(), &to]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("qcow2"), "{}", ran.stderr);
}
