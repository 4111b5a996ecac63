//! A small image in three forms in one registry: as it was built, converted, and both in one index.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tranship_tests::layout::{self, Stored};
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{need_tools, run, tranship};

/// Length of the image's data file, of which a start reads nothing.
pub(crate) const DATA_LEN: u64 = 16 << 20;

/// The image and its registry.
#[derive(Debug)]
pub(crate) struct AppImage {
    /// The registry; its relay counts what it sends.
    pub(crate) registry: DockerRegistry,
    /// What `md5sum` says of the data file.
    pub(crate) data_sum: String,
}

impl AppImage {
    /// Builds, pushes and converts it.
    pub(crate) fn make() -> Self {
        need_tools(&["busybox", "skopeo", "tar"]);
        let registry = DockerRegistry::start();
        let folder = tempfile::tempdir().expect("a scratch folder");
        let (lower, upper) = (folder.path().join("lower"), folder.path().join("upper"));
        fs::create_dir_all(lower.join("bin")).expect("a folder");
        fs::create_dir_all(lower.join("etc")).expect("a folder");
        fs::copy("/bin/busybox", lower.join("bin/busybox")).expect("busybox");
        for name in ["sh", "cat", "md5sum", "sleep", "echo", "rm"] {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(name)).expect("a link");
        }
        fs::write(lower.join("etc/greeting"), "hello from the lower layer\n").expect("a file");
        fs::create_dir_all(upper.join("etc")).expect("a folder");
        fs::write(upper.join("etc/greeting"), "hello from the upper layer\n").expect("a file");
        fs::write(upper.join("data"), data()).expect("a file");
        let sum = run("md5sum", &[&upper.join("data").to_string_lossy()]);
        let layout = folder.path().join("layout");
        layout::write(
            &layout,
            "v1",
            &[(&tar(&lower), Stored::Gzip), (&tar(&upper), Stored::Gzip)],
        );
        let (below, pause) = (folder.path().join("below"), folder.path().join("pause"));
        fs::create_dir_all(below.join("bin")).expect("a folder");
        fs::copy("/bin/busybox", below.join("bin/busybox")).expect("busybox");
        // What such images run by themselves, and must not end.
        let shell = below.join("bin/sh");
        fs::write(
            &shell,
            "#!/bin/busybox sh\nexec /bin/busybox sleep 100000\n",
        )
        .expect("a script");
        fs::set_permissions(&shell, fs::Permissions::from_mode(0o755)).expect("a mode");
        layout::write(&pause, "v1", &[(&tar(&below), Stored::Gzip)]);
        let image = Self {
            registry,
            data_sum: sum.split(' ').next().unwrap_or_default().to_owned(),
        };
        image.push(&layout, "app:plain");
        image.push(&pause, "pause:v1");
        let direct = image.registry.direct_host();
        let source = format!("docker://{direct}/test/app:plain");
        tranship(&[
            "convert",
            &source,
            &format!("docker://{direct}/test/app:lazy"),
        ]);
        let beside = format!("docker://{direct}/test/app:both");
        tranship(&["convert", "--mode", "index", &source, &beside]);
        image
    }

    fn push(&self, layout: &Path, name: &str) {
        let source = format!("oci:{}:v1", layout.display());
        let target = format!("docker://{}/test/{name}", self.registry.direct_host());
        run(
            "skopeo",
            &[
                "copy",
                "--insecure-policy",
                "--dest-tls-verify=false",
                &source,
                &target,
            ],
        );
    }

    fn named(&self, name: &str) -> String {
        format!("{}/test/{name}", self.registry.host())
    }

    /// As it was built.
    pub(crate) fn original(&self) -> String {
        self.named("app:plain")
    }

    /// Converted.
    pub(crate) fn converted(&self) -> String {
        self.named("app:lazy")
    }

    /// The index that holds the original and the converted image.
    pub(crate) fn beside(&self) -> String {
        self.named("app:both")
    }

    /// An ordinary image for pods to stand on.
    pub(crate) fn pause(&self) -> String {
        self.named("pause:v1")
    }
}

/// Bytes that do not compress.
fn data() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..DATA_LEN / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

fn tar(folder: &Path) -> std::path::PathBuf {
    let tar = folder.with_extension("tar");
    run(
        "tar",
        &[
            "--create",
            "--sort=name",
            "--numeric-owner",
            "--owner=0",
            "--group=0",
            "--file",
            &tar.to_string_lossy(),
            "--directory",
            &folder.to_string_lossy(),
            ".",
        ],
    );
    tar
}
