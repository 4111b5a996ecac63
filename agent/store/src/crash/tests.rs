//! The store reopened from every image that a crash could leave.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proptest::prelude::*;
use tranship_format::{ChunkIndex, ChunkTable, ChunkTableBuilder, Digest, HashAlgorithm};

use super::{Change, Record};
use crate::file::Medium;
use crate::{BlobStore, ChunkStore, StoreError, StoreOptions};

/// Not a multiple of any block, so that neighbours share blocks and a punched hole touches both.
const CHUNK_LEN: usize = 5_003;
const CHUNK_COUNT: u32 = 8;
const QUOTA: u64 = 5 * CHUNK_LEN as u64;

fn content() -> Vec<u8> {
    (0..CHUNK_LEN * CHUNK_COUNT as usize)
        .map(|at| u8::try_from((at * 31 + at / 251) % 255 + 1).unwrap())
        .collect()
}

fn table(content: &[u8]) -> ChunkTable {
    let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
    for chunk in content.chunks(CHUNK_LEN) {
        builder.update(chunk);
        builder.cut();
    }
    builder.finish()
}

fn open(dir: &Path, medium: Medium) -> ChunkStore {
    let mut options = StoreOptions::with_quota(QUOTA);
    options.high_water_percent = 100;
    ChunkStore::open_on(dir, options, medium).unwrap()
}

fn blob(store: &ChunkStore, content: &[u8]) -> BlobStore {
    store
        .blob(Digest::of(content), content.len() as u64, table(content))
        .unwrap()
}

fn put(blob: &BlobStore, content: &[u8], index: ChunkIndex) -> Result<(), StoreError> {
    let range = blob.table().range(index);
    let bytes =
        &content[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
    let chunk = blob
        .table()
        .verify(index, Bytes::copy_from_slice(bytes))
        .unwrap();
    blob.put(index, &chunk)
}

fn present(blob: &BlobStore) -> BTreeSet<u32> {
    let has = |index: &ChunkIndex| blob.has(*index);
    blob.table()
        .all()
        .filter(has)
        .map(ChunkIndex::get)
        .collect()
}

/// A run of the store that puts more than fits, and everything that it changed on the way.
struct History {
    changes: Vec<(PathBuf, Change)>,
    /// After how many changes a put had returned, and what was present then.
    moments: Vec<(usize, BTreeSet<u32>)>,
    content: Vec<u8>,
}

fn history() -> History {
    let dir = tempfile::tempdir().unwrap();
    let record = Arc::new(Record::default());
    let medium = Medium {
        record: Some(Arc::clone(&record)),
    };
    let content = content();
    let store = open(dir.path(), medium);
    let blob = blob(&store, &content);
    let mut moments = Vec::new();
    for number in [0, 1, 2, 3, 4, 5, 0, 6, 7, 1, 2] {
        put(&blob, &content, blob.table().index(number).unwrap()).unwrap();
        moments.push((record.changes.lock().unwrap().len(), present(&blob)));
    }
    assert!(store.counters().evicted_count > 3, "the run evicts");
    let changes = record.changes.lock().unwrap().clone();
    let changes = changes
        .into_iter()
        .map(|(path, change)| (path.strip_prefix(dir.path()).unwrap().to_path_buf(), change))
        .collect();
    History {
        changes,
        moments,
        content,
    }
}

/// Makes the files that are there once `changes` reached the disk.
fn image<'a>(dir: &Path, content: &[u8], changes: impl Iterator<Item = &'a (PathBuf, Change)>) {
    drop(blob(&open(dir, Medium::default()), content));
    let blob_dir = dir.join("blobs").join(Digest::of(content).hex());
    fs::write(blob_dir.join("data"), vec![0; content.len()]).unwrap();
    fs::write(blob_dir.join("present"), vec![0; 4 * CHUNK_COUNT as usize]).unwrap();
    for (path, change) in changes {
        let file = OpenOptions::new().write(true).open(dir.join(path)).unwrap();
        match change {
            Change::Write { offset, bytes } => file.write_all_at(bytes, *offset).unwrap(),
            Change::Punch { offset, len } => {
                file.write_all_at(&vec![0; usize::try_from(*len).unwrap()], *offset)
                    .unwrap();
            }
        }
    }
}

/// Reads everything: what is given must be right. Returns what was given, and how much was found corrupt.
fn check(dir: &Path, content: &[u8]) -> (BTreeSet<u32>, u64) {
    let store = open(dir, Medium::default());
    let blob = blob(&store, content);
    // A part first: it must not be given before the whole chunk was hashed.
    let mut part = [0; 100];
    if blob.read_at(CHUNK_LEN as u64 - 50, &mut part).unwrap() {
        assert_eq!(part[..], content[CHUNK_LEN - 50..CHUNK_LEN + 50]);
    }
    let mut given = BTreeSet::new();
    for index in blob.table().all() {
        if let Some(chunk) = blob.get(index).unwrap() {
            let start = usize::try_from(blob.table().range(index).start).unwrap();
            assert_eq!(chunk.bytes()[..], content[start..start + CHUNK_LEN]);
            given.insert(index.get());
        } else {
            assert!(!blob.has(index), "what cannot be read is not claimed");
        }
    }
    assert_eq!(store.used_len(), (given.len() * CHUNK_LEN) as u64);
    let corrupt = store.counters().corrupt_count;
    // And the store still works.
    for index in blob.table().all() {
        put(&blob, content, index).unwrap();
        assert!(blob.get(index).unwrap().is_some());
    }
    (given, corrupt)
}

#[test]
fn kill_leaves_a_store_that_claims_nothing_it_lacks() {
    let history = history();
    for count in 0..=history.changes.len() {
        let dir = tempfile::tempdir().unwrap();
        image(
            dir.path(),
            &history.content,
            history.changes[..count].iter(),
        );
        let (given, corrupt) = check(dir.path(), &history.content);
        assert_eq!(corrupt, 0, "after {count} changes");
        if let Some((_, present)) = history.moments.iter().find(|(after, _)| *after == count) {
            assert_eq!(
                &given, present,
                "a put that returned survives, after {count} changes"
            );
        }
    }
}

#[test]
fn kill_in_the_middle_of_a_write_leaves_a_store_that_claims_nothing_it_lacks() {
    let history = history();
    for count in 1..=history.changes.len() {
        let (path, Change::Write { offset, bytes }) = &history.changes[count - 1] else {
            continue;
        };
        if bytes.len() < CHUNK_LEN {
            // A map entry never straddles a page, so a kill cannot tear it; loss of power is tried below.
            continue;
        }
        for written in [1, 4095, CHUNK_LEN - 1] {
            let dir = tempfile::tempdir().unwrap();
            let torn = (path.clone(), Change::write(*offset, &bytes[..written]));
            let changes = history.changes[..count - 1].iter().chain([&torn]);
            image(dir.path(), &history.content, changes);
            let (_, corrupt) = check(dir.path(), &history.content);
            assert_eq!(
                corrupt, 0,
                "after {count} changes, the last one torn at {written}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Without power the disk keeps any choice of the changes, and of each a part.
    #[test]
    fn loss_of_power_never_leads_to_a_wrong_byte(fates in prop::collection::vec(0_usize..4, 64), cut in 0_usize..CHUNK_LEN) {
        let history = history();
        let dir = tempfile::tempdir().unwrap();
        let changes: Vec<_> = history
            .changes
            .iter()
            .zip(fates.iter().cycle())
            .filter_map(|((path, change), fate)| match (fate, change) {
                (0, _) => None,
                (1, Change::Write { offset, bytes }) => {
                    Some((path.clone(), Change::write(*offset, &bytes[..cut.min(bytes.len())])))
                }
                _ => Some((path.clone(), change.clone())),
            })
            .collect();
        image(dir.path(), &history.content, changes.iter());
        check(dir.path(), &history.content);
    }

    /// A bad disk flips what it likes, in any of the files.
    #[test]
    fn flipped_bits_never_lead_to_a_wrong_byte(file in 0_usize..3, place in any::<prop::sample::Index>(), flip in 1_u8..=255, cut in any::<bool>()) {
        let history = history();
        let dir = tempfile::tempdir().unwrap();
        image(dir.path(), &history.content, history.changes.iter());
        let name = ["data", "present", "about"][file];
        let path = dir.path().join("blobs").join(Digest::of(&history.content).hex()).join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = place.index(bytes.len());
        bytes[at] ^= flip;
        if cut {
            bytes.truncate(at);
        }
        fs::write(&path, bytes).unwrap();
        check(dir.path(), &history.content);
    }
}

#[test]
fn lost_files_mean_absent_chunks() {
    let history = history();
    for name in ["data", "present", "about"] {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path(), &history.content, history.changes.iter());
        let path = dir
            .path()
            .join("blobs")
            .join(Digest::of(&history.content).hex())
            .join(name);
        fs::remove_file(path).unwrap();
        let (given, _) = check(dir.path(), &history.content);
        assert!(given.is_empty(), "without {name}");
    }
}

#[test]
fn full_disk_refuses_the_chunk_and_keeps_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let record = Arc::new(Record::default());
    let medium = Medium {
        record: Some(Arc::clone(&record)),
    };
    let content = content();
    let store = open(dir.path(), medium);
    let blob = blob(&store, &content);
    let index = |number| blob.table().index(number).unwrap();
    put(&blob, &content, index(0)).unwrap();
    record.full.store(true, Ordering::SeqCst);
    let error = put(&blob, &content, index(1)).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert!(!blob.has(index(1)));
    assert_eq!(store.used_len(), CHUNK_LEN as u64);
    assert_eq!(store.counters().refused_count, 1);
    assert!(blob.get(index(0)).unwrap().is_some());
    record.full.store(false, Ordering::SeqCst);
    put(&blob, &content, index(1)).unwrap();
    assert!(blob.get(index(1)).unwrap().is_some());
}
