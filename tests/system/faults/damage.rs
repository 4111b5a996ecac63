//! What happens to a store's files under its agent: they are cut off, rot, are emptied, or are gone.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A bit is turned in each run of so many bytes.
const ROT_STRIDE: u64 = 50_021;

/// The files of a store that hold chunks.
pub(crate) fn data_files(store: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![store.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == "data" {
                found.push(entry.path());
            }
        }
    }
    assert!(!found.is_empty(), "nothing is stored");
    found
}

/// Leaves a third of each.
pub(crate) fn truncate(store: &Path) {
    for file in opened(store) {
        let len = file.metadata().expect("its length").len();
        file.set_len(len / 3).expect("a shorter file");
    }
}

/// Leaves nothing in them.
pub(crate) fn empty(store: &Path) {
    for file in opened(store) {
        file.set_len(0).expect("an empty file");
    }
}

/// Turns a bit here and there.
pub(crate) fn flip_bits(store: &Path) {
    for file in opened(store) {
        let len = file.metadata().expect("its length").len();
        let mut at = ROT_STRIDE / 2;
        while at < len {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("a stored byte");
            file.write_all_at(&[byte[0] ^ 4], at)
                .expect("a rotten byte");
            at += ROT_STRIDE;
        }
    }
}

/// Removes them.
pub(crate) fn remove(store: &Path) {
    for path in data_files(store) {
        fs::remove_file(path).expect("a file that goes");
    }
}

fn opened(store: &Path) -> impl Iterator<Item = File> {
    data_files(store).into_iter().map(|path| {
        let file = OpenOptions::new().read(true).write(true).open(path);
        file.expect("a stored blob")
    })
}
