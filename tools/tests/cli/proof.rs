//! `verify --write-proof` proves layers that came without a chunk table, and only when all is right.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tranship_format::{ChunkTable, Digest};

use crate::fixture::{Entry, Layout, Stored, blob_path, document, manifest_of, noise, tranship};

/// A converted image whose manifest has lost our annotations, as another converter would have written it.
fn stock_image(dir: &Path) -> (String, Value) {
    let large = noise(700_000, 3);
    let source = Layout::new()
        .layer(Stored::Plain, &[("large", Entry::File(&large))])
        .finish();
    let reference = format!("oci:{}", dir.display());
    tranship(&["convert", &source.reference(), &reference]).ok();
    let mut manifest = manifest_of(dir);
    let annotations = manifest["layers"][0]["annotations"]
        .as_object_mut()
        .unwrap();
    annotations.retain(|key, _| !key.contains("/tranship/"));
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    fs::write(dir.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest.to_string(), "size": bytes.len(),
        "annotations": {"org.opencontainers.image.ref.name": "v1"},
    }]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    (format!("{reference}:v1"), manifest)
}

#[test]
fn a_right_layer_is_proven_beside_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let (reference, manifest) = stock_image(dir.path());
    let blob = fs::read(blob_path(dir.path(), &manifest["layers"][0])).unwrap();
    let args = ["verify", "--write-proof", "--output", "json", &reference];
    let report = tranship(&args).json();
    let artifact = document(dir.path(), &serde_json::json!({"digest": report["proof"]}));
    assert_eq!(artifact["subject"]["digest"], report["manifest"]);
    assert_eq!(
        artifact["artifactType"],
        "application/vnd.tranship.chunks.v1"
    );
    let [layer] = artifact["layers"].as_array().unwrap().as_slice() else {
        panic!("one proof: {artifact}")
    };
    let annotations = &layer["annotations"];
    let about = &annotations["io.tranship.chunks.blob-digest"];
    assert_eq!(*about, manifest["layers"][0]["digest"]);
    let table = fs::read(blob_path(dir.path(), layer)).unwrap();
    let proof = ChunkTable::decode_proof(&table, blob.len() as u64).unwrap();
    assert_eq!(proof, ChunkTable::proof(blob.as_slice()).unwrap());
    assert_eq!(tranship(&args).json()["proof"], report["proof"], "again");
}

#[test]
fn a_wrong_layer_is_not_proven() {
    let dir = tempfile::tempdir().unwrap();
    let (reference, manifest) = stock_image(dir.path());
    let path = blob_path(dir.path(), &manifest["layers"][0]);
    let mut blob = fs::read(&path).unwrap();
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    fs::write(&path, blob).unwrap();
    let before = fs::read(dir.path().join("index.json")).unwrap();
    let ran = tranship(&["verify", "--write-proof", &reference]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert_eq!(fs::read(dir.path().join("index.json")).unwrap(), before);
}

#[test]
fn a_proof_beside_the_image_is_compared_with_its_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (reference, manifest) = stock_image(dir.path());
    let args = ["verify", "--output", "json", &reference];
    assert_eq!(tranship(&args).json()["proofs_checked"], 0);
    let written = tranship(&["verify", "--write-proof", "--output", "json", &reference]).json();
    assert_eq!(tranship(&args).json()["proofs_checked"], 1);

    // The same manifest of proofs, and in it the proof of other bytes, as a pusher could leave it.
    let proof = document(dir.path(), &serde_json::json!({"digest": written["proof"]}));
    let len = manifest["layers"][0]["size"].as_u64().unwrap();
    let lie = ChunkTable::proof(vec![0; usize::try_from(len).unwrap()].as_slice()).unwrap();
    let mut lying = proof.clone();
    let (digest, size) = put(dir.path(), &lie.encode());
    lying["layers"][0]["digest"] = digest.clone();
    lying["layers"][0]["size"] = size;
    let (lying, size) = put(dir.path(), lying.to_string().as_bytes());
    let path = dir.path().join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let listed = index["manifests"].as_array_mut().unwrap();
    let entry = listed
        .iter_mut()
        .find(|entry| entry["digest"] == written["proof"]);
    let entry = entry.unwrap();
    (entry["digest"], entry["size"]) = (lying.clone(), size);
    fs::write(&path, index.to_string()).unwrap();
    let ran = tranship(&["verify", &reference]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    for named in [&digest, &lying, &manifest["layers"][0]["digest"]] {
        assert!(
            ran.stderr.contains(named.as_str().unwrap()),
            "{}",
            ran.stderr
        );
    }
}

/// Stores a blob; gives its digest and length.
fn put(dir: &Path, bytes: &[u8]) -> (Value, Value) {
    let digest = Digest::of(bytes);
    fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    (digest.to_string().into(), bytes.len().into())
}
