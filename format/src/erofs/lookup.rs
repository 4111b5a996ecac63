//! Finding a path in a filesystem, with symlinks and without.
//!
//! A directory may have thousands of entries in blocks that are not here yet, so a name is found as the kernel finds it:
//! by halving, which touches few of them.

use super::kind::FileKind;
use super::read::{ErofsError, Filesystem, corrupt};
use super::{Inode, Nid};
use crate::read_at::ReadAt;

/// Most symlinks that one [`Filesystem::resolve`] follows, as in Linux.
const MAX_FOLLOWED: u32 = 40;

impl<R: ReadAt> Filesystem<R> {
    /// The inode that `path` names, taken from the root; symlinks are not followed. Empty components, `.` and a
    /// leading slash mean nothing; `..` is looked up like any name.
    pub fn lookup(&self, path: &[u8]) -> Result<Inode, ErofsError> {
        let mut inode = self.root()?;
        for name in components(path) {
            inode = self.child(&inode, name, path)?;
        }
        Ok(inode)
    }

    /// The inode that `path` names when symlinks are followed, the last component's too. Targets are taken from
    /// this filesystem's root, which `..` does not leave.
    pub fn resolve(&self, path: &[u8]) -> Result<Inode, ErofsError> {
        let mut stack = vec![self.root()?];
        let mut rest: Vec<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        rest.reverse();
        let mut followed = 0;
        while let Some(name) = rest.pop() {
            let Some(top) = stack.last() else {
                return Err(corrupt("path", "it leaves the root"));
            };
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let inode = self.child(top, &name, path)?;
            if inode.kind != FileKind::Symlink {
                stack.push(inode);
                continue;
            }
            followed += 1;
            if followed > MAX_FOLLOWED {
                return Err(corrupt("path", "it goes through too many symlinks"));
            }
            let target = self.read_link(&inode)?;
            if target.starts_with(b"/") {
                stack.truncate(1);
            }
            let start = rest.len();
            rest.extend(components(&target).map(<[u8]>::to_vec));
            if let Some(added) = rest.get_mut(start..) {
                added.reverse();
            }
        }
        stack.pop().ok_or_else(|| not_found(path))
    }

    fn child(&self, dir: &Inode, name: &[u8], path: &[u8]) -> Result<Inode, ErofsError> {
        if !dir.is_dir() {
            return Err(not_found(path));
        }
        match self.find(dir, name)? {
            Some(nid) => self.inode(nid),
            None => Err(not_found(path)),
        }
    }

    /// Finds `name` in `dir` by the kernel's two binary searches.
    fn find(&self, dir: &Inode, name: &[u8]) -> Result<Option<Nid>, ErofsError> {
        let (mut low, mut high) = (0, self.directory_blocks(dir)?);
        let mut block = Vec::new();
        while low < high {
            let middle = low + (high - low) / 2;
            let entries = self.directory_block(dir, middle, &mut block)?;
            match (entries.first(), entries.last()) {
                (Some(first), _) if name < first.name => high = middle,
                (_, Some(last)) if name > last.name => low = middle + 1,
                _ => {
                    let found = entries.binary_search_by(|entry| entry.name.cmp(name));
                    return Ok(found
                        .ok()
                        .and_then(|at| entries.get(at))
                        .map(|entry| entry.nid));
                }
            }
        }
        Ok(None)
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}

fn not_found(path: &[u8]) -> ErofsError {
    ErofsError::NotFound {
        path: String::from_utf8_lossy(path).into_owned(),
    }
}
