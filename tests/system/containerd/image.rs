//! A small image in three forms in one registry: as it was built, converted, and both in one index; and smaller ones on the same base.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tranship_tests::layout::{self, Stored};
use tranship_tests::pods::pause_layout;
use tranship_tests::registry::DockerRegistry;
use tranship_tests::web::noise;
use tranship_tests::{need_tools, run, tranship};

/// Length of the image's data file, of which a start reads nothing.
pub(crate) const DATA_LEN: u64 = 16 << 20;
/// What lies in a folder that each container of the image has for itself.
pub(crate) const IN_VOLUME: &str = "what the image puts into a volume\n";

/// The image and its registry.
#[derive(Debug)]
pub(crate) struct AppImage {
    /// The registry; its relay counts what it sends.
    pub(crate) registry: DockerRegistry,
    /// What `md5sum` says of the data file.
    pub(crate) data_sum: String,
    folder: TempDir,
    /// The tar of the layer with the programs.
    base: PathBuf,
}

impl AppImage {
    /// Builds, pushes and converts it.
    pub(crate) fn make() -> Self {
        need_tools(&["busybox", "skopeo", "tar"]);
        let registry = DockerRegistry::start();
        let folder = tempfile::tempdir().expect("a scratch folder");
        let lower = base(folder.path());
        let upper = folder.path().join("upper");
        write(&upper, "etc/greeting", b"hello from the upper layer\n");
        write(&upper, "volume/kept", IN_VOLUME.as_bytes());
        write(&upper, "data", &noise(16 << 20));
        let sum = run("md5sum", &[&upper.join("data").to_string_lossy()]);
        let image = Self {
            registry,
            data_sum: sum.split(' ').next().unwrap_or_default().to_owned(),
            base: tar(&lower),
            folder,
        };
        image.push_layers("app:plain", &[&image.base, &tar(&upper)], &["/volume"]);
        image.push(&pause_layout(image.folder.path()), "pause:v1");
        let source = image.uncounted("app:plain");
        tranship(&["convert", &source, &image.uncounted("app:lazy")]);
        image.convert_beside("app");
        image
    }

    /// One more image on the same base, which greets by its number; both forms in one index.
    pub(crate) fn small(&self, number: usize) -> String {
        let upper = self.folder.path().join(format!("small-{number}"));
        write(&upper, "etc/greeting", greeting(number).as_bytes());
        let name = format!("small-{number}");
        self.push_layers(&format!("{name}:plain"), &[&self.base, &tar(&upper)], &[]);
        self.convert_beside(&name);
        self.named(&format!("{name}:both"))
    }

    fn convert_beside(&self, name: &str) {
        let source = self.uncounted(&format!("{name}:plain"));
        let target = self.uncounted(&format!("{name}:both"));
        tranship(&["convert", "--mode", "index", &source, &target]);
    }

    fn push_layers(&self, name: &str, tars: &[&Path], volumes: &[&str]) {
        let layout = tempfile::tempdir_in(self.folder.path()).expect("a folder");
        let layers: Vec<_> = tars.iter().map(|tar| (*tar, Stored::Gzip)).collect();
        layout::write_with_volumes(layout.path(), "v1", &layers, volumes);
        self.push(layout.path(), name);
    }

    fn push(&self, layout: &Path, name: &str) {
        let source = format!("oci:{}:v1", layout.display());
        let options = ["copy", "--insecure-policy", "--dest-tls-verify=false"];
        run(
            "skopeo",
            &[&options[..], &[&source, &self.uncounted(name)]].concat(),
        );
    }

    /// For pushes, which nobody counts.
    fn uncounted(&self, name: &str) -> String {
        format!("docker://{}/test/{name}", self.registry.direct_host())
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

/// What a small image greets with.
pub(crate) fn greeting(number: usize) -> String {
    format!("hello from image {number}\n")
}

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, bytes).expect("a file");
}

/// A root with programs.
fn base(folder: &Path) -> PathBuf {
    let lower = folder.join("lower");
    fs::create_dir_all(lower.join("bin")).expect("a folder");
    fs::copy("/bin/busybox", lower.join("bin/busybox")).expect("busybox");
    for name in ["sh", "cat", "md5sum", "sleep", "echo", "rm", "id", "dd"] {
        std::os::unix::fs::symlink("busybox", lower.join("bin").join(name)).expect("a link");
    }
    write(&lower, "etc/greeting", b"hello from the lower layer\n");
    lower
}

fn tar(folder: &Path) -> PathBuf {
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
