//! How a converted image stands beside its original, and what is taken over from conversions before.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use tranship_format::Digest;

use crate::fixture::{Entry, Layout, Stored, blob_path, document, manifest_of, noise, tranship};

const SOURCE: &str = "containerd.io/snapshot/tranship/source-digest";

pub(crate) fn image(layers: &[&[(&str, Entry<'_>)]]) -> Layout {
    let all = layers.iter();
    all.fold(Layout::new(), |layout, entries| {
        layout.layer(Stored::Gzip, entries)
    })
    .finish()
}

fn simple() -> Layout {
    let large = noise(300_000, 7);
    image(&[
        &[
            ("etc", Entry::Dir),
            ("etc/a", Entry::File(b"one")),
            ("large", Entry::File(&large)),
        ],
        &[("etc/b", Entry::File(b"two"))],
    ])
}

fn here() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

/// Puts a document into a layout; gives its descriptor.
pub(crate) fn put(layout: &Layout, document: &Value) -> Value {
    let bytes = document.to_string().into_bytes();
    json!({"mediaType": document["mediaType"], "digest": layout.blob(&bytes).to_string(), "size": bytes.len()})
}

/// A layout whose one image is an index: this platform's image, another Linux, an attestation, Windows.
fn index() -> (Layout, Vec<Value>) {
    let layout = simple();
    let ours = manifest_of(layout.path());
    let for_platform = |os: &str, architecture: &str| {
        let mut config = document(layout.path(), &ours["config"]);
        config["architecture"] = json!(architecture);
        config["os"] = json!(os);
        config["variant"] = json!("");
        let mut manifest = ours.clone();
        manifest["config"] = put(&layout, &config);
        manifest["config"]["mediaType"] = ours["config"]["mediaType"].clone();
        let mut entry = put(&layout, &manifest);
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    };
    let statement = layout.blob(b"{\"statement\": 1}");
    let mut about = ours.clone();
    about["layers"] = json!([{"mediaType": "application/vnd.in-toto+json", "digest": statement.to_string(), "size": 16}]);
    let mut attestation = put(&layout, &about);
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut mine = for_platform("linux", here());
    mine["annotations"] = json!({"mine": "kept"});
    let entries = vec![
        mine,
        for_platform("linux", "s390x"),
        attestation,
        for_platform("windows", here()),
    ];
    layout.name(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
        "annotations": {"of-the-index": "kept"},
        "x-unknown": 1,
    }));
    (layout, entries)
}

/// An empty layout's folder and the reference `TAG` in it.
pub(crate) fn destination(tag: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let reference = format!("oci:{}:{tag}", dir.path().display());
    (dir, reference)
}

/// What a name in a layout means.
pub(crate) fn named(layout: &Path, name: &str) -> Value {
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let entries = index["manifests"].as_array().unwrap().clone();
    let of_name =
        |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == name;
    document(layout, entries.iter().find(of_name).unwrap())
}

pub(crate) fn same_blob(one: &Path, other: &Path, descriptor: &Value) {
    let [one, other] = [one, other].map(|layout| fs::read(blob_path(layout, descriptor)).unwrap());
    assert!(one == other, "{descriptor}");
}

#[test]
fn all_platforms_are_converted_and_all_else_passes_through() {
    let (source, entries) = index();
    let (to, reference) = destination("all");
    let ran = tranship(&[
        "convert",
        "--all-platforms",
        &source.reference(),
        &reference,
    ]);
    assert!(ran.stderr.contains("an attestation"), "{}", ran.stderr);
    assert!(ran.stderr.contains("windows/"), "{}", ran.stderr);
    ran.ok();
    let made = named(to.path(), "all");
    assert_eq!(made["annotations"]["of-the-index"], "kept");
    assert_eq!(made["x-unknown"], 1);
    let made = made["manifests"].as_array().unwrap();
    assert_eq!(made.len(), 4);
    for (made, original) in made[..2].iter().zip(&entries) {
        assert_eq!(made["platform"], original["platform"]);
        assert_eq!(made["annotations"][SOURCE], original["digest"]);
        let manifest = document(to.path(), made);
        assert_eq!(manifest["annotations"][SOURCE], original["digest"]);
        let config = document(to.path(), &manifest["config"]);
        assert_eq!(config["architecture"], original["platform"]["architecture"]);
    }
    assert_eq!(made[0]["annotations"]["mine"], "kept");
    assert_eq!(made[2..], entries[2..]);
    for entry in &entries[2..] {
        same_blob(source.path(), to.path(), entry);
        for layer in document(source.path(), entry)["layers"].as_array().unwrap() {
            same_blob(source.path(), to.path(), layer);
        }
    }
    for platform in [here(), "s390x"] {
        let platform = format!("linux/{platform}");
        let args = ["cat", "--platform", &platform, &reference, "/etc/b"];
        assert_eq!(tranship(&args).ok(), "two");
    }
    let single = image(&[&[("a", Entry::File(b"x"))]]);
    let (_to, reference) = destination("one");
    let all = tranship(&[
        "convert",
        "--all-platforms",
        &single.reference(),
        &reference,
    ])
    .ok();
    let one = tranship(&["convert", &single.reference(), &reference]).ok();
    assert_eq!(all, one, "without an index it is the one image");
}

#[test]
fn an_index_holds_the_originals_untouched_and_the_converted_image_behind_them() {
    let (source, entries) = index();
    let (to, reference) = destination("both");
    let convert = |from: &str, to: &str, more: &[&str]| {
        tranship(&[&["convert", "--output", "json", from, to], more].concat()).json()
    };
    let made = convert(&source.reference(), &reference, &["--mode", "index"]);
    let index = named(to.path(), "both");
    let listed = index["manifests"].as_array().unwrap();
    assert_eq!(listed[..4], entries[..]);
    assert_eq!(index["annotations"]["of-the-index"], "kept");
    assert_eq!(listed.len(), 5);
    assert_eq!(listed[4]["digest"], made["images"][0]["manifest"]);
    assert_eq!(
        listed[4]["platform"],
        json!({"os": "linux", "architecture": here(), "os.features": ["tranship.v1"]})
    );
    assert_eq!(listed[4]["annotations"][SOURCE], entries[0]["digest"]);
    for entry in &entries {
        same_blob(source.path(), to.path(), entry);
        for layer in document(source.path(), entry)["layers"].as_array().unwrap() {
            same_blob(source.path(), to.path(), layer);
        }
    }
    assert_eq!(tranship(&["cat", &reference, "/etc/b"]).ok(), "two");
    tranship(&["verify", &reference]).ok();

    let (_alone, alone) = destination("alone");
    let tag = convert(&source.reference(), &alone, &[]);
    assert_eq!(tag["manifest"], made["images"][0]["manifest"]);
    // Again, from what came of it, and with all platforms: what was made before is replaced and not converted.
    let (_again, again) = destination("again");
    let second = convert(&reference, &again, &["--mode", "index"]);
    assert_eq!(second["manifest"], made["manifest"]);
    let all = convert(&reference, &again, &["--mode", "index", "--all-platforms"]);
    assert_eq!(all["images"].as_array().unwrap().len(), 2);
    let flat = convert(&reference, &again, &["--all-platforms"]);
    let (_direct, direct) = destination("direct");
    let direct = convert(&source.reference(), &direct, &["--all-platforms"]);
    assert_eq!(flat["manifest"], direct["manifest"]);
}

#[test]
fn an_image_without_an_index_gets_one() {
    let source = simple();
    let (to, reference) = destination("both");
    tranship(&[
        "convert",
        "--mode",
        "index",
        &source.reference(),
        &reference,
    ])
    .ok();
    let index = named(to.path(), "both");
    let listed = index["manifests"].as_array().unwrap();
    let platforms: Vec<&Value> = listed.iter().map(|entry| &entry["platform"]).collect();
    assert_eq!(
        platforms[0],
        &json!({"os": "linux", "architecture": here()})
    );
    assert_eq!(platforms[1]["os.features"], json!(["tranship.v1"]));
    same_blob(source.path(), to.path(), &listed[0]);
    assert_eq!(tranship(&["cat", &reference, "/etc/a"]).ok(), "one");
}

#[test]
fn an_attached_image_refers_to_its_original_and_is_found_from_it() {
    let source = simple();
    let before = fs::read(source.path().join("index.json")).unwrap();
    let before: Value = serde_json::from_slice(&before).unwrap();
    let original = before["manifests"][0].clone();
    // Into the original's own place, under no name.
    let printed = tranship(&[
        "convert",
        "--mode",
        "attach",
        &source.reference(),
        &source.reference(),
    ]);
    let printed = printed.ok();
    let (place, digest) = printed.trim().rsplit_once('@').unwrap();
    assert_eq!(place, format!("oci:{}", source.path().display()));
    let manifest = document(source.path(), &json!({"digest": digest}));
    assert_eq!(manifest["subject"]["digest"], original["digest"]);
    assert_eq!(manifest["subject"]["size"], original["size"]);
    assert_eq!(
        manifest["artifactType"],
        "application/vnd.tranship.image.v1+json"
    );
    assert_eq!(manifest_of(source.path())["annotations"]["kept"], "yes");
    for reference in [
        source.reference(),
        place.to_owned(),
        printed.trim().to_owned(),
    ] {
        assert_eq!(
            tranship(&["cat", &reference, "/etc/b"]).ok(),
            "two",
            "{reference}"
        );
    }
    let shown = tranship(&["inspect", "--output", "json", &source.reference()]).json();
    assert_eq!(shown["manifest"], digest);
    // Into another place: the original goes along.
    let (to, reference) = destination("lazy");
    let printed = tranship(&[
        "convert",
        "--mode",
        "attach",
        &source.reference(),
        &reference,
    ])
    .ok();
    assert_eq!(printed.trim(), format!("{reference}@{digest}"));
    same_blob(source.path(), to.path(), &original);
    let without_name = format!("oci:{}", to.path().display());
    for reference in [without_name, reference] {
        assert_eq!(
            tranship(&["cat", &reference, "/etc/a"]).ok(),
            "one",
            "{reference}"
        );
    }
    // The original can still be converted in other ways.
    let (_tag, tag) = destination("tag");
    tranship(&["convert", &source.reference(), &tag]).ok();
}

#[test]
fn reused_layers_are_not_read_and_the_result_is_the_same() {
    let many: Vec<String> = (0..300).map(|number| format!("many/{number:03}")).collect();
    let many: Vec<(&str, Entry<'_>)> = many
        .iter()
        .map(|path| (path.as_str(), Entry::File(b"x")))
        .collect();
    let base: [&[(&str, Entry<'_>)]; 2] = [
        &many,
        &[("etc/a", Entry::Rich(b"one")), ("dev", Entry::Device(1, 3))],
    ];
    let top: &[(&str, Entry<'_>)] = &[
        ("many/new", Entry::File(b"new")),
        ("etc/link", Entry::HardLink("etc/a")),
        ("etc/to", Entry::Symlink("a")),
    ];
    let (base_image, app) = (image(&base), image(&[base[0], base[1], top]));
    let (to, base_reference) = destination("base");
    let app_reference = format!("oci:{}:app", to.path().display());
    tranship(&["convert", &base_image.reference(), &base_reference]).ok();
    let (_fresh, fresh) = destination("fresh");
    let convert = |to: &str, more: &[&str]| {
        let from = app.reference();
        tranship(&[&["convert", "--output", "json", &from, to], more].concat()).json()
    };
    let expected = convert(&fresh, &[]);
    let other = convert(&app_reference, &["--reuse", "--block-size", "16KiB"]);
    assert_eq!(
        other["images"][0]["reused"], 0,
        "other settings, other layers"
    );
    // The base's layers are gone from the source: they cannot be read any more.
    let layers = manifest_of(app.path())["layers"].clone();
    for layer in &layers.as_array().unwrap()[..2] {
        fs::remove_file(blob_path(app.path(), layer)).unwrap();
    }
    let made = convert(&app_reference, &["--reuse"]);
    assert_eq!(made["images"][0]["reused"], 2);
    assert_eq!(made["manifest"], expected["manifest"]);
    tranship(&["verify", &app_reference]).ok();
    let again = convert(&app_reference, &["--reuse"]);
    assert_eq!(again["images"][0]["reused"], 3, "the whole image");
    assert_eq!(again["manifest"], expected["manifest"]);
}

#[test]
fn layers_that_only_claim_to_be_reusable_are_converted_again() {
    let app = simple();
    let (to, reference) = destination("v1");
    let convert = || {
        let from = app.reference();
        tranship(&["convert", "--output", "json", "--reuse", &from, &reference])
    };
    let made = convert().json();
    // The upper layer's annotations move to the lower one.
    let mut manifest = manifest_of(to.path());
    let chain = "containerd.io/snapshot/tranship/source-chain";
    let claimed = manifest["layers"][0]["annotations"][chain].clone();
    let mut lie = manifest["layers"][1].clone();
    lie["annotations"][chain] = claimed;
    manifest["layers"] = json!([lie]);
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    fs::write(to.path().join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": manifest["mediaType"], "digest": digest.to_string(), "size": bytes.len(),
        "annotations": {"org.opencontainers.image.ref.name": "v1"},
    }]});
    fs::write(to.path().join("index.json"), index.to_string()).unwrap();
    let ran = convert();
    assert!(ran.stderr.contains("cannot be reused"), "{}", ran.stderr);
    let again = ran.json();
    assert_eq!(again["images"][0]["reused"], 0);
    assert_eq!(again["manifest"], made["manifest"]);
}

#[test]
fn a_layout_and_its_archive_give_the_same_manifest() {
    let source = simple();
    let scratch = tempfile::tempdir().unwrap();
    let archive = scratch.path().join("image.tar");
    let packed = Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(source.path())
        .arg(".")
        .status()
        .unwrap();
    assert!(packed.success());
    let digest_of = |reference: &str| {
        let (_to, to) = destination("lazy");
        let printed = tranship(&["convert", reference, &to]).ok();
        printed.trim().rsplit_once('@').unwrap().1.to_owned()
    };
    let from_layout = digest_of(&source.reference());
    assert_eq!(from_layout, digest_of(&source.reference()));
    assert_eq!(
        from_layout,
        digest_of(&format!("oci-archive:{}:v1", archive.display()))
    );
}
