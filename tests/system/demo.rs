//! The newcomer's command, as its JSON tells it.

use serde_json::Value;
use std::path::Path;
use tranship_tests::{stock, tranship};

#[test]
fn the_demo_compares_every_file_and_reads_the_registry_about_once() {
    let said = tranship(&["demo", "--nodes", "3", "--output", "json"]);
    let report: Value = serde_json::from_str(&said).expect("one JSON object");
    println!("{report:#}");
    for key in ["full_pull", "lazy_registry", "lazy_peers"] {
        assert!(
            report["ready_seconds"][key].as_f64().expect("seconds") > 0.0,
            "{key} was measured"
        );
    }
    let bytes = |key: &str| report["bytes"][key].as_u64().expect("bytes");
    assert!(bytes("blob") > 0);
    assert!(
        bytes("peers") + bytes("seed") > 0,
        "something came from the swarm"
    );
    assert!(report["files"]["compared"].as_u64().expect("a count") > 0);
    assert_eq!(report["files"]["wrong"], 0);
}

#[test]
fn the_demo_starts_an_image_of_block_device_layers_as_it_is() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let at = |name: &str| scratch.path().join(name);
    let shown = |path: &Path| path.display().to_string();
    let disk = shown(&at("disk.raw"));
    stock::shell_disk(&at("root"), Path::new(&disk));
    let image = format!("oci:{}:v1", shown(&at("image")));
    tranship(&["convert", &disk, &image]);

    let said = tranship(&[
        "demo", "--nodes", "2", "--image", &image, "--output", "json",
    ]);
    let report: Value = serde_json::from_str(&said).expect("one JSON object");
    assert!(
        report["files"]["compared"].as_u64().expect("a count") > 2,
        "{report}"
    );
    assert_eq!(report["files"]["wrong"], 0, "{report}");
    assert_eq!(report["image"]["source"], report["image"]["manifest"]);
}
