//! What most subjects begin with: the Debian image, converted into a real registry.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use tranship_tests::debian::Debian;
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{run, tranship};

/// A registry that holds the converted image.
#[derive(Debug)]
pub(crate) struct Converted {
    /// The original and what it unpacks to.
    pub(crate) debian: Debian,
    /// The registry; its relay counts what it sends.
    pub(crate) registry: DockerRegistry,
    /// The digest that `convert` printed.
    pub(crate) digest: String,
}

impl Converted {
    /// Converts the image into a registry of its own.
    pub(crate) fn make() -> Self {
        let debian = Debian::make();
        let registry = DockerRegistry::start();
        let digest = convert(&debian.reference(), &registry.direct_host(), "v1");
        Self {
            debian,
            registry,
            digest,
        }
    }

    /// The reference through the counting relay.
    pub(crate) fn reference(&self) -> String {
        format!("docker://{}/test/debian:v1", self.registry.host())
    }

    /// The reference past the relay.
    pub(crate) fn direct_reference(&self) -> String {
        format!("docker://{}/test/debian:v1", self.registry.direct_host())
    }

    /// The manifest as the registry holds it.
    pub(crate) fn manifest(&self) -> Value {
        let hex = self.digest.trim_start_matches("sha256:");
        let bytes = fs::read(self.registry.blob_file(hex)).expect("the manifest");
        serde_json::from_slice(&bytes).expect("a manifest in JSON")
    }

    /// The layers' blobs in the registry's own folder, bottom first.
    pub(crate) fn layer_files(&self) -> Vec<PathBuf> {
        let manifest = self.manifest();
        let layers = manifest["layers"].as_array().expect("layers");
        layers
            .iter()
            .map(|layer| {
                let digest = layer["digest"].as_str().expect("a digest");
                self.registry
                    .blob_file(digest.trim_start_matches("sha256:"))
            })
            .collect()
    }

    /// The stored bytes of all layers together.
    pub(crate) fn blobs_len(&self) -> u64 {
        self.layer_files()
            .iter()
            .map(|file| fs::metadata(file).expect("a blob").len())
            .sum()
    }
}

/// Converts `source` to `test/debian:<tag>` at `host` and returns the digest of the new manifest.
pub(crate) fn convert(source: &str, host: &str, tag: &str) -> String {
    let target = format!("docker://{host}/test/debian:{tag}");
    let printed = tranship(&["convert", source, &target]);
    let line = printed.trim();
    let (reference, digest) = line.rsplit_once('@').expect("a digest in the reference");
    assert_eq!(
        reference, target,
        "convert prints the reference that it made"
    );
    assert!(
        digest.starts_with("sha256:") && digest.len() == 71,
        "{line}"
    );
    digest.to_owned()
}

/// Registry bytes above which N readers have not read the image "about once": 1.3 × its blobs.
pub(crate) fn about_once(blobs_len: u64) -> u64 {
    blobs_len + blobs_len * 3 / 10
}

/// A raw device image mounted read-only by the kernel through a loop device; unmounted with the value.
#[derive(Debug)]
pub(crate) struct LoopMount {
    folder: TempDir,
}

impl LoopMount {
    /// Mounts `image`.
    pub(crate) fn of(image: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        run(
            "mount",
            &[
                "-t",
                "erofs",
                "-o",
                "ro,loop",
                &image.to_string_lossy(),
                &folder.path().to_string_lossy(),
            ],
        );
        Self { folder }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.folder.path()).status();
        assert!(
            std::thread::panicking() || unmounted.is_ok_and(|status| status.success()),
            "the test's own mount comes off"
        );
    }
}
