//! What the running kernel sees of a device, by a loop mount; only as root, and it says so otherwise.

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{lgetxattr, llistxattr};

use crate::images::{Listing, Seen};

/// Longest path inside the filesystem that is looked at: system calls take 4,096 bytes with the mount point.
pub(crate) const MAX_PATH_LEN: usize = 4_000;

/// A mount that ends with its value.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.0.display());
        }
    }
}

/// Everything that the kernel shows of the filesystem on `device`; `None` where nothing can be mounted.
pub(crate) fn listing(device: &[u8]) -> Option<Listing> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: the kernel's view is not compared");
        return None;
    }
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("device");
    std::fs::write(&file, device).unwrap();
    let target = scratch.path().join("mount");
    std::fs::create_dir(&target).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "erofs", "-o", "ro,loop"]);
    match mount.arg(&file).arg(&target).output() {
        Ok(output) if output.status.success() => {}
        other => {
            // A filesystem that the kernel refuses must fail the test; a machine without EROFS or loop devices must not.
            let known = std::fs::read_to_string("/proc/filesystems").unwrap();
            let can = known.contains("erofs") && Path::new("/dev/loop-control").exists();
            assert!(!can, "cannot mount: {other:?}");
            eprintln!("no EROFS or no loop devices: the kernel's view is not compared");
            return None;
        }
    }
    let _mounted = Mounted(target.clone());
    let mut out = Listing::new();
    let mut inodes = BTreeMap::new();
    see(&target, &target, &mut out, &mut inodes);
    let mut first_names = BTreeMap::new();
    for (path, inode) in &inodes {
        first_names.entry(*inode).or_insert_with(|| path.clone());
    }
    for (path, seen) in &mut out {
        seen.first_name.clone_from(&first_names[&inodes[path]]);
    }
    Some(out)
}

fn see(root: &Path, path: &Path, out: &mut Listing, inodes: &mut BTreeMap<Vec<u8>, u64>) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    let mut content = Vec::new();
    if metadata.is_file() {
        content = std::fs::read(path).unwrap();
    } else if metadata.is_symlink() {
        content = std::fs::read_link(path)
            .unwrap()
            .into_os_string()
            .into_vec();
    }
    let inner = path
        .strip_prefix(root)
        .unwrap()
        .as_os_str()
        .as_bytes()
        .to_vec();
    let seen = Seen {
        mode: u16::try_from(metadata.mode()).unwrap(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: (
            metadata.mtime(),
            u32::try_from(metadata.mtime_nsec()).unwrap(),
        ),
        nlink: u32::try_from(metadata.nlink()).unwrap(),
        rdev: u32::try_from(metadata.rdev()).unwrap(),
        content,
        xattrs: xattrs(path),
        first_name: Vec::new(),
    };
    inodes.insert(inner.clone(), metadata.ino());
    out.insert(inner, seen);
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.strip_prefix(root).unwrap().as_os_str().len() < MAX_PATH_LEN {
                see(root, &path, out, inodes);
            }
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let len = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let len = lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(len);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}
