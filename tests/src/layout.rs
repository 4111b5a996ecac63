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
    /// gzip as most builders write it, level 6.
    GzipUsual,
    /// Several gzip members in a row, as some builders write them.
    GzipMembers,
    /// zstd, level 3.
    Zstd,
}

/// Writes an image of the given layer tars (bottom first) into the folder `layout` under `tag`.
pub fn write(layout: &Path, tag: &str, layers: &[(&Path, Stored)]) {
    write_with_volumes(layout, tag, layers, &[]);
}

/// The same; its containers have folders of their own at the paths `volumes`.
pub fn write_with_volumes(layout: &Path, tag: &str, layers: &[(&Path, Stored)], volumes: &[&str]) {
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
            Stored::GzipUsual => (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                gzip_at(Compression::default(), &plain),
            ),
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
        let name = tar.file_name().expect("a tar's name");
        history.push(name.to_string_lossy().into_owned());
    }
    let image = Documents {
        environment: &["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        volumes,
        diff_ids: &diff_ids,
        history: &history,
        layers: &descriptors,
    };
    image.write(layout, tag);
}

/// What an image's documents say: one diff id, line of history and descriptor a layer, the bottom one first.
#[derive(Debug)]
pub(crate) struct Documents<'d> {
    pub(crate) environment: &'d [&'d str],
    pub(crate) volumes: &'d [&'d str],
    pub(crate) diff_ids: &'d [String],
    pub(crate) history: &'d [String],
    pub(crate) layers: &'d [serde_json::Value],
}

impl Documents<'_> {
    /// Writes config, manifest and index into the folder of the layers' blobs, the image's name being `tag`.
    pub(crate) fn write(&self, layout: &Path, tag: &str) {
        let history = self.history.iter().map(|by| json!({"created_by": by}));
        let mut settings = json!({"Env": self.environment, "Cmd": ["/bin/sh"]});
        if !self.volumes.is_empty() {
            let volumes = self
                .volumes
                .iter()
                .map(|path| ((*path).to_owned(), json!({})));
            settings["Volumes"] = volumes.collect::<serde_json::Map<_, _>>().into();
        }
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "history": history.collect::<Vec<_>>(),
        });
        let kind = "application/vnd.oci.image.config.v1+json";
        let config = blob(layout, kind, config.to_string().as_bytes());
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "config": config, "layers": self.layers,
        });
        let manifest = blob(layout, kind, manifest.to_string().as_bytes());
        write_index(layout, tag, manifest);
    }
}

/// Writes what makes a folder of blobs a layout with one image.
fn write_index(layout: &Path, tag: &str, mut manifest: serde_json::Value) {
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
    gzip_at(Compression::fast(), plain)
}

fn gzip_at(level: Compression, plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

/// The architecture's name in OCI's words.
fn architecture() -> &'static str {
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
