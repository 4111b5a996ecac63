//! Small images in OCI layouts, built from lists of files, and the program under test.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use tranship_format::Digest;

/// What a run of the program came to.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    /// Its result as text; stops the test where it failed.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        String::from_utf8(self.stdout).unwrap()
    }

    /// Its result as JSON.
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

/// Runs `tranship`.
pub(crate) fn tranship(args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_tranship"))
        .args(args)
        .env_remove("TRANSHIP_OUTPUT")
        .env_remove("TRANSHIP_LOG")
        .env_remove("TRANSHIP_PROGRESS")
        .env_remove("TRANSHIP_AGENT")
        .env_remove("TRANSHIP_TRACKER")
        .env_remove("TRANSHIP_OPERATOR_TOKEN_FILE")
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// How a layer is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    Plain,
    Gzip,
    /// As some builders write it: several gzip members in a row.
    GzipMembers,
    Zstd,
}

/// A file of a layer.
pub(crate) enum Entry<'e> {
    Dir,
    File(&'e [u8]),
    Symlink(&'e str),
    HardLink(&'e str),
    Device(u32, u32),
    /// A file with an extended attribute, a fraction of a second and a large owner.
    Rich(&'e [u8]),
}

/// A layout directory under construction.
pub(crate) struct Layout {
    dir: TempDir,
    layers: Vec<(Value, Digest)>,
}

pub(crate) const TIME: u64 = 1_700_000_000;

impl Layout {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(
            dir.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        Self {
            dir,
            layers: Vec::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn reference(&self) -> String {
        format!("oci:{}:v1", self.path().display())
    }

    pub(crate) fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        fs::write(self.path().join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    }

    /// Adds a layer of these files.
    pub(crate) fn layer(self, stored: Stored, entries: &[(&str, Entry<'_>)]) -> Self {
        let tar = tar_of(entries);
        self.tar_layer(stored, &tar)
    }

    /// Adds a layer of this tar.
    pub(crate) fn tar_layer(mut self, stored: Stored, tar: &[u8]) -> Self {
        let (bytes, kind) = match stored {
            Stored::Plain => (tar.to_vec(), "tar"),
            Stored::Gzip => (gzip(tar), "tar+gzip"),
            Stored::GzipMembers => (tar.chunks(700).flat_map(gzip).collect(), "tar+gzip"),
            Stored::Zstd => (zstd::encode_all(tar, 1).unwrap(), "tar+zstd"),
        };
        let digest = self.blob(&bytes);
        let media_type = format!("application/vnd.oci.image.layer.v1.{kind}");
        let descriptor =
            json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()});
        self.layers.push((descriptor, Digest::of(tar)));
        self
    }

    /// Writes config, manifest and index.
    pub(crate) fn finish(self) -> Self {
        let diff_ids: Vec<String> = self.layers.iter().map(|(_, id)| id.to_string()).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "x-unknown": {"kept": true},
            "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "one"}, {"created_by": "nothing", "empty_layer": true}],
        });
        let config = config.to_string().into_bytes();
        let layers: Vec<&Value> = self
            .layers
            .iter()
            .map(|(descriptor, _)| descriptor)
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": self.blob(&config).to_string(),
                "size": config.len(),
            },
            "layers": layers,
            "annotations": {"kept": "yes"},
        });
        self.name(&manifest);
        self
    }

    /// Makes a manifest (or whatever it is) the layout's one image, `v1`.
    pub(crate) fn name(&self, manifest: &Value) {
        let bytes = manifest.to_string().into_bytes();
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": manifest["mediaType"],
            "digest": self.blob(&bytes).to_string(),
            "size": bytes.len(),
            "annotations": {"org.opencontainers.image.ref.name": "v1"},
        }]});
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }
}

/// The manifest that a layout directory's one image has.
pub(crate) fn manifest_of(layout: &Path) -> Value {
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    document(layout, &index["manifests"][0])
}

/// The JSON blob of a descriptor.
pub(crate) fn document(layout: &Path, descriptor: &Value) -> Value {
    serde_json::from_slice(&fs::read(blob_path(layout, descriptor)).unwrap()).unwrap()
}

/// The file of a descriptor's blob.
pub(crate) fn blob_path(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap();
    layout
        .join("blobs/sha256")
        .join(digest.trim_start_matches("sha256:"))
}

/// Bytes that do not compress, the same in each run.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len).map(|_| next().to_le_bytes()[3]).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn tar_of(entries: &[(&str, Entry<'_>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(TIME);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match entry {
            Entry::Dir => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                tar.append_data(&mut header, path, &b""[..]).unwrap();
            }
            Entry::File(bytes) => {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, path, *bytes).unwrap();
            }
            Entry::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                tar.append_link(&mut header, path, target).unwrap();
            }
            Entry::HardLink(target) => {
                header.set_entry_type(tar::EntryType::Link);
                tar.append_link(&mut header, path, target).unwrap();
            }
            Entry::Device(major, minor) => {
                header.set_entry_type(tar::EntryType::Char);
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
                tar.append_data(&mut header, path, &b""[..]).unwrap();
            }
            Entry::Rich(bytes) => {
                let pax = BTreeMap::from([
                    ("SCHILY.xattr.user.note", &b"kept"[..]),
                    ("mtime", b"1700000000.123456789"),
                    ("uid", b"3000000"),
                ]);
                tar.append_pax_extensions(pax).unwrap();
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, path, *bytes).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}
