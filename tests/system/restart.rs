//! `kill -9` of an agent: what was present is present again, and nothing wrong is served.

use crate::image::Converted;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tranship_tests::compare::assert_equal_trees;
use tranship_tests::{AgentOptions, Cluster, tranship};

fn read_all(image: &Converted, socket: &str) {
    let target = tempfile::tempdir().expect("a mount point");
    let path = target.path().to_string_lossy().into_owned();
    tranship(&["mount", "--agent", socket, &image.reference(), &path]);
    assert_equal_trees(&image.debian.unpacked(), target.path());
    tranship(&["umount", "--agent", socket, &path]);
    tranship(&["detach", "--agent", socket, &image.reference()]);
}

#[test]
fn nothing_present_is_fetched_again_after_a_crash() {
    let image = Converted::make();
    let mut cluster = Cluster::empty();
    let number = cluster.start_agent(&AgentOptions::default());
    let socket = cluster.agents[number].socket();
    read_all(&image, &socket);
    let first = image.registry.sent_len();
    cluster.agents[number].restart();
    read_all(&image, &socket);
    let second = image.registry.sent_len() - first;
    println!("first read {first} bytes from the registry, after the crash {second}");
    assert!(
        second < 64 << 10,
        "after the crash the registry sent {second} bytes: more than manifests"
    );
}

#[test]
fn a_chunk_that_rots_on_disk_is_fetched_again_and_never_served() {
    let image = Converted::make();
    let mut cluster = Cluster::empty();
    let number = cluster.start_agent(&AgentOptions::default());
    let socket = cluster.agents[number].socket();
    read_all(&image, &socket);
    cluster.agents[number].kill();
    let store = cluster.agents[number].folder().join("store");
    let biggest = data_files(&store)
        .into_iter()
        .max_by_key(|file| fs::metadata(file).expect("a file").len())
        .expect("a stored blob");
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&biggest)
        .expect("a stored blob");
    let at = file.metadata().expect("its length").len() / 2;
    let mut bytes = [0; 512];
    file.read_exact_at(&mut bytes, at).expect("stored bytes");
    for byte in &mut bytes {
        *byte ^= 0xff;
    }
    file.write_all_at(&bytes, at).expect("rotten bytes");
    cluster.agents[number].restart();
    let before = image.registry.sent_len();
    read_all(&image, &socket);
    let fetched = image.registry.sent_len() - before;
    assert!(
        (1..2 << 20).contains(&fetched),
        "one chunk was fetched again, not {fetched} bytes"
    );
}

/// All regular files below `dir`.
fn data_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}
