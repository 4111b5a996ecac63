//! Walking a whole filesystem: every path once, parents before children, names in order.
//!
//! A hostile filesystem can nest for ever or show one directory's blocks under many names; the walk refuses a
//! directory it has met, and bounds depth and the number of entries, so it ends on any input.

use std::collections::HashSet;

use super::read::{ErofsError, Filesystem};
use super::{DirEntry, Inode, MAX_DEPTH, Nid};
use crate::read_at::ReadAt;

/// Most entries of one walk: fifty times the largest images.
const MAX_ENTRIES: usize = 1 << 24;

/// One step of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkEntry {
    /// Path from the root without a leading slash; empty for the root itself.
    pub path: Vec<u8>,
    /// What stands there.
    pub inode: Inode,
}

/// Iterator over all paths of a filesystem. It ends after the first error.
#[derive(Debug)]
pub struct Walk<'f, R> {
    filesystem: &'f Filesystem<R>,
    /// Directories from the root down to the current one, each with its entries still to come.
    open: Vec<OpenDirectory>,
    /// Path of the current directory with a trailing slash, empty at the root. One buffer for all open directories:
    /// a path each would be quadratic in the depth.
    path: Vec<u8>,
    met: HashSet<Nid>,
    entry_count: usize,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    AtRoot,
    Within,
    Ended,
}

#[derive(Debug)]
struct OpenDirectory {
    /// How much of the walk's path leads here.
    path_len: usize,
    entries: std::vec::IntoIter<DirEntry>,
}

impl<R: ReadAt> Filesystem<R> {
    /// Every path of the filesystem, parents before children and names in order. A hard-linked file comes once for
    /// each of its names, with the same [`Inode::nid`].
    pub fn walk(&self) -> Walk<'_, R> {
        Walk {
            filesystem: self,
            open: Vec::new(),
            path: Vec::new(),
            met: HashSet::new(),
            entry_count: 0,
            state: State::AtRoot,
        }
    }
}

impl<R: ReadAt> Walk<'_, R> {
    fn step(&mut self) -> Result<Option<WalkEntry>, ErofsError> {
        if self.state == State::AtRoot {
            self.state = State::Within;
            let inode = self.filesystem.root()?;
            self.enter(&inode)?;
            return Ok(Some(WalkEntry {
                path: Vec::new(),
                inode,
            }));
        }
        while let Some(directory) = self.open.last_mut() {
            let Some(entry) = directory.entries.next() else {
                self.open.pop();
                continue;
            };
            self.path.truncate(directory.path_len);
            self.path.extend(&entry.name);
            let path = self.path.clone();
            let inode = self.filesystem.inode(entry.nid)?;
            if inode.is_dir() {
                self.path.push(b'/');
                self.enter(&inode)?;
            }
            return Ok(Some(WalkEntry { path, inode }));
        }
        Ok(None)
    }

    fn enter(&mut self, inode: &Inode) -> Result<(), ErofsError> {
        let corrupt = |why| ErofsError::Corrupt {
            what: "directory",
            why,
        };
        if !self.met.insert(inode.nid) {
            return Err(corrupt("it stands at two places of the tree"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(corrupt("it is nested deeper than any path reaches"));
        }
        let entries = self.filesystem.read_dir(inode)?;
        self.entry_count += entries.len();
        if self.entry_count > MAX_ENTRIES {
            return Err(corrupt(
                "with those before it, it has more entries than any image",
            ));
        }
        self.open.push(OpenDirectory {
            path_len: self.path.len(),
            entries: entries.into_iter(),
        });
        Ok(())
    }
}

impl<R: ReadAt> Iterator for Walk<'_, R> {
    type Item = Result<WalkEntry, ErofsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Ended {
            return None;
        }
        let step = self.step().transpose();
        if !matches!(step, Some(Ok(_))) {
            self.state = State::Ended;
        }
        step
    }
}
