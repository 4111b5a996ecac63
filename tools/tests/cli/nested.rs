//! Indexes that list indexes.

use serde_json::{Value, json};

use crate::fixture::{Entry, Layout, blob_path, document, manifest_of, tranship};
use crate::modes::{destination, image, named, put, same_blob};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const SOURCE: &str = "containerd.io/snapshot/tranship/source-digest";

fn index_of(entries: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
}

/// An image of another architecture: its entry in an index.
fn entry(layout: &Layout, architecture: &str) -> Value {
    let mut manifest = manifest_of(layout.path());
    let mut config = document(layout.path(), &manifest["config"]);
    let kind = manifest["config"]["mediaType"].clone();
    config["architecture"] = json!(architecture);
    manifest["config"] = put(layout, &config);
    manifest["config"]["mediaType"] = kind;
    let mut entry = put(layout, &manifest);
    entry["platform"] = json!({"os": "linux", "architecture": architecture});
    entry
}

/// An index with an image, an index that holds an image and an attestation, and an index of attestations alone.
fn nested() -> (Layout, Vec<Value>) {
    let layout = image(&[&[("etc", Entry::Dir), ("etc/b", Entry::File(b"two"))]]);
    let (outer, inner) = (entry(&layout, "riscv64"), entry(&layout, "s390x"));
    let mut about = manifest_of(layout.path());
    about["annotations"] = json!({"of": "nothing"});
    let mut attestation = put(&layout, &about);
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut below = put(&layout, &index_of(&[inner.clone(), attestation.clone()]));
    below["annotations"] = json!({"mine": "kept"});
    let untouched = put(&layout, &index_of(std::slice::from_ref(&attestation)));
    let entries = vec![outer, below, untouched, inner, attestation];
    layout.name(&index_of(&entries[..3]));
    (layout, entries)
}

#[test]
fn images_in_an_index_of_an_index_are_converted_where_they_stand() {
    let (source, entries) = nested();
    let (to, reference) = destination("all");
    tranship(&[
        "convert",
        "--all-platforms",
        &source.reference(),
        &reference,
    ])
    .ok();
    let made = named(to.path(), "all");
    let made = made["manifests"].as_array().unwrap();
    assert_eq!(made.len(), 3);
    assert_eq!(made[0]["annotations"][SOURCE], entries[0]["digest"]);
    assert_eq!(made[2], entries[2], "an index without images is as it was");
    same_blob(source.path(), to.path(), &entries[2]);
    assert_eq!(made[1]["annotations"], entries[1]["annotations"]);
    assert_eq!(made[1]["mediaType"], INDEX);
    let below = document(to.path(), &made[1]);
    let below = below["manifests"].as_array().unwrap();
    assert_eq!(below.len(), 2);
    assert_eq!(below[0]["annotations"][SOURCE], entries[3]["digest"]);
    assert_eq!(below[0]["platform"], entries[3]["platform"]);
    assert_eq!(below[1], entries[4]);
    same_blob(source.path(), to.path(), &entries[4]);
    let converted = document(to.path(), &below[0]);
    assert!(blob_path(to.path(), &converted["layers"][0]).is_file());
    let again = tranship(&[
        "convert",
        "--all-platforms",
        &source.reference(),
        &reference,
    ]);
    let digest = again.ok().trim().rsplit('@').next().unwrap().to_owned();
    assert!(reference_of(to.path(), "all") == digest, "the same again");
}

fn reference_of(layout: &std::path::Path, name: &str) -> String {
    let bytes = std::fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&bytes).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    let of_name =
        |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == name;
    let entry = entries.iter().find(of_name).unwrap();
    entry["digest"].as_str().unwrap().to_owned()
}

#[test]
fn beside_their_originals_converted_images_of_all_depths_stand_in_the_outermost_index() {
    let (source, entries) = nested();
    let (to, reference) = destination("all");
    let args = ["--all-platforms", "--mode", "index"];
    let [one, two, three] = args;
    tranship(&["convert", one, two, three, &source.reference(), &reference]).ok();
    let made = named(to.path(), "all");
    let made = made["manifests"].as_array().unwrap();
    assert_eq!(made[..3], entries[..3], "the originals are untouched");
    let sources: Vec<&Value> = made[3..]
        .iter()
        .map(|entry| &entry["annotations"][SOURCE])
        .collect();
    assert_eq!(sources, [&entries[0]["digest"], &entries[3]["digest"]]);
    assert_eq!(made[4]["platform"]["architecture"], "s390x");
}

#[test]
fn an_index_that_lies_too_deep_is_refused_with_what_to_do() {
    let layout = image(&[&[("a", Entry::File(b"x"))]]);
    let mut innermost = entry(&layout, "s390x");
    for _ in 0..4 {
        innermost = put(&layout, &index_of(&[innermost]));
    }
    let digest = innermost["digest"].as_str().unwrap();
    let top = document(layout.path(), &json!({"digest": digest}));
    layout.name(&top);
    let (_to, reference) = destination("all");
    let ran = tranship(&[
        "convert",
        "--all-platforms",
        &layout.reference(),
        &reference,
    ]);
    assert_eq!(ran.code, 8, "{}", ran.stderr);
    assert!(ran.stderr.contains("by its digest"), "{}", ran.stderr);
}
