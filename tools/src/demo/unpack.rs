//! Unpacks layers into a directory, as every runtime does after a full pull: the demo's yardstick and its second opinion
//! about what an image holds. It shares no code with conversion.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks one layer's tar over what lower layers left in `root`.
///
/// # Errors
/// The tar is broken, names a place outside, or cannot be written.
pub(crate) fn unpack_layer(tar: impl Read, root: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(tar);
    let owned = rustix::process::geteuid().is_root();
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(owned);
    archive.set_preserve_mtime(true);
    let mut written = BTreeSet::new();
    // Modes and times of directories are set last: writing into them would change the one and may need the other.
    let mut dirs = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = inside(&entry.path()?)?;
        if whiteout(root, &path, &written)? {
            continue;
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() && !path.as_os_str().is_empty() {
            make_dir(&root.join(&path))?;
            written.insert(path);
            dirs.push(entry);
            continue;
        }
        if kind.is_character_special() || kind.is_block_special() || kind.is_fifo() {
            tracing::debug!(path = %path.display(), "left out: the demo makes no device nodes");
            continue;
        }
        make_room(&root.join(&path))?;
        entry.unpack_in(root)?;
        written.insert(path);
    }
    for mut dir in dirs.into_iter().rev() {
        dir.unpack_in(root)?;
    }
    Ok(())
}

/// A tar's path without what could lead outside.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut inside = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => inside.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other(format!(
                    "{} leads out of the image",
                    path.display()
                )));
            }
        }
    }
    Ok(inside)
}

/// Does what a whiteout says; false if the entry is none. What this same layer brought stays.
fn whiteout(root: &Path, path: &Path, written: &BTreeSet<PathBuf>) -> io::Result<bool> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let parent = path.parent().unwrap_or(Path::new(""));
    if name == OPAQUE {
        for found in fs::read_dir(root.join(parent)).into_iter().flatten() {
            let found = found?;
            if !written.contains(&parent.join(found.file_name())) {
                remove(&found.path())?;
            }
        }
        return Ok(true);
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else {
        return Ok(false);
    };
    remove(&root.join(parent).join(OsStr::from_bytes(hidden)))?;
    Ok(true)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes what cannot be overwritten in place.
fn make_room(path: &Path) -> io::Result<()> {
    remove(path)?;
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

fn make_dir(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir()) {
        fs::remove_file(path)?;
    }
    fs::create_dir_all(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, path, text.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn whiteouts_hide_what_lower_layers_brought() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        unpack_layer(
            &*tar_of(&[("a/x", "1"), ("a/y", "1"), ("b/x", "1"), ("c", "1")]),
            root,
        )
        .unwrap();
        unpack_layer(
            &*tar_of(&[
                ("a/.wh.x", ""),
                ("b/new", "2"),
                ("b/.wh..wh..opq", ""),
                ("c", "2"),
            ]),
            root,
        )
        .unwrap();
        assert_eq!(names(&root.join("a")), ["y"]);
        assert_eq!(names(&root.join("b")), ["new"]);
        assert_eq!(fs::read_to_string(root.join("c")).unwrap(), "2");
    }

    #[test]
    fn nothing_leaves_the_root() {
        assert!(inside(Path::new("a/../../etc")).is_err());
        assert_eq!(
            inside(Path::new("/etc/./passwd")).unwrap(),
            Path::new("etc/passwd")
        );
    }
}
