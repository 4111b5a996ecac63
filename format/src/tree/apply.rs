//! Applying a layer's entries to the tree, by OCI's rules.
//!
//! Entries are applied as they come, so that file data is streamed once. Whiteouts and opaque markers speak about lower
//! layers only, wherever they stand in the tar: every entry remembers which layer put it there.

use super::error::EntryError;
use super::path::EntryPath;
use super::resolve::Missing;
use super::{Attributes, Content, Node, NodeId, ROOT, Tree};
use crate::layer_tar::shown;

impl Tree {
    /// Adds an entry, or puts it in place of what stands there. A directory over a directory keeps what is in it.
    pub(crate) fn put(
        &mut self,
        path: &EntryPath<'_>,
        attributes: Attributes,
        content: Content,
    ) -> Result<(), EntryError> {
        let is_directory = matches!(content, Content::Directory(_));
        let Some((parents, name)) = path.split() else {
            if !is_directory {
                return Err(EntryError::RootNotDirectory);
            }
            self.node_mut(ROOT).attributes = attributes;
            return Ok(());
        };
        let directory = self.resolve(parents, Missing::Make)?.unwrap_or(ROOT);
        if let Some(child) = self.child(directory, name).filter(|_| is_directory)
            && self.node(child.node).directory().is_some()
        {
            self.node_mut(child.node).attributes = attributes;
            self.set_child(directory, name, child.node);
            return Ok(());
        }
        self.replace(directory, name, Node::new(attributes, content));
        Ok(())
    }

    /// Gives a file one more name.
    pub(crate) fn link(&mut self, path: &EntryPath<'_>, target: &[u8]) -> Result<(), EntryError> {
        let nothing = || EntryError::LinkToNothing {
            target: shown(target),
        };
        let target_path = EntryPath::parse(target)?;
        let (parents, target_name) = target_path.split().ok_or_else(nothing)?;
        let found = self
            .resolve(parents, Missing::Leave)?
            .and_then(|directory| self.child(directory, target_name))
            .ok_or_else(nothing)?
            .node;
        if self.node(found).directory().is_some() {
            return Err(EntryError::LinkToDirectory {
                target: shown(target),
            });
        }
        let (parents, name) = path.split().ok_or(EntryError::RootNotDirectory)?;
        // The new name counts before anything is replaced: what is replaced may hold the target's last name.
        self.node_mut(found).names += 1;
        let directory = self.resolve(parents, Missing::Make)?.unwrap_or(ROOT);
        if let Some(before) = self.set_child(directory, name, found) {
            self.release(before);
        }
        Ok(())
    }

    /// Removes what lower layers have under `hidden`, a name in the directory of `path`. What this layer has put there
    /// stays.
    pub(crate) fn white_out(
        &mut self,
        path: &EntryPath<'_>,
        hidden: &[u8],
    ) -> Result<(), EntryError> {
        let (parents, _) = path.split().ok_or(EntryError::EmptyWhiteout)?;
        let Some(directory) = self.resolve(parents, Missing::Leave)? else {
            return Ok(());
        };
        let Some(child) = self.child(directory, hidden) else {
            return Ok(());
        };
        self.keep_this_layers(child.node);
        self.settle(directory, hidden);
        Ok(())
    }

    /// Removes what lower layers have in the directory of `path`. A directory that is not there is not made: markers only
    /// take away, else the order of two of them would count.
    pub(crate) fn make_opaque(&mut self, path: &EntryPath<'_>) -> Result<(), EntryError> {
        let parents = path.split().map(|(parents, _)| parents);
        if let Some(directory) = self.resolve(parents.unwrap_or_default(), Missing::Leave)? {
            self.keep_this_layers(directory);
        }
        Ok(())
    }

    /// Removes everything below a directory that this layer has not put there.
    fn keep_this_layers(&mut self, directory: NodeId) {
        let mut below = vec![directory];
        let mut next = 0;
        while let Some(id) = below.get(next).copied() {
            let children: Vec<NodeId> = self.children_of(id).map(|(_, child)| child).collect();
            let is_directory = |child: &NodeId| self.node(*child).directory().is_some();
            below.extend(children.into_iter().filter(is_directory));
            next += 1;
        }
        // From the bottom up, so that a directory is known to be empty before its own fate is decided.
        for id in below.into_iter().rev() {
            let names: Vec<Box<[u8]>> = self.children_of(id).map(|(name, _)| name.into()).collect();
            for name in names {
                self.settle(id, &name);
            }
        }
    }

    /// Decides about an entry under which nothing from lower layers is left: it stays if this layer has named it, or if
    /// it is a directory that has something in it. Such a directory is one that this layer's paths go through and no
    /// entry describes, as if the lower layer had never had it.
    fn settle(&mut self, directory: NodeId, name: &[u8]) {
        let Some(child) = self.child(directory, name) else {
            return;
        };
        if child.layer == self.layer {
            return;
        }
        if self.children_of(child.node).next().is_none() {
            self.remove(directory, name);
            return;
        }
        self.node_mut(child.node).attributes = Attributes::of_missing_parent();
        self.set_child(directory, name, child.node);
    }
}
