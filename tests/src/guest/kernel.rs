//! Debian's kernels as files: fetched as packages and unpacked, never installed.
//!
//! They are kept between runs in the folder of the Debian root, by the package's name, so that one machine's tests stay with one kernel
//! until apt has a newer.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{need_tools, run};
use crate::debian::cache;

/// A kernel and its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `6.1.0-56-cloud-amd64`
    version: String,
    /// Where the package lies unpacked.
    root: PathBuf,
}

impl Kernel {
    /// Debian's own: no FUSE resend, EROFS from block devices alone, no ublk.
    pub fn linux_6_1() -> Self {
        Self::of("linux-image-cloud-amd64")
    }

    /// The newer one that Debian's security updates carry: all of those.
    pub fn linux_6_12() -> Self {
        Self::of("linux-image-6.12-cloud-amd64")
    }

    /// The kernel that the package `meta` depends on at present.
    fn of(meta: &str) -> Self {
        need_tools(&["apt-cache", "apt-get", "dpkg-deb", "xz"]);
        let said = run("apt-cache", &["depends", "--no-recommends", meta]);
        let package = said
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
            .unwrap_or_else(|| panic!("apt knows no {meta}: apt-get update"));
        let root = cache().join(format!("linux-{package}"));
        if !root.exists() {
            fetch(&format!("linux-image-{package}"), &root);
        }
        Self {
            version: package.to_owned(),
            root,
        }
    }

    /// As `uname -r` says.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.version))
    }

    /// The modules of those names, each behind what it stands on. One that this kernel has built in or lacks is left out.
    pub(super) fn modules(&self, names: &[&str]) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        files_below(
            &self
                .root
                .join("lib/modules")
                .join(&self.version)
                .join("kernel"),
            &mut files,
        );
        let mut loaded = Vec::new();
        for name in names {
            load(name, &files, &mut loaded);
        }
        loaded
    }
}

/// Fetches and unpacks a package; what is half done is never seen under the name.
fn fetch(package: &str, root: &Path) {
    let scratch = tempfile::tempdir_in(cache()).expect("a scratch folder");
    let fetched = std::process::Command::new("apt-get")
        .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package])
        .current_dir(scratch.path())
        .status()
        .expect("apt-get starts");
    assert!(fetched.success(), "apt-get download {package}: {fetched}");
    let archive = fs::read_dir(scratch.path())
        .expect("the scratch folder")
        .flatten()
        .next()
        .expect("a package");
    let unpacked = scratch.path().join("unpacked");
    run(
        "dpkg-deb",
        &[
            "-x",
            &archive.path().to_string_lossy(),
            &unpacked.to_string_lossy(),
        ],
    );
    fs::rename(unpacked, root).expect("a place in the cache");
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder of modules").flatten() {
        if entry.path().is_dir() {
            files_below(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

/// The name by which modules name each other: of `a-b.ko.xz`, `a_b`.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = file.split(".ko").next().unwrap_or_default();
    stem.replace('-', "_")
}

fn load(name: &str, files: &[PathBuf], loaded: &mut Vec<(String, Vec<u8>)>) {
    let file_name = format!("{name}.ko");
    if loaded.iter().any(|(known, _)| *known == file_name) {
        return;
    }
    let Some(path) = files.iter().find(|path| module_name(path) == name) else {
        return;
    };
    let bytes = if path.extension().is_some_and(|ending| ending == "xz") {
        let output = std::process::Command::new("xz")
            .arg("-dc")
            .arg(path)
            .output()
            .expect("xz starts");
        assert!(output.status.success(), "xz -dc {}", path.display());
        output.stdout
    } else {
        fs::read(path).expect("a module")
    };
    for below in stands_on(&bytes) {
        load(&below, files, loaded);
    }
    loaded.push((file_name, bytes));
}

/// What a module says that it stands on: `depends=a,b` among the strings that end with zero bytes.
fn stands_on(module: &[u8]) -> Vec<String> {
    let strings = module.split(|byte| *byte == 0);
    let depends = strings.filter_map(|text| text.strip_prefix(b"depends="));
    depends
        .flat_map(|names| names.split(|byte| *byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_dependencies_are_read_as_the_kernel_writes_them() {
        assert_eq!(module_name(Path::new("/k/virtio-blk.ko.xz")), "virtio_blk");
        assert_eq!(module_name(Path::new("/k/nbd.ko")), "nbd");
        let module = b"\x7fELF\0license=GPL\0depends=virtio,virtio-ring\0alias=x\0";
        assert_eq!(stands_on(module), ["virtio", "virtio_ring"]);
        assert_eq!(stands_on(b"\0depends=\0"), Vec::<String>::new());
    }
}
