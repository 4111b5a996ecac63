//! Overlay mounts: a writable view of a read-only filesystem.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use super::{MountError, mount};

/// The folders of an overlay mount.
#[derive(Debug, Clone)]
pub struct Overlay {
    /// Read-only folder below.
    pub lower: PathBuf,
    /// Folder that takes the changes. It must support extended attributes, so not on an overlay itself.
    pub upper: PathBuf,
    /// Empty folder on the same filesystem as `upper`, for the kernel's use.
    pub work: PathBuf,
}

/// Mounts `folders` at the existing folder `target`.
///
/// `index=off`: the index ties an upper folder to one instance of its lower filesystem, and ours is mounted anew, from
/// another device, after each restart of the node.
pub fn overlay(folders: &Overlay, target: &Path) -> Result<(), MountError> {
    let mut options = b"index=off".to_vec();
    for (key, folder) in [
        ("lowerdir", &folders.lower),
        ("upperdir", &folders.upper),
        ("workdir", &folders.work),
    ] {
        options.push(b',');
        options.extend_from_slice(key.as_bytes());
        options.push(b'=');
        options.extend(escape(folder));
    }
    mount(
        Path::new("overlay"),
        target,
        "overlay",
        MountFlags::empty(),
        &options,
    )
    .map_err(|source| MountError::Mount {
        kind: "overlay",
        what: folders.lower.clone(),
        target: target.to_owned(),
        source,
    })
}

/// overlayfs takes commas and colons for separators unless a backslash stands before them.
fn escape(folder: &Path) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in folder.as_os_str().as_bytes() {
        if b"\\,:".contains(byte) {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_in_names_are_escaped() {
        assert_eq!(escape(Path::new("/a:b,c\\d e")), b"/a\\:b\\,c\\\\d e");
    }
}
