//! The merged tree of all layers so far: what the filesystem holds, and where it stands on the device.
//!
//! It lives as long as the conversion of an image and holds every file of it, so it is lean: nodes in one arena, a name
//! and eight bytes for each entry, xattrs as they are stored. File content is never in it.

mod apply;
mod error;
mod graft;
mod path;
mod resolve;

pub use error::EntryError;
pub(crate) use path::{EntryPath, Meaning};

use std::collections::BTreeMap;

use crate::erofs::{FileKind, Nid, XattrSet};
use crate::layer_tar::Timestamp;

/// A node of the tree. Only the tree makes them, and it forgets them with their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(u32);

/// The root directory's node.
pub(crate) const ROOT: NodeId = NodeId(0);

/// What the owner of a file may set, with the file's xattrs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: XattrSet,
}

impl Attributes {
    /// What a directory gets that is nowhere but in the paths of others.
    fn of_missing_parent() -> Self {
        Self {
            permissions: 0o755,
            ..Self::default()
        }
    }
}

/// A file of any kind.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) attributes: Attributes,
    pub(crate) content: Content,
    /// How many entries name it.
    pub(crate) names: u32,
    pub(crate) place: Option<Place>,
}

/// Where an inode stands: its number, and the bytes from there on that no other inode uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) nid: Nid,
    pub(crate) len: u32,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// Content of `size` bytes in consecutive blocks from `block` on.
    File {
        size: u64,
        block: u32,
    },
    Directory(Box<Directory>),
    /// A target, and the block that holds it if it is too long to stand behind the inode.
    Symlink {
        target: Box<[u8]>,
        block: Option<u32>,
    },
    CharDevice(u32),
    BlockDevice(u32),
    Fifo,
    Socket,
}

#[derive(Debug, Default)]
pub(crate) struct Directory {
    children: BTreeMap<Box<[u8]>, Child>,
    pub(crate) entries: EntriesPlace,
}

/// Where a directory's entries stand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum EntriesPlace {
    /// Nowhere yet.
    #[default]
    Unplaced,
    /// Behind the inode.
    Inline,
    /// In the first `used` of `reserved` consecutive blocks.
    Blocks {
        start: u32,
        used: u32,
        reserved: u32,
    },
}

/// An entry of a directory, and the layer that put it there.
#[derive(Clone, Copy, Debug)]
struct Child {
    node: NodeId,
    layer: u32,
}

/// All files of the layers applied so far.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    /// The layer that is being applied, counted from 1.
    layer: u32,
}

impl Node {
    fn new(attributes: Attributes, content: Content) -> Self {
        Self {
            attributes,
            content,
            names: 1,
            place: None,
        }
    }

    /// A node that lower layers have, with one name so far.
    pub(crate) fn standing(attributes: Attributes, content: Content, place: Place) -> Self {
        Self {
            place: Some(place),
            ..Self::new(attributes, content)
        }
    }

    pub(crate) fn kind(&self) -> FileKind {
        match &self.content {
            Content::File { .. } => FileKind::Regular,
            Content::Directory(_) => FileKind::Directory,
            Content::Symlink { .. } => FileKind::Symlink,
            Content::CharDevice(_) => FileKind::CharDevice,
            Content::BlockDevice(_) => FileKind::BlockDevice,
            Content::Fifo => FileKind::Fifo,
            Content::Socket => FileKind::Socket,
        }
    }

    pub(crate) fn directory(&self) -> Option<&Directory> {
        match &self.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(crate) fn directory_mut(&mut self) -> Option<&mut Directory> {
        match &mut self.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }
}

impl Directory {
    /// An empty directory whose entries stand at `entries`.
    pub(crate) fn at(entries: EntriesPlace) -> Self {
        Self {
            children: BTreeMap::new(),
            entries,
        }
    }

    /// Names and nodes in the order of the names' bytes.
    pub(crate) fn children(&self) -> impl ExactSizeIterator<Item = (&[u8], NodeId)> {
        self.children
            .iter()
            .map(|(name, child)| (&**name, child.node))
    }
}

impl Tree {
    /// A tree with nothing but a root directory.
    pub(crate) fn new() -> Self {
        let root = Content::Directory(Box::default());
        Self {
            nodes: vec![Node::new(Attributes::of_missing_parent(), root)],
            free: Vec::new(),
            layer: 0,
        }
    }

    /// Begins the next layer: entries that are there already are from below.
    pub(crate) fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// How many files there are, each counted once however many names it has.
    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "this arena made the id and never shrinks; another index is a bug here, whatever the input"
    )]
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "this arena made the id and never shrinks; another index is a bug here, whatever the input"
    )]
    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// All directories with their parents, each before what is in it and in the order of names: depth first.
    pub(crate) fn directories(&self) -> Vec<(NodeId, NodeId)> {
        let mut found = Vec::new();
        let mut pending = vec![(ROOT, ROOT)];
        while let Some((id, parent)) = pending.pop() {
            found.push((id, parent));
            let start = pending.len();
            for (_, child) in self.children_of(id) {
                if self.node(child).directory().is_some() {
                    pending.push((child, id));
                }
            }
            if let Some(added) = pending.get_mut(start..) {
                added.reverse();
            }
        }
        found
    }

    /// Names and nodes of a directory; nothing for anything else.
    pub(crate) fn children_of(&self, id: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
        self.node(id)
            .directory()
            .into_iter()
            .flat_map(Directory::children)
    }

    fn child(&self, directory: NodeId, name: &[u8]) -> Option<Child> {
        self.node(directory)
            .directory()?
            .children
            .get(name)
            .copied()
    }

    /// Puts `node` into a directory under `name`, which the layer being applied has now named. What stood there before is
    /// returned.
    fn set_child(&mut self, directory: NodeId, name: &[u8], node: NodeId) -> Option<NodeId> {
        let layer = self.layer;
        let directory = self.node_mut(directory).directory_mut()?;
        let before = directory
            .children
            .insert(name.into(), Child { node, layer });
        before.map(|child| child.node)
    }

    fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.free.pop() {
            *self.node_mut(id) = node;
            return id;
        }
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        id
    }

    /// Puts a new node into a directory, in place of what stood there.
    fn replace(&mut self, directory: NodeId, name: &[u8], node: Node) -> NodeId {
        let id = self.add(node);
        if let Some(before) = self.set_child(directory, name, id) {
            self.release(before);
        }
        id
    }

    fn remove(&mut self, directory: NodeId, name: &[u8]) {
        let removed = self.node_mut(directory).directory_mut();
        if let Some(child) = removed.and_then(|directory| directory.children.remove(name)) {
            self.release(child.node);
        }
    }

    /// Takes one name from a node. With its last name it goes, and so does all that is below it.
    fn release(&mut self, id: NodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let node = self.node_mut(id);
            node.names = node.names.saturating_sub(1);
            if node.names > 0 {
                continue;
            }
            let vacant = Node::new(Attributes::default(), Content::Fifo);
            if let Content::Directory(directory) = std::mem::replace(node, vacant).content {
                pending.extend(directory.children.into_values().map(|child| child.node));
            }
            self.free.push(id);
        }
    }
}

#[cfg(test)]
mod tests;
