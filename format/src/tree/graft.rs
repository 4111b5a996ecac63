//! Building a tree from one that a filesystem shows, entry by entry and without meaning: no whiteouts, no symlinks followed.

use super::{Node, NodeId, ROOT, Tree};

impl Tree {
    /// Puts `node` in the root's place. What it holds is added with [`graft`](Self::graft).
    pub(crate) fn graft_root(&mut self, node: Node) {
        *self.node_mut(ROOT) = node;
    }

    /// Puts a new node under `name` into a directory, as something that lower layers have.
    pub(crate) fn graft(&mut self, directory: NodeId, name: &[u8], node: Node) -> NodeId {
        self.replace(directory, name, node)
    }

    /// Gives a node that is there one more name.
    pub(crate) fn graft_name(&mut self, directory: NodeId, name: &[u8], node: NodeId) {
        self.node_mut(node).names += 1;
        self.set_child(directory, name, node);
    }
}
