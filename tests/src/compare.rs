//! Compares two file trees in everything that an image can say about a file.
//!
//! One tree is what `umoci unpack` makes of the original image, the other what a device of ours shows.

use rustix::fs::{XattrFlags, lgetxattr, llistxattr};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What was compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// Entries of any kind.
    pub entries: usize,
    /// Bytes of regular files that were read on both sides.
    pub bytes: u64,
}

/// All that is known of one entry; two entries are equal when these are.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    mtime_nsec: i64,
    rdev: u64,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path, in order, that shares this inode: equal on both sides where links are.
    linked_to: PathBuf,
}

/// Compares `shown` with `expected`, entry by entry; stops the test with the first differences.
pub fn assert_equal_trees(expected: &Path, shown: &Path) -> Compared {
    let mut compared = Compared::default();
    let mut faults = Vec::new();
    let (mut expected_links, mut shown_links) = (BTreeMap::new(), BTreeMap::new());
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let (left, right) = (expected.join(&path), shown.join(&path));
        let one = entry(&left, &path, &mut expected_links);
        let other = match fs::symlink_metadata(&right) {
            Ok(_) => entry(&right, &path, &mut shown_links),
            Err(error) => {
                faults.push(format!("{path:?}: {error}"));
                continue;
            }
        };
        compared.entries += 1;
        if one.mode & 0o170_000 == 0o100_000 {
            compared.bytes += one.size;
        }
        if one != other {
            faults.push(format!(
                "{path:?}\n  expected {one:?}\n  shown    {other:?}"
            ));
        }
        if left.is_dir() && !left.is_symlink() {
            let (mine, theirs) = (names(&left), names(&right));
            if mine != theirs {
                faults.push(format!(
                    "{path:?}: other names\n  expected {mine:?}\n  shown    {theirs:?}"
                ));
            }
            pending.extend(mine.into_iter().map(|name| path.join(name)));
        }
        assert!(
            faults.len() < 10,
            "the trees differ:\n{}",
            faults.join("\n")
        );
    }
    assert!(
        faults.is_empty(),
        "the trees differ:\n{}",
        faults.join("\n")
    );
    compared
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a readable folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    names
}

fn entry(path: &Path, relative: &Path, links: &mut BTreeMap<u64, PathBuf>) -> Entry {
    let meta = fs::symlink_metadata(path).expect("metadata");
    let kind = meta.file_type();
    let content = if kind.is_file() {
        file_hash(path)
    } else if kind.is_symlink() {
        fs::read_link(path)
            .expect("a target")
            .as_os_str()
            .as_bytes()
            .to_vec()
    } else {
        Vec::new()
    };
    let linked_to = if kind.is_dir() {
        relative.to_path_buf()
    } else {
        links
            .entry(meta.ino())
            .or_insert_with(|| relative.to_path_buf())
            .clone()
    };
    Entry {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        // The size of a directory is the filesystem's own affair.
        size: if kind.is_dir() { 0 } else { meta.size() },
        mtime: meta.mtime(),
        mtime_nsec: meta.mtime_nsec(),
        rdev: if kind.is_char_device() || kind.is_block_device() {
            meta.rdev()
        } else {
            0
        },
        content,
        xattrs: xattrs(path),
        linked_to,
    }
}

fn file_hash(path: &Path) -> Vec<u8> {
    let mut file = File::open(path).expect("a readable file");
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = file
            .read(&mut buffer)
            .unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
        if len == 0 {
            return hasher.finalize().to_vec();
        }
        hasher.update(&buffer[..len]);
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
    let mut names = vec![0; 64 << 10];
    let len = llistxattr(&*path, &mut names[..]).unwrap_or(0);
    names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let key = CString::new(name).expect("a name without NUL");
            let len = lgetxattr(&*path, &*key, &mut value[..]).expect("a readable xattr");
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect()
}

/// Sets an extended attribute on a file that a test makes.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).expect("a settable xattr");
}
