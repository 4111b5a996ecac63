//! Writes an OCI image layout from layer tars, by hand and without our own writer.
//!
//! The reference for every comparison is what `umoci` makes of this layout, so nothing of ours may stand
//! between the tars and it.

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::Write as _;
use std::path::Path;

/// How a layer's tar is stored in the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// As it is.
    Plain,
    /// gzip, fast.
    Gzip,
    /// Several gzip members in a row, as some builders write them.
    GzipMembers,
    /// zstd, level 3.
    Zstd,
}

/// Writes an image of the given layer tars (bottom first) into the folder `layout` under `tag`.
pub fn write(layout: &Path, tag: &str, layers: &[(&Path, Stored)]) {
    fs::create_dir_all(layout.join("blobs/sha256")).expect("a layout folder");
    let mut diff_ids = Vec::new();
    let mut descriptors = Vec::new();
    let mut history = Vec::new();
    for (tar, stored) in layers {
        let plain = fs::read(tar).expect("a layer tar");
        diff_ids.push(format!("sha256:{}", hex(&plain)));
        let (media_type, bytes) = match stored {
            Stored::Plain => ("application/vnd.oci.image.layer.v1.tar", plain),
            Stored::Gzip => ("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&plain)),
            Stored::GzipMembers => (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                plain.chunks(7_000).flat_map(gzip).collect(),
            ),
            Stored::Zstd => (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                zstd::encode_all(&plain[..], 3).expect("memory"),
            ),
        };
        descriptors.push(blob(layout, media_type, &bytes));
        history.push(
            json!({"created_by": tar.file_name().map(|name| name.to_string_lossy().into_owned())}),
        );
    }
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
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

/// Writes what makes a folder of blobs a layout with one image.
pub(crate) fn write_index(layout: &Path, tag: &str, mut manifest: serde_json::Value) {
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).expect("a written index");
    fs::write(
        layout.join("oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"}).to_string(),
    )
    .expect("a written marker");
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

/// The architecture's name in OCI's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Stores a blob and describes it.
pub(crate) fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> serde_json::Value {
    let hex = hex(bytes);
    fs::write(layout.join("blobs/sha256").join(&hex), bytes).expect("a written blob");
    json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("memory");
            text
        })
}
