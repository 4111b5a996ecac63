//! A set of this machine's files that is closed: with each path come its directories and, through every symbolic link
//! on the way, what the link points to. So each path means the same inside the image as outside.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::loader;

/// As many symbolic links as the kernel follows.
const MOST_LINKS: u32 = 40;
/// A single file larger than this is left out when filling up: some libraries are as large as the whole image.
const LARGE_FILE: u64 = 24 << 20;
/// Not part of a program's start: installed packages, headers and archives for the linker.
const LEFT_OUT: &[&str] = &["site-packages", "dist-packages"];

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A file, directory or symbolic link of this machine, taken as it is.
    Here,
    /// An empty directory, whatever the machine has in it.
    EmptyDir,
    /// A file with this text.
    Text(String),
}

/// Paths of an image and what stands there, in order, so that a directory comes before its content.
#[derive(Debug, Default)]
pub(super) struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
    len: u64,
    loader: Option<PathBuf>,
}

impl Tree {
    /// Bytes of all files so far.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// The paths and what stands there, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries
            .iter()
            .map(|(path, entry)| (path.as_path(), entry))
    }

    /// Whether a path is in it.
    pub(super) fn holds(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    /// Drops what a lower layer has already.
    pub(super) fn forget(&mut self, lower: &Self) {
        self.entries
            .retain(|path, _| !lower.entries.contains_key(path));
    }

    /// Adds a file, link or (empty) directory with all that leads to it. What is absent or unreadable is left out.
    pub(super) fn add(&mut self, path: &Path) {
        self.walk(path);
    }

    /// Adds a directory without content, with the machine's mode for it.
    pub(super) fn add_dir(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.walk(parent);
        }
        self.entries.insert(path.to_path_buf(), Entry::EmptyDir);
    }

    /// Adds a file that this machine does not have.
    pub(super) fn add_text(&mut self, path: &Path, text: &str) {
        let mut above: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|dir| *dir != Path::new("/"))
            .collect();
        above.reverse();
        for dir in above {
            self.entries
                .entry(dir.to_path_buf())
                .or_insert(Entry::EmptyDir);
        }
        self.entries
            .insert(path.to_path_buf(), Entry::Text(text.to_owned()));
        self.len += u64::try_from(text.len()).unwrap_or(0);
    }

    /// Adds a program with the libraries that it loads.
    pub(super) fn add_program(&mut self, program: &Path) {
        let Some(real) = self.walk(program) else {
            return;
        };
        if self.loader.is_none() {
            self.loader = loader::interpreter_of(&real);
        }
        for library in loader::libraries(&real, None) {
            self.walk(&library);
        }
    }

    /// Adds a directory with all that is in it, as long as the tree stays below `most_len`.
    pub(super) fn add_all(&mut self, dir: &Path, most_len: u64) {
        let Some(dir) = self.walk(dir) else { return };
        for path in sorted(&dir) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let skip = LEFT_OUT.contains(&name.as_ref())
                || name.starts_with("config-")
                || name.ends_with(".a");
            if skip || self.len >= most_len {
                continue;
            }
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                self.add_all(&path, most_len);
                continue;
            }
            let new = !self.entries.contains_key(&path);
            self.walk(&path);
            if new && name.contains(".so") {
                for library in loader::libraries(&path, self.loader.as_deref()) {
                    self.walk(&library);
                }
            }
        }
    }

    /// Adds libraries found under `dir` until about `len` bytes were added.
    pub(super) fn fill_up(&mut self, dir: &Path, len: u64) {
        let end = self.len.saturating_add(len);
        let mut dirs = vec![dir.to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for path in sorted(&dir) {
                let Ok(found) = fs::symlink_metadata(&path) else {
                    continue;
                };
                if found.is_dir() {
                    dirs.push(path);
                } else if found.is_file() && found.len() <= LARGE_FILE {
                    self.walk(&path);
                }
                if self.len >= end {
                    return;
                }
            }
        }
    }

    /// Adds each component of a path; where it finally leads comes back.
    fn walk(&mut self, path: &Path) -> Option<PathBuf> {
        let mut waiting: Vec<PathBuf> = names(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = waiting.pop() {
            if name == Path::new("..") {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let found = fs::symlink_metadata(&next).ok()?;
            self.insert(&next, &found)?;
            if found.is_symlink() {
                links += 1;
                let target = fs::read_link(&next).ok().filter(|_| links <= MOST_LINKS)?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                waiting.extend(names(&target));
            } else {
                at = next;
            }
        }
        Some(at)
    }

    fn insert(&mut self, path: &Path, found: &Metadata) -> Option<()> {
        if found.is_file() && fs::File::open(path).is_err() {
            return None;
        }
        if !(found.is_file() || found.is_dir() || found.is_symlink()) {
            return None;
        }
        let len = if found.is_file() { found.size() } else { 0 };
        if self
            .entries
            .insert(path.to_path_buf(), Entry::Here)
            .is_none()
        {
            self.len += len;
        }
        Some(())
    }
}

/// The components of a path, last first, without the root and `.`.
fn names(path: &Path) -> Vec<PathBuf> {
    let parts = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let mut names: Vec<PathBuf> = parts.map(|part| PathBuf::from(part.as_os_str())).collect();
    names.reverse();
    names
}

fn sorted(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}
