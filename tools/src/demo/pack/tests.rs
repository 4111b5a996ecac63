//! The image packed from this machine is real: closed under links, and it knows what its start reads.

use super::*;

#[test]
fn a_path_comes_with_what_its_links_point_to() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("real")).unwrap();
    std::fs::write(root.join("real/file"), "x").unwrap();
    std::os::unix::fs::symlink("real", root.join("dir")).unwrap();
    std::os::unix::fs::symlink("dir/file", root.join("link")).unwrap();

    let mut tree = Tree::default();
    tree.add(&root.join("link"));
    for path in ["link", "dir", "real", "real/file"] {
        assert!(tree.holds(&root.join(path)), "{path}");
    }
    assert_eq!(tree.len(), 1);
}

#[test]
fn a_loop_of_links_ends() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("b", dir.path().join("a")).unwrap();
    std::os::unix::fs::symlink("a", dir.path().join("b")).unwrap();
    let mut tree = Tree::default();
    tree.add(&dir.path().join("a"));
    assert_eq!(tree.len(), 0);
}

#[test]
fn this_machine_has_an_interpreter_that_tells_what_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let interpreter = Interpreter::find(dir.path()).unwrap();
    assert!(!interpreter.needed.is_empty());
    assert!(interpreter.needed.iter().all(|path| path.is_absolute()));
    assert_eq!(
        interpreter
            .command(Path::new("/app"))
            .last()
            .unwrap()
            .rsplit('/')
            .next(),
        Some(&*interpreter.script_name())
    );
}
