//! Paths of a layer's entries, and what OCI's reserved names make of them.

use super::error::EntryError;
use crate::erofs::{MAX_DEPTH, MAX_NAME_LEN};

/// Prefix of names that remove an entry of a lower layer.
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name that hides everything that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of names at the root that AUFS kept for itself, and which some old layers still carry.
const BOOKKEEPING_PREFIX: &[u8] = b".wh..wh.";

/// The components of an entry's path: no empty ones, no `.`, no `..`, none too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryPath<'p>(Vec<&'p [u8]>);

/// What an entry does to the tree, as its path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'p> {
    /// The entry is added.
    Add,
    /// An entry of lower layers is removed: its name in the directory of the path.
    Whiteout(&'p [u8]),
    /// The directory of the path keeps nothing from lower layers.
    Opaque,
    /// The entry means nothing to a filesystem.
    Nothing,
}

impl<'p> EntryPath<'p> {
    pub(crate) fn parse(path: &'p [u8]) -> Result<Self, EntryError> {
        let mut components = Vec::new();
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err(EntryError::ParentComponent),
                _ if name.len() > MAX_NAME_LEN => {
                    return Err(EntryError::NameTooLong { len: name.len() });
                }
                _ => components.push(name),
            }
            if components.len() > MAX_DEPTH {
                return Err(EntryError::TooDeep { limit: MAX_DEPTH });
            }
        }
        Ok(Self(components))
    }

    /// The directory's components and the entry's own name; `None` for the root.
    pub(super) fn split(&self) -> Option<(&[&'p [u8]], &'p [u8])> {
        let (name, parents) = self.0.split_last()?;
        Some((parents, name))
    }

    pub(crate) fn meaning(&self) -> Result<Meaning<'p>, EntryError> {
        let Some((_, name)) = self.split() else {
            return Ok(Meaning::Add);
        };
        if name == OPAQUE {
            return Ok(Meaning::Opaque);
        }
        let first = self.0.first().copied().unwrap_or_default();
        if first.starts_with(BOOKKEEPING_PREFIX) {
            return Ok(Meaning::Nothing);
        }
        match name.strip_prefix(WHITEOUT_PREFIX) {
            None => Ok(Meaning::Add),
            Some(b"" | b"." | b"..") => Err(EntryError::EmptyWhiteout),
            Some(hidden) => Ok(Meaning::Whiteout(hidden)),
        }
    }
}
