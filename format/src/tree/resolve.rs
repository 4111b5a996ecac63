//! Finding the directory in which an entry stands, through symlinks as container runtimes do.
//!
//! A layer may put `lib/x` above a layer in which `lib` links to `usr/lib`. Runtimes unpack it into `usr/lib`, because
//! the kernel follows the link, and keep to the root, because they make it. So must we.

use std::borrow::Cow;

use super::error::EntryError;
use super::{Attributes, Content, Node, NodeId, ROOT, Tree};
use crate::erofs::MAX_DEPTH;

/// Most symlinks on one path, as in Linux.
const MAX_FOLLOWED: u32 = 40;

/// What becomes of parent directories that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// They are made. So are those where something else than a directory stands: what the upper layer has in it wins.
    Make,
    /// Nothing can be there.
    Leave,
}

impl Tree {
    /// The directory that `components` lead to from the root; `None` if it is not there and is not to be made.
    pub(super) fn resolve(
        &mut self,
        components: &[&[u8]],
        missing: Missing,
    ) -> Result<Option<NodeId>, EntryError> {
        let mut stack = vec![ROOT];
        let mut rest: Vec<Cow<'_, [u8]>> = components
            .iter()
            .rev()
            .map(|name| Cow::from(*name))
            .collect();
        let mut followed = 0;
        while let Some(name) = rest.pop() {
            if &*name == b".." {
                // The root is its own parent.
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let here = stack.last().copied().unwrap_or(ROOT);
            let child = self.child(here, &name).map(|child| child.node);
            match child.map(|child| (child, &self.node(child).content)) {
                Some((child, Content::Directory(_))) => stack.push(child),
                Some((_, Content::Symlink { target, .. })) => {
                    followed += 1;
                    if followed > MAX_FOLLOWED {
                        return Err(EntryError::TooManySymlinks {
                            limit: MAX_FOLLOWED,
                        });
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    let names = target.rsplit(|byte| *byte == b'/');
                    let names = names.filter(|name| !name.is_empty() && *name != b".");
                    let names: Vec<_> = names.map(|name| Cow::from(name.to_vec())).collect();
                    rest.extend(names);
                }
                _ if missing == Missing::Leave => return Ok(None),
                _ => {
                    let directory = Content::Directory(Box::default());
                    let node = Node::new(Attributes::of_missing_parent(), directory);
                    stack.push(self.replace(here, &name, node));
                }
            }
            if stack.len() > MAX_DEPTH {
                return Err(EntryError::TooDeep { limit: MAX_DEPTH });
            }
        }
        Ok(stack.pop())
    }
}
