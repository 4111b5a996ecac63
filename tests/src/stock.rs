//! Images as overlaybd's own converter leaves them: layers of the vectors, with its annotations and nothing of ours.

use crate::layout::{architecture, blob, write_index};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder with other people's bytes: `TRANSHIP_VECTORS`, else beside the repository. `None`, said on standard error,
/// where it is neither: what needs them is then not checked.
pub fn vectors() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named = std::env::var_os("TRANSHIP_VECTORS").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain([
            root.join("../shared/vectors"),
            root.join("../../shared/vectors"),
        ])
        .find(|dir| dir.join("overlaybd").is_dir());
    if found.is_none() {
        // Not by a macro: what those print is hidden when a test passes, and this is about tests that pass.
        let message = "NOT CHECKED: overlaybd's vectors are not here; name their directory in TRANSHIP_VECTORS\n";
        std::io::stderr()
            .write_all(message.as_bytes())
            .expect("standard error");
    }
    found.map(|dir| dir.join("overlaybd"))
}

/// Writes an image of overlaybd layers (bottom first) into the folder `layout` under `tag`, described as its converter does:
/// a plain tar whose diff id is the blob's digest, ext4 on the device.
pub fn write(layout: &Path, tag: &str, layers: &[PathBuf]) {
    fs::create_dir_all(layout.join("blobs/sha256")).expect("a layout folder");
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let bytes = fs::read(layer).expect("a layer's blob");
        let mut descriptor = blob(layout, "application/vnd.oci.image.layer.v1.tar", &bytes);
        let digest = descriptor["digest"].clone();
        descriptor["annotations"] = json!({
            "containerd.io/snapshot/overlaybd/blob-digest": digest,
            "containerd.io/snapshot/overlaybd/blob-size": bytes.len().to_string(),
            "containerd.io/snapshot/overlaybd/blob-fs-type": "ext4",
            "containerd.io/snapshot/overlaybd/version": "0.1.0",
        });
        diff_ids.push(digest);
        descriptors.push(descriptor);
    }
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": layers.iter().map(|_| json!({"created_by": "overlaybd"})).collect::<Vec<_>>(),
    });
    let config = blob(
        layout,
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": descriptors,
    });
    let manifest = blob(
        layout,
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    );
    write_index(layout, tag, manifest);
}
