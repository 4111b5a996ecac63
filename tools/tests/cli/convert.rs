//! Conversion: the same digests each time, everything kept that should be, everything refused that must be.

use std::fs;

use serde_json::{Value, json};

use crate::fixture::{
    Entry, Layout, Stored, blob_path, document, manifest_of, noise, tar_of, tranship,
};

fn image(stored: Stored) -> Layout {
    let large = noise(600_000, 7);
    Layout::new()
        .layer(
            stored,
            &[
                ("etc", Entry::Dir),
                ("etc/a", Entry::File(b"one")),
                ("large", Entry::File(&large)),
            ],
        )
        .layer(stored, &[("etc/b", Entry::File(b"two"))])
        .finish()
}

fn converted(source: &Layout) -> (tempfile::TempDir, String) {
    let to = tempfile::tempdir().unwrap();
    let reference = format!("oci:{}:lazy", to.path().display());
    let printed = tranship(&["convert", &source.reference(), &reference]).ok();
    let (named, digest) = printed.trim().rsplit_once('@').unwrap();
    assert_eq!(named, reference);
    (to, digest.to_owned())
}

#[test]
fn the_same_image_gives_the_same_digest_however_it_is_stored() {
    let (first, digest) = converted(&image(Stored::Gzip));
    let (_second, again) = converted(&image(Stored::Gzip));
    assert_eq!(digest, again);
    let layers = |dir: &tempfile::TempDir| manifest_of(dir.path())["layers"].clone();
    let expected = layers(&first);
    for stored in [Stored::Plain, Stored::GzipMembers, Stored::Zstd] {
        let (other, _) = converted(&image(stored));
        assert_eq!(
            layers(&other),
            expected,
            "another compression, the same layers"
        );
    }
}

#[test]
fn any_number_of_threads_makes_the_same_layers_and_another_level_does_not() {
    let source = image(Stored::Gzip);
    let layers = |more: &[&str]| {
        let to = tempfile::tempdir().unwrap();
        let reference = format!("oci:{}:lazy", to.path().display());
        let args = ["convert", &source.reference(), &reference];
        tranship(&[&args, more].concat()).ok();
        manifest_of(to.path())["layers"].clone()
    };
    let alone = layers(&["--threads", "1"]);
    for threads in ["2", "5"] {
        assert_eq!(layers(&["--threads", threads]), alone);
    }
    assert_ne!(layers(&["--level", "19"]), alone);
}

#[test]
fn config_and_annotations_are_kept_and_layers_are_described() {
    let source = image(Stored::Gzip);
    let (to, digest) = converted(&source);
    let (before, after) = (manifest_of(source.path()), manifest_of(to.path()));
    let (old, new) = (
        document(source.path(), &before["config"]),
        document(to.path(), &after["config"]),
    );
    for key in ["x-unknown", "config", "history", "architecture", "os"] {
        assert_eq!(new[key], old[key], "{key}");
    }
    let digests: Vec<&Value> = after["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| &layer["digest"])
        .collect();
    assert_eq!(json!(digests), new["rootfs"]["diff_ids"]);
    assert_eq!(after["annotations"]["kept"], "yes");
    let source_digest = fs::read(blob_path(source.path(), &index_entry(&source))).unwrap();
    let source_digest = tranship_format::Digest::of(&source_digest).to_string();
    assert_eq!(
        after["annotations"]["containerd.io/snapshot/tranship/source-digest"],
        source_digest
    );
    for layer in after["layers"].as_array().unwrap() {
        assert_eq!(
            layer["annotations"]["containerd.io/snapshot/overlaybd/blob-digest"],
            layer["digest"]
        );
        assert!(layer["annotations"]["containerd.io/snapshot/tranship/chunks-digest"].is_string());
    }
    let shown = tranship(&[
        "inspect",
        "--output",
        "json",
        &format!("oci:{}", to.path().display()),
    ])
    .json();
    assert_eq!(shown["manifest"], digest);
    assert_eq!(shown["source"], source_digest);
    assert_eq!(shown["layers"].as_array().unwrap().len(), 2);
}

fn index_entry(layout: &Layout) -> Value {
    let index: Value =
        serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
    index["manifests"][0].clone()
}

#[test]
fn an_archive_can_be_written_and_read() {
    let source = image(Stored::Zstd);
    let to = tempfile::tempdir().unwrap();
    let reference = format!("oci-archive:{}:lazy", to.path().join("x.tar").display());
    tranship(&["convert", &source.reference(), &reference]).ok();
    assert_eq!(
        tranship(&["cat", &format!("{reference}:/etc/b")]).ok(),
        "two"
    );
}

#[test]
fn progress_is_told_as_events_on_stderr_only_when_asked_for() {
    let source = image(Stored::Gzip);
    let to = tempfile::tempdir().unwrap();
    let reference = format!("oci:{}:lazy", to.path().display());
    let quiet = tranship(&["convert", &source.reference(), &reference]);
    assert_eq!(quiet.stderr, "");
    let told = tranship(&[
        "convert",
        "--progress",
        "json",
        &source.reference(),
        &reference,
    ]);
    let events: Vec<Value> = told
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        events
            .iter()
            .any(|event| event["event"] == "end" && event["done"] == event["total"]),
        "{events:?}"
    );
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_refused() {
    let source = image(Stored::Gzip);
    let mut manifest = manifest_of(source.path());
    let mut config = document(source.path(), &manifest["config"]);
    config["rootfs"]["diff_ids"][1] = json!(tranship_format::Digest::of(b"other").to_string());
    let bytes = config.to_string().into_bytes();
    manifest["config"]["digest"] = json!(source.blob(&bytes).to_string());
    manifest["config"]["size"] = json!(bytes.len());
    source.name(&manifest);
    refused(&source, 3, "the config says");
}

#[test]
fn a_layer_with_a_flipped_byte_is_refused() {
    let source = image(Stored::Gzip);
    let path = blob_path(source.path(), &manifest_of(source.path())["layers"][0]);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let to = tempfile::tempdir().unwrap();
    let ran = tranship(&[
        "convert",
        &source.reference(),
        &format!("oci:{}", to.path().display()),
    ]);
    assert!(
        ran.code == 3 || ran.code == 1,
        "{} {}",
        ran.code,
        ran.stderr
    );
    assert!(
        !to.path().join("index.json").exists()
            || !fs::read_to_string(to.path().join("index.json"))
                .unwrap()
                .contains("sha256")
    );
}

#[test]
fn what_is_no_image_of_tar_layers_is_refused_by_name() {
    for (kind, word) in [
        ("application/vnd.in-toto+json", "no filesystem layer"),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "encrypted",
        ),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "distributed",
        ),
    ] {
        let source = image(Stored::Gzip);
        let mut manifest = manifest_of(source.path());
        manifest["layers"][1]["mediaType"] = json!(kind);
        source.name(&manifest);
        refused(&source, 8, word);
    }
    let source = image(Stored::Gzip);
    let mut manifest = manifest_of(source.path());
    manifest["config"]["mediaType"] = json!("application/vnd.example.chart");
    source.name(&manifest);
    refused(&source, 8, "no container image");
}

#[test]
fn a_converted_image_is_not_converted_again() {
    let (to, _) = converted(&image(Stored::Gzip));
    let again = tempfile::tempdir().unwrap();
    let ran = tranship(&[
        "convert",
        &format!("oci:{}", to.path().display()),
        &format!("oci:{}", again.path().display()),
    ]);
    assert_eq!(ran.code, 8);
    assert!(ran.stderr.contains("converted already"), "{}", ran.stderr);
}

#[test]
fn an_index_gives_this_platform_and_names_what_it_leaves() {
    let source = image(Stored::Gzip);
    let mut ours = index_entry(&source);
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    ours["platform"] = json!({"os": "linux", "architecture": architecture});
    let mut other = ours.clone();
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let text = source.blob(b"{}").to_string();
    other["digest"] = json!(text);
    let mut attestation = other.clone();
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [attestation, ours, other],
    });
    source.name(&index);
    let to = tempfile::tempdir().unwrap();
    let reference = format!("oci:{}", to.path().display());
    let ran = tranship(&["convert", &source.reference(), &reference]);
    assert!(ran.stderr.contains("attestation"), "{}", ran.stderr);
    ran.ok();
    let ran = tranship(&[
        "convert",
        "--platform",
        "linux/riscv64",
        &source.reference(),
        &reference,
    ]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
}

#[test]
fn a_tar_of_nothing_is_an_image_too() {
    let source = Layout::new().tar_layer(Stored::Gzip, &tar_of(&[])).finish();
    let (to, _) = converted(&source);
    let reference = format!("oci:{}", to.path().display());
    assert_eq!(tranship(&["ls", &reference]).ok(), "");
    tranship(&["verify", &reference]).ok();
}

fn refused(source: &Layout, code: i32, word: &str) {
    let to = tempfile::tempdir().unwrap();
    let ran = tranship(&[
        "convert",
        &source.reference(),
        &format!("oci:{}", to.path().display()),
    ]);
    assert_eq!(ran.code, code, "{}", ran.stderr);
    assert!(ran.stderr.contains(word), "{}", ran.stderr);
    assert!(ran.stderr.contains("  next: "), "{}", ran.stderr);
    assert!(ran.stdout.is_empty());
}
