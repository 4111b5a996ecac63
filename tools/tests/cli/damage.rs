//! `verify` finds one flipped byte wherever it is, and says where.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::fixture::{Entry, Layout, Stored, blob_path, manifest_of, noise, tranship};

struct Image {
    dir: tempfile::TempDir,
    reference: String,
}

fn image() -> Image {
    let large = noise(700_000, 11);
    let source = Layout::new()
        .layer(
            Stored::Gzip,
            &[("a", Entry::File(b"a")), ("large", Entry::File(&large))],
        )
        .layer(Stored::Gzip, &[("b", Entry::File(b"b"))])
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let reference = format!("oci:{}", dir.path().display());
    tranship(&["convert", &source.reference(), &reference]).ok();
    Image { dir, reference }
}

impl Image {
    fn layer(&self, number: usize) -> (Value, PathBuf) {
        let descriptor = manifest_of(self.dir.path())["layers"][number].clone();
        let path = blob_path(self.dir.path(), &descriptor);
        (descriptor, path)
    }
}

#[test]
fn a_right_image_is_said_to_be_right() {
    let image = image();
    let report = tranship(&["verify", "--output", "json", &image.reference]).json();
    assert_eq!(report["ok"], true);
    assert_eq!(report["problems"], serde_json::json!([]));
    assert_eq!(report["files"], 4);
}

#[test]
fn one_flipped_byte_anywhere_is_found_and_placed() {
    let image = image();
    for layer in 0..2 {
        let (descriptor, path) = image.layer(layer);
        let good = fs::read(&path).unwrap();
        let number = |key: &str| -> usize {
            let value =
                &descriptor["annotations"][format!("containerd.io/snapshot/tranship/{key}")];
            value.as_str().unwrap().parse().unwrap()
        };
        let (table, table_len) = (number("chunks-offset"), number("chunks-size"));
        // The tar's header, the layer's header, data, index and trailers, the table's tar header and the table, the
        // padding behind it, the very last byte.
        let mut places = vec![
            0,
            300,
            511,
            512,
            520,
            4096,
            table - 513,
            table - 1,
            table,
            table + table_len / 2,
        ];
        places.extend([
            table + table_len - 1,
            table + table_len,
            good.len() - 1025,
            good.len() - 1,
        ]);
        places.extend((1..12).map(|part| good.len() / 12 * part));
        for place in places.into_iter().filter(|place| *place < good.len()) {
            let mut bad = good.clone();
            bad[place] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            let ran = tranship(&["verify", "--output", "json", &image.reference]);
            assert_eq!(ran.code, 3, "byte {place} of layer {layer}: {}", ran.stderr);
            let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
            assert_eq!(report["ok"], false);
            let place = place as u64;
            let is_told = report["problems"]
                .as_array()
                .unwrap()
                .iter()
                .any(|problem| {
                    problem["blob"] == descriptor["digest"]
                        && problem["start"].as_u64().unwrap_or(u64::MAX) <= place
                        && place < problem["end"].as_u64().unwrap_or(0)
                        && (problem["chunk"].is_u64() || place >= table as u64)
                });
            assert!(
                is_told,
                "byte {place} of layer {layer} is placed in {report}"
            );
            assert!(
                ran.stderr.contains(descriptor["digest"].as_str().unwrap()),
                "{}",
                ran.stderr
            );
        }
        fs::write(&path, &good).unwrap();
    }
    tranship(&["verify", &image.reference]).ok();
}

#[test]
fn a_flipped_byte_never_reaches_a_reader() {
    let image = image();
    let (_, path) = image.layer(0);
    let good = fs::read(&path).unwrap();
    let whole = tranship(&["cat", &image.reference, "/large"]).stdout;
    for part in 0..16 {
        let mut bad = good.clone();
        bad[good.len() / 16 * part + 77] ^= 1;
        fs::write(&path, &bad).unwrap();
        let ran = tranship(&["cat", &image.reference, "/large"]);
        assert!(
            ran.code == 0 && ran.stdout == whole || ran.code == 3,
            "{}: {}",
            ran.code,
            ran.stderr
        );
        assert!(
            whole.starts_with(&ran.stdout),
            "what was written before the error is right"
        );
    }
}

#[test]
fn a_cut_blob_a_missing_blob_and_a_wrong_config_are_found() {
    let image = image();
    let (descriptor, path) = image.layer(1);
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() - 512]).unwrap();
    let ran = tranship(&["verify", &image.reference]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    fs::remove_file(&path).unwrap();
    let ran = tranship(&["verify", &image.reference]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(
        ran.stderr.contains(descriptor["digest"].as_str().unwrap()),
        "{}",
        ran.stderr
    );
    fs::write(&path, &good).unwrap();

    let config = blob_path(image.dir.path(), &manifest_of(image.dir.path())["config"]);
    let mut bytes = fs::read(&config).unwrap();
    let last = bytes.len() - 1;
    bytes[last] = b' ';
    fs::write(&config, bytes).unwrap();
    assert_eq!(tranship(&["verify", &image.reference]).code, 3);
}
