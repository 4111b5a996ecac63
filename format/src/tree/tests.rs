//! What layers do to each other, on a tree alone.

use super::*;

fn file(size: u64) -> Content {
    Content::File { size, block: 0 }
}

fn directory() -> Content {
    Content::Directory(Box::default())
}

fn symlink(target: &str) -> Content {
    Content::Symlink {
        target: target.as_bytes().into(),
        block: None,
    }
}

fn with_permissions(permissions: u16) -> Attributes {
    Attributes {
        permissions,
        ..Attributes::default()
    }
}

/// Applies one entry as the converter does.
fn apply(tree: &mut Tree, path: &str, content: Content) -> Result<(), EntryError> {
    let path = EntryPath::parse(path.as_bytes())?;
    match path.meaning()? {
        Meaning::Add => tree.put(&path, with_permissions(0o600), content),
        Meaning::Whiteout(hidden) => tree.white_out(&path, hidden),
        Meaning::Opaque => tree.make_opaque(&path),
        Meaning::Nothing => Ok(()),
    }
}

fn link(tree: &mut Tree, path: &str, target: &str) -> Result<(), EntryError> {
    tree.link(&EntryPath::parse(path.as_bytes())?, target.as_bytes())
}

/// Every path with its permissions and, for files, their sizes; a number after `#` counts names.
fn listing(tree: &Tree) -> String {
    fn list(tree: &Tree, id: NodeId, prefix: &str, out: &mut Vec<String>) {
        for (name, child) in tree.children_of(id) {
            let path = format!("{prefix}{}", String::from_utf8_lossy(name));
            let node = tree.node(child);
            let permissions = node.attributes.permissions;
            match &node.content {
                Content::Directory(_) => {
                    out.push(format!("{path}/:{permissions:o}"));
                    list(tree, child, &format!("{path}/"), out);
                }
                Content::File { size, .. } => out.push(format!("{path}={size}#{}", node.names)),
                other => out.push(format!("{path}={other:?}")),
            }
        }
    }
    let mut out = Vec::new();
    list(tree, ROOT, "", &mut out);
    out.join(" ")
}

/// A tree of two layers, with files of size 1 below and of size 2 above; a path that ends in a slash is a directory.
fn two_layers(lower: &[&str], upper: &[&str]) -> String {
    let mut tree = Tree::new();
    for (layer, size) in [(lower, 1), (upper, 2)] {
        tree.begin_layer();
        for path in layer {
            let content = if path.ends_with('/') {
                directory()
            } else {
                file(size)
            };
            apply(&mut tree, path, content).unwrap();
        }
    }
    listing(&tree)
}

#[test]
fn missing_parents_are_made_and_later_entries_win() {
    assert_eq!(
        two_layers(&["/./a//b/c", "a/b/c"], &["a/b/c", "a/"]),
        "a/:600 a/b/:755 a/b/c=2#1"
    );
}

#[test]
fn directories_and_files_replace_each_other() {
    assert_eq!(two_layers(&["a/b", "c"], &["a", "c/"]), "a=2#1 c/:600");
    assert_eq!(two_layers(&["a"], &["a/b"]), "a/:755 a/b=2#1");
}

#[test]
fn a_whiteout_hides_lower_layers_only_and_in_any_order() {
    assert_eq!(two_layers(&["a", "b", "d/e"], &[".wh.a", ".wh.d"]), "b=1#1");
    for upper in [["a", ".wh.a"], [".wh.a", "a"]] {
        assert_eq!(two_layers(&["a", "b"], &upper), "a=2#1 b=1#1");
    }
    for upper in [["d/", "d/new", ".wh.d"], [".wh.d", "d/", "d/new"]] {
        assert_eq!(
            two_layers(&["d/old", "d/e/older"], &upper),
            "d/:600 d/new=2#1"
        );
    }
    assert_eq!(two_layers(&["a"], &["x/.wh.absent", ".wh.b"]), "a=1#1");
}

#[test]
fn an_opaque_marker_hides_lower_layers_only_and_in_any_order() {
    for upper in [
        ["d/.wh..wh..opq", "d/sub/new"],
        ["d/sub/new", "d/.wh..wh..opq"],
    ] {
        assert_eq!(
            two_layers(&["d/old", "d/sub/old", "d/gone/old", "e"], &upper),
            "d/:755 d/sub/:755 d/sub/new=2#1 e=1#1"
        );
    }
    // The directory that only this layer's paths go through loses what the lower layer said of it.
    let mut tree = Tree::new();
    tree.begin_layer();
    apply(&mut tree, "d", directory()).unwrap();
    apply(&mut tree, "d/sub", directory()).unwrap();
    tree.begin_layer();
    apply(&mut tree, "d/sub/new", file(2)).unwrap();
    apply(&mut tree, "d/.wh..wh..opq", file(0)).unwrap();
    assert_eq!(listing(&tree), "d/:600 d/sub/:755 d/sub/new=2#1");
}

#[test]
fn hard_links_share_a_file_across_layers_and_outlive_it() {
    let mut tree = Tree::new();
    tree.begin_layer();
    apply(&mut tree, "d/a", file(1)).unwrap();
    link(&mut tree, "b", "/d/a").unwrap();
    tree.begin_layer();
    link(&mut tree, "c", "./d/a").unwrap();
    assert_eq!(listing(&tree), "b=1#3 c=1#3 d/:755 d/a=1#3");
    assert_eq!(tree.node_count(), 3);
    link(&mut tree, "c", "c").unwrap();
    apply(&mut tree, "b", file(2)).unwrap();
    // The link takes the place of the directory that holds its target.
    link(&mut tree, "d", "d/a").unwrap();
    assert_eq!(listing(&tree), "b=2#1 c=1#2 d=1#2");
    assert_eq!(tree.node_count(), 3);
}

#[test]
fn parents_are_found_through_symlinks_within_the_root() {
    let mut tree = Tree::new();
    tree.begin_layer();
    apply(&mut tree, "usr/lib/old", file(1)).unwrap();
    apply(&mut tree, "lib", symlink("usr/lib")).unwrap();
    apply(&mut tree, "usr/up", symlink("../../../usr/./lib")).unwrap();
    apply(&mut tree, "dangling", symlink("/not/there")).unwrap();
    apply(&mut tree, "loop", symlink("loop")).unwrap();
    tree.begin_layer();
    apply(&mut tree, "lib/new", file(2)).unwrap();
    apply(&mut tree, "usr/up/newer", file(3)).unwrap();
    apply(&mut tree, "lib/.wh.old", file(0)).unwrap();
    apply(&mut tree, "dangling/x", file(4)).unwrap();
    let error = apply(&mut tree, "loop/x", file(1)).unwrap_err();
    assert!(matches!(error, EntryError::TooManySymlinks { limit: 40 }));
    let listing = listing(&tree);
    assert!(listing.contains("usr/lib/new=2#1 usr/lib/newer=3#1"));
    assert!(listing.contains("not/:755 not/there/:755 not/there/x=4#1"));
    assert!(!listing.contains("old"));
}

#[test]
fn entries_that_no_filesystem_holds_are_refused() {
    let mut tree = Tree::new();
    tree.begin_layer();
    apply(&mut tree, "d", directory()).unwrap();
    let mut refused = |path: &str, content| apply(&mut tree, path, content).unwrap_err();
    assert!(matches!(
        refused("a/../b", file(1)),
        EntryError::ParentComponent
    ));
    assert!(matches!(
        refused("/", file(1)),
        EntryError::RootNotDirectory
    ));
    assert!(matches!(
        refused(".wh.", file(1)),
        EntryError::EmptyWhiteout
    ));
    assert!(matches!(
        refused("a/.wh...", file(1)),
        EntryError::EmptyWhiteout
    ));
    let long = "n".repeat(256);
    assert!(matches!(
        refused(&long, file(1)),
        EntryError::NameTooLong { len: 256 }
    ));
    let deep = "d/".repeat(5_000);
    assert!(matches!(
        refused(&deep, file(1)),
        EntryError::TooDeep { .. }
    ));
    let error = link(&mut tree, "l", "absent").unwrap_err();
    assert!(matches!(error, EntryError::LinkToNothing { target } if target == "absent"));
    assert!(matches!(
        link(&mut tree, "l", "d"),
        Err(EntryError::LinkToDirectory { .. })
    ));
    apply(&mut tree, &long[1..], file(1)).unwrap();
    apply(&mut tree, ".wh..wh.plnk/1.2", file(1)).unwrap();
    assert_eq!(tree.node_count(), 3);
}

#[test]
fn removed_files_leave_room_for_new_ones() {
    let mut tree = Tree::new();
    tree.begin_layer();
    for number in 0..100 {
        apply(&mut tree, &format!("d/{number}/x"), file(1)).unwrap();
    }
    let before = tree.nodes.len();
    for _ in 0..3 {
        tree.begin_layer();
        apply(&mut tree, ".wh.d", file(0)).unwrap();
        assert_eq!(tree.node_count(), 1);
        for number in 0..100 {
            apply(&mut tree, &format!("d/{number}/x"), file(1)).unwrap();
        }
    }
    assert_eq!(tree.nodes.len(), before);
}
