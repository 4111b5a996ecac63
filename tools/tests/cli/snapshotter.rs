//! What overlaybd's snapshotter looks at before it runs an image, held against what `convert` writes: it must find
//! everything in its place without knowing that we exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tranship_format::Layer;

use crate::fixture::{Entry, Layout, Stored, blob_path, document, manifest_of, noise, tranship};

/// Keys that containerd hands on to snapshotters begin so.
const HANDED_ON: &str = "containerd.io/snapshot/";
/// What containerd allows of a label, key and value together.
const MOST_LABEL_LEN: usize = 4096;

fn convert(into: &Path) -> (Value, Value) {
    let (large, other) = (noise(700_000, 5), noise(90_000, 6));
    let source = Layout::new()
        .layer(Stored::Gzip, &[("etc", Entry::Dir), ("large", Entry::File(&large))])
        // Builders make such layers: they change nothing.
        .layer(Stored::Gzip, &[])
        .layer(Stored::Zstd, &[("etc/other", Entry::File(&other)), (".wh.large", Entry::File(b""))])
        .finish();
    let before = manifest_of(source.path());
    let reference = format!("oci:{}:lazy", into.display());
    tranship(&["convert", &source.reference(), &reference]).ok();
    (before, manifest_of(into))
}

#[test]
fn descriptors_and_config_are_those_that_its_own_converter_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = convert(dir.path());
    assert_eq!(after["mediaType"], before["mediaType"]);
    assert_eq!(after["config"]["mediaType"], before["config"]["mediaType"]);
    let config = document(dir.path(), &after["config"]);
    assert_eq!(
        config["config"]["Cmd"][0], "/bin/sh",
        "what is run is what was run"
    );
    let layers = after["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3, "a snapshot for each layer");
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!(diff_ids.len(), layers.len());
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar");
        assert_eq!(
            layer["digest"], *diff_id,
            "the blob is its own uncompressed tar"
        );
        let annotation = |key: &str| &layer["annotations"][format!("{HANDED_ON}overlaybd/{key}")];
        assert_eq!(*annotation("blob-digest"), layer["digest"]);
        assert_eq!(*annotation("blob-size"), layer["size"].to_string().as_str());
        assert_eq!(*annotation("blob-fs-type"), "erofs");
        assert_eq!(*annotation("version"), "0.1.0");
        for (key, value) in layer["annotations"].as_object().unwrap() {
            assert!(key.starts_with(HANDED_ON), "{key} would be lost on the way");
            assert!(
                key.len() + value.as_str().unwrap().len() <= MOST_LABEL_LEN,
                "{key}"
            );
        }
    }
}

#[test]
fn blobs_are_within_what_its_reader_can_do() {
    let dir = tempfile::tempdir().unwrap();
    let (_, manifest) = convert(dir.path());
    let layers = manifest["layers"].as_array().unwrap();
    let mut names = BTreeSet::new();
    for (number, descriptor) in layers.iter().enumerate() {
        let blob = fs::read(blob_path(dir.path(), descriptor)).unwrap();
        assert_eq!(blob.len() as u64, descriptor["size"].as_u64().unwrap());
        // The envelope, as its tar reader walks it.
        assert!(
            blob.starts_with(b"overlaybd.pax\0") && blob[1024..].starts_with(b"overlaybd.commit\0")
        );
        assert_eq!(blob.len() % 512, 0);
        assert!(blob.ends_with(&[0; 1024]));
        for entry in tar::Archive::new(blob.as_slice()).entries().unwrap() {
            names.insert(entry.unwrap().path().unwrap().display().to_string());
        }
        let layer = Layer::open(blob).unwrap();
        let blocks = layer.blocks().unwrap();
        assert!(
            (4 << 10..=32 << 10).contains(&blocks.block_len()),
            "64 KiB blocks break it"
        );
        for block in 0..blocks.count() {
            assert!(
                blocks.stored(block..block + 1).len() <= 64 << 10,
                "its buffer"
            );
        }
        // It merges with 32-bit sectors, and takes the size of the device from the topmost layer that says one.
        let end = layer
            .index()
            .mappings()
            .last()
            .map_or(0, |last| last.segment.end().0);
        assert!(end < 1 << 32);
        assert!(number > 0 || layer.virtual_size() > 0);
        assert!(layer.virtual_size() == 0 || layer.virtual_size() >= end * 512);
        assert_eq!(layer.virtual_size() % 512, 0);
    }
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        ["overlaybd.commit", "tranship.chunks"],
        "an archive that any tar reads"
    );
}
