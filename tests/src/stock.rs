//! Images as overlaybd's own converter leaves them: layers of the vectors, with its annotations and nothing of ours.

use crate::command::{need_tools, run};
use crate::layout::{Documents, blob};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes of the large file in [`shell_disk`], which do not compress.
pub const LARGE_LEN: usize = 12 << 20;

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
        diff_ids.push(digest.as_str().expect("a digest").to_owned());
        descriptors.push(descriptor);
    }
    let image = Documents {
        environment: &[],
        volumes: &[],
        diff_ids: &diff_ids,
        history: &vec!["overlaybd".to_owned(); layers.len()],
        layers: &descriptors,
    };
    image.write(layout, tag);
}

/// Makes a root with a shell, the libraries that it is linked with, and a large file in the folder `root`, and an ext4
/// filesystem of it in the file `disk`.
pub fn shell_disk(root: &Path, disk: &Path) {
    need_tools(&["ldd", "mkfs.ext4"]);
    let linked = run("ldd", &["/bin/sh"]);
    let libraries = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for path in libraries.chain(["/bin/sh"]) {
        let inside = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().expect("a folder")).expect("a folder");
        fs::copy(path, inside).expect("a program's file");
    }
    let mut state = 1_u64;
    let noise = core::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[7]
    });
    fs::write(
        root.join("noise"),
        noise.take(LARGE_LEN).collect::<Vec<_>>(),
    )
    .expect("a file");
    let shown = |path: &Path| path.display().to_string();
    let options = ["-q", "-F", "-d", &shown(root), "-E", "root_owner=0:0"];
    run(
        "mkfs.ext4",
        &[&options[..], &[&shown(disk), "64M"]].concat(),
    );
}
